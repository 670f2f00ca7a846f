//! The engine: Wasmtime's configuration, its pool, and the linker that all components share.

use crate::component::TRANSFORM_VERSION;
use crate::error::Fault;
use crate::ffi::{ABI, Code, EngineOptions};
use crate::link::linker;
use crate::store::State;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails,
};

pub const VERSION: &std::ffi::CStr = c"wasmtime 48.0.8";

const MIB: u64 = 1 << 20;

/// MIK_STACK_BYTES
const STACK_BYTES: usize = 1 << 20;

pub struct Engine {
    pub wasmtime: wasmtime::Engine,
    /// None in an engine that only compiles.
    pub linker: Option<Linker<State>>,
    pub instances_max: u32,
    live: AtomicU32,
}

/// Counts a store that is alive.
pub struct Live(Arc<Engine>);

impl Live {
    pub fn new(engine: &Arc<Engine>) -> Live {
        engine.live.fetch_add(1, Ordering::Relaxed);
        Live(engine.clone())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

fn or_default<T: PartialEq + From<u8>>(value: T, default: T) -> T {
    if value == T::from(0) { default } else { value }
}

fn pool(options: &EngineOptions, n: u32) -> PoolingAllocationConfig {
    let scan = options.pagemap_scan == 1;
    let keep = or_default(
        options.keep_resident_bytes,
        if scan { 8 * MIB } else { MIB / 4 },
    );
    let table_keep = or_default(
        options.table_keep_resident_bytes,
        if scan { MIB } else { MIB / 2 },
    );
    // As many slots for memories as components shall have their own: another's image is two mappings more.
    let memories = n.saturating_add(n / 2).max(2).max(options.warm_slots_max);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(n)
        .total_core_instances(n.saturating_mul(8))
        .total_memories(memories)
        .total_tables(n.saturating_mul(4))
        .max_tables_per_module(16)
        .max_memories_per_module(16)
        .total_stacks(n)
        .total_gc_heaps(n)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        .table_elements(100_000)
        .max_unused_warm_slots(memories)
        .linear_memory_keep_resident(keep as usize)
        .table_keep_resident(table_keep as usize)
        .pagemap_scan(if scan { Enabled::Yes } else { Enabled::No })
        .decommit_batch_size(if scan { 1 } else { 16 });
    if options.memory_reservation_bytes != 0 {
        pool.max_memory_size(options.memory_reservation_bytes as usize);
    }
    pool
}

/// Runs `f` on one of the processors that this thread may use. Wasmtime divides its pool by their number, and each thread
/// keeps to its part as long as that has room; but one loop uses a pool, and it shall have the whole of it.
fn on_one_processor<T>(f: impl FnOnce() -> T) -> T {
    // Safety: plain calls on sets of this size.
    unsafe {
        let mut all: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut all) != 0 {
            return f();
        }
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        if let Some(cpu) = (0..libc::CPU_SETSIZE as usize).find(|c| libc::CPU_ISSET(*c, &all)) {
            libc::CPU_SET(cpu, &mut one);
        }
        libc::sched_setaffinity(0, size, &one);
        let result = f();
        libc::sched_setaffinity(0, size, &all);
        result
    }
}

/// What both the compiling and the running engine must agree on.
fn base(options: &EngineOptions) -> Config {
    let mut config = Config::new();
    config
        .concurrency_support(false)
        .wasm_component_model_async(false)
        .epoch_interruption(true)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true)
        .max_wasm_stack(512 << 10)
        .async_stack_size(STACK_BYTES)
        .async_stack_zeroing(options.stack_return == 1)
        .wasm_backtrace_details(WasmBacktraceDetails::Disable);
    if options.memory_reservation_bytes != 0 {
        config.memory_reservation(options.memory_reservation_bytes);
    }
    config
}

impl Engine {
    pub fn new(options: &EngineOptions) -> Result<Arc<Engine>, Fault> {
        if options.abi != ABI {
            return Err(Fault::invalid(&format!(
                "the caller was built for engine ABI {}, this is {ABI}",
                options.abi
            )));
        }
        // Wasmtime captures host backtraces for errors when RUST_BACKTRACE is set: never on a loop.
        // Safety: mik_engine_new is documented to be called before other threads look at the environment.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
        let instances_max = or_default(options.instances_max, 1000);
        let mut config = base(options);
        if options.compile_only == 0 && options.on_demand == 0 {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(
                options,
                instances_max,
            )));
        }
        let system = |e: wasmtime::Error| {
            Fault::new(Code::System, format!("the engine does not start: {e:#}"))
        };
        let wasmtime = on_one_processor(|| wasmtime::Engine::new(&config)).map_err(system)?;
        let linker = if options.compile_only == 0 {
            Some(linker(&wasmtime).map_err(system)?)
        } else {
            None
        };
        Ok(Arc::new(Engine {
            wasmtime,
            linker,
            instances_max,
            live: AtomicU32::new(0),
        }))
    }

    /// Whether another instance would find the pool empty, as far as can be told beforehand.
    pub fn is_full(&self) -> bool {
        self.live.load(Ordering::Relaxed) >= self.instances_max
    }

    /// What the pool's unused slots hold of memory that was written.
    pub fn kept_bytes(&self) -> u64 {
        let Some(metrics) = self.wasmtime.pooling_allocator_metrics() else {
            return 0;
        };
        (metrics.unused_memory_bytes_resident() + metrics.unused_table_bytes_resident()) as u64
    }

    /// Not cryptographic: it keeps honest artefacts apart. Whoever stores them signs them.
    pub fn artefact_key(&self) -> [u8; 32] {
        let mut key = [0; 32];
        for (lane, out) in key.chunks_exact_mut(8).enumerate() {
            let mut hasher = DefaultHasher::new();
            (lane, VERSION, env!("CARGO_PKG_VERSION"), TRANSFORM_VERSION).hash(&mut hasher);
            self.wasmtime
                .precompile_compatibility_hash()
                .hash(&mut hasher);
            out.copy_from_slice(&hasher.finish().to_le_bytes());
        }
        key
    }
}

#[cfg(test)]
mod tests {
    /// The version we say is the one we are built with.
    #[test]
    fn the_version_is_that_of_the_lock_file() {
        let lock = include_str!("../Cargo.lock");
        let at = lock
            .find("name = \"wasmtime\"\nversion = \"")
            .expect("wasmtime is locked");
        let version = lock[at..].split('"').nth(3).expect("a version");
        assert_eq!(
            super::VERSION.to_str().unwrap(),
            format!("wasmtime {version}")
        );
    }
}
