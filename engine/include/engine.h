/* engine.h: the contract between mik (C++) and the engine crate (Rust, Wasmtime).
 *
 * This file is written by hand and is the only thing that both sides share. C99, no macros with behaviour.
 *
 * Who calls whom. The engine is pulled: C++ starts requests, asks which of them can go on, runs them one slice at a
 * time and reads what happened. The engine calls C++ for two things only: to wake a loop (any thread) and to hand over
 * a line of guest output (loop thread). Both callbacks must return at once, must not throw and must not call mik_*.
 *
 * Threads. A mik_engine and a mik_component may be used from any thread. A mik_loop, and every mik_req and mik_out that
 * was born on it, belong to the thread that called mik_loop_new: they are run, cancelled and released there and nowhere
 * else. mik_engine_tick is async-signal-safe.
 *
 * Ownership. mik_str borrows: it is valid for the call (arguments), or for as long as the function that returned it
 * says (results). What a _new or _load function returns is owned by the caller and given back to the _delete of the
 * same name. Nothing else is owned.
 *
 * Errors. Fallible functions take a nullable mik_err * and fill it; `code` is one of enum mik_code and stable, `text`
 * is for the operator: UTF-8, NUL-terminated, cut at a character border, no newline at its end.
 * A panic inside the crate never crosses: the call fails with MIK_E_PANIC.
 *
 * Time is CLOCK_MONOTONIC in nanoseconds; MIK_NEVER is "no deadline".
 */
#ifndef MIK_ENGINE_H
#define MIK_ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MIK_ENGINE_ABI 2u
#define MIK_NEVER UINT64_MAX
#define MIK_LENGTH_UNKNOWN UINT64_MAX

typedef struct mik_engine mik_engine;
typedef struct mik_component mik_component;
typedef struct mik_loop mik_loop;
typedef uint64_t mik_req; /* one request on a loop: slot and generation; 0 is never a request. Stale ids are refused. */
typedef uint64_t mik_out; /* one outgoing exchange of a guest, likewise */

typedef struct mik_str {
  const uint8_t *p; /* may be NULL when n is 0 */
  size_t n;
} mik_str;

typedef struct mik_field { /* an HTTP field line: RFC 9110 section 5 */
  mik_str name;            /* lower case */
  mik_str value;           /* any bytes that RFC 9110 allows, UTF-8 or not */
} mik_field;

enum mik_code {
  MIK_OK = 0,
  MIK_E_PANIC = 1,    /* a bug in the crate; the request or call is lost, the process lives */
  MIK_E_INVALID = 2,  /* a bad argument or a stale id: a bug of the caller */
  MIK_E_SYSTEM = 3,   /* the operating system refused: memory, address space, a file */

  /* loading and compiling */
  MIK_E_NOT_WASM = 10,      /* no WebAssembly magic */
  MIK_E_CORE_MODULE = 11,   /* a core module where a component is needed */
  MIK_E_MALFORMED = 12,     /* truncated or invalid wasm */
  MIK_E_NO_HANDLER = 13,    /* exports no wasi:http/incoming-handler 0.2.x */
  MIK_E_P3 = 14,            /* exports only wasi:http/handler 0.3.x, which this build does not run */
  MIK_E_IMPORT = 15,        /* imports what is not offered; the text names each import */
  MIK_E_STATIC_LIMIT = 16,  /* asks for more at its start than its limits allow; the text has both figures */
  MIK_E_ARTEFACT = 17,      /* not an artefact of this engine: other version, settings or CPU: compile again */

  /* running: all but MIK_E_BUSY mean that the guest failed */
  MIK_E_TRAP = 30,        /* the guest trapped; text has the reason and the guest's backtrace */
  MIK_E_NO_RESPONSE = 31, /* returned without response-outparam.set */
  MIK_E_GUEST_ERROR = 32, /* set an error-code as its response; text names it */
  MIK_E_CPU = 33,         /* used up its CPU budget */
  MIK_E_MEMORY = 34,      /* a growth of memory or tables was refused and the guest then failed */
  MIK_E_EXIT = 35,        /* called wasi:cli/exit */
  MIK_E_BODY = 36,        /* the response's body was dropped or left unfinished, or is shorter or longer than content-length */
  MIK_E_HOST_LIMIT = 37,  /* too many resources or too much host memory for one request */
  MIK_E_BUSY = 38,        /* no instance slot was free, or not the memory it asked for: try again */
  MIK_E_STACK = 39        /* the guest overflowed its stack */
};

