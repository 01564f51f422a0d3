"""Every block of Python in the book and in both READMEs runs, page by page."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY

BOOK = sorted((ROOT / "docs/book/src").glob("*.md"))
PAGES = [*BOOK, ROOT / "README.md", ROOT / "python/README.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.real
@pytest.mark.torch
@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))], ids=lambda p: f"{p.parent.name}-{p.stem}"
)
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in BLOCK.findall(page.read_text("utf-8")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(compile(block, str(page), "exec"), names)


def test_every_page_is_in_the_summary() -> None:
    summary = (ROOT / "docs/SUMMARY.md").read_text("utf-8")
    linked = set(re.findall(r"\((.*?)\)", summary))
    pages = [*BOOK, *(ROOT / "docs").glob("*.md"), *(ROOT / "docs/design").glob("*.md")]
    assert linked == {page.relative_to(ROOT / "docs").as_posix() for page in pages} - {"SUMMARY.md"}


def test_the_errors_of_the_models_are_those_that_were_measured() -> None:
    def rows(page: str) -> list[list[str]]:
        lines = (ROOT / page).read_text("utf-8").splitlines()
        return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]

    head, _, *measured = rows("docs/ACCURACY.md")
    columns = [head.index(one) for one in ("resid_out", "pattern", "logits", "bf16 logits")]
    by_family = {row[0]: [row[at] for at in columns] for row in measured}
    shown = {row[0]: row[2:] for row in rows("docs/book/src/models.md") if row[0] in by_family}
    assert shown == {family: by_family[family] for family in shown}
    # Every family that has a fixture of its own name.
    families = {json.loads((path / "config.json").read_text("utf-8"))["model_type"] for path in TINY.iterdir()}
    assert set(shown) == families
