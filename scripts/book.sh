#!/usr/bin/env bash
# Builds the book with the pages of both APIs into target/book, and looks for links that lead nowhere: scripts/book.sh
# Needs what `make docs` and `make python` leave: rustdoc's pages, and the package's wheel.
set -euo pipefail
cd "$(dirname "$0")/.."
target="${CARGO_TARGET_DIR:-$PWD/target}"
out="$PWD/target/book"
room="$PWD/.cache/book"
wheel=$(ls python/target/wheels/*.whl 2>/dev/null | head -n 1)
[ -n "$wheel" ] || { echo "error: no wheel in python/target/wheels; make python builds it" >&2; exit 1; }
[ -e "$target/doc/easyroutine/index.html" ] || { echo "error: no pages in $target/doc; make docs writes them" >&2; exit 1; }

mark="$room/$(cksum <docs/requirements.txt | cut -d' ' -f1)"
if [ ! -e "$mark" ]; then
  python3 -m venv --clear "$room"
  "$room/bin/python" -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
  touch "$mark"
fi
"$room/bin/python" -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps "$wheel"

mdbook build docs --dest-dir "$out"
mkdir -p "$out/api"
cp -r "$target/doc" "$out/api/rust"
# In a folder of its own: in the repository's, Python would import the sources, which have no native module. Types that
# are imported for type checkers alone are shown as they are written, which pdoc warns of.
(cd "$room" && bin/python -W ignore -m pdoc --docformat restructuredtext --output-directory "$out/api/python" \
  easyroutine easyroutine.interpretability easyroutine.scale)
python3 scripts/links.py "$out"