typedef struct mik_err {
  int32_t code;
  char text[2044];
} mik_err;

/* ---- engine -------------------------------------------------------------------------------------------------- */

/* The stacks of a pool lie in one anonymous mapping, instances_max of them, each with a page below it that the engine
 * protects: both before mik_engine_new returns, by its thread. */
#define MIK_STACK_BYTES (1u << 20)

typedef struct mik_engine_options { /* zeroed means defaults; abi must be MIK_ENGINE_ABI */
  uint32_t abi;
  uint32_t instances_max;            /* component instances alive at once; default 1000. Sizes the pool: each costs about
                                        1 to 3 us of start-up time (a guard page) and 4 GiB of address space */
  uint32_t warm_slots_max;           /* slots for memories, each of which stays mapped to its last component; default, and
                                        the least, 1.5 for each instance */
  uint8_t pagemap_scan;              /* 0 or 2: off; 1: reset memories by PAGEMAP_SCAN (the caller has made sure that
                                        the kernel has it and that pages cannot be swapped or migrated: ADR 0006) */
  uint8_t on_demand;                 /* 1: no pool, allocate each instance (little address space) */
  uint8_t compile_only;              /* 1: for the compile child: no pool, no linker warm-up */
  uint8_t stack_return;              /* 1: madvise(MADV_DONTNEED) is called for the stack of each guest that is over, all
                                        MIK_STACK_BYTES of it, by a caller that makes little of it for most. With
                                        pagemap_scan only: without it such calls go together, by process_madvise */
  uint64_t keep_resident_bytes;      /* of each memory; default 8 MiB with the scan, 256 KiB without */
  uint64_t table_keep_resident_bytes;/* default 1 MiB with the scan, 512 KiB without */
  uint64_t memory_reservation_bytes; /* address space per memory; default 4 GiB. Another value changes the artefacts. */
} mik_engine_options;

/* The engine with its linker. Installs signal handlers for SIGSEGV, SIGBUS, SIGILL and SIGFPE that chain to those in
 * place: never fork after it, and install your own before it. NULL on failure. */
mik_engine *mik_engine_new(const mik_engine_options *options, mik_err *err);
void mik_engine_delete(mik_engine *engine);

/* One tick of the epoch. To be called every few milliseconds at least while any guest runs: a running guest looks at its slice,
 * its CPU budget and its cancellation at ticks and nowhere else. Who knows when the guest should stop gives it a short
 * slice and ticks then. Any thread, signal handlers included. */
void mik_engine_tick(mik_engine *engine);

/* Written memory that stays resident in slots of the pool that no instance uses, tables included: as an instance ends,
 * keep_resident_bytes at most of each of its memories. Any thread. */
uint64_t mik_engine_kept_bytes(const mik_engine *engine);

/* What an artefact depends on beside the component's bytes: engine version, settings, CPU features, transformations. */
void mik_engine_artefact_key(const mik_engine *engine, uint8_t key[32]);

const char *mik_engine_version(void); /* "wasmtime 48.0.8"; static */

/* ---- components ---------------------------------------------------------------------------------------------- */

/* Looks at the bytes without compiling: MIK_OK if this is a component with an HTTP handler whose imports are all
 * offered; else the code and a text that says what is wrong and what to do. Any thread; bounded by the input's size. */
int32_t mik_wasm_check(mik_str wasm, mik_err *err);

/* Checks as mik_wasm_check does, compiles to native code and passes the artefact to `sink` in one or more pieces. Slow (ms to tens of seconds), uses
 * several threads: for the compile child only. `sink` returns 0 to go on. Returns MIK_OK or the code in err. */
