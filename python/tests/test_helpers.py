"""What notebooks for the original begin with: the working directory, log messages, bars of progress."""

from __future__ import annotations

import builtins
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import easyroutine
from easyroutine import logger as module_or_logger
from easyroutine import path_to_parents
from easyroutine.console import progress
from easyroutine.console.progress import get_progress_bar, is_non_interactive_batch
from easyroutine.interpretability import HookedModel
from easyroutine.interpretability.utils import get_attribute_by_name, to_string_tokens
from easyroutine.logger import (
    disable_logging,
    enable_debug_logging,
    enable_info_logging,
    logger,
    setup_logging,
    warning_once,
)
from easyroutine.utils import path_to_relative, repeat_kv


@pytest.fixture
def quiet() -> Iterator[None]:
    """The logger as it was, afterwards."""
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:], logger.level = handlers, level
    logger.setLevel(level)


def test_the_working_directory_goes_up_and_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    path_to_parents(2)
    assert Path.cwd() == tmp_path and str(tmp_path) in capsys.readouterr().out
    path_to_relative("a")
    path_to_parents()
    assert Path.cwd() == tmp_path
    with pytest.raises(ValueError, match="levels"):
        path_to_parents(0)


def test_messages_are_shown_once_they_are_asked_for(
    quiet: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # `from easyroutine import logger` is the logger itself, as in the original.
    assert module_or_logger is logger is easyroutine.logger
    monkeypatch.setattr(logger, "propagate", False)
    logger.info("nobody hears this")
    enable_info_logging()
    logger.info("heard")
    logger.debug("too quiet")
    enable_debug_logging()
    logger.debug("heard too")
    shown = capsys.readouterr().err
    assert "heard\n" in shown and "heard too" in shown and "nobody" not in shown and "too quiet" not in shown
    setup_logging("warning", file=tmp_path / "log", console=False, fmt="%(levelname)s %(message)s")
    warning_once("said twice")
    logger.warning_once("said twice")  # type: ignore[attr-defined]
    logger.info("not this")
    disable_logging()
    logger.error("nor this")
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        handler.close()
    assert (tmp_path / "log").read_text() == "WARNING said twice\n" and capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="no level 'LOUD'"):
        setup_logging("LOUD")


def test_a_model_may_write_its_messages_to_a_file(quiet: None, llama: HookedModel, tmp_path: Path) -> None:
    HookedModel(llama.config, log_file_path=tmp_path / "log")
    logger.info("kept")
    assert "INFO - kept" in (tmp_path / "log").read_text()
    for handler in [one for one in logger.handlers if isinstance(one, logging.FileHandler)]:
        handler.close()


def test_progress_is_lines_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(4), "counting", force_batch_mode=True, log_interval=0)) == [0, 1, 2, 3]
    lines = capsys.readouterr().out.split("\n")
    assert lines[1] == "[PROGRESS] Starting: counting (Total: 4)" and lines[2].startswith(
        "[PROGRESS] counting: 1/4 (25.0%)"
    )
    assert lines[-2].startswith("[PROGRESS] Complete: counting - 4/4 items in ")
    # Without a length, every second item.
    every = get_progress_bar(force_batch_mode=True, log_interval=1000, update_frequency=2)
    assert list(every.track(iter("abcde"), description="letters")) == list("abcde")
    told = [line.split(" - ")[0] for line in capsys.readouterr().out.splitlines() if "items" in line]
    assert told == [f"[PROGRESS] letters: {n} items" for n in (1, 3, 5)]
    assert list(progress([1, 2], desc="none", disable=True)) == [1, 2] and capsys.readouterr().out == ""


def test_a_notebook_and_a_terminal_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def __init__(self, is_one: bool) -> None:
            self.is_one = is_one

        def isatty(self) -> bool:
            return self.is_one

    monkeypatch.setenv("TERM", "xterm")
    for is_one in (True, False):
        monkeypatch.setattr("sys.stdout", Terminal(is_one))
        assert is_non_interactive_batch() is not is_one
    monkeypatch.setattr("sys.stdout", Terminal(True))
    monkeypatch.setenv("TERM", "dumb")
    assert is_non_interactive_batch()
    monkeypatch.setattr(builtins, "get_ipython", lambda: None, raising=False)
    assert not is_non_interactive_batch()


def test_heads_of_keys_are_repeated_and_ids_read(llama: HookedModel) -> None:
    numpy = pytest.importorskip("numpy")
    keys = numpy.arange(8).reshape(1, 2, 2, 2)
    repeated = repeat_kv(keys, 2)
    assert (
        repeated.shape == (1, 4, 2, 2) and (repeated[:, 1] == keys[:, 0]).all() and (repeated[:, 2] == keys[:, 1]).all()
    )
    for wrong in ([1], keys[0]):
        with pytest.raises(ValueError):
            repeat_kv(wrong, 2)
    tokenizer = llama.get_tokenizer()
    ids = tokenizer.encode("The capital")
    # Of an array [1, S], a list, and one id.
    texts = llama.to_string_tokens(numpy.array([ids]))
    assert texts == llama.to_string_tokens(ids) == [llama.to_string_tokens(one)[0] for one in ids]
    assert to_string_tokens(numpy.array([ids]), tokenizer) == [tokenizer.decode(one) for one in ids]
    with pytest.raises(ValueError):
        llama.to_string_tokens([ids, ids])
    assert get_attribute_by_name(llama, "config.batch_size") == 1
    assert get_attribute_by_name({"a": 1}.items(), "__class__.__mro__[0].__name__") == "dict_items"


def test_the_lens_has_the_originals_parts(llama: HookedModel, gpt2: HookedModel) -> None:
    numpy = pytest.importorskip("numpy")
    os.environ["EASYROUTINE_TENSORS"] = "numpy"
    try:
        for model, kind in ((llama, "RMS"), (gpt2, "LayerNorm")):
            check_lens(model, kind, numpy)
    finally:
        del os.environ["EASYROUTINE_TENSORS"]


def check_lens(model: HookedModel, kind: str, numpy: Any) -> None:
    from easyroutine.interpretability import ExtractionConfig, LogitLens

    lens = LogitLens.from_model(model)
    sizes = model.model_config
    assert sizes.layernorm_type == lens.layernorm_type == kind and lens.num_attn_heads == sizes.num_attention_heads
    assert lens.unembed.shape == (sizes.vocab_size, sizes.hidden_size)
    config = ExtractionConfig(extract_resid_out=True, extract_last_layernorm=True)
    cache = model.forward([1, 2, 3], extraction_config=config)
    statistics = [cache["last_layernorm"][one] for one in ("mean", "variance", "second_moment")]
    last = f"resid_out_{sizes.num_hidden_layers - 1}"
    normed = lens.apply_layernorm(cache[last], *statistics, key=last)
    logits = normed @ lens.unembed.T
    assert numpy.abs(logits - cache["logits"]).max() < 1e-4
    with pytest.raises(KeyError):
        lens.get_keys(cache, key_pattern="resid_outt_{i}")
