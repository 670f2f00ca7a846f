"""The programs that a measurement needs: found, or (wasmtime) built into the cache folder; and where things lie."""

import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build/bench"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mik"

WASMTIME_VERSION = "48.0.8"
# All that takes part in serving or that the default CLI carries at run time (call hooks, gc, threads, debugging, p3).
# Left out is what costs build time only: explore, wast, config, cache, completion, objdump, hot-blocks, wizer, wat,
# winch, pulley, wasi-nn, wasi-config, wasi-keyvalue, wasi-tls.
WASMTIME_FEATURES = (
    "run serve compile cranelift parallel-compilation pooling-allocator component-model component-model-async "
    "backtrace addr2line demangle logging profiling coredump debug debug-builtins "
    "threads gc gc-copying gc-drc gc-null stack-switching"
).split()
RUST_MIN = (1, 95)  # rust-version of wasmtime-cli 48


class Missing(Exception):
    """A program or a guest is not there; the text says what to do."""


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def find(name, package):
    """The path of a program, sbin included."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise Missing(f"no {name} here: apt-get install {package}")
    return path


def mik_binary():
    path = os.environ.get("MIK") or str(ROOT / "build/release/src/cli/mik")
    if not os.access(path, os.X_OK):
        raise Missing(f"no mik at {path}: ./dev bench builds it, or MIK=/path/of/mik bench/run")
    return os.path.abspath(path)


@functools.lru_cache(maxsize=None)
def version_of(binary, *arguments):
    done = subprocess.run([binary, *(arguments or ("--version",))], stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=20, check=False)
    return (done.stdout or done.stderr).strip().split("\n")[0]


@functools.lru_cache(maxsize=None)
def wasmtime_binary(build=True):
    """`wasmtime` of the one version that ratios are taken against. $WASMTIME names another build of it."""
    wanted = re.compile(rf"\b{re.escape(WASMTIME_VERSION)}\b")
    named = os.environ.get("WASMTIME")
    own = CACHE / "tools/bin/wasmtime"
    for path in [named] if named else [own, shutil.which("wasmtime")]:
        if path and os.access(path, os.X_OK) and wanted.search(version_of(path)):
            return str(path)
    if named:
        raise Missing(f"WASMTIME={named} is no wasmtime {WASMTIME_VERSION}")
    if not build:
        raise Missing(f"no wasmtime {WASMTIME_VERSION} in {own.parent}")
    return build_wasmtime(own)


def build_wasmtime(own):
    cargo = find("cargo", "cargo-web, and rustc-web")
    version = tuple(int(x) for x in re.findall(r"\d+", version_of(cargo))[:2])
    if version < RUST_MIN:
        raise Missing(f"{cargo} is {version_of(cargo)}; wasmtime {WASMTIME_VERSION} needs {RUST_MIN[0]}.{RUST_MIN[1]}")
    root = CACHE / "tools"
    root.mkdir(parents=True, exist_ok=True)
    # A folder of its own for objects: a build that was interrupted goes on, and mik's crate is not built anew.
    target = root / "wasmtime-target"
    say(f"building wasmtime {WASMTIME_VERSION} into {root}: about ten minutes on two cores, once")
    start = time.monotonic()
    done = subprocess.run(
        [cargo, "install", "--locked", "--version", WASMTIME_VERSION, "--root", str(root), "--no-default-features",
         "--features", ",".join(WASMTIME_FEATURES), "wasmtime-cli"],
        env={**os.environ, "CARGO_TARGET_DIR": str(target)}, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0 or not own.exists():
        raise Missing("cargo install wasmtime-cli failed; the lines above say why")
    shutil.rmtree(target, ignore_errors=True)
    say(f"built in {time.monotonic() - start:.0f} s")
    return str(own)


def precompiled(wasmtime, guest, flags):
    """The guest compiled by `wasmtime compile` with these flags, kept by content, flags and version."""
    key = hashlib.sha256(Path(guest).read_bytes() + repr((flags, version_of(wasmtime))).encode()).hexdigest()[:16]
    out = BUILD / "cwasm" / f"{Path(guest).stem}-{key}.cwasm"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = out.with_suffix(f".{os.getpid()}")
        say(f"wasmtime compiles {Path(guest).name}")
        subprocess.run([wasmtime, "compile", *flags, "-o", str(unfinished), str(guest)], stdin=subprocess.DEVNULL,
                       check=True, timeout=900)
        unfinished.rename(out)
    return str(out)


HOW_TO_BUILD = {
    "echo": "examples/build {out} echo",
    "js": "examples/javascript/build {out}/js.wasm",
    "py": "examples/python/build {out}/py.wasm",
}


class Guests:
    """Where components are: those of the tree, and others by name in the folders of --guests and build/bench/guests."""

    def __init__(self, folders):
        self._folders = [Path(folder) for folder in folders] + [BUILD / "guests"]

    def path(self, name):
        if name == "hello":
            return str(ROOT / "examples/hello/hello.wasm")
        if name == "lab":
            return str(ROOT / "tests/components/lab.wasm")
        for folder in self._folders:
            if (folder / f"{name}.wasm").is_file():
                return str((folder / f"{name}.wasm").resolve())
        out = (BUILD / "guests").relative_to(ROOT)
        # The message may go into a page: no path of this machine.
        where = ", ".join(os.path.relpath(folder, ROOT) for folder in self._folders)
        raise Missing(f"no {name}.wasm in {where}: "
                      f"mkdir -p {out} && {HOW_TO_BUILD[name].format(out=out)}")
