#!/usr/bin/env bash
# Draws pages from committed reports, starts a server, and opens both in Debian's Chromium.
# Needs: cargo, node 20 or newer, npm, chromium (apt-get install chromium). SHOTS=DIR keeps screenshots.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
data="$root/crates/view/tests/data"

PAGES=$(mktemp -d)
trap 'rm -rf "$PAGES"' EXIT
# The features and the folder of the other builds.
(cd "$root" && cargo build --quiet --workspace --all-features --locked --bin easyroutine --example page)
built=${CARGO_TARGET_DIR:-$root/target}/debug
PROGRAM=$built/easyroutine
for name in capitals hostile attention; do
  "$built/examples/page" "$data/$name.json" "$PAGES/$name.html"
done
MODEL="$root/fixtures/tiny/llama"
cp "$data/expected/circuit.html" "$PAGES/circuit.html"
cp "$data/expected/graph.html" "$PAGES/graph.html"
node "$here/features.mjs" >"$PAGES/features.jsonl"
for out in features.html features/; do
  "$built/examples/page" "$PAGES/features.jsonl" "$PAGES/$out"
done
"$PROGRAM" model export "$MODEL" "$PAGES/bf16" --dtype bf16
"$PROGRAM" compare "$MODEL" "$PAGES/bf16" "the cat sat on the mat" --patch both -o "$PAGES/checkpoints.html"

cd "$here"
npm ci --silent --no-audit --no-fund
export PAGES PROGRAM MODEL REPORT="$data/capitals.json"
npm test --silent
