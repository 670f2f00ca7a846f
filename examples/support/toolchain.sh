# How C and C++ become core modules with Debian's clang. Sourced by examples/build and tests/components/build, which
# set $here to their own folder. Sets $guest, the path of mik-guest.

guest=${MIK_GUEST:-}
if [ -z "$guest" ]; then
  engine=${here:?is to be set by the script that reads this}
  while [ ! -f "$engine/engine/Cargo.toml" ] && [ "$engine" != / ]; do engine=$(dirname "$engine"); done
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mik/cargo}
  export CARGO_TARGET_DIR
  (cd "$engine/engine" && cargo build --quiet --locked --profile daily -p mik-guest)
  guest=$CARGO_TARGET_DIR/daily/mik-guest
fi

# Bulk memory: memset and memcpy are instructions, so that a guest without a C library can use them.
common="--target=wasm32-wasi --sysroot=/usr -Os -flto -mbulk-memory -ffunction-sections -fdata-sections
  -Wall -Wextra -Werror"

builtins=$(clang-19 --target=wasm32-wasi -print-libgcc-file-name)
libcxx=/usr/include/wasm32-wasi/c++/v1

compile() {
  # shellcheck disable=SC2086  # the options are words
  clang-19 $common -std=c17 -c "$@"
}

# link_bare OUT OBJECT...: no C library. Names of functions stay, for backtraces.
link_bare() {
  bare_out=$1
  shift
  # shellcheck disable=SC2086
  clang-19 $common -nostdlib -mexec-model=reactor -Wl,--no-entry -Wl,--stack-first -Wl,--gc-sections -Wl,--strip-debug \
    -o "$bare_out" "$@"
}

# link_libc OUT OBJECT...: wasi-libc. What it asks of the system becomes imports of wasi:cli and the like, by way of the
# reactor adapter.
link_libc() {
  link_bare "$@" -Wl,--export=_initialize /usr/lib/wasm32-wasi/crt1-reactor.o -L/usr/lib/wasm32-wasi -lc "$builtins"
}

compile_cxx() {
  # shellcheck disable=SC2086
  clang++-19 $common -std=c++20 -fno-exceptions -nostdinc++ -isystem "$libcxx" -c "$@"
}

link_libcxx() {
  link_libc "$@" -lc++ -lc++abi
}
