//! The exported functions, part three: the outgoing requests of guests.

use crate::body::OutEnd;
use crate::error::export;
use crate::ffi::{BODY_NONE, BODY_STREAM, Field, HttpError, OutEvent, OutHead, Str};
use crate::fields;
use crate::outbound::{self, Xchg};
use crate::slots::Loop;
use crate::waker::lock;
use std::ptr::null_mut;

/// Runs `f` on the exchange; `none` for a null loop, a stale id, or a panic.
unsafe fn with<T: Copy>(l: *mut Loop, out: u64, none: T, f: impl FnOnce(&Xchg) -> T) -> T {
    unsafe {
        export(null_mut(), none, || {
            let Some(l) = l.as_ref() else { return Ok(none) };
            // Not under the lock: `f` may wake, or raise events.
            let xchg = lock(&l.core.outs).get(out);
            Ok(xchg.map_or(none, |x| f(&x)))
        })
    }
}

fn str_of(text: &str) -> Str {
    Str::of(text.as_bytes())
}

/// # Safety
/// `l` is null or valid; `head` is null or valid; `fields` is null or has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_head_get(
    l: *mut Loop,
    out: u64,
    head: *mut OutHead,
    fields: *mut Field,
    cap: usize,
) -> i32 {
    unsafe {
        with(l, out, -1, |xchg| {
            let field_count = fields::views_of(&xchg.fields, fields, cap);
            let empty = |b: &std::sync::Arc<crate::body::BodyOut>| {
                b.end() == OutEnd::Finished && !b.ready()
            };
            let no_body = xchg.body.as_ref().is_none_or(empty);
            if let Some(head) = head.as_mut() {
                *head = OutHead {
                    method: str_of(&xchg.method),
                    scheme: str_of(&xchg.scheme),
                    authority: str_of(&xchg.authority),
                    path_query: str_of(&xchg.path_query),
                    field_count,
                    content_length: fields::content_length_raw(&xchg.fields),
                    body: if no_body { BODY_NONE } else { BODY_STREAM },
                    reserved_: [0; 7],
                    connect_timeout_ns: xchg.timeouts_ns[0],
                    first_byte_timeout_ns: xchg.timeouts_ns[1],
                    between_bytes_timeout_ns: xchg.timeouts_ns[2],
                };
            }
            0
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_accept(l: *mut Loop, out: u64, user: u64) {
    unsafe {
        export(null_mut(), (), || {
            if let Some(l) = l.as_ref() {
                outbound::accept(&l.core, out, user);
            }
            Ok(())
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_refuse(l: *mut Loop, out: u64, http_error: i32) {
    unsafe {
        export(null_mut(), (), || {
            if let Some(l) = l.as_ref() {
                outbound::refuse(&l.core, out, HttpError::from_raw(http_error));
            }
            Ok(())
        })
    }
}

/// # Safety
/// `l` is null or valid; `events` has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_loop_out_events(
    l: *mut Loop,
    events: *mut OutEvent,
    cap: usize,
) -> usize {
    unsafe {
        export(null_mut(), 0, || {
            let Some(l) = l.as_ref() else { return Ok(0) };
            let mut n = 0;
            let mut outs = lock(&l.core.outs);
            while n < cap
                && !events.is_null()
                && let Some(event) = outs.next_event()
            {
                events.add(n).write(event);
                n += 1;
            }
            Ok(n)
        })
    }
}

/// # Safety
/// `l` is null or valid; `pieces` is null or has room for `cap`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_peek(
    l: *mut Loop,
    out: u64,
    pieces: *mut Str,
    cap: usize,
) -> usize {
    unsafe {
        with(l, out, 0, |xchg| match &xchg.body {
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
pub unsafe extern "C" fn mik_out_consume(l: *mut Loop, out: u64, bytes: usize) {
    unsafe {
        with(l, out, (), |xchg| {
            if let Some(body) = &xchg.body {
                body.consume(bytes);
            }
        })
    }
}

/// # Safety
/// `l` is null or valid; `fields` has `count` valid fields.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_respond(
    l: *mut Loop,
    out: u64,
    status: u16,
    fields: *const Field,
    count: usize,
) {
    unsafe {
        with(l, out, (), |xchg| {
            let head = fields::map_of(fields, count).map_err(|_| HttpError::ProtocolError);
            xchg.answer(head.map(|map| (status, map)));
        })
    }
}

/// # Safety
/// `l` is null or valid; `bytes` is valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_push(l: *mut Loop, out: u64, bytes: Str) -> i32 {
    unsafe { with(l, out, -1, |xchg| xchg.response_body.push(bytes.bytes())) }
}

/// # Safety
/// `l` is null or valid; `trailers` has `count` valid fields.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_end(l: *mut Loop, out: u64, trailers: *const Field, count: usize) {
    unsafe {
        with(l, out, (), |xchg| match fields::map_of(trailers, count) {
            Ok(map) => xchg.response_body.end((!map.is_empty()).then_some(map)),
            Err(_) => xchg.response_body.fail(HttpError::ProtocolError),
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_fail(l: *mut Loop, out: u64, http_error: i32) {
    unsafe {
        with(l, out, (), |xchg| {
            xchg.fail(HttpError::from_raw(http_error))
        })
    }
}

/// # Safety
/// `l` is null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mik_out_release(l: *mut Loop, out: u64) {
    unsafe {
        export(null_mut(), (), || {
            if let Some(l) = l.as_ref() {
                outbound::release(&l.core, out);
            }
            Ok(())
        })
    }
}