int32_t mik_compile(const mik_engine *engine, mik_str wasm, int32_t (*sink)(void *ctx, mik_str piece), void *ctx,
                    mik_err *err);

typedef struct mik_component_options { /* limits hold for each request; zero means the default named */
  uint64_t memory_bytes_max;      /* all linear memories together; default 128 MiB */
  uint32_t table_elements_max;    /* all tables together; default 100000 */
  uint32_t resources_max;         /* handles in the resource table; default 4096 */
  uint64_t hostcall_fuel;         /* bytes copied out of the guest per host call; default 64 MiB */
  uint64_t fields_bytes_max;      /* size of one set of HTTP fields; default 128 KiB */
  uint32_t reuse_max;             /* requests per instance; 0 and 1 mean a fresh instance for each */
  uint32_t reuse_idle_ms;         /* a kept instance is dropped after so long; default 30000 */
  uint64_t reuse_memory_bytes_max;/* a kept instance that has grown past this is dropped; default 64 MiB */
  uint32_t output_bytes_max;      /* stdout and stderr of one request; the rest is counted, not kept; default 64 KiB */
  uint32_t reserved_;
  const mik_field *env;           /* what wasi:cli/environment shows; nothing else is ever shown */
  size_t env_count;
} mik_component_options;

/* Maps an artefact that mik_compile made. `fd` is an open, verified file: this maps native code, so the caller vouches
 * for every byte. The engine does not keep fd. It is read through /proc/self/fd. Bytes that follow the artefact (a
 * trailer of the caller's) are mapped and ignored. Type-checks and pre-instantiates, so it also finds missing imports and
 * static limits. Blocking (file faults). NULL on failure. */
mik_component *mik_component_load(mik_engine *engine, int fd, const mik_component_options *options, mik_err *err);
/* Gives up the caller's reference; requests in flight keep theirs. Kept (reuse) instances of it go with
 * mik_loop_forget. */
void mik_component_delete(mik_component *component);
uint64_t mik_component_bytes(const mik_component *component); /* size of the mapped artefact */

/* ---- loops --------------------------------------------------------------------------------------------------- */

typedef struct mik_loop_ops {
  void *ctx;
  /* Something on this loop became ready from another thread: make the loop call mik_loop_woken. Any thread. */
  void (*wake)(void *ctx);
  /* One line of guest output, without its newline. stream is 1 or 2; or 3 to 8 for wasi:logging of the levels trace,
   * debug, info, warn, error, critical, and then the line is its context (one line), a newline, its message. Called on the loop thread (never on a guest's
   * stack), at the end of a mik_req_run, or in the mik_req_release of a guest that was not over. `user` is the
   * request's. What was cut or dropped is said by the engine in one last line with stream 0. Lines end at 8 KiB. */
  void (*output)(void *ctx, uint64_t user, int stream, mik_str line);
} mik_loop_ops;

mik_loop *mik_loop_new(mik_engine *engine, const mik_loop_ops *ops, mik_err *err); /* on the loop's own thread */
void mik_loop_delete(mik_loop *loop); /* same thread; cancels what is left */

typedef struct mik_woken {
  mik_req req;
  uint64_t user;
} mik_woken;

/* Fires the guests' timers that are due at now_ns, takes wakes that came from elsewhere, and moves up to `cap` requests
 * that can go on into `woken`, in the order in which they woke. Each is given once; run it or it stays where it is.
 * When it fills all of `cap` there may be more. */
size_t mik_loop_woken(mik_loop *loop, uint64_t now_ns, mik_woken *woken, size_t cap);
/* When the next guest timer is due; MIK_NEVER if there is none. */
uint64_t mik_loop_next_timer(const mik_loop *loop);
/* Drops kept instances: of one component, or all when NULL; those idle since before now_ns minus their limit when
 * idle_only is not 0. */
void mik_loop_forget(mik_loop *loop, const mik_component *component, int idle_only, uint64_t now_ns);

