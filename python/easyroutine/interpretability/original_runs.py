"""Runs that the original easyroutine saved: a folder with ``tensor.pt`` and ``metadata.json``. They are left unchanged."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from easyroutine import tensors
from easyroutine.errors import InputError, MissingPackageError, NotFoundError, UnsupportedError
from easyroutine.interpretability.extraction_config import ExtractionConfig

__all__ = ["find_originals", "is_original", "load_original", "remove_original", "without_imported"]

#: Experiment, folder of the model, folder of the run, metadata.
Found = tuple[str, Path, Path, dict[str, Any]]

#: Names of the store's own run folders: time and letters of an id. There may be many thousands of them.
_OURS = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-[0-9a-z]{6,}")
#: Larger files are not taken for records. In bytes.
_LARGEST = 64 << 20


def find_originals(base: Path, experiment: str | None, asked: Mapping[str, Any]) -> list[Found]:
    """The original's runs below ``base`` that match, ordered by folder name.

    ``experiment`` is one, or None for all; ``asked`` has the criteria of :meth:`ActivationLoader.query`, with None for
    those not given.
    """
    found = []
    for folder in _folders(base):
        if experiment is not None and folder.name != experiment:
            continue
        for model in _folders(folder):
            for run in _folders(model):
                if _OURS.fullmatch(run.name):
                    continue
                metadata = _record(run)
                if metadata is not None and _holds(metadata, asked):
                    found.append((folder.name, model, run, metadata))
    return sorted(found, key=lambda run: run[2].name)


def without_imported(runs: list[Found], base: Any, stored: Sequence[tuple[str, str]]) -> list[Found]:
    """Runs of which the store has no copy; ``stored`` holds the paths and records of its runs."""
    if not runs:
        return []
    records = (json.loads(record).get("_store", {}) for _, record in stored)
    imported = {(record.get("dataset") or {}).get("imported") for record in records}
    return [run for run in runs if run[2].relative_to(base).as_posix() not in imported]


def is_original(run: Path) -> bool:
    """Whether a folder holds a run of the original."""
    return _record(run) is not None


def _folders(base: Path) -> list[Path]:
    """The folders in a folder, without links and the store's private ones."""
    try:
        with os.scandir(base) as entries:
            names = [one.name for one in entries if one.is_dir(follow_symlinks=False) and not one.name.startswith(".")]
    except OSError:
        return []
    return [base / name for name in names]


def _record(run: Path) -> dict[str, Any] | None:
    """The record of a run, if it is one of the original's."""
    record, data = run / "metadata.json", run / "tensor.pt"
    try:
        if record.is_symlink() or data.is_symlink() or not data.is_file() or record.stat().st_size > _LARGEST:
            return None
        metadata = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return metadata if isinstance(metadata, dict) and "_store" not in metadata else None


def _holds(metadata: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    for name in ("model_name", "save_time", "target_token_positions", "pivot_positions"):
        if asked[name] is not None and _listed(metadata.get(name)) != _listed(asked[name]):
            return False
    # A run of the original has one tag.
    if any(metadata.get("tag") != tag for tag in asked["tags"]):
        return False
    if any(metadata.get(key) != value for key, value in (asked["custom_keys"] or {}).items()):
        return False
    wanted = asked["interventions"]
    if wanted is not None and (metadata.get("interventions") or []) != wanted:
        return False
    config, saved = asked["extraction_config"], metadata.get("extraction_config")
    if config is None:
        return True
    if not isinstance(saved, Mapping):
        return False
    default = ExtractionConfig().to_dict()
    given = config if isinstance(config, Mapping) else config.to_dict()
    if asked["exact"]:
        return all(saved.get(key, default.get(key)) == value for key, value in given.items())
    return all(saved.get(key) == value for key, value in given.items() if value != default.get(key))


def _listed(value: Any) -> Any:
    """The value as in JSON, where pairs are lists."""
    return [_listed(one) for one in value] if isinstance(value, (list, tuple)) else value


def load_original(run: Path) -> Any:
    """Loads what the original saved in a folder, using torch, which must be installed; no code in it is run."""
    path = run / "tensor.pt"
    if not path.exists():
        raise NotFoundError(f"{run} is not a run: it has no tensor.pt")
    hint = (
        f"easyroutine runs import {run.parent.parent.parent} -b STORE takes it over, and then it is loaded as any run"
    )
    if not tensors.is_installed("torch"):
        raise MissingPackageError(f"{run} is a run of the original, a file of torch", hint)
    torch = tensors.needed("torch", "reading tensor.pt")
    try:
        return torch.load(path, weights_only=True)
    except pickle.UnpicklingError:
        raise UnsupportedError(f"{run} is a run of the original, a pickle of its own classes", hint) from None


def remove_original(run: Path) -> None:
    """Removes the two files of an original run, and its folder, which must then be empty."""
    if run.is_symlink():
        raise InputError(f"{run} is a link, and what it leads to is not removed")
    for name in ("tensor.pt", "metadata.json"):
        (run / name).unlink()
    run.rmdir()
