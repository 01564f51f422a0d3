"""Runs that a cluster fills: what it writes, and what it survives. Two workers on this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, TEXTS, TINY

from easyroutine import scale
from easyroutine.errors import InputError, MissingPackageError, StorageError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("default")

CONFIG = ExtractionConfig(extract_resid_out=True, save_logits=False)
ROWS = [{"text": f"{text} {number}", "number": number} for number, text in enumerate(TEXTS * 10)]
TWO = scale.Ray(workers=2)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def saver(tmp_path: Path) -> ActivationSaver:
    return ActivationSaver(tmp_path / "runs")


def digest(path: Path) -> str:
    """The digest of a run, and its labels' order."""
    run = ActivationLoader(path.parents[2], path.parents[1].name).query().open(path)
    assert run["number"] == [row["number"] for row in ROWS]
    return str(run.record["_store"]["digest"])


def fill(model: HookedModel, saver: ActivationSaver, run: str, **how: Any) -> Any:
    return model.extract_to_store(saver, ROWS, ["last"], CONFIG, run=run, unit=4, **how)


def test_a_cluster_writes_the_run_of_one_process(llama: HookedModel, saver: ActivationSaver) -> None:
    alone = fill(llama, saver, "alone")
    shared = fill(llama, saver, "shared", engine=TWO)
    assert digest(shared) == digest(alone)
    assert fill(llama, saver, "shared", engine="ray", resume=True) == shared
    with pytest.raises(InputError, match="shared"):
        fill(llama, saver, "shared", engine="ray")


def test_without_a_size_units_are_those_of_one_process(llama: HookedModel, saver: ActivationSaver) -> None:
    rows = [row["text"] for row in ROWS] * 10
    for run, engine in (("alone", None), ("shared", TWO)):
        llama.extract_to_store(saver, rows, ["last"], CONFIG, run=run, engine=engine)
    stored = [one.record["_store"] for one in map(ActivationLoader.from_saver(saver).query().open, (0, 1))]
    assert stored[0]["digest"] == stored[1]["digest"]
    assert [one["plan"]["unit"] for one in stored] == [256, 256]


def kill_one_worker() -> None:
    """Kills the first process that does a unit."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for folder in Path("/proc").iterdir():
            try:
                if folder.name.isdigit() and b"ray::_Worker" in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    return
            except OSError:
                pass
        time.sleep(0.002)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="finds the worker in /proc")
def test_a_worker_that_is_killed_loses_its_unit_alone(llama: HookedModel, saver: ActivationSaver) -> None:
    alone = fill(llama, saver, "alone")
    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    shared = fill(llama, saver, "shared", engine=TWO)
    killer.join()
    assert digest(shared) == digest(alone)


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import ray
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
from easyroutine.interpretability import ActivationSaver, HookedModel
from test_scale import TINY, TWO, fill
fill(HookedModel.from_pretrained(TINY / "llama"), ActivationSaver(sys.argv[1]), "killed", engine=TWO)
"""


def test_a_driver_that_is_killed_is_resumed(llama: HookedModel, saver: ActivationSaver) -> None:
    alone = fill(llama, saver, "alone")
    command = [sys.executable, "-c", DRIVER, str(saver.base_dir), str(Path(__file__).parent)]
    driver = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 90
    # Of the units of two runs, some are there.
    while not list(Path(saver.base_dir).glob("*/*/*/parts/*")) and time.monotonic() < deadline:
        assert driver.poll() in (None, 0)
        time.sleep(0.01)
        if driver.poll() == 0:
            break
    driver.kill()
    driver.wait()
    assert digest(fill(llama, saver, "killed", resume=True, engine=TWO)) == digest(alone)


class Counting:
    """A worker that is slow, if it is the first to begin: it waits for another, and then half a second for each unit."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], int]:
        try:
            (self.folder / "slow").touch(exist_ok=False)
            pause = 0.5
        except FileExistsError:
            (self.folder / "fast").touch()
            pause = 0.01
        pid = os.getpid()

        def do(unit: int) -> int:
            deadline = time.monotonic() + 60
            while not (self.folder / "fast").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(pause)
            return pid

        return do


def test_a_slow_worker_does_fewer_units(tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    scale.run_units(Counting(tmp_path), range(30), TWO, done=lambda unit, pid: done.append((unit, pid)))
    assert sorted(unit for unit, _ in done) == list(range(30))
    counts = sorted(sum(pid == one for _, pid in done) for one in {pid for _, pid in done})
    assert len(counts) == 2 and counts[0] < 10


class Dying:
    """A worker that dies at unit 1, so many times."""

    def __init__(self, folder: Path, times: int) -> None:
        self.folder, self.times = folder, times

    def __call__(self) -> Callable[[int], int]:
        def do(unit: int) -> int:
            deaths = len(list(self.folder.iterdir()))
            if unit == 1 and deaths < self.times:
                (self.folder / str(deaths)).touch()
                os._exit(1)
            return unit

        return do


def test_a_unit_that_kills_its_workers_is_named(tmp_path: Path) -> None:
    done: list[int] = []
    scale.run_units(Dying(tmp_path, 2), range(4), TWO, done=lambda unit, _: done.append(unit))
    assert sorted(done) == [0, 1, 2, 3] and len(list(tmp_path.iterdir())) == 2
    with pytest.raises(StorageError, match=r"workers died 2 times at unit 1.*"):
        scale.run_units(Dying(tmp_path, 99), range(4), scale.Ray(workers=1, retries=1))


class DyingLast:
    """A worker that dies at unit 1, once, when unit 0 is long done by another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], int]:
        def do(unit: int) -> int:
            (self.folder / str(unit)).touch()
            deadline = time.monotonic() + 60
            while not (self.folder / str(1 - unit)).exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            if unit == 1 and not (self.folder / "died").exists():
                (self.folder / "died").touch()
                time.sleep(1)
                os._exit(1)
            return os.getpid()

        return do


