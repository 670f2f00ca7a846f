//! Compiling to an artefact, and mapping one: type-checked and linked once, instantiated for each request.

use crate::config::Engine;
use crate::error::Fault;
use crate::ffi::{Code, ComponentOptions};
use crate::store::State;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{ComponentExportIndex, InstancePre};

/// The version of what is done to a component's bytes between reading and compiling; 0: nothing. Part of the key.
pub const TRANSFORM_VERSION: u32 = 0;

/// Wasmtime says initial sizes in pages.
const PAGE: u64 = 64 << 10;

pub struct Limits {
    pub memory_bytes_max: u64,
    pub table_elements_max: u32,
    pub resources_max: u32,
    pub hostcall_fuel: u64,
    pub fields_bytes_max: u64,
    pub reuse_max: u32,
    pub reuse_idle_ns: u64,
    pub reuse_memory_bytes_max: u64,
    pub output_bytes_max: u32,
}

pub struct Component {
    pub engine: Arc<Engine>,
    pub pre: InstancePre<State>,
    /// wasi:http/incoming-handler's `handle`
    pub handle: ComponentExportIndex,
    /// `handle` was seen to have the right type, so later instances need not look.
    pub type_checked: AtomicBool,
    pub limits: Limits,
    pub env: Vec<(String, String)>,
    pub bytes: u64,
}

pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, Fault> {
    crate::check::check(wasm)?;
    engine.wasmtime.precompile_component(wasm).map_err(|e| {
        Fault::new(
            Code::Malformed,
            format!("the component does not compile: {e:#}"),
        )
    })
}

fn or<T: PartialEq + Default>(value: T, default: T) -> T {
    if value == T::default() {
        default
    } else {
        value
    }
}

impl Limits {
    fn of(o: &ComponentOptions) -> Limits {
        Limits {
            memory_bytes_max: or(o.memory_bytes_max, 128 << 20),
            table_elements_max: or(o.table_elements_max, 100_000),
            resources_max: or(o.resources_max, 4096),
            hostcall_fuel: or(o.hostcall_fuel, 64 << 20),
            fields_bytes_max: or(o.fields_bytes_max, 128 << 10),
            reuse_max: o.reuse_max.max(1),
            reuse_idle_ns: or(o.reuse_idle_ms, 30_000) as u64 * 1_000_000,
            reuse_memory_bytes_max: or(o.reuse_memory_bytes_max, 64 << 20),
            output_bytes_max: or(o.output_bytes_max, 64 << 10),
        }
    }
}

unsafe fn environment(options: &ComponentOptions) -> Result<Vec<(String, String)>, Fault> {
    if options.env_count == 0 || options.env.is_null() {
        return Ok(Vec::new());
    }
    let pairs = unsafe { std::slice::from_raw_parts(options.env, options.env_count) };
    let text = |bytes: &[u8]| {
        String::from_utf8(bytes.to_vec())
            .map_err(|_| Fault::invalid("an environment variable is not UTF-8"))
    };
    pairs
        .iter()
        .map(|p| unsafe { Ok((text(p.name.bytes())?, text(p.value.bytes())?)) })
        .collect()
}

/// wasi:http/incoming-handler@0.2.x, the newest of several.
fn find_handle(component: &wasmtime::component::Component) -> Result<ComponentExportIndex, Fault> {
    let ty = component.component_type();
    let names: Vec<String> = ty
        .exports(&component.engine().clone())
        .map(|(name, _)| name.to_string())
        .collect();
    let newest = names
        .iter()
        .filter_map(|n| Some((crate::check::patch_of(n, crate::check::HANDLER)?, n)))
        .max()
        .ok_or_else(|| crate::check::no_handler(&names))?;
    let no_function = || {
        Fault::new(
            Code::NoHandler,
            format!("{} has no function `handle`", newest.1),
        )
    };
    let instance = component
        .get_export_index(None, newest.1.as_str())
        .ok_or_else(no_function)?;
    match component.get_export(Some(&instance), "handle") {
        Some((ComponentItem::ComponentFunc(f), index))
            if f.params().len() == 2 && f.results().len() == 0 =>
        {
            Ok(index)
        }
        Some(_) => Err(crate::check::wrong_type(newest.1)),
        None => Err(no_function()),
    }
}

fn check_static_limits(
    component: &wasmtime::component::Component,
    limits: &Limits,
) -> Result<(), Fault> {
    let Some(needs) = component.resources_required() else {
        return Ok(());
    };
    let memory = needs
        .max_initial_memory_size
        .unwrap_or(0)
        .saturating_mul(PAGE);
    if memory > limits.memory_bytes_max {
        return Err(Fault::new(
            Code::StaticLimit,
            format!(
                "the component starts with a memory of {memory} bytes, memory_limit_bytes allows {}: raise it",
                limits.memory_bytes_max
            ),
        ));
    }
    let table = needs.max_initial_table_size.unwrap_or(0);
    if table > limits.table_elements_max as u64 {
        return Err(Fault::new(
            Code::StaticLimit,
            format!(
                "the component starts with a table of {table} elements, {} are allowed",
                limits.table_elements_max
            ),
        ));
    }
    Ok(())
}

/// Why Wasmtime did not take an artefact.
fn refused(text: String) -> Fault {
    if text.contains("pooling allocator") {
        return Fault::new(
            Code::StaticLimit,
            format!("the component asks for more than an instance may have: {text}"),
        );
    }
    Fault::new(
        Code::Artefact,
        format!("not an artefact of this engine: {text}"),
    )
}

impl Component {
    /// # Safety
    /// `fd` must be an artefact of `compile`, byte for byte: this maps native code. `options` must be valid.
    pub unsafe fn load(
        engine: Arc<Engine>,
        fd: i32,
        options: &ComponentOptions,
    ) -> Result<Arc<Component>, Fault> {
        let env = unsafe { environment(options)? };
        let linker = engine
            .linker
            .as_ref()
            .ok_or_else(|| Fault::invalid("this engine only compiles"))?;
        let path = format!("/proc/self/fd/{fd}");
        let bytes = std::fs::metadata(&path)
            .map_err(|e| Fault::new(Code::System, format!("the artefact cannot be read: {e}")))?
            .len();
        let component =
            unsafe { wasmtime::component::Component::deserialize_file(&engine.wasmtime, &path) }
                .map_err(|e| refused(format!("{e:#}")))?;
        let limits = Limits::of(options);
        let handle = find_handle(&component)?;
        check_static_limits(&component, &limits)?;
        let pre = linker
            .instantiate_pre(&component)
            .map_err(|e| Fault::new(Code::Import, format!("an import is not offered: {e:#}")))?;
        let type_checked = AtomicBool::new(false);
        Ok(Arc::new(Component {
            engine,
            pre,
            handle,
            type_checked,
            limits,
            env,
            bytes,
        }))
    }
}
