//! Many components in one engine: what is loaded and dropped leaves nothing behind.

mod common;
use common::*;
use mik_engine::ffi::*;
use mik_engine::*;

/// They look at their process, so they run one after the other.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|e| e.into_inner())
}

/// Mappings and descriptors of this process, and bytes that malloc has handed out.
fn held() -> (usize, usize, usize) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let heap = unsafe { libc::mallinfo2() };
    (maps.lines().count(), files, heap.uordblks + heap.hblkhd)
}

fn serve(rig: &mut Rig, component: *mut Component) {
    assert_eq!(rig.get(component).1, b"hello\n");
}

fn reused() -> ComponentOptions {
    ComponentOptions {
        reuse_max: 9,
        ..ComponentOptions::default()
    }
}

#[test]
fn thousands_that_come_and_go_leave_nothing() {
    let _alone = alone();
    let mut rig = Rig::new();
    let artefact = compile_with(rig.engine, &guest::guest(guest::HELLO)).unwrap();
    let mut round = |count: u32| {
        for i in 0..count {
            let options = if i % 3 == 0 {
                reused()
            } else {
                ComponentOptions::default()
            };
            let component = load_with(rig.engine, &artefact, &options).unwrap();
            if i % 2 == 0 {
                serve(&mut rig, component);
            }
            unsafe {
                mik_loop_forget(rig.l, component, 0, 0);
                mik_component_delete(component);
            }
        }
    };
    round(200);
    let before = held();
    round(2000);
    let after = held();
    assert_eq!(before.1, after.1, "descriptors");
    assert!(
        after.0 <= before.0 + 8,
        "mappings: {} then {}",
        before.0,
        after.0
    );
    // 100 bytes for each that leaked would be seen.
    assert!(
        after.2 < before.2 + 200_000,
        "heap: {} then {} bytes",
        before.2,
        after.2
    );
}

#[test]
fn a_thousand_at_once_are_served_and_dropped() {
    let _alone = alone();
    let mut rig = Rig::new();
    let artefact = compile_with(rig.engine, &guest::guest(guest::HELLO)).unwrap();
    let load = |rig: &Rig| load_with(rig.engine, &artefact, &ComponentOptions::default()).unwrap();
    let one = load(&rig);
    serve(&mut rig, one);
    let before = held();
    let components: Vec<_> = (0..1000).map(|_| load(&rig)).collect();
    for _ in 0..2 {
        for component in &components {
            serve(&mut rig, *component);
        }
    }
    let full = held();
    // vm.max_map_count is 65530.
    assert!(
        full.0 < before.0 + 12_000,
        "mappings: {} then {}",
        before.0,
        full.0
    );
    // Of each, its artefact: memories are mapped from it.
    assert!(
        full.1 <= before.1 + 1000,
        "descriptors: {} then {}",
        before.1,
        full.1
    );
    for component in components {
        unsafe { mik_component_delete(component) };
    }
    serve(&mut rig, one);
    let after = held();
    assert_eq!(before.1, after.1, "descriptors");
    // The pool's 20 slots stay mapped, each with its guard and its pieces.
    assert!(
        after.0 <= before.0 + 120,
        "mappings: {} then {}",
        before.0,
        after.0
    );
    unsafe { mik_component_delete(one) };
}

/// Deleting gives up the caller's reference only: guests that run, and kept instances, hold theirs.
#[test]
fn a_component_lives_as_long_as_its_guests() {
    let _alone = alone();
    let mut rig = Rig::new();
    let artefact = compile_with(rig.engine, &guest::guest(guest::HELLO)).unwrap();
    let component = load_with(rig.engine, &artefact, &reused()).unwrap();
    serve(&mut rig, component);
    let started = rig.start(component, &Request::default());
    unsafe { mik_component_delete(component) };
    let (_, bytes) = rig.finish(started);
    assert_eq!(bytes, b"hello\n");
    assert_eq!(rig.stats(started).reuse_index, 1, "it took the kept one");
    rig.release(started);
    // One is kept still; its component's address is not used again while it is.
    let other = load_with(rig.engine, &artefact, &reused()).unwrap();
    assert_ne!(other, component);
    let req = rig.start(other, &Request::default());
    rig.finish(req);
    assert_eq!(rig.stats(req).reuse_index, 0, "never across components");
    rig.release(req);
    unsafe {
        mik_loop_forget(rig.l, component, 0, 0);
        mik_component_delete(other);
        mik_loop_forget(rig.l, std::ptr::null(), 0, 0);
    }
    assert_eq!(unsafe { mik_loop_memory(rig.l) }, 0);
}
