//! wasi:http/outgoing-handler: the guest waits inside `handle` until C++ accepts or refuses; then the exchange has two
//! bodies and a head that C++ fills. No task, no thread: the guest's futures poll shared state.

use crate::body::{BodyIn, BodyOut, InReader};
use crate::ffi::{self, HttpError, OUT_DROPPED};
use crate::fields::{content_length, error_code};
use crate::host::drop_in_table;
use crate::store::State;
use crate::waker::{LoopCore, lock};
use http::HeaderMap;
use http_body_util::BodyExt;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource};
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Method, Scheme};
use wasmtime_wasi_http::p2::body::HostIncomingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingResponse, HostOutgoingRequest};
use wasmtime_wasi_http::{FieldMap, RequestOptions, WasiHttpView};
use wasmtime_wasi_io::async_trait;

type Cx<'a> = StoreContextMut<'a, State>;

/// Where the bodies of an exchange say what happened to them.
pub struct Notify {
    core: Arc<LoopCore>,
    out: u64,
}

impl Notify {
    pub fn raise(&self, bits: u32) {
        lock(&self.core.outs).raise(self.out, bits);
    }
}

#[derive(Clone, Copy)]
enum Decision {
    Open,
    Accepted,
    Refused(HttpError),
}

enum Answer {
    Waiting,
    Here(Result<(u16, HeaderMap), HttpError>),
    /// The guest has it.
    Taken,
}

struct Progress {
    decision: Decision,
    answer: Answer,
    waker: Option<Waker>,
}

/// One outgoing request and its response.
pub struct Xchg {
    pub method: String,
    pub scheme: String,
    pub authority: String,
    pub path_query: String,
    pub fields: HeaderMap,
    pub timeouts_ns: [u64; 3],
    pub body: Option<Arc<BodyOut>>,
    pub response_body: Arc<BodyIn>,
    progress: Mutex<Progress>,
}

