#!/usr/bin/env bash
# Runs every fuzz target for SECONDS_EACH seconds from its committed corpus, a target a processor: scripts/fuzz.sh [SECONDS_EACH]
# What a run finds beyond the corpus is kept in .cache/fuzz; an input that fails lands in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

export SECONDS_EACH=${1:-10}
# Without a sanitizer a stable compiler will do; memory-unsafe code is in two crates and has tests of its own. A crate in
# one unit, which is the default, builds on one processor alone and takes half as long again.
export BUILD="--sanitizer none --codegen-units 16"

fuzz() { # TARGET
  local log=.cache/fuzz/$1.log
  mkdir -p ".cache/fuzz/$1"
  # 2 GiB and 10 s an input: more is a finding.
  if ! cargo fuzz run $BUILD "$1" ".cache/fuzz/$1" "fuzz/corpus/$1" -- \
    -max_total_time="$SECONDS_EACH" -max_len=16384 -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 >"$log" 2>&1; then
    tail -n 40 "$log"
    return 1
  fi
  echo "fuzz $1: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs"
}
export -f fuzz

cargo fuzz build $BUILD
cargo fuzz list | xargs -P "$(nproc)" -I {} bash -euc 'fuzz {}'
