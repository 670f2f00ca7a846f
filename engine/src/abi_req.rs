//! The exported functions, part two: requests.

use crate::abi::component_ref;
use crate::component::Component;
use crate::error::{Fault, export};
use crate::ffi::{Err, Field, Head, HttpError, Resp, Stats, Str};
use crate::fields;
use crate::request::HeadIn;
use crate::slot::Slot;
use crate::slots::Loop;
use crate::waker::lock;
use std::ptr::null_mut;

/// Runs `f` on the request's slot; `none` for a null loop, a stale id, or a panic.
unsafe fn with<T: Copy>(l: *mut Loop, req: u64, none: T, f: impl FnOnce(&mut Slot) -> T) -> T {
    unsafe {
        export(null_mut(), none, || {
            Ok(l.as_mut().and_then(|l| l.get(req)).map_or(none, f))
        })
    }
}

/// # Safety
/// `l`, `component` and `head` are valid; `err` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_start(
    l: *mut Loop,
    component: *mut Component,
    head: *const Head,
    err: *mut Err,
) -> u64 {
    unsafe {
        export(err, 0, || {
            let l = l.as_mut().ok_or_else(|| Fault::invalid("no loop"))?;
            let head = head.as_ref().ok_or_else(|| Fault::invalid("no head"))?;
            let component = component_ref(component)?;
            Ok(l.start(component, HeadIn::new(head)?, head))
        })
    }
}

/// # Safety
/// `l` is null or valid and of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_run(l: *mut Loop, req: u64, now_ns: u64, slice_ns: u64) -> u32 {
    unsafe {
        export(null_mut(), 0, || {
            Ok(l.as_mut().map_or(0, |l| l.run(req, now_ns, slice_ns)))
        })
    }
}

/// # Safety
/// `l` is null or valid; `bytes` is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_body_push(l: *mut Loop, req: u64, bytes: Str) -> i32 {
    unsafe {
        with(l, req, -1, |slot| {
            slot.body_in.as_ref().map_or(-1, |b| b.push(bytes.bytes()))
        })
    }
}

/// # Safety
/// `l` is null or valid; `trailers` has `count` valid fields.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_body_end(
    l: *mut Loop,
    req: u64,
    trailers: *const Field,
    count: usize,
) {
    unsafe {
        with(l, req, (), |slot| {
            let Some(body) = &slot.body_in else { return };
            match fields::map_of(trailers, count) {
                Ok(map) => body.end((!map.is_empty()).then_some(map)),
                // Trailers that are none break the message: RFC 9112 section 7.1.2.
                Err(_) => body.fail(HttpError::ProtocolError),
            }
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_body_fail(l: *mut Loop, req: u64) {
    unsafe {
        with(l, req, (), |slot| {
            if let Some(body) = &slot.body_in {
                body.fail(HttpError::ConnectionTerminated);
            }
        })
    }
}

/// # Safety
/// `l` is null or valid; `resp` is null or valid; `fields` is null or has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_resp_head(
    l: *mut Loop,
    req: u64,
    resp: *mut Resp,
    fields: *mut Field,
    cap: usize,
) -> i32 {
    unsafe {
        with(l, req, -1, |slot| {
            let Some(response) = &slot.response else {
                return -1;
            };
            let field_count = fields::views_of(&response.fields, fields, cap);
            if let Some(resp) = resp.as_mut() {
                resp.status = response.status;
                resp.content_length = fields::content_length_raw(&response.fields);
                resp.field_count = field_count;
            }
            0
        })
    }
}

/// # Safety
/// `l` is null or valid; `pieces` is null or has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_resp_peek(
    l: *mut Loop,
    req: u64,
    pieces: *mut Str,
    cap: usize,
) -> usize {
    unsafe {
        with(l, req, 0, |slot| match slot.body_out() {
            Some(body) if !pieces.is_null() => {
                body.peek(std::slice::from_raw_parts_mut(pieces, cap))
            }
            _ => 0,
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_resp_consume(l: *mut Loop, req: u64, bytes: usize) {
    unsafe {
        with(l, req, (), |slot| {
            if let Some(body) = slot.body_out() {
                body.consume(bytes);
            }
        })
    }
}

/// # Safety
/// `l` is null or valid; `fields` is null or has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_resp_trailers(
    l: *mut Loop,
    req: u64,
    fields: *mut Field,
    cap: usize,
) -> usize {
    unsafe {
        with(l, req, 0, |slot| {
            slot.trailers
                .as_ref()
                .map_or(0, |t| fields::views_of(t, fields, cap))
        })
    }
}

/// # Safety
/// `l` is null or valid; `text` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_error(l: *mut Loop, req: u64, text: *mut Str) -> i32 {
    unsafe {
        with(l, req, 0, |slot| {
            let Some(fault) = &slot.fault else { return 0 };
            if let Some(text) = text.as_mut() {
                *text = Str::of(fault.text.trim_end().as_bytes());
            }
            fault.code as i32
        })
    }
}

/// # Safety
/// `l` is null or valid; `stats` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_stats(l: *mut Loop, req: u64, stats: *mut Stats) {
    unsafe {
        with(l, req, (), |slot| {
            if let Some(stats) = stats.as_mut() {
                *stats = slot.stats;
            }
        })
    }
}

/// # Safety
/// `l` is null or valid and of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_memory(l: *mut Loop, req: u64) -> u64 {
    unsafe { with(l, req, 0, |slot| slot.stats.memory_bytes) }
}

/// # Safety
/// `l` is null or valid and of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_release(l: *mut Loop, req: u64) {
    unsafe {
        export(null_mut(), (), || {
            if let Some(l) = l.as_mut() {
                l.release(req);
            }
            Ok(())
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_req_outbound(l: *mut Loop, req: u64) -> u64 {
    unsafe {
        export(null_mut(), 0, || {
            let Some(l) = l.as_mut() else { return Ok(0) };
            let core = l.core.clone();
            let Some(shared) = l.get(req).and_then(|slot| slot.shared.clone()) else {
                return Ok(0);
            };
            let mut exchange = lock(&shared.exchange);
            while let Some(id) = exchange.outbound.pop_front() {
                if lock(&core.outs).take(id) {
                    return Ok(id);
                }
            }
            Ok(0)
        })
    }
}
