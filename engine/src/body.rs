//! Bodies between C++ and a guest: `BodyIn` is pushed by C++ and read by the guest, `BodyOut` the other way round.
//! Each has a window in bytes, one waker of the guest, and an end that is told apart from a break.

use crate::ffi::{HttpError, OUT_BODY, OUT_BODY_END, OUT_BODY_FAIL, OUT_DROPPED, OUT_READ, Str};
use crate::fields::http_error;
use crate::outbound::Notify;
use crate::waker::lock;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_io::async_trait;

pub const IN_WINDOW: usize = 128 << 10;
pub const OUT_WINDOW: usize = 256 << 10;
/// What a queued piece costs beside its bytes: without it a window of one-byte pieces would hold megabytes.
const PIECE_COST: usize = 64;
/// A window this close to full counts as full: no writes of a few bytes each.
const OUT_ROOM_MIN: usize = 4 << 10;
/// So much may be written to bodies that are not on their way yet (before response-outparam.set, or before `handle`):
/// some guests write and finish the whole body first, and nobody can drain it until then.
const EARLY_MAX: usize = 32 << 20;
/// Writes shorter than this are gathered into pieces of up to `GATHER_MAX` once some are queued.
const GATHER_BELOW: usize = 1 << 10;
const GATHER_MAX: usize = 16 << 10;

