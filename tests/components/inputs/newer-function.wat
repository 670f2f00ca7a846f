;; A handler that needs a function which no 0.2 release of WASI has. The build makes all its versions 0.2.99.
(module
  (import "wasi:clocks/monotonic-clock@0.2.99" "leap-seconds" (func $leap_seconds (result i64)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
    (drop (call $leap_seconds))))
