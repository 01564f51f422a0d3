#!/usr/bin/env bash
# Instructions of a small forward pass against the committed figures: scripts/count.sh check|bless
# Counted by callgrind, one thread, five runs less four, so that loading does not count, nor packing, which the third run
# does. A wall clock would say nothing on a shared machine. Valgrind knows no AVX-512: that path is left to `make bench`.
set -euo pipefail
cd "$(dirname "$0")/.."
figures=bench/instructions.txt
# The release build: how a debug build is cut into units depends on what was built before.
program="${CARGO_TARGET_DIR:-target}/release/examples/forward"
# A slip is more; what the C library's own choice of instructions changes is less.
tolerance=4

count() { # PATH DTYPE RUNS
  for _ in $(seq "$3"); do echo "residuals 61,3"; done |
    EASYROUTINE_SIMD="$1" valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" fixtures/tiny/llama "$2" 1 2>&1 |
    sed -n 's/.*Collected : //p'
}

measured=$(
  for path in portable avx2; do
    for dtype in f32 bf16; do
      (echo "$path $dtype $(($(count "$path" "$dtype" 5) - $(count "$path" "$dtype" 4)))") &
    done
    wait
  done | sort
)
if [ "${1:?check or bless}" = bless ]; then
  echo "$measured" >"$figures"
  exit
fi
join -j 1 <(sed 's/ /-/' "$figures") <(sed 's/ /-/' <<<"$measured") | awk -v tolerance="$tolerance" '
  { change = 100 * ($3 - $2) / $2; printf "%-13s %10d instructions, %+.1f %%\n", $1, $3, change; lines++ }
  change > tolerance || change < -tolerance { bad = 1 }
  END {
    if (lines != 4) { print "no figure for some path"; exit 1 }
    if (bad) { print "more than " tolerance " % away from the committed figure; if it is meant: scripts/count.sh bless"; exit 1 }
  }'
