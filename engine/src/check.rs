//! Looks at a component's bytes without compiling: is it one, does it handle HTTP, is all that it imports offered. Says
//! in a sentence what is wrong and what to do.

use crate::error::Fault;
use crate::ffi::Code;
use crate::link::VERSION;
use crate::offered::{DRAFTS, OFFERED};
use wasmparser::component_types::{
    ComponentDefinedType, ComponentEntityType, ComponentInstanceTypeId, ComponentValType,
};
use wasmparser::types::{Types, TypesRef};
use wasmparser::{Parser, Payload, ValidPayload, Validator, WasmFeatures};

pub const HANDLER: &str = "wasi:http/incoming-handler";
const HANDLER_P3: &str = "wasi:http/handler";

/// The patch level of a 0.2.x version of `interface`; None if `name` is something else.
pub fn patch_of(name: &str, interface: &str) -> Option<u32> {
    let patch = name.strip_prefix(interface)?.strip_prefix("@0.2.")?;
    let digits = patch.bytes().take_while(u8::is_ascii_digit).count();
    // A pre-release or a build of 0.2.x is no 0.2.x that anybody promised to keep.
    if digits == patch.len() {
        patch.parse().ok()
    } else {
        None
    }
}

pub fn no_handler(exports: &[String]) -> Fault {
    let is_p3 = |n: &&String| {
        n.strip_prefix(HANDLER_P3)
            .is_some_and(|v| v.starts_with("@0.3"))
    };
    if let Some(p3) = exports.iter().find(is_p3) {
        return Fault::new(
            Code::P3,
            format!(
                "the component exports {p3} only: WASI 0.3 is not served yet, build it for {HANDLER}@0.2"
            ),
        );
    }
    let listed = match exports.len() {
        0 => "exports nothing".to_string(),
        _ => format!("exports {}", exports.join(", ")),
    };
    Fault::new(
        Code::NoHandler,
        format!("the component has no HTTP handler: it {listed}, but no {HANDLER}@0.2.x"),
    )
}

/// By the first bytes alone: is this a component?
fn check_preamble(wasm: &[u8]) -> Result<(), Fault> {
    if !wasm.starts_with(b"\0asm") {
        let hint = match wasm.trim_ascii_start().first() {
            None => ": it is empty",
            Some(b'(') => {
                ": it looks like WebAssembly text, `wasm-tools parse` makes a binary of it"
            }
            Some(_) if wasm.starts_with(b"\x7fELF") => ": it is a native program",
            Some(_) if wasm.starts_with(b"\x1f\x8b") => ": it is compressed with gzip",
            Some(_) => "",
        };
        return Err(Fault::new(
            Code::NotWasm,
            format!("this is not WebAssembly{hint}"),
        ));
    }
    match wasm.get(4..8) {
        Some([0x0d, 0, 1, 0]) => Ok(()),
        Some([1, 0, 0, 0]) => Err(Fault::new(
            Code::CoreModule,
            "this is a core WebAssembly module, not a component: make one with `wasm-tools component new`, or build \
             for the target wasm32-wasip2",
        )),
        Some([v, _, 1, 0]) => Err(Fault::new(
            Code::Malformed,
            format!("this is a component of pre-standard version {v}: build it anew"),
        )),
        _ => Err(Fault::new(
            Code::Malformed,
            "the file is truncated, or of an unknown version of WebAssembly",
        )),
    }
}

fn malformed(error: wasmparser::BinaryReaderError, size: usize) -> Fault {
    let truncated =
        error.message().contains("unexpected end") || error.message().contains("unexpected-eof");
    let what = if truncated {
        format!("the file is truncated at {size} bytes")
    } else {
        "the component is invalid".into()
    };
    Fault::new(
        Code::Malformed,
        format!("{what}: {} (at byte {})", error.message(), error.offset()),
    )
}

/// What the outermost component imports and exports, and the types to look them up in.
struct Surface {
    imports: Vec<String>,
    exports: Vec<String>,
    types: Types,
}

/// Parses and validates all but the bodies of functions, which the compiler validates.
fn surface(wasm: &[u8]) -> Result<Surface, Fault> {
    let bad = |e| malformed(e, wasm.len());
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let (mut imports, mut exports, mut depth, mut end) = (Vec::new(), Vec::new(), 0u32, None);
    for payload in Parser::new(0).parse_all(wasm) {
        let payload = payload.map_err(bad)?;
        match &payload {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section.clone() {
                    imports.push(import.map_err(bad)?.name.name.to_string());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section.clone() {
                    exports.push(export.map_err(bad)?.name.name.to_string());
                }
            }
            _ => {}
        }
        if let ValidPayload::End(types) = validator.payload(&payload).map_err(bad)? {
            end = Some(types);
        }
    }
    let types = end.ok_or_else(|| Fault::new(Code::Malformed, "the file is truncated"))?;
    Ok(Surface {
        imports,
        exports,
        types,
    })
}