def test_a_worker_that_is_idle_takes_the_unit_of_one_that_died(tmp_path: Path) -> None:
    done: dict[int, int] = {}
    scale.run_units(DyingLast(tmp_path), range(2), TWO, done=done.__setitem__)
    assert done[1] == done[0] and (tmp_path / "died").exists()


def fails() -> Callable[[int], int]:
    raise InputError("no such thing", "another thing")


def test_what_a_worker_raises_is_raised_here() -> None:
    with pytest.raises(InputError, match="no such thing\nhint: another thing"):
        scale.run_units(fails, range(4), TWO)


def test_a_node_with_other_weights_is_refused(saver: ActivationSaver, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(TINY / "llama", folder)
    model = HookedModel.from_pretrained(folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(InputError, match="begun with another model"):
        fill(model, saver, "mixed", engine=TWO)


def test_paths_are_those_of_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "linked").symlink_to(TINY / "llama")
    shutil.copytree(ROOT / "fixtures/adapters/rslora", tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    model = HookedModel.from_pretrained("linked", adapter="adapter")
    alone = fill(model, ActivationSaver("runs"), "alone")
    shared = fill(model, ActivationSaver("runs"), "shared", engine=TWO)
    assert digest(shared.absolute()) == digest(alone.absolute())


def test_ray_data_goes_in_and_out(llama: HookedModel, saver: ActivationSaver) -> None:
    given = ray.data.from_items(ROWS)
    path = llama.extract_to_store(saver, given, ["last"], CONFIG, run="from-ray", unit=4, engine=TWO)
    assert digest(path) == digest(fill(llama, saver, "alone"))
    run = ActivationLoader.from_saver(saver).query().open(path)
    lines = scale.dataset(run, "resid_out_1", block=16).take_all()
    assert [line["row"] for line in lines] == list(range(len(ROWS)))
    assert [line["number"] for line in lines] == run["number"]
    assert [line["resid_out_1"].tolist() for line in lines] == run["resid_out_1"].tolist()
    with pytest.raises(InputError, match="resid_out_9"):
        scale.dataset(run, ["resid_out_9"])


def test_the_examples_of_the_book_run(tmp_path: Path) -> None:
    texts = [row["text"] for row in ROWS] * 2
    ray.data.from_items([{"prompt": text, "label": "a"} for text in texts]).write_parquet(str(tmp_path / "prompts"))
    page = (ROOT / "docs/book/src/cluster.md").read_text("utf-8")
    places = {"smollm2": TINY / "llama", "/shared": tmp_path, "s3://bucket": tmp_path}
    for given, here in places.items():
        page = page.replace(given, str(here))
    names: dict[str, Any] = {"texts": texts, "ray": ray, "ActivationLoader": ActivationLoader}
    blocks = re.findall(r"^```py\n(.*?)^```", page.split("## Slurm")[0], re.MULTILINE | re.DOTALL)
    for block in blocks:
        # As wide as this machine.
        exec(compile(block.replace("workers=32, cpus=8", "workers=2"), "cluster.md", "exec"), names)
    assert len(blocks) == 3 and len(names["results"]) == 100


def test_without_ray_the_package_to_install_is_named(
    llama: HookedModel, saver: ActivationSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"easyroutine-rs\[ray\]"):
        fill(llama, saver, "none", engine="ray")
    # Nothing was begun, so the same call is no second one.
    fill(llama, saver, "none")


@pytest.mark.parametrize("engine", ["spark", 3, True])
def test_an_engine_that_is_none_is_refused(llama: HookedModel, saver: ActivationSaver, engine: Any) -> None:
    with pytest.raises(InputError, match='engine="ray"'):
        fill(llama, saver, "none", engine=engine)
    with pytest.raises(InputError, match="exclude each other"):
        fill(llama, saver, "none", engine="ray", part=(1, 2))
    with pytest.raises(InputError, match="num_cpus"):
        scale.Ray(options={"num_cpus": 3})
