"""Builds the package with maturin, and says what that takes: for ``pip install ./python``.

pip shows what a build prints only when it fails, so this writes to the terminal itself, if there is one. It compiles in a
temporary folder, which takes 700 MB until the build ends; set CARGO_TARGET_DIR to keep what was compiled.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import maturin
from maturin import get_requires_for_build_sdist, prepare_metadata_for_build_editable, prepare_metadata_for_build_wheel

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

#: Where what is missing comes from.
RUSTUP = "https://rustup.rs"

#: Removes a folder once the other end of its input is closed; a compiler that is being ended may still write there.
REMOVER = """
import os, shutil, sys, time
sys.stdin.read()
for _ in range(30):
    shutil.rmtree(sys.argv[1], ignore_errors=True)
    if not os.path.exists(sys.argv[1]):
        break
    time.sleep(1)
"""


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What building needs besides maturin, after a check of the compiler: pip asks this before anything else."""
    check_rust()
    return list(maturin.get_requires_for_build_wheel(config_settings))


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """As for a wheel."""
    check_rust()
    return list(maturin.get_requires_for_build_editable(config_settings))


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Compiles the package, in a folder that is removed afterwards."""
    with announced(), temporary_target():
        return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Compiles the package for development: what was compiled stays, for the next time."""
    with announced():
        return str(maturin.build_editable(wheel_directory, config_settings, metadata_directory))


def build_sdist(sdist_directory: str, config_settings: Any = None) -> str:
    """Packs the sources."""
    return str(maturin.build_sdist(sdist_directory, config_settings))


def check_rust() -> None:
    """Ends the build if there is no compiler, or one that is too old."""
    wanted = oldest_rust()
    found = installed_rust()
    if found is not None and found >= wanted:
        return
    needed = ".".join(map(str, wanted))
    have = "none was found" if found is None else "this is " + ".".join(map(str, found))
    install = f"install it from {RUSTUP}" if found is None else "rustup update stable"
    raise SystemExit(f"error: building easyroutine needs Rust {needed} or newer; {have}: {install}")


def oldest_rust() -> tuple[int, ...]:
    """The oldest compiler that builds the package."""
    manifest = (Path(__file__).parent / "Cargo.toml").read_text(encoding="utf-8")
    found = re.search(r'^rust-version = "([\d.]+)"', manifest, re.MULTILINE)
    if found is None:
        raise SystemExit("error: Cargo.toml does not say which Rust it needs")
    return tuple(map(int, found[1].split(".")))


def installed_rust() -> tuple[int, ...] | None:
    """The version of the compiler on the path; None without one."""
    try:
        said = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"\d+\.\d+(?:\.\d+)?", said)
    return tuple(map(int, found[0].split("."))) if found else None


@contextmanager
def announced() -> Iterator[None]:
    """Says what begins and how long it takes, and at the end how long it took."""
    began = time.monotonic()
    tell("compiling the Rust half of easyroutine: about seven minutes on two cores, 700 MB on the disk until it ends")
    yield
    tell(f"compiled in {time.monotonic() - began:.0f} s")


@contextmanager
def temporary_target() -> Iterator[None]:
    """A folder for what is compiled, removed at the end, unless the user has named one.

    Ctrl-C makes pip kill this process, so another one waits for its end and removes the folder.
    """
    if os.environ.get("CARGO_TARGET_DIR"):
        yield
        return
    folder = tempfile.mkdtemp(prefix="easyroutine-build-")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    remover: Any = subprocess.Popen([sys.executable, "-c", REMOVER, folder], stdin=subprocess.PIPE, **quiet)
    os.environ["CARGO_TARGET_DIR"] = folder
    try:
        yield
    finally:
        del os.environ["CARGO_TARGET_DIR"]
        remover.communicate()


def tell(what: str) -> None:
    """Writes a line on the terminal, past pip's pipes; into the log where there is no terminal."""
    try:
        with open("/dev/tty" if os.name == "posix" else "CONOUT$", "w", encoding="utf-8") as terminal:
            print(f"\neasyroutine: {what}", file=terminal)
    except OSError:
        print(f"easyroutine: {what}", file=sys.stderr, flush=True)
