"""The activations of a run: values by key, with the tokens they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from difflib import get_close_matches
from html import escape
from typing import Any

from easyroutine import checks, tensors
from easyroutine._core import readable
from easyroutine.errors import InputError, KeyNotFoundError
from easyroutine.interpretability.cache_memory import bytes_of, tree_of
from easyroutine.interpretability.selection import Selection
from easyroutine.interpretability.stacking import stacked_heads
from easyroutine.interpretability.value_with_info import ValueWithInfo
from easyroutine.replaced import Replaced

__all__ = [
    "ActivationCache",
    "ValueWithInfo",
    "aggregate_last_layernorm",
    "just_me",
    "just_old",
    "sublist",
]

Aggregation = Callable[[Any, Any], Any]
#: Keys that are tables of positions: they are built from the selected tokens and joined with them.
_OF_POSITIONS = ("mapping_index", "mapping_index_rows", "token_dict")
#: Prefix of keys that are means over examples.
MEAN = "avg_pattern_"
#: Prefixes of keys whose first axis within a row runs over a pattern's rows.
_OF_PATTERNS = ("pattern_", "scores_", MEAN)


def just_old(old: Any, new: Any) -> Any:
    """An aggregation that keeps the first value."""
    return old


def just_me(old: Any, new: Any) -> Any:
    """An aggregation that keeps the last value."""
    return new


def sublist(old: Any, new: Any) -> list[Any]:
    """An aggregation into a list with one entry per cache."""
    return [*(old if isinstance(old, list) else [old]), new]


def aggregate_last_layernorm(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """An aggregation that concatenates the statistics of the final norm."""
    return {name: tensors.concatenated([old[name], new[name]]) for name in old}


class ActivationCache(MutableMapping[str, Any], Replaced):
    """Values by key, in the order of the forward pass.

    Activations are ``torch.Tensor`` if torch is installed (see :func:`easyroutine.set_tensor_backend`), without a copy.
    ``a + b`` has the keys of both, and the values of ``b`` win; :meth:`cat` appends the rows of another cache. Neither joins
    caches of different positions.
    """

    #: Whether every value's first axis runs over the rows of a data set.
    _is_by_rows = False

    def __init__(self, initial: Mapping[str, Any] | Iterable[tuple[str, Any]] = ()) -> None:
        self._values: dict[str, Any] = {}
        self._selection: Selection | None = None
        self._pattern_rows: Selection | None = None
        #: The number of rows that means over examples cover, if known.
        self._mean_rows: int | None = None
        self._aggregations: list[tuple[str, Aggregation]] = []
        self._deferred: list[ActivationCache] | None = None
        if not isinstance(initial, Iterable):
            raise InputError(f"a cache is made of a dictionary or of pairs, not of {type(initial).__name__}")
        self.update(initial)

    # As a mapping.

    def __getitem__(self, key: str) -> Any:
        try:
            value = self._values[key]
        except KeyError:
            near = get_close_matches(str(key), self._values, 1)
            hint = f"did you mean {near[0]!r}?" if near else None
            raise KeyNotFoundError(f"the cache holds no {key!r}; it holds {self._shown_keys()}", hint) from None
        if isinstance(value, ValueWithInfo):
            # Its value is replaced too, so that the same object comes back each time.
            value._value = tensors.handed_out(value._value)
            return value
        out = tensors.handed_out(value)
        if out is not value:
            # Stored back, so that changes in place persist.
            self._values[key] = out
        return out

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise InputError(f"a key of a cache is a string, not {type(key).__name__}")
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self._values:
            raise KeyNotFoundError(f"the cache holds no {key!r}; it holds {self._shown_keys()}")
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __add__(self, other: Mapping[str, Any]) -> ActivationCache:
        if not isinstance(other, Mapping):
            return NotImplemented
        both = self.copy()
        both.update(other)
        if isinstance(other, ActivationCache):
            for mine, theirs in ((self._selection, other._selection), (self._pattern_rows, other._pattern_rows)):
                if mine is not None and theirs is not None and mine != theirs:
                    raise InputError(
                        f"one cache holds {_named(mine)}, the other {_named(theirs)}: a sum has one table of positions",
                        "keep them apart; cat() concatenates rows",
                    )
            both._selection = other._selection or self._selection
            both._pattern_rows = other._pattern_rows or self._pattern_rows
            both._mean_rows = other._mean_rows or self._mean_rows
        return both

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # type: ignore[assignment]

    def copy(self) -> ActivationCache:
        """A cache of the same values."""
        new = type(self)()
        new._values.update(self._values)
        new._selection, new._pattern_rows = self._selection, self._pattern_rows
        new._mean_rows = self._mean_rows
        new._aggregations = list(self._aggregations)
        return new

    __copy__ = copy

    def is_empty(self) -> bool:
        """Whether there are no values."""
        return not self._values

    def raw(self, key: str) -> Any:
        """The value of a key as the cache holds it, not as a torch tensor."""
        return self._values[key]

    @property
    def cache(self) -> ActivationCache:
        """The same mapping: the original kept its values in a dictionary of this name."""
        return self

    def stack_heads(self, name: str) -> Any:
        """All heads of a layer as one array: ``stack_heads("pattern_L3")`` is [B, H, T, T], ``"head_out_L3"`` [B, H, T, D].

        It stacks the heads in the cache, in their order. Rows of different lengths give a list with one array per row. The
        result is a copy: changing it does not change the cache.
        """
        return stacked_heads(self, name)

    # Annotations.

    def add_with_info(self, key: str, value: Any, info: str) -> None:
        """Sets a value together with a description of it."""
        self[key] = ValueWithInfo(value, info)

    def add_metadata(
        self,
        target_token_positions: Any = None,
        model_name: str | None = None,
        extraction_config: Any = None,
        interventions: Any = None,
        model_digest: str | None = None,
        model_commit: str | None = None,
        model_dtype: str | None = None,
        model_adapter: str | None = None,
    ) -> None:
        """Sets the metadata of the run, under ``metadata``.

        ``model_digest`` is :attr:`HookedModel.digest`, ``model_commit`` the hub's commit, ``model_adapter`` the name of
        the applied LoRA adapter.
        """
        if hasattr(extraction_config, "to_dict"):
            extraction_config = extraction_config.to_dict()
        self["metadata"] = {
            "target_token_positions": target_token_positions,
            "model_name": model_name,
            "model_digest": model_digest,
            "model_commit": model_commit,
            "model_dtype": model_dtype,
            "model_adapter": model_adapter,
            "extraction_config": extraction_config,
            "interventions": interventions,
        }

    def to(self, device: Any) -> ActivationCache:
        """Moves the activations, in place."""
        for key, value in self._values.items():
            self._values[key] = _moved(value, device)
        return self

    def cpu(self) -> ActivationCache:
        """Moves the activations to main memory, in place."""
        return self.to("cpu")

    def cuda(self) -> ActivationCache:
        """Moves the activations to a GPU, in place; they must be torch tensors."""
        return self.to("cuda")

    # Joining.

    def register_aggregation(self, key_pattern: str, function: Aggregation) -> None:
        """Joins values of keys that begin with ``key_pattern`` using ``function(old, new)``."""
        checks.string(key_pattern, "key_pattern")
        checks.function(function, "the function of an aggregation")
        self.remove_aggregation(key_pattern)
        self._aggregations.insert(0, (key_pattern, function))

    def remove_aggregation(self, key_pattern: str) -> None:
        """Undoes :meth:`register_aggregation`."""
        self._aggregations = [entry for entry in self._aggregations if entry[0] != key_pattern]

    @contextmanager
    def deferred_mode(self) -> Iterator[ActivationCache]:
        """A context in which :meth:`cat` only collects caches; they are joined all at once at its end."""
        if self._deferred is not None:
            raise InputError("the cache is in deferred mode already")
        self._deferred = []
        try:
            yield self
        finally:
            collected, self._deferred = self._deferred, None
            self.cat_all(collected)

    def cat(self, external_cache: ActivationCache) -> None:
        """Appends the rows of another cache with the same keys.

        It joins tensors along the first axis, appends lists, and joins dictionaries entry by entry; anything else, including
        tuples, becomes an entry of a list. An empty cache becomes a copy of the other. Caches of different positions and
        means over examples cannot be joined.
        """
        if not isinstance(external_cache, ActivationCache):
            raise InputError(f"external_cache is {type(external_cache).__name__}; it must be an ActivationCache")
        if self._deferred is not None:
            self._deferred.append(external_cache)
        else:
            self.cat_all([external_cache])

    def cat_all(self, caches: Iterable[ActivationCache]) -> None:
        """Like :meth:`cat` with each in turn, but copies every number only once."""
        caches = [cache for cache in caches if not cache.is_empty()]
        if self.is_empty() and caches:
            first, *caches = caches
            self._values.update(first._values)
            self._selection, self._pattern_rows = first._selection, first._pattern_rows
            self._mean_rows = first._mean_rows
        for cache in caches:
            self._check_positions(cache)
            missing = [key for key in self if key not in cache] or [key for key in cache if key not in self]
            if missing:
                raise InputError(f"only caches with the same keys can be joined: one of them has no {missing[0]!r}")
        if not caches:
            return
        mean = next((key for key in self if key.startswith(MEAN) and not self._has_own_aggregation(key)), None)
        if mean is not None:
            raise InputError(
                f"{mean!r} is a mean over examples, and means cannot be concatenated",
                "forward(external_cache=..., batch_idx=...) carries a mean on; register_aggregation() joins it in a way of your own",
            )
        # Caches of runs, and caches joined with them, hold one value per row; for others the first axis is unknown.
        by_rows = self._is_by_rows or any(cache._selection is not None for cache in (self, *caches))
        values = {
            key: self._joined(key, [value, *(cache._values[key] for cache in caches)], by_rows)
            for key, value in self._values.items()
        }
        self._values = values
        self._join_positions(caches)

    def _check_positions(self, other: ActivationCache) -> None:
        for name in ("_selection", "_pattern_rows"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine is None or theirs is None:
                continue
            if (mine.specifiers, mine.averaged) != (theirs.specifiers, theirs.averaged):
                raise InputError(
                    f"only caches of the same positions can be joined: one holds {_named(mine)}, the other {_named(theirs)}"
                )

    def _joined(self, key: str, values: list[Any], by_rows: bool) -> Any:
        for prefix, function in self._aggregations:
            if key.startswith(prefix):
                joined = values[0]
                for value in values[1:]:
                    joined = function(joined, value)
                return joined
        if key in _OF_POSITIONS:
            # Rebuilt below from the selected tokens, where they are known.
            return values[0] if all(value == values[0] for value in values) else list(values)
        if key == "metadata" and all(_same(value, values[0]) for value in values[1:]):
            return values[0]
        return aggregated(values, by_rows)

    def _join_positions(self, caches: list[ActivationCache]) -> None:
        for name in ("_selection", "_pattern_rows"):
            parts = [getattr(self, name), *(getattr(cache, name) for cache in caches)]
            joined = Selection.joined(parts)
            setattr(self, name, joined)
            if joined is not None:
                for key, table in joined.tables("_rows" if name == "_pattern_rows" else "").items():
                    if key in self._values and not self._has_own_aggregation(key):
                        self._values[key] = table

    def _has_own_aggregation(self, key: str) -> bool:
        return any(key.startswith(prefix) for prefix, _ in self._aggregations)

    def default_aggregation(self, old: Any, new: Any) -> Any:
        """Joins values of a key without a registered aggregation; with no old value, the result is the new one."""
        return new if old is None else aggregated([old, new], by_rows=False)

    # Inspection.

    def map_to_dict(self, key: str) -> dict[Any, Any]:
        """The values of a key cut by specifier: ``{"last": value[:, columns].squeeze(), ...}``.

        Rows of different lengths give a list with one per row. Patterns and scores are cut by their own rows, if they
        have any.
        """
        value = self[key]
        mapping = self._mapping_of(key)
        cut: dict[Any, Any] = {}
        for specifier, columns in mapping.items():
            if specifier == "info":
                continue
            ragged = bool(columns) and isinstance(columns[0], list)
            if ragged and key.startswith(MEAN):
                raise InputError(f"{key!r} is a mean over rows, and {specifier!r} selects other columns in each")
            if isinstance(value, list) or ragged:
                of_row = columns if ragged else [columns] * len(value)
                cut[specifier] = [row[list(at)].squeeze() for row, at in zip(value, of_row, strict=True)]
            else:
                cut[specifier] = value[:, list(columns)].squeeze()
        return cut

    def _mapping_of(self, key: str) -> Mapping[Any, Any]:
        """The columns of a key that belong to each specifier."""
        if key.startswith(_OF_PATTERNS):
            if self._pattern_rows is not None:
                return self._pattern_rows.tables("_rows")["mapping_index_rows"]
            if "mapping_index_rows" in self:
                return dict(self["mapping_index_rows"])
        return dict(self["mapping_index"])

    def memory_size(self, key: str | None = None) -> str:
        """The memory of a key or of the whole cache, as text: ``1.2 MB`` (decimal units)."""
        if key is None:
            return readable(sum(bytes_of(value) for value in self._values.values()))
        if key not in self._values:
            raise KeyNotFoundError(f"the cache holds no {key!r}; it holds {self._shown_keys()}")
        return readable(bytes_of(self._values[key]))

    def memory_tree(self, print_tree: bool = False, grouped_tree: bool = False) -> dict[str, Any]:
        """The memory of each key as text, largest first, with the parts of dictionaries and lists; ``print_tree``
        prints it.

        ``grouped_tree`` adds up the layers of one activation, and the heads of each layer: ``{"resid_out": "24 kB (12
        items)", "pattern_L0": ...}``.
        """
        tree = tree_of(self._values, grouped_tree)
        if print_tree:
            width = max(map(len, tree), default=0)
            print(
                "\n".join([f"ActivationCache: {self.memory_size()}", *(f"{k:<{width}}  {v}" for k, v in tree.items())])
            )
        return tree

    def _shown_keys(self) -> str:
        keys = [repr(key) for key in self._values]
        return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "") or "nothing"

    def __repr__(self) -> str:
        return f"ActivationCache({self._shown_keys()})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td><code>{escape(key)}</code></td><td>{escape(_summary(value))}</td>"
            f"<td style='text-align:right'>{readable(bytes_of(value)) if bytes_of(value) else ''}</td></tr>"
            for key, value in self._values.items()
        )
        head = f"<caption>ActivationCache: {len(self)} keys, {self.memory_size()}</caption>"
        return f"<table>{head}<tr><th>key</th><th>shape</th><th>memory</th></tr>{rows}</table>"

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # Functions cannot be pickled.
        state["_aggregations"], state["_deferred"] = [], None
        return state


def aggregated(values: list[Any], by_rows: bool) -> Any:
    """Joins the values of one key of several caches; ``by_rows`` if their first axes run over rows.

    Tensors whose other axes differ become a list: of their rows, or of the tensors.
    """
    first = values[0]
    if all(isinstance(value, ValueWithInfo) for value in values):
        return ValueWithInfo(aggregated([value.value() for value in values], by_rows), first.info())
    if all(tensors.is_array(value) for value in values) and (by_rows or _fit(values)):
        return tensors.concatenated(values)
    if all(isinstance(value, Mapping) for value in values):
        if all(value.keys() == first.keys() for value in values):
            return {key: aggregated([value[key] for value in values], by_rows) for key in first}
        return list(values)
    joined: list[Any] = []
    for value in values:
        if isinstance(value, list) or (by_rows and tensors.is_array(value) and tensors.shape_of(value)):
            joined.extend(value)
        else:
            joined.append(value)
    return joined


def _fit(values: list[Any]) -> bool:
    """Whether arrays can be concatenated; those without axes count as one number."""
    return len({tensors.shape_of(value)[1:] for value in values}) == 1


def _named(selection: Selection) -> str:
    """Positions as shown in errors."""
    return f"{'means over ' if selection.averaged else ''}{selection.specifiers} of {len(selection.rows)} rows"


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, ValueWithInfo):
        return ValueWithInfo(_moved(value.value(), device), value.info())
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    if isinstance(value, list):
        return [_moved(one, device) for one in value]
    if tensors.is_torch(value):
        return value.to(device)
    if tensors.is_array(value) and str(device) != "cpu":
        torch = tensors.needed("torch", f"moving activations to {device}")
        return torch.as_tensor(tensors._for_torch(value)).to(device)
    return value


def _summary(value: Any) -> str:
    if isinstance(value, ValueWithInfo):
        return _summary(value.value())
    if tensors.is_array(value):
        return " × ".join(str(size) for size in tensors.shape_of(value)) or "one number"
    if isinstance(value, list) and value and all(tensors.is_array(one) for one in value):
        return f"{len(value)} rows of different length"
    if isinstance(value, Mapping):
        return ", ".join(str(key) for key in value)
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(a == b)
    except (TypeError, ValueError, RuntimeError):
        return False
