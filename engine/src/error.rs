//! Failures: a stable code and a text for the operator; how a Wasmtime error becomes one; panics.

use crate::ffi::{Code, Err};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What went wrong, in the terms of `mik_err`.
#[derive(Debug, Clone)]
pub struct Fault {
    pub code: Code,
    pub text: String,
}

impl Fault {
    pub fn new(code: Code, text: impl Into<String>) -> Fault {
        Fault {
            code,
            text: text.into(),
        }
    }

    pub fn invalid(text: &str) -> Fault {
        Fault::new(Code::Invalid, text)
    }

    /// # Safety
    /// `err` is null or points to a `mik_err` that may be written.
    pub unsafe fn put(&self, err: *mut Err) {
        if let Some(err) = unsafe { err.as_mut() } {
            err.code = self.code as i32;
            let text = self.text.trim_end().replace('\0', " ");
            let mut n = text.len().min(err.text.len() - 1);
            while !text.is_char_boundary(n) {
                n -= 1;
            }
            err.text[..n].copy_from_slice(&text.as_bytes()[..n]);
            err.text[n] = 0;
        }
    }
}

/// Why the host itself ended a guest. Travels as the source of a `wasmtime::Error`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    Cpu,
    Fields,
    Exit(u8),
}

impl std::fmt::Display for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stop::Cpu => f.write_str("the guest used up its CPU budget"),
            Stop::Fields => write!(
                f,
                "the guest holds more than {} bytes of HTTP fields",
                crate::field_budget::MAX
            ),
            Stop::Exit(status) => write!(f, "the guest called wasi:cli/exit with status {status}"),
        }
    }
}

impl std::error::Error for Stop {}

/// Turns the error of an instantiation or a call into a fault. `refused`: a growth of memory or tables was denied to
/// this guest before, which is then taken to be the reason of whatever followed.
pub fn classify(error: &wasmtime::Error, refused: Option<(Code, String)>) -> Fault {
    let text = describe(error);
    let code = if let Some(stop) = error.downcast_ref::<Stop>() {
        match stop {
            Stop::Cpu => Code::Cpu,
            Stop::Fields => Code::HostLimit,
            Stop::Exit(_) => Code::Exit,
        }
    } else if error.is::<wasmtime::PoolConcurrencyLimitError>() {
        Code::Busy
    } else if let Some((code, growth)) = refused {
        return Fault::new(code, format!("{growth}; then {text}"));
    } else if matches!(error.downcast_ref(), Some(wasmtime::Trap::StackOverflow)) {
        Code::Stack
    } else if is_host_limit(error, &text) {
        Code::HostLimit
    } else {
        Code::Trap
    };
    Fault::new(code, text)
}

/// The reason first, then where in the guest. Never {:?} of an error: with RUST_BACKTRACE set that symbolises host frames
/// on the loop thread, for 100 ms.
fn describe(error: &wasmtime::Error) -> String {
    let (mut reasons, mut places) = (Vec::new(), String::new());
    for cause in error.chain().map(|e| e.to_string()) {
        match cause.strip_prefix("error while executing at wasm backtrace:") {
            Some(backtrace) => places = format!("\nin the guest, innermost first:{backtrace}"),
            None => reasons.push(cause),
        }
    }
    reasons.join(": ") + &places
}

fn is_host_limit(error: &wasmtime::Error, text: &str) -> bool {
    use wasmtime::component::ResourceTableError;
    matches!(error.downcast_ref(), Some(ResourceTableError::Full))
        || text.contains("fuel allocated for hostcalls has been exhausted")
        || text.contains("resource table has no free keys")
        || text.contains("a body that is not on its way")
}

thread_local! {
    static INSIDE: Cell<u32> = const { Cell::new(0) };
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the message of a panic for the fault that it becomes; panics that are not ours go to the hook before.
fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if INSIDE.get() == 0 {
                return before(info);
            }
            let what = info.payload_as_str().unwrap_or("a value that is no text");
            let at = info
                .location()
                .map(|l| format!(" at {}:{}", l.file(), l.line()))
                .unwrap_or_default();
            let _ = PANIC
                .try_with(|p| *p.borrow_mut() = Some(format!("panic in the engine: {what}{at}")));
        }));
    });
}

struct Inside;
impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(INSIDE.get() - 1);
    }
}

/// Runs `f`; a panic becomes a fault.
pub fn guard<T>(f: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    install_hook();
    INSIDE.set(INSIDE.get() + 1);
    let inside = Inside;
    let caught = catch_unwind(AssertUnwindSafe(f));
    drop(inside);
    caught.unwrap_or_else(|payload| {
        // The payload's own drop may panic.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        let text = PANIC.take().unwrap_or_else(|| "panic in the engine".into());
        Err(Fault::new(Code::Panic, text))
    })
}

/// The body of an exported function: `f`'s value, or `failed` with `err` filled in.
///
/// # Safety
/// `err` is null or points to a `mik_err` that may be written.
pub unsafe fn export<T>(err: *mut Err, failed: T, f: impl FnOnce() -> Result<T, Fault>) -> T {
    match guard(f) {
        Ok(value) => value,
        Err(fault) => {
            unsafe { fault.put(err) };
            failed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_fault_with_its_message() {
        let fault = guard::<()>(|| panic!("number {}", 42)).unwrap_err();
        assert_eq!(fault.code, Code::Panic);
        assert!(
            fault.text.contains("number 42") && fault.text.contains("error.rs"),
            "{}",
            fault.text
        );
        struct Worse;
        impl Drop for Worse {
            fn drop(&mut self) {
                panic!("again")
            }
        }
        let fault = guard::<()>(|| std::panic::panic_any(Worse)).unwrap_err();
        assert_eq!(fault.code, Code::Panic);
        assert_eq!(guard(|| Ok(5)).unwrap(), 5);
    }

    #[test]
    fn texts_are_cut_at_a_character_and_end_in_nul() {
        let mut err = Err::default();
        unsafe { Fault::new(Code::Trap, "\u{e9}".repeat(3000)).put(&mut err) };
        let n = err.text.iter().position(|b| *b == 0).unwrap();
        assert_eq!(n, 2042);
        assert!(std::str::from_utf8(&err.text[..n]).is_ok());
        unsafe { Fault::new(Code::Trap, "a\0b\n\n").put(&mut err) };
        assert!(err.text.starts_with(b"a b\0"));
        unsafe { Fault::new(Code::Trap, "nowhere").put(std::ptr::null_mut()) };
    }
}
