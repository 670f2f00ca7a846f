//! mik-engine: Wasmtime behind the C header `include/engine.h`, which is the contract and the only way in.
//!
//! Guests run on the caller's thread: a request is one future, polled by `mik_req_run` with a waker of its loop. There
//! is no executor, no thread and no tokio runtime in here. See README.md for where to look.

pub mod abi;
mod abi_out;
mod abi_req;
mod body;
mod check;
mod cli;
mod clocks;
mod component;
mod config;
mod error;
pub mod ffi;
mod field_budget;
mod fields;
mod host;
mod link;
mod logging;
mod offered;
mod outbound;
mod output;
mod request;
mod reuse;
mod run;
mod settings;
mod slot;
mod slots;
mod store;
mod waker;

pub use abi::*;
pub use abi_out::*;
pub use abi_req::*;
pub use component::Component;
pub use config::Engine;
pub use slots::Loop;
