//! What one request may use, and what happens when it wants more.

mod common;
use common::*;
use mik_engine::ffi::*;

const SPIN: &str = r#"(func (export "handle") (param i32 i32) (loop $l (br $l)))"#;

fn limited(change: impl FnOnce(&mut ComponentOptions)) -> ComponentOptions {
    let mut options = ComponentOptions::default();
    change(&mut options);
    options
}

#[test]
fn an_endless_guest_yields_at_its_slice_and_can_be_released() {
    let mut rig = Rig::new();
    let (spin, hello) = (rig.guest(SPIN), rig.guest(guest::HELLO));
    let req = rig.start(spin, &Request::default());
    for slice in [1, 5] {
        let from = now();
        assert_eq!(
            unsafe { mik_engine::mik_req_run(rig.l, req, from, slice * MS) },
            EV_YIELDED
        );
        let took = now() - from;
        assert!(
            took >= slice * MS && took < 1000 * MS,
            "a slice of {slice} ms took {took} ns"
        );
        assert!(rig.woken(now()).is_empty(), "a yield is said, not woken");
    }
    assert_eq!(rig.get(hello).1, b"hello\n", "others run meanwhile");
    assert_eq!(rig.stats(req).runs, 2);
    rig.release(req);
    assert_eq!(rig.run(req), 0);
}

#[test]
fn the_cpu_budget_ends_an_endless_guest() {
    let mut rig = Rig::new();
    let spin = rig.guest(SPIN);
    let req = rig.start(
        spin,
        &Request {
            cpu_budget_ns: 20 * MS,
            ..Request::default()
        },
    );
    let (bits, _) = rig.finish(req);
    assert_eq!(bits & !EV_YIELDED, EV_FAILED | EV_DONE);
    let (code, text) = rig.error(req);
    assert_eq!(code, Code::Cpu as i32, "{text}");
    let used = rig.stats(req).cpu_ns;
    assert!((20 * MS..500 * MS).contains(&used), "{used}");
}

#[test]
fn time_asleep_is_not_cpu_time() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $sleep (i64.const 30000000))
      (call $respond (local.get $out))
      (call $finish))"#;
    let guest = rig.guest(body);
    let req = rig.start(
        guest,
        &Request {
            cpu_budget_ns: 20 * MS,
            ..Request::default()
        },
    );
    let (bits, _) = rig.finish(req);
    assert_ne!(bits & EV_END, 0, "{:?}", rig.error(req));
    assert!(rig.stats(req).cpu_ns < 20 * MS);
}

