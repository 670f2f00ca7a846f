;; Traps while it is being instantiated, before the handler is called.
(module
  (memory (export "memory") 1)
  (func $start unreachable)
  (start $start)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)))
