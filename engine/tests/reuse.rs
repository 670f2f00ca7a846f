//! Instances that serve several requests: only when asked for, only after success, and nothing crosses over.

mod common;
use common::*;
use mik_engine::ffi::*;

/// Answers with the count of requests this instance has seen; traps when asked with "/trap".
const COUNT: &str = r#"
    (global $n (mut i32) (i32.const 0))
    (global $keep (mut i32) (i32.const 0))
    (func (export "handle") (param $req i32) (param $out i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (i32.store8 (i32.const 64) (i32.add (i32.const 48) (global.get $n)))
      (i32.store8 (i32.const 65) (i32.const 10))
      ;; libc keeps its stdout; so does this guest.
      (if (i32.eqz (global.get $keep)) (then (global.set $keep (i32.add (call $stdout) (i32.const 1)))))
      (call $write (i32.sub (global.get $keep) (i32.const 1)) (i32.const 64) (i32.const 2) (i32.const 0))
      (call $path (local.get $req) (i32.const 16))
      (if (i32.gt_u (i32.load (i32.const 24)) (i32.const 1)) (then unreachable))
      (call $respond (local.get $out))
      (drop (call $put (i32.const 64) (i32.const 1)))
      (call $finish))"#;

fn reuse(max: u32) -> ComponentOptions {
    ComponentOptions {
        reuse_max: max,
        ..ComponentOptions::default()
    }
}

#[test]
fn a_fresh_instance_each_time_unless_asked_otherwise() {
    let mut rig = Rig::new();
    let count = rig.load(&guest::guest(COUNT), &reuse(0));
    for _ in 0..3 {
        assert_eq!(rig.get(count).1, b"1");
    }
}

#[test]
fn reused_up_to_the_count_with_output_going_to_the_request_that_runs() {
    let mut rig = Rig::new();
    let count = rig.load(&guest::guest(COUNT), &reuse(3));
    let mut seen = Vec::new();
    for user in 0..5 {
        let req = rig.start(
            count,
            &Request {
                user,
                ..Request::default()
            },
        );
        seen.extend(rig.finish(req).1);
        assert_eq!(rig.stats(req).reuse_index, user as u32 % 3);
        rig.release(req);
    }
    assert_eq!(seen, b"12312");
    let lines: Vec<_> = rig
        .lines()
        .into_iter()
        .map(|(user, _, line)| format!("{user}:{line}"))
        .collect();
    assert_eq!(lines, ["0:1", "1:2", "2:3", "3:1", "4:2"]);
}

#[test]
fn never_after_a_failure_and_never_across_components() {
    let mut rig = Rig::new();
    let wasm = guest::guest(COUNT);
    let (a, b) = (rig.load(&wasm, &reuse(9)), rig.load(&wasm, &reuse(9)));
    assert_eq!(rig.get(a).1, b"1");
    assert_eq!(rig.get(a).1, b"2");
    assert_eq!(rig.get(b).1, b"1");
    let req = rig.start(
        a,
        &Request {
            path: "/trap",
            ..Request::default()
        },
    );
    assert_ne!(rig.finish(req).0 & EV_FAILED, 0);
    rig.release(req);
    assert_eq!(rig.get(a).1, b"1", "the one that trapped is gone");
    assert_eq!(rig.get(b).1, b"2");
}

#[test]
fn a_request_that_is_over_sees_nothing_of_the_one_its_instance_serves_now() {
    let mut rig = Rig::new();
    // Answers; but for "/" it makes an outgoing request first.
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $path (local.get $req) (i32.const 16))
      (if (i32.gt_u (i32.load (i32.const 24)) (i32.const 1))
        (then (call $send (call $request (call $fields)) (i32.const 0) (i32.const 0) (i32.const 16))))
      (call $respond (local.get $out))
      (call $finish))"#;
    let guest = rig.load(&guest::guest(body), &reuse(9));
    let over = rig.start(guest, &Request::default());
    assert_ne!(rig.finish(over).0 & EV_END, 0);
    let calls = Request {
        path: "/call",
        ..Request::default()
    };
    let now = rig.start(guest, &calls);
    assert_eq!(rig.run(now), EV_OUTBOUND);
    assert_eq!(rig.stats(now).reuse_index, 1);
    assert_eq!(rig.run(over), 0);
    assert_eq!(rig.stats(over).outbound, 0);
    assert_eq!(unsafe { mik_engine::mik_req_outbound(rig.l, over) }, 0);
    assert_ne!(unsafe { mik_engine::mik_req_outbound(rig.l, now) }, 0);
    rig.release(now);
    rig.release(over);
}

