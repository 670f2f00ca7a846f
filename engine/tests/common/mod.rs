//! Drives the C functions as C++ would.
#![allow(dead_code)]

pub mod guest;

use mik_engine::ffi::*;
use mik_engine::*;
use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU32, Ordering};

pub const MS: u64 = 1_000_000;

/// Fields as names and values.
pub type Fields = Vec<(String, Vec<u8>)>;

pub fn now() -> u64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

pub fn text(err: &Err) -> String {
    let n = err
        .text
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(err.text.len());
    String::from_utf8_lossy(&err.text[..n]).into_owned()
}

pub fn str_of(bytes: &[u8]) -> Str {
    Str {
        p: bytes.as_ptr(),
        n: bytes.len(),
    }
}

pub fn bytes_of<'a>(s: Str) -> &'a [u8] {
    unsafe { s.bytes() }
}

pub fn check(wasm: &[u8]) -> (i32, String) {
    let mut err = Err::default();
    let code = unsafe { mik_wasm_check(str_of(wasm), &mut err) };
    (code, text(&err))
}

unsafe extern "C" fn sink(ctx: *mut c_void, piece: Str) -> i32 {
    unsafe { (*ctx.cast::<Vec<u8>>()).extend_from_slice(piece.bytes()) };
    0
}

#[derive(Default)]
pub struct Seen {
    pub wakes: AtomicU32,
    pub lines: std::sync::Mutex<Vec<(u64, i32, String)>>,
}

unsafe extern "C" fn wake(ctx: *mut c_void) {
    unsafe { &*ctx.cast::<Seen>() }
        .wakes
        .fetch_add(1, Ordering::SeqCst);
}

unsafe extern "C" fn output(ctx: *mut c_void, user: u64, stream: i32, line: Str) {
    let line = String::from_utf8_lossy(bytes_of(line)).into_owned();
    unsafe { &*ctx.cast::<Seen>() }
        .lines
        .lock()
        .unwrap()
        .push((user, stream, line));
}

/// An engine with one loop on this thread. The engine is ticked by a thread of its own.
pub struct Rig {
    pub engine: *mut Engine,
    pub l: *mut Loop,
    pub seen: Box<Seen>,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    ticker: Option<std::thread::JoinHandle<()>>,
    components: Vec<*mut Component>,
}

pub fn options() -> EngineOptions {
    EngineOptions {
        abi: ABI,
        instances_max: 20,
        ..EngineOptions::default()
    }
}

pub fn engine(options: &EngineOptions) -> *mut Engine {
    let mut err = Err::default();
    let engine = unsafe { mik_engine_new(options, &mut err) };
    assert!(!engine.is_null(), "{}", text(&err));
    engine
}

pub fn compile_with(engine: *const Engine, wasm: &[u8]) -> Result<Vec<u8>, (i32, String)> {
    let (mut err, mut artefact) = (Err::default(), Vec::<u8>::new());
    let ctx = (&raw mut artefact).cast();
    match unsafe { mik_compile(engine, str_of(wasm), Some(sink), ctx, &mut err) } {
        0 => Ok(artefact),
        code => Err((code, text(&err))),
    }
}

/// A file that is gone when it is closed, with these bytes.
pub fn file_of(bytes: &[u8]) -> std::fs::File {
    use std::io::Write;
    use std::os::fd::FromRawFd;
    let mut file =
        unsafe { std::fs::File::from_raw_fd(libc::memfd_create(c"artefact".as_ptr(), 0)) };
    file.write_all(bytes).unwrap();
    file
}

pub fn load_with(
    engine: *mut Engine,
    artefact: &[u8],
    options: &ComponentOptions,
) -> Result<*mut Component, (i32, String)> {
    let (file, mut err) = (file_of(artefact), Err::default());
    let component = unsafe { mik_component_load(engine, file.as_raw_fd(), options, &mut err) };
    if component.is_null() {
        Err((err.code, text(&err)))
    } else {
        Ok(component)
    }
}

