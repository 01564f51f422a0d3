"""Progress bars for loops of your own: on a terminal, in a notebook, or as lines in the log of a batch job."""

from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union

from easyroutine.checks import number, whole
from easyroutine.logger import logger
from easyroutine.tensors import is_installed

__all__ = [
    "BarProgress",
    "LoggingProgress",
    "NoProgress",
    "format_time",
    "get_progress_bar",
    "is_non_interactive_batch",
    "logger",
    "progress",
]

T = TypeVar("T")


def progress(
    iterable: Iterable[T],
    description: str = "",
    desc: str | None = None,
    total: int | None = None,
    disable: bool = False,
    force_batch_mode: bool = False,
    log_interval: float = 1,
    update_frequency: int = 0,
) -> Iterator[T]:
    """The items of ``iterable``, with a bar, or in batch jobs with lines on standard output.

    ``desc`` is another name for ``description``. ``total`` is the number of items, needed where ``len`` cannot tell it.
    The other arguments are those of :func:`get_progress_bar`.
    """
    shown = get_progress_bar(disable, force_batch_mode, log_interval, update_frequency)
    with shown:
        yield from shown.track(iterable, total=total, description=description if desc is None else desc)


def get_progress_bar(
    disable: bool = False,
    force_batch_mode: bool = False,
    log_interval: float = 1,
    update_frequency: int = 0,
) -> Progress:
    """The progress that fits here: lines if no user is watching (or with ``force_batch_mode``), else a tqdm bar.

    A line is printed every ``log_interval`` seconds, and after every ``update_frequency`` items if that is not 0; in a
    Slurm job by default after every item. Without tqdm, lines are printed everywhere.
    """
    if disable:
        return NoProgress()
    if force_batch_mode or is_non_interactive_batch() or not is_installed("tqdm"):
        if "SLURM_JOB_ID" in os.environ and update_frequency == 0:
            update_frequency = 1
        return LoggingProgress(log_interval, update_frequency)
    return BarProgress()


def is_non_interactive_batch() -> bool:
    """Whether no user is watching: standard output is missing or a dumb terminal, and this is not a notebook."""
    try:
        # IPython adds this to the built-ins.
        builtins.get_ipython()  # type: ignore[attr-defined]
        return False
    except (AttributeError, NameError):
        pass
    if sys.stdout is None or os.environ.get("TERM") == "dumb":
        return True
    return not sys.stdout.isatty()


def format_time(seconds: float) -> str:
    """A time in words: ``12.0s``, ``1.5m``, ``2.0h``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    return f"{seconds / 60:.1f}m" if seconds < 3600 else f"{seconds / 3600:.1f}h"


@dataclass
class _Task:
    description: str
    total: int | None
    completed: int = 0
    started: float = field(default_factory=time.monotonic)
    #: When the last line was printed, and how many items were done by then.
    told_at: float | None = None
    told_of: int = 0


class _Base:
    """What all kinds of progress share."""

    def add_task(self, description: str, total: int | None = None, **kwargs: Any) -> int:
        """Begins a task and returns its number. Further arguments are for other kinds of bars."""
        raise NotImplementedError

    def update(self, task_id: int, advance: int = 1, **kwargs: Any) -> None:
        """Marks more items of a task as done."""
        raise NotImplementedError

    def track(self, iterable: Iterable[T], total: int | None = None, description: str = "") -> Iterator[T]:
        """The items, as a task of their own."""
        length = getattr(iterable, "__len__", None)
        task = self.add_task(description, total=total if total is not None or length is None else length())
        for item in iterable:
            yield item
            self.update(task)
        self._finish(task)

    def _finish(self, task_id: int) -> None:
        pass

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        pass


class LoggingProgress(_Base):
    """Progress as lines on standard output."""

    def __init__(self, log_interval: float = 5, update_frequency: int = 0) -> None:
        """Prints a line every ``log_interval`` seconds, and after ``update_frequency`` items if that is not 0."""
        self.tasks: dict[int, _Task] = {}
        self.log_interval = number(log_interval, "log_interval")
        self.update_frequency = whole(update_frequency, "update_frequency")

    def add_task(self, description: str, total: int | None = None, **kwargs: Any) -> int:
        """Begins a task and returns its number. Further arguments are for other kinds of bars."""
        task_id = len(self.tasks)
        self.tasks[task_id] = _Task(description, total)
        if description:
            print(f"\n[PROGRESS] Starting: {description} (Total: {'unknown' if total is None else total})")
        return task_id

    def update(self, task_id: int, advance: int = 1, **kwargs: Any) -> None:
        """Marks more items of a task as done; ignores an unknown task."""
        task = self.tasks.get(task_id)
        if task is None:
            return
        task.completed += advance
        now = time.monotonic()
        is_due = task.told_at is None or now - task.told_at >= self.log_interval
        of_items = 0 < self.update_frequency <= task.completed - task.told_of
        if is_due or of_items:
            task.told_at, task.told_of = now, task.completed
            print(f"[PROGRESS] {task.description}: {_state(task, now - task.started)}")

    def _finish(self, task_id: int) -> None:
        task = self.tasks[task_id]
        if task.total:
            elapsed = format_time(time.monotonic() - task.started)
            print(f"[PROGRESS] Complete: {task.description} - {task.completed}/{task.total} items in {elapsed}")


def _state(task: _Task, elapsed: float) -> str:
    if not task.total:
        return f"{task.completed} items - Elapsed: {format_time(elapsed)}"
    remaining = elapsed / max(task.completed, 1) * (task.total - task.completed)
    share = 100 * task.completed / task.total
    return (
        f"{task.completed}/{task.total} ({share:.1f}%) - "
        f"Elapsed: {format_time(elapsed)}, Remaining: {format_time(max(remaining, 0.0))}"
    )


class BarProgress(_Base):
    """Progress as tqdm bars."""

    def __init__(self) -> None:
        self._bars: list[Any] = []

    def add_task(self, description: str, total: int | None = None, **kwargs: Any) -> int:
        """Begins a bar and returns its number."""
        from tqdm.auto import tqdm

        self._bars.append(tqdm(desc=description or None, total=total))
        return len(self._bars) - 1

    def update(self, task_id: int, advance: int = 1, **kwargs: Any) -> None:
        """Marks more items as done."""
        if 0 <= task_id < len(self._bars):
            self._bars[task_id].update(advance)

    def _finish(self, task_id: int) -> None:
        self._bars[task_id].close()

    def __exit__(self, *error: Any) -> None:
        for bar in self._bars:
            bar.close()


class NoProgress(_Base):
    """Progress that is not shown."""

    def add_task(self, description: str = "", total: int | None = None, **kwargs: Any) -> int:
        """Does nothing and returns 0."""
        return 0

    def update(self, task_id: int = 0, advance: int = 1, **kwargs: Any) -> None:
        """Does nothing."""


Progress = Union[LoggingProgress, BarProgress, NoProgress]
