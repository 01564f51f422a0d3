"""The command that the wheel brings along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT, ROOT, TINY

COMMAND = os.path.join(sysconfig.get_path("scripts"), "easyroutine")


def run(*words: str, command: tuple[str, ...] = (COMMAND,), **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*command, *words], capture_output=True, timeout=120, **options)


@pytest.fixture(scope="module")
def native() -> str:
    """The program as cargo builds it; `scripts/python.sh` names it."""
    path = os.environ.get("EASYROUTINE_NATIVE")
    if not path:
        pytest.fail("EASYROUTINE_NATIVE names no program: run `make python`")
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["lens", PROMPT, "-m", str(TINY / "llama")],
        ["lens", PROMPT, "-m", str(TINY / "llama"), "--format", "html"],
        ["lens", PROMPT, "-m", str(TINY / "llama"), "--format", "png"],
        ["run", PROMPT, "-m", str(TINY / "gpt2"), "--generate", "5"],
        ["model", "info", str(TINY / "llama"), "--format", "json"],
        ["--version"],
        ["--help"],
        ["man"],
        [],
        ["lens", PROMPT, "-m", "./nowhere"],
        ["lens", PROMPT, "-m", str(TINY / "llama"), "--layers", "99"],
        ["no-such-command"],
    ],
    ids=" ".join,
)
def test_it_is_the_native_command_to_the_byte(words: list[str], native: str) -> None:
    ours, theirs = run(*words), run(*words, command=(native,))
    assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)
    assert ours.stdout or ours.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are unicode on other systems")
def test_words_that_are_no_unicode_arrive_as_they_are(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/le\xffns.svg"
    done = run("lens", PROMPT, "-m", str(TINY / "llama"), "-o", os.fsdecode(file))
    assert done.returncode == 0 and os.path.exists(file)


def test_the_package_is_a_command_too() -> None:
    module = (sys.executable, "-m", "easyroutine")
    for words in (["--version"], ["--help"], ["lens"]):
        ours, theirs = run(*words, command=module), run(*words)
        assert (ours.returncode, ours.stdout, ours.stderr) == (theirs.returncode, theirs.stdout, theirs.stderr)


def test_a_reader_that_goes_away_is_no_failure() -> None:
    with subprocess.Popen([COMMAND, "man"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT to send")
def test_ctrl_c_ends_it_at_once_and_an_extraction_keeps_what_is_done(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text((PROMPT + "\n") * 40_000, encoding="utf-8")
    where = ["extract", "--file", str(prompts), "-m", str(TINY / "llama"), "-a", "resid_out_*,head_out_*"]
    file = tmp_path / "kept.safetensors"
    words = [COMMAND, *where, "--positions", "last", "--batch-tokens", "64", "-o", str(file)]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    # Said of more than 100 MB, before the first batch.
    assert process.stderr is not None and process.stderr.readline().startswith(b"keeps")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted" in said
    assert (b"of 40000 rows are in" in said) == file.exists()


def test_it_needs_no_source_beside_it() -> None:
    # From a folder where Python finds nothing of this repository.
    assert run("--version", cwd="/").stdout == b"easyroutine " + version().encode() + b"\n"


def version() -> str:
    manifest = (ROOT / "python" / "Cargo.toml").read_text(encoding="utf-8")
    return next(line.split('"')[1] for line in manifest.splitlines() if line.startswith("version"))
