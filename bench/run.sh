#!/usr/bin/env bash
# Whole runs side by side with transformers, as the table of docs/performance.md: bench/run.sh [ARGUMENTS OF compare.py]
# Makes a Python environment and the models' folders in .cache/bench, once.
set -euo pipefail
cd "$(dirname "$0")/.."
room="$PWD/.cache/bench"
target="${CARGO_TARGET_DIR:-target}/release"
mkdir -p "$room"

mark="$room/venv/$(cksum <bench/requirements.txt | cut -d' ' -f1)"
if [ ! -e "$mark" ]; then
  python3 -m venv --clear "$room/venv"
  "$room/venv/bin/pip" install --quiet --disable-pip-version-check -r bench/requirements.txt
  touch "$mark"
fi

cargo build --release --locked --package easyroutine --example forward --example sweep --example attribution --package easyroutine-cli --bin easyroutine
gguf=$(python3 scripts/fetch_model.py smollm2)
for dtype in f32 bf16; do
  [ -e "$room/smollm2-$dtype/model.safetensors" ] ||
    "$target/easyroutine" model export "$gguf" "$room/smollm2-$dtype" --dtype "$dtype"
done
exec "$room/venv/bin/python" bench/compare.py --models "$room" --program "$target/examples/forward" "$@"
