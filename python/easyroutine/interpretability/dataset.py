"""Runs many batches through a model into one cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from easyroutine import tensors
from easyroutine._core import fresh_name, speak_of_rows
from easyroutine.checks import function, mapping, string, truth, whole
from easyroutine.conversations import ChatArguments, Chats, is_conversation, takes_chats
from easyroutine.errors import InputError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.activation_saver import ActivationSaver, annotations_of
from easyroutine.interpretability.extraction_config import ExtractionConfig, as_config, config_json, with_chat
from easyroutine.interpretability.inputs import Row, is_prompt, pivots_of
from easyroutine.interpretability.interventions import Intervention, as_list, for_engine, recorded
from easyroutine.interpretability.kept import cache_of
from easyroutine.interpretability.kept_fields import kept_fields
from easyroutine.interpretability.query_result import Place
from easyroutine.interpretability.running_means import means_of
from easyroutine.interpretability.selection import Position, as_json, normalised
from easyroutine.progress import progress, token_progress

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.dictionary import Dictionary
    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.scale import Ray
    from easyroutine.tokenizer import TextSpans

__all__ = ["BATCH_TOKENS", "Batch", "DataSet", "batches", "extract_cache", "extract_to_store"]

#: Tokens that run together by default, as on the command line.
BATCH_TOKENS = 4096

BatchSaver = Callable[[dict[str, Any]], Mapping[str, Any] | None]

#: Keys of a batch that hold its prompts: texts or conversations.
_PROMPTS = ("text", "messages")
#: Keys of a batch that the model reads.
_READ = ("input_ids", "attention_mask", "token_type_ids", "offset_mapping")
#: Keys of a batch that control how it runs.
_SAID = ("pivot_positions", "vocabulary_index")


class Batch:
    """One batch: the model's input, how it runs, and its other fields."""

    def __init__(self, given: Any) -> None:
        self.inputs = given
        self.said: dict[str, Any] = {}
        self.others: dict[str, Any] = {}
        if isinstance(given, Mapping):
            self.said = {key: given[key] for key in _SAID if key in given}
            prompts = next((key for key in _PROMPTS if key in given and "input_ids" not in given), None)
            read = _READ if prompts is None else (prompts,)
            self.others = {key: given[key] for key in given if key not in read and key not in _SAID}
            if prompts is not None:
                self.inputs = _prompts(prompts, given[prompts])
            elif self.said or self.others:
                self.inputs = {key: given[key] for key in given if key in _READ}
        if self.said.get("vocabulary_index") is not None:
            raise InputError(
                "'vocabulary_index' of a batch asks for a gradient, which extract_cache does not take",
                "forward and gradients do",
            )

    @property
    def is_one_row(self) -> bool:
        """Whether it is a single row and not a list of rows."""
        inputs = self.inputs.get("input_ids") if isinstance(self.inputs, Mapping) else self.inputs
        if tensors.is_array(inputs):
            return len(tensors.shape_of(inputs)) == 1
        return is_prompt(inputs) or not (
            isinstance(inputs, (list, tuple))
            and any(isinstance(one, (str, list, tuple)) or tensors.is_array(one) for one in inputs)
        )

    @property
    def pivots(self) -> Any:
        """Where its rows are cut."""
        return self.said.get("pivot_positions")


def _prompts(key: str, given: Any) -> Any:
    """The prompts under a key of a batch: a text or a conversation, or a list of them."""

    def fits(one: Any) -> bool:
        return isinstance(one, str) if key == "text" else is_conversation(one)

    if fits(given) or (isinstance(given, (list, tuple)) and given and all(map(fits, given))):
        return given
    what = "a text or a list of texts" if key == "text" else "a list of messages, or a list of such lists"
    raise InputError(f"{key!r} of a batch is {given!r:.80}; it must be {what}")


def check_data_set(dataloader: Any) -> None:
    """Rejects a single prompt, and anything that is not a data set."""
    if isinstance(dataloader, Mapping) and "input_ids" in dataloader:
        return
    if isinstance(dataloader, Mapping) or is_prompt(dataloader):
        raise InputError("a data set is a list of batches, texts or conversations", "for one batch call forward()")
    if not isinstance(dataloader, Iterable) and not hasattr(dataloader, "iter_rows"):
        raise InputError(f"the data set is {dataloader!r:.80}; it must be a list of batches, texts or conversations")