#[test]
fn idle_forgotten_and_grown_instances_go() {
    let mut rig = Rig::new();
    let wasm = guest::guest(COUNT);
    let count = rig.load(
        &wasm,
        &ComponentOptions {
            reuse_idle_ms: 50,
            ..reuse(9)
        },
    );
    rig.get(count);
    unsafe { mik_engine::mik_loop_forget(rig.l, count, 1, now()) };
    assert_eq!(rig.get(count).1, b"2", "not idle for long enough");
    unsafe { mik_engine::mik_loop_forget(rig.l, std::ptr::null(), 1, now() + 60 * MS) };
    assert_eq!(rig.get(count).1, b"1");
    unsafe { mik_engine::mik_loop_forget(rig.l, count, 0, 0) };
    assert_eq!(rig.get(count).1, b"1");

    let small = rig.load(
        &wasm,
        &ComponentOptions {
            reuse_memory_bytes_max: 64 << 10,
            ..reuse(9)
        },
    );
    rig.get(small);
    assert_eq!(
        rig.get(small).1,
        b"1",
        "its memory is past what may be kept"
    );
}

#[test]
fn a_kept_instance_gives_way_when_the_pool_is_full() {
    let mut rig = Rig::with(&EngineOptions {
        instances_max: 1,
        ..options()
    });
    let (count, hello) = (
        rig.load(&guest::guest(COUNT), &reuse(9)),
        rig.guest(guest::HELLO),
    );
    assert_eq!(rig.get(count).1, b"1");
    assert_eq!(rig.get(hello).1, b"hello\n");
    assert_eq!(rig.get(count).1, b"1");
}

#[test]
fn what_a_request_leaves_behind_does_not_reach_the_next() {
    let mut rig = Rig::new();
    // Keeps its request and its outparam for the next one, which uses them.
    let body = r#"
    (global $old-req (mut i32) (i32.const 0))
    (global $n (mut i32) (i32.const 0))
    (func (export "handle") (param $req i32) (param $out i32)
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (if (i32.eq (global.get $n) (i32.const 2)) (then (call $path (global.get $old-req) (i32.const 16))))
      (global.set $old-req (local.get $req))
      (call $respond (local.get $out))
      (call $finish))"#;
    let keeps = rig.load(&guest::guest(body), &reuse(9));
    assert_ne!(rig.get(keeps).0 & EV_END, 0);
    let (bits, _, (_, text)) = rig.get(keeps);
    assert_ne!(bits & EV_FAILED, 0);
    assert!(text.contains("this incoming-request is over"), "{text}");
}

#[test]
fn a_body_left_behind_by_a_reused_guest_is_settled_at_its_return() {
    let mut rig = Rig::new();
    let body = r#"
    (data (i32.const 64) "part")
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      (call $sleep (i64.const 1000000))
      (drop (call $put (i32.const 64) (i32.const 4))))"#;
    let leaks = rig.load(&guest::guest(body), &reuse(9));
    let (bits, bytes, (code, _)) = rig.get(leaks);
    assert_eq!(bits & (EV_ABORT | EV_END | EV_DONE), EV_ABORT | EV_DONE);
    assert_eq!((bytes, code), (b"part".to_vec(), Code::Body as i32));
}

#[test]
fn budgets_start_anew() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $i i32)
      (call $respond (local.get $out))
      (loop $l
        (drop (call $put (i32.const 1024) (i32.const 32768)))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 4))))
      (call $finish))"#;
    let guest = rig.load(
        &guest::guest(body),
        &ComponentOptions {
            hostcall_fuel: 40_000,
            ..reuse(100)
        },
    );
    for _ in 0..20 {
        let (bits, bytes, error) = rig.get(guest);
        assert_ne!(bits & EV_END, 0, "{error:?}");
        assert_eq!(bytes.len(), 4 * 32768);
    }
}
