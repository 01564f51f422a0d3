#!/usr/bin/env bash
# Everything that CI runs, stage by stage, each with its time: scripts/test.sh STAGE...
# A stage is a target of the Makefile; the first that fails ends the run.
set -euo pipefail
cd "$(dirname "$0")/.."
# What speeds a second build up is never used here, and takes gigabytes.
export CARGO_INCREMENTAL=0

summary=""
for stage in "$@"; do
  SECONDS=0
  echo "==> $stage"
  "${MAKE:-make}" --no-print-directory "$stage" || { echo "failed: make $stage" >&2; exit 1; }
  summary+=$(printf '%-8s %5d s' "$stage" "$SECONDS")$'\n'
done
printf 'all passed\n%s' "$summary"
