//! One request at a time: answers, failures before and after the head, bodies in and out.

mod common;
use common::*;
use mik_engine::ffi::*;

#[test]
fn hello_in_one_run() {
    let mut rig = Rig::new();
    let hello = rig.guest(guest::HELLO);
    for _ in 0..3 {
        let req = rig.start(hello, &Request::default());
        assert_eq!(rig.run(req), EV_HEAD | EV_BODY | EV_END | EV_DONE);
        assert_eq!(rig.take(req), b"hello\n");
        assert_eq!(rig.head(req).unwrap().0.status, 200);
        assert_eq!(rig.head(req).unwrap().0.content_length, LENGTH_UNKNOWN);
        assert_eq!(rig.run(req), 0, "every event was said");
        rig.release(req);
        assert_eq!(rig.run(req), 0, "a stale id");
        assert!(rig.head(req).is_none());
    }
}

const ECHO: &str = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $in i32)
      (local.set $in (call $input (local.get $req)))
      (call $respond (local.get $out))
      (block $end
        (loop $again
          (call $reset)
          (call $read (local.get $in) (i64.const 65536) (i32.const 16))
          (br_if $end (i32.load8_u (i32.const 16)))
          (br_if $end (call $put (i32.load (i32.const 20)) (i32.load (i32.const 24))))
          (br $again)))
      (call $finish))"#;

#[test]
fn echo_streams_both_ways_under_back_pressure() {
    let mut rig = Rig::new();
    let echo = rig.load(&guest::guest_of(4, ECHO), &ComponentOptions::default());
    let req = rig.start(echo, &Request::post());
    assert_eq!(
        rig.run(req),
        EV_HEAD,
        "the head is out before any of the body came"
    );
    assert_eq!(rig.push(req, b"one"), 0);
    assert_eq!(rig.woken(0), [req]);
    assert_eq!(rig.run(req), EV_BODY);
    assert_eq!(rig.take(req), b"one");

    // Nobody takes the response: the guest stops reading, and then the pusher is stopped.
    let piece = vec![b'x'; 16 << 10];
    let (mut pushed, mut stopped) = (0, false);
    for _ in 0..100 {
        stopped = rig.push(req, &piece) == 1;
        pushed += piece.len();
        for woken in rig.woken(0) {
            rig.run(woken);
        }
        if stopped && rig.woken(0).is_empty() {
            break;
        }
    }
    assert!(stopped);
    assert!(
        pushed <= (128 + 256 + 64) << 10,
        "{pushed} bytes went in with nobody reading"
    );
    let mut got = 0;
    let mut reopened = false;
    while got < pushed {
        got += rig.take(req).len();
        for woken in rig.woken(0) {
            reopened |= rig.run(woken) & EV_NEED_BODY != 0;
        }
    }
    assert!(reopened);
    rig.body_end(req);
    let (bits, rest) = rig.finish(req);
    assert!(rest.is_empty());
    assert_eq!(
        bits & (EV_END | EV_DONE | EV_ABORT | EV_FAILED),
        EV_END | EV_DONE
    );
    rig.release(req);
}

#[test]
fn a_megabyte_of_a_body_in_one_blocking_write() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      (memory.fill (i32.const 65536) (i32.const 97) (i32.const 1048576))
      (drop (call $put (i32.const 65536) (i32.const 1048576)))
      (call $finish))"#;
    let big = rig.load(&guest::guest_of(20, body), &ComponentOptions::default());
    let req = rig.start(big, &Request::default());
    assert_eq!(rig.run(req), EV_HEAD | EV_BODY);
    assert_eq!(rig.peek(req).len(), 256 << 10, "no more than the window");
    let (bits, bytes) = rig.finish(req);
    assert_eq!(bytes.len(), 1 << 20);
    assert!(bytes.iter().all(|b| *b == b'a'));
    assert_eq!(bits & (EV_END | EV_ABORT), EV_END);
}

