"""Conversations as prompts: lists of messages, wherever texts are taken."""

from __future__ import annotations

import inspect
import logging
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel
from easyroutine.tokenizer import Tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }};{% endfor %}"
    "{% if tools %}[{{ tools[0].name }}]{% endif %}{% if mood is defined %}{{ mood }}{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
DATED = "{{ strftime_now('%d %b %Y') }} " + TEMPLATE
ASKED = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "Hi"}]


def model_with(folder: Path, template: str) -> HookedModel:
    (folder / "chat_template.jinja").write_text(template)
    return HookedModel.from_pretrained(folder)


@pytest.fixture
def model(folder_copy: Path) -> HookedModel:
    return model_with(folder_copy, TEMPLATE)


@pytest.fixture
def dated(folder_copy: Path) -> HookedModel:
    return model_with(folder_copy, DATED)


def ids_of(model: HookedModel, conversation: Any, **given: Any) -> list[int]:
    return list(model.get_text_tokenizer().apply_chat_template(conversation, return_dict=False, **given))


def text_of(model: HookedModel, conversation: Any, **given: Any) -> str:
    text = model.rows_of(conversation, **given)[0].text
    assert text is not None
    return text[0]


def test_a_conversation_is_a_prompt_and_awaits_an_answer(model: HookedModel) -> None:
    assert text_of(model, ASKED) == "<system>Be kind.;<user>Hello;<assistant>"
    assert text_of(model, ANSWERED) == "<system>Be kind.;<user>Hello;<assistant>Hi"
    assert text_of(model, ANSWERED, continue_final_message=False) == "<system>Be kind.;<user>Hello;<assistant>Hi;"
    assert text_of(model, ANSWERED, add_generation_prompt=True).endswith("Hi;<assistant>")
    assert text_of(model, ASKED, add_generation_prompt=False).endswith("Hello;")
    given = {"tools": [{"name": "f"}], "chat_variables": {"mood": "glad"}}
    assert text_of(model, ASKED, **given).endswith("[f]glad<assistant>")
    assert text_of(model, ASKED, chat_template="{{ messages[0].content }}") == "Be kind."


def test_every_function_takes_conversations(model: HookedModel) -> None:
    ids = ids_of(model, ASKED, add_generation_prompt=True)
    mood = {"chat_variables": {"mood": "glad"}}
    glad = ids_of(model, ASKED, add_generation_prompt=True, mood="glad")
    assert glad != ids
    for given, row in ((ASKED, ids), (tuple(ASKED), ids)):
        assert model.forward(given)["logits"].tolist() == model.forward([row])["logits"].tolist()
    assert model(ASKED, **mood)["logits"].tolist() == model([glad])["logits"].tolist()
    assert model.predict(ASKED, **mood) == model.predict([glad])
    new = {"max_new_tokens": 3, "eos_token_id": []}
    assert model.generate(ASKED, **new, **mood).tolist() == model.generate([glad], **new).tolist()
    assert model.lens(ASKED, **mood).records() == model.lens([glad]).records()
    assert model.attention(ASKED, **mood).to_csv() == model.attention([glad]).to_csv()
    options: dict[str, Any] = {"layers": [0], "positions": "last"}
    assert model.sweep(ASKED, **options, **mood).values == model.sweep([glad], **options).values
    # Several, beside texts too.
    both = model.rows_of([ASKED, "Hello", ANSWERED])
    assert [row.ids for row in both[:1]] == [ids]
    assert both[1].ids == model.rows_of("Hello")[0].ids
    query = {"patching_elem": "last", "layers_to_patch": [0], "activation_type": "resid_in_{}"}
    found = model.compute_patching(["last"], [ASKED], [ASKED], query, **mood)
    assert found["kl_patched|clean"].tolist() == pytest.approx([0], abs=1e-6)


