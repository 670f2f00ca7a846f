;; A core module that does what the handler of a component would do: not a component, and the message should say so.
(module
  (memory (export "memory") 1)
  (func (export "handle") (param i32 i32)))
