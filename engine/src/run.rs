//! The future of one request: instantiate (or take a kept instance), call `handle`.

use crate::body::BodyIn;
use crate::clocks::monotonic_ns;
use crate::component::Component;
use crate::host::{InBody, InRequest, Outparam};
use crate::request::HeadIn;
use crate::store::{Shared, State, new_store};
use crate::waker::{LoopCore, lock};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use wasmtime::Store;
use wasmtime::component::{Instance, Resource, TypedFunc};

type Handle = TypedFunc<(Resource<InRequest>, Resource<Outparam>), ()>;

/// A live instance. Dropping it gives its pool slots back.
pub struct Inst {
    pub store: Store<State>,
    pub served: u32,
    pub table_baseline: usize,
    handle: Handle,
}

pub struct Job {
    pub component: Arc<Component>,
    pub core: Arc<LoopCore>,
    pub shared: Arc<Shared>,
    pub kept: Option<Box<Inst>>,
    pub head: HeadIn,
    pub body: Option<Arc<BodyIn>>,
}

pub type Outcome = wasmtime::Result<Box<Inst>>;

fn typed_handle(
    component: &Component,
    instance: &Instance,
    store: &mut Store<State>,
) -> wasmtime::Result<Handle> {
    if component.type_checked.load(Ordering::Relaxed) {
        let func = instance
            .get_func(&mut *store, component.handle)
            .ok_or_else(|| wasmtime::format_err!("the component has lost its handler"))?;
        // Safety: another instance of this component passed the check below, and types belong to components.
        return Ok(unsafe { TypedFunc::new_unchecked(func) });
    }
    let handle = instance.get_typed_func(&mut *store, component.handle)?;
    component.type_checked.store(true, Ordering::Relaxed);
    Ok(handle)
}

async fn instantiate(job: &Job) -> Outcome {
    let started = monotonic_ns();
    let component = &job.component;
    let mut store = new_store(component, &job.core, &job.shared);
    store.set_epoch_deadline(1);
    store.set_hostcall_fuel(component.limits.hostcall_fuel as usize);
    let instance = component.pre.instantiate_async(&mut store).await?;
    let handle = typed_handle(component, &instance, &mut store)?;
    let table_baseline = if component.limits.reuse_max > 1 {
        store.data_mut().table.iter_mut().count()
    } else {
        0
    };
    let took = monotonic_ns() - started;
    lock(&job.shared.exchange).instantiate_ns = took.min(u32::MAX as u64) as u32;
    Ok(Box::new(Inst {
        store,
        served: 0,
        table_baseline,
        handle,
    }))
}

pub async fn serve(mut job: Job) -> Outcome {
    let mut inst = match job.kept.take() {
        Some(mut inst) => {
            inst.store.set_epoch_deadline(1);
            inst.store
                .set_hostcall_fuel(job.component.limits.hostcall_fuel as usize);
            inst
        }
        None => instantiate(&job).await?,
    };
    inst.served += 1;
    let state = inst.store.data_mut();
    state.serial = state.serial.wrapping_add(1);
    state.head_request = job.head.method() == b"HEAD";
    let request = InRequest {
        head: Some(Arc::new(job.head)),
        fields: None,
        body: Some(InBody::new(job.body.take())),
    };
    let request = state.table.push(request)?;
    let outparam = state.table.push(Outparam {
        serial: state.serial,
    })?;
    let handle = inst.handle;
    handle
        .call_async(&mut inst.store, (request, outparam))
        .await?;
    Ok(inst)
}
