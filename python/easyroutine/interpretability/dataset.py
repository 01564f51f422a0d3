"""Many batches through a model, into one cache."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

from easyroutine.errors import InputError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.interventions import Intervention
from easyroutine.interpretability.selection import normalised
from easyroutine.progress import progress

if TYPE_CHECKING:
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["Batch", "batches", "extract_cache"]

BatchSaver = Callable[[dict[str, Any]], Mapping[str, Any] | None]

#: Keys of a batch that the model reads.
_READ = ("input_ids", "attention_mask", "token_type_ids", "offset_mapping")
#: Keys of a batch that say how it is run.
_SAID = ("pivot_positions", "vocabulary_index")


class Batch:
    """One batch: what the model reads, what is said of it, and what else it holds."""

    def __init__(self, given: Any) -> None:
        self.inputs = given
        self.said: dict[str, Any] = {}
        self.others: dict[str, Any] = {}
        if isinstance(given, Mapping):
            self.said = {key: given[key] for key in _SAID if key in given}
            self.others = {key: given[key] for key in given if key not in _READ and key not in _SAID}
            if self.said or self.others:
                self.inputs = {key: given[key] for key in given if key in _READ}
        if self.said.get("vocabulary_index") is not None:
            raise InputError("'vocabulary_index' of a batch asks for a gradient, and this engine runs forward only")

    @property
    def pivots(self) -> Any:
        """Where its rows are cut."""
        return self.said.get("pivot_positions")


def check_data_set(dataloader: Any) -> None:
    """Refuses what is one batch, not several."""
    if isinstance(dataloader, (str, Mapping)):
        raise InputError("a data set is a list of batches or of texts", "for one batch call forward()")


def batches(dataloader: Iterable[Any], batch_size: int) -> Iterator[Batch]:
    """The batches of a data set; texts by themselves are taken some at a time."""
    texts: list[str] = []
    for given in dataloader:
        if isinstance(given, str):
            texts.append(given)
            if len(texts) == batch_size:
                yield Batch(texts)
                texts = []
            continue
        if texts:
            yield Batch(texts)
            texts = []
        yield Batch(given)
    if texts:
        yield Batch(texts)


def extract_cache(
    model: HookedModel,
    dataloader: Iterable[Any],
    target_token_positions: Any,
    extraction_config: ExtractionConfig | None,
    interventions: list[Intervention],
    batch_saver: BatchSaver,
    *,
    seed: int = 0,
    register_aggregation: tuple[str, Callable[[Any, Any], Any]] | None = None,
    dict_token_index: Any = None,
) -> ActivationCache:
    """See :meth:`HookedModel.extract_cache`. ``dict_token_index`` is of old code, and nothing."""
    config = extraction_config if extraction_config is not None else ExtractionConfig()
    check_data_set(dataloader)
    joined = ActivationCache()
    if register_aggregation is not None:
        joined.register_aggregation(*register_aggregation)
    parts: list[ActivationCache] = []
    means: dict[str, Any] = {}
    n_rows = 0
    total = len(dataloader) if isinstance(dataloader, Sized) else None
    for batch in batches(progress(dataloader, "extracting", total), model.config.batch_size):
        rows = model.rows_of(batch.inputs)
        cache = model.run(
            rows,
            target_token_positions,
            config,
            interventions=interventions,
            pivot_positions=batch.pivots,
            means=means,
            mean_rows=n_rows,
            seed=seed,
            first_row=n_rows,
        )
        if config.avg_over_example:
            # One mean over all rows so far: it is carried on, not joined.
            means = {key: cache.raw(key) for key in list(cache) if key.startswith("avg_pattern_")}
            for key in means:
                del cache[key]
        cache.update(batch_saver(batch.others) or {})
        parts.append(cache)
        n_rows += len(rows)
    if not parts:
        raise InputError("the data set is empty")
    joined.cat_all(parts)
    joined.update(means)
    joined.add_metadata(
        target_token_positions=normalised(
            target_token_positions if isinstance(target_token_positions, (str, int)) else list(target_token_positions)
        ),
        model_name=model.name,
        extraction_config=config,
        interventions=[one.to_dict() for one in [*model.interventions, *interventions]] or None,
    )
    return joined
