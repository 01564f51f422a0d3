"""Every block of Python in the book and in the package's README runs, page by page."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

PAGES = [*sorted((ROOT / "docs/book/src").glob("*.md")), ROOT / "README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.real
@pytest.mark.torch
@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))], ids=lambda p: p.stem
)
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCK.findall(page.read_text("utf-8")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, str(page), "exec"), names)


def test_every_page_is_in_the_summary() -> None:
    summary = (ROOT / "docs/book/src/SUMMARY.md").read_text("utf-8")
    linked = set(re.findall(r"\((.*?)\)", summary))
    assert linked == {page.name for page in PAGES} - {"SUMMARY.md", "README.md"}