def test_a_variable_that_no_template_reads_is_named(model: HookedModel) -> None:
    silent = r"the chat template does not read `documents`, `mod`: setting that changes nothing"
    with pytest.warns(UserWarning, match=silent):
        model.forward(ASKED, documents=[{"text": "x"}], chat_variables={"mod": "sad", "mood": "glad"})
    with pytest.warns(UserWarning, match="does not read `mod`"):
        ids_of(model, ASKED, mod="sad", tools=[{"name": "f"}])
    # Read for one of several conversations is read.
    either = "{% if messages|length > 2 %}{{ mood }}{% endif %}{{ messages[0].content }}"
    longer = [*ASKED, {"role": "user", "content": "Again"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.forward([ASKED, longer], chat_template=either, chat_variables={"mood": "glad"})
    with pytest.warns(UserWarning, match="does not read `mood`"):
        model.forward([ASKED, ASKED], chat_template=either, chat_variables={"mood": "glad"})


def test_data_sets_hold_conversations(model: HookedModel, tmp_path: Path) -> None:
    ids = ids_of(model, ASKED, add_generation_prompt=True)
    config = ExtractionConfig(save_input_ids=True, extract_resid_out=True, save_logits=False)
    for data in ([ASKED, ASKED], [[ASKED, ASKED]], [{"messages": ASKED}, {"messages": [ASKED]}]):
        cache = model.extract_cache(data, ["all"], config)
        assert [row.tolist() for row in cache["input_ids"]] == [ids, ids]
    saver = ActivationSaver(tmp_path / "store")
    data = [{"messages": ASKED, "label": "good"}, {"messages": ANSWERED, "label": "bad"}]
    model.extract_to_store(saver, data, ["last"], config, run="chats", tools=[{"name": "f"}])
    run = ActivationLoader.from_saver(saver).query(where="fields.label ~ 'good'").open()
    assert run["label"] == ["good", "bad"]
    assert run.metadata["extraction_config"]["chat"] == {"tools": [{"name": "f"}]}
    with pytest.raises(InputError, match="list of batches, texts or conversations"):
        model.extract_cache(ASKED)
    with pytest.raises(InputError, match="keywords: tools="):
        model.forward("x", extraction_config=run.metadata["extraction_config"])


def test_the_time_that_was_told_stands_in_the_record(
    dated: HookedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saver = ActivationSaver(tmp_path / "store")
    with caplog.at_level(logging.INFO, "easyroutine"):
        cache = dated.extract_cache([ASKED, ANSWERED], ["last"])
    now = cache["metadata"]["extraction_config"]["chat"]["now"]
    assert f"strftime_now='{now}'" in caplog.text
    assert now.startswith(str(date.today()))
    assert text_of(dated, ASKED, strftime_now=now) == text_of(dated, ASKED)
    dated.extract_to_store(saver, [ASKED], ["last"], strftime_now="2024-07-26", run="given")
    saver.save_cache(cache)
    saver.save(cache, dated, ["last"], None, ExtractionConfig())
    told = [record["extraction_config"]["chat"]["now"] for *_, record in ActivationLoader.from_saver(saver).query()]
    assert told == ["2024-07-26T00:00:00", now, now]
    assert text_of(dated, ASKED, strftime_now=date(2024, 7, 26)).startswith("26 Jul 2024 ")
    # A template that does not ask is told nothing.
    plain = dated.extract_cache([ASKED], ["last"], chat_template=TEMPLATE)["metadata"]["extraction_config"]["chat"]
    assert plain == {"template": TEMPLATE}
    assert "chat" not in dated.extract_cache(["Hello"], ["last"])["metadata"]["extraction_config"]


@pytest.mark.parametrize(
    ("inputs", "given", "says"),
    [
        ("Hello", {"tools": []}, "tools is for conversations, and the inputs hold none"),
        ([[1, 2]], {"chat_variables": {"a": 1}}, "chat_variables is for conversations"),
        (ASKED, {"chat_variables": [1]}, "chat_variables is"),
        (ASKED, {"chat_variables": {"tools": []}}, "'tools', which is an argument of its own"),
        (ASKED, {"chat_variables": {"a b": 1}}, "`a b` cannot be the name"),
        (ASKED, {"chat_variables": {"mood": object()}}, "JSON"),
        (ASKED, {"tools": [len]}, "the function 'len'"),
        (ASKED, {"tools": {"name": "f"}}, "list of dictionaries"),
        (ASKED, {"strftime_now": "yesterday"}, "not a day"),
        (ASKED, {"strftime_now": 7}, "strftime_now is 7"),
        (ASKED, {"chat_template": 7}, "chat_template is int"),
        (ASKED, {"add_generation_prompt": "yes"}, "True or False"),
        (ASKED, {"add_generation_prompt": True, "continue_final_message": True}, "exclude one another"),
        ([*ASKED, {"content": "x"}], {}, "message 2 is"),
        ([ASKED, [1, 2]], {}, r"prompt 1 is \[1, 2\]"),
        ([ASKED, []], {}, r"prompt 1 is \[\]"),
    ],
)
def test_what_does_not_fit_is_refused(model: HookedModel, inputs: Any, given: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        model.forward(inputs, **given)


def test_arguments_are_spelt_out(model: HookedModel) -> None:
    for function in (model.forward, model.__call__, model.generate, model.lens, model.extract_to_store, model.sweep):
        shown = inspect.signature(function)
        assert {"tools", "chat_template", "chat_variables", "strftime_now"} <= set(shown.parameters)
        assert not any(one.kind is one.VAR_KEYWORD for one in shown.parameters.values())
    with pytest.raises(TypeError, match="'tool'; did you mean 'tools'"):
        model.forward(ASKED, tool=[])  # type: ignore[call-arg]


def test_a_beginning_of_sequence_in_a_message_is_warned_of(folder_copy: Path) -> None:
    model = model_with(folder_copy, "{{ bos_token }}{{ messages[0].content }}")
    with pytest.warns(UserWarning, match="a message holds '<bos>'"):
        model.rows_of([{"role": "user", "content": "a<bos>b"}])


def test_several_conversations_make_rows_as_in_transformers(model: HookedModel) -> None:
    tokenizer = model.get_text_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    both: Any = tokenizer.apply_chat_template([ASKED, ANSWERED], padding=True)
    assert [sum(mask) for mask in both["attention_mask"]] == [len(ids_of(model, one)) for one in (ASKED, ANSWERED)]
    assert len({len(row) for row in both["input_ids"]}) == 1
    short = tokenizer.apply_chat_template(ASKED, truncation=True, max_length=4, return_dict=False)
    assert short == ids_of(model, ASKED)[:4]
    assert tokenizer.apply_chat_template([ASKED], tokenize=False) == [
        tokenizer.apply_chat_template(ASKED, tokenize=False)
    ]
    offsets = tokenizer.apply_chat_template(ASKED, tokenizer_kwargs={"return_offsets_mapping": True})
    assert len(offsets["offset_mapping"]) == len(offsets["input_ids"])
    for name in ("sanitize_control_tokens", "return_assistant_tokens_mask"):
        with pytest.raises(UnsupportedError, match=name):
            tokenizer.apply_chat_template(ASKED, **{name: True})
        tokenizer.apply_chat_template(ASKED, **{name: False})


def test_a_message_of_parts_is_continued(folder_copy: Path) -> None:
    (folder_copy / "chat_template.jinja").write_text(
        "{% for m in messages %}{% for part in m.content %}{{ part.text }}.{% endfor %}{% endfor %}"
    )
    tokenizer = Tokenizer.from_pretrained(folder_copy)
    parts = [{"role": "assistant", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
    assert tokenizer.apply_chat_template(parts, tokenize=False, continue_final_message=True) == "one.two"
