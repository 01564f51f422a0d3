"""A saved run that is read lazily."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from easyroutine import tensors
from easyroutine._core import Run, Tensor, readable
from easyroutine.checks import listed, whole
from easyroutine.errors import InputError, KeyNotFoundError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.metadata import record_of
from easyroutine.interpretability.page import Page, page_of_run
from easyroutine.interpretability.stored import Node, entries_of, read_object, read_rows, read_value, tensors_of

if TYPE_CHECKING:
    from easyroutine.interpretability.dictionary import Features

__all__ = ["StoredRun", "without_inner"]


class StoredRun(Mapping[str, Any]):
    """The contents of a run, by key. Each access reads only the tensors it needs and keeps nothing in memory.

    ``run["resid_out_5"]`` reads one value, :meth:`rows` some examples of it, :meth:`layer` one layer, :meth:`load` everything.
    """

    def __init__(self, run: Run, base_dir: str, made_by: Any = None) -> None:
        """``made_by`` is what a pickle of the run keeps."""
        self._run = run
        self._made_by = made_by
        self._base_dir = base_dir
        self._values: dict[str, Any] = json.loads(run.values())
        self._entries: dict[Any, Node] = dict(entries_of(run, self._values))
        self._tensors = {name: (dtype, shape) for name, dtype, shape, _ in run.tensors()}
        self._kinds = {name: kind for name, _, _, kind in run.tensors()}
        #: The whole record, with the store's own data under ``_store``: the run's id, digest, plan and shards.
        self.record: dict[str, Any] = record_of(run.record(), lambda: run)
        #: The metadata of the run: how it came about, and ``other_metadata``.
        self.metadata: dict[str, Any] = without_inner(self.record)
        #: Its folder, or URL.
        self.path: Path | str = f"{base_dir}/{run.path}" if "://" in base_dir else Path(base_dir, *run.path.split("/"))

    def __getitem__(self, key: str) -> Any:
        return tensors.handed_out(read_value(self._node(key), self._run.read))

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def rows(self, key: str, start: int, stop: int) -> Any:
        """Examples ``start`` to ``stop`` (exclusive) of one key."""
        start, stop = (whole(number, "an example", 0, 2**63 - 1) for number in (start, stop))
        if start > stop:
            raise InputError(f"examples {start}:{stop} are not a range; both count from 0")
        node = self._node(key)
        if key in self.fields:
            return node["json"][start:stop]
        return tensors.handed_out(read_rows(node, self._run, start, stop, key))

    def features(self, key: str) -> Features:
        """The features of a dictionary that the run keeps, sparse: ``"features_sae"``, or ``"features_sae_3"`` of a set.

        Its positions count the kept tokens of each row, up to the last one of any row at which a feature is active.
        """
        from easyroutine.interpretability.dictionary import Features

        config = self.metadata.get("extraction_config")
        sizes = config.get("features") if isinstance(config, Mapping) else None
        if not isinstance(sizes, Mapping) or key not in sizes:
            held = ", ".join(map(repr, sizes)) if isinstance(sizes, Mapping) else "none"
            raise KeyNotFoundError(f"the run has no features {key!r}; it has {held}")
        places, values = array("q"), array("f")
        longest = 0
        rows = read_value(self._node(f"{key}.indices"), self._run.read)
        for number, (indices, found) in enumerate(
            zip(rows, read_value(self._node(f"{key}.values"), self._run.read), strict=True)
        ):
            for position, feature in indices.tolist():
                places.extend((number, position, feature))
                longest = max(longest, position + 1)
            values.extend(found.tolist())
        handed = (
            tensors.handed_out(Tensor.from_bytes(numbers.tobytes(), shape, dtype))
            for numbers, shape, dtype in (
                (places, (len(values), 3), "int64"),
                (values, (len(values),), "float32"),
            )
        )
        return Features(next(handed), next(handed), (len(rows), longest, int(sizes[key])))

    @property
    def tags(self) -> list[str]:
        """The tags that it was saved with, then those it was given later."""
        return tags_in(self.record)

    @property
    def fields(self) -> list[str]:
        """The keys with one value per row, such as a label, that the extraction kept from its data set."""
        kept = self.metadata.get("fields")
        found = [name for name in kept if name in self._entries] if isinstance(kept, Mapping) else []
        return [name for name in found if isinstance(self._entries[name].get("json"), list)]

    def to_pandas(self) -> Any:
        """The fields of the rows, one line per row, in the order of the activations. Needs pandas."""
        pandas = tensors.needed("pandas", "to_pandas()")
        n_rows = self.record.get("_store", {}).get("n_examples")
        return pandas.DataFrame({name: self._entries[name]["json"] for name in self.fields}, index=range(n_rows or 0))

    def view(self, *, port: int | None = None) -> Page:
        """The run on the page of ``easyroutine serve``: its tensors as statistics and heat maps, compared with other
        runs.

        A separate process serves the page and ends with the result (``close``, or the end of Python). In a notebook the
        page appears in an iframe; ``.open()`` shows it in the browser. ``port`` defaults to a free one.
        """
        return page_of_run(self._base_dir, self._run.path, port)

    def layer(self, number: int) -> ActivationCache:
        """Every activation of one layer."""
        names = set(self._run.of_layer(whole(number, "a layer")))
        keys = [key for key, node in self._entries.items() if names.intersection(tensors_of(node))]
        if not keys:
            raise InputError(f"the run has no activation of layer {number}")
        return ActivationCache({key: read_value(self._entries[key], self._run.read) for key in keys})

    def load(self, keys: Sequence[str] | str | None = None) -> Any:
        """Everything that was saved, or the given keys; a single key counts as a list of one."""
        if keys is None:
            wanted = list(self._entries)
        else:
            wanted = [keys] if isinstance(keys, str) else list(dict.fromkeys(listed(keys, "keys", "keys")))
        return read_object(self._run, self._values, [(key, self._node(key)) for key in wanted])

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a key that is one tensor; for rows of different lengths, the shape of all rows concatenated."""
        names = tensors_of(self._node(key))
        if len(names) != 1:
            raise InputError(f"{key!r} is not one tensor")
        return tuple(self._tensors[names[0]][1])

    def kind(self, key: str) -> str:
        """How a one-tensor key is stored: ``dense`` has one value per row on its first axis."""
        names = tensors_of(self._node(key))
        return self._kinds[names[0]] if len(names) == 1 else "object"

    def nbytes(self, key: str) -> int:
        """The size of a key in bytes."""
        return sum(_bytes(*self._tensors[name]) for name in tensors_of(self._node(key)))

    def _node(self, key: str) -> Node:
        if key not in self._entries:
            held = [repr(one) for one in self._entries]
            more = f" and {len(held) - 8} more" if len(held) > 8 else ""
            raise KeyNotFoundError(f"the run holds no {key!r}; it holds {', '.join(held[:8])}{more}")
        return self._entries[key]

    def __reduce__(self) -> Any:
        return self._made_by

    def __repr__(self) -> str:
        size = readable(sum(_bytes(*tensor) for tensor in self._tensors.values()))
        return f"StoredRun({self._run.path!r}, {len(self)} keys, {size})"

    def _repr_html_(self) -> str:
        def row(key: str) -> str:
            size = self.nbytes(key)
            names = tensors_of(self._entries[key])
            shape = " × ".join(map(str, self._tensors[names[0]][1])) if len(names) == 1 else ""
            return f"<tr><td><code>{escape(str(key))}</code></td><td>{shape}</td><td>{readable(size) if size else ''}</td></tr>"

        head = "<tr><th>key</th><th>shape</th><th>size</th></tr>"
        return f"<table><caption>{escape(repr(self))}</caption>{head}{''.join(map(row, self._entries))}</table>"


def tags_in(record: Mapping[str, Any]) -> list[str]:
    """Every tag of a record: the first stands where the original kept its one."""
    store = record.get("_store")
    later = store.get("tags") if isinstance(store, Mapping) else None
    return [tag for tag in (record.get("tag"), *(later or ())) if isinstance(tag, str)]


def without_inner(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without the parts that only the store reads."""
    return {key: value for key, value in record.items() if key != "_store"}


def _bytes(dtype: str, shape: Sequence[int]) -> int:
    bits = int("".join(one for one in dtype if one.isdigit()) or 8)
    return prod(shape) * bits // 8
