"""Saves activations with the metadata of their run, and finds runs by any of it."""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from easyroutine import tensors
from easyroutine._core import Loader, OpenRun, Saver, base_from_env
from easyroutine.checks import folder, mapping, string
from easyroutine.errors import InputError, NotFoundError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.extraction_config import ExtractionConfig, config_json, with_chat
from easyroutine.interpretability.inputs import pivots_of
from easyroutine.interpretability.interventions import as_list, as_written, recorded
from easyroutine.interpretability.metadata import Encoder
from easyroutine.interpretability.original_runs import find_originals, without_imported
from easyroutine.interpretability.query_result import Place, QueryResult, below, place
from easyroutine.interpretability.selection import as_json, normalised
from easyroutine.interpretability.stored import written_object
from easyroutine.progress import token_progress

if TYPE_CHECKING:
    from easyroutine.interpretability.dataset import DataSet
    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.interpretability.interventions import Intervention

__all__ = ["ActivationLoader", "ActivationSaver", "QueryResult"]


class ActivationSaver:
    """Saves runs under ``base_dir/experiment/model/time/``. A run becomes visible only once it is complete.

    ``base_dir`` is a folder, or ``s3://bucket/prefix``, ``gs://…``, ``az://…`` in a package built with the feature
    ``cloud``.
    """

    def __init__(self, base_dir: str | os.PathLike[str], experiment_name: str = "default") -> None:
        self._saver = Saver(folder(base_dir, "base_dir"), string(experiment_name, "experiment_name"))
        self.experiment_name = experiment_name

    @classmethod
    def from_env(cls, experiment_name: str = "default") -> ActivationSaver:
        """A saver for the folder that ``ACTIVATION_BASE_DIR`` names, in the environment or a ``.env`` file."""
        return cls(_base_from_env(), experiment_name)

    @property
    def base_dir(self) -> Place:
        """The folder of the store, or its URL."""
        return place(self._saver.base)

    @property
    def exp_name(self) -> str:
        """The same as ``experiment_name``."""
        return self.experiment_name

    def save(
        self,
        activations: Any,
        model: HookedModel | str,
        target_token_positions: Any,
        interventions: Sequence[Intervention] | None,
        extraction_config: ExtractionConfig | Mapping[str, Any],
        other_metadata: Mapping[str, Any] | None = None,
        tag: str | Sequence[str] | None = None,
    ) -> Place:
        """Saves a cache, a dictionary or a tensor as a run, and returns its folder.

        Without ``interventions``, a cache from ``extract_cache`` supplies its own. For any other cache of a model with
        registered interventions you must say which applied: ``model.interventions``, or ``[]`` for none.
        ``other_metadata`` may hold numbers, strings, bytes, paths and arrays of torch and numpy, in lists, tuples, sets
        and dictionaries, at any depth. Each comes back equal and with its type (a tensor without its gradient);
        anything else is refused. ``tag`` is one tag or a list.
        """
        known = _known_run(activations)
        if not isinstance(extraction_config, (ExtractionConfig, Mapping)):
            raise InputError(f"extraction_config is {extraction_config!r:.80}; it must be an ExtractionConfig")
        chat = ((known or {}).get("extraction_config") or {}).get("chat")
        config = with_chat(extraction_config, chat)
        provenance = provenance_of(model, target_token_positions, config, interventions, other_metadata, tag)
        if known is not None and not interventions:
            provenance["interventions"] = _interventions(known.get("interventions"))
        elif interventions is None and not isinstance(model, str) and model.interventions:
            raise InputError(
                "the model has registered interventions, but nothing says whether they applied to the activations",
                "interventions=model.interventions, or interventions=[] for none",
            )
        return self._save(activations, provenance)

    def save_object_to_path(
        self, obj: Any, metadata: Mapping[str, Any], activation_dir: str | os.PathLike[str]
    ) -> None:
        """Writes ``obj`` with ``torch.save`` and ``metadata`` as JSON into a folder: ``tensor.pt`` and
        ``metadata.json``.

        This is how the original kept its runs, and no store finds it: use :meth:`save` for runs to be found again.
        """
        torch = tensors.needed("torch", "save_object_to_path()")
        folder = Path(activation_dir)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(metadata))
        torch.save(obj, folder / "tensor.pt")
        (folder / "metadata.json").write_text(text, encoding="utf-8")

    def save_cache(
        self,
        cache: ActivationCache,
        other_metadata: Mapping[str, Any] | None = None,
        tag: str | Sequence[str] | None = None,
    ) -> Place:
        """Saves a cache that knows its run, such as one from ``extract_cache``, and returns its folder."""
        metadata = _known_run(cache)
        if metadata is None:
            raise InputError(
                "the cache does not say which run it came from", "save() takes model, positions and configuration"
            )
        provenance = provenance_of(
            str(metadata["model_name"]),
            metadata.get("target_token_positions"),
            metadata.get("extraction_config") or {},
            None,
            other_metadata,
            tag,
        )
        said = ("model_commit", "model_dtype", "model_digest", "model_adapter")
        named = (metadata["model_name"], *(metadata.get(key) for key in said))
        known = {"model": named, "interventions": _interventions(metadata.get("interventions"))}
        return self._save(cache, {**provenance, **known})

    def _save(self, activations: Any, provenance: dict[str, Any]) -> Place:
        written, values = written_object(activations)
        return below(self._saver.base, self._saver.save(written, json.dumps(values), provenance))

    def fill(
        self,
        model: HookedModel,
        data: DataSet,
        settings: dict[str, Any],
        annotations: dict[str, Any],
        place: dict[str, Any],
    ) -> Place | None:
        """Fills a run from a data set; see :meth:`HookedModel.extract_to_store`."""
        bar = token_progress("extracting")
        begun = _says_that_it_begins(place["run"])
        path = self._saver.fill(model._engine, data.rows(), settings, annotations, place, begun, bar)
        return None if path is None else below(self._saver.base, path)

    def open(
        self,
        model: HookedModel,
        rows: list[Any],
        settings: dict[str, Any],
        annotations: dict[str, Any],
        place: dict[str, Any],
    ) -> tuple[OpenRun | None, str | None]:
        """Begins or joins a run without writing anything yet; returns the path below the store if it is already
        complete.
        """
        begun = _says_that_it_begins(place["run"])
        return self._saver.open(model._engine, rows, settings, annotations, place, begun)

    def rename_experiment(self, new_experiment_name: str) -> None:
        """Renames the experiment: its folder, and the name recorded in its runs."""
        self._saver.rename(self.experiment_name, new_experiment_name)
        self._saver = Saver(self._saver.base, new_experiment_name)
        self.experiment_name = new_experiment_name

    def __reduce__(self) -> tuple[type[ActivationSaver], tuple[str, str]]:
        return type(self), (self._saver.base, self.experiment_name)

    def __repr__(self) -> str:
        return f"ActivationSaver({self._saver.base!r}, {self.experiment_name!r})"