/* What the linear memories and tables of this loop's instances hold now, those of kept instances included. */
uint64_t mik_loop_memory(const mik_loop *loop);
/* How much that may become: a growth past it is refused as one past the component's own limit is (the guest sees -1,
 * and MIK_E_MEMORY if it then fails). MIK_NEVER, no bound, until this is called. What is over it already stays. */
void mik_loop_set_memory_room(mik_loop *loop, uint64_t bytes);

/* ---- requests ------------------------------------------------------------------------------------------------ */

typedef struct mik_slice { /* a piece of mik_head.bytes */
  uint32_t offset, length;
} mik_slice;

typedef struct mik_field_slice {
  mik_slice name; /* any case: the engine lowers it */
  mik_slice value;
} mik_field_slice;

enum { MIK_BODY_NONE = 0, MIK_BODY_STREAM = 1 };

typedef struct mik_head {
  mik_str bytes; /* everything below points into it; copied once by the engine */
  mik_slice method;
  mik_slice authority; /* host[:port], never empty */
  mik_slice path_query;/* as it goes to the guest, untouched: "/a%2Fb//c?x=1" */
  const mik_field_slice *fields; /* the guest sees them in this order, minus hop-by-hop and Host */
  size_t field_count;
  uint8_t https; /* scheme: 0 http, 1 https */
  uint8_t body;  /* MIK_BODY_* */
  uint8_t reserved_[6];
  uint64_t user;          /* comes back in events and output lines */
  uint64_t cpu_budget_ns; /* CPU time of the whole request; MIK_NEVER for none */
} mik_head;

/* Makes the request's slot. Instantiation and the call happen in mik_req_run, which the caller calls next, when it
 * likes: a started request costs memory for its head only until it is first run. 0 on failure (MIK_E_INVALID for a head
 * that cannot be a request: the client's fault). */
mik_req mik_req_start(mik_loop *loop, mik_component *component, const mik_head *head, mik_err *err);

enum {
  MIK_EV_HEAD = 1u << 0,      /* the response's head is there: mik_resp_head */
  MIK_EV_BODY = 1u << 1,      /* there are bytes to peek */
  MIK_EV_END = 1u << 2,       /* the response is complete after the bytes that are queued; trailers: mik_resp_trailers */
  MIK_EV_ABORT = 1u << 3,     /* after MIK_EV_HEAD: cut the response, so that the client can tell; mik_req_error says why */
  MIK_EV_FAILED = 1u << 4,    /* MIK_EV_HEAD was not and will not be said (even if the guest had set a response in the
                                 slice that failed): answer yourself; mik_req_error says why */
  MIK_EV_NEED_BODY = 1u << 5, /* the request body's window is open again: push on */
  MIK_EV_OUTBOUND = 1u << 6,  /* the guest began outgoing requests: mik_req_outbound */
  MIK_EV_YIELDED = 1u << 7,   /* the slice is used up; the guest can go on at once (it is not in mik_loop_woken) */
  MIK_EV_DONE = 1u << 8,      /* the guest is over and its instance gone or kept; bytes may still be queued */
  MIK_EV_BODY_UNUSED = 1u << 9 /* the guest will read no more of the request body: drain or drop what comes */
};

/* Runs one slice: instantiates on the first, then lets the guest go on until it waits, ends, or slice_ns have passed
 * since now_ns, of CLOCK_MONOTONIC (seen at the next tick). Returns MIK_EV_* bits, each said once but BODY, NEED_BODY,
 * OUTBOUND and YIELDED. 0 for a stale id, and for a request whose MIK_EV_DONE was said. Response bytes are produced
 * only while the window (256 KiB) is not full: consume to let the guest go on. MIK_EV_END comes when the guest has
 * returned, so the last bytes of a response may be there long before it. A guest may write up to 32 MiB (or its memory
 * limit) before it sets the response; that much may then be queued at once. */
uint32_t mik_req_run(mik_loop *loop, mik_req req, uint64_t now_ns, uint64_t slice_ns);

/* Copies request body bytes in. Returns 0: go on; 1: taken, but the window (128 KiB) is full: stop until
 * MIK_EV_NEED_BODY; -1: nobody reads any more or the id is stale (the bytes are dropped). */
