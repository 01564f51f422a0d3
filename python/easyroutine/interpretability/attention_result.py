"""Attention patterns of a prompt: a table, a picture, a page."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any

from easyroutine._core import Attention
from easyroutine.checks import string, whole
from easyroutine.interpretability.pictures import framed, written, written_bytes

__all__ = ["AttentionResult"]


class AttentionResult:
    """What each head attends to: all heads as thumbnails, or one large.

    Most heads put most of their weight on the first token; ``hide_first`` leaves it out, so that the others show.
    """

    def __init__(self, report: Attention) -> None:
        self._report = report
        self._data: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, text: str) -> AttentionResult:
        """Reads the output of :meth:`to_json`."""
        return cls(Attention.from_json(string(text, "text")))

    def to_json(self) -> str:
        """Everything, in the schema ``easyroutine.attn/1``."""
        return self._report.json()

    def to_dict(self) -> dict[str, Any]:
        """Everything: ``model``, ``bos``, ``tokens``, and ``heads`` with ``weights[query][key]`` up to the query."""
        data = self._data
        if data is None:
            data = self._data = dict(json.loads(self._report.json()))
        return data

    def to_html(self, path: str | PathLike[str] | None = None, *, hide_first: bool = False) -> str:
        """One self-contained page, which needs no network; written to ``path`` if given."""
        return written(self._report.html(hide_first), path)

    def to_svg(self, path: str | PathLike[str] | None = None, *, hide_first: bool = False, dark: bool = False) -> str:
        """An SVG picture; written to ``path`` if given."""
        return written(self._report.svg(hide_first, dark), path)

    def to_png(self, path: str | PathLike[str] | None = None, *, hide_first: bool = False, dark: bool = False) -> bytes:
        """A PNG picture; written to ``path`` if given."""
        return written_bytes(self._report.png(hide_first, dark), path)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """One line per weight; written to ``path`` if given."""
        return written(self._report.csv(), path)

    def to_markdown(self) -> str:
        """A Markdown table of what each head attends to."""
        return self._report.markdown()

    def table(self, *, width: int = 100, colour: bool = False, hide_first: bool = False) -> str:
        """A table for a terminal."""
        return self._report.terminal(whole(width, "width"), colour, hide_first)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        data = self.to_dict()
        return f"AttentionResult({data['model']['name']!r}, {len(data['tokens'])} tokens, {len(data['heads'])} heads)"

    def _repr_html_(self) -> str:
        """The page in an iframe; the picture where scripts are off."""
        return framed(self._report.html(False), self._report.svg(False, False), "attention", 900)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return type(self).from_json, (self.to_json(),)