#[test]
fn a_body_may_be_written_whole_before_the_response_is_set() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $r i32)
      (local.set $r (call $response (call $fields)))
      (call $response-body (local.get $r) (i32.const 0))
      (global.set $body (i32.load (i32.const 4)))
      (call $body-write (global.get $body) (i32.const 0))
      (global.set $stream (i32.load (i32.const 4)))
      (memory.fill (i32.const 65536) (i32.const 98) (i32.const 1048576))
      (drop (call $put (i32.const 65536) (i32.const 1048576)))
      ENDLESS
      (call $finish)
      (call $set (local.get $out) (i32.const 0) (local.get $r) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0)))"#;
    let options = ComponentOptions {
        memory_bytes_max: 8 << 20,
        ..ComponentOptions::default()
    };
    let first = rig.load(&guest::guest_of(20, &body.replace("ENDLESS", "")), &options);
    let (bits, bytes, error) = rig.get(first);
    assert_ne!(bits & EV_END, 0, "{error:?}");
    assert_eq!(bytes.len(), 1 << 20);

    // Without end it is no way around the limit on memory.
    let endless =
        "(loop $l (br_if $l (i32.eqz (call $put (i32.const 65536) (i32.const 1048576)))))";
    let endless = rig.load(
        &guest::guest_of(20, &body.replace("ENDLESS", endless)),
        &options,
    );
    let (_, _, (code, text)) = rig.get(endless);
    assert_eq!(code, Code::HostLimit as i32, "{text}");
}

#[test]
fn a_trap_before_the_head_names_the_guests_functions() {
    let mut rig = Rig::new();
    let body = r#"
    (func $deep_inside unreachable)
    (func (export "handle") (param i32 i32) (call $deep_inside))"#;
    let guest = rig.guest(body);
    let (bits, bytes, (code, text)) = rig.get(guest);
    assert_eq!(bits, EV_FAILED | EV_DONE);
    assert!(bytes.is_empty());
    assert_eq!(code, Code::Trap as i32);
    assert!(
        text.contains("deep_inside") && text.contains("unreachable"),
        "{text}"
    );
    assert!(
        text.starts_with("wasm trap: "),
        "the reason comes first: {text}"
    );
    assert!(!text.ends_with('\n'));
}

#[test]
fn a_trap_after_the_head_is_an_abort_never_an_end() {
    let mut rig = Rig::new();
    let body = r#"
    (data (i32.const 64) "part")
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      (drop (call $put (i32.const 64) (i32.const 4)))
      (call $sleep (i64.const 1000000))
      unreachable)"#;
    let guest = rig.guest(body);
    let req = rig.start(guest, &Request::default());
    assert_eq!(rig.run(req), EV_HEAD | EV_BODY);
    let (bits, _) = rig.finish(req);
    assert_eq!(
        bits & (EV_END | EV_ABORT | EV_FAILED | EV_DONE),
        EV_ABORT | EV_DONE
    );
    assert_eq!(rig.error(req).0, Code::Trap as i32);
    assert_eq!(
        rig.head(req).unwrap().0.status,
        200,
        "the head stays until release"
    );
    rig.release(req);
}

#[test]
fn a_trap_in_the_slice_that_set_the_head_is_a_failure_with_no_response() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      unreachable)"#;
    let guest = rig.guest(body);
    assert_eq!(rig.get(guest).0, EV_FAILED | EV_DONE);
}

#[test]
fn no_response_and_an_error_code_are_told_apart() {
    let mut rig = Rig::new();
    let silent = rig.guest(r#"(func (export "handle") (param i32 i32))"#);
    let (bits, _, (code, _)) = rig.get(silent);
    assert_eq!((bits, code), (EV_FAILED | EV_DONE, Code::NoResponse as i32));

    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $set (local.get $out) (i32.const 1) (i32.const 36) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0)))"#;
    let sorry = rig.guest(body);
    let (bits, _, (code, text)) = rig.get(sorry);
    assert_eq!((bits, code), (EV_FAILED | EV_DONE, Code::GuestError as i32));
    assert!(text.to_lowercase().contains("loop"), "{text}");
}

