"""The runs that a query found."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any, Union, overload

from easyroutine import tensors
from easyroutine._core import Found, Loader
from easyroutine.checks import whole
from easyroutine.errors import EasyroutineError, InputError, NotFoundError, UnsupportedError
from easyroutine.interpretability.metadata import has_arrays, record_of
from easyroutine.interpretability.original_runs import is_original, load_original, remove_original
from easyroutine.interpretability.stored_run import StoredRun, tags_in, without_inner

__all__ = ["Place", "QueryResult", "Result", "below", "place"]

#: A folder, or the URL of a store in a bucket.
Place = Union[Path, str]
#: Experiment, folder of the model, folder of the run, metadata.
Result = tuple[str, Place, Place, dict[str, Any]]


def place(base: str) -> Place:
    """The folder of a store, or its URL."""
    return base if "://" in base else Path(base)


def below(base: str, path: str) -> Place:
    """A folder of a store; ``path`` is its path below the store."""
    return f"{base}/{path}" if "://" in base else Path(base, *path.split("/"))


class QueryResult:
    """The runs that a query found, the most recent last. A slice of a result is another result."""

    def __init__(
        self, found: Found | None = None, base_dir: str = "", originals: Sequence[tuple[str, Path, Path, Any]] = ()
    ) -> None:
        """Without arguments, an empty result; :meth:`ActivationLoader.query` gives those of a store.

        ``originals`` are runs that the original saved there: they come first, and can be read and removed but not
        moved.
        """
        self._found = found
        self._originals = list(originals)
        self._base_dir = base_dir
        self._results: list[Result] | None = None
        self._has_arrays = False

    @property
    def results(self) -> list[Result]:
        """Experiment, folder of the model, folder of the run, and metadata of each.

        Arrays in the metadata are read; if a run's arrays cannot be read, their descriptions stay, with a warning.
        """
        listed = self._listed()
        if not self._has_arrays and self._found is not None:
            for number, (place, (_, record)) in enumerate(zip(self._stored(), self._found.runs(), strict=True)):
                if has_arrays(record):
                    listed[place] = (*listed[place][:3], self._with_arrays(number, record, listed[place][3]))
            self._has_arrays = True
        return listed

    def _with_arrays(self, number: int, record: str, otherwise: dict[str, Any]) -> dict[str, Any]:
        found = self._found
        if found is None:
            return otherwise
        try:
            return without_inner(record_of(record, lambda: found.open(number)))
        except EasyroutineError as error:
            warnings.warn(f"arrays of a run's metadata cannot be read: {error}", stacklevel=4)
            return otherwise

    def _listed(self) -> list[Result]:
        """Like :attr:`results`, but arrays may be unread."""
        if self._results is None:
            listed: list[Result] = list(self._originals)
            for path, record in [] if self._found is None else self._found.runs():
                experiment, model, _ = path.split("/")
                folders = (below(self._base_dir, f"{experiment}/{model}"), below(self._base_dir, path))
                listed.append((experiment, *folders, without_inner(record_of(record, None))))
            self._results, self._has_arrays = listed, False
        return self._results

    @property
    def problems(self) -> list[str]:
        """What could not be read during the search; nothing else is hidden."""
        told = [] if self._found is None else self._found.problems()
        # Runs of the original, which the store cannot read, are among the results.
        return [one for one in told if not is_original(Path(self._base_dir, one.partition(": ")[0]))]

    def get_paths(self) -> list[Place]:
        """The folders of the runs."""
        return [run for _, _, run, _ in self._listed()]

    def load(
        self,
        time: int | str | PathLike[str] = -1,
        keys: Sequence[str] | str | None = None,
        *,
        verify: bool = True,
    ) -> tuple[Any, dict[str, Any]]:
        """The saved values and their metadata.

        ``time`` counts from 0, and -1 is the most recent; or it is a run's folder, the folder's name
        (``2023-04-15_14-30-25``), a prefix that fits only one run, or the name that
        :meth:`HookedModel.extract_to_store` began the run under. With ``keys`` only these values are read. Each read is
        compared with its checksums; damage raises an error naming file and tensor. ``verify=False`` reads damaged
        numbers as they are. While any run cannot be read (:attr:`problems`), counting from the end raises an error,
        because that run may be the one you mean.
        """
        which = _which(time)
        original = self._original(which)
        if original is not None:
            loaded = load_original(Path(original[2]))
            wanted = [keys] if isinstance(keys, str) else keys
            return loaded if wanted is None else {key: loaded[key] for key in wanted}, original[3]
        run = self.open(time, verify=verify)
        return run.load(keys), run.metadata

    def open(self, time: int | str | PathLike[str] = -1, *, verify: bool = True) -> StoredRun:
        """A run, read lazily; ``time`` and ``verify`` are as in :meth:`load`."""
        which = _which(time)
        self._refuse_original(which, "opened")
        run = self._runs(which).open(self._in_store(which), verify)
        return StoredRun(run, self._base_dir, (_opened, (self._base_dir, run.path, verify)))

    def remove(self, time: int | str | PathLike[str]) -> None:
        """Removes a run from the store."""
        which = _which(time)
        original = self._original(which)
        if original is not None:
            remove_original(Path(original[2]))
            self._listed().remove(original)
            self._originals = [one for one in self._originals if one is not original]
            return
        self._runs(which).remove(self._in_store(which))
        self._results = None

    def update_run_experiment(self, identifier: int | str | PathLike[str], new_experiment_name: str) -> Place:
        """Moves a run to another experiment, and returns its folder there."""
        which = _which(identifier)
        self._refuse_original(which, "moved")
        path = self._runs(which).move_to(self._in_store(which), new_experiment_name)
        self._results = None
        return below(self._base_dir, path)

    def to_pandas(self) -> Any:
        """One line per run: experiment, run, model, tag, time, and every other key of its metadata. Needs pandas.

        A list or a dictionary in the metadata is one in its cell.
        """
        pandas = tensors.needed("pandas", "to_pandas()")
        lines = [
            {"experiment_name": experiment, "run": _name(run), **metadata, "path": str(run)}
            for experiment, _, run, metadata in self.results
        ]
        first = ["experiment_name", "run", "model_name", "tag", "save_time"]
        others = dict.fromkeys(key for line in lines for key in line if key not in first)
        return pandas.DataFrame(lines, columns=[*first, *others])

    def _stored(self) -> range:
        """The indices of the store's own runs: the original's come before them, those added by hand after."""
        first = len(self._originals)
        return range(first, first + (0 if self._found is None else len(self._found.runs())))

    def _original(self, which: int | str) -> Result | None:
        """The run of the original, or one added by hand, that ``which`` means; None for those of the store."""
        others = [one for place, one in enumerate(self._listed()) if place not in self._stored()]
        if isinstance(which, str):
            return next((one for one in others if _name(one[2]) == which), None)
        if not isinstance(which, int) or not others:
            return None
        n_runs = len(self._listed())
        at = which if which >= 0 else n_runs + which
        return self._listed()[at] if 0 <= at < n_runs and at not in self._stored() else None

    def _in_store(self, which: int | str) -> int | str:
        """``which`` among the store's own runs; an index from the end stays one, since the store knows what it cannot
        read.
        """
        if not isinstance(which, int):
            return which
        stored = self._stored()
        if which >= 0:
            return which - stored.start
        if self._found is not None and self._found.problems() and not self.problems:
            # Only runs of the original are unread, so the last one is known.
            at = len(self._listed()) + which
            return _name(self._listed()[at][2]) if at in stored else which
        return which + len(self._listed()) - stored.stop

    def _refuse_original(self, which: int | str, what: str) -> None:
        original = self._original(which)
        if original is not None:
            raise UnsupportedError(
                f"{original[2]} is a run of the original, which is loaded whole and not {what}",
                f"easyroutine runs import {self._base_dir or 'FOLDER'} -b STORE takes it over",
            )

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
            index = whole(index, "a place", -(2**63), 2**63 - 1)
            if index < 0 and self._found is not None:
                self._found.countable()
            return self.results[index]
        counts_from_end = index.stop is None or any((one or 0) < 0 for one in (index.start, index.stop, index.step))
        if counts_from_end and self.problems:
            raise InputError(
                f"{len(self.problems)} runs cannot be read, so it is unknown which are the last: {self.problems[0]}",
                "name runs by their folders, or give a slice its end, counted from 0",
            )
        places = range(len(self))[index]
        stored = self._stored()
        inside = [at - stored.start for at in places if at in stored]
        outside = [self._listed()[at] for at in places if at not in stored]
        part = type(self)(None if self._found is None else self._found.pick(inside), self._base_dir)
        part._originals = outside  # type: ignore[assignment]
        return part

    def _tags(self) -> list[list[str]]:
        """The tags of each run."""
        tags = [tags_in(metadata) for _, _, _, metadata in self._listed()]
        for place, (_, record) in zip(self._stored(), [] if self._found is None else self._found.runs(), strict=True):
            tags[place] = tags_in(json.loads(record))
        return tags

    def __len__(self) -> int:
        return len(self._listed())

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __repr__(self) -> str:
        lines = []
        for number, ((experiment, model, run, _), tags) in enumerate(zip(self._listed(), self._tags(), strict=True)):
            lines.append(f"{number} - Experiment: {experiment}, Model: {_name(model)}, Time Folder: {_name(run)}")
            if tags:
                lines.append(f"  {'Tag' if len(tags) == 1 else 'Tags'}: {', '.join(tags)}")
        lines += [f"unreadable: {problem}" for problem in self.problems]
        lines = lines or ["no runs"]
        return "\n".join(map(_printable, lines))

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{number}</td><td>{escape(_name(run))}</td><td>{escape(experiment)}</td><td>{escape(_name(model))}</td>"
            f"<td>{escape(', '.join(tags))}</td></tr>"
            for number, ((experiment, model, run, _), tags) in enumerate(zip(self._listed(), self._tags(), strict=True))
        )
        head = "<tr><th></th><th>run</th><th>experiment</th><th>model</th><th>tag</th></tr>"
        return f"<table><caption>{len(self)} runs</caption>{head}{rows}</table>"

    def __reduce__(self) -> Any:
        if self._found is None:
            return type(self), (None, self._base_dir, self._listed())
        return _reopened, (type(self), self._base_dir, [path for path, _ in self._found.runs()], self._originals)


def _reopened(kind: type[QueryResult], base_dir: str, paths: list[str], originals: list[Any]) -> QueryResult:
    """The same runs, read from their store again; for copies and pickles of a result."""
    return kind(Loader(base_dir, "*").at(paths), base_dir, originals)


def _opened(base_dir: str, path: str, verify: bool) -> StoredRun:
    """The same run, read from its store again."""
    return QueryResult(Loader(base_dir, "*").at([path]), base_dir).open(verify=verify)


def _which(given: int | str | PathLike[str]) -> int | str:
    """What names a run: an index, or the name of its folder, which may be given as a path, or as its place in a bucket."""
    if isinstance(given, PathLike):
        return Path(given).name
    return _name(given) if isinstance(given, str) and "://" in given else given


def _name(folder: Place) -> str:
    return str(folder).replace("\\", "/").rstrip("/").rpartition("/")[2]


def _printable(line: str) -> str:
    """A line with its control characters escaped, so that a terminal does not obey them."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)
