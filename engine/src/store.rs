//! What a guest's store holds: its resource table, its limits, and what it shares with the slot that runs it.

use crate::body::{BodyOut, Early};
use crate::clocks::{monotonic_ns, thread_cpu_ns};
use crate::component::Component;
use crate::config::Live;
use crate::error::Stop;
use crate::ffi::Code;
use crate::output::Output;
use crate::waker::{LoopCore, lock};
use http::HeaderMap;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// The response that a guest has set.
pub struct Response {
    pub status: u16,
    pub fields: HeaderMap,
    pub body: Option<Arc<BodyOut>>,
}

/// A tick so soon after a run's start is left over from before it.
const STALE_TICK: u64 = 100_000;

/// Accounts the CPU time of one request, run by run. A run that no tick falls into is short and is measured by the wall
/// clock (no system call); from its first tick on, a run is measured by the thread's CPU time, so that a worker that was
/// preempted does not charge the guest for it.
#[derive(Default)]
pub struct CpuClock {
    spent: u64,
    budget: u64,
    slice: u64,
    /// How long before `started` the slice began: the caller, too, asks for the loop by when it began.
    lead: u64,
    started: u64,
    /// At the run's first tick: (wall time into the run, the thread's CPU time).
    ticked: Option<(u64, u64)>,
}

impl CpuClock {
    pub fn new(budget: u64) -> CpuClock {
        CpuClock {
            budget,
            ..CpuClock::default()
        }
    }

    /// `now`: when the slice begins, of the same clock.
    pub fn start_run(&mut self, now: u64, slice: u64) {
        self.started = monotonic_ns();
        self.lead = self.started.saturating_sub(now);
        self.slice = slice;
        self.ticked = None;
    }

    fn in_run(&self) -> u64 {
        match self.ticked {
            None => monotonic_ns() - self.started,
            Some((wall, cpu)) => wall + (thread_cpu_ns() - cpu),
        }
    }

    pub fn end_run(&mut self) {
        self.spent += self.in_run();
        self.started = monotonic_ns();
        self.ticked = None;
    }

    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// An epoch tick while the guest runs.
    fn tick(&mut self) -> Result<UpdateDeadline, Stop> {
        let wall = monotonic_ns() - self.started;
        let age = self.lead + wall;
        if self.ticked.is_none() && age < STALE_TICK {
            // The epoch moved while the guest waited. No system call for that.
            return if self.spent + wall > self.budget {
                Err(Stop::Cpu)
            } else {
                Ok(UpdateDeadline::Continue(1))
            };
        }
        if self.ticked.is_none() {
            self.ticked = Some((wall, thread_cpu_ns()));
        }
        if self.spent + self.in_run() > self.budget {
            return Err(Stop::Cpu);
        }
        Ok(if age >= self.slice {
            UpdateDeadline::Yield(1)
        } else {
            UpdateDeadline::Continue(1)
        })
    }
}

/// The part of `Shared` that slot and guest both write.
#[derive(Default)]
pub struct Exchange {
    pub clock: CpuClock,
    /// Set by response-outparam.set, taken by the slot.
    pub response: Option<Result<Response, ErrorCode>>,
    /// Outgoing requests that the guest has begun and C++ has not taken.
    pub outbound: VecDeque<u64>,
    pub outbound_begun: u32,
    /// All that were begun, to be closed if the instance is kept.
    pub outbound_ids: Vec<u64>,
    pub memory_peak: u64,
    /// Memories and tables, now.
    pub memory: u64,
    /// A growth of memory or tables was refused: what a failure that follows is, and which growth it was.
    pub refused: Option<(Code, String)>,
    pub instantiate_ns: u32,
}

/// Between a store and the slot that runs it. Survives with a kept instance, so that streams which the guest keeps from
/// one request to the next (libc keeps stdout) go to the request that runs now.
#[derive(Default)]
pub struct Shared {
    pub exchange: Mutex<Exchange>,
    pub output: Mutex<Output>,
}

/// What an element of a table takes.
const ELEMENT_BYTES: u64 = 8;

/// Sums what the guest asked for over all its memories and tables, and counts it on the loop for as long as the store
/// lives.
pub struct Limits {
    shared: Arc<Shared>,
    core: Arc<LoopCore>,
    memory: u64,
    memory_max: u64,
    last_growth: u64,
    tables: u64,
    tables_max: u64,
    last_table_growth: u64,
}

impl Drop for Limits {
    fn drop(&mut self) {
        self.core.memory.take(self.held());
    }
}

impl Limits {
    pub fn memory(&self) -> u64 {
        self.memory
    }

    /// Memories and tables.
    pub fn held(&self) -> u64 {
        self.memory + self.tables * ELEMENT_BYTES
    }

    /// Why there is no room for it on the loop.
    fn no_room(&self, what: &str, growth: u64) -> String {
        format!(
            "{what}: {growth} bytes more were asked for, and the guests of this worker hold {} of {} bytes that the memory \
             budget leaves them",
            self.core.memory.held(),
            self.core.memory.room()
        )
    }

