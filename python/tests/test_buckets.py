"""Runs in a bucket, in a package that was built with the feature `cloud`."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Iterator

import pytest

from easyroutine.errors import InputError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel

pytestmark = pytest.mark.usefixtures("own_tensors", "bucket")

STORE = "s3://bucket/a prefix/runs"
CONFIG = ExtractionConfig(extract_resid_out=True)
TEXTS = ["the cat", "a b c"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty bucket of this machine, which the variables of its provider name."""
    program = os.environ["EASYROUTINE_BUCKET"]
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.stdout.readline().strip())
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        yield


def test_a_run_is_saved_found_read_moved_and_removed(llama: HookedModel) -> None:
    saver = ActivationSaver(f"{STORE}/", experiment_name="first")
    cache = llama.extract_cache(TEXTS, ["last"], CONFIG)
    path = saver.save_cache(cache, tag="good")
    assert saver.base_dir == STORE
    assert path.startswith(f"{STORE}/first/llama/")
    found = pickle.loads(pickle.dumps(ActivationLoader.from_saver(saver))).query(tag="good")
    assert found.get_paths() == [path] == [found.open().path] == [found.open(path).path]
    loaded, metadata = found.load()
    assert metadata["tag"] == "good"
    assert loaded["resid_out_1"] == cache["resid_out_1"]
    assert found.open().rows("resid_out_0", 1, 2).shape[0] == 1
    assert found.update_run_experiment(-1, "second").startswith(f"{STORE}/second/llama/")
    second = ActivationLoader(STORE, "second").query()
    second.remove(second.get_paths()[0])
    assert len(ActivationLoader(STORE).query(experiment_name="*")) == 0


def test_a_data_set_is_streamed_into_it(llama: HookedModel) -> None:
    saver = ActivationSaver(STORE)
    path = llama.extract_to_store(saver, TEXTS, ["last"], CONFIG, unit=1)
    assert path is not None and path.startswith(f"{STORE}/default/llama/")
    loaded, _ = ActivationLoader(STORE).query().load()
    assert loaded["resid_out_1"] == llama.extract_cache(TEXTS, ["last"], CONFIG)["resid_out_1"]


def test_what_is_not_there_says_so() -> None:
    with pytest.raises(FileNotFoundError, match="there is no store"):
        ActivationLoader(STORE)
    with pytest.raises(InputError, match="ftp://host/runs"):
        ActivationSaver("ftp://host/runs")
