"""The tokenizer: ids, masks, padding and truncation of transformers."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT, ROOT, TINY

from easyroutine.errors import InputError
from easyroutine.interpretability import HookedModel
from easyroutine.tokenizer import Tokenizer

TEXTS = ["The capital of France is", "a", "  two  blanks", "Zürich, naïve café — 東京 🙂 123", "line\nbreak\t"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_pretrained(TINY / "llama")


@pytest.mark.filterwarnings("ignore:.*no further blank")
@pytest.mark.parametrize("name", ["pieces", "gemma"])
def test_ids_are_the_committed_answers(name: str) -> None:
    texts = json.loads((ROOT / "fixtures/tokenizers/texts.json").read_text(encoding="utf-8"))
    answers = json.loads((ROOT / f"fixtures/tokenizers/{name}.json").read_text(encoding="utf-8"))["ids"]
    tokenizer = Tokenizer.from_pretrained(ROOT / f"fixtures/tokenizers/{name}.gguf")
    expected = next(iter(answers.values()))
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special_tokens=False) in (ids, ids[1:]), text


def test_sides_are_those_of_the_class(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "config.json"):
        (tmp_path / name).write_bytes((TINY / "llama" / name).read_bytes())
    # A class that pads on the left where no file says.
    settings = {"tokenizer_class": "CohereTokenizer", "pad_token": "<pad>", "add_bos_token": True, "bos_token": "<bos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    # The class cuts by rules of its own, and the flag is not followed.
    with pytest.warns(UserWarning, match="of tokenizer") as warned:
        tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert any("add_bos_token" in str(warning.message) for warning in warned)
    assert (tokenizer.padding_side, tokenizer.truncation_side) == ("left", "right")
    rows = tokenizer([PROMPT, "a"], padding=True)
    assert rows["attention_mask"][1][0] == 0 and rows["attention_mask"][1][-1] == 1
    assert rows["input_ids"][1][0] == tokenizer.pad_token_id
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": "right"}))
    with pytest.warns(UserWarning):
        assert Tokenizer.from_pretrained(tmp_path).padding_side == "right"


def test_a_doubtful_text_is_warned_of() -> None:
    tokenizer = Tokenizer.from_pretrained(ROOT / "fixtures/tokenizers/pieces.gguf")
    with pytest.warns(UserWarning, match="begins with a blank"):
        tokenizer(" the")
    assert tokenizer.padding_side == "left"
    named = Tokenizer.from_pretrained(ROOT / "fixtures/tokenizers/bytes.gguf", pre="qwen2")
    assert named.encode("12 34") and pickle.loads(pickle.dumps(named)).encode("12 34") == named.encode("12 34")


def test_one_text_is_a_row_and_several_are_rows(tokenizer: Tokenizer) -> None:
    one = tokenizer(PROMPT)
    assert one.input_ids == one["input_ids"] == tokenizer.encode(PROMPT)
    assert one.attention_mask == [1] * len(one.input_ids)
    assert tokenizer([PROMPT])["input_ids"] == [one.input_ids]
    assert dict(one) == one.data and len(one) == 2 and "input_ids" in repr(one)
    with pytest.raises(AttributeError):
        _ = one.pixel_values


def test_rows_are_filled_and_cut(tokenizer: Tokenizer) -> None:
    long, short = tokenizer.encode(PROMPT), tokenizer.encode("a")
    pad = tokenizer.pad_token_id
    right = tokenizer([PROMPT, "a"], padding=True)
    fill = [pad] * (len(long) - len(short))
    assert right["input_ids"] == [long, short + fill]
    assert right["attention_mask"][1] == [1] * len(short) + [0] * len(fill)
    left = tokenizer([PROMPT, "a"], padding=True, padding_side="left")
    assert left["input_ids"][1] == fill + short
    wide = tokenizer("a", padding="max_length", max_length=6)
    assert len(wide["input_ids"]) == 6
    assert tokenizer(PROMPT, truncation=True, max_length=3)["input_ids"] == long[:3]
    other = copy.copy(tokenizer)
    other.truncation_side = "left"
    assert other(PROMPT, truncation=True, max_length=3)["input_ids"] == long[-3:]
    assert tokenizer.pad([{"input_ids": long}, {"input_ids": short}])["input_ids"] == right["input_ids"]


def test_arrays_of_numpy_are_made_of_rows_of_one_length(tokenizer: Tokenizer) -> None:
    numpy = pytest.importorskip("numpy")
    found = tokenizer(["a", PROMPT], padding=True, return_tensors="np")
    assert found["input_ids"].dtype == numpy.int64 and found["input_ids"].shape[0] == 2
    assert tokenizer(PROMPT, return_tensors="np")["input_ids"].shape[0] == 1
    with pytest.raises(ValueError, match="padding=True"):
        tokenizer(["a", PROMPT], return_tensors="np")


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": "widest"},
        {"padding": "max_length"},
        {"truncation": "somewhere"},
        {"truncation": True, "max_length": 0},
        {"return_tensors": "tf"},
        {"padding": True, "padding_side": "top"},
    ],
)
def test_what_is_no_setting_is_an_error(tokenizer: Tokenizer, arguments: Any) -> None:
    with pytest.raises(ValueError):
        tokenizer([PROMPT, "a"], **arguments)


def test_ids_are_read_back(tokenizer: Tokenizer) -> None:
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    ids = tokenizer.encode(PROMPT)
    assert tokenizer.batch_decode([ids, ids[:1]])[0] == PROMPT
    assert tokenizer.decode(ids[0]) == tokenizer.decode([ids[0]])
    for wrong in ("text", [1.5], [-1], [[1]], None):
        with pytest.raises(ValueError):
            tokenizer.decode(wrong)


def test_tokens_and_ids_name_each_other(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.tokenize(PROMPT)
    assert tokenizer.convert_tokens_to_ids(tokens) == tokenizer.encode(PROMPT, add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(tokenizer.convert_tokens_to_ids(tokens)) == tokens
    assert tokenizer.get_vocab()[tokens[0]] == tokenizer.convert_tokens_to_ids(tokens[0])
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<bos>", "<eos>", "<pad>")
    assert tokenizer.pad_token_id in tokenizer.all_special_ids and "<bos>" in tokenizer.all_special_tokens
    assert len(tokenizer) == 320
    single = tokenizer.decode([70])
    assert tokenizer.to_single_token(single) == 70
    with pytest.raises(ValueError, match="is not one token"):
        tokenizer.to_single_token("two words")


def test_offsets_are_of_characters(tokenizer: Tokenizer) -> None:
    text = "café 東京 x"
    found = tokenizer(text, return_offsets_mapping=True)
    spans = found["offset_mapping"]
    assert text[spans[-1][0] : spans[-1][1]].strip() == "x"
    assert all(0 <= start <= end <= len(text) for start, end in spans)


def test_a_padding_token_may_be_chosen(folder_copy: Path) -> None:
    settings = folder_copy / "tokenizer_config.json"
    settings.write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}))
    tokenizer = Tokenizer.from_pretrained(folder_copy)
    with pytest.raises(ValueError, match="no padding token"):
        tokenizer([PROMPT, "a"], padding=True)
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer([PROMPT, "a"], padding=True)["input_ids"][1][-1] == tokenizer.eos_token_id
    with pytest.raises(ValueError, match="no token"):
        tokenizer.pad_token = "<nothing>"


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_are_apart(tokenizer: Tokenizer, make: Any) -> None:
    same = make(tokenizer)
    assert same.encode(PROMPT) == tokenizer.encode(PROMPT)
    same.padding_side, same.pad_token = "left", None
    assert tokenizer.padding_side == "right" and tokenizer.pad_token == "<pad>"


def test_conversations_go_through_the_models_template(folder_copy: Path) -> None:
    plain = Tokenizer.from_pretrained(folder_copy)
    with pytest.raises(ValueError, match="no chat template"):
        plain.apply_chat_template([{"role": "user", "content": "a"}])
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    (folder_copy / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.from_pretrained(folder_copy)
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    text = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    assert text == "<user>a<assistant>b>"
    ids = tokenizer.apply_chat_template(said, return_dict=False)
    assert ids == tokenizer.encode(text[:-1], add_special_tokens=False)
    with pytest.raises(ValueError, match="message 0"):
        tokenizer.apply_chat_template([{"content": "a"}])
    continued = tokenizer.apply_chat_template(said, tokenize=False, continue_final_message=True)
    assert continued == "<user>a<assistant>b"
    with pytest.raises(ValueError, match="exclude"):
        tokenizer.apply_chat_template(said, add_generation_prompt=True, continue_final_message=True)


def test_templates_take_variables_tools_and_the_day(folder_copy: Path) -> None:
    template = "{{ strftime_now('%d %b %Y') }} {{ mood }} {{ tools }} {{ documents is none }}"
    (folder_copy / "chat_template.jinja").write_text(template)
    tokenizer = Tokenizer.from_pretrained(folder_copy)
    said = [{"role": "user", "content": "a", "more": {"deep": [1]}}]
    given: dict[str, Any] = {"tokenize": False, "strftime_now": "2024-07-26", "mood": False}
    tools = [{"name": "f"}]
    assert tokenizer.apply_chat_template(said, tools, **given) == "26 Jul 2024 False [{'name': 'f'}] True"
    given["chat_template"] = "{{ messages[0].more.deep[0] }}"
    with pytest.warns(UserWarning, match="does not read `mood`"):
        assert tokenizer.apply_chat_template(said, **given) == "1"
    with pytest.raises(ValueError, match="no chat template `other`"):
        tokenizer.apply_chat_template(said, chat_template="other")
    with pytest.raises(ValueError, match="JSON"):
        tokenizer.apply_chat_template(said, mood=object())
    with pytest.raises(ValueError, match="tools has"):
        tokenizer.apply_chat_template(said, tools=[len])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="not a day"):
        tokenizer.apply_chat_template(said, strftime_now="yesterday")


def test_it_is_saved_as_files(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tmp_path = tmp_path / "new" / "folder"
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path).encode(PROMPT) == tokenizer.encode(PROMPT)


@pytest.mark.torch
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi3"])
@pytest.mark.filterwarnings("ignore")
def test_it_does_what_transformers_does(family: str) -> None:
    torch = pytest.importorskip("torch")
    AutoTokenizer = pytest.importorskip("transformers").AutoTokenizer
    ours, theirs = Tokenizer.from_pretrained(TINY / family), AutoTokenizer.from_pretrained(TINY / family)
    assert (ours.padding_side, ours.truncation_side) == (theirs.padding_side, theirs.truncation_side)
    assert (len(ours), ours.vocab_size) == (len(theirs), theirs.vocab_size)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.get_vocab() == theirs.get_vocab()
    calls: list[dict[str, Any]] = [
        {"padding": True},
        {"padding": True, "padding_side": "left"},
        {"padding": "max_length", "max_length": 40},
        {"truncation": True, "max_length": 3, "padding": True},
        {"add_special_tokens": False, "padding": "longest"},
    ]
    for call in calls:
        a, b = ours(TEXTS, return_tensors="pt", **call), theirs(TEXTS, return_tensors="pt", **call)
        for key in ("input_ids", "attention_mask"):
            assert torch.equal(a[key], b[key]), (call, key)
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text) == ids and ours.tokenize(text) == theirs.tokenize(text)
        for skip in (False, True):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
        assert ours.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
        spans = theirs(text, return_offsets_mapping=True)["offset_mapping"]
        assert [tuple(one) for one in ours(text, return_offsets_mapping=True)["offset_mapping"]] == spans
    assert ours.batch_decode([[5, 6], [7]]) == theirs.batch_decode([[5, 6], [7]])


def test_rows_are_filled_with_their_masks(tokenizer: Tokenizer) -> None:
    pad = tokenizer.pad_token_id
    rows: list[dict[str, Any]] = [
        {"input_ids": [pad, 5, 6], "attention_mask": [0, 1, 1]},
        {"input_ids": [7], "attention_mask": [1]},
    ]
    expected = [[0, 1, 1], [1, 0, 0]]
    as_one = {key: [one[key] for one in rows] for key in rows[0]}
    for given in (rows, as_one):
        found = tokenizer.pad(given)
        assert found["attention_mask"] == expected and found["input_ids"] == [[pad, 5, 6], [7, pad, pad]]
        assert tokenizer.pad(given, padding=False)["attention_mask"] == [[0, 1, 1], [1]]
    assert tokenizer.pad([{"input_ids": [1, 2]}], padding=False)["attention_mask"] == [[1, 1]]
    left = copy.copy(tokenizer)
    left.padding_side = "left"
    assert left.pad(rows)["attention_mask"] == [[0, 1, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="row 1 has no attention_mask"):
        tokenizer.pad([rows[0], {"input_ids": [1]}])
    with pytest.raises(ValueError, match="other lengths"):
        tokenizer.pad({"input_ids": [[1, 2]], "attention_mask": [[1]]})


def test_a_length_that_neither_cuts_nor_fills_is_refused(tokenizer: Tokenizer) -> None:
    for padding in (False, True):
        with pytest.raises(ValueError, match="truncation=True"):
            tokenizer(PROMPT, max_length=3, padding=padding)
        with pytest.raises(ValueError, match='padding="max_length"'):
            tokenizer.pad([{"input_ids": [1]}], max_length=3, padding=padding)
    assert tokenizer.pad([{"input_ids": [1]}], "max_length", 3)["attention_mask"] == [[1, 0, 0]]


def test_of_a_long_text_only_the_beginning_is_cut(llama: HookedModel) -> None:
    tokenizer = llama.get_text_tokenizer()
    begins = "Zürich, the cat sat on a mat and said so "
    long = begins * 40_000
    expected = tokenizer(begins * 4, truncation=True, max_length=20, return_offsets_mapping=True)
    found = tokenizer(long, truncation=True, max_length=20, return_offsets_mapping=True)
    assert dict(found) == dict(expected)
    # The rest was not even looked at.
    assert found.texts is not None and len(found.texts[0][0]) < len(long) // 2
    left = copy.copy(tokenizer)
    left.truncation_side = "left"
    assert left.encode(long, truncation=True, max_length=20) == left.encode(begins * 4, truncation=True, max_length=20)
    for refused in (llama.forward, llama.generate, llama.lens):
        with pytest.raises(InputError, match="row 0 has more than 64 tokens; the model was built for 64 at most"):
            refused(long)
