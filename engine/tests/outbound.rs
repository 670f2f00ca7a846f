//! Outgoing requests of guests: accepted, refused, streamed, dropped.

mod common;
use common::*;
use mik_engine::ffi::*;
use mik_engine::*;

/// Sends to "peer:81" with a body of `send`; answers with the peer's status as one byte and its body.
fn calls(send: &str) -> String {
    format!(
        r#"
    (data (i32.const 64) "peer:81")
    (data (i32.const 128) "{send}")
    (global $ob (mut i32) (i32.const 0))
    (global $os (mut i32) (i32.const 0))
    (func (export "handle") (param $req i32) (param $out i32)
      (local $r i32) (local $f i32) (local $in i32) (local $p i32) (local $ir i32)
      (local.set $r (call $request (call $fields)))
      (drop (call $set-authority (local.get $r) (i32.const 1) (i32.const 64) (i32.const 7)))
      (if (i32.const {has})
        (then
          (call $request-body (local.get $r) (i32.const 16))
          (global.set $ob (i32.load (i32.const 20)))
          (call $body-write (global.get $ob) (i32.const 16))
          (global.set $os (i32.load (i32.const 20)))))
      (call $send (local.get $r) (i32.const 0) (i32.const 0) (i32.const 16))
      ;; Refused: the answer is the error code's number.
      (if (i32.load8_u (i32.const 16))
        (then
          (call $respond (local.get $out))
          (i32.store8 (i32.const 0) (i32.load8_u (i32.const 24)))
          (i32.store8 (i32.const 60) (i32.load8_u (i32.const 24)))
          (drop (call $put (i32.const 60) (i32.const 1)))
          (call $finish)
          (return)))
      (local.set $f (i32.load (i32.const 24)))
      (if (i32.const {has})
        (then
          (call $write (global.get $os) (i32.const 128) (i32.const {has}) (i32.const 16))
          (call $drop-out-stream (global.get $os))
          (call $body-finish (global.get $ob) (i32.const 0) (i32.const 0) (i32.const 16))))
      (local.set $p (call $future-sub (local.get $f)))
      (call $block (local.get $p))
      (call $drop-pollable (local.get $p))
      (call $future-get (local.get $f) (i32.const 256))
      (call $respond (local.get $out))
      (if (i32.load8_u (i32.const 272))
        (then
          (i32.store8 (i32.const 60) (i32.load8_u (i32.const 280)))
          (drop (call $put (i32.const 60) (i32.const 1)))
          (call $finish)
          (return)))
      (local.set $ir (i32.load (i32.const 280)))
      (i32.store8 (i32.const 60) (call $status (local.get $ir)))
      (drop (call $put (i32.const 60) (i32.const 1)))
      (call $resp-consume (local.get $ir) (i32.const 16))
      (call $in-stream (i32.load (i32.const 20)) (i32.const 16))
      (local.set $in (i32.load (i32.const 20)))
      (block $end
        (loop $again
          (call $reset)
          (call $read (local.get $in) (i64.const 65536) (i32.const 16))
          (br_if $end (i32.load8_u (i32.const 16)))
          (br_if $end (call $put (i32.load (i32.const 20)) (i32.load (i32.const 24))))
          (br $again)))
      ;; "!" when the body broke.
      (if (i32.eqz (i32.load8_u (i32.const 20)))
        (then (i32.store8 (i32.const 60) (i32.const 33)) (drop (call $put (i32.const 60) (i32.const 1)))))
      (call $finish))"#,
        has = send.len()
    )
}

fn events(rig: &Rig) -> Vec<OutEvent> {
    let mut events = [OutEvent::default(); 16];
    let n = unsafe { mik_loop_out_events(rig.l, events.as_mut_ptr(), 16) };
    events[..n].to_vec()
}

fn begin(rig: &mut Rig, component: *mut Component) -> (u64, u64) {
    let req = rig.start(component, &Request::default());
    assert_eq!(rig.run(req), EV_OUTBOUND, "{:?}", rig.error(req));
    let out = unsafe { mik_req_outbound(rig.l, req) };
    assert_ne!(out, 0);
    assert_eq!(unsafe { mik_req_outbound(rig.l, req) }, 0, "each once");
    (req, out)
}

