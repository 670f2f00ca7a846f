//! Components for tests, from WAT: an outer component that imports what wasi:http guests import and lowers it, around a
//! core module whose text the test gives. The text sees the functions below and must export `handle`.

/// (instance, function, core name, core type)
const IMPORTS: &[(&str, &str, &str, &str)] = &[
    ("types", "[constructor]fields", "fields", "(result i32)"),
    (
        "types",
        "[method]fields.append",
        "append",
        "(param i32 i32 i32 i32 i32 i32)",
    ),
    (
        "types",
        "[method]fields.entries",
        "entries",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]incoming-request.headers",
        "req-headers",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]incoming-request.path-with-query",
        "path",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]incoming-request.authority",
        "authority",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]incoming-request.consume",
        "consume",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]incoming-body.stream",
        "in-stream",
        "(param i32 i32)",
    ),
    (
        "types",
        "[static]incoming-body.finish",
        "in-finish",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]future-trailers.subscribe",
        "trailers-sub",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]future-trailers.get",
        "trailers-get",
        "(param i32 i32)",
    ),
    (
        "types",
        "[constructor]outgoing-response",
        "response",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]outgoing-response.set-status-code",
        "set-status",
        "(param i32 i32) (result i32)",
    ),
    (
        "types",
        "[method]outgoing-response.body",
        "response-body",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]outgoing-body.write",
        "body-write",
        "(param i32 i32)",
    ),
    (
        "types",
        "[static]outgoing-body.finish",
        "body-finish",
        "(param i32 i32 i32 i32)",
    ),
    (
        "types",
        "[static]response-outparam.set",
        "set",
        "(param i32 i32 i32 i32 i64 i32 i32 i32 i32)",
    ),
    (
        "types",
        "[constructor]outgoing-request",
        "request",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]outgoing-request.set-authority",
        "set-authority",
        "(param i32 i32 i32 i32) (result i32)",
    ),
    (
        "types",
        "[method]outgoing-request.body",
        "request-body",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]future-incoming-response.subscribe",
        "future-sub",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]future-incoming-response.get",
        "future-get",
        "(param i32 i32)",
    ),
    (
        "types",
        "[method]incoming-response.status",
        "status",
        "(param i32) (result i32)",
    ),
    (
        "types",
        "[method]incoming-response.consume",
        "resp-consume",
        "(param i32 i32)",
    ),
    ("outgoing", "handle", "send", "(param i32 i32 i32 i32)"),
    (
        "streams",
        "[method]input-stream.blocking-read",
        "read",
        "(param i32 i64 i32)",
    ),
    (
        "streams",
        "[method]output-stream.blocking-write-and-flush",
        "write",
        "(param i32 i32 i32 i32)",
    ),
    (
        "streams",
        "[method]output-stream.check-write",
        "check-write",
        "(param i32 i32)",
    ),
    ("poll", "[method]pollable.block", "block", "(param i32)"),
    ("clock", "now", "now", "(result i64)"),
    (
        "clock",
        "subscribe-duration",
        "sleep-sub",
        "(param i64) (result i32)",
    ),
    ("stdout", "get-stdout", "stdout", "(result i32)"),
    (
        "environment",
        "get-environment",
        "environment",
        "(param i32)",
    ),
    ("exit", "exit", "exit", "(param i32)"),
    ("random", "get-random-u64", "random", "(result i64)"),
    ("config", "get", "setting", "(param i32 i32 i32)"),
    ("config", "get-all", "settings", "(param i32)"),
    ("logging", "log", "log", "(param i32 i32 i32 i32 i32)"),
    ("draft", "log", "log-draft", "(param i32 i32 i32 i32 i32)"),
];

/// (type of the component, core name): resource drops.
const DROPS: &[(&str, &str)] = &[
    ("incoming-request", "drop-request"),
    ("outgoing-body", "drop-body"),
    ("output-stream", "drop-out-stream"),
    ("input-stream", "drop-in-stream"),
    ("incoming-body", "drop-in-body"),
    ("pollable", "drop-pollable"),
    ("future-incoming-response", "drop-future"),
    ("incoming-response", "drop-in-response"),
    ("fields", "drop-fields"),
];

