//! wasi:cli and wasi:random: the environment of the component's options and nothing else, no arguments, a closed stdin,
//! output to the log. Made per call, so that a store costs nothing for them.

use crate::error::Stop;
use crate::output::LogStream;
use crate::store::State;
use rand::Rng;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::pipe::ClosedInputStream;
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream};

type Cx<'a> = StoreContextMut<'a, State>;

/// More than this in one call is a mistake of the guest.
const RANDOM_MAX: u64 = 16 << 20;

fn log_stream(state: &mut State, stream: i32) -> wasmtime::Result<Resource<DynOutputStream>> {
    let stream: DynOutputStream = Box::new(LogStream {
        shared: state.shared.clone(),
        stream,
    });
    Ok(state.table.push(stream)?)
}

fn random_bytes(count: u64) -> wasmtime::Result<(Vec<u8>,)> {
    if count > RANDOM_MAX {
        wasmtime::bail!(
            "{count} random bytes were asked for in one call, {RANDOM_MAX} is the limit"
        );
    }
    let mut bytes = vec![0; count as usize];
    rand::rng().fill_bytes(&mut bytes);
    Ok((bytes,))
}

fn environment(linker: &mut Linker<State>, version: &str) -> wasmtime::Result<()> {
    let mut l = linker.instance(&format!("wasi:cli/environment@{version}"))?;
    l.func_wrap("get-environment", |s: Cx<'_>, (): ()| {
        Ok((s.data().component.env.clone(),))
    })?;
    l.func_wrap("get-arguments", |_: Cx<'_>, (): ()| {
        Ok((Vec::<String>::new(),))
    })?;
    l.func_wrap("initial-cwd", |_: Cx<'_>, (): ()| Ok((None::<String>,)))?;
    let mut l = linker.instance(&format!("wasi:cli/exit@{version}"))?;
    l.func_wrap(
        "exit",
        |_: Cx<'_>, (status,): (Result<(), ()>,)| -> wasmtime::Result<()> {
            Err(Stop::Exit(status.is_err() as u8).into())
        },
    )?;
    l.func_wrap(
        "exit-with-code",
        |_: Cx<'_>, (code,): (u8,)| -> wasmtime::Result<()> { Err(Stop::Exit(code).into()) },
    )
}

fn stdio(linker: &mut Linker<State>, version: &str) -> wasmtime::Result<()> {
    linker
        .instance(&format!("wasi:cli/stdin@{version}"))?
        .func_wrap("get-stdin", |mut s: Cx<'_>, (): ()| {
            let stream: DynInputStream = Box::new(ClosedInputStream);
            Ok((s.data_mut().table.push(stream)?,))
        })?;
    linker
        .instance(&format!("wasi:cli/stdout@{version}"))?
        .func_wrap("get-stdout", |mut s: Cx<'_>, (): ()| {
            Ok((log_stream(s.data_mut(), 1)?,))
        })?;
    linker
        .instance(&format!("wasi:cli/stderr@{version}"))?
        .func_wrap("get-stderr", |mut s: Cx<'_>, (): ()| {
            Ok((log_stream(s.data_mut(), 2)?,))
        })
}

fn random(linker: &mut Linker<State>, version: &str) -> wasmtime::Result<()> {
    let mut l = linker.instance(&format!("wasi:random/random@{version}"))?;
    l.func_wrap("get-random-bytes", |_: Cx<'_>, (count,): (u64,)| {
        random_bytes(count)
    })?;
    l.func_wrap("get-random-u64", |_: Cx<'_>, (): ()| {
        Ok((rand::rng().next_u64(),))
    })?;
    let mut l = linker.instance(&format!("wasi:random/insecure@{version}"))?;
    l.func_wrap(
        "get-insecure-random-bytes",
        |_: Cx<'_>, (count,): (u64,)| random_bytes(count),
    )?;
    l.func_wrap("get-insecure-random-u64", |_: Cx<'_>, (): ()| {
        Ok((rand::rng().next_u64(),))
    })?;
    let mut l = linker.instance(&format!("wasi:random/insecure-seed@{version}"))?;
    l.func_wrap("insecure-seed", |_: Cx<'_>, (): ()| {
        Ok(((rand::rng().next_u64(), rand::rng().next_u64()),))
    })
}

pub fn add_to_linker(linker: &mut Linker<State>, version: &str) -> wasmtime::Result<()> {
    environment(linker, version)?;
    stdio(linker, version)?;
    random(linker, version)
}
