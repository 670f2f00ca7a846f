//! The parts of wasi:http that are our own: the incoming request (made lazily from the head's one buffer), the response
//! outparam, and outgoing bodies, whose end we must see. The rest of wasi:http/types is upstream's.

use crate::body::{BodyIn, BodyOut, InReader, OutBody, OutStream};
use crate::fields::{content_length, is_hop_by_hop};
use crate::request::HeadIn;
use crate::store::{Response, State};
use crate::waker::lock;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::p2::DynOutputStream;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Method, Scheme};
use wasmtime_wasi_http::p2::body::{HostIncomingBody, HyperOutgoingBody};
use wasmtime_wasi_http::p2::types::{HostOutgoingRequest, HostOutgoingResponse};
use wasmtime_wasi_http::{FieldMap, WasiHttpView};

type Cx<'a> = StoreContextMut<'a, State>;

/// The incoming-request resource.
pub struct InRequest {
    pub head: Option<Arc<HeadIn>>,
    pub fields: Option<FieldMap>,
    pub body: Option<InBody>,
}

/// The body before the guest asks for it. Not asked for, it goes with the request.
pub enum InBody {
    Empty,
    Stream(InReader),
}

impl InBody {
    pub fn new(shared: Option<Arc<BodyIn>>) -> InBody {
        shared.map_or(InBody::Empty, |s| InBody::Stream(InReader(s)))
    }
}

/// The response-outparam resource. `serial` is the request it belongs to.
pub struct Outparam {
    pub serial: u32,
}

pub fn drop_in_table<T: 'static>(
    linker: &mut LinkerInstance<'_, State>,
    name: &str,
) -> wasmtime::Result<()> {
    linker.resource(name, ResourceType::host::<T>(), |mut s, rep| {
        s.data_mut().table.delete(Resource::<T>::new_own(rep))?;
        Ok(())
    })
}

fn head(s: &mut Cx<'_>, id: &Resource<InRequest>) -> wasmtime::Result<Arc<HeadIn>> {
    let request = s.data_mut().table.get(id)?;
    request
        .head
        .clone()
        .ok_or_else(|| wasmtime::format_err!("this incoming-request is over"))
}

fn method(name: &[u8]) -> Method {
    match name {
        b"GET" => Method::Get,
        b"HEAD" => Method::Head,
        b"POST" => Method::Post,
        b"PUT" => Method::Put,
        b"DELETE" => Method::Delete,
        b"CONNECT" => Method::Connect,
        b"OPTIONS" => Method::Options,
        b"TRACE" => Method::Trace,
        b"PATCH" => Method::Patch,
        other => Method::Other(String::from_utf8_lossy(other).into_owned()),
    }
}

/// The request's fields as the guest sees them: values are slices of the head's buffer.
fn fields(head: &HeadIn) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(head.field_count());
    for (name, value) in head.fields() {
        // mik_req_start has checked them.
        let Ok(name) = HeaderName::from_bytes(name) else {
            continue;
        };
        if is_hop_by_hop(&name) {
            continue;
        }
        if let Ok(value) = HeaderValue::from_maybe_shared(value) {
            let _ = map.try_append(name, value);
        }
    }
    map
}

fn request_headers(
    s: &mut Cx<'_>,
    id: &Resource<InRequest>,
) -> wasmtime::Result<Resource<FieldMap>> {
    let head = head(s, id)?;
    let made = match &s.data_mut().table.get(id)?.fields {
        Some(made) => made.clone(),
        None => FieldMap::new_immutable(s.data_mut().http().hooks, fields(&head)),
    };
    let table = &mut s.data_mut().table;
    table.get_mut(id)?.fields = Some(made.clone());
    Ok(table.push(made)?)
}

fn consume(
    s: &mut Cx<'_>,
    id: &Resource<InRequest>,
) -> wasmtime::Result<Result<Resource<HostIncomingBody>, ()>> {
    let table = &mut s.data_mut().table;
    let Some(body) = table.get_mut(id)?.body.take() else {
        return Ok(Err(()));
    };
    let body = match body {
        InBody::Stream(reader) => reader.boxed_unsync(),
        InBody::Empty => http_body_util::Empty::new()
            .map_err(|never| match never {})
            .boxed_unsync(),
    };
    Ok(Ok(table.push(HostIncomingBody::new(body))?))
}

fn incoming_request(l: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    drop_in_table::<InRequest>(l, "incoming-request")?;
    l.func_wrap(
        "[method]incoming-request.method",
        |mut s: Cx<'_>, (id,): (Resource<InRequest>,)| Ok((method(head(&mut s, &id)?.method()),)),
    )?;
    l.func_wrap(
        "[method]incoming-request.path-with-query",
        |mut s: Cx<'_>, (id,): (Resource<InRequest>,)| {
            Ok((Some(
                String::from_utf8_lossy(head(&mut s, &id)?.path_query()).into_owned(),
            ),))
        },
    )?;
    l.func_wrap(
        "[method]incoming-request.scheme",
        |mut s: Cx<'_>, (id,): (Resource<InRequest>,)| {
            let https = head(&mut s, &id)?.https;
            Ok((Some(if https { Scheme::Https } else { Scheme::Http }),))
        },
    )?;
    l.func_wrap(
        "[method]incoming-request.authority",
        |mut s: Cx<'_>, (id,): (Resource<InRequest>,)| {
            Ok((Some(
                String::from_utf8_lossy(head(&mut s, &id)?.authority()).into_owned(),
            ),))
        },
    )?;
    l.func_wrap(
        "[method]incoming-request.headers",
        |mut s: Cx<'_>, (id,): (Resource<InRequest>,)| Ok((request_headers(&mut s, &id)?,)),
    )?;
    l.func_wrap(
        "[method]incoming-request.consume",
        |mut s: Cx<'_>, (id,): (Resource<InRequest>,)| Ok((consume(&mut s, &id)?,)),
    )
}