def batches(dataloader: Iterable[Any], batch_size: int) -> Iterator[Batch]:
    """The batches of a data set; lone prompts are grouped, and a tokenizer's output is one batch."""
    if isinstance(dataloader, Mapping):
        dataloader = [dataloader]
    prompts: list[Any] = []
    # A Ray data set yields its rows only on request.
    rows = getattr(dataloader, "iter_rows", None)
    for given in dataloader if rows is None else rows():
        if is_prompt(given):
            prompts.append(given)
            if len(prompts) == batch_size:
                yield Batch(prompts)
                prompts = []
            continue
        if prompts:
            yield Batch(prompts)
            prompts = []
        yield Batch(given)
    if prompts:
        yield Batch(prompts)


@takes_chats
def extract_cache(
    model: HookedModel,
    dataloader: Iterable[Any],
    target_token_positions: Sequence[Position] | Position = ("all",),
    extraction_config: ExtractionConfig | None = None,
    interventions: Sequence[Intervention] | None = None,
    batch_saver: BatchSaver = lambda others: None,
    move_to_cpu_after_forward: bool = True,
    *,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    register_aggregation: tuple[str, Callable[[Any, Any], Any]] | None = None,
    dict_token_index: Any = None,
    **chat: Unpack[ChatArguments],
) -> ActivationCache:
    """Runs a data set and returns the requested activations, rows in the order of the batches, with the run's metadata.

    A batch is whatever :meth:`forward` takes; or a dictionary with ``"text"``, a text or several, or ``"messages"``, a
    conversation or several. A list of texts or conversations runs ``batch_size`` at a time. ``batch_saver`` gets the
    keys of a batch that the model does not read (it reads ``pivot_positions``), and the cache keeps what it returns.

    ``batch_tokens`` limits how many tokens run together. Rows of similar length run together, without padding, and give
    the same bits in any batch. ``register_aggregation=(prefix, function)`` sets how values are joined. With it, with
    hooks, and under interventions on single rows, the batches run as given. ``seed`` determines what ``random-text``
    draws. ``move_to_cpu_after_forward`` and ``dict_token_index`` exist for old code and change nothing.
    """
    changes = as_list(interventions)
    config = as_config(extraction_config)
    data = DataSet.read(model, dataloader, batch_saver, chat)
    positions = as_given(target_token_positions)
    if register_aggregation is None and data.may_be_packed(model, changes):
        joined = packed(model, data, positions, config, changes, seed=seed, batch_tokens=batch_tokens)
        joined.update(data.saved())
    else:
        joined = ActivationCache()
        if register_aggregation is not None:
            if not isinstance(register_aggregation, (tuple, list)) or len(register_aggregation) != 2:
                raise InputError(
                    f"register_aggregation is {register_aggregation!r:.80}; it must be a pair (prefix, function)"
                )
            joined.register_aggregation(*register_aggregation)
        _one_by_one(joined, model, data, positions, config, changes, seed)
    joined.add_metadata(
        target_token_positions=positions,
        model_name=model.name,
        model_digest=model.digest,
        model_commit=model._engine.commit,
        model_dtype=model._engine.dtype,
        model_adapter=model._engine.adapter_name,
        extraction_config=with_chat(config, data.chat),
        interventions=[recorded(one) for one in [*model.interventions, *changes]] or None,
    )
    return joined


@dataclass
class DataSet:
    """The batches of a data set: rows of ids, and each batch's other fields."""

    #: The rows of each batch.
    batches: list[list[Row]] = field(default_factory=list)
    #: Where the rows of each batch are cut.
    pivots: list[list[int] | None] = field(default_factory=list)
    #: What ``batch_saver`` returned for each batch.
    others: list[ActivationCache] = field(default_factory=list)
    #: Each batch's other fields, its number of rows, and whether it is a single row.
    said: list[tuple[dict[str, Any], int, bool]] = field(default_factory=list)
    #: What the record says about its conversations.
    chat: dict[str, Any] | None = None

    @classmethod
    def read(
        cls, model: HookedModel, dataloader: Iterable[Any], batch_saver: BatchSaver, chat: ChatArguments
    ) -> DataSet:
        """Reads all batches; lone texts and conversations are taken ``batch_size`` at a time."""
        check_data_set(dataloader)
        function(batch_saver, "batch_saver")
        data, chats = cls(), Chats(chat)
        for batch in batches(dataloader, model.config.batch_size):
            data.batches.append(model._rows(batch.inputs, chats))
            data.pivots.append(None if batch.pivots is None else pivots_of(batch.pivots))
            data.others.append(ActivationCache(mapping(batch_saver(batch.others) or {}, "what batch_saver returns")))
            data.said.append((batch.others, len(data.batches[-1]), batch.is_one_row))
        if not data.batches:
            raise InputError("the data set is empty")
        chats.finish()
        data.chat = chats.record()
        return data

    def may_be_packed(self, model: HookedModel, interventions: Sequence[Intervention]) -> bool:
        """Whether rows may run in other batches than given, because nothing looks at a batch as a whole."""
        changes = [*model.interventions, *interventions]
        of_one_cut = all(pivots == self.pivots[0] for pivots in self.pivots)
        return not model.has_hooks and (not changes or (of_one_cut and not speak_of_rows(for_engine(changes))))

    def rows(self) -> list[tuple[list[int], TextSpans | None, list[int] | None]]:
        """All rows, each with where it is cut."""
        return [
            (*row.for_engine(), pivots) for rows, pivots in zip(self.batches, self.pivots, strict=True) for row in rows
        ]

    def saved(self) -> ActivationCache:
        """The results of ``batch_saver`` for all batches, joined."""
        keys = [key for others in self.others for key in others]
        missing = next((key for key in keys for others in self.others if key not in others), None)
        if missing is not None:
            raise InputError(f"batch_saver returned {missing!r} of some batches, and not of others")
        joined = ActivationCache()
        joined._is_by_rows = True
        joined.cat_all(self.others)
        return joined


