# How C and C++ become core modules with Debian's clang. Sourced by examples/build and tests/components/build, which
# set $here to their own folder. Sets $guest, the path of mik-guest.

guest=${MIK_GUEST:-}
if [ -z "$guest" ]; then
  engine=$here
  while [ ! -f "$engine/engine/Cargo.toml" ]; do engine=$(dirname "$engine"); done
  CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/mik/cargo}
  export CARGO_TARGET_DIR
  (cd "$engine/engine" && cargo build --quiet --locked --profile daily -p mik-guest)
  guest=$CARGO_TARGET_DIR/daily/mik-guest
fi

# Bulk memory: memset and memcpy are instructions, so that a guest without a C library can use them. The prefix map
# keeps this folder's path out of what is built.
common="--target=wasm32-wasi --sysroot=/usr -Os -flto -mbulk-memory -ffunction-sections -fdata-sections
  -Wall -Wextra -Werror"

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