type Set = (
    Resource<Outparam>,
    Result<Resource<HostOutgoingResponse>, ErrorCode>,
);

fn set_response(state: &mut State, (param, response): Set) -> wasmtime::Result<()> {
    let response = match response {
        Err(code) => Err(code),
        Ok(id) => {
            let rep = id.rep();
            let response = state.table.delete(id)?;
            let body = State::take_body(&mut state.response_bodies, rep)
                .filter(|_| response.body.is_some());
            if let Some(body) = &body {
                body.depart();
            }
            Ok(Response {
                status: response.status.as_u16(),
                fields: response.headers.into(),
                body,
            })
        }
    };
    let param = state.table.delete(param)?;
    if param.serial == state.serial {
        lock(&state.shared.exchange).response = Some(response);
    }
    Ok(())
}

/// Stands in upstream's outgoing messages for "the body was asked for".
fn body_taken() -> HyperOutgoingBody {
    http_body_util::Empty::new()
        .map_err(|never| match never {})
        .boxed_unsync()
}

type MadeBody = wasmtime::Result<Result<Resource<OutBody>, ()>>;

fn response_body(state: &mut State, id: Resource<HostOutgoingResponse>) -> MadeBody {
    let response = state.table.get_mut(&id)?;
    if response.body.is_some() {
        return Ok(Err(()));
    }
    let Ok(length) = content_length(&response.headers) else {
        return Ok(Err(()));
    };
    response.body = Some(body_taken());
    let shared = BodyOut::new(
        length.filter(|_| !state.head_request),
        false,
        state.early.clone(),
    );
    State::keep_body(&mut state.response_bodies, id.rep(), shared.clone());
    Ok(Ok(state.table.push(OutBody {
        shared,
        stream_taken: false,
    })?))
}

fn request_body(state: &mut State, id: Resource<HostOutgoingRequest>) -> MadeBody {
    let request = state.table.get_mut(&id)?;
    if request.body.is_some() {
        return Ok(Err(()));
    }
    let Ok(length) = content_length(&request.headers) else {
        return Ok(Err(()));
    };
    request.body = Some(body_taken());
    let shared = BodyOut::new(length, true, state.early.clone());
    State::keep_body(&mut state.request_bodies, id.rep(), shared.clone());
    Ok(Ok(state.table.push(OutBody {
        shared,
        stream_taken: false,
    })?))
}

fn body_write(
    state: &mut State,
    id: Resource<OutBody>,
) -> wasmtime::Result<Result<Resource<DynOutputStream>, ()>> {
    let body = state.table.get_mut(&id)?;
    if std::mem::replace(&mut body.stream_taken, true) {
        return Ok(Err(()));
    }
    let stream: DynOutputStream = Box::new(OutStream(body.shared.clone()));
    Ok(Ok(state.table.push_child(stream, &id)?))
}

fn body_finish(
    state: &mut State,
    id: Resource<OutBody>,
    trailers: Option<Resource<FieldMap>>,
) -> wasmtime::Result<Result<(), ErrorCode>> {
    let body = state.table.delete(id)?;
    let trailers = match trailers {
        Some(id) => Some(state.table.delete(id)?.into()),
        None => None,
    };
    Ok(body.shared.finish(trailers))
}

fn outgoing_body(l: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    l.resource(
        "outgoing-body",
        ResourceType::host::<OutBody>(),
        |mut s, rep| {
            let body = s
                .data_mut()
                .table
                .delete(Resource::<OutBody>::new_own(rep))?;
            body.shared.abort();
            Ok(())
        },
    )?;
    l.func_wrap(
        "[method]outgoing-response.body",
        |mut s: Cx<'_>, (id,): (Resource<HostOutgoingResponse>,)| {
            Ok((response_body(s.data_mut(), id)?,))
        },
    )?;
    l.func_wrap(
        "[method]outgoing-request.body",
        |mut s: Cx<'_>, (id,): (Resource<HostOutgoingRequest>,)| {
            Ok((request_body(s.data_mut(), id)?,))
        },
    )?;
    l.func_wrap(
        "[method]outgoing-body.write",
        |mut s: Cx<'_>, (id,): (Resource<OutBody>,)| Ok((body_write(s.data_mut(), id)?,)),
    )?;
    l.func_wrap(
        "[static]outgoing-body.finish",
        |mut s: Cx<'_>, (id, trailers): (Resource<OutBody>, Option<Resource<FieldMap>>)| {
            Ok((body_finish(s.data_mut(), id, trailers)?,))
        },
    )
}

/// Puts our parts in place of upstream's, which must be in the linker already.
pub fn add_to_linker(l: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    incoming_request(l)?;
    drop_in_table::<Outparam>(l, "response-outparam")?;
    l.func_wrap(
        "[static]response-outparam.set",
        |mut s: Cx<'_>, set: Set| set_response(s.data_mut(), set),
    )?;
    outgoing_body(l)
}
