"""What `pip install ./python` says and leaves behind: build_backend.py, with a maturin that compiles nothing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SOURCES = Path(__file__).parents[1]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, said: list[str]) -> ModuleType:
    hooks = ("get_requires_for_build_sdist", "prepare_metadata_for_build_editable", "prepare_metadata_for_build_wheel")
    fake: Any = SimpleNamespace(**dict.fromkeys(hooks))
    fake.get_requires_for_build_wheel = lambda _: []
    monkeypatch.setitem(sys.modules, "maturin", fake)
    spec = importlib.util.spec_from_file_location("build_backend", SOURCES / "build_backend.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "tell", said.append)
    return module


def test_the_compiler_that_is_needed_is_named_before_anything_is_compiled(
    backend: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ".".join(map(str, backend.oldest_rust()))
    assert f'rust-version = "{wanted}"' in (SOURCES.parent / "Cargo.toml").read_text()
    for found, expected in [
        (None, "none was found: install it from https://rustup.rs"),
        ((1, 60, 0), "this is 1.60.0"),
    ]:
        monkeypatch.setattr(backend, "installed_rust", lambda found=found: found)
        with pytest.raises(SystemExit, match=f"needs Rust {wanted} or newer; {expected}"):
            backend.get_requires_for_build_wheel()
    for enough in (backend.oldest_rust(), (*backend.oldest_rust(), 1), (2, 0, 0)):
        monkeypatch.setattr(backend, "installed_rust", lambda enough=enough: enough)
        assert backend.get_requires_for_build_wheel() == []


def test_what_was_compiled_is_removed_even_after_a_failure(
    backend: ModuleType, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []

    def build(*_: Any) -> str:
        folders.append(Path(os.environ["CARGO_TARGET_DIR"]))
        (folders[-1] / "release").mkdir()
        if len(folders) == 2:
            raise RuntimeError("the compiler failed")
        return "a.whl"

    backend.maturin.build_wheel = build
    monkeypatch.delenv("CARGO_TARGET_DIR", raising=False)
    assert backend.build_wheel("dist") == "a.whl"
    assert "minutes" in said[0] and "compiled in" in said[1]
    with pytest.raises(RuntimeError):
        backend.build_wheel("dist")
    assert not any(folder.exists() for folder in folders) and "CARGO_TARGET_DIR" not in os.environ


@pytest.mark.skipif(sys.platform == "win32", reason="needs a process that can be killed")
def test_what_was_compiled_is_removed_when_pip_is_interrupted(tmp_path: Path) -> None:
    (tmp_path / "maturin.py").write_text(
        "import os, signal\n"
        "get_requires_for_build_sdist = prepare_metadata_for_build_editable = prepare_metadata_for_build_wheel = None\n"
        "def build_wheel(*_):\n"
        "    os.mkdir(os.environ['CARGO_TARGET_DIR'] + '/release')\n"
        "    print(os.environ['CARGO_TARGET_DIR'], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    paths = os.pathsep.join([str(tmp_path), str(SOURCES)])
    environment = {name: value for name, value in os.environ.items() if name != "CARGO_TARGET_DIR"}
    environment |= {"PYTHONPATH": paths, "TMPDIR": str(tmp_path)}
    build = [sys.executable, "-c", "import build_backend as b; b.tell = print; b.build_wheel('dist')"]
    killed = subprocess.run(build, env=environment, stdout=subprocess.PIPE, text=True, timeout=60)
    folder = Path(killed.stdout.split()[-1])
    assert killed.returncode < 0 and folder.parent == tmp_path
    until = time.monotonic() + 30
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not folder.exists()


def test_a_folder_of_the_users_own_is_kept(
    backend: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARGO_TARGET_DIR", str(tmp_path))
    backend.maturin.build_wheel = lambda *_: os.environ["CARGO_TARGET_DIR"]
    assert backend.build_wheel("dist") == str(tmp_path) and tmp_path.exists()
