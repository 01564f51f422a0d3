"""The page of ``easyroutine serve``, opened from Python."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from easyroutine.errors import EasyroutineError, InputError
from easyroutine.interpretability import ActivationLoader, HookedModel, Intervention

TINY = Path(__file__).parents[2] / "fixtures" / "tiny" / "llama"
STORE = Path(__file__).parents[2] / "fixtures" / "store" / "v1"


def asked(address: str, question: dict[str, object]) -> dict[str, object]:
    """The last event of the answer to a question."""
    request = urllib.request.Request(
        address.split("#")[0] + "ask", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return dict(json.loads(answer.read().splitlines()[-1]))


def test_the_page_has_the_model_and_the_prompt() -> None:
    model = HookedModel.from_pretrained(TINY)
    with model.view("the cat <sat>", changes=["attn_out_1@all=0"]) as page:
        parts = urlsplit(page.address)
        assert parts.hostname == "127.0.0.1"
        assert parse_qs(parts.fragment) == {"prompt": ["the cat <sat>"], "changes": ["attn_out_1@all=0"]}
        state = asked(page.address, {"ask": "state"})["data"]
        assert isinstance(state, dict) and state["model"]["name"] == "llama"
        words = ["lens", "-k", "10", "--", "the cat <sat>"]
        found = asked(page.address, {"ask": "run", "words": words, "format": "json"})
        assert found["data"] == model.lens("the cat <sat>").to_dict()
        shown = page._repr_html_()
        assert f'<iframe src="{page.address.split("#")[0]}' in shown and "<svg" in shown
        assert "<sat>" not in shown
    assert not page.is_served and "iframe" not in page._repr_html_()
    with pytest.raises(urllib.error.URLError):
        asked(page.address, {"ask": "state"})


def test_the_picture_beside_the_page_is_of_the_changed_run() -> None:
    model = HookedModel.from_pretrained(TINY)
    with model.view("the cat sat", changes=["attn_out_1@all=0"]) as page:
        shown = page._repr_html_()
    changed = model.lens("the cat sat", interventions=[Intervention("full", "attn_out_1", ["all"])]).to_svg()
    # The two spell the change itself otherwise, in lines of another number.
    lines = {line for line in changed.splitlines() if "attn_out_1" not in line and not line.startswith("<svg")}
    assert lines <= set(shown.splitlines()) and "attn_out_1@all=0" in shown.partition("</iframe>")[2]
    assert model.lens("the cat sat").to_svg() not in shown
    with model.view("the cat sat") as page:
        assert model.lens("the cat sat").to_svg() in page._repr_html_()
    with pytest.raises(InputError, match="attnn_out_1"):
        model.view("the cat sat", changes=["attnn_out_1@all=0"])


@pytest.mark.filterwarnings("ignore:row 0. the attributions sum")
def test_what_the_page_names_in_python_gives_the_same() -> None:
    model = HookedModel.from_pretrained(TINY)
    commands: list[list[str]] = [
        ["lens", "-k", "3", "--track", "a", "--intervene", "attn_out_1@last,0*0.5"],
        ["attn", "--layer", "1", "--intervene", "pattern_L1H2@pre:columns:2=-inf"],
        ["patch", "--base", "the dog sat"],
        ["ablate", "--along", "sites", "--site", "attn_out,mlp_out", "--by", "mean", "--layers", "1:"],
    ]
    with model.view("the cat sat") as page:
        for words in commands:
            question = {"ask": "run", "words": [*words, "--", "the cat sat"], "format": "json"}
            answer = asked(page.address, question)
            scope: dict[str, Any] = {}
            exec(str(answer["python"]), scope)
            result = scope["result"]
            # The numbers are the same; words may be others: a knock-out is a factor of 0.
            told = {"interventions": None, "words": None}
            found, expected = ({**one, **told} for one in (result.to_dict(), answer["data"]))
            assert found == expected, words
        for words in (
            ["run", "-k", "3"],
            ["run", "--generate", "4"],
            ["dla", "--answer", "a"],
            ["attribute", "--method", "integrated"],
        ):
            answer = asked(page.address, {"ask": "run", "words": [*words, "--", "the cat sat"], "format": "json"})
            exec(str(answer["python"]), {})


def test_the_page_of_a_run_has_its_store() -> None:
    run = ActivationLoader(STORE, experiment_name="*").query().open(-1)
    with run.view() as page:
        shown = parse_qs(urlsplit(page.address).fragment)
        assert shown["page"] == ["runs"]
        found = asked(page.address, {"ask": "run", "words": ["runs", "show", "--", shown["run"][0]], "format": "json"})
        data = found["data"]
        assert isinstance(data, dict) and data["path"] == shown["run"][0]
        scope: dict[str, Any] = {}
        answer = asked(
            page.address,
            {"ask": "run", "words": ["runs", "load", "--rows", "0:2", "--", shown["run"][0], "resid_out_0"]},
        )
        exec(str(answer["python"]), scope)
        assert scope["tensor"].tolist() == run.rows("resid_out_0", 0, 2).tolist()


def test_what_the_page_cannot_show_is_said() -> None:
    model = HookedModel.from_pretrained(TINY)
    with model.view("the cat sat") as page:
        port = urlsplit(page.address).port
        with pytest.raises(EasyroutineError, match=f"port {port} is taken"):
            model.view("the cat sat", port=port)
    with pytest.raises(InputError, match="changes is one text"):
        model.view("the cat sat", changes="attn_out_1@all=0")
    model.register_interventions(Intervention("full", "attn_out_1", ["last"]))
    with pytest.raises(InputError, match="view runs the model without"):
        model.view("the cat sat")
