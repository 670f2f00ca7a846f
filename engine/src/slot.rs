//! A slot holds one request from start to release. Here is what its state means in events.

use crate::body::{BodyIn, BodyOut, OutEnd};
use crate::component::Component;
use crate::error::Fault;
use crate::ffi::{self, Code};
use crate::request::HeadIn;
use crate::run::Outcome;
use crate::store::{Response, Shared};
use crate::waker::{LoopCore, WakeCell, lock};
use http::HeaderMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Waker;

pub type Guest = Pin<Box<dyn Future<Output = Outcome>>>;

pub struct Slot {
    pub generation: u32,
    pub live: bool,
    pub user: u64,
    pub component: Option<Arc<Component>>,
    /// Until the first run.
    pub head: Option<HeadIn>,
    pub body_in: Option<Arc<BodyIn>>,
    /// A HEAD: its response has no body, whatever its content-length says.
    pub head_request: bool,
    pub guest: Option<Guest>,
    pub shared: Option<Arc<Shared>>,
    pub response: Option<Response>,
    pub trailers: Option<HeaderMap>,
    pub fault: Option<Fault>,
    /// The guest has returned, failed or been dropped.
    pub over: bool,
    /// The events that are said once and were.
    said: u32,
    pub stats: ffi::Stats,
    pub cell: Arc<WakeCell>,
    pub waker: Waker,
}

impl Slot {
    pub fn new(core: &Arc<LoopCore>, index: u32) -> Slot {
        let cell = WakeCell::new(core.clone(), index);
        Slot {
            generation: 1,
            live: false,
            user: 0,
            component: None,
            head: None,
            body_in: None,
            head_request: false,
            guest: None,
            shared: None,
            response: None,
            trailers: None,
            fault: None,
            over: false,
            said: 0,
            stats: ffi::Stats::default(),
            waker: Waker::from(cell.clone()),
            cell,
        }
    }

    pub fn body_out(&self) -> Option<&Arc<BodyOut>> {
        self.response.as_ref()?.body.as_ref()
    }

    /// Adds a bit that is said once.
    fn say(&mut self, bits: &mut u32, bit: u32) {
        if self.said & bit == 0 {
            self.said |= bit;
            *bits |= bit;
        }
    }

    /// Before the head was said there will be no response; after it, the response is cut.
    fn fail(&mut self, bits: &mut u32, fault: Fault) {
        if self.fault.is_some() || self.said & ffi::EV_END != 0 {
            return;
        }
        self.fault = Some(fault);
        if self.said & ffi::EV_HEAD != 0 {
            self.say(bits, ffi::EV_ABORT);
        } else {
            if let Some(body) = self.body_out() {
                body.close();
            }
            self.response = None;
            self.say(bits, ffi::EV_FAILED);
        }
    }

    /// What is wrong with the response's body, if anything, by what is known now.
    fn body_fault(&self) -> Option<Fault> {
        let response = self.response.as_ref()?;
        let bodiless = self.head_request || matches!(response.status, 204 | 304);
        let fault = |text: String| Some(Fault::new(Code::Body, text));
        let Some(body) = &response.body else {
            let announced = crate::fields::content_length(&response.fields)
                .ok()
                .flatten()
                .unwrap_or(0);
            if announced == 0 || bodiless || !self.over {
                return None;
            }
            return fault(format!(
                "the guest announced a content-length of {announced} and wrote no body"
            ));
        };
        let expected = || {
            body.expected().map_or(String::new(), |e| {
                format!(" of an announced content-length of {e}")
            })
        };
        match body.end() {
            _ if bodiless => None,
            OutEnd::Unfinished => fault(format!(
                "the guest dropped its response body unfinished after {} bytes{}",
                body.written(),
                expected()
            )),
            OutEnd::WrongLength(n) => fault(format!(
                "the guest wrote a response body of {n} bytes{}",
                expected()
            )),
            OutEnd::Open | OutEnd::Finished => None,
        }
    }

    /// Head, end and failure. `verdict` is there when the guest has just ended.
    pub fn collect_response(&mut self, bits: &mut u32, verdict: Option<Result<(), Fault>>) {
        let shared = self
            .shared
            .as_ref()
            .map(|s| lock(&s.exchange).response.take());
        match shared.flatten() {
            Some(Ok(response)) if self.fault.is_none() && self.response.is_none() => {
                self.response = Some(response)
            }
            Some(Err(code)) => self.fail(
                bits,
                Fault::new(Code::GuestError, format!("the guest answered with {code}")),
            ),
            _ => {}
        }
        if let Some(Err(fault)) = verdict {
            return self.fail(bits, fault);
        }
        if let (true, Some(body)) = (self.over, self.body_out()) {
            body.settle_left_behind();
        }
        if let Some(fault) = self.body_fault() {
            return self.fail(bits, fault);
        }
        if self.response.is_some() {
            self.say(bits, ffi::EV_HEAD);
        }
        if !self.over {
            return;
        }
        if self.response.is_none() {
            return self.fail(
                bits,
                Fault::new(
                    Code::NoResponse,
                    "the guest returned without setting a response",
                ),
            );
        }
        self.trailers = self.body_out().and_then(|b| b.take_trailers());
        if self.fault.is_none() {
            self.say(bits, ffi::EV_END);
        }
    }

    /// Everything else that the caller should hear, after `collect_response`.
    pub fn collect_rest(&mut self, bits: &mut u32, core: &LoopCore) {
        if self.body_out().is_some_and(|b| b.ready()) {
            *bits |= ffi::EV_BODY;
        }
        if let Some(body) = &self.body_in {
            let (reopened, unused) = body.take_events();
            if reopened {
                *bits |= ffi::EV_NEED_BODY;
            }
            if unused {
                self.say(bits, ffi::EV_BODY_UNUSED);
            }
        }
        if let Some(shared) = &self.shared {
            let mut exchange = lock(&shared.exchange);
            self.stats.memory_bytes_peak = exchange.memory_peak;
            self.stats.memory_bytes = if self.over { 0 } else { exchange.memory };
            self.stats.outbound = exchange.outbound_begun;
            self.stats.instantiate_ns = exchange.instantiate_ns;
            exchange
                .outbound
                .retain(|id| lock(&core.outs).get(*id).is_some());
            if !exchange.outbound.is_empty() {
                *bits |= ffi::EV_OUTBOUND;
            }
        }
        if self.cell.take_yielded() && !self.over {
            *bits |= ffi::EV_YIELDED;
        }
        if self.over {
            self.say(bits, ffi::EV_DONE);
        }
    }

    /// Makes the slot ready for another request: ids and wakes of this one are stale from now on. What is given back
    /// may be used again when nobody else holds it.
    pub fn clear(&mut self) -> Option<Arc<Shared>> {
        self.generation = self.generation.wrapping_add(1).max(1);
        self.cell.set_generation(self.generation);
        self.live = false;
        self.component = None;
        self.head = None;
        if let Some(body) = self.body_in.take() {
            body.close();
        }
        if let Some(body) = self.body_out() {
            body.close();
        }
        self.response = None;
        self.trailers = None;
        self.fault = None;
        self.over = false;
        self.said = 0;
        self.stats = ffi::Stats::default();
        self.shared.take()
    }
}
