"""Attribution graphs in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TINY

from easyroutine import EasyroutineError
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability import AttributionGraph, HookedModel

SETS = ROOT / "fixtures/dictionaries"
CASE = ROOT / "fixtures/graphs/circuit_tracer_plt"


@pytest.fixture(scope="module")
def gpt2() -> HookedModel:
    return HookedModel.from_pretrained(str(TINY / "gpt2"))


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((CASE / "graph.json").read_text())
    return found


@pytest.fixture(scope="module")
def graph(gpt2: HookedModel, expected: dict[str, Any]) -> AttributionGraph:
    return gpt2.attribution_graph([expected["input_ids"]], SETS / "circuit_tracer_plt")


def test_a_graph_is_that_of_the_references(graph: AttributionGraph, expected: dict[str, Any]) -> None:
    assert abs(graph.scores["replacement"] - expected["replacement"]) < 1e-5
    assert abs(graph.scores["completeness"] - expected["completeness"]) < 1e-5
    kinds = [node["kind"] for node in graph.nodes]
    n_logits = kinds.count("logit")
    assert graph.edges.shape == (kinds.count("feature") + n_logits, len(kinds) - n_logits)
    nodes, edges = graph.prune()
    assert len(nodes) == expected["kept_nodes"] and len(edges) == expected["kept_edges"]
    assert (
        graph.nodes[0]["kind"] == "feature" and graph.nodes[-1]["probability"] < graph.nodes[-n_logits]["probability"]
    )


def test_a_graph_is_written_as_circuit_tracer_writes_it(graph: AttributionGraph, tmp_path: Path) -> None:
    theirs = json.loads((CASE / "circuit_tracer.json").read_text())
    ours = json.loads(graph.to_json(tmp_path / "g.json", slug="circuit_tracer_plt", scan="tiny/circuit_tracer_plt"))
    assert json.loads((tmp_path / "g.json").read_text()) == ours
    assert [node["node_id"] for node in ours["nodes"]] == [node["node_id"] for node in theirs["nodes"]]
    assert [node["clerp"] for node in ours["nodes"]] == [node["clerp"] for node in theirs["nodes"]]
    assert ours["metadata"]["prompt_tokens"] == theirs["metadata"]["prompt_tokens"]
    assert ours["metadata"]["prompt"] == theirs["metadata"]["prompt"]
    assert ours["metadata"]["scan"] == theirs["metadata"]["scan"]
    for link, other in zip(ours["links"], theirs["links"], strict=True):
        assert (link["source"], link["target"]) == (other["source"], other["target"])
        assert abs(link["weight"] - other["weight"]) < 1e-4
    certificate = graph.certificate
    assert certificate["largest_row_error"] < 1e-5 and certificate["largest_intervention_error"] < 1e-5


def test_a_graph_is_drawn(graph: AttributionGraph) -> None:
    assert "Content-Security-Policy" in graph.to_html() and "logit" in str(graph)
    assert graph.to_csv(node_threshold=0.5).count("\n") < graph.to_csv().count("\n")
    assert "AttributionGraph(" in repr(graph) and "<iframe" in graph._repr_html_()


def test_what_makes_no_graph_is_refused(gpt2: HookedModel, graph: AttributionGraph) -> None:
    plt = SETS / "circuit_tracer_plt"
    with pytest.raises(InputError, match="2 prompts for one graph"):
        gpt2.attribution_graph([[1, 5, 9], [1, 5]], plt)
    with pytest.raises(InputError, match="features of the first 9 are left out"):
        gpt2.attribution_graph([[1, 5, 9]], plt, skip_first=9)
    with pytest.raises(InputError, match="named twice"):
        gpt2.attribution_graph([[1, 5, 9]], plt, answers=[7, 7])
    with pytest.raises(UnsupportedError, match="needs transcoders"):
        gpt2.attribution_graph([[1, 5, 9]], SETS / "saelens_standard")
    with pytest.raises(EasyroutineError):
        gpt2.attribution_graph([[1, 5, 9]], "/nowhere/at/all")
    with pytest.raises(InputError, match="shares lie between 0 and 1"):
        graph.prune(1.5)
    with pytest.warns(UserWarning, match="stands at the beginning"):
        gpt2.attribution_graph([[77, 5, 9]], plt, answers=7, max_features=3)

    def stop(done: int, of: int) -> None:
        raise RuntimeError(f"{done} of {of}")

    with pytest.raises(RuntimeError, match="of"):
        gpt2.attribution_graph([[1, 5, 9]], plt, on_progress=stop)
