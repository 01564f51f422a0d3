"""Runs that the original easyroutine saved are found where they lie."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from easyroutine.errors import EasyroutineError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig

CONFIG = {"extract_resid_out": True, "avg": False}


def original(base: Path, run: str, experiment: str = "old", **metadata: Any) -> Path:
    """A run of the original's, with a file that nobody can read."""
    folder = base / experiment / "org_model" / run
    folder.mkdir(parents=True)
    record = {
        "tag": None,
        "save_time": run.replace("_", " ", 1).replace("_", ":"),
        "experiment_name": experiment,
        "model_name": "org/model",
        "target_token_positions": ["last", [0, 2]],
        "interventions": None,
        "extraction_config": CONFIG,
        **metadata,
    }
    (folder / "metadata.json").write_text(json.dumps(record))
    (folder / "tensor.pt").write_bytes(b"nothing")
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with two runs of the original and one of this package, in one experiment."""
    original(tmp_path, "2023-01-01_12_00_00", tag="first", seed=1)
    original(tmp_path, "2023-01-01_13_00_00", tag="second")
    saver = ActivationSaver(tmp_path, "old")
    saver.save({"x": 3}, "org/model", ["last"], None, ExtractionConfig(), tag="third")
    return tmp_path


def test_they_are_found_before_the_stores_own(base: Path) -> None:
    loader = ActivationLoader(base, "old")
    result = loader.query()
    assert result.problems == []
    assert [metadata["tag"] for *_, metadata in result] == ["first", "second", "third"]
    assert str(result).splitlines()[0] == "0 - Experiment: old, Model: org_model, Time Folder: 2023-01-01_12_00_00"
    assert result.load(-1)[0] == result.load(2)[0] == result.load(result[2][2])[0] == {"x": 3}
    for criteria, n_found in (
        ({"tag": "first"}, 1),
        ({"custom_keys": {"seed": 1}}, 1),
        ({"target_token_positions": ["last", (0, 2)]}, 2),
        ({"extraction_config": ExtractionConfig(extract_resid_out=True), "tag": "second"}, 1),
        ({"extraction_config": ExtractionConfig(extract_embed=True)}, 0),
        ({"save_time": "2023-01-01 12:00:00"}, 1),
        ({"model_name": "another"}, 0),
        ({"interventions": []}, 3),
        ({"experiment_name": "*"}, 3),
    ):
        assert len(loader.query(**criteria)) == n_found, criteria  # type: ignore[arg-type]
    assert len(ActivationLoader(base, "*").query()) == 3
    assert [len(part) for part in (result[:2], result[1:], pickle.loads(pickle.dumps(result)))] == [2, 2, 3]
    assert result[1:].load(-1)[0] == {"x": 3}


def test_they_are_removed_and_not_moved(base: Path) -> None:
    result = ActivationLoader(base, "old").query()
    for refused in (lambda: result.open(0), lambda: result.update_run_experiment("2023-01-01_12_00_00", "new")):
        with pytest.raises(EasyroutineError, match="runs import"):
            refused()
    first, second = result[0][2], result[1][2]
    result.remove(0)
    assert not Path(first).exists() and Path(second).exists() and len(result) == 2
    result.remove("2023-01-01_13_00_00")
    assert result.load(-1)[0] == {"x": 3} and len(result) == 1
    result.remove(-1)
    assert len(ActivationLoader(base, "*").query()) == 0


def test_links_and_broken_records_are_none(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = original(tmp_path_factory.mktemp("elsewhere"), "2023-01-01_14_00_00")
    (base / "old" / "org_model" / "2023-01-01_14_00_00").symlink_to(elsewhere)
    (base / "linked").symlink_to(elsewhere.parents[1])
    for name, text in (("torn", "{"), ("list", "[]"), ("deep", "[" * 100_000)):
        folder = original(base, f"2023-01-01_15_00_00_{name}")
        (folder / "metadata.json").write_text(text)
    assert len(ActivationLoader(base, "*").query()) == 3


def test_what_was_taken_over_is_found_once(base: Path) -> None:
    text = "import torch, sys; torch.save({'a': torch.ones(2)}, sys.argv[1])"
    pytest.importorskip("torch")
    folder = base / "old" / "org_model" / "2023-01-01_12_00_00"
    subprocess.run([sys.executable, "-c", text, str(folder / "tensor.pt")], check=True)
    loader = ActivationLoader(base, "old")
    assert loader.query(tag="first").load()[0]["a"].tolist() == [1, 1]
    code = "import sys; from easyroutine._core import command; sys.exit(command(sys.argv))"
    words = ["easyroutine", "runs", "-b", str(base), "import", str(base)]
    subprocess.run([sys.executable, "-c", code, *words[1:]], check=False, capture_output=True)
    found = loader.query(tag="first")
    assert len(found) == 1 and found.open().metadata["original_save_time"] == "2023-01-01 12:00:00"
    # Whatever cannot be read says so.
    with pytest.raises((EasyroutineError, RuntimeError, EOFError)):
        loader.query(tag="second").load()
