"""Progress of long work: on a terminal and in notebooks, never in a file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from easyroutine.tensors import is_installed

__all__ = ["download_progress", "progress", "row_progress", "token_progress"]

T = TypeVar("T")


def is_shown() -> bool:
    """Whether a user is watching: standard error is a terminal, or this is a notebook."""
    return (sys.stderr is not None and sys.stderr.isatty()) or _is_notebook()


def _is_notebook() -> bool:
    """Whether a notebook kernel runs this. That its package is imported proves nothing: other packages import it too."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def progress(items: Iterable[T], description: str = "", total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar if a user is watching and tqdm is installed."""
    if is_shown() and is_installed("tqdm"):
        from tqdm.auto import tqdm

        yield from tqdm(items, desc=description, total=total)
    else:
        yield from items


def token_progress(description: str) -> Callable[[int, int], None] | None:
    """A callback taking tokens done and tokens in all; None unless a user is watching and tqdm is installed."""
    if not (is_shown() and is_installed("tqdm")):
        return None
    bars: list[Any] = []

    def report(done: int, total: int) -> None:
        from tqdm.auto import tqdm

        if not bars:
            bars.append(tqdm(desc=description, total=total, unit=" tokens"))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return report


def row_progress(description: str, total: int) -> Callable[[int], None]:
    """A callback taking how many more rows are done; it does nothing unless a user is watching and tqdm is installed."""
    if not (is_shown() and is_installed("tqdm")):
        return lambda rows: None
    from tqdm.auto import tqdm

    bar = tqdm(desc=description, total=total, unit=" rows")

    def report(rows: int) -> None:
        bar.update(rows)
        if bar.n == total:
            bar.close()

    return report


def download_progress() -> Callable[[str, int, int | None], None] | None:
    """A callback for the progress of downloads; None unless a user is watching and tqdm is installed."""
    if not (is_shown() and is_installed("tqdm")):
        return None
    bars: dict[str, Any] = {}

    def report(file: str, done: int, total: int | None) -> None:
        from tqdm.auto import tqdm

        bar = bars.get(file)
        if bar is None:
            bar = bars[file] = tqdm(desc=file, total=total, unit="B", unit_scale=True)
        bar.update(done - bar.n)
        if done == total:
            bar.close()

    return report