int mik_req_body_push(mik_loop *loop, mik_req req, mik_str bytes);
/* The body is complete; trailers may be empty. */
void mik_req_body_end(mik_loop *loop, mik_req req, const mik_field *trailers, size_t count);
/* The body will not be complete: the guest's read fails. */
void mik_req_body_fail(mik_loop *loop, mik_req req);

typedef struct mik_resp {
  uint16_t status;
  uint16_t reserved_[3];
  uint64_t content_length; /* from the guest's content-length; MIK_LENGTH_UNKNOWN without one */
  size_t field_count;      /* how many fields there are, even if more than cap */
} mik_resp;

/* The head, once MIK_EV_HEAD was said. Names and values are valid until mik_req_release. 0, or -1 if there is none. */
int mik_resp_head(mik_loop *loop, mik_req req, mik_resp *resp, mik_field *fields, size_t cap);
/* Bytes ready to be written, in order, for writev: valid until the next consume, run, cancel or release of this
 * request. Returns how many pieces were filled in. */
size_t mik_resp_peek(mik_loop *loop, mik_req req, mik_str *pieces, size_t cap);
/* Says how many of them went out. A guest that waits for room goes on when half of the window is free (it then shows up
 * in mik_loop_woken). */
void mik_resp_consume(mik_loop *loop, mik_req req, size_t bytes);
/* After MIK_EV_END: how many trailers there are; fills at most cap. Valid until release. */
size_t mik_resp_trailers(mik_loop *loop, mik_req req, mik_field *fields, size_t cap);

/* After MIK_EV_FAILED or MIK_EV_ABORT: the code; *text is valid until release. */
int32_t mik_req_error(mik_loop *loop, mik_req req, mik_str *text);

typedef struct mik_stats {
  uint64_t cpu_ns;           /* time inside mik_req_run, instantiation and reset included */
  uint64_t memory_bytes_peak;/* all linear memories */
  uint64_t memory_bytes;     /* memories and tables now; 0 once the guest is over, even if its instance is kept */
  uint32_t runs;             /* slices */
  uint32_t outbound;         /* outgoing requests begun */
  uint32_t reuse_index;      /* 0: fresh instance; n: served by an instance that had served n requests */
  uint32_t instantiate_ns;   /* of a fresh one */
} mik_stats;
void mik_req_stats(mik_loop *loop, mik_req req, mik_stats *stats);
uint64_t mik_req_memory(mik_loop *loop, mik_req req); /* memory_bytes alone; 0 for a stale id */

/* Gives the slot back. Before MIK_EV_DONE this cancels: the guest is unwound, its memory, resources and outgoing
 * requests freed before it returns. The id is stale afterwards. Not from inside a callback. */
void mik_req_release(mik_loop *loop, mik_req req);

/* ---- outgoing requests of guests (wasi:http/outgoing-handler) ------------------------------------------------ */

/* wasi:http error-code cases that the client side gives; the engine maps them to the WIT variant. */
enum mik_http_error {
  MIK_HTTP_DNS_TIMEOUT = 1,
  MIK_HTTP_DNS_ERROR,
  MIK_HTTP_DESTINATION_NOT_FOUND,
  MIK_HTTP_DESTINATION_UNAVAILABLE,
  MIK_HTTP_DESTINATION_IP_PROHIBITED,
  MIK_HTTP_DESTINATION_IP_UNROUTABLE,
  MIK_HTTP_CONNECTION_REFUSED,
  MIK_HTTP_CONNECTION_TERMINATED,
  MIK_HTTP_CONNECTION_TIMEOUT,
  MIK_HTTP_CONNECTION_READ_TIMEOUT,
  MIK_HTTP_CONNECTION_WRITE_TIMEOUT,
  MIK_HTTP_CONNECTION_LIMIT_REACHED,
  MIK_HTTP_TLS_PROTOCOL_ERROR,
  MIK_HTTP_TLS_CERTIFICATE_ERROR,
  MIK_HTTP_TLS_ALERT_RECEIVED,
  MIK_HTTP_REQUEST_DENIED,
  MIK_HTTP_REQUEST_URI_INVALID,
  MIK_HTTP_REQUEST_BODY_SIZE,
  MIK_HTTP_RESPONSE_INCOMPLETE,
  MIK_HTTP_RESPONSE_HEADER_SECTION_SIZE,
  MIK_HTTP_RESPONSE_TIMEOUT,
  MIK_HTTP_PROTOCOL_ERROR,
  MIK_HTTP_INTERNAL_ERROR
};