/// Grows by 1 MiB until that is refused; traps then.
const HOG: &str = r#"
    (func (export "handle") (param i32 i32)
      (loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
      unreachable)"#;

#[test]
fn memory_is_summed_and_a_refused_growth_is_the_reason_of_what_follows() {
    let mut rig = Rig::new();
    let options = limited(|o| o.memory_bytes_max = 8 << 20);
    let hog = rig.load(&guest::guest(HOG), &options);
    let req = rig.start(hog, &Request::default());
    let (bits, _) = rig.finish(req);
    assert_eq!(bits & (EV_FAILED | EV_DONE), EV_FAILED | EV_DONE);
    let (code, text) = rig.error(req);
    assert_eq!(code, Code::Memory as i32, "{text}");
    assert!(
        text.contains("memory_limit_bytes") && text.contains("8388608"),
        "{text}"
    );
    let peak = rig.stats(req).memory_bytes_peak;
    assert!(peak > 7 << 20 && peak <= 8 << 20, "{peak}");

    // A guest that copes with the refusal is not failed.
    let copes = HOG.replace(
        "unreachable",
        "(call $respond (local.get 1)) (call $finish)",
    );
    let copes = rig.load(&guest::guest(&copes), &options);
    assert_ne!(rig.get(copes).0 & EV_END, 0);
}

#[test]
fn tables_are_limited() {
    let mut rig = Rig::new();
    let body = r#"
    (table $t 10 funcref)
    (func (export "handle") (param i32 i32)
      (loop $more (br_if $more (i32.ne (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1))))
      unreachable)"#;
    let hog = rig.load(
        &guest::guest(body),
        &limited(|o| o.table_elements_max = 5000),
    );
    let (_, _, (code, text)) = rig.get(hog);
    assert_eq!(code, Code::Memory as i32, "{text}");
    assert!(text.contains("5000"), "{text}");
}

#[test]
fn deep_recursion_is_a_stack_overflow() {
    let mut rig = Rig::new();
    let body = r#"
    (func $down (param i64) (result i64) (i64.add (local.get 0) (call $down (i64.add (local.get 0) (i64.const 1)))))
    (func (export "handle") (param i32 i32) (drop (call $down (i64.const 1))))"#;
    let deep = rig.guest(body);
    let (bits, _, (code, text)) = rig.get(deep);
    assert_eq!(
        (bits, code),
        (EV_FAILED | EV_DONE, Code::Stack as i32),
        "{text}"
    );
}

#[test]
fn handles_are_limited() {
    let mut rig = Rig::new();
    let body =
        r#"(func (export "handle") (param i32 i32) (loop $l (drop (call $fields)) (br $l)))"#;
    let hog = rig.load(&guest::guest(body), &limited(|o| o.resources_max = 100));
    let (_, _, (code, text)) = rig.get(hog);
    assert_eq!(code, Code::HostLimit as i32, "{text}");
}

/// 4000 sets of 100 KiB would be 400 MB that no limit on memory counts.
#[test]
fn what_is_held_of_fields_is_limited() {
    let mut rig = Rig::new();
    let body = r#"
    (data (i32.const 64) "x")
    (func (export "handle") (param i32 i32)
      (local $i i32)
      (memory.fill (i32.const 4096) (i32.const 97) (i32.const 100000))
      (loop $l
        (call $append (call $fields) (i32.const 64) (i32.const 1) (i32.const 4096) (i32.const 100000) (i32.const 0))
        (if (i32.load8_u (i32.const 0)) (then unreachable))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 4000)))))"#;
    let hog = rig.guest(body);
    let (_, _, (code, text)) = rig.get(hog);
    assert_eq!(code, Code::HostLimit as i32, "{text}");
    assert!(text.contains("HTTP fields"), "{text}");

    // As many one after the other are no matter.
    let tidy = body
        .replace(
            "(call $append (call $fields)",
            "(local.set $f (call $fields))\n(call $append (local.get $f)",
        )
        .replace("(local $i i32)", "(local $i i32) (local $f i32)")
        .replace(
            "(local.set $i (i32.add",
            "(call $drop-fields (local.get $f))\n(local.set $i (i32.add",
        );
    let tidy = rig.guest(&tidy);
    let (_, _, (code, text)) = rig.get(tidy);
    assert_eq!(code, Code::NoResponse as i32, "{text}");
}

#[test]
fn bytes_per_host_call_are_limited() {
    let mut rig = Rig::new();
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      (drop (call $put (i32.const 0) (i32.const 131072))))"#;
    let hog = rig.load(
        &guest::guest(body),
        &limited(|o| o.hostcall_fuel = 64 << 10),
    );
    let (_, _, (code, text)) = rig.get(hog);
    assert_eq!(code, Code::HostLimit as i32, "{text}");
}

#[test]
fn exit_ends_the_request() {
    let mut rig = Rig::new();
    let exits = rig.guest(r#"(func (export "handle") (param i32 i32) (call $exit (i32.const 1)))"#);
    let (bits, _, (code, text)) = rig.get(exits);
    assert_eq!(
        (bits, code),
        (EV_FAILED | EV_DONE, Code::Exit as i32),
        "{text}"
    );
    assert!(text.contains("exit"), "{text}");
}

#[test]
fn output_comes_line_by_line_and_a_flood_is_cut_and_counted() {
    let mut rig = Rig::new();
    let body = r#"
    (data (i32.const 64) "one\ntwo\nhalf")
    (func (export "handle") (param $req i32) (param $out i32)
      (local $o i32) (local $i i32)
      (call $respond (local.get $out))
      (local.set $o (call $stdout))
      (loop $l
        (call $write (local.get $o) (i32.const 64) (i32.const 12) (i32.const 0))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $l (i32.lt_u (local.get $i) (i32.const 10000))))
      (call $finish))"#;
    let chatty = rig.load(&guest::guest(body), &limited(|o| o.output_bytes_max = 1000));
    assert_ne!(rig.get(chatty).0 & EV_END, 0);
    let lines = rig.lines();
    assert_eq!(lines[0], (7, 1, "one".into()));
    assert_eq!(lines[1], (7, 1, "two".into()));
    assert_eq!(lines[2], (7, 1, "halfone".into()));
    let kept: usize = lines.iter().filter(|l| l.1 == 1).map(|l| l.2.len()).sum();
    assert!(kept <= 1000, "{kept}");
    let notes: Vec<_> = lines.iter().filter(|l| l.1 == 0).collect();
    assert_eq!(notes.len(), 1);
    assert_eq!(lines.last(), notes.last().copied());
}

