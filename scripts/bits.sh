#!/usr/bin/env bash
# Whether a change of the engine keeps every bit: scripts/bits.sh save|check [MODEL...]
# `save` writes digests of all that the fixtures (and further models) compute, on every set of instructions this processor
# has, `check` compares with them. The digests are good for one machine, so they are not committed.
set -euo pipefail
cd "$(dirname "$0")/.."
saved=.cache/bits.txt
mkdir -p .cache
cargo build --quiet --package easyroutine --example digest --locked
mode="${1:?save or check}"
shift
found=$("${CARGO_TARGET_DIR:-target}/debug/examples/digest" fixtures/tiny "$@")
if [ "$mode" = save ]; then
  echo "$found" >"$saved"
else
  diff "$saved" <(echo "$found") && echo "$(wc -l <"$saved") digests are equal"
fi
