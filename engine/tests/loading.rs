//! What is said of files that are no runnable component; artefacts; static limits.

mod common;
use common::*;
use mik_engine::ffi::*;

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

fn complains(wasm: &[u8], code: Code, words: &[&str]) {
    let (got, text) = check(wasm);
    assert_eq!(got, code as i32, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn files_that_are_no_component() {
    complains(b"", Code::NotWasm, &["empty"]);
    complains(b"<html>", Code::NotWasm, &[]);
    complains(b"  (component)", Code::NotWasm, &["text"]);
    complains(b"\x7fELF....", Code::NotWasm, &["native"]);
    complains(
        &wat("(module)"),
        Code::CoreModule,
        &["core WebAssembly module", "wasm-tools component new"],
    );
    complains(b"\0asm", Code::Malformed, &["truncated"]);
    complains(b"\0asm\x07\0\x01\0", Code::Malformed, &["7"]);
}

#[test]
fn every_truncation_is_found_and_none_panics() {
    let hello = guest::guest(guest::HELLO);
    assert_eq!(check(&hello), (0, String::new()));
    for n in (8..hello.len()).step_by(97) {
        let (code, text) = check(&hello[..n]);
        assert!(
            code != 0 && !text.is_empty(),
            "cut at {n} of {}",
            hello.len()
        );
        assert_ne!(code, Code::Panic as i32, "{text}");
    }
    let mut spoiled = hello.clone();
    for i in (8..hello.len()).step_by(13) {
        spoiled[i] ^= 0x55;
        let (code, text) = check(&spoiled);
        assert_ne!(code, Code::Panic as i32, "byte {i}: {text}");
        spoiled[i] = hello[i];
    }
}

#[test]
fn components_without_a_handler_are_told_what_they_export() {
    complains(
        &wat("(component)"),
        Code::NoHandler,
        &["nothing", "wasi:http/incoming-handler"],
    );
    let command = r#"(component (instance $i) (export "wasi:cli/run@0.2.0" (instance $i)))"#;
    complains(&wat(command), Code::NoHandler, &["wasi:cli/run@0.2.0"]);
    let p3 = r#"(component (instance $i) (export "wasi:http/handler@0.3.0" (instance $i)))"#;
    complains(
        &wat(p3),
        Code::P3,
        &["wasi:http/handler@0.3.0", "not served yet"],
    );
    let wrong =
        r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#;
    complains(
        &wat(wrong),
        Code::NoHandler,
        &["wasi:http/incoming-handler@0.2.0", "handle", "type"],
    );
    let draft = r#"(component (instance $i) (export "wasi:http/incoming-handler@0.2.0-rc1" (instance $i)))"#;
    complains(&wat(draft), Code::NoHandler, &["0.2.0-rc1"]);
}

#[test]
fn imports_that_are_not_offered_are_all_named() {
    let text = r#"(component
      (import "wasi:keyvalue/store@0.2.0-draft" (instance))
      (import "wasi:http/types@0.3.0" (instance))
      (import "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func (result u64)))
        (export "get-magic" (func))))
      (import "wasi:random/random@0.2.77" (instance (export "get-random-u64" (func (result u64)))))
      (import "print" (func))
      (import "request" (type $req (sub resource)))
      (import "out" (type $out (sub resource)))
      (core module $M (func (export "handle") (param i32 i32)))
      (core instance $m (instantiate $M))
      (func $h (param "request" (own $req)) (param "response-out" (own $out)) (canon lift (core func $m "handle")))
      (instance $i (export "handle" (func $h)))
      (export "wasi:http/incoming-handler@0.2.0" (instance $i)))"#;
    let words = [
        "4 things",
        "wasi:keyvalue/store@0.2.0-draft (not offered",
        "wasi:http/types@0.3.0 (wasi:http/types is offered as 0.2",
        "get-magic of wasi:random/random@0.2.0",
        "print (a function",
    ];
    complains(&wat(text), Code::Import, &words);
}