/// A response with this content-length whose body is 4 bytes and whose end is `end`.
fn with_length(length: &str, end: &str) -> String {
    format!(
        r#"
    (data (i32.const 64) "content-length")
    (data (i32.const 96) "{length}")
    (data (i32.const 128) "four")
    (func (export "handle") (param $req i32) (param $out i32)
      (local $f i32)
      (local.set $f (call $fields))
      (if (i32.const {})
        (then (call $append (local.get $f) (i32.const 64) (i32.const 14) (i32.const 96) (i32.const {}) (i32.const 0))))
      (call $respond-with (local.get $out) (local.get $f))
      (call $sleep (i64.const 1000000))
      (drop (call $put (i32.const 128) (i32.const 4)))
      {end})"#,
        !length.is_empty() as u32,
        length.len()
    )
}

#[test]
fn content_length_is_held_to() {
    let mut rig = Rig::new();
    for (length, end, good) in [
        ("4", "(call $finish)", true),
        ("5", "(call $finish)", false),
        ("3", "(call $finish)", false),
        ("", "(call $finish)", true),
        // Left behind: complete if it has its length, never complete without one.
        ("4", "", true),
        ("5", "", false),
        ("", "", false),
        ("", "(call $drop-out-stream (global.get $stream))", false),
        (
            "",
            "(call $drop-out-stream (global.get $stream)) (call $drop-body (global.get $body))",
            false,
        ),
    ] {
        let guest = rig.guest(&with_length(length, end));
        let (bits, bytes, (code, text)) = rig.get(guest);
        let told = bits & (EV_END | EV_ABORT | EV_FAILED | EV_DONE);
        let want = if good {
            EV_END | EV_DONE
        } else {
            EV_ABORT | EV_DONE
        };
        assert_eq!(told, want, "content-length {length:?}, end {end:?}: {text}");
        assert_eq!(code, if good { 0 } else { Code::Body as i32 }, "{text}");
        assert_eq!(bytes, if length == "3" { &b""[..] } else { b"four" });
    }
}

#[test]
fn a_head_request_may_announce_a_length_and_write_nothing() {
    let mut rig = Rig::new();
    let guest = rig.guest(&with_length("5", "(call $finish)"));
    let req = rig.start(
        guest,
        &Request {
            method: "HEAD",
            ..Request::default()
        },
    );
    let (bits, _) = rig.finish(req);
    assert_eq!(bits & (EV_END | EV_ABORT), EV_END);
    assert_eq!(rig.head(req).unwrap().0.content_length, 5);
}

#[test]
fn request_heads_reach_the_guest_untouched() {
    let mut rig = Rig::new();
    // Answers with path, authority, and each field as name and value, all in a row.
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $i i32) (local $at i32)
      (call $respond (local.get $out))
      (call $path (local.get $req) (i32.const 16))
      (drop (call $put (i32.load (i32.const 20)) (i32.load (i32.const 24))))
      (call $authority (local.get $req) (i32.const 16))
      (drop (call $put (i32.load (i32.const 20)) (i32.load (i32.const 24))))
      (call $entries (call $req-headers (local.get $req)) (i32.const 16))
      (local.set $at (i32.load (i32.const 16)))
      (block $end
        (loop $again
          (br_if $end (i32.eq (local.get $i) (i32.load (i32.const 20))))
          (drop (call $put (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))))
          (drop (call $put (i32.load offset=8 (local.get $at)) (i32.load offset=12 (local.get $at))))
          (local.set $at (i32.add (local.get $at) (i32.const 16)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $again)))
      (call $finish))"#;
    let guest = rig.guest(body);
    let fields: Vec<(&str, &[u8])> = vec![
        ("X-B", b"1"),
        ("host", b"other"),
        ("Connection", b"close"),
        ("x-a", b"\xff\xfe"),
        ("keep-alive", b"5"),
        ("x-b", b""),
    ];
    let req = rig.start(
        guest,
        &Request {
            path: "/a%2Fb//c?x=1&y=<>",
            fields,
            ..Request::default()
        },
    );
    let (_, bytes) = rig.finish(req);
    assert_eq!(bytes, b"/a%2Fb//c?x=1&y=<>test.examplex-b1x-bx-a\xff\xfe");
}

