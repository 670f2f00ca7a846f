//! Costs of the engine alone, without sockets: `cargo run --profile daily --example bench [component.wasm]`.

#[path = "../tests/common/mod.rs"]
mod common;
use common::*;
use mik_engine::ffi::*;
use mik_engine::*;

fn cpu() -> (f64, f64, i64) {
    let mut u: libc::rusage = unsafe { std::mem::zeroed() };
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut u) };
    let us = |t: libc::timeval| t.tv_sec as f64 * 1e6 + t.tv_usec as f64;
    (us(u.ru_utime), us(u.ru_stime), u.ru_minflt)
}

fn browser() -> Request {
    let fields: Vec<(&str, &[u8])> = vec![
        ("host", b"example.com"),
        ("user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0"),
        ("accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"),
        ("accept-encoding", b"gzip, deflate, br"),
        ("accept-language", b"en-GB,en;q=0.5"),
        ("connection", b"keep-alive"),
    ];
    Request {
        fields,
        ..Request::default()
    }
}

fn measure(rig: &mut Rig, component: *mut Component, name: &str, count: u32) {
    let request = browser();
    let mut round = |n: u32| {
        let mut inst = 0u64;
        for _ in 0..n {
            let req = rig.start(component, &request);
            let mut bits = rig.run(req);
            while bits & EV_DONE == 0 {
                rig.consume(req, 1 << 20);
                bits |= rig.run(req);
            }
            assert_ne!(bits & EV_END, 0, "{:?}", rig.error(req));
            let mut pieces = [Str::EMPTY; 16];
            unsafe { mik_resp_peek(rig.l, req, pieces.as_mut_ptr(), 16) };
            rig.consume(req, 1 << 20);
            inst += rig.stats(req).instantiate_ns as u64;
            rig.release(req);
        }
        inst
    };
    round(count / 10 + 1);
    for _ in 0..3 {
        let (from, before) = (now(), cpu());
        let inst = round(count);
        let (wall, after, n) = (now() - from, cpu(), count as f64);
        println!(
            "{name:28} {:8.2} us wall, {:7.2} user + {:6.2} sys, {:5.2} us instantiate, {:6.3} faults",
            wall as f64 / 1e3 / n,
            (after.0 - before.0) / n,
            (after.1 - before.1) / n,
            inst as f64 / 1e3 / n,
            (after.2 - before.2) as f64 / n
        );
    }
}

/// Requests that go round robin over so many components.
fn spread(rig: &mut Rig, components: &[*mut Component], name: &str, count: u32) {
    let request = browser();
    let mut round = |n: u32| {
        for i in 0..n {
            let req = rig.start(components[i as usize % components.len()], &request);
            let bits = rig.run(req);
            assert_ne!(bits & EV_END, 0, "{:?}", rig.error(req));
            rig.consume(req, 1 << 20);
            rig.release(req);
        }
    };
    round(2 * components.len() as u32);
    let before = cpu();
    round(count);
    let (after, n) = (cpu(), count as f64);
    println!(
        "{name:28} {:7.2} user + {:6.2} sys us, {:6.3} faults",
        (after.0 - before.0) / n,
        (after.1 - before.1) / n,
        (after.2 - before.2) as f64 / n
    );
}

/// What many components cost: to load, to drop, to go round.
fn many(artefact: &[u8], options: &EngineOptions, count: u32) {
    let mut rig = Rig::with(options);
    let load =
        |rig: &Rig| load_with(rig.engine, artefact, &ComponentOptions::default()).expect("loads");
    for n in [1, 10, 100, 1000] {
        let from = thread_ns();
        let components: Vec<_> = (0..n).map(|_| load(&rig)).collect();
        let loaded = thread_ns();
        spread(
            &mut rig,
            &components,
            &format!("round robin over {n}"),
            count,
        );
        let served = thread_ns();
        for component in components {
            unsafe { mik_component_delete(component) };
        }
        let dropped = thread_ns();
        println!(
            "{:28} {:.1} us to load, {:.1} us to drop one",
            "",
            (loaded - from) as f64 / n as f64 / 1e3,
            (dropped - served) as f64 / n as f64 / 1e3
        );
    }
}

fn thread_ns() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// CPU time of this thread: start-up does not wait for anything.
fn cold(artefact: &[u8], options: &EngineOptions, name: &str) {
    use std::os::fd::AsRawFd;
    let file = file_of(artefact);
    let t0 = thread_ns();
    let e = engine(options);
    let t1 = thread_ns();
    let component = unsafe {
        mik_component_load(
            e,
            file.as_raw_fd(),
            &ComponentOptions::default(),
            std::ptr::null_mut(),
        )
    };
    let t2 = thread_ns();
    let ops = LoopOps {
        ctx: std::ptr::null_mut(),
        wake: None,
        output: None,
    };
    let l = unsafe { mik_loop_new(e, &ops, std::ptr::null_mut()) };
    let req = browser().start(l, component, std::ptr::null_mut());
    let bits = unsafe { mik_req_run(l, req, now(), NEVER) };
    let t3 = thread_ns();
    assert_ne!(bits & EV_END, 0);
    let us = |a: u64, b: u64| (b - a) as f64 / 1e3;
    println!(
        "{name:28} engine {:.0} us, load {:.0} us, first request {:.0} us",
        us(t0, t1),
        us(t1, t2),
        us(t2, t3)
    );
    unsafe {
        mik_req_release(l, req);
        mik_loop_delete(l);
        mik_component_delete(component);
        mik_engine_delete(e);
    }
}

fn main() {
    let wasm = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path).expect("the component"),
        None => guest::guest(guest::HELLO),
    };
    let count = std::env::args()
        .nth(2)
        .and_then(|n| n.parse().ok())
        .unwrap_or(20_000);
    let options = EngineOptions {
        abi: ABI,
        pagemap_scan: 1,
        ..EngineOptions::default()
    };
    let compiler = engine(&EngineOptions {
        compile_only: 1,
        ..options
    });
    let artefact = compile_with(compiler, &wasm).expect("compiles");
    println!("artefact {} bytes", artefact.len());
    for n in [1000, 1000, 200] {
        cold(
            &artefact,
            &EngineOptions {
                instances_max: n,
                ..options
            },
            &format!("cold, pool of {n}"),
        );
    }
    cold(
        &artefact,
        &EngineOptions {
            on_demand: 1,
            ..options
        },
        "cold, no pool",
    );
    let mut rig = Rig::with(&options);
    let fresh = rig.adopt(&artefact, &ComponentOptions::default());
    let reused = rig.adopt(
        &artefact,
        &ComponentOptions {
            reuse_max: 1_000_000,
            ..ComponentOptions::default()
        },
    );
    measure(&mut rig, fresh, "fresh, scan", count);
    measure(&mut rig, reused, "reused, scan", count);
    drop(rig);
    many(&artefact, &options, count);
    let mut rig = Rig::with(&EngineOptions {
        pagemap_scan: 0,
        ..options
    });
    let fresh = rig.adopt(&artefact, &ComponentOptions::default());
    measure(&mut rig, fresh, "fresh, no scan", count / 4);
    drop(rig);
    let no_scan = EngineOptions {
        pagemap_scan: 0,
        ..options
    };
    many(&artefact, &no_scan, count / 4);
}