def as_given(positions: Any) -> list[Position]:
    """Positions as a list, however given."""
    # A generator or an array counts as a list; a set has no order.
    is_listed = isinstance(positions, (Iterator, range)) or tensors.is_array(positions)
    return normalised(list(positions) if is_listed else positions)


def packed(
    model: HookedModel,
    data: DataSet,
    positions: list[Position],
    config: ExtractionConfig,
    interventions: Sequence[Intervention],
    *,
    seed: int,
    batch_tokens: int,
) -> ActivationCache:
    """Runs all rows in batches of similar length, without padding, and returns them in their order."""
    settings = settings_of(model, data, positions, config, interventions, seed, batch_tokens)
    rows = data.rows()
    cache = cache_of(model._engine.extract(rows, settings, token_progress("extracting")), positions, config)
    cache._mean_rows = len(rows)
    return cache


def settings_of(
    model: HookedModel,
    data: DataSet,
    positions: list[Position],
    config: ExtractionConfig,
    interventions: Sequence[Intervention],
    seed: int,
    batch_tokens: int,
) -> dict[str, Any]:
    """What is kept of a data set and how it runs, in the engine's form."""
    return {
        "positions": as_json(positions),
        "config": config_json(config),
        "interventions": for_engine([*model.interventions, *interventions]),
        "pivots": data.pivots[0] or [],
        "seed": whole(seed, "seed"),
        "batch_tokens": whole(batch_tokens, "batch_tokens", 1),
    }


