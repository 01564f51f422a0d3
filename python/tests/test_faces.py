"""The package and the command write one kind of run: what one begins the other goes on with, and finds."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from conftest import TEXTS, TINY

from easyroutine.errors import InputError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel, Intervention

COMMAND = os.path.join(sysconfig.get_path("scripts"), "easyroutine")
POSITIONS = ["last", (0, 1), "-1:"]

#: What is asked for, as the command line has it and as the package has it.
ASKED: list[tuple[list[str], dict[str, Any], list[Intervention]]] = [
    (["-a", "resid_out_*"], {"extract_resid_out": True, "save_logits": False}, []),
    (
        ["-a", "pattern_L1H0,pattern_L0H2,logits", "--intervene", "resid_mid_0@last*0.1"],
        {"extract_attn_pattern": True, "attn_heads": [{"layer": 1, "head": 0}, {"layer": 0, "head": 2}]},
        [Intervention("full", "resid_mid_0", ["last"], multiplication_value=0.1)],
    ),
    (
        ["-a", "attn_out_*", "--intervene", "resid_out_*@0:1=2.5", "--intervene", "pattern_L1H1@pre:grid:-1x0=-inf"],
        {"extract_attn_out": True, "save_logits": False},
        [
            Intervention("full", "resid_out_{i}", [(0, 1)], [2.5]),
            Intervention("grid_pre_softmax", "pattern_L1H1", ([-1], [0])),
        ],
    ),
]


def command(base: Path, file: Path, *words: str) -> str:
    line = [COMMAND, "extract", "-m", str(TINY / "llama"), "--file", str(file), "--positions", "last,0:1,-1:"]
    done = subprocess.run([*line, "-o", f"{base}/", *words], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stderr.decode()


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def told(metadata: dict[str, Any]) -> dict[str, Any]:
    """What a run says of itself beside its time and the name of the file."""
    return {key: metadata[key] for key in metadata if key != "save_time"}


@pytest.mark.parametrize(("words", "config", "changes"), ASKED)
def test_a_run_is_written_half_by_each_and_says_what_a_run_of_either_says(
    tmp_path: Path,
    prompts: Path,
    llama: HookedModel,
    words: list[str],
    config: Any,
    changes: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Those of torch are not compared by `==`.
    monkeypatch.setenv("EASYROUTINE_TENSORS", "easyroutine")
    base = tmp_path / "runs"
    saver = ActivationSaver(base)

    def package(run: str, **how: Any) -> Any:
        asked = ExtractionConfig(**config)
        return llama.extract_to_store(saver, TEXTS, POSITIONS, asked, interventions=changes, run=run, unit=2, **how)

    assert package("first", part=(1, 2)) is None
    command(base, prompts, *words, "--run", "first", "--part", "2/2", "--unit", "2")
    assert "left to other parts" in command(base, prompts, *words, "--run", "second", "--part", "1/2", "--unit", "2")
    assert package("second", part=(2, 2)) is not None
    # Resumed where all is written already: the same plan, so the same run.
    command(base, prompts, *words, "--run", "third", "--unit", "2")
    assert package("third", resume=True) is not None
    package("fourth")
    command(base, prompts, *words, "--run", "fourth", "--resume", "--unit", "2")

    found = ActivationLoader.from_saver(saver).query(interventions=changes, target_token_positions=POSITIONS)
    assert len(found) == 4
    runs = [metadata for *_, metadata in found.results]
    assert all(told(run) == told(runs[0]) for run in runs[1:])
    records = [json.loads(file.read_text())["_store"] for file in base.rglob("metadata.json")]
    models = [[record.get(key) for key in ("model_revision", "model_digest", "dtype")] for record in records]
    assert len(models) == 4 and all(model == models[0] for model in models) and models[0][1]
    exact = ActivationLoader.from_saver(saver).query(extraction_config=ExtractionConfig(**config), match="exact")
    assert len(exact) == 4
    caches = [found.load(place)[0] for place in range(4)]
    assert all(cache.keys() == caches[0].keys() for cache in caches)
    for key in caches[0].keys():
        assert all(cache[key] == caches[0][key] for cache in caches), key


class Stopped(Exception):
    """Raised by a callback in the middle of some work."""


def stopping(after: int) -> Any:
    def told(done: int, of: int = 0) -> None:
        if done >= after:
            raise Stopped

    return told


def other_command(*words: str | Path) -> None:
    done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_sums_and_fits_that_one_began_the_other_finishes(tmp_path: Path, prompts: Path, llama: HookedModel) -> None:
    model = TINY / "llama"
    pairs = tmp_path / "pairs.jsonl"
    texts = [("the cat sat", "the dog sat"), ("one two three", "one one three"), ("a b c", "a c c")]
    named = [{"clean": clean, "corrupt": corrupt, "answer": 7, "against": 9} for clean, corrupt in texts]
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in named))
    whole = llama.mean_attribution(named, ["resid_in_1", "z_L*"], "p", target_token_positions=["last", (0, 2)])
    states = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    line: list[str | Path] = [
        "attribute",
        "--pairs",
        pairs,
        "-m",
        model,
        "-a",
        "z_L*,resid_in_1",
        "--positions",
        "last,0:2",
    ]
    line += ["--metric", "p", "-o", tmp_path / "means.json"]
    again: dict[str, Any] = {"metric": "p", "target_token_positions": ["last", (0, 2)]}
    # The command first, then the package; and the other way round.
    other_command(*line, "--limit", "1", "--state", states[0])
    assert llama.mean_attribution(named, ["resid_in_1", "z_L*"], **again, state=states[0]) == whole
    with pytest.raises(Stopped):
        llama.mean_attribution(pairs, ["resid_in_1", "z_L*"], **again, state=states[1], on_progress=stopping(2))
    other_command(*line, "--state", states[1])
    assert states[0].read_bytes() == states[1].read_bytes()

    rows = ([clean for clean, _ in texts], [corrupt for _, corrupt in texts])
    asked: dict[str, Any] = {"answer": [7] * 3, "against": [9] * 3, "steps": 3, "top": 30}
    circuit = llama.edges(*rows, **asked)
    states = [tmp_path / name for name in ("e.safetensors", "f.safetensors")]
    line = ["edges", "--pairs", pairs, "-m", model, "--steps", "3", "--top", "30", "-o", tmp_path / "edges.json"]
    other_command(*line, "--limit", "1", "--state", states[0])
    assert llama.edges(*rows, **asked, state=states[0]).to_dict() == circuit.to_dict()

    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        llama.edges(*rows, **asked, state=states[1], on_progress=stop)
    other_command(*line, "--state", states[1])
    assert states[0].read_bytes() == states[1].read_bytes()
    with pytest.raises(InputError, match="sums hold 3 pairs, and 1 are read"):
        llama.edges(rows[0][:1], rows[1][:1], answer=7, against=9, steps=3, state=states[0])
    with pytest.raises(InputError, match="another `steps`"):
        llama.edges(*rows, **{**asked, "steps": 4}, state=states[0])
    with pytest.raises(InputError, match="safetensors file"):
        llama.edges(*rows, **asked, state=tmp_path / "sums.pt")

    files = [tmp_path / name for name in ("whole.safetensors", "c.safetensors", "d.safetensors")]
    fit: list[str | Path] = ["jacobian", "fit", "--file", prompts, "-m", model, "--skip-first", "1"]
    llama.fit_jacobian_lens(TEXTS, files[0], skip_first=1)
    other_command(*fit, "-o", files[1], "--limit", "1")
    llama.fit_jacobian_lens(TEXTS, files[1], skip_first=1, resume=True)
    llama.fit_jacobian_lens(TEXTS[:1], files[2], skip_first=1)
    other_command(*fit, "-o", files[2], "--resume")
    assert files[0].read_bytes() == files[1].read_bytes() == files[2].read_bytes()

    llama.tune_lens(TEXTS, tmp_path / "whole", steps=4, rows_per_step=2)
    with pytest.raises(Stopped):
        llama.tune_lens(TEXTS, tmp_path / "resumed", steps=4, rows_per_step=2, on_progress=stopping(2))
    tune: list[str | Path] = ["tune", "--file", prompts, "-m", model, "--steps", "4", "--rows", "2"]
    other_command(*tune, "-o", tmp_path / "resumed", "--resume")
    assert (tmp_path / "whole/params.pt").read_bytes() == (tmp_path / "resumed/params.pt").read_bytes()
