//! wasi:clocks on the loop's own timers: a pollable registers one entry, `mik_loop_woken` fires what is due.

use crate::store::State;
use crate::waker::{LoopCore, lock};
use std::collections::BTreeMap;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::p2::bindings::clocks::wall_clock::Datetime;
use wasmtime_wasi_io::async_trait;
use wasmtime_wasi_io::poll::{DynPollable, Pollable, subscribe};

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // Safety: a valid clock and a valid place for the answer.
    unsafe { libc::clock_gettime(clock, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

pub fn monotonic_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// CPU time of this thread. A system call: not for every run.
pub fn thread_cpu_ns() -> u64 {
    clock_ns(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Timers by deadline; an entry leaves when it fires or when its pollable is dropped, whichever is first.
#[derive(Default)]
pub struct Timers {
    entries: BTreeMap<(u64, u64), Waker>,
    last_id: u64,
}

impl Timers {
    fn add(&mut self, at: u64, waker: Waker) -> u64 {
        self.last_id += 1;
        self.entries.insert((at, self.last_id), waker);
        self.last_id
    }

    pub fn next(&self) -> Option<u64> {
        self.entries.first_key_value().map(|((at, _), _)| *at)
    }

    pub fn take_due(&mut self, now: u64) -> Option<Waker> {
        let first = self.entries.first_entry()?;
        if first.key().0 > now {
            None
        } else {
            Some(first.remove())
        }
    }
}

/// What a monotonic-clock pollable waits for.
enum Deadline {
    /// Already past when made: gives way once, so that a guest that polls in a circle does not hold the loop.
    Past {
        yielded: bool,
    },
    At {
        at: u64,
        id: Option<u64>,
        core: Arc<LoopCore>,
    },
    Never,
}

impl Deadline {
    fn poll_at(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Deadline::At { at, id, core } = self else {
            return Poll::Ready(());
        };
        if monotonic_ns() >= *at {
            return Poll::Ready(());
        }
        let mut timers = lock(&core.timers);
        match id {
            None => *id = Some(timers.add(*at, cx.waker().clone())),
            Some(id) => match timers.entries.get_mut(&(*at, *id)) {
                None => return Poll::Ready(()), // it fired
                Some(waker) => waker.clone_from(cx.waker()),
            },
        }
        Poll::Pending
    }
}

#[async_trait]
impl Pollable for Deadline {
    async fn ready(&mut self) {
        match self {
            Deadline::Past { yielded: true } => {}
            Deadline::Past { yielded } => {
                *yielded = true;
                let mut waited = false;
                poll_fn(|cx| {
                    if std::mem::replace(&mut waited, true) {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await
            }
            Deadline::At { .. } => poll_fn(|cx| self.poll_at(cx)).await,
            Deadline::Never => pending().await,
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Deadline::At {
            at,
            id: Some(id),
            core,
        } = self
        {
            lock(&core.timers).entries.remove(&(*at, *id));
        }
    }
}

fn subscribe_at(
    state: &mut State,
    at: Option<u64>,
    now: u64,
) -> wasmtime::Result<Resource<DynPollable>> {
    let deadline = match at {
        None => Deadline::Never,
        Some(at) if at <= now => Deadline::Past { yielded: false },
        Some(at) => Deadline::At {
            at,
            id: None,
            core: state.core.clone(),
        },
    };
    let deadline = state.table.push(deadline)?;
    subscribe(&mut state.table, deadline)
}

fn datetime(ns: u128) -> Datetime {
    Datetime {
        seconds: (ns / 1_000_000_000) as u64,
        nanoseconds: (ns % 1_000_000_000) as u32,
    }
}

pub fn add_to_linker(linker: &mut Linker<State>, version: &str) -> wasmtime::Result<()> {
    let mut clock = linker.instance(&format!("wasi:clocks/monotonic-clock@{version}"))?;
    clock.func_wrap("now", |_: StoreContextMut<'_, State>, (): ()| {
        Ok((monotonic_ns(),))
    })?;
    clock.func_wrap("resolution", |_: StoreContextMut<'_, State>, (): ()| {
        Ok((1u64,))
    })?;
    clock.func_wrap(
        "subscribe-instant",
        |mut s: StoreContextMut<'_, State>, (at,): (u64,)| {
            Ok((subscribe_at(s.data_mut(), Some(at), monotonic_ns())?,))
        },
    )?;
    clock.func_wrap(
        "subscribe-duration",
        |mut s: StoreContextMut<'_, State>, (wait,): (u64,)| {
            let now = monotonic_ns();
            Ok((subscribe_at(s.data_mut(), now.checked_add(wait), now)?,))
        },
    )?;
    let mut wall = linker.instance(&format!("wasi:clocks/wall-clock@{version}"))?;
    wall.func_wrap("now", |_: StoreContextMut<'_, State>, (): ()| {
        Ok((datetime(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |d| d.as_nanos()),
        ),))
    })?;
    wall.func_wrap("resolution", |_: StoreContextMut<'_, State>, (): ()| {
        Ok((datetime(1),))
    })?;
    Ok(())
}