impl Rig {
    pub fn new() -> Rig {
        Rig::with(&options())
    }

    pub fn with(options: &EngineOptions) -> Rig {
        let engine = engine(options);
        let seen = Box::<Seen>::default();
        let ops = LoopOps {
            ctx: (&raw const *seen).cast_mut().cast(),
            wake: Some(wake),
            output: Some(output),
        };
        let l = unsafe { mik_loop_new(engine, &ops, null_mut()) };
        assert!(!l.is_null());
        let stop = std::sync::Arc::<std::sync::atomic::AtomicBool>::default();
        let (flag, address) = (stop.clone(), engine as usize);
        let ticker = std::thread::spawn(move || {
            while !flag.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(1));
                unsafe { mik_engine_tick(address as *mut Engine) };
            }
        });
        Rig {
            engine,
            l,
            seen,
            stop,
            ticker: Some(ticker),
            components: Vec::new(),
        }
    }

    pub fn load(&mut self, wasm: &[u8], options: &ComponentOptions) -> *mut Component {
        let artefact = compile_with(self.engine, wasm).unwrap();
        self.adopt(&artefact, options)
    }

    pub fn adopt(&mut self, artefact: &[u8], options: &ComponentOptions) -> *mut Component {
        let component = load_with(self.engine, artefact, options).unwrap();
        self.components.push(component);
        component
    }

    pub fn guest(&mut self, body: &str) -> *mut Component {
        self.load(&guest::guest(body), &ComponentOptions::default())
    }

    pub fn start(&mut self, component: *mut Component, request: &Request) -> u64 {
        let mut err = Err::default();
        let id = request.start(self.l, component, &mut err);
        assert_ne!(id, 0, "{}", text(&err));
        id
    }

    pub fn run(&mut self, req: u64) -> u32 {
        unsafe { mik_req_run(self.l, req, now(), 1000 * MS) }
    }

    pub fn push(&mut self, req: u64, bytes: &[u8]) -> i32 {
        unsafe { mik_req_body_push(self.l, req, str_of(bytes)) }
    }

    pub fn body_end(&mut self, req: u64) {
        unsafe { mik_req_body_end(self.l, req, null(), 0) }
    }

    pub fn woken(&mut self, now: u64) -> Vec<u64> {
        let mut woken = [Woken::default(); 32];
        let n = unsafe { mik_loop_woken(self.l, now, woken.as_mut_ptr(), woken.len()) };
        woken[..n].iter().map(|w| w.req).collect()
    }

    pub fn peek(&mut self, req: u64) -> Vec<u8> {
        let mut pieces = [Str::EMPTY; 64];
        let n = unsafe { mik_resp_peek(self.l, req, pieces.as_mut_ptr(), pieces.len()) };
        pieces[..n]
            .iter()
            .flat_map(|p| bytes_of(*p).to_vec())
            .collect()
    }

    pub fn consume(&mut self, req: u64, n: usize) {
        unsafe { mik_resp_consume(self.l, req, n) }
    }

    /// Takes all that is queued.
    pub fn take(&mut self, req: u64) -> Vec<u8> {
        let mut all = Vec::new();
        loop {
            let part = self.peek(req);
            if part.is_empty() {
                return all;
            }
            self.consume(req, part.len());
            all.extend(part);
        }
    }

    pub fn error(&mut self, req: u64) -> (i32, String) {
        let mut text = Str::EMPTY;
        let code = unsafe { mik_req_error(self.l, req, &mut text) };
        (code, String::from_utf8_lossy(bytes_of(text)).into_owned())
    }

    pub fn head(&mut self, req: u64) -> Option<(Resp, Fields)> {
        let mut resp = Resp::default();
        let mut fields = [Field {
            name: Str::EMPTY,
            value: Str::EMPTY,
        }; 64];
        if unsafe { mik_resp_head(self.l, req, &mut resp, fields.as_mut_ptr(), 64) } != 0 {
            return None;
        }
        let own = |f: &Field| {
            (
                String::from_utf8_lossy(bytes_of(f.name)).into_owned(),
                bytes_of(f.value).to_vec(),
            )
        };
        Some((resp, fields[..resp.field_count].iter().map(own).collect()))
    }

    pub fn stats(&mut self, req: u64) -> Stats {
        let mut stats = Stats::default();
        unsafe { mik_req_stats(self.l, req, &mut stats) };
        stats
    }

    pub fn release(&mut self, req: u64) {
        unsafe { mik_req_release(self.l, req) }
    }

    pub fn lines(&self) -> Vec<(u64, i32, String)> {
        std::mem::take(&mut *self.seen.lines.lock().unwrap())
    }

    /// Runs the request until it is over, with a real clock; returns all bits and all bytes.
    pub fn finish(&mut self, req: u64) -> (u32, Vec<u8>) {
        let (mut bits, mut bytes) = (0, Vec::new());
        let until = now() + 20_000 * MS;
        loop {
            let last = self.run(req);
            bits |= last & !EV_YIELDED;
            bytes.extend(self.take(req));
            if bits & EV_DONE != 0 {
                return (bits, bytes);
            }
            while last & EV_YIELDED == 0 && !self.woken(now()).contains(&req) {
                assert!(now() < until, "the request does not end: bits {bits:#x}");
                std::thread::sleep(std::time::Duration::from_micros(100));
            }
        }
    }

    /// A GET from start to release.
    pub fn get(&mut self, component: *mut Component) -> (u32, Vec<u8>, (i32, String)) {
        let req = self.start(component, &Request::default());
        let (bits, bytes) = self.finish(req);
        let error = self.error(req);
        self.release(req);
        (bits, bytes, error)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.ticker.take().unwrap().join();
        unsafe {
            mik_loop_delete(self.l);
            for component in &self.components {
                mik_component_delete(*component);
            }
            mik_engine_delete(self.engine);
        }
    }
}

