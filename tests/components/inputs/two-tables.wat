;; A module with two tables: ordinary guests have them, and pools must have room. Returns without a response.
(module
  (table $a 10 funcref)
  (table $b 10 funcref)
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
  (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
    (drop (table.grow $a (ref.null func) (i32.const 10)))
    (drop (table.grow $b (ref.null func) (i32.const 10)))))
