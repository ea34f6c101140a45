#!/usr/bin/env bash
# The kernels of other machines than this one: NEON under QEMU, WebAssembly under Node. What is missing is named, and skipped.
#
#   tests/portable.sh MODEL     a packed model, which WebAssembly must continue as this machine does
set -euo pipefail
cd "$(dirname "$0")/.."
model=${1:?a packed model}

step() { printf '\n== %s\n' "$*"; }

# Whether there is a command, or apt can install the packages that bring it.
have() {
  command -v "$1" >/dev/null && return
  if [ $# -gt 1 ] && command -v apt-get >/dev/null; then
    local sudo
    sudo=$([ "$(id -u)" = 0 ] || echo sudo)
    $sudo apt-get install -qy --no-install-recommends "${@:2}" >/dev/null 2>&1 && return
  fi
  echo "skipped: there is no $1"
  return 1
}

# Whether there is a standard library for a target, or rustup can fetch it.
have_target() {
  [ -d "$(rustc --print target-libdir --target "$1")" ] && return
  timeout 120 rustup target add "$1" >/dev/null 2>&1 && return
  echo "skipped: there is no standard library for $1"
  return 1
}

# Only our own code is optimized: the rest runs for a moment.
target=${CARGO_TARGET_DIR:-target}/portable
options=(--release --target-dir "$target")
for package in '"*"' tokenizers sentencepiece-rs sha2; do
  options+=(--config "profile.release.package.$package.opt-level=0")
done

step "NEON under QEMU"
if [ "$(uname -m)" = aarch64 ]; then
  echo "skipped: here they are tested without"
elif have qemu-aarch64 qemu-user && have aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross &&
  have_target aarch64-unknown-linux-gnu; then
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu"
  aarch64=(--target aarch64-unknown-linux-gnu "${options[@]}")
  cargo test -p tern-kernels --lib "${aarch64[@]}" -- arch:: ternary_matrix tokens exp --nocapture
  # The rest of the engine has no code of its own for it.
  cargo check -p tern-infer "${aarch64[@]}"
fi

step "the tests of the kernels in WebAssembly"
export CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-C target-feature=+simd128"
export CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $PWD/tests/wasi.mjs"
if have node && have_target wasm32-wasip1; then
  cargo test -p tern-kernels --lib --target wasm32-wasip1 "${options[@]}" -- arch:: ternary_matrix tokens exp --nocapture
fi

step "the engine in WebAssembly"
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS='-C target-feature=+simd128 --cfg getrandom_backend="custom"'
if have node && have_target wasm32-unknown-unknown; then
  cargo build -p tern-infer --example wasm --target wasm32-unknown-unknown "${options[@]}"
  module=$target/wasm32-unknown-unknown/release/examples/wasm.wasm
  ours=$(cargo run --quiet --release -- generate "$model" "Once upon a time" --max-tokens 40 --temperature 0 --json)
  node infer/examples/wasm.mjs "$module" "$model" "Once upon a time" 40 | node -e '
    const theirs = require("fs").readFileSync(0, "utf8");
    const ours = JSON.parse(process.argv[1]).text;
    if (theirs !== ours) throw new Error(`${JSON.stringify(theirs)} instead of ${JSON.stringify(ours)}`);
    console.log(`continues as this machine does: ${ours}`);
  ' "$ours"
fi
