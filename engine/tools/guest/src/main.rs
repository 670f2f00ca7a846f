//! `mik-guest`: makes WASI HTTP components from core modules, with the WIT of WASI built in.
//! A tool of the build, not part of the server: it reads and writes the files named on its command line, nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use wasi_preview1_component_adapter_provider as adapters;
use wit_bindgen_core::Files;
use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};
use wit_parser::{PackageId, Resolve, UnresolvedPackageGroup, WorldId};

const USAGE: &str = "\
mik-guest: component tooling for guests

  mik-guest bindings [--wit PATH] [--world WORLD] --out DIR
      C bindings for a world: WORLD.h, WORLD.c and WORLD_component_type.o (link it: it holds the world)
  mik-guest component CORE.wasm [--wit PATH] [--world WORLD] [--adapt reactor|command|proxy] -o OUT
      a validated component from a core module; a module that links WORLD_component_type.o needs no --world
  mik-guest wat IN.wat -o OUT
      text to binary, core module or component; the result is not validated
  mik-guest show FILE.wasm
      what a component imports and exports
  mik-guest wit --out DIR
      the built-in WIT as a folder that other tools read (wasi:http/proxy is the main package)

WORLD is a name in PATH (a .wit file or a folder of them), or in full: wasi:http/proxy@0.2.12, the default.
WIT in PATH may use every wasi package of version 0.2.12 without having its text.
";

const DEFAULT_WORLD: &str = "wasi:http/proxy@0.2.12";

