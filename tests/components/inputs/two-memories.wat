;; Grows each of two memories by 40 MiB: a limit of 64 MiB must count both. Traps when it is refused, and returns without
;; a response when it is not.
(module
  (memory $a (export "memory") 1)
  (memory $b 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
    (if (i32.eq (memory.grow $a (i32.const 640)) (i32.const -1)) (then unreachable))
    (if (i32.eq (memory.grow $b (i32.const 640)) (i32.const -1)) (then unreachable))))