/// The functions that an imported instance must have and `offered` has not.
fn missing_functions(
    types: TypesRef<'_>,
    id: ComponentInstanceTypeId,
    offered: &[&str],
) -> Vec<String> {
    let wanted = types[id].exports.iter();
    wanted
        .filter(|(name, item)| {
            matches!(item.ty, ComponentEntityType::Func(_)) && !offered.contains(&name.as_str())
        })
        .map(|(name, _)| name.clone())
        .collect()
}

/// Why this import cannot be satisfied, if so.
fn complaint(name: &str, types: TypesRef<'_>) -> Option<String> {
    let kind = match types.component_item_for_import(name).map(|item| item.ty) {
        Some(ComponentEntityType::Type { .. }) => return None,
        Some(ComponentEntityType::Instance(id)) => {
            let draft = DRAFTS.iter().find(|(i, _)| name == *i);
            let of_0_2 = || OFFERED.iter().find(|(i, _)| patch_of(name, i).is_some());
            let Some((interface, functions)) = draft.or_else(of_0_2) else {
                return Some(unknown_interface(name));
            };
            let missing = missing_functions(types, id, functions);
            if missing.is_empty() {
                return None;
            }
            if draft.is_some() {
                return Some(format!(
                    "{} of {name} ({} is what is offered of it)",
                    missing.join(", "),
                    functions.join(", ")
                ));
            }
            return Some(format!(
                "{} of {name} ({interface}@{VERSION} is offered: build the guest for that or an older WASI 0.2)",
                missing.join(", ")
            ));
        }
        Some(ComponentEntityType::Func(_)) => "a function",
        Some(ComponentEntityType::Module(_)) => "a core module",
        Some(ComponentEntityType::Component(_)) => "a component",
        _ => "a value",
    };
    Some(format!(
        "{name} ({kind} outside any interface: compose it in, nothing of the sort is offered)"
    ))
}

fn unknown_interface(name: &str) -> String {
    let bare = name.split('@').next().unwrap_or(name);
    if OFFERED.iter().any(|(i, _)| *i == bare) {
        return format!("{name} ({bare} is offered as 0.2.0 to {VERSION})");
    }
    let drafts: Vec<&str> = DRAFTS
        .iter()
        .map(|(i, _)| *i)
        .filter(|i| i.split('@').next() == Some(bare))
        .collect();
    if !drafts.is_empty() {
        return format!("{name} (offered as {})", drafts.join(" and "));
    }
    format!("{name} (not offered in any version)")
}

pub fn wrong_type(name: &str) -> Fault {
    Fault::new(
        Code::NoHandler,
        format!(
            "{name} is exported, but its `handle` has not the type of {HANDLER}: build the guest with the WIT of wasi:http"
        ),
    )
}

/// handle: func(request: own<..>, response-out: own<..>)
fn has_handle(types: TypesRef<'_>, name: &str) -> bool {
    let is_own = |ty: &ComponentValType| match ty {
        ComponentValType::Type(id) => matches!(types[*id], ComponentDefinedType::Own(_)),
        ComponentValType::Primitive(_) => false,
    };
    let Some(ComponentEntityType::Instance(instance)) =
        types.component_item_for_export(name).map(|i| i.ty)
    else {
        return false;
    };
    match types[instance].exports.get("handle").map(|i| i.ty) {
        Some(ComponentEntityType::Func(id)) => {
            let f = &types[id];
            f.params.len() == 2 && f.result.is_none() && f.params.iter().all(|(_, ty)| is_own(ty))
        }
        _ => false,
    }
}

pub fn check(wasm: &[u8]) -> Result<(), Fault> {
    check_preamble(wasm)?;
    let surface = surface(wasm)?;
    let newest = surface
        .exports
        .iter()
        .filter_map(|n| Some((patch_of(n, HANDLER)?, n)))
        .max();
    let (_, handler) = newest.ok_or_else(|| no_handler(&surface.exports))?;
    let types = surface.types.as_ref();
    if !has_handle(types, handler) {
        return Err(wrong_type(handler));
    }
    let complaints: Vec<String> = surface
        .imports
        .iter()
        .filter_map(|name| complaint(name, types))
        .collect();
    match complaints.len() {
        0 => Ok(()),
        n => Err(Fault::new(
            Code::Import,
            format!(
                "the component imports {n} thing{} that we do not offer: {}",
                if n == 1 { "" } else { "s" },
                complaints.join("; ")
            ),
        )),
    }
}
