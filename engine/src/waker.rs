//! What a loop shares with what runs on it: the ring of woken requests, timers, outgoing exchanges; and the wakers.
//!
//! Everything here is used by the loop's own thread, but for `WakeCell::wake`, which any thread may call. The mutexes
//! are therefore uncontended; they make the types `Sync` without unsafe code.

use crate::clocks::Timers;
use crate::ffi::LoopOps;
use crate::outbound::Outs;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Wake;

pub const NO_SLOT: u32 = u32::MAX;

/// A mutex whose poisoning does not matter: its data is valid at every unwind point, and the request is dropped.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}

/// An address that is this thread's for as long as it lives.
pub fn this_thread() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| here as *const u8 as usize)
}

#[derive(Clone, Copy)]
struct Ops {
    ctx: *mut c_void,
    wake: Option<unsafe extern "C" fn(*mut c_void)>,
}
// Safety: the contract of mik_loop_ops says that wake may be called from any thread with this ctx.
unsafe impl Send for Ops {}
unsafe impl Sync for Ops {}

/// What the instances of a loop hold, and how much that may be. Atomic so that it may be shared; one thread uses it.
pub struct Memory {
    held: AtomicU64,
    room: AtomicU64,
}

impl Memory {
    pub fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    pub fn set_room(&self, bytes: u64) {
        self.room.store(bytes, Ordering::Relaxed);
    }

    /// False when there is no room for it: nothing was added then.
    pub fn add(&self, bytes: u64) -> bool {
        let total = self.held().saturating_add(bytes);
        let fits = bytes == 0 || total <= self.room();
        if fits {
            self.held.store(total, Ordering::Relaxed);
        }
        fits
    }

    pub fn take(&self, bytes: u64) {
        self.held
            .store(self.held().saturating_sub(bytes), Ordering::Relaxed);
    }
}

pub struct LoopCore {
    thread: usize,
    ops: Ops,
    ready: Mutex<VecDeque<(u32, u32)>>,
    notified: AtomicBool,
    /// The slot whose future is being polled right now.
    pub polling: AtomicU32,
    pub timers: Mutex<Timers>,
    pub outs: Mutex<Outs>,
    pub memory: Memory,
}

impl LoopCore {
    pub fn new(ops: &LoopOps) -> Arc<LoopCore> {
        Arc::new(LoopCore {
            thread: this_thread(),
            ops: Ops {
                ctx: ops.ctx,
                wake: ops.wake,
            },
            ready: Mutex::new(VecDeque::with_capacity(256)),
            notified: AtomicBool::new(false),
            polling: AtomicU32::new(NO_SLOT),
            timers: Mutex::default(),
            outs: Mutex::default(),
            memory: Memory {
                held: AtomicU64::new(0),
                room: AtomicU64::new(u64::MAX),
            },
        })
    }

    pub fn on_thread(&self) -> bool {
        self.thread == this_thread()
    }

    /// Called before the ring is read, so that a wake that comes later notifies again.
    pub fn acknowledge(&self) {
        self.notified.store(false, Ordering::Release);
    }

    pub fn pop(&self) -> Option<(u32, u32)> {
        lock(&self.ready).pop_front()
    }

    fn push(&self, slot: u32, generation: u32) {
        lock(&self.ready).push_back((slot, generation));
        if !self.on_thread()
            && !self.notified.swap(true, Ordering::AcqRel)
            && let Some(wake) = self.ops.wake
        {
            unsafe { wake(self.ops.ctx) }
        }
    }
}

/// The waker of one slot, made once and used by every request that the slot holds. Wakes are coalesced until the slot
/// is taken from the ring; the ring keeps the generation, so a wake meant for a request that is gone is dropped there.
pub struct WakeCell {
    core: Arc<LoopCore>,
    slot: u32,
    generation: AtomicU32,
    queued: AtomicBool,
    /// Woken by itself while being polled: it yields, which the caller learns from the run's result.
    yielded: AtomicBool,
}

impl WakeCell {
    pub fn new(core: Arc<LoopCore>, slot: u32) -> Arc<WakeCell> {
        Arc::new(WakeCell {
            core,
            slot,
            generation: AtomicU32::new(1),
            queued: AtomicBool::new(false),
            yielded: AtomicBool::new(false),
        })
    }

    pub fn set_generation(&self, generation: u32) {
        self.generation.store(generation, Ordering::Release);
        self.queued.store(false, Ordering::Release);
        self.yielded.store(false, Ordering::Release);
    }

    /// The slot was taken from the ring.
    pub fn taken(&self) {
        self.queued.store(false, Ordering::Release);
    }

    pub fn take_yielded(&self) -> bool {
        self.yielded.load(Ordering::Acquire) && self.yielded.swap(false, Ordering::AcqRel)
    }
}

impl Wake for WakeCell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.core.on_thread() && self.core.polling.load(Ordering::Relaxed) == self.slot {
            self.yielded.store(true, Ordering::Release);
        } else if !self.queued.swap(true, Ordering::AcqRel) {
            self.core
                .push(self.slot, self.generation.load(Ordering::Acquire));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    static WAKES: AtomicU32 = AtomicU32::new(0);
    unsafe extern "C" fn count(_: *mut c_void) {
        WAKES.fetch_add(1, Ordering::SeqCst);
    }

    #[test]
    fn wakes_are_coalesced_and_other_threads_call_once_a_batch() {
        let core = LoopCore::new(&LoopOps {
            ctx: std::ptr::null_mut(),
            wake: Some(count),
            output: None,
        });
        let cells: Vec<_> = (0..2).map(|i| WakeCell::new(core.clone(), i)).collect();
        let wakers: Vec<Waker> = cells.iter().map(|c| Waker::from(c.clone())).collect();
        wakers[1].wake_by_ref();
        wakers[1].wake_by_ref();
        assert_eq!((core.pop(), core.pop()), (Some((1, 1)), None));
        assert_eq!(
            WAKES.load(Ordering::SeqCst),
            0,
            "no call on the loop's own thread"
        );
        cells[1].taken();

        std::thread::scope(|scope| {
            scope.spawn(|| {
                wakers
                    .iter()
                    .for_each(|w| (0..3).for_each(|_| w.wake_by_ref()))
            });
        });
        assert_eq!(WAKES.load(Ordering::SeqCst), 1);
        core.acknowledge();
        assert_eq!(
            (core.pop(), core.pop(), core.pop()),
            (Some((0, 1)), Some((1, 1)), None)
        );
        std::thread::scope(|scope| {
            scope.spawn(|| wakers[0].wake_by_ref());
        });
        assert_eq!(core.pop(), None, "still queued, as far as the cell knows");
        cells[0].taken();
        std::thread::scope(|scope| {
            scope.spawn(|| wakers[0].wake_by_ref());
        });
        assert_eq!(WAKES.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_wake_of_the_slot_that_is_polled_is_a_yield() {
        let core = LoopCore::new(&LoopOps {
            ctx: std::ptr::null_mut(),
            wake: None,
            output: None,
        });
        let cell = WakeCell::new(core.clone(), 3);
        let waker = Waker::from(cell.clone());
        core.polling.store(3, Ordering::Relaxed);
        waker.wake_by_ref();
        core.polling.store(NO_SLOT, Ordering::Relaxed);
        assert!(cell.take_yielded());
        assert!(!cell.take_yielded());
        assert_eq!(core.pop(), None);
        cell.set_generation(9);
        waker.wake();
        assert_eq!(core.pop(), Some((3, 9)));
    }
}