typedef struct mik_out_head { /* all views valid until mik_out_release */
  mik_str method;
  mik_str scheme;    /* "http", "https", or what the guest wrote; empty when it gave none (means https) */
  mik_str authority; /* empty when the guest gave none */
  mik_str path_query;/* empty when the guest gave none (means "/") */
  size_t field_count;
  uint64_t content_length; /* from the guest's field; MIK_LENGTH_UNKNOWN without one */
  uint8_t body;            /* MIK_BODY_NONE: the guest never asked for the body or finished it empty before handle */
  uint8_t reserved_[7];
  uint64_t connect_timeout_ns, first_byte_timeout_ns, between_bytes_timeout_ns; /* MIK_NEVER when not set */
} mik_out_head;

/* The next outgoing request that this guest has begun and the caller has not taken; 0 when there is none. The guest
 * stays suspended inside outgoing-handler.handle until the caller answers with accept or refuse. */
mik_out mik_req_outbound(mik_loop *loop, mik_req req);
int mik_out_head_get(mik_loop *loop, mik_out out, mik_out_head *head, mik_field *fields, size_t cap);
/* Lets handle return a future; `user` comes back in events of this exchange. */
void mik_out_accept(mik_loop *loop, mik_out out, uint64_t user);
/* Makes handle return the error itself. Releases the exchange. */
void mik_out_refuse(mik_loop *loop, mik_out out, int32_t http_error);

enum {
  MIK_OUT_BODY = 1u << 0,      /* request bytes to peek */
  MIK_OUT_BODY_END = 1u << 1,  /* the request body is complete after those; trailers are dropped */
  MIK_OUT_BODY_FAIL = 1u << 2, /* the guest dropped its body unfinished: cut the connection */
  MIK_OUT_READ = 1u << 3,      /* the response window is open again: push on */
  MIK_OUT_DROPPED = 1u << 4    /* the guest (or its end) dropped the exchange: stop, then mik_out_release */
};
typedef struct mik_out_event {
  mik_out out;
  uint64_t user;
  uint32_t bits;
  uint32_t reserved_;
} mik_out_event;
/* What happened to accepted exchanges since the last call. To be drained after runs, releases and mik_loop_woken. An
 * exchange whose guest went away between mik_req_outbound and mik_out_accept is accepted like any other, and then said
 * to be MIK_OUT_DROPPED; mik_out_refuse frees it without. */
size_t mik_loop_out_events(mik_loop *loop, mik_out_event *events, size_t cap);

size_t mik_out_peek(mik_loop *loop, mik_out out, mik_str *pieces, size_t cap); /* request body, as mik_resp_peek */
void mik_out_consume(mik_loop *loop, mik_out out, size_t bytes);
/* The response's head: the guest's future resolves. */
void mik_out_respond(mik_loop *loop, mik_out out, uint16_t status, const mik_field *fields, size_t count);
int mik_out_push(mik_loop *loop, mik_out out, mik_str bytes); /* response body, as mik_req_body_push */
void mik_out_end(mik_loop *loop, mik_out out, const mik_field *trailers, size_t count);
/* Before respond: the future resolves to the error; after: the body's stream fails with it. */
void mik_out_fail(mik_loop *loop, mik_out out, int32_t http_error);
/* The caller is through with it. If the guest still waits, it gets an internal error. The id is stale afterwards. */
void mik_out_release(mik_loop *loop, mik_out out);

#ifdef __cplusplus
}
#endif

#endif