def _says_that_it_begins(run: str) -> Callable[[], None]:
    return lambda: print(f"no run {run!r} was begun before: it begins now", file=sys.stderr)


class ActivationLoader:
    """Finds runs: those of its own experiment, unless a query names another."""

    def __init__(self, base_dir: str | os.PathLike[str], experiment_name: str = "default") -> None:
        self._loader = Loader(folder(base_dir, "base_dir"), string(experiment_name, "experiment_name"))
        self.experiment_name = experiment_name

    @classmethod
    def from_env(cls, experiment_name: str = "default") -> ActivationLoader:
        """A loader for the folder that ``ACTIVATION_BASE_DIR`` names, in the environment or a ``.env`` file."""
        return cls(_base_from_env(), experiment_name)

    @classmethod
    def from_saver(cls, saver: ActivationSaver) -> ActivationLoader:
        """A loader for a saver's runs."""
        return cls(saver.base_dir, saver.experiment_name)

    @property
    def base_dir(self) -> Place:
        """The folder of the store, or its URL."""
        return place(self._loader.base)

    @property
    def exp_name(self) -> str:
        """The same as ``experiment_name``."""
        return self.experiment_name

    def query(
        self,
        experiment_name: str | None = None,
        model_name: str | None = None,
        target_token_positions: Any = None,
        pivot_positions: Sequence[int] | None = None,
        save_time: str | None = None,
        custom_keys: Mapping[str, Any] | None = None,
        extraction_config: ExtractionConfig | Mapping[str, Any] | None = None,
        interventions: Sequence[Intervention] | None = None,
        verbose: bool = False,
        tag: str | Sequence[str] | None = None,
        *,
        match: Literal["subset", "exact"] = "subset",
        where: str | None = None,
    ) -> QueryResult:
        """The runs that meet every given condition, in the order in which they were saved.

        Without ``experiment_name`` it searches the loader's own experiment, with ``"*"`` all of them.
        ``interventions=[]`` finds runs without any. Flags set in ``extraction_config`` must be set in the run, and
        fields that differ from their defaults must be equal; ``match="exact"`` compares every field. ``where`` is a
        condition, as on the command line. If ``tag`` is a list, a run must have each tag of it. ``verbose`` prints the
        result.
        """
        if not isinstance(verbose, bool):
            raise InputError(f"verbose is {verbose!r}; it must be True or False", f"tag={verbose!r} looks for a tag")
        for name, text in (
            ("experiment_name", experiment_name),
            ("model_name", model_name),
            ("save_time", save_time),
            ("where", where),
        ):
            if text is not None:
                string(text, name)
        if extraction_config is not None and not isinstance(extraction_config, (ExtractionConfig, Mapping)):
            raise InputError(f"extraction_config is {extraction_config!r:.80}; it must be an ExtractionConfig")
        if match not in ("subset", "exact"):
            raise InputError(f'match is "subset" or "exact", not {match!r}')
        config = (
            extraction_config
            if isinstance(extraction_config, (ExtractionConfig, type(None)))
            else dict(extraction_config)
        )
        asked = {
            "experiment_name": experiment_name,
            "model_name": model_name,
            "target_token_positions": None if target_token_positions is None else _positions(target_token_positions),
            "pivot_positions": None if pivot_positions is None else json.dumps(pivots_of(pivot_positions)),
            "save_time": save_time,
            "custom_keys": None if custom_keys is None else _values(custom_keys, "custom_keys")[0],
            "extraction_config": None if config is None else config_json(config),
            "interventions": None if interventions is None else _interventions(as_list(interventions)),
            "or_interventions": None if interventions is None else _interventions(as_list(interventions), as_written),
            "tags": tags_of(tag),
            "exact": match == "exact",
            "condition": where,
        }
        experiment = self.experiment_name if experiment_name is None else experiment_name
        originals = []
        if isinstance(self.base_dir, Path) and where is None:
            criteria = {
                "model_name": model_name,
                "target_token_positions": None
                if target_token_positions is None
                else normalised(target_token_positions),
                "pivot_positions": pivot_positions,
                "save_time": save_time,
                "custom_keys": custom_keys,
                "extraction_config": extraction_config,
                "interventions": interventions,
                "tags": tags_of(tag),
                "exact": match == "exact",
            }
            originals = find_originals(self.base_dir, None if experiment == "*" else experiment, criteria)
        found = self._loader.query(asked)
        for warning in found.edited():
            warnings.warn(f"{warning}; `easyroutine runs tag RUN --accept` takes it over", stacklevel=2)
        result = QueryResult(found, self._loader.base, without_imported(originals, self.base_dir, found.runs()))
        if not len(result) and experiment_name is None:
            self._warn_of_others(asked)
        if verbose:
            print(result)
        return result

    def _warn_of_others(self, asked: dict[str, Any]) -> None:
        """Warns if only other experiments have matching runs."""
        found = self._loader.query({**asked, "experiment_name": "*"}).runs()
        if found:
            names = ", ".join(dict.fromkeys(repr(path.split("/")[0]) for path, _ in found))
            warnings.warn(
                f"no run of the experiment {self.experiment_name!r} fits, and {len(found)} of others do: {names}; "
                'experiment_name="*" looks in all of them',
                stacklevel=3,
            )

    def __reduce__(self) -> tuple[type[ActivationLoader], tuple[str, str]]:
        return type(self), (self._loader.base, self.experiment_name)

    def __repr__(self) -> str:
        return f"ActivationLoader({self._loader.base!r}, {self.experiment_name!r})"


