#!/usr/bin/env bash
# Holds the README and the book to their word: their `make` commands are targets, their other commands run as they stand.
# Blocks marked `sh` are run, in order, in one empty folder, with the build of the tests as `easyroutine`.
# Usage: scripts/readme.sh FOLDER_OF_THE_BINARY
set -euo pipefail
cd "$(dirname "$0")/.."
binaries=$(cd "${1:?folder of the binary}" && pwd)

commands=$(awk '/^```/ { inside = ($0 == "```sh"); next } inside' README.md docs/book/src/*.md)
[ -n "$commands" ] || { echo "error: README.md has no sh block" >&2; exit 1; }

for target in demo test; do
  grep -qx "make $target" <<<"$commands" || { echo "error: README.md does not say: make $target" >&2; exit 1; }
done
while read -r _ target; do
  grep -q "^$target:" Makefile || { echo "error: README.md says: make $target, the Makefile has no such target" >&2; exit 1; }
done < <(grep '^make ' <<<"$commands")

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -Ev '^(make|git|cd|cargo|pip) ' <<<"$commands" >"$folder/commands.sh"
grep -q '^easyroutine ' "$folder/commands.sh" || { echo "error: README.md shows no command" >&2; exit 1; }
cd "$folder"
PATH="$binaries:$PATH" bash -euxo pipefail commands.sh >output.txt || { tail -n 20 output.txt; exit 1; }