fn keep_waker(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

// ---- towards the guest -----------------------------------------------------------------------------------------

enum InEnd {
    Open,
    /// Complete, with the trailers until they are read.
    Done(Option<HeaderMap>),
    Failed(HttpError),
}

struct InState {
    queue: VecDeque<Bytes>,
    cost: usize,
    end: InEnd,
    waker: Option<Waker>,
    /// The pusher was told to stop.
    stopped: bool,
    /// The window is open again and the pusher has not been told.
    reopened: bool,
    /// Nobody will read any more.
    gone: bool,
    gone_told: bool,
    notify: Option<Notify>,
}

pub struct BodyIn(Mutex<InState>);

impl BodyIn {
    pub fn new(notify: Option<Notify>) -> Arc<BodyIn> {
        Arc::new(BodyIn(Mutex::new(InState {
            queue: VecDeque::new(),
            cost: 0,
            end: InEnd::Open,
            waker: None,
            stopped: false,
            reopened: false,
            gone: false,
            gone_told: false,
            notify,
        })))
    }

    /// 0: go on; 1: taken, but stop; -1: nobody reads, or the body has ended.
    pub fn push(&self, bytes: &[u8]) -> i32 {
        let mut s = lock(&self.0);
        if s.gone || !matches!(s.end, InEnd::Open) {
            return -1;
        }
        if !bytes.is_empty() {
            s.queue.push_back(Bytes::copy_from_slice(bytes));
            s.cost += bytes.len() + PIECE_COST;
        }
        s.stopped = s.cost >= IN_WINDOW;
        let (stopped, waker) = (s.stopped, s.waker.take());
        drop(s);
        if let Some(waker) = waker {
            waker.wake();
        }
        stopped as i32
    }

    pub fn end(&self, trailers: Option<HeaderMap>) {
        self.set_end(InEnd::Done(trailers));
    }

    pub fn fail(&self, error: HttpError) {
        self.set_end(InEnd::Failed(error));
    }

    fn set_end(&self, end: InEnd) {
        let mut s = lock(&self.0);
        if matches!(s.end, InEnd::Open) {
            s.end = end;
        }
        let waker = s.waker.take();
        drop(s);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The guest is over: what still holds the reader finds a broken body.
    pub fn close(&self) {
        let mut s = lock(&self.0);
        s.gone = true;
        s.gone_told |= !matches!(s.end, InEnd::Open);
        s.queue.clear();
        s.cost = 0;
        s.waker = None;
        if matches!(s.end, InEnd::Open) {
            s.end = InEnd::Failed(HttpError::InternalError);
            if let Some(notify) = &s.notify {
                notify.raise(OUT_DROPPED);
            }
        }
        s.notify = None;
    }

    /// Takes what the pusher should hear: (the window is open again, nobody will read the rest).
    pub fn take_events(&self) -> (bool, bool) {
        let mut s = lock(&self.0);
        let reopened = std::mem::take(&mut s.reopened) && !s.gone;
        let gone = s.gone && !s.gone_told;
        s.gone_told |= gone;
        (reopened, gone)
    }
}

/// The reading end, as the body that upstream's incoming-body wants.
pub struct InReader(pub Arc<BodyIn>);

impl Body for InReader {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, wasmtime_wasi_http::Error>>> {
        let mut s = lock(&self.0.0);
        if let Some(bytes) = s.queue.pop_front() {
            s.cost -= bytes.len() + PIECE_COST;
            if s.stopped && s.cost <= IN_WINDOW / 2 {
                s.stopped = false;
                s.reopened = true;
                if let Some(notify) = &s.notify {
                    notify.raise(OUT_READ);
                }
            }
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match &mut s.end {
            InEnd::Open => {
                keep_waker(&mut s.waker, cx);
                Poll::Pending
            }
            InEnd::Done(trailers) => Poll::Ready(trailers.take().map(|t| Ok(Frame::trailers(t)))),
            InEnd::Failed(error) => Poll::Ready(Some(Err(http_error(*error)))),
        }
    }
}

impl Drop for InReader {
    fn drop(&mut self) {
        let mut s = lock(&self.0.0);
        let complete = matches!(s.end, InEnd::Done(_));
        s.gone = true;
        s.gone_told |= complete;
        s.queue.clear();
        s.cost = 0;
        s.waker = None;
        if let Some(notify) = s.notify.take()
            && !complete
        {
            notify.raise(OUT_DROPPED);
        }
    }
}

// ---- from the guest --------------------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutEnd {
    Open,
    Finished,
    /// The guest dropped it, or left it behind, before it was complete.
    Unfinished,
    /// The guest wrote more or less than its content-length; holds what it wrote.
    WrongLength(u64),
}

struct OutState {
    queue: VecDeque<Bytes>,
    tail: Vec<u8>,
    queued: usize,
    written: u64,
    end: OutEnd,
    trailers: Option<HeaderMap>,
    waker: Option<Waker>,
    /// Nobody will take any more.
    gone: bool,
    /// Until the body is on its way: what it counts against.
    early: Option<Arc<Early>>,
    notify: Option<Notify>,
}

/// What a guest has written to bodies that are not on their way, all together.
pub struct Early {
    used: AtomicUsize,
    max: usize,
}

impl Early {
    /// `memory_max`: what the guest may have of memory.
    pub fn new(memory_max: u64) -> Arc<Early> {
        let max = EARLY_MAX
            .min(usize::try_from(memory_max).unwrap_or(EARLY_MAX))
            .max(OUT_WINDOW);
        Arc::new(Early {
            used: AtomicUsize::new(0),
            max,
        })
    }

    fn room(&self) -> usize {
        self.max.saturating_sub(self.used.load(Ordering::Relaxed))
    }
}

pub struct BodyOut {
    state: Mutex<OutState>,
    /// The content-length that the guest announced and must keep.
    expected: Option<u64>,
    request: bool,
}

impl BodyOut {
    pub fn new(expected: Option<u64>, request: bool, early: Arc<Early>) -> Arc<BodyOut> {
        let state = OutState {
            queue: VecDeque::new(),
            tail: Vec::new(),
            queued: 0,
            written: 0,
            end: OutEnd::Open,
            trailers: None,
            waker: None,
            gone: false,
            early: Some(early),
            notify: None,
        };
        Arc::new(BodyOut {
            state: Mutex::new(state),
            expected,
            request,
        })
    }

    pub fn expected(&self) -> Option<u64> {
        self.expected
    }

    pub fn written(&self) -> u64 {
        lock(&self.state).written
    }

    /// The body is on its way: somebody takes what is written, and the window holds.
    pub fn depart(&self) {
        lock(&self.state).leave_early();
    }

    /// From now on events go there; says what has happened already.
    pub fn set_notify(&self, notify: Notify) {
        self.depart();
        let mut s = lock(&self.state);
        if s.queued > 0 {
            notify.raise(OUT_BODY);
        }
        match s.end {
            OutEnd::Open => {}
            OutEnd::Finished => notify.raise(OUT_BODY_END),
            _ => notify.raise(OUT_BODY_FAIL),
        }
        s.notify = Some(notify);
    }

    pub fn end(&self) -> OutEnd {
        lock(&self.state).end
    }

    pub fn take_trailers(&self) -> Option<HeaderMap> {
        lock(&self.state).trailers.take()
    }

    /// Whether there are bytes to peek.
    pub fn ready(&self) -> bool {
        lock(&self.state).queued > 0
    }

    pub fn peek(&self, pieces: &mut [Str]) -> usize {
        let mut s = lock(&self.state);
        s.freeze();
        let n = s.queue.len().min(pieces.len());
        for (piece, bytes) in pieces.iter_mut().zip(&s.queue) {
            *piece = Str::of(bytes);
        }
        n
    }

    pub fn consume(&self, mut n: usize) {
        let mut s = lock(&self.state);
        s.freeze();
        while n > 0
            && let Some(front) = s.queue.front_mut()
        {
            let part = front.len().min(n);
            front.advance(part);
            let empty = front.is_empty();
            n -= part;
            s.queued -= part;
            if empty {
                s.queue.pop_front();
            }
        }
        let waker = if s.queued <= OUT_WINDOW / 2 {
            s.waker.take()
        } else {
            None
        };
        drop(s);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Nobody will take any more: the guest's next write fails.
    pub fn close(&self) {
        let mut s = lock(&self.state);
        s.gone = true;
        s.leave_early();
        s.queue.clear();
        s.tail = Vec::new();
        s.queued = 0;
        s.notify = None;
        let waker = s.waker.take();
        drop(s);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn size_error(&self, written: u64) -> ErrorCode {
        if self.request {
            ErrorCode::HttpRequestBodySize(Some(written))
        } else {
            ErrorCode::HttpResponseBodySize(Some(written))
        }
    }

    /// outgoing-body.finish
    pub fn finish(&self, trailers: Option<HeaderMap>) -> Result<(), ErrorCode> {
        let mut s = lock(&self.state);
        if let OutEnd::WrongLength(written) = s.end {
            return Err(self.size_error(written));
        }
        if let Some(expected) = self.expected
            && s.written != expected
        {
            let written = s.written;
            s.settle(OutEnd::WrongLength(written));
            return Err(self.size_error(written));
        }
        s.trailers = trailers;
        s.settle(OutEnd::Finished);
        Ok(())
    }

    /// The guest dropped the body without finishing it.
    pub fn abort(&self) {
        lock(&self.state).settle(OutEnd::Unfinished);
    }

    /// The guest is over and never let go of the body: it counts as finished only if it has its announced length.
    pub fn settle_left_behind(&self) {
        let mut s = lock(&self.state);
        let complete = self.expected.is_some_and(|e| e == s.written);
        s.settle(if complete {
            OutEnd::Finished
        } else {
            OutEnd::Unfinished
        });
        s.waker = None;
    }

    fn room(&self) -> Result<usize, StreamError> {
        let s = lock(&self.state);
        if s.gone || s.end != OutEnd::Open {
            return Err(StreamError::Closed);
        }
        match s.room() {
            0 if s.early.is_some() => Err(StreamError::trap(
                "too much was written to a body that is not on its way: set the response (or call handle) first",
            )),
            room => Ok(room),
        }
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut s = lock(&self.state);
        // A full body that is not on its way is no reason to wait: that would be for ever.
        if s.gone || s.end != OutEnd::Open || s.room() > 0 || s.early.is_some() {
            return Poll::Ready(());
        }
        keep_waker(&mut s.waker, cx);
        Poll::Pending
    }

    fn write(&self, bytes: Bytes) -> Result<(), StreamError> {
        let mut s = lock(&self.state);
        if s.gone || s.end != OutEnd::Open {
            return Err(StreamError::Closed);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let written = s.written + bytes.len() as u64;
        if self.expected.is_some_and(|e| written > e) {
            s.settle(OutEnd::WrongLength(written));
            drop(s);
            return Err(StreamError::LastOperationFailed(
                self.size_error(written).into(),
            ));
        }
        s.written = written;
        s.queued += bytes.len();
        if let Some(early) = &s.early {
            early.used.fetch_add(bytes.len(), Ordering::Relaxed);
        }
        s.add(bytes);
        if let Some(notify) = &s.notify {
            notify.raise(OUT_BODY);
        }
        Ok(())
    }
}

impl OutState {
    fn room(&self) -> usize {
        let room = match &self.early {
            Some(early) => early.room().min(OUT_WINDOW),
            None => OUT_WINDOW.saturating_sub(self.queued),
        };
        if room < OUT_ROOM_MIN { 0 } else { room }
    }

    fn leave_early(&mut self) {
        if let Some(early) = self.early.take() {
            early.used.fetch_sub(self.queued, Ordering::Relaxed);
        }
    }

    fn add(&mut self, bytes: Bytes) {
        if bytes.len() >= GATHER_BELOW || self.queue.len() < 4 {
            self.freeze();
            self.queue.push_back(bytes);
            return;
        }
        self.tail.extend_from_slice(&bytes);
        if self.tail.len() >= GATHER_MAX {
            self.freeze();
        }
    }

    fn freeze(&mut self) {
        if !self.tail.is_empty() {
            self.queue
                .push_back(Bytes::from(std::mem::take(&mut self.tail)));
        }
    }

    fn settle(&mut self, end: OutEnd) {
        if self.end != OutEnd::Open {
            return;
        }
        self.end = end;
        if let Some(notify) = &self.notify {
            notify.raise(if end == OutEnd::Finished {
                OUT_BODY_END
            } else {
                OUT_BODY_FAIL
            });
        }
    }
}

impl Drop for OutState {
    fn drop(&mut self) {
        self.leave_early();
    }
}

/// The output-stream of an outgoing-body.
pub struct OutStream(pub Arc<BodyOut>);

#[async_trait]
impl Pollable for OutStream {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_room(cx)).await
    }
}

#[async_trait]
impl OutputStream for OutStream {
    fn write(&mut self, bytes: Bytes) -> Result<(), StreamError> {
        if bytes.len() > self.0.room()? {
            return Err(StreamError::trap(
                "write exceeded the budget that check-write gave",
            ));
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<(), StreamError> {
        self.0.room().map(|_| ())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        self.0.room()
    }

    /// Any size: goes out in as many pieces as the window makes of it. Bytes that are queued are as good as flushed.
    async fn blocking_write_and_flush(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        while !bytes.is_empty() {
            poll_fn(|cx| self.0.poll_room(cx)).await;
            let part = bytes.len().min(self.0.room()?);
            self.0.write(bytes.split_to(part))?;
        }
        Ok(())
    }
}

/// The outgoing-body resource. Left behind in a dropped table it settles the body by itself.
pub struct OutBody {
    pub shared: Arc<BodyOut>,
    pub stream_taken: bool,
}

impl Drop for OutBody {
    fn drop(&mut self) {
        self.shared.settle_left_behind();
    }
}
