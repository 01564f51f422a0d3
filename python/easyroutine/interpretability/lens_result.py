"""The lens of a prompt: a table, a picture, a page."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any, Literal

from easyroutine import tensors
from easyroutine._core import Model, Report
from easyroutine.checks import string, whole
from easyroutine.interpretability.pictures import framed, written, written_bytes

__all__ = ["LensResult"]

Metric = Literal["final", "p", "rank", "entropy", "kl", "tracked"]


class LensResult:
    """What each layer would predict at each token.

    Pictures show ``final``, the probability of the final layer's top token (the default); ``p``, that of the layer's
    own top token; ``rank`` of the token that really comes next; ``entropy``; ``kl``, KL(final ‖ layer); or ``tracked``,
    the probability of the followed token. :meth:`records` and files hold logarithms of probabilities instead.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._data: dict[str, Any] | None = None

    @classmethod
    def of_prompt(cls, model: Model, row: Any, interventions: Any, hooks: Any, **options: Any) -> LensResult:
        """Runs a prompt and reads its layers."""
        return cls(Report.of_prompt(model, row, interventions, hooks, **options))

    @classmethod
    def from_json(cls, text: str) -> LensResult:
        """Reads the output of :meth:`to_json`."""
        return cls(Report.from_json(string(text, "text")))

    def to_json(self) -> str:
        """Everything, in the schema ``easyroutine.lens/1``."""
        return self._report.json()

    def to_dict(self) -> dict[str, Any]:
        """Everything: ``model``, ``settings``, ``tokens``, ``layers``."""
        data = self._data
        if data is None:
            data = self._data = dict(json.loads(self._report.json()))
        return data

    def records(self) -> list[dict[str, Any]]:
        """One dictionary per layer and position, with the columns of :meth:`to_csv`.

        ``top`` is the layer's own top token. ``logprob`` (of that token), ``logprob_of_final_top`` (of the final
        layer's top token) and ``tracked`` (of the followed token, None without one) are natural logarithms of
        probabilities: ``math.exp`` gives those. ``entropy`` and ``kl_to_final`` are in nats, ``rank_of_next`` counts
        from 1.
        """
        data = self.to_dict()
        texts = {token["position"]: token["text"] for token in data["tokens"]}
        return [
            {
                "layer": layer["layer"],
                "name": layer["name"],
                "position": cell["position"],
                "token": texts[cell["position"]],
                "top": cell["top"][0]["text"] if cell["top"] else None,
                "logprob": cell["top"][0]["logprob"] if cell["top"] else None,
                "logprob_of_final_top": cell["logprob_of_final_top"],
                "entropy": cell["entropy"],
                "kl_to_final": cell["kl_to_final"],
                "rank_of_next": cell.get("rank_of_next"),
                "tracked": cell.get("tracked"),
            }
            for layer in data["layers"]
            for cell in layer["positions"]
        ]

    def to_pandas(self) -> Any:
        """:meth:`records` as a pandas table; needs pandas."""
        return tensors.needed("pandas", "to_pandas()").DataFrame(self.records())

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """One self-contained page, which needs no network; written to ``path`` if given."""
        return written(self._report.html(), path)

    def to_svg(self, path: str | PathLike[str] | None = None, *, metric: Metric = "final", dark: bool = False) -> str:
        """An SVG picture; written to ``path`` if given."""
        return written(self._report.svg(metric, dark), path)

    def to_png(self, path: str | PathLike[str] | None = None, *, metric: Metric = "final", dark: bool = False) -> bytes:
        """A PNG picture; written to ``path`` if given."""
        return written_bytes(self._report.png(metric, dark), path)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """A CSV table; written to ``path`` if given."""
        return written(self._report.csv(), path)

    def to_markdown(self, *, metric: Metric = "final") -> str:
        """A Markdown table."""
        return self._report.markdown(metric)

    def table(self, *, metric: Metric = "final", width: int = 100, colour: bool = False) -> str:
        """A table for a terminal."""
        return self._report.terminal(metric, whole(width, "width"), colour)

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        data = self.to_dict()
        return f"LensResult({data['model']['name']!r}, {len(data['tokens'])} tokens, {len(data['layers'])} layers)"

    def _repr_html_(self) -> str:
        """The page in an iframe; the picture where scripts are off."""
        height = 90 + 24 * (len(self.to_dict()["layers"]) + 3)
        return framed(self._report.html(), self._report.svg("final", False), "logit lens", height)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return type(self).from_json, (self.to_json(),)
