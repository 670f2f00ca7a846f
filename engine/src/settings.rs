//! wasi:config/store: a guest's settings are its environment, under the same names. Nothing is fetched, so nothing fails.

use crate::store::State;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Linker, Lower};

/// As wasmtime-wasi-config has it.
pub const STORE: &str = "wasi:config/store@0.2.0-rc.1";

/// A case of the type that we never have.
#[derive(ComponentType, Lower)]
#[component(variant)]
#[allow(dead_code)]
enum Error {
    #[component(name = "upstream")]
    Upstream(String),
    #[component(name = "io")]
    Io(String),
}

type Cx<'a> = StoreContextMut<'a, State>;

pub fn add_to_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    let mut l = linker.instance(STORE)?;
    l.func_wrap("get", |s: Cx<'_>, (key,): (String,)| {
        let env = &s.data().component.env;
        let value = env.iter().find(|(name, _)| *name == key);
        Ok((Ok::<_, Error>(value.map(|(_, value)| value.clone())),))
    })?;
    l.func_wrap("get-all", |s: Cx<'_>, (): ()| {
        Ok((Ok::<_, Error>(s.data().component.env.clone()),))
    })
}
