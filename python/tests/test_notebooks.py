"""The notebooks run, and give what stands in them."""

from __future__ import annotations

import re
import runpy
import warnings
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NUMBER = re.compile(r"[-+]?\d+\.\d+")


@pytest.mark.real
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_gives_what_stands_in_it(path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    with warnings.catch_warnings():
        # Of the libraries that run notebooks.
        warnings.simplefilter("ignore")
        found = runpy.run_path(str(FOLDER / "run.py"))["executed"](path)
        written = nbformat.read(path, as_version=4)
    for ours, theirs in zip(found.cells, written.cells, strict=True):
        if ours.cell_type == "code":
            assert [kinds(one) for one in ours.outputs] == [kinds(one) for one in theirs.outputs], ours.source
            for one, other in zip(ours.outputs, theirs.outputs, strict=True):
                assert alike(shown(one), shown(other)), ours.source


def kinds(output: Any) -> list[str]:
    """What an output is: a stream, or the types of its data."""
    return sorted(output.get("data", {})) or [str(output.output_type)]


def shown(output: Any) -> str:
    text = output.get("text") or output.get("data", {}).get("text/plain", "")
    return "" if "IPython.core.display" in text else str(text)


def alike(a: str, b: str) -> bool:
    """The same words, and numbers that other instructions of the processor may round otherwise."""
    numbers = zip(NUMBER.findall(a), NUMBER.findall(b), strict=False)
    close = all(abs(float(x) - float(y)) <= 0.02 for x, y in numbers)
    return close and NUMBER.sub("#", a) == NUMBER.sub("#", b)
