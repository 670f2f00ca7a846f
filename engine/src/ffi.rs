//! The types and numbers of `include/engine.h`, in the same order. A change here is a change there.

use std::ffi::c_void;

pub const ABI: u32 = 2;
pub const NEVER: u64 = u64::MAX;
pub const LENGTH_UNKNOWN: u64 = u64::MAX;

/// `mik_str`: borrowed bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Str {
    pub p: *const u8,
    pub n: usize,
}

impl Str {
    pub const EMPTY: Str = Str {
        p: std::ptr::null(),
        n: 0,
    };

    pub fn of(bytes: &[u8]) -> Str {
        Str {
            p: bytes.as_ptr(),
            n: bytes.len(),
        }
    }

    /// # Safety
    /// `p` must be valid for `n` bytes for as long as the result is used, or `n` must be 0.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.n == 0 || self.p.is_null() {
            &[]
        } else {
            unsafe { std::slice::from_raw_parts(self.p, self.n) }
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Field {
    pub name: Str,
    pub value: Str,
}

/// `enum mik_code`.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Panic = 1,
    Invalid = 2,
    System = 3,
    NotWasm = 10,
    CoreModule = 11,
    Malformed = 12,
    NoHandler = 13,
    P3 = 14,
    Import = 15,
    StaticLimit = 16,
    Artefact = 17,
    Trap = 30,
    NoResponse = 31,
    GuestError = 32,
    Cpu = 33,
    Memory = 34,
    Exit = 35,
    Body = 36,
    HostLimit = 37,
    Busy = 38,
    Stack = 39,
}

#[repr(C)]
pub struct Err {
    pub code: i32,
    pub text: [u8; 2044],
}

impl Default for Err {
    fn default() -> Err {
        Err {
            code: 0,
            text: [0; 2044],
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct EngineOptions {
    pub abi: u32,
    pub instances_max: u32,
    pub warm_slots_max: u32,
    pub pagemap_scan: u8,
    pub on_demand: u8,
    pub compile_only: u8,
    pub stack_return: u8,
    pub keep_resident_bytes: u64,
    pub table_keep_resident_bytes: u64,
    pub memory_reservation_bytes: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComponentOptions {
    pub memory_bytes_max: u64,
    pub table_elements_max: u32,
    pub resources_max: u32,
    pub hostcall_fuel: u64,
    pub fields_bytes_max: u64,
    pub reuse_max: u32,
    pub reuse_idle_ms: u32,
    pub reuse_memory_bytes_max: u64,
    pub output_bytes_max: u32,
    pub reserved_: u32,
    pub env: *const Field,
    pub env_count: usize,
}

impl Default for ComponentOptions {
    fn default() -> Self {
        // Safety: all fields are numbers or pointers, for which zero is a value.
        unsafe { std::mem::zeroed() }
    }
}

pub type Sink = Option<unsafe extern "C" fn(ctx: *mut c_void, piece: Str) -> i32>;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct LoopOps {
    pub ctx: *mut c_void,
    pub wake: Option<unsafe extern "C" fn(ctx: *mut c_void)>,
    pub output: Option<unsafe extern "C" fn(ctx: *mut c_void, user: u64, stream: i32, line: Str)>,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Woken {
    pub req: u64,
    pub user: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Slice {
    pub offset: u32,
    pub length: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct FieldSlice {
    pub name: Slice,
    pub value: Slice,
}

pub const BODY_NONE: u8 = 0;
pub const BODY_STREAM: u8 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Head {
    pub bytes: Str,
    pub method: Slice,
    pub authority: Slice,
    pub path_query: Slice,
    pub fields: *const FieldSlice,
    pub field_count: usize,
    pub https: u8,
    pub body: u8,
    pub reserved_: [u8; 6],
    pub user: u64,
    pub cpu_budget_ns: u64,
}

pub const EV_HEAD: u32 = 1 << 0;
pub const EV_BODY: u32 = 1 << 1;
pub const EV_END: u32 = 1 << 2;
pub const EV_ABORT: u32 = 1 << 3;
pub const EV_FAILED: u32 = 1 << 4;
pub const EV_NEED_BODY: u32 = 1 << 5;
pub const EV_OUTBOUND: u32 = 1 << 6;
pub const EV_YIELDED: u32 = 1 << 7;
pub const EV_DONE: u32 = 1 << 8;
pub const EV_BODY_UNUSED: u32 = 1 << 9;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Resp {
    pub status: u16,
    pub reserved_: [u16; 3],
    pub content_length: u64,
    pub field_count: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    pub cpu_ns: u64,
    pub memory_bytes_peak: u64,
    pub memory_bytes: u64,
    pub runs: u32,
    pub outbound: u32,
    pub reuse_index: u32,
    pub instantiate_ns: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct OutHead {
    pub method: Str,
    pub scheme: Str,
    pub authority: Str,
    pub path_query: Str,
    pub field_count: usize,
    pub content_length: u64,
    pub body: u8,
    pub reserved_: [u8; 7],
    pub connect_timeout_ns: u64,
    pub first_byte_timeout_ns: u64,
    pub between_bytes_timeout_ns: u64,
}

pub const OUT_BODY: u32 = 1 << 0;
pub const OUT_BODY_END: u32 = 1 << 1;
pub const OUT_BODY_FAIL: u32 = 1 << 2;
pub const OUT_READ: u32 = 1 << 3;
pub const OUT_DROPPED: u32 = 1 << 4;

#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct OutEvent {
    pub out: u64,
    pub user: u64,
    pub bits: u32,
    pub reserved_: u32,
}

/// `enum mik_http_error`: what the client side says went wrong with an outgoing request.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpError {
    DnsTimeout = 1,
    DnsError,
    DestinationNotFound,
    DestinationUnavailable,
    DestinationIpProhibited,
    DestinationIpUnroutable,
    ConnectionRefused,
    ConnectionTerminated,
    ConnectionTimeout,
    ConnectionReadTimeout,
    ConnectionWriteTimeout,
    ConnectionLimitReached,
    TlsProtocolError,
    TlsCertificateError,
    TlsAlertReceived,
    RequestDenied,
    RequestUriInvalid,
    RequestBodySize,
    ResponseIncomplete,
    ResponseHeaderSectionSize,
    ResponseTimeout,
    ProtocolError,
    InternalError,
}

impl HttpError {
    pub fn from_raw(raw: i32) -> HttpError {
        if (HttpError::DnsTimeout as i32..=HttpError::InternalError as i32).contains(&raw) {
            // Safety: the enum is repr(i32) and has each value of the range.
            unsafe { std::mem::transmute::<i32, HttpError>(raw) }
        } else {
            HttpError::InternalError
        }
    }
}