impl Xchg {
    fn decide(&self, decision: Decision) {
        let mut p = lock(&self.progress);
        if matches!(p.decision, Decision::Open) {
            p.decision = decision;
        }
        let waker = p.waker.take();
        drop(p);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll_decision(&self, cx: &Context<'_>) -> Poll<Result<(), HttpError>> {
        let mut p = lock(&self.progress);
        match p.decision {
            Decision::Open => {
                p.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Decision::Accepted => Poll::Ready(Ok(())),
            Decision::Refused(error) => Poll::Ready(Err(error)),
        }
    }

    fn poll_answer(&self, cx: &Context<'_>) -> Poll<()> {
        let mut p = lock(&self.progress);
        if matches!(p.answer, Answer::Waiting) {
            p.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// False when there was an answer already.
    pub fn answer(&self, answer: Result<(u16, HeaderMap), HttpError>) -> bool {
        let mut p = lock(&self.progress);
        if !matches!(p.answer, Answer::Waiting) {
            return false;
        }
        if answer.is_err() {
            // No body will come, and the guest's dropping the reader is no news.
            self.response_body.end(None);
        }
        p.answer = Answer::Here(answer);
        let waker = p.waker.take();
        drop(p);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Before the answer: it is the error. After it: the body breaks with the error.
    pub fn fail(&self, error: HttpError) {
        if !self.answer(Err(error)) {
            self.response_body.fail(error);
        }
    }
}

#[derive(Default)]
struct Entry {
    generation: u32,
    xchg: Option<Arc<Xchg>>,
    user: u64,
    bits: u32,
    queued: bool,
    accepted: bool,
    taken: bool,
}

/// The exchanges of one loop, by slot and generation.
#[derive(Default)]
pub struct Outs {
    entries: Vec<Entry>,
    free: Vec<u32>,
    events: VecDeque<u64>,
}

impl Outs {
    /// A place for an exchange, whose id is needed to make it.
    fn reserve(&mut self) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry {
                generation: 1,
                ..Entry::default()
            });
            self.entries.len() as u32 - 1
        });
        (self.entries[slot as usize].generation as u64) << 32 | slot as u64
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        self.entries
            .get_mut(id as u32 as usize)
            .filter(|e| e.generation == (id >> 32) as u32 && e.xchg.is_some())
    }

    pub fn get(&mut self, id: u64) -> Option<Arc<Xchg>> {
        self.entry(id)?.xchg.clone()
    }

    fn raise(&mut self, id: u64, bits: u32) {
        let Some(entry) = self.entry(id) else { return };
        if bits & OUT_DROPPED != 0 && !entry.taken {
            // Nobody knows of it.
            self.remove(id);
            return;
        }
        entry.bits |= bits;
        if entry.accepted && !std::mem::replace(&mut entry.queued, true) {
            self.events.push_back(id);
        }
    }

    /// C++ learns of the exchange; false when it is gone already.
    pub fn take(&mut self, id: u64) -> bool {
        self.entry(id).map(|e| e.taken = true).is_some()
    }

    pub fn next_event(&mut self) -> Option<ffi::OutEvent> {
        loop {
            let id = self.events.pop_front()?;
            let Some(entry) = self.entry(id) else {
                continue;
            };
            entry.queued = false;
            let bits = std::mem::take(&mut entry.bits);
            return Some(ffi::OutEvent {
                out: id,
                user: entry.user,
                bits,
                reserved_: 0,
            });
        }
    }

    pub fn remove(&mut self, id: u64) -> Option<Arc<Xchg>> {
        let entry = self.entry(id)?;
        let xchg = entry.xchg.take();
        *entry = Entry {
            generation: entry.generation.wrapping_add(1).max(1),
            ..Entry::default()
        };
        self.free.push(id as u32);
        xchg
    }

    pub fn ids(&self) -> Vec<u64> {
        let live = self
            .entries
            .iter()
            .enumerate()
            .filter(|(_, e)| e.xchg.is_some());
        live.map(|(slot, e)| (e.generation as u64) << 32 | slot as u64)
            .collect()
    }
}

pub fn accept(core: &LoopCore, id: u64, user: u64) {
    let Some(xchg) = lock(&core.outs).get(id) else {
        return;
    };
    if let Some(entry) = lock(&core.outs).entry(id) {
        entry.accepted = true;
        entry.user = user;
    }
    lock(&core.outs).raise_pending(id);
    xchg.decide(Decision::Accepted);
}

pub fn refuse(core: &LoopCore, id: u64, error: HttpError) {
    let Some(xchg) = lock(&core.outs).remove(id) else {
        return;
    };
    xchg.decide(Decision::Refused(error));
}

/// The guest is over and its instance is kept: what it still holds of the exchange is dead.
pub fn abandon(core: &LoopCore, id: u64) {
    let Some(xchg) = lock(&core.outs).get(id) else {
        return;
    };
    if let Some(body) = &xchg.body {
        body.settle_left_behind();
    }
    xchg.response_body.close();
}

/// C++ is through with it: whoever still waits gets an error.
pub fn release(core: &LoopCore, id: u64) {
    let Some(xchg) = lock(&core.outs).remove(id) else {
        return;
    };
    xchg.decide(Decision::Refused(HttpError::InternalError));
    xchg.fail(HttpError::InternalError);
    if let Some(body) = &xchg.body {
        body.close();
    }
}

impl Outs {
    /// Queues what was raised before the exchange was accepted.
    fn raise_pending(&mut self, id: u64) {
        if let Some(entry) = self.entry(id)
            && entry.bits != 0
            && !std::mem::replace(&mut entry.queued, true)
        {
            self.events.push_back(id);
        }
    }
}

fn method_text(method: Method) -> String {
    match method {
        Method::Get => "GET".into(),
        Method::Head => "HEAD".into(),
        Method::Post => "POST".into(),
        Method::Put => "PUT".into(),
        Method::Delete => "DELETE".into(),
        Method::Connect => "CONNECT".into(),
        Method::Options => "OPTIONS".into(),
        Method::Trace => "TRACE".into(),
        Method::Patch => "PATCH".into(),
        Method::Other(other) => other,
    }
}

fn scheme_text(scheme: Option<Scheme>) -> String {
    match scheme {
        None => String::new(),
        Some(Scheme::Http) => "http".into(),
        Some(Scheme::Https) => "https".into(),
        Some(Scheme::Other(other)) => other,
    }
}

/// A begun exchange: what the guest holds of it while it waits in `handle` and afterwards.
struct Begun {
    xchg: Arc<Xchg>,
    reader: InReader,
}

type Handled<T> = wasmtime::Result<Result<T, ErrorCode>>;

fn begin(
    state: &mut State,
    request: Resource<HostOutgoingRequest>,
    options: Option<Resource<RequestOptions>>,
) -> Handled<Begun> {
    let options = match options {
        Some(id) => state.table.delete(id)?,
        None => RequestOptions::default(),
    };
    let rep = request.rep();
    let request = state.table.delete(request)?;
    let body = State::take_body(&mut state.request_bodies, rep).filter(|_| request.body.is_some());
    let Ok(length) = content_length(&request.headers) else {
        return Ok(Err(ErrorCode::HttpProtocolError));
    };
    if body.is_none() && length.is_some_and(|n| n != 0) {
        return Ok(Err(ErrorCode::HttpRequestBodySize(Some(0))));
    }
    let timeout = |t: Option<std::time::Duration>| {
        t.map_or(ffi::NEVER, |t| {
            u64::try_from(t.as_nanos()).unwrap_or(ffi::NEVER - 1)
        })
    };
    let id = lock(&state.core.outs).reserve();
    let notify = || Notify {
        core: state.core.clone(),
        out: id,
    };
    let xchg = Arc::new(Xchg {
        method: method_text(request.method),
        scheme: scheme_text(request.scheme),
        authority: request.authority.unwrap_or_default(),
        path_query: request.path_with_query.unwrap_or_default(),
        fields: request.headers.into(),
        timeouts_ns: [
            options.connect_timeout,
            options.first_byte_timeout,
            options.between_bytes_timeout,
        ]
        .map(timeout),
        body,
        response_body: BodyIn::new(Some(notify())),
        progress: Mutex::new(Progress {
            decision: Decision::Open,
            answer: Answer::Waiting,
            waker: None,
        }),
    });
    lock(&state.core.outs).entries[id as u32 as usize].xchg = Some(xchg.clone());
    if let Some(body) = &xchg.body {
        body.set_notify(notify());
    }
    let mut exchange = lock(&state.shared.exchange);
    exchange.outbound.push_back(id);
    exchange.outbound_begun += 1;
    exchange.outbound_ids.push(id);
    let reader = InReader(xchg.response_body.clone());
    Ok(Ok(Begun { xchg, reader }))
}

type Handle = (
    Resource<HostOutgoingRequest>,
    Option<Resource<RequestOptions>>,
);
type HandleResult = (Result<Resource<FutureResponse>, ErrorCode>,);

async fn handle(mut s: Cx<'_>, (request, options): Handle) -> wasmtime::Result<HandleResult> {
    let begun = match begin(s.data_mut(), request, options)? {
        Ok(begun) => begun,
        Err(code) => return Ok((Err(code),)),
    };
    if let Err(error) = poll_fn(|cx| begun.xchg.poll_decision(cx)).await {
        return Ok((Err(error_code(error)),));
    }
    let future = FutureResponse {
        xchg: begun.xchg,
        reader: Some(begun.reader),
    };
    Ok((Ok(s.data_mut().table.push(future)?),))
}

/// The future-incoming-response resource. Dropping its reader tells C++ that nobody waits.
pub struct FutureResponse {
    xchg: Arc<Xchg>,
    reader: Option<InReader>,
}

impl FutureResponse {
    pub fn request_fields(&self) -> &HeaderMap {
        &self.xchg.fields
    }
}

#[async_trait]
impl Pollable for FutureResponse {
    async fn ready(&mut self) {
        poll_fn(|cx| self.xchg.poll_answer(cx)).await
    }
}

type Got = Option<Result<Result<Resource<HostIncomingResponse>, ErrorCode>, ()>>;

fn get(state: &mut State, id: Resource<FutureResponse>) -> wasmtime::Result<Got> {
    let future = state.table.get_mut(&id)?;
    let answer = {
        let mut p = lock(&future.xchg.progress);
        if matches!(p.answer, Answer::Waiting) {
            return Ok(None);
        }
        std::mem::replace(&mut p.answer, Answer::Taken)
    };
    let reader = future.reader.take();
    let (status, fields) = match answer {
        Answer::Here(Ok(head)) => head,
        Answer::Here(Err(error)) => return Ok(Some(Ok(Err(error_code(error))))),
        _ => return Ok(Some(Err(()))),
    };
    let headers = FieldMap::new_immutable(state.http().hooks, fields);
    let body = reader.map(|r| HostIncomingBody::new(r.boxed_unsync()));
    let response = state.table.push(HostIncomingResponse {
        status,
        headers,
        body,
    })?;
    Ok(Some(Ok(Ok(response))))
}

fn subscribe_response(
    state: &mut State,
    id: Resource<FutureResponse>,
) -> wasmtime::Result<Resource<DynPollable>> {
    subscribe(&mut state.table, id)
}

pub fn add_types_to_linker(l: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    drop_in_table::<FutureResponse>(l, "future-incoming-response")?;
    l.func_wrap(
        "[method]future-incoming-response.subscribe",
        |mut s: Cx<'_>, (id,): (Resource<FutureResponse>,)| {
            Ok((subscribe_response(s.data_mut(), id)?,))
        },
    )?;
    l.func_wrap(
        "[method]future-incoming-response.get",
        |mut s: Cx<'_>, (id,): (Resource<FutureResponse>,)| Ok((get(s.data_mut(), id)?,)),
    )
}

pub fn add_handler_to_linker(l: &mut LinkerInstance<'_, State>) -> wasmtime::Result<()> {
    l.func_wrap_async("handle", |s: Cx<'_>, params: Handle| {
        Box::new(handle(s, params))
    })
}