const TYPES: &str = r#"
  (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
  (alias export $error "error" (type $io-error))
  (import "wasi:io/poll@0.2.3" (instance $poll
    (export "pollable" (type $p (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $p))))
  ))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer $C $io-error (type $e))
    (export "input-stream" (type $is (sub resource)))
    (export "output-stream" (type $os (sub resource)))
    (type $se' (variant (case "last-operation-failed" (own $e)) (case "closed")))
    (export "stream-error" (type $se (eq $se')))
    (export "[method]input-stream.blocking-read"
      (func (param "self" (borrow $is)) (param "len" u64) (result (result (list u8) (error $se)))))
    (export "[method]output-stream.check-write"
      (func (param "self" (borrow $os)) (result (result u64 (error $se)))))
    (export "[method]output-stream.blocking-write-and-flush"
      (func (param "self" (borrow $os)) (param "contents" (list u8)) (result (result (error $se)))))
  ))
  (alias export $streams "input-stream" (type $input-stream))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:clocks/monotonic-clock@0.2.99" (instance $clock
    (alias outer $C $pollable (type $p))
    (export "now" (func (result u64)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $p))))
  ))
  (import "wasi:cli/stdout@0.2.3" (instance $stdout
    (alias outer $C $output-stream (type $os))
    (export "get-stdout" (func (result (own $os))))
  ))
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-environment" (func (result (list (tuple string string)))))
  ))
  (import "wasi:cli/exit@0.2.0" (instance $exit (export "exit" (func (param "status" (result))))))
  (import "wasi:random/random@0.2.0" (instance $random (export "get-random-u64" (func (result u64)))))
  (import "wasi:config/store@0.2.0-rc.1" (instance $config
    (type $e' (variant (case "upstream" string) (case "io" string)))
    (export "error" (type $e (eq $e')))
    (export "get" (func (param "key" string) (result (result (option string) (error $e)))))
    (export "get-all" (func (result (result (list (tuple string string)) (error $e)))))
  ))
  (import "wasi:logging/logging" (instance $logging
    (type $l' (enum "trace" "debug" "info" "warn" "error" "critical"))
    (export "level" (type $l (eq $l')))
    (export "log" (func (param "level" $l) (param "context" string) (param "message" string)))
  ))
  (import "wasi:logging/logging@0.1.0-draft" (instance $draft
    (type $l' (enum "trace" "debug" "info" "warn" "error" "critical"))
    (export "level" (type $l (eq $l')))
    (export "log" (func (param "level" $l) (param "context" string) (param "message" string)))
  ))
  (import "wasi:http/types@0.2.3" (instance $types
    (alias outer $C $pollable (type $p))
    (alias outer $C $input-stream (type $is))
    (alias outer $C $output-stream (type $os))
    (type $dns' (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns (eq $dns')))
    (type $tls' (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls (eq $tls')))
    (type $fsp' (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $fsp (eq $fsp')))
    (type $ec' (variant (case "DNS-timeout") (case "DNS-error" $dns) (case "destination-not-found")
      (case "destination-unavailable") (case "destination-IP-prohibited") (case "destination-IP-unroutable")
      (case "connection-refused") (case "connection-terminated") (case "connection-timeout")
      (case "connection-read-timeout") (case "connection-write-timeout") (case "connection-limit-reached")
      (case "TLS-protocol-error") (case "TLS-certificate-error") (case "TLS-alert-received" $tls)
      (case "HTTP-request-denied") (case "HTTP-request-length-required") (case "HTTP-request-body-size" (option u64))
      (case "HTTP-request-method-invalid") (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32)) (case "HTTP-request-header-size" (option $fsp))
      (case "HTTP-request-trailer-section-size" (option u32)) (case "HTTP-request-trailer-size" $fsp)
      (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $fsp) (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32)) (case "HTTP-response-trailer-size" $fsp)
      (case "HTTP-response-transfer-coding" (option string)) (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout") (case "HTTP-upgrade-failed") (case "HTTP-protocol-error") (case "loop-detected")
      (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $ec (eq $ec')))
    (type $he' (variant (case "invalid-syntax") (case "forbidden") (case "immutable")))
    (export "header-error" (type $he (eq $he')))
    (export "fields" (type $f (sub resource)))
    (export "[constructor]fields" (func (result (own $f))))
    (export "[method]fields.append" (func (param "self" (borrow $f)) (param "name" string) (param "value" (list u8))
      (result (result (error $he)))))
    (export "[method]fields.entries" (func (param "self" (borrow $f)) (result (list (tuple string (list u8))))))
    (export "incoming-body" (type $ib (sub resource)))
    (export "[method]incoming-body.stream" (func (param "self" (borrow $ib)) (result (result (own $is)))))
    (export "future-trailers" (type $ft (sub resource)))
    (export "[static]incoming-body.finish" (func (param "this" (own $ib)) (result (own $ft))))
    (export "[method]future-trailers.subscribe" (func (param "self" (borrow $ft)) (result (own $p))))
    (export "[method]future-trailers.get" (func (param "self" (borrow $ft))
      (result (option (result (result (option (own $f)) (error $ec)))))))
    (export "incoming-request" (type $ir (sub resource)))
    (export "[method]incoming-request.headers" (func (param "self" (borrow $ir)) (result (own $f))))
    (export "[method]incoming-request.path-with-query" (func (param "self" (borrow $ir)) (result (option string))))
    (export "[method]incoming-request.authority" (func (param "self" (borrow $ir)) (result (option string))))
    (export "[method]incoming-request.consume" (func (param "self" (borrow $ir)) (result (result (own $ib)))))
    (export "outgoing-body" (type $ob (sub resource)))
    (export "[method]outgoing-body.write" (func (param "self" (borrow $ob)) (result (result (own $os)))))
    (export "[static]outgoing-body.finish" (func (param "this" (own $ob)) (param "trailers" (option (own $f)))
      (result (result (error $ec)))))
    (export "outgoing-response" (type $or (sub resource)))
    (export "[constructor]outgoing-response" (func (param "headers" (own $f)) (result (own $or))))
    (export "[method]outgoing-response.set-status-code"
      (func (param "self" (borrow $or)) (param "status-code" u16) (result (result))))
    (export "[method]outgoing-response.body" (func (param "self" (borrow $or)) (result (result (own $ob)))))
    (export "response-outparam" (type $ro (sub resource)))
    (export "[static]response-outparam.set" (func (param "param" (own $ro))
      (param "response" (result (own $or) (error $ec)))))
    (export "outgoing-request" (type $oreq (sub resource)))
    (export "[constructor]outgoing-request" (func (param "headers" (own $f)) (result (own $oreq))))
    (export "[method]outgoing-request.set-authority"
      (func (param "self" (borrow $oreq)) (param "authority" (option string)) (result (result))))
    (export "[method]outgoing-request.body" (func (param "self" (borrow $oreq)) (result (result (own $ob)))))
    (export "request-options" (type $ropt (sub resource)))
    (export "incoming-response" (type $iresp (sub resource)))
    (export "[method]incoming-response.status" (func (param "self" (borrow $iresp)) (result u16)))
    (export "[method]incoming-response.consume" (func (param "self" (borrow $iresp)) (result (result (own $ib)))))
    (export "future-incoming-response" (type $fir (sub resource)))
    (export "[method]future-incoming-response.subscribe" (func (param "self" (borrow $fir)) (result (own $p))))
    (export "[method]future-incoming-response.get" (func (param "self" (borrow $fir))
      (result (option (result (result (own $iresp) (error $ec)))))))
  ))
  (alias export $types "incoming-request" (type $incoming-request))
  (alias export $types "response-outparam" (type $response-outparam))
  (alias export $types "outgoing-request" (type $outgoing-request))
  (alias export $types "outgoing-body" (type $outgoing-body))
  (alias export $types "incoming-body" (type $incoming-body))
  (alias export $types "request-options" (type $request-options))
  (alias export $types "incoming-response" (type $incoming-response))
  (alias export $types "future-incoming-response" (type $future-incoming-response))
  (alias export $types "error-code" (type $error-code))
  (alias export $types "fields" (type $fields))
  (import "wasi:http/outgoing-handler@0.2.0" (instance $outgoing
    (alias outer $C $outgoing-request (type $r))
    (alias outer $C $request-options (type $o))
    (alias outer $C $future-incoming-response (type $f))
    (alias outer $C $error-code (type $ec'))
    (export "error-code" (type $ec (eq $ec')))
    (export "handle" (func (param "request" (own $r)) (param "options" (option (own $o)))
      (result (result (own $f) (error $ec)))))
  ))
"#;

/// Helpers that most guests need. Memory: 0..64 results, 64..1024 the test's own data, from 64 KiB the allocator.
const HELPERS: &str = r#"
    (global $stream (mut i32) (i32.const 0))
    (global $body (mut i32) (i32.const 0))
    ;; A response with these fields, status 200; its body and stream are in the globals.
    (func $respond-with (param $out i32) (param $fields i32)
      (local $r i32)
      (local.set $r (call $response (local.get $fields)))
      (call $response-body (local.get $r) (i32.const 0))
      (global.set $body (i32.load (i32.const 4)))
      (call $set (local.get $out) (i32.const 0) (local.get $r) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0)
        (i32.const 0) (i32.const 0))
      (call $body-write (global.get $body) (i32.const 0))
      (global.set $stream (i32.load (i32.const 4))))
    (func $respond (param $out i32) (call $respond-with (local.get $out) (call $fields)))
    ;; Writes; true when that failed.
    (func $put (param $p i32) (param $n i32) (result i32)
      (call $write (global.get $stream) (local.get $p) (local.get $n) (i32.const 0))
      (i32.load8_u (i32.const 0)))
    (func $finish
      (call $drop-out-stream (global.get $stream))
      (call $body-finish (global.get $body) (i32.const 0) (i32.const 0) (i32.const 0)))
    ;; The request's body as a stream.
    (func $input (param $req i32) (result i32)
      (call $consume (local.get $req) (i32.const 0))
      (call $in-stream (i32.load (i32.const 4)) (i32.const 0))
      (i32.load (i32.const 4)))
    (func $sleep (param $ns i64)
      (local $p i32)
      (local.set $p (call $sleep-sub (local.get $ns)))
      (call $block (local.get $p))
      (call $drop-pollable (local.get $p)))
"#;

fn lowered() -> (String, String, String) {
    let (mut lower, mut with, mut core) = (String::new(), String::new(), String::new());
    for (instance, name, short, ty) in IMPORTS {
        lower += &format!(
            "(core func ${short} (canon lower (func ${instance} \"{name}\") (memory $mem) (realloc $realloc)))\n"
        );
        with += &format!("(export \"{short}\" (func ${short}))\n");
        core += &format!("(import \"h\" \"{short}\" (func ${short} {ty}))\n");
    }
    for (ty, short) in DROPS {
        lower += &format!("(core func ${short} (canon resource.drop ${ty}))\n");
        with += &format!("(export \"{short}\" (func ${short}))\n");
        core += &format!("(import \"h\" \"{short}\" (func ${short} (param i32)))\n");
    }
    (lower, with, core)
}

/// The text of a component with `pages` of memory at the start, whose core module has `body`.
pub fn guest_text(pages: u32, body: &str) -> String {
    let (lower, with, core) = lowered();
    format!(
        r#"(component $C
  {TYPES}
  (core module $Libc
    (memory (export "memory") {pages})
    (global $top (mut i32) (i32.const 65536))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.set $top (i32.add (local.get $at) (local.get 3)))
      (if (i32.gt_u (global.get $top) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.const 16)))))
      (local.get $at))
    (func (export "reset") (global.set $top (i32.const 65536))))
  (core instance $libc (instantiate $Libc))
  (alias core export $libc "memory" (core memory $mem))
  (alias core export $libc "realloc" (core func $realloc))
  (alias core export $libc "reset" (core func $reset))
  {lower}
  (core module $Main
    {core}
    (import "libc" "memory" (memory 1))
    (import "libc" "reset" (func $reset))
    {HELPERS}
    {body})
  (core instance $main (instantiate $Main
    (with "h" (instance {with}))
    (with "libc" (instance (export "memory" (memory $mem)) (export "reset" (func $reset))))))
  (func $handle (param "request" (own $incoming-request)) (param "response-out" (own $response-outparam))
    (canon lift (core func $main "handle")))
  (instance $handler (export "handle" (func $handle)))
  (export "wasi:http/incoming-handler@0.2.3" (instance $handler)))"#
    )
}

pub fn guest(body: &str) -> Vec<u8> {
    guest_of(2, body)
}

pub fn guest_of(pages: u32, body: &str) -> Vec<u8> {
    wat::parse_str(guest_text(pages, body)).unwrap_or_else(|e| panic!("{e}"))
}

/// Answers "hello".
pub const HELLO: &str = r#"
    (data (i32.const 64) "hello\n")
    (func (export "handle") (param $req i32) (param $out i32)
      (call $respond (local.get $out))
      (drop (call $put (i32.const 64) (i32.const 6)))
      (call $finish))"#;
