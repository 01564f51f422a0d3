"""The page of ``easyroutine serve``, opened from Python."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import weakref
import webbrowser
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from urllib.request import ProxyHandler, Request, build_opener

from easyroutine.checks import string, whole
from easyroutine.errors import EasyroutineError, InputError

if TYPE_CHECKING:
    from easyroutine.interpretability.model_loading import HookedModelConfig

__all__ = ["Page", "page_of_model", "page_of_run"]

# Pages on this machine may embed the page: a notebook server has a port of its own.
_LOOPBACK = ("http://localhost:*", "http://127.0.0.1:*")


class Page:
    """A page that is served until :meth:`close`, or until Python ends or drops it.

    In a notebook it appears in an iframe, with the picture of the prompt's lens below it for readers of the saved file.
    Elsewhere :meth:`open` shows it in the browser.
    """

    def __init__(self, process: subprocess.Popen[str], address: str, fragment: str) -> None:
        self.address = address + fragment
        self._process, self._picture = process, ""
        self._end = weakref.finalize(self, _end, process)

    @property
    def is_served(self) -> bool:
        """Whether the process behind the page is still running."""
        return self._process.poll() is None

    def open(self) -> Page:
        """Shows the page in the browser."""
        webbrowser.open(self.address)
        return self

    def close(self) -> None:
        """Ends the process behind the page."""
        self._end()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Page({self.address!r})" if self.is_served else "Page(closed)"

    def _repr_html_(self) -> str:
        address = escape(self.address, quote=True)
        frame = f'<iframe src="{address}" style="width:100%;height:900px;border:0" title="easyroutine" allow="clipboard-write"></iframe>'
        link = f'<p><a href="{address}" target="_blank" rel="noopener">The page in a window of its own</a></p>'
        still = f"<details><summary>As a picture</summary>{self._picture}</details>" if self._picture else ""
        return (frame + link if self.is_served else "") + still


def page_of_model(config: HookedModelConfig, prompt: str, changes: Sequence[str], port: int | None) -> Page:
    """The page with a prompt and the model of ``config``."""
    string(prompt, "prompt")
    if isinstance(changes, str):
        raise InputError("changes is one text; it must be a list of them", 'write changes=["resid_out_10@last*0.5"]')
    shown = [("prompt", prompt), *(("changes", string(one, "changes")) for one in changes)]
    page = _served(["--model", config.model_name, *_loading(config)], shown, port)
    try:
        page._picture = _pictured(page.address.split("#")[0], prompt, changes)
    except BaseException:
        page.close()
        raise
    return page


def page_of_run(base: str, path: str, port: int | None) -> Page:
    """The page with a run of the store at ``base``."""
    return _served(["--base", base], [("page", "runs"), ("run", path)], port)


def _pictured(address: str, prompt: str, changes: Sequence[str]) -> str:
    """The picture of the lens under the changes, drawn by the program that serves the page."""
    words = ["lens", *(f"--intervene={text}" for text in changes), "--", prompt]
    question = json.dumps({"ask": "run", "words": words, "format": "svg"}).encode()
    # Loopback alone: a proxy that the environment names would see the token.
    opener = build_opener(ProxyHandler({}))
    with opener.open(Request(f"{address}ask", question, {"Content-Type": "application/json"})) as answer:
        event = json.loads(answer.read().splitlines()[-1])
    if event["event"] == "error":
        raise InputError(event["message"], event.get("hint"))
    return str(event["text"])


def _served(flags: list[str], shown: list[tuple[str, str]], port: int | None) -> Page:
    """Starts the server and returns its page."""
    if port is not None:
        flags += ["--port", str(whole(port, "port", 1, 65535))]
    for origin in _LOOPBACK:
        flags += ["--framed-by", origin]
    command = [sys.executable, "-m", "easyroutine", "serve", *flags]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, text=True)
        assert process.stdout is not None
        # The address holds the token, so that no list of processes shows it.
        address = process.stdout.readline().strip()
        if not address:
            _end(process)
            said.seek(0)
            raise EasyroutineError(f"the page could not be served: {said.read().strip().removeprefix('error: ')}")
    return Page(process, address, f"#{urlencode(shown)}")


def _loading(config: HookedModelConfig) -> list[str]:
    """The flags that load a model as its configuration says."""
    flags: list[str] = []
    if "bfloat16" in str(config.torch_dtype):
        flags += ["--dtype", "bf16"]
    given = (
        ("--threads", config.threads),
        ("--memory", config.memory),
        ("--revision", config.revision),
        ("--pre", config.pre),
    )
    for flag, value in given:
        if value is not None:
            flags += [flag, str(value)]
    for flag, names in (("--allow-config-key", config.allow_config_keys), ("--allow-tensor", config.allow_tensors)):
        for name in names:
            flags += [flag, name]
    if config.adapter is False:
        flags.append("--no-adapter")
    elif config.adapter not in (None, True):
        flags += ["--adapter", str(config.adapter)]
    if config.offline:
        flags.append("--offline")
    return flags


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