#[test]
fn a_guest_sees_the_environment_of_its_options_and_nothing_else() {
    let mut rig = Rig::new();
    // Answers with the first pair, if there is exactly one.
    let body = r#"
    (func (export "handle") (param $req i32) (param $out i32)
      (local $at i32)
      (call $environment (i32.const 16))
      (if (i32.ne (i32.load (i32.const 20)) (i32.const 1)) (then unreachable))
      (local.set $at (i32.load (i32.const 16)))
      (call $respond (local.get $out))
      (drop (call $put (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))))
      (drop (call $put (i32.load offset=8 (local.get $at)) (i32.load offset=12 (local.get $at))))
      (call $finish))"#;
    let env = [Field {
        name: str_of(b"COLOUR"),
        value: str_of(b"green"),
    }];
    let guest = rig.load(
        &guest::guest(body),
        &limited(|o| {
            o.env = env.as_ptr();
            o.env_count = 1;
        }),
    );
    assert_eq!(rig.get(guest).1, b"COLOURgreen");
}

#[test]
fn settings_are_the_environment() {
    let mut rig = Rig::new();
    // Answers with COLOUR, then with the name of the first of all; traps when NOTHING is set.
    let body = r#"
    (data (i32.const 64) "COLOURNOTHING")
    (func (export "handle") (param $req i32) (param $out i32)
      (local $at i32)
      (call $respond (local.get $out))
      (call $setting (i32.const 64) (i32.const 6) (i32.const 16))
      (if (i32.load8_u (i32.const 16)) (then unreachable))
      (if (i32.eqz (i32.load8_u (i32.const 20))) (then unreachable))
      (drop (call $put (i32.load (i32.const 24)) (i32.load (i32.const 28))))
      (call $setting (i32.const 70) (i32.const 7) (i32.const 16))
      (if (i32.load8_u (i32.const 20)) (then unreachable))
      (call $settings (i32.const 16))
      (if (i32.ne (i32.load (i32.const 24)) (i32.const 2)) (then unreachable))
      (local.set $at (i32.load (i32.const 20)))
      (drop (call $put (i32.load (local.get $at)) (i32.load offset=4 (local.get $at))))
      (call $finish))"#;
    let pair = |name, value| Field {
        name: str_of(name),
        value: str_of(value),
    };
    let env = [pair(b"SHAPE", b"round"), pair(b"COLOUR", b"green")];
    let guest = rig.load(
        &guest::guest(body),
        &limited(|o| {
            o.env = env.as_ptr();
            o.env_count = 2;
        }),
    );
    assert_eq!(rig.get(guest).1, b"greenSHAPE");
}

#[test]
fn what_is_logged_comes_among_the_output_with_its_level() {
    let mut rig = Rig::new();
    let body = r#"
    (data (i32.const 64) "out\nctxmessage")
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      (call $log (i32.const 3) (i32.const 68) (i32.const 3) (i32.const 71) (i32.const 7))
      (call $write (call $stdout) (i32.const 64) (i32.const 4) (i32.const 0))
      (call $log-draft (i32.const 5) (i32.const 68) (i32.const 0) (i32.const 64) (i32.const 7))
      (call $finish))"#;
    let guest = rig.guest(body);
    assert_ne!(rig.get(guest).0 & EV_END, 0);
    assert_eq!(
        rig.lines(),
        [
            (7, 6, "ctx\nmessage".into()),
            (7, 1, "out".into()),
            (7, 8, "\nout\nctx".into())
        ]
    );
}

