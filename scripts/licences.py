"""The licences of every crate that a program is linked from, with their texts: scripts/licences.py MANIFEST TARGET FEATURES"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

#: Files in which a crate keeps its licence.
NAMES = ("licen", "copying", "notice", "unlicense")


def linked(manifest: str, target: str, features: str) -> list[dict[str, object]]:
    """The packages that end up in the program: no development and build dependencies."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", target]
    found = json.loads(
        subprocess.check_output([*command, "--manifest-path", manifest, "--features", features], text=True)
    )
    packages = {package["id"]: package for package in found["packages"]}
    nodes = {node["id"]: node for node in found["resolve"]["nodes"]}
    waiting, seen = [found["resolve"]["root"]], set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        for dependency in nodes[one]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    return sorted((packages[one] for one in seen), key=lambda package: (package["name"], package["version"]))


def main() -> None:
    """Writes the list to standard output; fails where a crate says nothing of its licence."""
    packages = [package for package in linked(*sys.argv[1:4]) if package["source"] is not None]
    texts: dict[str, list[str]] = {}
    for package in packages:
        name = f"{package['name']} {package['version']}"
        folder = Path(str(package["manifest_path"])).parent
        files = [file for file in sorted(folder.iterdir()) if file.name.lower().startswith(NAMES) and file.is_file()]
        if not (package["license"] or files):
            sys.exit(f"error: {name} says nothing of its licence")
        print(f"{name}: {package['license'] or package['license_file']} ({package['repository'] or 'no repository'})")
        for file in files:
            texts.setdefault(file.read_text("utf-8", errors="replace").strip(), []).append(name)
    for text, names in texts.items():
        print(f"\n{'-' * 80}\n{', '.join(names)}\n\n{text}")


if __name__ == "__main__":
    main()