def _base_from_env() -> str:
    """The folder of the store that the environment names."""
    try:
        return base_from_env()
    except NotFoundError as error:
        # No file is missing, only its name, so this is not a NotFoundError.
        raise InputError(error.message, error.hint) from None


def _known_run(activations: Any) -> Mapping[str, Any] | None:
    """The metadata of a cache, if it knows its run."""
    metadata = activations.get("metadata") if isinstance(activations, ActivationCache) else None
    return metadata if isinstance(metadata, Mapping) and metadata.get("model_name") else None


def provenance_of(
    model: HookedModel | str,
    positions: Any,
    config: ExtractionConfig | Mapping[str, Any],
    interventions: Any,
    other_metadata: Mapping[str, Any] | None,
    tag: str | Sequence[str] | None,
) -> dict[str, Any]:
    """The metadata of a run, in the engine's form."""
    if not isinstance(model, str) and not hasattr(model, "_engine"):
        raise InputError(f"model is {model!r:.80}; it must be a HookedModel, or the name of one")
    if isinstance(model, str):
        named: tuple[str | None, ...] = (model, None, None, None, None)
    else:
        engine = model._engine
        named = (model.name, engine.commit, engine.dtype, engine.digest(), engine.adapter_name)
    return {
        "model": named,
        "positions": _positions(positions),
        "extraction_config": config_json(config if isinstance(config, ExtractionConfig) else dict(config)),
        "interventions": _interventions(as_list(interventions)),
        **annotations_of(other_metadata, tag),
    }


