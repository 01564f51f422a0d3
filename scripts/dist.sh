#!/usr/bin/env bash
# What a release publishes, into dist/: scripts/dist.sh [wheel|program|crates|all]
# A wheel for every Linux with glibc 2.17 or later and Python 3.10 or later, a source distribution, a static program, the
# crates, and beside them a list of all that is linked, its licences, and checksums.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
machine=$(uname -m)
tools="$PWD/.cache/dist"
dist="$PWD/dist"
features=cloud
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

if [ ! -e "$tools/.done" ] || [ scripts/dist-requirements.txt -nt "$tools/.done" ]; then
  rm -rf "$tools"
  python3 -m venv "$tools"
  "$tools/bin/python" -m pip install --quiet --disable-pip-version-check -r scripts/dist-requirements.txt
  touch "$tools/.done"
fi
export PATH="$tools/bin:$PATH"
mkdir -p "$dist"

licences() { python3 scripts/licences.py "$1" "$2" "$features"; }

wheel() {
  local built
  # Wheels of before would be taken for this one.
  rm -f "$dist"/easyroutine_rs-*
  trap 'rm -f python/easyroutine/third-party-licences.txt' EXIT
  licences python/Cargo.toml "$machine-unknown-linux-gnu" >python/easyroutine/third-party-licences.txt
  # zig links against an old C library; auditwheel looks at what came out.
  maturin build --release --strip --locked --zig --compatibility manylinux2014 --features "$features" \
    --manifest-path python/Cargo.toml --out "$dist"
  maturin sdist --manifest-path python/Cargo.toml --out "$dist"
  built=$(echo "$dist"/easyroutine_rs-*.whl)
  auditwheel show "$built"
  python3 -m zipfile -e "$built" "$dist/.wheel"
  cp "$dist"/.wheel/*.dist-info/sboms/*.json "$dist/easyroutine-$version-$machine.cyclonedx.json"
  rm -r "$dist/.wheel"
}

program() {
  local target="$machine-unknown-linux-musl" name="easyroutine-$version-$machine-linux"
  rustup target list --installed | grep -qx "$target" || rustup target add "$target"
  cargo zigbuild --release --locked --package easyroutine-cli --features "$features" --target "$target"
  rm -rf "${dist:?}/$name"
  mkdir "$dist/$name"
  cp "${CARGO_TARGET_DIR:-target}/$target/release/easyroutine" README.md CHANGELOG.md LICENSE-* "$dist/$name"
  licences crates/cli/Cargo.toml "$target" >"$dist/$name/third-party-licences.txt"
  # A static program asks for no library.
  if ldd "$dist/$name/easyroutine" >/dev/null 2>&1; then echo "error: the program is not static" >&2; exit 1; fi
  tar -C "$dist" --sort=name --owner=0 --group=0 --mtime="@$(git log -1 --format=%ct)" -czf "$dist/$name.tar.gz" "$name"
  rm -r "${dist:?}/$name"
}

crates() {
  # In the order of their dependencies; each is built from its own archive, as a registry would.
  cargo package --workspace --exclude easyroutine-python --locked --allow-dirty
  cp "${CARGO_TARGET_DIR:-target}"/package/*.crate "$dist"
}

case $what in
  all) wheel; program; crates ;;
  wheel | program | crates) "$what" ;;
  *) echo "error: wheel, program, crates or all, not $what" >&2; exit 1 ;;
esac
(cd "$dist" && rm -f SHA256SUMS && sha256sum -- * >.sums && mv .sums SHA256SUMS)
ls -lh "$dist"