#[test]
fn compiling_says_the_same_and_needs_no_pool() {
    let compiler = engine(&EngineOptions {
        compile_only: 1,
        ..options()
    });
    let (code, text) = compile_with(compiler, &wat("(module)")).unwrap_err();
    assert_eq!(code, Code::CoreModule as i32, "{text}");
    let artefact = compile_with(compiler, &guest::guest(guest::HELLO)).unwrap();

    // What the compile child makes, the worker runs; and so says the key.
    let mut rig = Rig::new();
    let component = load_with(rig.engine, &artefact, &ComponentOptions::default()).unwrap();
    assert_eq!(rig.get(component).1, b"hello\n");
    assert_eq!(
        unsafe { mik_engine::mik_component_bytes(component) },
        artefact.len() as u64
    );
    unsafe { mik_engine::mik_component_delete(component) };
    let (mut a, mut b) = ([0u8; 32], [0u8; 32]);
    unsafe {
        mik_engine::mik_engine_artefact_key(compiler, a.as_mut_ptr());
        mik_engine::mik_engine_artefact_key(rig.engine, b.as_mut_ptr());
        mik_engine::mik_engine_delete(compiler);
    }
    assert_eq!(a, b);
    assert_ne!(a, [0; 32]);
}

#[test]
fn on_demand_engines_run_the_same_artefacts() {
    let mut rig = Rig::with(&EngineOptions {
        on_demand: 1,
        ..options()
    });
    let hello = rig.guest(guest::HELLO);
    assert_eq!(rig.get(hello).1, b"hello\n");
}

#[test]
fn bytes_after_the_artefact_do_no_harm_and_other_bytes_are_refused() {
    let mut rig = Rig::new();
    let mut artefact = compile_with(rig.engine, &guest::guest(guest::HELLO)).unwrap();
    for trailer in [1usize, 32, 72, 4096, 5000] {
        let mut longer = artefact.clone();
        longer.extend(std::iter::repeat_n(0xA5u8, trailer));
        let component = load_with(rig.engine, &longer, &ComponentOptions::default()).unwrap();
        assert_eq!(
            rig.get(component).1,
            b"hello\n",
            "with {trailer} bytes behind it"
        );
        unsafe { mik_engine::mik_component_delete(component) };
    }
    for bad in [
        &b""[..],
        b"junk",
        &guest::guest(guest::HELLO),
        &artefact[..artefact.len() / 2],
    ] {
        let (code, text) = load_with(rig.engine, bad, &ComponentOptions::default()).unwrap_err();
        assert_eq!(code, Code::Artefact as i32, "{text}");
    }
    let other = engine(&EngineOptions {
        memory_reservation_bytes: 1 << 30,
        on_demand: 1,
        ..options()
    });
    let (code, text) = load_with(other, &artefact, &ComponentOptions::default()).unwrap_err();
    assert_eq!(code, Code::Artefact as i32, "{text}");
    unsafe { mik_engine::mik_engine_delete(other) };
    artefact.clear();
}

#[test]
fn static_limits_are_found_at_load() {
    let rig = Rig::new();
    let artefact = compile_with(rig.engine, &guest::guest_of(64, guest::HELLO)).unwrap();
    let options = ComponentOptions {
        memory_bytes_max: 1 << 20,
        ..ComponentOptions::default()
    };
    let (code, text) = load_with(rig.engine, &artefact, &options).unwrap_err();
    assert_eq!(code, Code::StaticLimit as i32);
    assert!(
        text.contains("4194304") && text.contains("1048576") && text.contains("memory_limit_bytes"),
        "{text}"
    );
}

#[test]
fn missing_descriptors_are_a_system_error() {
    let rig = Rig::new();
    let mut err = Err::default();
    let component = unsafe {
        mik_engine::mik_component_load(rig.engine, 9999, &ComponentOptions::default(), &mut err)
    };
    assert!(component.is_null());
    assert_eq!(err.code, Code::System as i32, "{}", text(&err));
}

#[test]
fn modules_with_several_memories_and_tables_run() {
    let mut rig = Rig::new();
    let body = format!(
        "(memory $more 1) (table $a 1 funcref) (table $b 1 funcref) {}",
        guest::HELLO
    );
    let guest = rig.guest(&body);
    assert_eq!(rig.get(guest).1, b"hello\n");
    let many: String = (0..20)
        .map(|i| format!("(table $t{i} 1 funcref)"))
        .collect();
    let artefact = compile_with(rig.engine, &guest::guest(&(many + guest::HELLO))).unwrap();
    let (code, text) = load_with(rig.engine, &artefact, &ComponentOptions::default()).unwrap_err();
    assert_eq!(code, Code::StaticLimit as i32, "{text}");
}
