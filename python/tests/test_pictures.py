"""Attention and grids as pictures: what the command line draws."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT, TINY

from easyroutine.interpretability import AttentionResult, ExtractionConfig, HookedModel, Intervention, PatchingGrid

pytestmark = pytest.mark.usefixtures("own_tensors")

#: As long as the prompt in the tokens of the tiny model.
BASE = "The capital of Frince is"


def command(*words: str) -> str:
    """What the native command writes."""
    native = os.environ["EASYROUTINE_NATIVE"]
    return subprocess.run([native, *words], capture_output=True, check=True, timeout=120).stdout.decode()


def test_attention_is_drawn_as_the_command_draws_it(llama: HookedModel) -> None:
    found = llama.attention(PROMPT, layer=1)
    words = ["attn", PROMPT, "-m", str(TINY / "llama"), "--layer", "1", "--format"]
    assert found.to_html() == command(*words, "html") and found.to_svg() == command(*words, "svg")
    assert found.to_csv() == command(*words, "csv") and found.to_markdown() == command(*words, "md")
    assert found.to_json() + "\n" == command(*words, "json")
    assert found.to_svg(hide_first=True, dark=True) == command(*words, "svg", "--hide-first", "--dark")


def test_attention_has_the_numbers_of_a_run(llama: HookedModel, tmp_path: Path) -> None:
    data = llama.attention(PROMPT).to_dict()
    cache = llama.forward(PROMPT, extraction_config=ExtractionConfig(extract_attn_pattern=True))
    assert len(data["heads"]) == 3 * llama.model_config.num_attention_heads
    for head in data["heads"]:
        pattern = cache[f"pattern_L{head['layer']}H{head['head']}"].tolist()[0]
        for query, weights in enumerate(head["weights"]):
            assert weights == pytest.approx(pattern[query][: query + 1], abs=1e-6)
    found = llama.attention(PROMPT, layer=-1, head="0:2")
    assert [(one["layer"], one["head"]) for one in found.to_dict()["heads"]] == [(2, 0), (2, 1)]
    same = pickle.loads(pickle.dumps(found))
    assert same.to_dict() == AttentionResult.from_json(found.to_json()).to_dict() == found.to_dict()
    assert found.to_png(tmp_path / "a.png")[:4] == b"\x89PNG" and (tmp_path / "a.png").exists()
    assert "<iframe srcdoc=" in found._repr_html_() and "<noscript><svg" in found._repr_html_()
    assert "2 heads" in repr(found) and "\x1b" not in str(found) and "\x1b" in found.table(colour=True)


def test_interventions_show_in_attention(llama: HookedModel) -> None:
    change = Intervention("columns", "pattern_L1H0", [0])
    changed = llama.attention(PROMPT, layer=1, head=0, interventions=[change])
    assert all(row[0] == 0 for row in changed.to_dict()["heads"][0]["weights"])
    assert changed.to_dict()["interventions"] == ["pattern_L1H0@columns:0*0"] and "changed: " in changed.to_svg()
    watched = copy.copy(llama)
    watched.register_forward_hook("resid_out_0", lambda value, key: None)
    assert watched.attention(PROMPT).to_dict()["interventions"] == ["a function at resid_out_0"]


def test_attention_of_what_is_not_there_is_an_error(llama: HookedModel) -> None:
    for wrong in ({"layer": 3}, {"head": 99}, {"layer": "x"}):
        with pytest.raises(ValueError):
            llama.attention(PROMPT, **wrong)
    with pytest.raises(ValueError, match="one prompt at a time"):
        llama.attention(["a", "b"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"by": "patch", "base": BASE, "metric": "kl"}, ["patch", PROMPT, "--base", BASE, "--metric", "kl"]),
        (
            {"along": "heads", "site": "head_out", "metric": "probability", "answer": 7},
            ["ablate", PROMPT, "--metric", "p", "--answer", "id:7"],
        ),
        (
            {"along": "sites", "site": ["attn_out", "mlp_out"], "by": "resample", "base": BASE, "positions": ["last"]},
            ["ablate", PROMPT, "--along", "sites", "--by", "resample", "--with", BASE, "--positions", "last"]
            + ["--metric", "kl"],
        ),
    ],
    ids=["positions", "heads", "sites"],
)
def test_a_grid_is_drawn_as_the_command_draws_it(llama: HookedModel, options: Any, words: list[str]) -> None:
    grid = llama.sweep(PROMPT, **options)
    words = [*words, "-m", str(TINY / "llama"), "--format"]
    assert grid.to_dict() == json.loads(command(*words, "json"))
    assert grid.to_html() == command(*words, "html") and grid.to_svg() == command(*words, "svg")
    assert grid.to_csv() == command(*words, "csv") and grid.to_markdown() == command(*words, "md")


def test_a_grid_of_experts_is_drawn_as_the_command_draws_it() -> None:
    model = HookedModel.from_pretrained(TINY / "qwen2_moe")
    options: Any = {"along": "experts", "positions": ["last"], "experts": [3, 1, 0, 2]}
    shown = ["--along", "experts", "--positions", "last", "--experts", "3,1,0,2", "--metric", "kl"]
    for by, more in (
        ({"by": "zero"}, ["ablate", PROMPT]),
        ({"by": "patch", "base": BASE}, ["patch", PROMPT, "--base", BASE]),
        ({"by": "mean", "base": [PROMPT]}, ["ablate", PROMPT, "--by", "mean"]),
    ):
        grid = model.sweep(PROMPT, **by, **options)
        words = [*more, *shown, "-m", str(TINY / "qwen2_moe"), "--format"]
        assert grid.to_dict() == json.loads(command(*words, "json"))
        assert grid.to_html() == command(*words, "html") and grid.to_csv() == command(*words, "csv")
    assert grid.layers == [0, 2, 3] and grid.columns[0] == "expert 3"
    assert {count for row in grid.routed for count in row} == {0, 1}
    for effects, counts in zip(grid.effects(), grid.routed, strict=True):
        assert all(count or effect == 0 for effect, count in zip(effects, counts, strict=True))
    broken = PatchingGrid({**grid.data, "routed": [[1]]})
    with pytest.raises(ValueError, match="as many values"):
        broken.to_svg()


def test_layers_that_lack_a_site_have_no_row_or_an_empty_cell() -> None:
    model = HookedModel.from_pretrained(TINY / "nemotron_h")
    grid = model.sweep(PROMPT, along="sites")
    assert grid.columns == ["attn_out", "mixer_out", "mlp_out"]
    for values, effects, names in zip(grid.values, grid.effects(), grid.data["activations"], strict=True):
        assert [math.isnan(value) for value in values] == [name == "" for name in names]
        assert [math.isnan(effect) for effect in effects] == [name == "" for name in names]
    words = ["ablate", PROMPT, "-m", str(TINY / "nemotron_h"), "--along", "sites", "--metric", "kl", "--format"]
    assert grid.to_svg() == command(*words, "svg") and grid.to_csv() == command(*words, "csv")
    assert grid.to_dict() == json.loads(command(*words, "json"))
    heads = model.sweep(PROMPT, along="heads")
    assert 0 < len(heads.layers) < len(grid.layers)


def test_a_grid_shows_itself(llama: HookedModel, tmp_path: Path) -> None:
    grid = llama.sweep(PROMPT, by="patch", base=BASE)
    assert grid.to_png(tmp_path / "grid.png") == (tmp_path / "grid.png").read_bytes()
    assert "<iframe srcdoc=" in grid._repr_html_() and "<noscript><svg" in grid._repr_html_()
    assert "\x1b" not in str(grid) and "\x1b" in grid.table(colour=True)
    same = pickle.loads(pickle.dumps(grid))
    assert same.to_svg() == grid.to_svg() and "".join(same.tokens).endswith(PROMPT[-2:])
    broken = PatchingGrid({**grid.data, "values": [[1.0]]})
    with pytest.raises(ValueError, match="as many values"):
        broken.to_svg()