fn head(rig: &Rig, out: u64) -> OutHead {
    let mut head = std::mem::MaybeUninit::uninit();
    assert_eq!(
        unsafe { mik_out_head_get(rig.l, out, head.as_mut_ptr(), std::ptr::null_mut(), 0) },
        0
    );
    unsafe { head.assume_init() }
}

#[test]
fn accepted_answered_and_streamed() {
    let mut rig = Rig::new();
    let guest = rig.guest(&calls("question"));
    let (req, out) = begin(&mut rig, guest);
    let head = head(&rig, out);
    assert_eq!(
        (bytes_of(head.method), bytes_of(head.authority)),
        (&b"GET"[..], &b"peer:81"[..])
    );
    assert_eq!(
        (bytes_of(head.scheme), bytes_of(head.path_query)),
        (&b""[..], &b""[..])
    );
    assert_eq!((head.body, head.connect_timeout_ns), (BODY_STREAM, NEVER));

    unsafe { mik_out_accept(rig.l, out, 99) };
    assert_eq!(rig.woken(0), [req]);
    assert_eq!(rig.run(req), 0, "waits for the answer");
    let told = events(&rig);
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].out, told[0].user, told[0].bits),
        (out, 99, OUT_BODY | OUT_BODY_END)
    );
    let mut piece = [Str::EMPTY; 2];
    assert_eq!(
        unsafe { mik_out_peek(rig.l, out, piece.as_mut_ptr(), 2) },
        1
    );
    assert_eq!(bytes_of(piece[0]), b"question");
    unsafe { mik_out_consume(rig.l, out, 8) };

    let fields = [Field {
        name: str_of(b"x-y"),
        value: str_of(b"z"),
    }];
    unsafe { mik_out_respond(rig.l, out, 201, fields.as_ptr(), 1) };
    assert_eq!(rig.woken(0), [req]);
    assert_eq!(rig.run(req), EV_HEAD | EV_BODY);
    assert_eq!(rig.take(req), [201]);
    for part in [&b"ans"[..], b"wer"] {
        assert_eq!(unsafe { mik_out_push(rig.l, out, str_of(part)) }, 0);
        assert_eq!(rig.woken(0), [req]);
        assert_eq!(rig.run(req), EV_BODY);
        assert_eq!(rig.take(req), part);
    }
    unsafe {
        mik_out_end(rig.l, out, std::ptr::null(), 0);
        mik_out_release(rig.l, out);
    }
    let (bits, bytes) = rig.finish(req);
    assert_eq!((bits & (EV_END | EV_ABORT), bytes), (EV_END, vec![]));
    assert_eq!(rig.stats(req).outbound, 1);
    assert!(events(&rig).is_empty());
}

#[test]
fn refused_is_an_error_of_handle_itself() {
    let mut rig = Rig::new();
    let guest = rig.guest(&calls(""));
    let (req, out) = begin(&mut rig, guest);
    assert_eq!(head(&rig, out).body, BODY_NONE);
    unsafe { mik_out_refuse(rig.l, out, HttpError::RequestDenied as i32) };
    assert_eq!(rig.finish(req).1, [15], "HTTP-request-denied");
    assert_eq!(
        unsafe { mik_out_push(rig.l, out, str_of(b"x")) },
        -1,
        "the id is stale"
    );
}

#[test]
fn failures_before_and_after_the_answer() {
    let mut rig = Rig::new();
    let guest = rig.guest(&calls(""));
    let (req, out) = begin(&mut rig, guest);
    unsafe {
        mik_out_accept(rig.l, out, 0);
        mik_out_fail(rig.l, out, HttpError::ConnectionRefused as i32);
        mik_out_release(rig.l, out);
    }
    assert_eq!(rig.finish(req).1, [6], "connection-refused");

    let (req, out) = begin(&mut rig, guest);
    unsafe {
        mik_out_accept(rig.l, out, 0);
        mik_out_respond(rig.l, out, 200, std::ptr::null(), 0);
        mik_out_push(rig.l, out, str_of(b"part"));
        mik_out_fail(rig.l, out, HttpError::ConnectionTerminated as i32);
        mik_out_release(rig.l, out);
    }
    assert_eq!(rig.finish(req).1, b"\xc8part!");

    let (req, out) = begin(&mut rig, guest);
    unsafe { mik_out_release(rig.l, out) };
    assert_eq!(
        rig.finish(req).1,
        [38],
        "internal-error: the caller gave up"
    );
}

