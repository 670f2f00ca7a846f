//! The linker: the whole WASI 0.2 set that ordinary guests import, settings and logging. Of each interface of WASI 0.2
//! one version is defined, the newest upstream has; Wasmtime resolves every other 0.2.x to it.

use crate::outbound;
use crate::store::State;
use crate::{cli, clocks, field_budget, host, logging, settings};
use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime::{Engine, StoreContextMut};
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::p2::bindings as wasi;
use wasmtime_wasi::p2::{DynOutputStream, Network, StreamError};
use wasmtime_wasi::sockets::{WasiSockets, WasiSocketsView};
use wasmtime_wasi_http::p2::bindings as wasi_http;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};
use wasmtime_wasi_io::bindings::wasi::io;

/// The version under which everything is defined.
pub const VERSION: &str = "0.2.12";

/// More than this is not written in one blocking call.
const ZEROES_MAX: u64 = 16 << 20;

type Cx<'a> = StoreContextMut<'a, State>;
type Done<'a, T> = Box<dyn Future<Output = wasmtime::Result<T>> + Send + 'a>;
type Written = (Result<(), io::streams::StreamError>,);

struct HasTable;
impl HasData for HasTable {
    type Data<'a> = &'a mut ResourceTable;
}

/// The 4096 bytes that upstream allows in one blocking write trap guests which write a body in one call: lifted.
fn blocking_write(
    mut s: Cx<'_>,
    stream: Resource<DynOutputStream>,
    bytes: bytes::Bytes,
) -> Done<'_, Written> {
    Box::new(async move {
        let table = &mut s.data_mut().table;
        let result = table
            .get_mut(&stream)?
            .blocking_write_and_flush(bytes)
            .await;
        Ok((match result {
            Ok(()) => Ok(()),
            Err(StreamError::Closed) => Err(io::streams::StreamError::Closed),
            Err(StreamError::LastOperationFailed(e)) => Err(
                io::streams::StreamError::LastOperationFailed(table.push(e)?),
            ),
            Err(StreamError::Trap(e)) => return Err(e),
        },))
    })
}

fn add_io(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    io::error::add_to_linker::<State, HasTable>(linker, |s| &mut s.table)?;
    io::poll::add_to_linker::<State, HasTable>(linker, |s| &mut s.table)?;
    io::streams::add_to_linker::<State, HasTable>(linker, |s| &mut s.table)?;
    let mut l = linker.instance(&format!("wasi:io/streams@{VERSION}"))?;
    l.func_wrap_async(
        "[method]output-stream.blocking-write-and-flush",
        |s: Cx<'_>, (stream, bytes): (Resource<DynOutputStream>, Vec<u8>)| {
            blocking_write(s, stream, bytes.into())
        },
    )?;
    l.func_wrap_async(
        "[method]output-stream.blocking-write-zeroes-and-flush",
        |s: Cx<'_>, (stream, count): (Resource<DynOutputStream>, u64)| {
            if count > ZEROES_MAX {
                return Box::new(async move {
                    Err(wasmtime::format_err!("{count} zeroes in one write"))
                });
            }
            blocking_write(s, stream, vec![0; count as usize].into())
        },
    )
}

fn add_denied(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    use wasi::{cli, filesystem, sockets};
    cli::terminal_input::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(linker, State::cli)?;
    filesystem::preopens::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;
    filesystem::types::add_to_linker::<State, WasiFilesystem>(linker, State::filesystem)?;
    let options = wasi::LinkOptions::default();
    sockets::network::add_to_linker::<State, WasiSockets>(
        linker,
        &(&options).into(),
        State::sockets,
    )?;
    sockets::instance_network::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    sockets::ip_name_lookup::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    // Refused here: upstream's future belongs to a tokio runtime.
    linker
        .instance(&format!("wasi:sockets/ip-name-lookup@{VERSION}"))?
        .func_wrap(
            "resolve-addresses",
            |_: Cx<'_>, (_network, _name): (Resource<Network>, String)| {
                let refused: Result<Resource<sockets::ip_name_lookup::ResolveAddressStream>, _> =
                    Err(sockets::network::ErrorCode::PermanentResolverFailure);
                Ok((refused,))
            },
        )?;
    sockets::tcp_create_socket::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    sockets::tcp::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    sockets::udp_create_socket::add_to_linker::<State, WasiSockets>(linker, State::sockets)?;
    sockets::udp::add_to_linker::<State, WasiSockets>(linker, State::sockets)
}

fn add_http(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let options = wasi_http::LinkOptions::default();
    wasi_http::http::types::add_to_linker::<_, WasiHttp>(linker, &(&options).into(), State::http)?;
    let mut types = linker.instance(&format!("wasi:http/types@{VERSION}"))?;
    field_budget::add_to_linker(&mut types)?;
    host::add_to_linker(&mut types)?;
    outbound::add_types_to_linker(&mut types)?;
    outbound::add_handler_to_linker(
        &mut linker.instance(&format!("wasi:http/outgoing-handler@{VERSION}"))?,
    )
}

pub fn linker(engine: &Engine) -> wasmtime::Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    linker.allow_shadowing(true);
    add_io(&mut linker)?;
    clocks::add_to_linker(&mut linker, VERSION)?;
    cli::add_to_linker(&mut linker, VERSION)?;
    add_denied(&mut linker)?;
    add_http(&mut linker)?;
    settings::add_to_linker(&mut linker)?;
    logging::add_to_linker(&mut linker)?;
    Ok(linker)
}
