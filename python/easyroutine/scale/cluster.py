"""Units of work on a Ray cluster, claimed one by one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from easyroutine.checks import whole
from easyroutine.errors import InputError, MissingPackageError, StorageError

__all__ = ["Ray", "as_cluster", "ray_module", "run_units"]


@dataclass(frozen=True)
class Ray:
    """How a Ray cluster works on a run.

    Each worker is an actor that loads the model once and takes one unit after another. A slow worker takes fewer units;
    when one dies, or its node does, only its current unit is lost.
    """

    #: Number of workers; by default as many as the cluster has cores for when the work begins. Workers that do not fit
    #: yet begin when an autoscaler has added room.
    workers: int | None = None
    #: Cores, and so compute threads, of each worker.
    cpus: int = 1
    #: Bytes of memory that each worker reserves: set it to the model's size, so that Ray puts no more workers on a node
    #: than fit.
    memory: int | None = None
    #: Retries of a unit after its worker died.
    retries: int = 3
    #: Further options of ``ray.remote`` for the workers, such as ``{"runtime_env": {"env_vars": {"EASYROUTINE_SIMD": "avx2"}}}``.
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("workers", "memory"):
            if getattr(self, name) is not None:
                whole(getattr(self, name), name, 1)
        whole(self.cpus, "cpus", 1)
        whole(self.retries, "retries", 0)
        taken = sorted({"num_cpus", "memory", "max_restarts", "max_task_retries"}.intersection(self.options))
        if taken:
            raise InputError(f"options has {', '.join(taken)}", "cpus, memory and retries are fields of Ray")


def ray_module() -> Any:
    """Ray, connected to the cluster that ``RAY_ADDRESS`` names, or to a new one on this machine."""
    try:
        ray: Any = import_module("ray")
    except ImportError:
        raise MissingPackageError(
            "work on a cluster needs Ray, which is not installed", "pip install 'easyroutine-rs[ray]'"
        ) from None
    if not ray.is_initialized():
        # The driver passes Ctrl-C to the workers, which ends them; usage statistics would be an unwanted network
        # request.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(include_dashboard=False, logging_level="ERROR")
    return ray


def run_units(
    make_worker: Callable[[], Callable[[int], Any]],
    units: Sequence[int],
    cluster: Ray | None = None,
    *,
    done: Callable[[int, Any], None] = lambda unit, result: None,
) -> None:
    """Does every unit once on a Ray cluster; returns when all are done.

    Each worker calls ``make_worker()`` once, which loads what it needs and returns a function that does one unit.
    Workers claim units one at a time, in order. ``done(unit, result)`` is called here as each ends, in any order.

    A unit whose worker dies begins again on a new worker, up to ``cluster.retries`` times, so doing a unit twice must
    do no harm. An exception in a worker ends the whole work and is raised here.

    Raises :class:`MissingPackageError` without Ray, :class:`StorageError` when workers keep dying.
    """
    ray = ray_module()
    _Work(ray, cluster or Ray(), make_worker, list(units), done).run()


class _Worker:
    """What runs in an actor."""

    def __init__(self) -> None:
        self._do: Callable[[int], Any] | None = None

    def prepare(self, make: Callable[[], Callable[[int], Any]]) -> None:
        # Not in __init__: an exception there reaches the driver as the death of an actor, without its class.
        self._do = make()

    def do(self, unit: int) -> Any:
        assert self._do is not None
        return self._do(unit)


#: Stands for a unit while an actor prepares.
_PREPARES = -1


class _Work:
    def __init__(
        self,
        ray: Any,
        cluster: Ray,
        make: Callable[[], Callable[[int], Any]],
        units: list[int],
        done: Callable[[int, Any], None],
    ) -> None:
        self.ray = ray
        self.cluster = cluster
        self.make = ray.put(make)
        self.waiting = deque(units)
        self.left = len(units)
        self.done = done
        self.deaths: dict[int, int] = {}
        # The actor and unit of each pending answer.
        self.pending: dict[Any, tuple[Any, int]] = {}
        self.actors: list[Any] = []
        # Idle actors.
        self.idle: list[Any] = []
        options = {**cluster.options, "num_cpus": cluster.cpus}
        if cluster.memory is not None:
            options["memory"] = cluster.memory
        # We retry ourselves: a unit goes to any free worker, and a new worker prepares before it works.
        self.kind = ray.remote(**options, max_restarts=0, max_task_retries=0)(_Worker)

    def run(self) -> None:
        try:
            for _ in range(min(self.n_workers(), self.left)):
                self.begin_worker()
            while self.left:
                ready, _ = self.ray.wait(list(self.pending), num_returns=1)
                self.finish(ready[0])
        finally:
            for actor in self.actors:
                self.ray.kill(actor)

    def n_workers(self) -> int:
        if self.cluster.workers is not None:
            return self.cluster.workers
        return max(1, int(self.ray.cluster_resources().get("CPU", 1) // self.cluster.cpus))

    def begin_worker(self) -> None:
        actor = self.kind.remote()
        self.actors.append(actor)
        self.pending[actor.prepare.remote(self.make)] = (actor, _PREPARES)

    def finish(self, answer: Any) -> None:
        actor, unit = self.pending.pop(answer)
        exceptions = self.ray.exceptions
        try:
            result = self.ray.get(answer)
        except exceptions.RayTaskError as error:
            # The worker's own exception, not Ray's account of it.
            cause = error.cause
            raise (cause if isinstance(cause, BaseException) else error) from None
        except (exceptions.RayActorError, exceptions.OutOfMemoryError, exceptions.NodeDiedError) as error:
            self.actors.remove(actor)
            self.handle_death(unit, error)
            return
        self.deaths.pop(unit, None)
        if unit != _PREPARES:
            self.left -= 1
            self.done(unit, result)
        self.hand_out(actor)

    def hand_out(self, actor: Any) -> None:
        """Gives a worker the next unit, if one is waiting."""
        if not self.waiting:
            self.idle.append(actor)
            return
        unit = self.waiting.popleft()
        self.pending[actor.do.remote(unit)] = (actor, unit)

    def handle_death(self, unit: int, error: Exception) -> None:
        """Handles a worker's death: its unit goes to the front, for an idle worker or a new one."""
        deaths = self.deaths[unit] = self.deaths.get(unit, 0) + 1
        if deaths > self.cluster.retries:
            what = "while it loaded the model" if unit == _PREPARES else f"at unit {unit}"
            reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
            raise StorageError(
                f"workers died {deaths} times {what}: {reason.strip()}",
                "if memory ran out, give each worker more with Ray(memory=…) or take fewer; what is written is kept",
            ) from error
        if unit != _PREPARES:
            self.waiting.appendleft(unit)
        if self.waiting and self.idle:
            # A new worker may never find room; an idle one has its resources already.
            self.hand_out(self.idle.pop())
        elif self.waiting:
            self.begin_worker()


def as_cluster(engine: Any) -> Ray:
    """The cluster that ``engine=`` requests."""
    if isinstance(engine, Ray):
        return engine
    if engine == "ray":
        return Ray()
    raise InputError(f"engine is {engine!r:.80}", 'engine="ray", engine=scale.Ray(workers=8), or leave it out')
