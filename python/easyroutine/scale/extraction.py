"""Fills a run of a store with a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from easyroutine._core import OpenRun
from easyroutine.interpretability.query_result import Place, below
from easyroutine.progress import row_progress
from easyroutine.scale.cluster import Ray, as_cluster, ray_module, run_units

if TYPE_CHECKING:
    from easyroutine.interpretability.activation_saver import ActivationSaver
    from easyroutine.interpretability.dataset import DataSet
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["fill"]

T = TypeVar("T")


def fill(
    model: HookedModel,
    saver: ActivationSaver,
    data: DataSet,
    settings: dict[str, Any],
    annotations: dict[str, Any],
    place: dict[str, Any],
    engine: Ray | Literal["ray"],
) -> Place | None:
    """Fills a run from a data set, unit by unit, and publishes it once all units are there.

    The plan is written here before any worker begins. Each worker joins it, and is refused if its model has other
    weights or its processor would compute other bits.
    """
    cluster = as_cluster(engine)
    # Fails at once without Ray.
    ray_module()
    rows = data.rows()
    opened, path = saver.open(model, rows, settings, annotations, place)
    if opened is not None:
        sizes, missing = opened.units, opened.missing()
        config = replace(
            model.config,
            model_name=_from_anywhere(model.config.model_name),
            adapter=_from_anywhere(model.config.adapter),
            threads=cluster.cpus,
        )
        base = saver.base_dir
        there = type(saver)(base.absolute() if isinstance(base, Path) else base, saver.experiment_name)
        make = _Joining(type(model), config, model.interventions, there, rows, settings, annotations, place)
        tell = row_progress("extracting", sum(sizes[unit] for unit in missing))
        run_units(make, missing, cluster, done=lambda unit, _: tell(sizes[unit]))
        path = opened.commit()
    return None if path is None else below(str(saver.base_dir), path)


def _from_anywhere(path: T) -> T | str:
    """A file or folder as a worker finds it, whose current folder differs; anything but a path stays as it is.

    Links are not followed: a model bears the name of its path.
    """
    return str(Path(path).absolute()) if isinstance(path, (str, Path)) and Path(path).exists() else path


class _Joining:
    """Makes a worker: loads the model and joins the run."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __call__(self) -> Callable[[int], None]:
        kind, config, interventions, saver, rows, settings, annotations, place = self.parts
        model = kind(config)
        model.interventions = interventions
        # A share of one: this joins a run already begun and does whatever units it is given.
        opened, _ = saver.open(model, rows, settings, annotations, {**place, "part": (1, 1)})
        return _write(opened)


def _write(opened: OpenRun | None) -> Callable[[int], None]:
    """Writes nothing more if another driver has published the run meanwhile."""
    return (lambda unit: None) if opened is None else opened.write
