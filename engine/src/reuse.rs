//! Instances that are kept for another request of the same component (opt-in). The rules: never after an error of any
//! kind, retired by count, idle time and memory. What a request leaves in the table stays where it is, because the
//! guest still has handles to it (libc keeps stdout, engines keep pollables), but it is made harmless: see
//! `make_harmless`; and an instance that collects too much of it is retired.

use crate::component::Component;
use crate::host::InRequest;
use crate::run::Inst;
use crate::store::State;
use std::sync::Arc;

/// So many more table entries than after the first instantiation retire an instance.
const LEFT_BEHIND_MAX: usize = 256;

struct Kept {
    inst: Box<Inst>,
    since: u64,
}

/// The kept instances of one loop, by component. An instance holds its component, so the address is not used again.
#[derive(Default)]
pub struct Cache {
    sets: Vec<(*const Component, Vec<Kept>)>,
}

/// Takes the request's data out of what it left in the table.
fn make_harmless(state: &mut State) -> usize {
    state.response_bodies.clear();
    state.request_bodies.clear();
    let mut count = 0;
    for entry in state.table.iter_mut() {
        count += 1;
        if let Some(request) = entry.downcast_mut::<InRequest>() {
            request.head = None;
            request.fields = None;
            request.body = None;
        }
    }
    count
}

impl Cache {
    pub fn take(&mut self, component: &Arc<Component>) -> Option<Box<Inst>> {
        let set = self
            .sets
            .iter_mut()
            .find(|(c, _)| *c == Arc::as_ptr(component))?;
        set.1.pop().map(|kept| kept.inst)
    }

    /// Keeps an instance whose request ended well, or drops it.
    pub fn give(&mut self, mut inst: Box<Inst>, now: u64) {
        let component = inst.store.data().component.clone();
        let limits = &component.limits;
        let state = inst.store.data_mut();
        if inst.served >= limits.reuse_max || state.limits.memory() > limits.reuse_memory_bytes_max
        {
            return;
        }
        if make_harmless(state) > inst.table_baseline + LEFT_BEHIND_MAX {
            return;
        }
        let key = Arc::as_ptr(&component);
        let kept = Kept { inst, since: now };
        match self.sets.iter_mut().find(|(c, _)| *c == key) {
            Some((_, set)) => set.push(kept),
            None => self.sets.push((key, vec![kept])),
        }
    }

    /// Drops one instance, the longest idle; false when there is none.
    pub fn evict_one(&mut self) -> bool {
        let oldest = self
            .sets
            .iter_mut()
            .filter(|(_, s)| !s.is_empty())
            .min_by_key(|(_, s)| s[0].since);
        oldest.map(|(_, set)| drop(set.remove(0))).is_some()
    }

    pub fn forget(&mut self, component: *const Component, idle_since: Option<u64>) {
        for (key, set) in &mut self.sets {
            if component.is_null() || *key == component {
                set.retain(|kept| {
                    let idle_ns = kept.inst.store.data().component.limits.reuse_idle_ns;
                    idle_since.is_some_and(|now| kept.since.saturating_add(idle_ns) > now)
                });
            }
        }
        self.sets.retain(|(_, set)| !set.is_empty());
    }
}
