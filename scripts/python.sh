#!/usr/bin/env bash
# Tests of the Python package, built and installed into an environment of its own: scripts/python.sh test|torch
# `test` needs no torch; `torch` adds torch, transformers and the pretrained model, and runs everything.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?test or torch}
environment="$PWD/.cache/python-$what"

# A new environment where there is none, or the list of packages has changed.
mark="$environment/$(cksum <"python/requirements-$what.txt" | cut -d' ' -f1)"
if [ ! -e "$mark" ]; then
  rm -rf "$environment"
  python3 -m venv "$environment"
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r "python/requirements-$what.txt"
  touch "$mark"
fi
export PATH="$environment/bin:$PATH"

wheels="$PWD/python/target/wheels"
rm -rf "$wheels"
# The folder, profile and features of the other builds: dependencies are compiled there already.
CARGO_TARGET_DIR="$PWD/target" \
  maturin build --quiet --strip --locked --all-features --manifest-path python/Cargo.toml --out "$wheels"
# What the wheel's command is compared with, and a bucket for its stores.
cargo build --quiet --workspace --all-features --locked --bin easyroutine --example bucket
export EASYROUTINE_NATIVE="${CARGO_TARGET_DIR:-$PWD/target}/debug/easyroutine"
export EASYROUTINE_BUCKET="${CARGO_TARGET_DIR:-$PWD/target}/debug/examples/bucket"
python -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheels"/*.whl

cd python
if [ "$what" = test ]; then
  ruff check easyroutine tests
  ruff format --check easyroutine tests
  mypy easyroutine
  pyright
  # On the installed package: what Python finds there is what the stubs say.
  (cd /tmp && python -m mypy.stubtest easyroutine._core --ignore-missing-stub --allowlist "$OLDPWD/stubtest.txt")
  # From the folder of tests: in the one above, Python would import the sources, which have no native module.
  (cd tests && pytest -m "not torch and not real" -p no:cacheprovider)
else
  model=$(python3 ../scripts/fetch_model.py smollm2)
  (cd tests && EASYROUTINE_SMOLLM2="$model" pytest -p no:cacheprovider)
fi
