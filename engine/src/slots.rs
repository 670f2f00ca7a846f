//! A loop and its slots. `mik_req_run` is `Loop::run`, `mik_loop_woken` is `Loop::woken`.

use crate::body::BodyIn;
use crate::component::Component;
use crate::config::Engine;
use crate::error::{Fault, classify, guard};
use crate::ffi::{self, Str};
use crate::outbound;
use crate::request::HeadIn;
use crate::reuse::Cache;
use crate::run::{Inst, Job, serve};
use crate::slot::Slot;
use crate::store::{CpuClock, Exchange};
use crate::waker::{LoopCore, NO_SLOT, lock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

/// How many `Shared`s are kept for later requests.
const SPARE_MAX: usize = 64;

/// What is known of a request whose guest is over: its instance, if that may serve again.
type Verdict = Result<Option<Box<Inst>>, Fault>;

pub struct Loop {
    pub core: Arc<LoopCore>,
    engine: Arc<Engine>,
    ops: ffi::LoopOps,
    slots: Vec<Slot>,
    free: Vec<u32>,
    spare: Vec<Arc<crate::store::Shared>>,
    pub cache: Cache,
}

fn id_of(generation: u32, slot: u32) -> u64 {
    (generation as u64) << 32 | slot as u64
}

impl Loop {
    pub fn new(engine: Arc<Engine>, ops: ffi::LoopOps) -> Loop {
        wasmtime::Engine::tls_eager_initialize();
        let core = LoopCore::new(&ops);
        Loop {
            core,
            engine,
            ops,
            slots: Vec::new(),
            free: Vec::new(),
            spare: Vec::new(),
            cache: Cache::default(),
        }
    }

    pub fn get(&mut self, id: u64) -> Option<&mut Slot> {
        self.index(id).map(|i| &mut self.slots[i as usize])
    }

    fn index(&self, id: u64) -> Option<u32> {
        let slot = self.slots.get(id as u32 as usize)?;
        (slot.live && slot.generation == (id >> 32) as u32).then_some(id as u32)
    }

    pub fn start(&mut self, component: Arc<Component>, head: HeadIn, request: &ffi::Head) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            let index = self.slots.len() as u32;
            self.slots.push(Slot::new(&self.core, index));
            index
        });
        let slot = &mut self.slots[index as usize];
        let shared = self.spare.pop().unwrap_or_default();
        *lock(&shared.exchange) = Exchange {
            clock: CpuClock::new(request.cpu_budget_ns),
            ..Exchange::default()
        };
        slot.live = true;
        slot.user = request.user;
        slot.head_request = head.method() == b"HEAD";
        slot.body_in = (request.body != ffi::BODY_NONE).then(|| BodyIn::new(None));
        slot.head = Some(head);
        slot.component = Some(component);
        slot.shared = Some(shared);
        id_of(slot.generation, index)
    }

    /// Makes the guest's future at the first run: from a kept instance, if there is one.
    fn begin(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let (Some(head), Some(component)) = (slot.head.take(), slot.component.clone()) else {
            return;
        };
        let kept = if component.limits.reuse_max > 1 {
            self.cache.take(&component)
        } else {
            None
        };
        if kept.is_none() && self.engine.is_full() {
            self.cache.evict_one();
        }
        let mut shared = slot.shared.take().unwrap_or_default();
        if let Some(kept) = &kept {
            // The instance's streams point to its own.
            let fresh = std::mem::replace(&mut shared, kept.store.data().shared.clone());
            let mut exchange = std::mem::take(&mut *lock(&fresh.exchange));
            exchange.memory_peak = kept.store.data().limits.memory();
            exchange.memory = kept.store.data().limits.held();
            *lock(&shared.exchange) = exchange;
            slot.stats.reuse_index = kept.served;
            self.spare.push(fresh);
        }
        lock(&shared.output).reset(component.limits.output_bytes_max as usize);
        slot.shared = Some(shared.clone());
        let job = Job {
            component,
            core: self.core.clone(),
            shared,
            kept,
            head,
            body: slot.body_in.clone(),
        };
        slot.guest = Some(Box::pin(serve(job)));
    }

    pub fn run(&mut self, id: u64, now: u64, slice: u64) -> u32 {
        let Some(index) = self.index(id) else {
            return 0;
        };
        if self.slots[index as usize].over {
            // A wake that came late. All is said, and trailers may be in the caller's hands.
            return 0;
        }
        let begun = guard(|| {
            self.begin(index);
            Ok(())
        });
        let verdict = match begun {
            Ok(()) => self.poll(index, now, slice),
            Err(fault) => Some(Err(fault)),
        };
        let mut bits = 0;
        let slot = &mut self.slots[index as usize];
        slot.over |= verdict.is_some();
        let (verdict, inst) = match verdict {
            Some(Ok(inst)) => (Some(Ok(())), inst),
            Some(Err(fault)) => (Some(Err(fault)), None),
            None => (None, None),
        };
        slot.collect_response(&mut bits, verdict);
        if slot.over
            && let Some(body) = &slot.body_in
        {
            body.close();
        }
        let may_be_kept = inst.is_some();
        if let Some(inst) = inst {
            self.settle(index, inst, now);
        }
        self.slots[index as usize].collect_rest(&mut bits, &self.core);
        self.flush_output(index, bits & ffi::EV_DONE != 0);
        if may_be_kept {
            // It belongs to whom the instance serves next.
            self.slots[index as usize].shared = None;
        }
        bits
    }

    /// One poll of the guest. Some when it is over.
    fn poll(&mut self, index: u32, now: u64, slice: u64) -> Option<Verdict> {
        let slot = &mut self.slots[index as usize];
        let shared = slot.shared.clone()?;
        let mut guest = slot.guest.take()?;
        lock(&shared.exchange).clock.start_run(now, slice);
        self.core.polling.store(index, Ordering::Relaxed);
        let mut cx = Context::from_waker(&slot.waker);
        let verdict = match guard(|| Ok(guest.as_mut().poll(&mut cx))) {
            Ok(Poll::Pending) => {
                slot.guest = Some(guest);
                None
            }
            Ok(Poll::Ready(Ok(inst))) if inst.store.data().component.limits.reuse_max > 1 => {
                Some(Ok(Some(inst)))
            }
            Ok(Poll::Ready(Ok(inst))) => Some(drop_guarded(inst).map(|()| None)),
            Ok(Poll::Ready(Err(error))) => {
                let refused = lock(&shared.exchange).refused.take();
                Some(Err(classify(&error, refused)))
            }
            Err(panic) => {
                let _ = drop_guarded(guest);
                Some(Err(panic))
            }
        };
        self.core.polling.store(NO_SLOT, Ordering::Relaxed);
        let mut exchange = lock(&shared.exchange);
        exchange.clock.end_run();
        slot.stats.cpu_ns = exchange.clock.spent();
        slot.stats.runs += 1;
        verdict
    }

    /// The guest returned and its instance may serve again: what it left open is closed, then it is kept or dropped.
    fn settle(&mut self, index: u32, inst: Box<Inst>, now: u64) {
        let slot = &self.slots[index as usize];
        let begun = slot
            .shared
            .as_ref()
            .map(|s| std::mem::take(&mut lock(&s.exchange).outbound_ids));
        for id in begun.into_iter().flatten() {
            outbound::abandon(&self.core, id);
        }
        let well = slot.fault.is_none();
        let _ = guard(|| {
            if well {
                self.cache.give(inst, now);
            }
            Ok(())
        });
    }

    fn flush_output(&mut self, index: u32, last: bool) {
        let slot = &self.slots[index as usize];
        let Some(shared) = &slot.shared else { return };
        let mut output = lock(&shared.output);
        if last {
            output.finish();
        }
        if output.is_empty() {
            return;
        }
        let lines = output.take_lines();
        drop(output);
        if let Some(sink) = self.ops.output {
            for (stream, line) in &lines {
                unsafe { sink(self.ops.ctx, slot.user, *stream, Str::of(line)) }
            }
        }
    }

    pub fn woken(&mut self, now: u64, woken: &mut [ffi::Woken]) -> usize {
        self.core.acknowledge();
        loop {
            // Not in the condition: the waker must not run under the lock.
            let due = lock(&self.core.timers).take_due(now);
            let Some(waker) = due else { break };
            waker.wake();
        }
        let mut n = 0;
        while n < woken.len()
            && let Some((index, generation)) = self.core.pop()
        {
            let slot = &self.slots[index as usize];
            if slot.live && slot.generation == generation {
                slot.cell.taken();
                woken[n] = ffi::Woken {
                    req: id_of(generation, index),
                    user: slot.user,
                };
                n += 1;
            }
        }
        n
    }

    /// At any point of a request's life: unwinds the guest, frees what it held, makes the id stale.
    pub fn release(&mut self, id: u64) {
        let Some(index) = self.index(id) else { return };
        let slot = &mut self.slots[index as usize];
        if let Some(guest) = slot.guest.take() {
            let _ = drop_guarded(guest);
            self.flush_output(index, true);
        }
        let shared = self.slots[index as usize].clear();
        self.free.push(index);
        if let Some(shared) = shared
            && Arc::strong_count(&shared) == 1
            && self.spare.len() < SPARE_MAX
        {
            *lock(&shared.exchange) = Exchange::default();
            self.spare.push(shared);
        }
    }

    pub fn release_all(&mut self) {
        for index in 0..self.slots.len() as u32 {
            self.release(id_of(self.slots[index as usize].generation, index));
        }
        self.cache.forget(std::ptr::null(), None);
        // In a line of its own: the lock would be held over the loop, and release() takes it.
        let outs = lock(&self.core.outs).ids();
        for id in outs {
            outbound::release(&self.core, id);
        }
    }
}

/// Dropping a guest unwinds its stack, and so runs code of ours.
fn drop_guarded<T>(what: T) -> Result<(), Fault> {
    guard(|| {
        drop(what);
        Ok(())
    })
}
