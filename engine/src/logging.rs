//! wasi:logging/logging: a guest's lines with a level and a context, among its output and bounded with it.

use crate::output::LogLevel;
use crate::store::State;
use crate::waker::lock;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

/// It never had a release: toolchains name it without a version, or with that of its draft.
pub const NAMES: [&str; 2] = ["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"];

pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    for name in NAMES {
        linker.instance(name)?.func_wrap(
            "log",
            |s: StoreContextMut<'_, State>,
             (level, context, message): (LogLevel, String, String)| {
                lock(&s.data().shared.output).log(level, &context, &message);
                Ok(())
            },
        )?;
    }
    Ok(())
}