@takes_chats
def extract_to_store(
    model: HookedModel,
    saver: ActivationSaver,
    dataloader: Iterable[Any],
    target_token_positions: Sequence[Position] | Position = ("all",),
    extraction_config: ExtractionConfig | None = None,
    interventions: Sequence[Intervention] | None = None,
    *,
    run: str | None = None,
    resume: bool = False,
    part: tuple[int, int] | None = None,
    unit: int | None = None,
    keep_fields: Sequence[str] | None = None,
    tag: str | Sequence[str] | None = None,
    other_metadata: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    engine: Ray | Literal["ray"] | None = None,
    dictionaries: Mapping[str, Dictionary] | None = None,
    **chat: Unpack[ChatArguments],
) -> Place | None:
    """Runs a data set straight into a run of a store, shard by shard: memory holds only one shard.

    The batches are as in :meth:`extract_cache`. The run keeps their other fields, one value per row: all of them, or
    those in ``keep_fields``. With ``{"text": "…", "label": "good"}``, ``run["label"]`` is a list with one value per
    row, and ``fields.label ~ 'good'`` is a condition for queries.

    ``run`` names the run; ``resume=True`` continues an interrupted run of that name, or begins it if there is none and
    says so on standard error; ``part=(3, 8)`` writes the third of eight shares, each in a process of its own; ``unit``
    is the number of rows in a shard (by default 256 or a 64th of all, whichever is more, and at most what 256 MiB
    hold). ``tag`` and ``other_metadata`` are as in ``saver.save``, ``seed`` and ``batch_tokens`` as in
    :meth:`extract_cache`. Returns the run's folder, or None while other parts are not done.

    ``engine="ray"`` runs the units on a Ray cluster, by default a new one on this machine;
    ``engine=scale.Ray(workers=8, cpus=4)`` configures it. The run is the same as this process alone would write.
    ``dataloader`` may be a Ray data set.

    ``dictionaries={"sae": dictionary}`` also keeps the features of these dictionaries at the same positions, sparse:
    :meth:`StoredRun.features` reads ``"features_sae"``, or ``"features_sae_3"`` of a set. The run knows each dictionary by
    content, so ``resume`` and ``part`` refuse another one.
    """
    if run is None and (resume or part is not None):
        raise InputError("resume and part need a named run", 'name it: run="first"')
    if not isinstance(saver, ActivationSaver):
        raise InputError(f"saver is {saver!r:.80}; it must be an ActivationSaver")
    truth(resume, "resume")
    name = fresh_name() if run is None else string(run, "run")
    share = None if part is None else _share(part)
    config = as_config(extraction_config)
    data = DataSet.read(model, dataloader, lambda others: None, chat)
    own = as_list(interventions)
    if not data.may_be_packed(model, own):
        raise InputError(
            "rows of a store run in batches of their own: without hooks, values for single rows, "
            "or interventions under several pivot_positions",
            "extract_cache() and saver.save() keep what runs as it came",
        )
    fields = kept_fields(data.said, keep_fields)
    if fields and "fields" in (other_metadata or {}):
        raise InputError("other_metadata has 'fields', which says what is kept of each row", "use another name")
    positions = as_given(target_token_positions)
    settings = settings_of(model, data, positions, config, own, seed, batch_tokens)
    place = {
        "run": name,
        "resume": resume,
        "part": share,
        "fields": json.dumps(fields),
        "unit": None if unit is None else whole(unit, "unit", 1),
        "chat": None if data.chat is None else json.dumps(data.chat),
    }
    place.update(_features(model, dictionaries, engine))
    if engine is not None and share is not None:
        raise InputError("engine and part exclude each other", "a cluster shares the units by itself")
    annotations = annotations_of(other_metadata, tag)
    try:
        if engine is not None:
            from easyroutine.scale.extraction import fill

            return fill(model, saver, data, settings, annotations, place, engine)
        return saver.fill(model, data, settings, annotations, place)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept: run={name!r}, resume=True continues") from None


def _features(model: HookedModel, dictionaries: Any, engine: Any) -> dict[str, Any]:
    """The dictionaries whose features a run keeps, and their description, in the engine's form."""
    from easyroutine.interpretability.dictionary import Dictionary

    given = mapping({} if dictionaries is None else dictionaries, "dictionaries")
    for name, one in given.items():
        if not isinstance(one, Dictionary):
            raise InputError(f"dictionaries[{name!r}] is {one!r:.80}; it must be a Dictionary", "Dictionary.open(path)")
        one.fit(model)
    if given and engine is not None:
        raise InputError("engine and dictionaries exclude each other: workers do not open dictionaries")
    return {
        "dictionaries": [(string(name, "the name of a dictionary"), one._engine) for name, one in given.items()],
        "dictionary_record": json.dumps({name: one._record for name, one in given.items()}),
    }


def _share(part: Any) -> tuple[int, int]:
    """This process's share, and of how many."""
    if not isinstance(part, (list, tuple)) or len(part) != 2:
        raise InputError(f"part is {part!r}; it must be a pair", "part=(3, 8) is the third of eight shares")
    parts = whole(part[1], "the number of parts", 1)
    return whole(part[0], "the number of a part", 1, parts), parts


def _one_by_one(
    joined: ActivationCache,
    model: HookedModel,
    data: DataSet,
    positions: list[Position],
    config: ExtractionConfig,
    interventions: Sequence[Intervention],
    seed: int,
) -> None:
    """Runs the batches as given."""
    parts: list[ActivationCache] = []
    means: dict[str, Any] = {}
    n_rows = 0
    for rows, pivots, others in zip(progress(data.batches, "extracting"), data.pivots, data.others, strict=True):
        cache = model.run(
            rows,
            positions,
            config,
            interventions=interventions,
            pivot_positions=pivots,
            means=means,
            mean_rows=n_rows,
            seed=seed,
            first_row=n_rows,
        )
        if config.avg_over_example:
            # The one mean over all rows so far is carried on, not joined.
            means = means_of(cache)
            for key in means:
                del cache[key]
        cache.update(others)
        parts.append(cache)
        n_rows += len(rows)
    joined.cat_all(parts)
    joined.update(means)
    joined._mean_rows = n_rows
