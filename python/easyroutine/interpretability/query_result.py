"""Runs that a query found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any, Union, overload

from easyroutine import tensors
from easyroutine._core import Found, Loader
from easyroutine.errors import InputError, NotFoundError
from easyroutine.interpretability.stored_run import StoredRun, without_inner

__all__ = ["Place", "QueryResult", "Result", "below", "place"]

#: A folder; of a store in a bucket its URL.
Place = Union[Path, str]
#: Experiment, folder of the model, folder of the run, metadata.
Result = tuple[str, Place, Place, dict[str, Any]]


def place(base: str) -> Place:
    """The folder of a store, or its URL."""
    return base if "://" in base else Path(base)


def below(base: str, path: str) -> Place:
    """A folder of a store, of which ``path`` is the path below it."""
    return f"{base}/{path}" if "://" in base else Path(base, *path.split("/"))


class QueryResult:
    """Runs that a query found, the most recent last. A slice of them is another result."""

    def __init__(self, found: Found | None = None, base_dir: str = "") -> None:
        """Without arguments a result without runs; :meth:`ActivationLoader.query` gives those of a store."""
        self._found = found
        self._base_dir = base_dir
        self._results: list[Result] | None = None

    @property
    def results(self) -> list[Result]:
        """Experiment, folder of the model, folder of the run, and metadata of each."""
        if self._results is None:
            self._results = []
            for path, record in [] if self._found is None else self._found.runs():
                experiment, model, _ = path.split("/")
                folders = (below(self._base_dir, f"{experiment}/{model}"), below(self._base_dir, path))
                self._results.append((experiment, *folders, without_inner(json.loads(record))))
        return self._results

    @property
    def problems(self) -> list[str]:
        """What could not be read while looking; it hides nothing else."""
        return [] if self._found is None else self._found.problems()

    def get_paths(self) -> list[Place]:
        """The folders of the runs."""
        return [run for _, _, run, _ in self.results]

    def load(
        self, time: int | str | PathLike[str] = -1, keys: Sequence[str] | str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """What was saved, and its metadata.

        ``time`` counts from 0, -1 is the most recent; or it is a run's folder, its name (``2023-04-15_14-30-25``), or a
        beginning of one that fits one run only. With ``keys`` only these values are read.
        """
        run = self.open(time)
        return run.load(keys), run.metadata

    def open(self, time: int | str | PathLike[str] = -1) -> StoredRun:
        """A run of which only what is then asked for is read; ``time`` as in :meth:`load`."""
        which = _which(time)
        return StoredRun(self._runs(which).open(which), self._base_dir)

    def remove(self, time: int | str | PathLike[str]) -> None:
        """Removes a run from the store."""
        which = _which(time)
        self._runs(which).remove(which)
        self._results = None

    def update_run_experiment(self, identifier: int | str | PathLike[str], new_experiment_name: str) -> Place:
        """Moves a run to another experiment, and returns its folder there."""
        which = _which(identifier)
        path = self._runs(which).move_to(which, new_experiment_name)
        self._results = None
        return below(self._base_dir, path)

    def to_pandas(self) -> Any:
        """A line a run: experiment, run, model, tag, time, and every other key of its metadata; pandas must be installed.

        What is a list or a dictionary in the metadata is one in its cell.
        """
        pandas = tensors.needed("pandas", "to_pandas()")
        lines = [
            {"experiment_name": experiment, "run": _name(run), **metadata, "path": str(run)}
            for experiment, _, run, metadata in self.results
        ]
        first = ["experiment_name", "run", "model_name", "tag", "save_time"]
        others = dict.fromkeys(key for line in lines for key in line if key not in first)
        return pandas.DataFrame(lines, columns=[*first, *others])

    def _runs(self, which: int | str) -> Found:
        if self._found is None:
            raise NotFoundError(f"there is no run {which!r}: the result holds none of a store")
        return self._found

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> QueryResult: ...
    def __getitem__(self, index: int | slice) -> Result | QueryResult:
        if not isinstance(index, slice):
            return self.results[index]
        counts_from_end = index.stop is None or any((one or 0) < 0 for one in (index.start, index.stop, index.step))
        if counts_from_end and self.problems:
            raise InputError(
                f"{len(self.problems)} runs cannot be read, so nobody knows which are the last: {self.problems[0]}",
                "name runs by their folders, or give a slice its end, counted from 0",
            )
        places = range(len(self))[index]
        part = type(self)(None if self._found is None else self._found.pick(list(places)), self._base_dir)
        if self._found is None:
            part._results = self.results[index]
        return part

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __repr__(self) -> str:
        lines = []
        for number, (experiment, model, run, metadata) in enumerate(self.results):
            lines.append(f"{number} - Experiment: {experiment}, Model: {_name(model)}, Time Folder: {_name(run)}")
            if metadata.get("tag") is not None:
                lines.append(f"  Tag: {metadata['tag']}")
        lines += [f"unreadable: {problem}" for problem in self.problems]
        return "\n".join(map(_printable, lines))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{number}</td><td>{escape(_name(run))}</td><td>{escape(experiment)}</td><td>{escape(_name(model))}</td>"
            f"<td>{escape(str(metadata.get('tag') or ''))}</td></tr>"
            for number, (experiment, model, run, metadata) in enumerate(self.results)
        )
        head = "<tr><th></th><th>run</th><th>experiment</th><th>model</th><th>tag</th></tr>"
        return f"<table><caption>{len(self)} runs</caption>{head}{rows}</table>"

    def __reduce__(self) -> Any:
        if self._found is None:
            if self.results:
                raise InputError("runs that are of no store are not pickled")
            return type(self), ()
        return _reopened, (type(self), self._base_dir, [path for path, _ in self._found.runs()])


def _reopened(kind: type[QueryResult], base_dir: str, paths: list[str]) -> QueryResult:
    """The same runs, read from their store again, as copies are made of a result."""
    return kind(Loader(base_dir, "*").at(paths), base_dir)


def _which(given: int | str | PathLike[str]) -> int | str:
    """What names a run: a number, or the name of its folder, which may be given as a path."""
    return Path(given).name if isinstance(given, PathLike) else given


def _name(folder: Place) -> str:
    return str(folder).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _printable(line: str) -> str:
    """A line whose control characters, which a terminal would obey, are written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
