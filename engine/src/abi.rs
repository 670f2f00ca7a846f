//! The exported functions, part one: engine, components, loops. All check their pointers, and none lets a panic out.

use crate::component::{self, Component};
use crate::config::{Engine, VERSION};
use crate::error::{Fault, export};
use crate::ffi::{Code, ComponentOptions, EngineOptions, Err, LoopOps, NEVER, Sink, Str, Woken};
use crate::slots::Loop;
use crate::waker::lock;
use std::ffi::{c_char, c_void};
use std::ptr::null_mut;
use std::sync::Arc;

/// A piece of an artefact as it is handed to the sink.
const PIECE: usize = 1 << 20;

unsafe fn arc_of<T>(pointer: *const T) -> Result<Arc<T>, Fault> {
    if pointer.is_null() {
        return Err(Fault::invalid(
            "a null pointer where an engine or a component is needed",
        ));
    }
    unsafe {
        Arc::increment_strong_count(pointer);
        Ok(Arc::from_raw(pointer))
    }
}

unsafe fn drop_arc<T>(pointer: *const T) {
    if !pointer.is_null() {
        unsafe {
            export(null_mut(), (), || {
                drop(Arc::from_raw(pointer));
                Ok(())
            })
        }
    }
}

/// # Safety
/// As `engine.h` says; `options` and `err` are null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_engine_new(
    options: *const EngineOptions,
    err: *mut Err,
) -> *mut Engine {
    unsafe {
        export(err, null_mut(), || {
            let options = options
                .as_ref()
                .ok_or_else(|| Fault::invalid("no options"))?;
            Ok(Arc::into_raw(Engine::new(options)?).cast_mut())
        })
    }
}

/// # Safety
/// `engine` is null or came from `mik_engine_new` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_engine_delete(engine: *mut Engine) {
    unsafe { drop_arc(engine) }
}

/// # Safety
/// `engine` is null or valid. Async-signal-safe: one atomic addition.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_engine_tick(engine: *mut Engine) {
    if let Some(engine) = unsafe { engine.as_ref() } {
        engine.wasmtime.increment_epoch();
    }
}

/// # Safety
/// `engine` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_engine_kept_bytes(engine: *const Engine) -> u64 {
    unsafe { engine.as_ref() }.map_or(0, Engine::kept_bytes)
}

/// # Safety
/// `engine` is null or valid; `key` is null or has room for 32 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_engine_artefact_key(engine: *const Engine, key: *mut u8) {
    unsafe {
        export(null_mut(), (), || {
            if let (Some(engine), false) = (engine.as_ref(), key.is_null()) {
                key.copy_from_nonoverlapping(engine.artefact_key().as_ptr(), 32);
            }
            Ok(())
        })
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn mik_engine_version() -> *const c_char {
    VERSION.as_ptr()
}

/// The code of a call that fills in `err`, even when the caller gave none.
unsafe fn coded(err: *mut Err, f: impl FnOnce() -> Result<(), Fault>) -> i32 {
    let mut code = Code::Ok as i32;
    unsafe {
        export(err, (), || {
            crate::error::guard(f).inspect_err(|fault| code = fault.code as i32)
        });
    }
    code
}

/// # Safety
/// `wasm` is valid; `err` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_wasm_check(wasm: Str, err: *mut Err) -> i32 {
    unsafe { coded(err, || crate::check::check(wasm.bytes())) }
}

/// # Safety
/// `engine` and `wasm` are valid; `sink` may be called with `ctx`; `err` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_compile(
    engine: *const Engine,
    wasm: Str,
    sink: Sink,
    ctx: *mut c_void,
    err: *mut Err,
) -> i32 {
    unsafe {
        coded(err, || {
            let engine = engine.as_ref().ok_or_else(|| Fault::invalid("no engine"))?;
            let sink = sink.ok_or_else(|| Fault::invalid("no sink"))?;
            let artefact = component::compile(engine, wasm.bytes())?;
            for piece in artefact.chunks(PIECE) {
                if sink(ctx, Str::of(piece)) != 0 {
                    return Err(Fault::new(
                        Code::System,
                        "the artefact could not be written",
                    ));
                }
            }
            Ok(())
        })
    }
}

/// # Safety
/// `engine` is valid; `fd` is an artefact that `mik_compile` made; `options` is null or valid, and so is `err`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_component_load(
    engine: *mut Engine,
    fd: i32,
    options: *const ComponentOptions,
    err: *mut Err,
) -> *mut Component {
    unsafe {
        export(err, null_mut(), || {
            let options = options.as_ref().copied().unwrap_or_default();
            let component = Component::load(arc_of(engine)?, fd, &options)?;
            Ok(Arc::into_raw(component).cast_mut())
        })
    }
}

/// # Safety
/// `component` is null or came from `mik_component_load` and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_component_delete(component: *mut Component) {
    unsafe { drop_arc(component) }
}

/// # Safety
/// `component` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_component_bytes(component: *const Component) -> u64 {
    unsafe { component.as_ref() }.map_or(0, |c| c.bytes)
}

/// A reference of its own to a component.
///
/// # Safety
/// `component` is null or valid.
pub(crate) unsafe fn component_ref(component: *const Component) -> Result<Arc<Component>, Fault> {
    unsafe { arc_of(component) }
}

/// # Safety
/// `engine` and `ops` are valid; `err` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_new(
    engine: *mut Engine,
    ops: *const LoopOps,
    err: *mut Err,
) -> *mut Loop {
    unsafe {
        export(err, null_mut(), || {
            let ops = *ops
                .as_ref()
                .ok_or_else(|| Fault::invalid("no loop operations"))?;
            let engine = arc_of(engine)?;
            if engine.linker.is_none() {
                return Err(Fault::invalid("this engine only compiles"));
            }
            Ok(Box::into_raw(Box::new(Loop::new(engine, ops))))
        })
    }
}

/// # Safety
/// `l` is null or came from `mik_loop_new` on this thread and is not used again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_delete(l: *mut Loop) {
    if l.is_null() {
        return;
    }
    unsafe {
        export(null_mut(), (), || {
            let mut l = Box::from_raw(l);
            l.release_all();
            Ok(())
        })
    }
}

/// # Safety
/// `l` is null or valid; `woken` has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_woken(
    l: *mut Loop,
    now_ns: u64,
    woken: *mut Woken,
    cap: usize,
) -> usize {
    unsafe {
        export(null_mut(), 0, || {
            let Some(l) = l.as_mut() else { return Ok(0) };
            let woken = if woken.is_null() {
                &mut []
            } else {
                std::slice::from_raw_parts_mut(woken, cap)
            };
            Ok(l.woken(now_ns, woken))
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_next_timer(l: *const Loop) -> u64 {
    unsafe { l.as_ref() }
        .and_then(|l| lock(&l.core.timers).next())
        .unwrap_or(NEVER)
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_memory(l: *const Loop) -> u64 {
    unsafe { l.as_ref() }.map_or(0, |l| l.core.memory.held())
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_set_memory_room(l: *mut Loop, bytes: u64) {
    if let Some(l) = unsafe { l.as_ref() } {
        l.core.memory.set_room(bytes);
    }
}

/// # Safety
/// `l` is null or valid; `component` is only compared.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_forget(
    l: *mut Loop,
    component: *const Component,
    idle_only: i32,
    now_ns: u64,
) {
    unsafe {
        export(null_mut(), (), || {
            if let Some(l) = l.as_mut() {
                l.cache
                    .forget(component, (idle_only != 0).then_some(now_ns));
            }
            Ok(())
        })
    }
}
