"""Attribution graphs: which transcoder features of a prompt caused which others, and the answer."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

from easyroutine.checks import function, number, string, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import InputError
from easyroutine.hints import in_python
from easyroutine.interpretability.gradients import Token, tokens_of
from easyroutine.interpretability.patching import check_unchanged
from easyroutine.interpretability.pictures import framed, written

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine._core import AttributionGraph as Engine
    from easyroutine._core import Tensor
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["AttributionGraph", "attribution_graph"]


@takes_chats
def attribution_graph(
    model: HookedModel,
    prompt: Any,
    dictionaries: str | PathLike[str],
    *,
    answers: Token | Sequence[Token] | None = None,
    max_logits: int = 10,
    probability: float = 0.95,
    max_features: int = 7500,
    skip_first: int = 1,
    checks: int = 8,
    place: str | None = None,
    norm_factor: float | None = None,
    on_progress: Callable[[int, int], Any] | None = None,
    **chat: Unpack[ChatArguments],
) -> AttributionGraph:
    """The attribution graph of one prompt, as in circuit-tracer.

    Transcoders replace the MLPs, patterns and norm scales are constants, and each feature is a sum over what came
    before it.

    ``dictionaries`` is the folder or the file of a set of transcoders, per layer or cross-layer, or its place on the
    hub (``org/name[@revision][:PATH]``); a layer without one contributes one error per position. ``answers`` are the
    tokens whose logits are explained, by default the most probable ones that together reach ``probability``, at most
    ``max_logits``. The ``max_features`` most influential features get a row. Features and errors of the first
    ``skip_first`` positions are left out. ``checks`` sources are removed, one at a time, and the change compared with
    their edges. ``place`` and ``norm_factor`` supply what the dictionary's files do not say.

    Raises:
        InputError: Several prompts, one that is too short, a token that is not one, a dictionary that does not fit.
        UnsupportedError: A dictionary that is not a linear transcoder; a model in bfloat16, or one that is not linear
            between its MLPs even with constant patterns.
    """
    check_unchanged(model, "attribution_graph")
    if on_progress is not None:
        function(on_progress, "on_progress")
    chats = Chats(chat)
    rows = model._rows(prompt, chats)
    chats.finish()
    if len(rows) != 1:
        raise InputError(f"{len(rows)} prompts for one graph", "call attribution_graph for each")
    targets = None
    if answers is not None:
        count = 1 if isinstance(answers, (str, int)) else len(answers)
        targets = tokens_of(model, answers, "answers", count)
    settings = {
        "path": fspath(dictionaries),
        "offline": model.config.offline,
        "place": None if place is None else string(place, "place"),
        "norm_factor": None if norm_factor is None else number(norm_factor, "norm_factor"),
        "targets": targets,
        "max_logits": whole(max_logits, "max_logits"),
        "probability": number(probability, "probability"),
        "max_features": whole(max_features, "max_features"),
        "skip_first": whole(skip_first, "skip_first"),
        "checks": whole(checks, "checks"),
    }
    engine, said = model._engine.attribution_graph(rows[0].ids, settings, on_progress)
    for warning in said:
        warnings.warn(in_python(warning), stacklevel=3)
    return AttributionGraph(engine)


class AttributionGraph:
    """Which features, errors and tokens of a prompt caused which features and logits.

    Nodes are features by layer, position and index, then errors by layer and position, tokens, and logits by falling
    probability.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """Each node: ``kind`` (``feature``, ``error``, ``token``, ``logit``), ``position``, ``influence`` on the
        logits.

        Features and errors also have ``layer``; features ``feature`` and ``value``; tokens and logits ``id`` and
        ``text``; logits ``probability``.
        """
        return self._engine.nodes()

    @property
    def edges(self) -> Tensor:
        """Direct effects [targets, sources], in the order of :attr:`nodes`.

        A row for each feature and then each logit, a column for each node that is not a logit.
        """
        return self._engine.edges()

    @property
    def scores(self) -> dict[str, float]:
        """``replacement`` and ``completeness``.

        ``replacement`` is the tokens' share of the influence of tokens and errors; ``completeness`` the share of the
        nodes' input, weighted by influence, that does not come from errors.
        """
        replacement, completeness = self._engine.scores()
        return {"replacement": replacement, "completeness": completeness}

    @property
    def certificate(self) -> dict[str, Any]:
        """How well the graph accounts for the model.

        ``largest_row_error``: the largest gap between what a target reads and the sum of its row and of what comes from
        no node, relative to the magnitudes added; None if some features have no row. ``largest_intervention_error``:
        the largest gap between a measured change and the edges, over ``interventions``.
        """
        told: dict[str, Any] = self.to_dict()["metadata"]["easyroutine"]["certificate"]
        return told

    def prune(
        self, node_threshold: float = 0.8, edge_threshold: float = 0.98
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The nodes that carry a share of all influence, and the edges between them that do, as (target, source)."""
        kept, edges = self._engine.prune(*_shares(node_threshold, edge_threshold))
        return [node for node, is_kept in enumerate(kept) if is_kept], edges

    def to_dict(
        self,
        *,
        node_threshold: float = 0.8,
        edge_threshold: float = 0.98,
        slug: str | None = None,
        scan: str | None = None,
    ) -> dict[str, Any]:
        """The pruned graph in circuit-tracer's format, for its viewer and Neuronpedia's."""
        found: dict[str, Any] = json.loads(self._json(node_threshold, edge_threshold, slug, scan))
        return found

    def to_json(
        self,
        path: str | PathLike[str] | None = None,
        *,
        node_threshold: float = 0.8,
        edge_threshold: float = 0.98,
        slug: str | None = None,
        scan: str | None = None,
    ) -> str:
        """:meth:`to_dict` as text; written to ``path`` if given."""
        return written(self._json(node_threshold, edge_threshold, slug, scan), path)

    def to_html(
        self,
        path: str | PathLike[str] | None = None,
        *,
        node_threshold: float = 0.8,
        edge_threshold: float = 0.98,
    ) -> str:
        """One self-contained page, which needs no network; written to ``path`` if given."""
        return written(self._drawn("html", node_threshold, edge_threshold), path)

    def to_csv(
        self,
        path: str | PathLike[str] | None = None,
        *,
        node_threshold: float = 0.8,
        edge_threshold: float = 0.98,
    ) -> str:
        """One line per kept edge; written to ``path`` if given."""
        return written(self._drawn("csv", node_threshold, edge_threshold), path)

    def table(self, *, width: int = 100, most: int = 20) -> str:
        """The ``most`` largest edges as a table for a terminal."""
        return self._drawn("terminal", 0.8, 0.98, width=whole(width, "width"), most=whole(most, "most", 1))

    def _json(self, nodes: float, edges: float, slug: str | None, scan: str | None) -> str:
        names = [None if text is None else string(text, name) for text, name in ((slug, "slug"), (scan, "scan"))]
        return self._engine.json(*_shares(nodes, edges), *names)

    def _drawn(self, format: str, nodes: float, edges: float, *, width: int = 100, most: int = 20) -> str:
        return self._engine.draw(format, *_shares(nodes, edges), width, most).decode()

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        targets, sources = self._engine.shape()
        return f"AttributionGraph({targets} targets, {sources} sources, {self.scores})"

    def _repr_html_(self) -> str:
        """The page in an iframe; the table where frames are off."""
        return framed(self.to_html(), self._drawn("markdown", 0.8, 0.98), "Attribution graph", 900)


def _shares(nodes: Any, edges: Any) -> tuple[float, float]:
    return number(nodes, "node_threshold"), number(edges, "edge_threshold")