/// A package comes after those that it uses.
const WASI: [(&str, &str); 7] = [
    ("io.wit", include_str!("../wit/io.wit")),
    ("clocks.wit", include_str!("../wit/clocks.wit")),
    ("random.wit", include_str!("../wit/random.wit")),
    ("filesystem.wit", include_str!("../wit/filesystem.wit")),
    ("sockets.wit", include_str!("../wit/sockets.wit")),
    ("cli.wit", include_str!("../wit/cli.wit")),
    ("http.wit", include_str!("../wit/http.wit")),
];

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mik-guest: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut words: impl Iterator<Item = String>) -> Result<()> {
    let command = words.next().unwrap_or_default();
    if matches!(command.as_str(), "" | "help" | "--help" | "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let args = Args::parse(words)?;
    match command.as_str() {
        "bindings" => bindings(&args),
        "component" => component(&args),
        "wat" => wat_to_binary(&args),
        "show" => show(&args),
        "wit" => write_wit(&args),
        other => bail!("no command {other:?}; `mik-guest help` lists them"),
    }
}

#[derive(Default)]
struct Args {
    input: Option<PathBuf>,
    wit: Option<PathBuf>,
    world: Option<String>,
    adapt: Option<String>,
    out: Option<PathBuf>,
}

impl Args {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Args> {
        let mut args = Args::default();
        while let Some(word) = words.next() {
            let mut value = || {
                words
                    .next()
                    .with_context(|| format!("{word} wants a value"))
            };
            match word.as_str() {
                "--wit" => args.wit = Some(value()?.into()),
                "--world" => args.world = Some(value()?),
                "--adapt" => args.adapt = Some(value()?),
                "-o" | "--out" => args.out = Some(value()?.into()),
                _ if word.starts_with('-') => {
                    bail!("no option {word:?}; `mik-guest help` lists them")
                }
                _ if args.input.is_some() => bail!("one input at a time, not also {word:?}"),
                _ => args.input = Some(word.into()),
            }
        }
        Ok(args)
    }

    fn input(&self) -> Result<&Path> {
        self.input.as_deref().context("which file? none was named")
    }

    fn out(&self) -> Result<&Path> {
        self.out.as_deref().context("--out is missing")
    }

    /// The world that the options name, in a resolve that knows WASI.
    fn world(&self) -> Result<(Resolve, WorldId)> {
        let (mut resolve, mut package) = wasi()?;
        if let Some(path) = &self.wit {
            package = push_wit(&mut resolve, path)?;
        }
        // A folder with one world needs no --world; without a folder the default is the proxy.
        let name = match (&self.world, &self.wit) {
            (Some(world), _) => Some(world.as_str()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_WORLD),
        };
        let world = resolve.select_world(&[package], name)?;
        Ok((resolve, world))
    }
}

/// WASI 0.2.12, and the package wasi:http in it.
fn wasi() -> Result<(Resolve, PackageId)> {
    let mut resolve = Resolve::default();
    let mut last = None;
    for (name, text) in WASI {
        last = Some(
            resolve
                .push_source(name, text)
                .with_context(|| format!("built-in {name}"))?,
        );
    }
    Ok((resolve, last.context("no built-in WIT")?))
}

fn push_wit(resolve: &mut Resolve, path: &Path) -> Result<PackageId> {
    if path.is_dir() {
        let group = UnresolvedPackageGroup::parse_dir(path)?;
        return resolve
            .push_group(group)
            .map_err(|e| anyhow!("{}: {e}", path.display()));
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    resolve.push_source(&path.display().to_string(), &text)
}

fn bindings(args: &Args) -> Result<()> {
    let (mut resolve, world) = args.world()?;
    let mut files = Files::default();
    let mut generator = wit_bindgen_c::Opts::default().build();
    generator.generate(&mut resolve, world, &mut files)?;
    let dir = args.out()?;
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    for (name, content) in files.iter() {
        write(&dir.join(name), content)?;
    }
    Ok(())
}

fn component(args: &Args) -> Result<()> {
    let module = wat::parse_file(args.input()?)?;
    let named = args.world.is_some() || args.wit.is_some();
    let world = if named || !has_world(&module) {
        Some(args.world()?)
    } else {
        None
    };
    write(
        args.out()?,
        &make_component(module, world, args.adapt.as_deref())?,
    )
}

/// A validated component; without a world, of the one that the module was linked with.
fn make_component(
    mut module: Vec<u8>,
    world: Option<(Resolve, WorldId)>,
    adapt: Option<&str>,
) -> Result<Vec<u8>> {
    if let Some((resolve, world)) = world {
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    }
    let mut encoder = ComponentEncoder::default().validate(true).module(&module)?;
    if let Some(kind) = adapt {
        let adapter = match kind {
            "reactor" => adapters::WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
            "command" => adapters::WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
            "proxy" => adapters::WASI_SNAPSHOT_PREVIEW1_PROXY_ADAPTER,
            other => bail!("no adapter {other:?}: reactor, command or proxy"),
        };
        encoder = encoder.adapter(adapters::WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, adapter)?;
    }
    encoder
        .encode()
        .context("no component can be made of this module")
}

/// Whether the module was linked with a WORLD_component_type.o.
fn has_world(module: &[u8]) -> bool {
    matches!(wit_component::metadata::decode(module), Ok((Some(_), _)))
}

fn wat_to_binary(args: &Args) -> Result<()> {
    write(args.out()?, &wat::parse_file(args.input()?)?)
}

fn show(args: &Args) -> Result<()> {
    let path = args.input()?;
    let bytes = wat::parse_file(path)?;
    let decoded = wit_component::decode(&bytes).with_context(|| path.display().to_string())?;
    let DecodedWasm::Component(resolve, world) = &decoded else {
        bail!("{} is a package of WIT, not a component", path.display());
    };
    let world = &resolve.worlds[*world];
    for (verb, items) in [("import", &world.imports), ("export", &world.exports)] {
        for key in items.keys() {
            println!("{verb} {}", resolve.name_world_key(key));
        }
    }
    Ok(())
}

fn write_wit(args: &Args) -> Result<()> {
    let dir = args.out()?;
    for (name, text) in WASI {
        let path = match name {
            "http.wit" => dir.join(name),
            _ => dir.join("deps").join(name),
        };
        fs::create_dir_all(path.parent().context("a path without a folder")?)?;
        write(&path, text.as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDLER: &str = r#"(module
        (memory (export "memory") 1)
        (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
        (func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)))"#;

    fn args(words: &[&str]) -> Result<Args> {
        Args::parse(words.iter().map(|word| word.to_string()))
    }

    fn proxy() -> Option<(Resolve, WorldId)> {
        Some(
            args(&[])
                .and_then(|args| args.world())
                .expect("the built-in world"),
        )
    }

    #[test]
    fn a_handler_becomes_a_component_that_exports_it() {
        let module = wat::parse_str(HANDLER).unwrap();
        assert!(!has_world(&module));
        let component = make_component(module, proxy(), None).unwrap();
        let DecodedWasm::Component(resolve, world) = wit_component::decode(&component).unwrap()
        else {
            panic!("not a component");
        };
        let exports = resolve.worlds[world].exports.keys();
        let names: Vec<_> = exports.map(|key| resolve.name_world_key(key)).collect();
        assert_eq!(names, ["wasi:http/incoming-handler@0.2.12"]);
    }

    #[test]
    fn a_module_without_the_handler_is_refused() {
        let module = wat::parse_str("(module)").unwrap();
        let error = make_component(module, proxy(), None).unwrap_err();
        assert!(
            format!("{error:#}").contains("incoming-handler"),
            "{error:#}"
        );
    }

    #[test]
    fn preview1_imports_need_an_adapter_by_name() {
        let text = HANDLER.replacen(
            "(module",
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))"#,
            1,
        );
        let module = wat::parse_str(text).unwrap();
        assert!(make_component(module.clone(), proxy(), None).is_err());
        assert!(make_component(module.clone(), proxy(), Some("other")).is_err());
        assert!(make_component(module, proxy(), Some("reactor")).is_ok());
    }

    #[test]
    fn bindings_bring_header_source_and_world() {
        let (mut resolve, world) = proxy().unwrap();
        let mut files = Files::default();
        wit_bindgen_c::Opts::default()
            .build()
            .generate(&mut resolve, world, &mut files)
            .unwrap();
        let names: Vec<_> = files.iter().map(|(name, _)| name.to_string()).collect();
        for name in ["proxy.c", "proxy.h", "proxy_component_type.o"] {
            assert!(
                names.iter().any(|n| n == name),
                "{name} is not among {names:?}"
            );
        }
    }

    #[test]
    fn worlds_that_do_not_exist_and_options_that_do_not_are_named() {
        let error = args(&["--world", "wasi:http/nothing@0.2.12"])
            .unwrap()
            .world()
            .unwrap_err();
        assert!(format!("{error:#}").contains("nothing"), "{error:#}");
        assert!(args(&["--wurld", "x"]).is_err());
        assert!(args(&["a.wasm", "b.wasm"]).is_err());
        assert!(args(&["--world"]).is_err());
    }
}