#[test]
fn bad_heads_are_the_clients_fault() {
    let mut rig = Rig::new();
    let hello = rig.guest(guest::HELLO);
    for bad in [
        Request {
            method: "",
            ..Request::default()
        },
        Request {
            method: "G ET",
            ..Request::default()
        },
        Request {
            authority: "",
            ..Request::default()
        },
        Request {
            path: "/a b",
            ..Request::default()
        },
        Request {
            fields: vec![("a b", b"c")],
            ..Request::default()
        },
        Request {
            fields: vec![("a", b"b\r\nc: d")],
            ..Request::default()
        },
    ] {
        let mut err = Err::default();
        assert_eq!(bad.start(rig.l, hello, &mut err), 0);
        assert_eq!(err.code, Code::Invalid as i32, "{}", text(&err));
        assert!(!text(&err).is_empty());
    }
}

#[test]
fn trailers_go_both_ways() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $in i32) (local $t i32) (local $body i32)
      (call $consume (local.get $req) (i32.const 0))
      (local.set $body (i32.load (i32.const 4)))
      (call $in-stream (local.get $body) (i32.const 0))
      (local.set $in (i32.load (i32.const 4)))
      (block $end (loop $again
        (call $read (local.get $in) (i64.const 65536) (i32.const 16))
        (br_if $again (i32.eqz (i32.load8_u (i32.const 16))))))
      (call $drop-in-stream (local.get $in))
      (local.set $t (call $in-finish (local.get $body)))
      (call $block (call $trailers-sub (local.get $t)))
      (call $trailers-get (local.get $t) (i32.const 16))
      (call $respond (local.get $out))
      (call $drop-out-stream (global.get $stream))
      ;; option, result, result, option, each of 8 bytes
      (call $body-finish (global.get $body) (i32.load8_u (i32.const 40)) (i32.load (i32.const 44)) (i32.const 0)))"#;
    let guest = rig.guest(body);
    let req = rig.start(guest, &Request::post());
    rig.run(req);
    rig.push(req, b"abc");
    let trailers = [Field {
        name: str_of(b"x-sum"),
        value: str_of(b"42"),
    }];
    unsafe { mik_engine::mik_req_body_end(rig.l, req, trailers.as_ptr(), 1) };
    let (bits, _) = rig.finish(req);
    assert_eq!(
        bits & (EV_END | EV_FAILED | EV_ABORT),
        EV_END,
        "{:?}",
        rig.error(req)
    );
    let mut fields = [Field {
        name: Str::EMPTY,
        value: Str::EMPTY,
    }; 4];
    assert_eq!(rig.run(req), 0, "a wake that came late has nothing to say");
    let n = unsafe { mik_engine::mik_resp_trailers(rig.l, req, fields.as_mut_ptr(), 4) };
    assert_eq!(n, 1);
    assert_eq!(rig.run(req), 0);
    assert_eq!(bytes_of(fields[0].name), b"x-sum");
    assert_eq!(bytes_of(fields[0].value), b"42");
}

#[test]
fn a_body_nobody_reads_is_said_to_be_unused_and_a_broken_one_fails_the_read() {
    let mut rig = Rig::new();
    let hello = rig.guest(guest::HELLO);
    let req = rig.start(hello, &Request::post());
    let (bits, _) = rig.finish(req);
    assert_ne!(bits & EV_BODY_UNUSED, 0);
    assert_eq!(rig.push(req, b"more"), -1);
    rig.release(req);

    let echo = rig.guest(ECHO);
    let req = rig.start(echo, &Request::post());
    rig.run(req);
    rig.push(req, b"abc");
    unsafe { mik_engine::mik_req_body_fail(rig.l, req) };
    let (bits, bytes) = rig.finish(req);
    assert_eq!(bytes, b"abc");
    assert_ne!(bits & EV_END, 0, "the guest saw the failure and finished");
}
