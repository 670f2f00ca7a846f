;; A handler that needs an interface no host of WASI offers.
(module
  (import "acme:widgets/store@1.0.0" "count" (func $count (result i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
    (drop (call $count))))