/// Grows by a mebibyte, then computes for ever.
const HOLD: &str = r#"
    (table $t 10 funcref)
    (func (export "handle") (param i32 i32)
      (drop (memory.grow (i32.const 16)))
      (drop (table.grow $t (ref.null func) (i32.const 1000)))
      (loop $l (br $l)))"#;

#[test]
fn what_guests_hold_is_counted_while_they_live() {
    let mut rig = Rig::new();
    let hold = rig.guest(HOLD);
    let held = |rig: &Rig| unsafe { mik_engine::mik_loop_memory(rig.l) };
    let run = |rig: &mut Rig| {
        let req = rig.start(hold, &Request::default());
        let bits = unsafe { mik_engine::mik_req_run(rig.l, req, now(), MS) };
        assert_eq!(bits, EV_YIELDED);
        req
    };
    assert_eq!(held(&rig), 0);
    let first = run(&mut rig);
    let one = rig.stats(first).memory_bytes;
    assert!(one > ((17 * 64) << 10) + 8 * 1000, "{one}");
    assert_eq!(held(&rig), one);
    assert_eq!(unsafe { mik_engine::mik_req_memory(rig.l, first) }, one);
    let second = run(&mut rig);
    assert_eq!(held(&rig), 2 * one);
    rig.release(first);
    assert_eq!(held(&rig), one);
    assert_eq!(unsafe { mik_engine::mik_req_memory(rig.l, first) }, 0);
    rig.release(second);
    assert_eq!(held(&rig), 0);

    // A kept instance holds its memory, though its request is over.
    let options = limited(|o| o.reuse_max = 9);
    let kept = rig.load(&guest::guest(guest::HELLO), &options);
    let req = rig.start(kept, &Request::default());
    rig.finish(req);
    assert_eq!(rig.stats(req).memory_bytes, 0);
    rig.release(req);
    assert!(held(&rig) >= 64 << 10);
    unsafe { mik_engine::mik_loop_forget(rig.l, kept, 0, 0) };
    assert_eq!(held(&rig), 0);
    // Failed guests leave nothing either.
    let options = limited(|o| o.memory_bytes_max = 8 << 20);
    let hog = rig.load(&guest::guest(HOG), &options);
    rig.get(hog);
    assert_eq!(held(&rig), 0);
}

#[test]
fn beyond_the_loops_room_nothing_grows() {
    let mut rig = Rig::new();
    let (hog, hold) = (rig.guest(HOG), rig.guest(HOLD));
    let req = rig.start(hold, &Request::default());
    unsafe { mik_engine::mik_req_run(rig.l, req, now(), MS) };
    let held = rig.stats(req).memory_bytes;
    unsafe { mik_engine::mik_loop_set_memory_room(rig.l, held + (4 << 20)) };
    let (_, _, (code, text)) = rig.get(hog);
    assert_eq!(code, Code::Busy as i32, "{text}");
    assert!(text.contains("memory budget"), "{text}");
    assert_eq!(unsafe { mik_engine::mik_loop_memory(rig.l) }, held);
    // Less than there is already: what is there stays, and an instance cannot begin.
    unsafe { mik_engine::mik_loop_set_memory_room(rig.l, held / 2) };
    let (_, _, (code, text)) = rig.get(hog);
    assert_eq!(code, Code::Busy as i32, "{text}");
    assert!(text.contains("memory budget"), "{text}");
    assert_eq!(rig.run(req), EV_YIELDED);
    unsafe { mik_engine::mik_loop_set_memory_room(rig.l, NEVER) };
    let (_, _, (code, text)) = rig.get(hog);
    assert!(code == Code::Memory as i32 && text.contains("memory_limit_bytes"));
    rig.release(req);
}

#[test]
fn what_stays_in_the_pool_is_known() {
    let mut rig = Rig::with(&EngineOptions {
        pagemap_scan: 1,
        ..options()
    });
    let hello = rig.guest(guest::HELLO);
    let kept = |rig: &Rig| unsafe { mik_engine::mik_engine_kept_bytes(rig.engine) };
    assert_eq!(kept(&rig), 0);
    rig.get(hello);
    let one = kept(&rig);
    assert!(one > 0 && one <= 256 << 10, "{one}");
    // The same slot again.
    rig.get(hello);
    assert_eq!(kept(&rig), one);
}
