"""Errors name Python's arguments, not the flags of the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

from easyroutine.errors import EasyroutineError
from easyroutine.hints import in_python
from easyroutine.interpretability import ActivationSaver, HookedModel

#: What this package is made of in Rust, but for the command line itself.
SOURCES = [
    path
    for folder in (
        "crates/core/src",
        "crates/store/src",
        "crates/files/src",
        "crates/sites/src",
        "crates/app/src",
        "crates/graphs/src",
        "crates/dictionaries/src",
        "python/src",
    )
    for path in sorted((ROOT / folder).rglob("*.rs"))
    if "test" not in path.stem
]
TEXT = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
FLAG = re.compile(r"(?<![\w-])--[a-z]|`-[a-z]\b")


def texts_with_flags() -> list[str]:
    found = []
    for path in SOURCES:
        # Tests at the end of a file, and comments, reach nobody.
        code = path.read_text("utf-8").partition("#[cfg(test)]")[0]
        code = "\n".join(line for line in code.splitlines() if not line.lstrip().startswith("//"))
        # What goes over several lines is a page of documentation.
        found += [
            text for text in TEXT.findall(code) if FLAG.search(text) and "\n\n" not in text and "\\n\\n" not in text
        ]
    return found


@pytest.mark.parametrize("text", texts_with_flags())
def test_no_flag_reaches_python(text: str) -> None:
    shown = in_python(re.sub(r"\{\w*\}", "name", text))
    assert not FLAG.search(shown), f"easyroutine/hints.py says nothing of it: {shown}"


def test_there_are_flags_to_be_translated() -> None:
    assert len(texts_with_flags()) > 5


def test_a_prompt_that_is_too_long_names_an_argument(llama: HookedModel) -> None:
    with pytest.raises(EasyroutineError, match=r"truncation=True") as raised:
        llama.forward([[5] * 100])
    assert "--" not in str(raised.value)


def test_a_run_that_is_there_names_an_argument(llama: HookedModel, tmp_path: Path) -> None:
    saver = ActivationSaver(tmp_path)
    two = [[[1, 2]], [[3, 4]]]
    assert llama.extract_to_store(saver, two, run="a", unit=1, part=(1, 2)) is None
    with pytest.raises(EasyroutineError, match="resume=True continues"):
        llama.extract_to_store(saver, two, run="a", unit=1)


def test_a_key_that_is_not_read_names_an_argument(folder_copy: Path) -> None:
    config = folder_copy / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "new_kind_of_norm": 3}))
    with pytest.raises(EasyroutineError, match=r'allow_config_keys=\["new_kind_of_norm"\]'):
        HookedModel.from_pretrained(folder_copy)
