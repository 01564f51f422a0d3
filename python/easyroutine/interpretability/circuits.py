"""Edges between the parts of a model, and circuits of the largest ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from easyroutine._core import draw_circuit
from easyroutine.checks import function, mapping, string, sums_file, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.interpretability.gradients import Token, metrics_of
from easyroutine.interpretability.patching import check_unchanged
from easyroutine.interpretability.pictures import framed, written, written_bytes

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["Circuit", "edges"]


@takes_chats
def edges(
    model: HookedModel,
    clean: Any,
    corrupt: Any,
    metric: Literal["logit_diff", "logit", "logprob", "p", "kl"] = "logit_diff",
    *,
    answer: Token | Sequence[Token] | None = None,
    against: Token | Sequence[Token] | None = None,
    method: Literal["eap", "eap-ig", "clean-corrupted"] = "eap-ig",
    steps: int = 5,
    rule: Literal["gradient", "relp"] = "gradient",
    top: int = 200,
    curve: bool = False,
    state: str | PathLike[str] | None = None,
    on_progress: Callable[[int, int], Any] | None = None,
    **chat: Unpack[ChatArguments],
) -> Circuit:
    """Scores every edge between embedding, heads, MLPs and logits, and runs the circuit of the ``top`` largest.

    The score of u → v is (corrupted - clean) of what u writes, times the gradient of the metric with respect to what v
    reads before its norm, summed over positions, the mean over pairs. ``eap`` takes gradients on the clean run,
    ``eap-ig`` their mean over ``steps`` points from the corrupted embeddings towards the clean ones,
    ``clean-corrupted`` the mean of both runs. Row i of ``clean`` pairs with row i of ``corrupt`` and has as many
    tokens.

    The circuit keeps only edges on a path from the input to the logits. It runs on the clean rows with every other edge
    carrying the corrupted run: its faithfulness is (circuit - corrupted) / (clean - corrupted). ``curve=True`` also
    runs circuits of 0.1 to 100 % of all edges (MIB's fractions).

    ``state``, a ``.safetensors`` file, keeps the sums of the scores while pairs are read, even if reading ends in an error
    or by Ctrl-C. The same call, with these pairs and others after them, then continues, to the bits of one whole run.
    ``easyroutine edges --state`` writes and reads the same file.

    Raises:
        InputError: Unequal numbers or lengths of rows, a metric without a gradient, more edges than exist, a ``state`` of
            another model, other pairs or other options.
        UnsupportedError: A model that norms its heads before adding them, one in bfloat16, or one with a step that has
            no backward rule.
    """
    check_unchanged(model, "edges")
    if on_progress is not None:
        function(on_progress, "on_progress")
    chats = Chats(chat)
    rows, others = model._rows(clean, chats), model._rows(corrupt, chats)
    chats.finish()
    prompts = [
        (name, one[0].text[0]) for name, one in (("clean", rows), ("corrupted", others)) if one[0].text is not None
    ]
    text = model._engine.edges(
        [row.for_engine() for row in rows],
        [row.for_engine() for row in others],
        {
            "metrics": metrics_of(model, string(metric, "metric"), answer, against, len(rows), has_target=False),
            "method": string(method, "method"),
            "steps": whole(steps, "steps", 0),
            "rule": string(rule, "rule"),
            "top": whole(top, "top", 0),
            "curve": bool(curve),
            "state": sums_file(state),
            "prompts": prompts if len(rows) == 1 else [],
        },
        on_progress,
    )
    return Circuit(json.loads(text))


class Circuit:
    """Scored edges, and which of them the circuit keeps: the JSON of hannamw/EAP-IG plus the results of its runs."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(mapping(data, "a circuit"))

    @property
    def scores(self) -> dict[str, float]:
        """The score of every edge by name, ``a0.h1->a2.h3<q>``."""
        return {name: float(edge["score"]) for name, edge in self.data["edges"].items()}

    @property
    def kept(self) -> list[str]:
        """The circuit's edges, by falling absolute score."""
        edges = self.data["edges"]
        names = [name for name, edge in edges.items() if edge["in_graph"]]
        return sorted(names, key=lambda name: (-abs(edges[name]["score"]), name))

    @property
    def faithfulness(self) -> float | None:
        """(circuit - corrupted) / (clean - corrupted); None where both runs have the same metric."""
        found = self.data["easyroutine"]["circuit"]["faithfulness"]
        return None if found is None else float(found)

    @property
    def curve(self) -> dict[str, Any] | None:
        """``fractions``, ``edges``, ``metrics``, ``faithfulness``, ``cpr``, ``cmd``, if requested by ``curve=True``."""
        found = self.data["easyroutine"]["curve"]
        return None if found is None else dict(found)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as EAP-IG's ``Graph.from_json`` reads it from a file."""
        return dict(self.data)

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the JSON."""
        written(json.dumps(self.data), path)

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """One self-contained page, which needs no network; written to ``path`` if given."""
        return written(self._drawn("html"), path)

    def to_svg(self, path: str | PathLike[str] | None = None) -> str:
        """An SVG picture; written to ``path`` if given."""
        return written(self._drawn("svg"), path)

    def to_png(self, path: str | PathLike[str] | None = None) -> bytes:
        """A PNG picture; written to ``path`` if given."""
        return written_bytes(draw_circuit(json.dumps(self.data), "png"), path)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """One line per kept edge; written to ``path`` if given."""
        return written(self._drawn("csv"), path)

    def to_markdown(self) -> str:
        """A Markdown table."""
        return self._drawn("markdown")

    def table(self, *, width: int = 100, most: int = 20) -> str:
        """The ``most`` largest edges as a table for a terminal."""
        return self._drawn("terminal", width=whole(width, "width"), most=whole(most, "most", 1))

    def _drawn(self, format: str, **options: Any) -> str:
        return draw_circuit(json.dumps(self.data), format, **options).decode()

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return f"Circuit({len(self.kept)} of {len(self.data['edges'])} edges, faithfulness {self.faithfulness})"

    def _repr_html_(self) -> str:
        """The page in an iframe; the picture where frames are off."""
        return framed(self.to_html(), self.to_svg(), "Circuit", 900)
