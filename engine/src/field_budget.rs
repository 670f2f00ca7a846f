//! What a guest may hold of HTTP fields, all sets together. Upstream bounds each set (`fields_bytes_max`) and the table
//! bounds their number, but the product of both is half a gigabyte of the host's memory that no limit counts.

use crate::error::Stop;
use crate::outbound::FutureResponse;
use crate::store::State;
use http::HeaderMap;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource};
use wasmtime_wasi_http::p2::HeaderResult;
use wasmtime_wasi_http::p2::bindings::http::types::{HeaderError, HostFields};
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap, WasiHttpView};

/// All sets of fields of one guest together.
pub const MAX: usize = 32 << 20;
/// So much may be added before what is held is counted again.
const COUNT_AFTER: usize = 1 << 20;
/// What a field costs beside its bytes.
const FIELD_COST: usize = 64;

type Cx<'a> = StoreContextMut<'a, State>;
type Done<T> = wasmtime::Result<(Result<T, HeaderError>,)>;

fn size(map: &HeaderMap) -> usize {
    map.iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_COST)
        .sum()
}

fn held(state: &mut State) -> usize {
    let mut total = 0;
    for entry in state.table.iter_mut() {
        if let Some(map) = entry.downcast_ref::<FieldMap>() {
            total += size(map);
        } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
            total += size(&request.headers);
        } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
            total += size(&response.headers);
        } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
            total += size(&response.headers);
        } else if let Some(future) = entry.downcast_ref::<FutureResponse>() {
            total += size(future.request_fields());
        }
    }
    total
}

/// So many bytes are about to be added.
fn charge(state: &mut State, bytes: usize) -> wasmtime::Result<()> {
    state.fields_added += bytes;
    if state.fields_added < COUNT_AFTER {
        return Ok(());
    }
    state.fields_added = 0;
    if held(state) > MAX {
        return Err(Stop::Fields.into());
    }
    Ok(())
}

fn done<T>(result: HeaderResult<T>) -> Done<T> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

/// Puts functions that charge in place of upstream's.
pub fn add_to_linker(l: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    l.func_wrap(
        "[static]fields.from-list",
        |mut s: Cx<'_>, (entries,): (Vec<(String, Vec<u8>)>,)| {
            let bytes = |(n, v): &(String, Vec<u8>)| n.len() + v.len() + FIELD_COST;
            charge(s.data_mut(), entries.iter().map(bytes).sum())?;
            done(HostFields::from_list(&mut s.data_mut().http(), entries))
        },
    )?;
    l.func_wrap(
        "[method]fields.append",
        |mut s: Cx<'_>, (id, name, value): (Resource<FieldMap>, String, Vec<u8>)| {
            charge(s.data_mut(), name.len() + value.len() + FIELD_COST)?;
            done(HostFields::append(
                &mut s.data_mut().http(),
                id,
                name,
                value,
            ))
        },
    )?;
    l.func_wrap(
        "[method]fields.set",
        |mut s: Cx<'_>, (id, name, values): (Resource<FieldMap>, String, Vec<Vec<u8>>)| {
            let bytes = |v: &Vec<u8>| v.len() + FIELD_COST;
            charge(
                s.data_mut(),
                name.len() + values.iter().map(bytes).sum::<usize>(),
            )?;
            done(HostFields::set(&mut s.data_mut().http(), id, name, values))
        },
    )?;
    l.func_wrap(
        "[method]fields.clone",
        |mut s: Cx<'_>, (id,): (Resource<FieldMap>,)| {
            // Shares its bytes until it is changed, and then has its own.
            let bytes = size(s.data_mut().table.get(&id)?);
            charge(s.data_mut(), bytes)?;
            Ok((HostFields::clone(&mut s.data_mut().http(), id)?,))
        },
    )
}
