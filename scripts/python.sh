#!/usr/bin/env bash
# Tests of the Python package, built and installed into an environment of its own: scripts/python.sh test|torch
# `test` needs no torch. `torch` first runs what needs no more than torch with the oldest version that the package serves
# and with the last before DLPack had versions there, one environment at a time, each deleted before the next (they take
# gigabytes); then everything with the newest torch, transformers and the pretrained model.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?test or torch}
older=("torch==2.2.2 numpy==1.26.4" "torch==2.7.1 numpy==2.4.6")
wheels="$PWD/python/target/wheels"

# A new environment where there is none, or the list of packages has changed: environment FOLDER PACKAGES...
environment() {
  local folder=$1 mark
  shift
  mark="$folder/$(cksum <<<"$*" | cut -d' ' -f1)"
  if [ ! -e "$mark" ]; then
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    touch "$mark"
  fi
}

packages() { grep -v '^#' "python/requirements-$what.txt"; }

build() {
  rm -rf "$wheels"
  # The folder, profile and features of the other builds: all but the module itself is compiled there already.
  CARGO_TARGET_DIR="$PWD/target" \
    maturin build --quiet --strip --locked --all-features --manifest-path python/Cargo.toml --out "$wheels"
  # What the wheel's command is compared with, and a bucket for its stores.
  cargo build --quiet --workspace --all-features --locked --bin easyroutine --example bucket
  export EASYROUTINE_NATIVE="${CARGO_TARGET_DIR:-$PWD/target}/debug/easyroutine"
  export EASYROUTINE_BUCKET="${CARGO_TARGET_DIR:-$PWD/target}/debug/examples/bucket"
}

# The wheel into an environment: install FOLDER
install() {
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheels"/*.whl
}

# Tests run in their folder: in the one above, Python would import the sources, which have no native module.
tests() {
  local folder=$1
  shift
  (cd python/tests && PATH="$folder/bin:$PATH" "$folder/bin/python" -m pytest -p no:cacheprovider "$@")
}

# What a user gets: the wheel alone in an empty environment, with no Rust on the path. The command and the README's example.
alone() {
  local folder
  folder=$(mktemp -d)
  python3 scripts/fetch_model.py smollm2 >/dev/null
  awk '/^```/ { inside = ($0 == "```python"); next } inside' README.md >"$folder/example.py"
  [ -s "$folder/example.py" ] || { echo "error: README.md has no example in Python" >&2; exit 1; }
  /usr/bin/env python3 -m venv "$folder/environment"
  "$folder/environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-index "$wheels"/*.whl
  (
    cd "$folder"
    export PATH="$folder/environment/bin:/usr/bin:/bin"
    if command -v cargo rustc; then echo "error: there is Rust on the path" >&2; exit 1; fi
    easyroutine lens "The capital of France is" -m smollm2 --format table
    python example.py
    [ -s lens.html ]
  )
  rm -rf "$folder"
}

newest="$PWD/.cache/python-$what"
# shellcheck disable=SC2046 # a package a word
environment "$newest" $(packages)
export PATH="$newest/bin:$PATH"
build

if [ "$what" = test ]; then
  install "$newest"
  cd python
  ruff check easyroutine tests
  ruff format --check easyroutine tests
  mypy easyroutine
  pyright
  # On the installed package: what Python finds there is what the stubs say.
  (cd /tmp && python -m mypy.stubtest easyroutine._core --ignore-missing-stub --allowlist "$OLDPWD/stubtest.txt")
  cd ..
  tests "$newest" -m "not torch and not real"
  alone
else
  python3 -c 'import sys; sys.exit(sys.version_info >= (3, 13))' || {
    echo "error: torch 2.2 runs on Python 3.12 at most: put such a python3 first on the path" >&2
    exit 1
  }
  for versions in "${older[@]}"; do
    echo "==> $versions"
    folder="$PWD/.cache/python-old-torch"
    # shellcheck disable=SC2046,SC2086 # a package a word
    environment "$folder" $versions $(packages | grep -E '^(hypothesis|pytest)==')
    install "$folder"
    tests "$folder" -m "not real"
    rm -rf "$folder"
  done
  echo "==> $(packages | grep '^torch==')"
  install "$newest"
  EASYROUTINE_SMOLLM2="$(python3 scripts/fetch_model.py smollm2)" tests "$newest"
fi