    /// `Code::Memory`: the guest wants more than it may have. `Code::Busy`: than there is at the moment.
    fn refuse(&self, code: Code, text: String) -> wasmtime::Result<bool> {
        lock(&self.shared.exchange)
            .refused
            .get_or_insert((code, text));
        Ok(false)
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current) as u64;
        let total = self.memory.saturating_add(growth);
        if total > self.memory_max {
            return self.refuse(
                Code::Memory,
                format!(
                    "memory: {total} bytes were asked for, memory_limit_bytes allows {}",
                    self.memory_max
                ),
            );
        }
        if !self.core.memory.add(growth) {
            return self.refuse(Code::Busy, self.no_room("memory", growth));
        }
        self.memory = total;
        self.last_growth = growth;
        let held = self.held();
        let mut exchange = lock(&self.shared.exchange);
        exchange.memory_peak = exchange.memory_peak.max(total);
        exchange.memory = held;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let growth = std::mem::take(&mut self.last_growth);
        self.memory -= growth;
        self.core.memory.take(growth);
        lock(&self.shared.exchange).memory = self.held();
        self.refuse(Code::Memory, format!("memory: {error:#}"))
            .map(|_| ())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _max: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let growth = desired.saturating_sub(current) as u64;
        let total = self.tables.saturating_add(growth);
        if total > self.tables_max {
            return self.refuse(
                Code::Memory,
                format!(
                    "tables: {total} elements were asked for, the limit is {}",
                    self.tables_max
                ),
            );
        }
        if !self.core.memory.add(growth * ELEMENT_BYTES) {
            return self.refuse(Code::Busy, self.no_room("tables", growth * ELEMENT_BYTES));
        }
        self.tables = total;
        self.last_table_growth = growth;
        lock(&self.shared.exchange).memory = self.held();
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let growth = std::mem::take(&mut self.last_table_growth);
        self.tables -= growth;
        self.core.memory.take(growth * ELEMENT_BYTES);
        lock(&self.shared.exchange).memory = self.held();
        self.refuse(Code::Memory, format!("tables: {error:#}"))
            .map(|_| ())
    }
}

/// Upstream's hooks: only the field rules are used; bodies and outgoing requests are our own.
pub struct Hooks;

type Sent = Result<
    (
        http::Response<WasiBody>,
        Box<dyn Future<Output = Result<(), Error>> + Send>,
    ),
    Error,
>;

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &http::HeaderName) -> bool {
        crate::fields::is_hop_by_hop(name)
    }

    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _done: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}

pub struct State {
    pub table: ResourceTable,
    pub limits: Limits,
    pub shared: Arc<Shared>,
    pub core: Arc<LoopCore>,
    pub component: Arc<Component>,
    /// Which request of this instance is running: what an earlier one left behind is told apart by it.
    pub serial: u32,
    /// The response body need not have its announced length (the request was a HEAD).
    pub head_request: bool,
    /// Bodies of outgoing responses and requests, by the resource's index in the table.
    pub response_bodies: Vec<(u32, Arc<BodyOut>)>,
    pub request_bodies: Vec<(u32, Arc<BodyOut>)>,
    /// What is written to bodies that are not on their way.
    pub early: Arc<Early>,
    /// Bytes of HTTP fields since they were last counted: see field_budget.rs.
    pub fields_added: usize,
    http: WasiHttpCtx,
    hooks: Hooks,
    /// For filesystem, sockets and terminals only; made when the guest first calls one of them.
    wasi: Option<Box<WasiCtx>>,
    _live: Live,
}

impl State {
    /// Remembers the body of the outgoing message at `rep`, in place of an earlier one whose index was free again.
    pub fn keep_body(bodies: &mut Vec<(u32, Arc<BodyOut>)>, rep: u32, body: Arc<BodyOut>) {
        bodies.retain(|(r, _)| *r != rep);
        bodies.push((rep, body));
    }

    pub fn take_body(bodies: &mut Vec<(u32, Arc<BodyOut>)>, rep: u32) -> Option<Arc<BodyOut>> {
        let i = bodies.iter().position(|(r, _)| *r == rep)?;
        Some(bodies.swap_remove(i).1)
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| {
            Box::new(
                WasiCtxBuilder::new()
                    .allow_tcp(false)
                    .allow_udp(false)
                    .allow_ip_name_lookup(false)
                    .build(),
            )
        });
        WasiCtxView {
            ctx,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// A store with the component's limits and its epoch callback; the deadline is set per call.
pub fn new_store(
    component: &Arc<Component>,
    core: &Arc<LoopCore>,
    shared: &Arc<Shared>,
) -> Store<State> {
    let limits = &component.limits;
    let mut table = ResourceTable::with_capacity(16);
    table.set_max_capacity(limits.resources_max as usize);
    let mut http = WasiHttpCtx::new();
    http.set_field_size_limit(limits.fields_bytes_max as usize);
    let state = State {
        table,
        limits: Limits {
            shared: shared.clone(),
            core: core.clone(),
            memory: 0,
            memory_max: limits.memory_bytes_max,
            last_growth: 0,
            tables: 0,
            tables_max: limits.table_elements_max as u64,
            last_table_growth: 0,
        },
        shared: shared.clone(),
        core: core.clone(),
        component: component.clone(),
        serial: 0,
        head_request: false,
        response_bodies: Vec::new(),
        request_bodies: Vec::new(),
        early: Early::new(limits.memory_bytes_max),
        fields_added: 0,
        http,
        hooks: Hooks,
        wasi: None,
        _live: Live::new(&component.engine),
    };
    let mut store = Store::new(&component.engine.wasmtime, state);
    store.limiter(|state| &mut state.limits);
    store.epoch_deadline_callback(|mut store| {
        let update = lock(&store.data_mut().shared.exchange).clock.tick();
        update.map_err(wasmtime::Error::from)
    });
    store
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look of the ticker may lie between the beginning that the caller counts from and ours: a tick that came when
    /// the slice was just over was taken for one that is too early, and nobody ticked again for a millisecond.
    #[test]
    fn a_slice_begins_when_the_caller_says() {
        let slice = monotonic_ns();
        let mut clock = CpuClock::new(u64::MAX);
        clock.start_run(slice, slice);
        assert!(matches!(clock.tick(), Ok(UpdateDeadline::Continue(1))));
        clock.start_run(0, slice);
        assert!(matches!(clock.tick(), Ok(UpdateDeadline::Yield(1))));
    }
}