/// The head of a request.
#[derive(Clone)]
pub struct Request {
    pub method: &'static str,
    pub path: &'static str,
    pub authority: &'static str,
    pub fields: Vec<(&'static str, &'static [u8])>,
    pub body: bool,
    pub user: u64,
    pub cpu_budget_ns: u64,
}

impl Default for Request {
    fn default() -> Request {
        Request {
            method: "GET",
            path: "/",
            authority: "test.example",
            fields: Vec::new(),
            body: false,
            user: 7,
            cpu_budget_ns: NEVER,
        }
    }
}

impl Request {
    pub fn post() -> Request {
        Request {
            method: "POST",
            body: true,
            ..Request::default()
        }
    }

    pub fn start(&self, l: *mut Loop, component: *mut Component, err: *mut Err) -> u64 {
        let mut bytes = Vec::new();
        let mut add = |part: &[u8]| {
            let slice = Slice {
                offset: bytes.len() as u32,
                length: part.len() as u32,
            };
            bytes.extend_from_slice(part);
            slice
        };
        let (method, authority) = (add(self.method.as_bytes()), add(self.authority.as_bytes()));
        let path_query = add(self.path.as_bytes());
        let fields: Vec<FieldSlice> = self
            .fields
            .iter()
            .map(|(n, v)| FieldSlice {
                name: add(n.as_bytes()),
                value: add(v),
            })
            .collect();
        let head = Head {
            bytes: str_of(&bytes),
            method,
            authority,
            path_query,
            fields: fields.as_ptr(),
            field_count: fields.len(),
            https: 0,
            body: self.body as u8,
            reserved_: [0; 6],
            user: self.user,
            cpu_budget_ns: self.cpu_budget_ns,
        };
        unsafe { mik_req_start(l, component, &head, err) }
    }
}
