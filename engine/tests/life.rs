//! Cancelling at every point, timers, ids, the pool, wakes from other threads, panics.

mod common;
use common::*;
use mik_engine::ffi::*;
use std::sync::atomic::Ordering;

const SLEEPY: &str = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $sleep (i64.const 3600000000000))
      (call $respond (local.get $out))
      (call $finish))"#;

#[test]
fn timers_are_the_loops_and_fire_by_the_callers_clock() {
    let mut rig = Rig::new();
    let sleepy = rig.guest(SLEEPY);
    assert_eq!(unsafe { mik_engine::mik_loop_next_timer(rig.l) }, NEVER);
    let from = now();
    let req = rig.start(sleepy, &Request::default());
    assert_eq!(rig.run(req), 0);
    let due = unsafe { mik_engine::mik_loop_next_timer(rig.l) };
    assert!((from + 3_600_000 * MS..now() + 3_600_000 * MS).contains(&due));
    assert!(rig.woken(due - 1).is_empty());
    assert_eq!(rig.woken(due), [req]);
    assert_ne!(rig.run(req) & EV_END, 0);
    assert_eq!(unsafe { mik_engine::mik_loop_next_timer(rig.l) }, NEVER);
}

#[test]
fn a_released_sleeper_takes_its_timer_along() {
    let mut rig = Rig::new();
    let sleepy = rig.guest(SLEEPY);
    let ids: Vec<u64> = (0..5)
        .map(|_| rig.start(sleepy, &Request::default()))
        .collect();
    for id in &ids {
        rig.run(*id);
    }
    let due = unsafe { mik_engine::mik_loop_next_timer(rig.l) };
    for id in &ids {
        rig.release(*id);
    }
    assert_eq!(unsafe { mik_engine::mik_loop_next_timer(rig.l) }, NEVER);
    assert!(rig.woken(due + 1000 * MS).is_empty());
}

#[test]
fn cancelling_gives_the_slot_back_at_every_point() {
    let one = EngineOptions {
        instances_max: 1,
        ..options()
    };
    let mut rig = Rig::with(&one);
    let hello = rig.guest(guest::HELLO);
    let waits_for_body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $in i32)
      (local.set $in (call $input (local.get $req)))
      (call $read (local.get $in) (i64.const 10) (i32.const 16))
      (call $respond (local.get $out))
      (memory.fill (i32.const 65536) (i32.const 97) (i32.const 65536))
      (loop $l (br_if $l (i32.eqz (call $put (i32.const 65536) (i32.const 65536))))))"#;
    let guest = rig.guest(waits_for_body);
    for point in 0..4 {
        let req = rig.start(guest, &Request::post());
        if point > 0 {
            assert_eq!(rig.run(req), 0, "waits for its body");
        }
        if point > 1 {
            rig.push(req, b"x");
            let bits = rig.run(req);
            assert_eq!(
                bits,
                EV_HEAD | EV_BODY,
                "waits for the window: {:?}",
                rig.error(req)
            );
        }
        if point > 2 {
            rig.consume(req, 256 << 10);
        }
        rig.release(req);
        assert_eq!(rig.run(req), 0);
        assert!(
            rig.woken(now()).is_empty(),
            "a wake of a request that is gone"
        );
        assert_eq!(
            rig.get(hello).1,
            b"hello\n",
            "the one slot of the pool is free again, point {point}"
        );
    }
}

#[test]
fn an_empty_pool_is_busy_and_no_trap() {
    let mut rig = Rig::with(&EngineOptions {
        instances_max: 2,
        ..options()
    });
    let (sleepy, hello) = (rig.guest(SLEEPY), rig.guest(guest::HELLO));
    let ids: Vec<u64> = (0..2)
        .map(|_| rig.start(sleepy, &Request::default()))
        .collect();
    for id in &ids {
        rig.run(*id);
    }
    let (bits, _, (code, text)) = rig.get(hello);
    assert_eq!(
        (bits, code),
        (EV_FAILED | EV_DONE, Code::Busy as i32),
        "{text}"
    );
    rig.release(ids[0]);
    assert_eq!(rig.get(hello).1, b"hello\n");
}

#[test]
fn stale_and_made_up_ids_are_refused_everywhere() {
    let mut rig = Rig::new();
    let hello = rig.guest(guest::HELLO);
    let old = rig.start(hello, &Request::post());
    rig.release(old);
    let new = rig.start(hello, &Request::post());
    assert_eq!(old as u32, new as u32, "the slot is used again");
    for id in [old, 0, 1, u64::MAX, new ^ (1 << 40)] {
        assert_eq!(rig.run(id), 0);
        assert_eq!(rig.push(id, b"x"), -1);
        rig.body_end(id);
        rig.consume(id, 1);
        assert!(rig.head(id).is_none());
        assert_eq!(rig.peek(id), b"");
        assert_eq!(rig.error(id).0, 0);
        assert_eq!(unsafe { mik_engine::mik_req_outbound(rig.l, id) }, 0);
        rig.release(id);
    }
    assert_eq!(rig.finish(new).1, b"hello\n");
}

#[test]
fn null_pointers_are_no_crash() {
    use mik_engine::*;
    use std::ptr::{null, null_mut};
    unsafe {
        assert!(mik_engine_new(null(), null_mut()).is_null());
        let mut err = Err::default();
        assert!(mik_engine_new(&EngineOptions::default(), &mut err).is_null());
        assert_eq!(err.code, Code::Invalid as i32, "{}", text(&err));
        mik_engine_delete(null_mut());
        mik_engine_tick(null_mut());
        mik_component_delete(null_mut());
        mik_loop_delete(null_mut());
        assert!(mik_loop_new(null_mut(), null(), null_mut()).is_null());
        assert_eq!(mik_loop_woken(null_mut(), 0, null_mut(), 0), 0);
        assert_eq!(mik_req_start(null_mut(), null_mut(), null(), null_mut()), 0);
        assert_eq!(mik_req_run(null_mut(), 1, 0, 0), 0);
        assert!(mik_component_load(null_mut(), -1, null(), null_mut()).is_null());
        assert_eq!(mik_wasm_check(Str::EMPTY, null_mut()), Code::NotWasm as i32);
    }
}

#[test]
fn many_requests_on_one_loop_are_woken_in_order() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $read (call $input (local.get $req)) (i64.const 10) (i32.const 16))
      (call $respond (local.get $out))
      (call $finish))"#;
    let guest = rig.guest(body);
    let ids: Vec<u64> = (0..10)
        .map(|_| rig.start(guest, &Request::post()))
        .collect();
    for id in &ids {
        assert_eq!(rig.run(*id), 0);
    }
    let order = [3usize, 1, 9, 0, 4];
    for i in order {
        rig.push(ids[i], b"x");
        rig.push(ids[i], b"y");
    }
    assert_eq!(
        rig.woken(0),
        order.map(|i| ids[i]),
        "each once, in the order of the wakes"
    );
    assert!(rig.woken(0).is_empty());
    assert_eq!(
        rig.seen.wakes.load(Ordering::SeqCst),
        0,
        "no call for wakes of the loop's own thread"
    );
}

#[test]
fn a_loop_with_live_requests_can_be_deleted() {
    let mut rig = Rig::new();
    let (sleepy, spin) = (
        rig.guest(SLEEPY),
        rig.guest(r#"(func (export "handle") (param i32 i32) (loop $l (br $l)))"#),
    );
    for component in [sleepy, spin] {
        let req = rig.start(component, &Request::default());
        rig.run(req);
    }
    rig.start(sleepy, &Request::default());
}
