#!/usr/bin/env bash
# Runs every fuzz target for SECONDS_EACH seconds from its committed corpus: scripts/fuzz.sh [SECONDS_EACH]
# What a run finds beyond the corpus is kept in .cache/fuzz; an input that fails lands in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-10}
# Without a sanitizer a stable compiler will do; memory-unsafe code is in two crates and has tests of its own.
cargo fuzz build --sanitizer none
for target in $(cargo fuzz list); do
  echo "fuzz $target, $seconds s"
  mkdir -p ".cache/fuzz/$target"
  log=$(mktemp)
  # 2 GiB and 10 s an input: more is a finding.
  if ! cargo fuzz run --sanitizer none "$target" ".cache/fuzz/$target" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -max_len=16384 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 >"$log" 2>&1; then
    tail -n 40 "$log"
    exit 1
  fi
  grep -E 'DONE|number_of_executed_units' "$log" || true
  rm -f "$log"
done
