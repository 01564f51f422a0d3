"""A run of a store, filled by a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from easyroutine._core import OpenRun
from easyroutine.interpretability.query_result import Place, below
from easyroutine.progress import row_progress
from easyroutine.scale.cluster import Ray, as_cluster, run_units

if TYPE_CHECKING:
    from easyroutine.interpretability.activation_saver import ActivationSaver
    from easyroutine.interpretability.dataset import DataSet
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["fill"]


def fill(
    model: HookedModel,
    saver: ActivationSaver,
    data: DataSet,
    settings: dict[str, Any],
    annotations: dict[str, Any],
    place: dict[str, Any],
    engine: Ray | Literal["ray"],
) -> Place | None:
    """Fills a run with what is kept of a data set, unit by unit, and publishes it once all units are there.

    The plan is written here, before any worker begins. Each worker joins it, and is refused where its model has other
    weights or its processor would compute other bits.
    """
    cluster = as_cluster(engine)
    rows = data.rows()
    opened, path = saver.open(model, rows, settings, annotations, place)
    if opened is not None:
        sizes, missing = opened.units, opened.missing()
        here = Path(model.config.model_name)
        # On a worker the current folder is another.
        named = str(here.resolve()) if here.exists() else model.config.model_name
        config = replace(model.config, model_name=named, threads=cluster.cpus)
        make = _Joining(type(model), config, model.interventions, saver, rows, settings, annotations, place)
        tell = row_progress("extracting", sum(sizes[unit] for unit in missing))
        run_units(make, missing, cluster, done=lambda unit, _: tell(sizes[unit]))
        path = opened.commit()
    return None if path is None else below(str(saver.base_dir), path)


class _Joining:
    """What makes a worker: it loads the model and joins the run."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __call__(self) -> Callable[[int], None]:
        kind, config, interventions, saver, rows, settings, annotations, place = self.parts
        model = kind(config)
        model.interventions = interventions
        # A share of one: whoever joins a run that is begun, and does whatever units it is given.
        opened, _ = saver.open(model, rows, settings, annotations, {**place, "part": (1, 1)})
        return _write(opened)


def _write(opened: OpenRun | None) -> Callable[[int], None]:
    """Nothing is left to write where another driver has published the run meanwhile."""
    return (lambda unit: None) if opened is None else opened.write