def annotations_of(other_metadata: Mapping[str, Any] | None, tag: str | Sequence[str] | None) -> dict[str, Any]:
    """What a user adds to a run, in the engine's form."""
    tags = tags_of(tag)
    metadata, types = _values(other_metadata or {}, "other_metadata")
    return {"other_metadata": metadata, "types": json.dumps(types), "tags": tags}


def tags_of(tag: str | Sequence[str] | None) -> list[str]:
    """One tag, several or none as a list."""
    if tag is None:
        return []
    if isinstance(tag, (list, tuple)):
        return [string(one, f"tag[{place}]") for place, one in enumerate(tag)]
    return [string(tag, "tag")]


def _positions(given: Any) -> str:
    if given is None:
        return "null"
    is_listed = isinstance(given, (Iterator, range)) or tensors.is_array(given)
    return as_json(normalised(list(given) if is_listed else given))


def _values(given: Mapping[str, Any], name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values by key in the engine's form, and their classes by JSON pointers into the record."""
    encoder = Encoder()
    values = {}
    for key, value in mapping(given, name).items():
        if type(key) is not str:
            raise InputError(f"a key of {name} is {key!r:.60}; it must be a string")
        pointer = "/" + key.replace("~", "~0").replace("/", "~1")
        values[key] = encoder.encoded(value, f"{name}[{key!r}]", pointer)
    return encoder.written(values), encoder.types


def _interventions(given: Any, spelt: Callable[[Any], dict[str, Any]] = recorded) -> dict[str, Any]:
    """Interventions by value; the store keeps their tensors by checksum. Null means none."""
    listed = [spelt(one) for one in given or ()]
    encoder = Encoder()
    return encoder.written({"interventions": encoder.encoded(listed, "interventions", "") or None})
