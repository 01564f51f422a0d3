"""The package in a process: threads, forks, signals, copies, errors."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from conftest import PROMPT, TINY

import easyroutine
from easyroutine import errors
from easyroutine.interpretability import HookedModel, Intervention
from easyroutine.tokenizer import Tokenizer

pytestmark = pytest.mark.usefixtures("own_tensors")

IDS = [5, 17, 200, 3, 42]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_model_works_in_a_forked_child() -> None:
    model = HookedModel.from_pretrained(TINY / "llama", threads=4)
    expected = model.forward(IDS * 8)["logits"].tobytes()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever goes wrong here ends the child.
        try:
            found = model.forward(IDS * 8)["logits"].tobytes()
            del model
            os.write(write, b"same" if found == expected else b"other")
        finally:
            os._exit(0)
    os.close(write)
    watch = threading.Timer(60, os.kill, (child, signal.SIGKILL))
    watch.start()
    answer = os.read(read, 16)
    os.waitpid(child, 0)
    watch.cancel()
    assert answer == b"same"
    assert model.forward(IDS * 8)["logits"].tobytes() == expected


LONG_RUN = """
import sys, time
from easyroutine.interpretability import HookedModel
model = HookedModel.from_pretrained({path!r}, threads=1)
rows = [[7] * 60] * {rows}
model.forward(rows[:1])
print("ready", flush=True)
start = time.monotonic()
try:
    while True:
        model.{call}
except KeyboardInterrupt:
    print("stopped", flush=True)
model.forward([1, 2])
print("well", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
@pytest.mark.parametrize("call", ["forward(rows)", "extract_cache([rows])"])
def test_control_c_stops_a_run_and_the_model_works_on(call: str) -> None:
    program = LONG_RUN.format(path=str(TINY / "llama"), rows=2000, call=call)
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None and run.stdout.readline() == "ready\n"
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=60)
    assert out.split() == ["stopped", "well"]


def test_other_threads_run_while_the_model_does(llama: HookedModel) -> None:
    rows = [[7] * 60] * 600
    done = threading.Event()
    ticks = 0

    def work() -> None:
        llama.forward(rows, target_token_positions=["last"])
        done.set()

    thread = threading.Thread(target=work)
    start = time.monotonic()
    thread.start()
    while not done.is_set() and time.monotonic() - start < 60:
        ticks += 1
        time.sleep(0.001)
    thread.join()
    # Held all the time, the lock would let this loop run a few times at most.
    assert ticks > 20


def test_one_model_serves_several_threads(llama: HookedModel) -> None:
    expected = llama.forward(IDS)["logits"]
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(llama.forward(IDS)["logits"])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_of_a_model_compute_the_same(make: Any) -> None:
    model = HookedModel.from_pretrained(TINY / "llama")
    model.register_interventions(Intervention("full", "resid_out_1", ["last"]))
    same = make(model)
    assert same.forward(IDS)["logits"] == model.forward(IDS)["logits"]
    assert same.forward(PROMPT)["logits"] == model.forward(PROMPT)["logits"]
    same.clean_interventions()
    assert same.forward(IDS)["logits"] != model.forward(IDS)["logits"]


def test_errors_have_one_base_and_the_built_in_that_fits() -> None:
    built_in = {
        errors.InputError: ValueError,
        errors.ExchangeError: BufferError,
        errors.KeyNotFoundError: KeyError,
        errors.NotFoundError: FileNotFoundError,
        errors.NotCachedError: OSError,
        errors.DownloadError: OSError,
        errors.UnsupportedError: NotImplementedError,
        errors.ConfigError: ValueError,
        errors.ExchangeError: BufferError,
        errors.FormatError: ValueError,
        errors.TokenizerError: ValueError,
        errors.OutOfMemoryError: MemoryError,
        errors.StorageError: OSError,
        errors.MissingPackageError: ImportError,
        errors.ReplacedError: ImportError,
        errors.ReplacedAttributeError: AttributeError,
    }
    assert {name for name in errors.__all__ if name != "EasyroutineError"} == {one.__name__ for one in built_in}
    for error, parent in built_in.items():
        raised = error("what", "do this")
        assert isinstance(raised, parent) and isinstance(raised, easyroutine.EasyroutineError)
        assert str(raised) == "what\nhint: do this" and raised.hint == "do this"
        again = pickle.loads(pickle.dumps(raised))
        assert type(again) is error and str(again) == str(raised)
    assert isinstance(errors.of_kind("interrupted", "", None), KeyboardInterrupt)


def test_files_that_are_wrong_say_so(folder_copy: Any) -> None:
    (folder_copy / "model.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError):
        HookedModel.from_pretrained(folder_copy)
    (folder_copy / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(NotImplementedError, match="t5"):
        HookedModel.from_pretrained(folder_copy)
    with pytest.raises(OSError):
        Tokenizer.from_pretrained(folder_copy / "nothing")


def test_a_model_without_a_tokenizer_runs_on_ids(folder_copy: Any) -> None:
    (folder_copy / "tokenizer.json").unlink()
    (folder_copy / "tokenizer_config.json").unlink()
    model = HookedModel.from_pretrained(folder_copy)
    assert model.forward(IDS)["logits"].shape == (1, 5, 320)
    with pytest.raises(easyroutine.EasyroutineError, match="tokenizer.json"):
        model.forward(PROMPT)


def test_config_keys_may_be_let_through(folder_copy: Any) -> None:
    import json

    config = json.loads((folder_copy / "config.json").read_text())
    (folder_copy / "config.json").write_text(json.dumps({**config, "new_thing": 3}))
    with pytest.raises(ValueError, match="new_thing"):
        HookedModel.from_pretrained(folder_copy)
    with pytest.warns(UserWarning, match="new_thing"):
        HookedModel.from_pretrained(folder_copy, allow_config_keys=["new_thing"])


def test_the_tensor_backend_is_chosen_by_name(llama: HookedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    numpy = pytest.importorskip("numpy")
    monkeypatch.setenv("EASYROUTINE_TENSORS", "numpy")
    assert isinstance(llama.forward(IDS)["logits"], numpy.ndarray)
    assert easyroutine.get_tensor_backend() == "numpy"
    monkeypatch.setenv("EASYROUTINE_TENSORS", "jax")
    with pytest.raises(ValueError, match="EASYROUTINE_TENSORS"):
        easyroutine.get_tensor_backend()
    with pytest.raises(ValueError, match="jax"):
        easyroutine.set_tensor_backend("jax")  # type: ignore[arg-type]


def test_nothing_is_printed(llama: HookedModel, capfd: pytest.CaptureFixture[str]) -> None:
    llama.lens(PROMPT)
    llama.extract_cache([PROMPT], ["last"])
    assert capfd.readouterr() == ("", "")