#[test]
fn the_response_window_stops_the_pusher() {
    let mut rig = Rig::new();
    let guest = rig.guest(&calls(""));
    let (req, out) = begin(&mut rig, guest);
    unsafe {
        mik_out_accept(rig.l, out, 5);
        mik_out_respond(rig.l, out, 200, std::ptr::null(), 0);
    }
    let piece = vec![1u8; 32 << 10];
    let mut pushes = 0;
    while unsafe { mik_out_push(rig.l, out, str_of(&piece)) } == 0 {
        pushes += 1;
        assert!(pushes < 5, "the window is 128 KiB");
    }
    rig.woken(0);
    rig.run(req);
    let told = events(&rig);
    assert_eq!((told.len(), told[0].bits, told[0].user), (1, OUT_READ, 5));
    rig.release(req);
    assert_eq!(events(&rig)[0].bits, OUT_DROPPED);
    unsafe { mik_out_release(rig.l, out) };
}

#[test]
fn a_cancelled_guest_drops_its_exchanges() {
    let mut rig = Rig::new();
    let guest = rig.guest(&calls("question"));
    // Never taken: nobody hears of it.
    let req = rig.start(guest, &Request::default());
    rig.run(req);
    rig.release(req);
    assert!(events(&rig).is_empty());

    // Taken, not accepted: the answer to accept is that it is gone.
    let (req, out) = begin(&mut rig, guest);
    rig.release(req);
    assert!(events(&rig).is_empty());
    unsafe { mik_out_accept(rig.l, out, 3) };
    let told = events(&rig);
    assert_eq!(told.len(), 1);
    assert_ne!(told[0].bits & OUT_DROPPED, 0);
    unsafe { mik_out_release(rig.l, out) };

    // Accepted, waiting for the answer.
    let (req, out) = begin(&mut rig, guest);
    unsafe { mik_out_accept(rig.l, out, 4) };
    rig.run(req);
    events(&rig);
    rig.release(req);
    let told = events(&rig);
    assert_eq!(
        (told[0].out, told[0].user, told[0].bits),
        (out, 4, OUT_DROPPED)
    );
    unsafe { mik_out_respond(rig.l, out, 200, std::ptr::null(), 0) };
    assert_eq!(unsafe { mik_out_push(rig.l, out, str_of(b"late")) }, -1);
    unsafe { mik_out_release(rig.l, out) };
    let mut none = std::mem::MaybeUninit::uninit();
    assert_eq!(
        unsafe { mik_out_head_get(rig.l, out, none.as_mut_ptr(), std::ptr::null_mut(), 0) },
        -1
    );
}

#[test]
fn a_kept_instance_lets_go_of_its_exchanges() {
    let mut rig = Rig::new();
    // Sends, and returns without waiting for the answer or dropping the future.
    let body = r#"
    (data (i32.const 64) "peer:81")
    (func (export "handle") (param $req i32) (param $out i32)
      (local $r i32)
      (local.set $r (call $request (call $fields)))
      (drop (call $set-authority (local.get $r) (i32.const 1) (i32.const 64) (i32.const 7)))
      (call $send (local.get $r) (i32.const 0) (i32.const 0) (i32.const 16))
      (call $respond (local.get $out))
      (call $finish))"#;
    let options = ComponentOptions {
        reuse_max: 5,
        ..ComponentOptions::default()
    };
    let guest = rig.load(&guest::guest(body), &options);
    for served in 0..3 {
        let (req, out) = begin(&mut rig, guest);
        unsafe { mik_out_accept(rig.l, out, 1) };
        assert_ne!(rig.finish(req).0 & EV_END, 0);
        assert_eq!(rig.stats(req).reuse_index, served);
        assert_eq!(events(&rig)[0].bits, OUT_DROPPED);
        rig.release(req);
        unsafe { mik_out_release(rig.l, out) };
    }
}
