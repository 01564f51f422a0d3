"""Text to token ids and back, with transformers' ids and calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from os import PathLike
from pathlib import Path
from typing import Any, Literal, cast

from easyroutine import tensors
from easyroutine._core import Tokenizer as _Engine
from easyroutine.checks import folder, listed, string, whole
from easyroutine.conversations import rendered, warn_of_unread
from easyroutine.encoding import BatchEncoding, TextSpans, filled, ids_of, in_characters, token_ids
from easyroutine.errors import InputError, TokenizerError, UnsupportedError

__all__ = ["BatchEncoding", "TextSpans", "Tokenizer", "token_ids"]

Padding = bool | Literal["longest", "max_length", "do_not_pad"]
Side = Literal["left", "right"]

#: What transformers calls no limit on length, for settings without one.
_ENDLESS = int(1e30)


class Tokenizer:
    """A model's tokenizer. Ids, masks, padding and truncation match transformers' ``AutoTokenizer``."""

    def __init__(self, engine: _Engine, name_or_path: str, origin: Mapping[str, Any] | None = None) -> None:
        self._engine = engine
        self.name_or_path = name_or_path
        #: The arguments it was opened with, which a pickle keeps.
        self._origin = dict(origin or {"reference": name_or_path})
        self._roles = engine.roles
        #: The padding and truncation sides: from the settings, else the default of the class they name.
        self.padding_side, self.truncation_side = engine.sides
        self.model_max_length: int = engine.max_length or _ENDLESS
        for warning in engine.warnings:
            warnings.warn(f"{name_or_path}: {warning}", stacklevel=3)

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str],
        *,
        revision: str | None = None,
        offline: bool = False,
        pre: str | None = None,
    ) -> Tokenizer:
        """The tokenizer of a model; the weights are not read.

        ``pre`` names the rule for cutting text (``"llama-bpe"``) where a GGUF file does not.
        """
        if pre is not None and Path(name, "tokenizer.json").is_file():
            raise InputError(f"pre={pre!r} is for GGUF files, and {name} is a folder", "leave pre out")
        origin = {"reference": str(name), "revision": revision, "offline": offline, "pre": pre}
        engine, model_name = _Engine.open(str(name), revision=revision, offline=offline, pre=pre)
        return cls(engine, model_name, origin)

    # Special tokens.

    @property
    def bos_token(self) -> str | None:
        """The token that a text begins with."""
        return self._roles.get("bos_token")

    @property
    def eos_token(self) -> str | None:
        """The token that a text ends with."""
        return self._roles.get("eos_token")

    @property
    def unk_token(self) -> str | None:
        """The token for text outside the vocabulary."""
        return self._roles.get("unk_token")

    @property
    def pad_token(self) -> str | None:
        """The token that pads rows. It may be set to any token of the vocabulary."""
        return self._roles.get("pad_token")

    @pad_token.setter
    def pad_token(self, token: str | None) -> None:
        if token is None:
            self._roles.pop("pad_token", None)
            return
        if self._engine.id_of_token(token) is None:
            raise TokenizerError(f"the vocabulary has no token {token!r}", "for example tokenizer.eos_token")
        self._roles["pad_token"] = token

    @property
    def bos_token_id(self) -> int | None:
        """Id of :attr:`bos_token`."""
        return self._role_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """Id of :attr:`eos_token`."""
        return self._role_id("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        """Id of :attr:`unk_token`."""
        return self._role_id("unk_token")

    @property
    def pad_token_id(self) -> int | None:
        """Id of :attr:`pad_token`."""
        return self._role_id("pad_token")

    def _role_id(self, role: str) -> int | None:
        token = self._roles.get(role)
        return None if token is None else self._engine.id_of_token(token)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of all special tokens, ascending."""
        return self._engine.special_ids

    @property
    def all_special_tokens(self) -> list[str]:
        """All special tokens, ordered by id."""
        return [str(self._engine.token_of_id(one)) for one in self._engine.special_ids]

    # The vocabulary.

    @property
    def vocab_size(self) -> int:
        """Number of tokens, without added ones."""
        return self._engine.vocab_size - self._added_beyond()

    def _added_beyond(self) -> int:
        """Added tokens with ids beyond the vocabulary's own."""
        total = self._engine.vocab_size
        added = {one for _, one in self._engine.added_tokens()}
        count = 0
        while total - 1 - count in added:
            count += 1
        return count

    def __len__(self) -> int:
        return self._engine.vocab_size

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Every token, as the vocabulary spells it, with its id."""
        return self._engine.vocabulary()

    def convert_tokens_to_ids(self, tokens: str | Iterable[str]) -> Any:
        """Ids of tokens as the vocabulary spells them; unknown tokens give :attr:`unk_token_id`."""
        if isinstance(tokens, str):
            found = self._engine.id_of_token(tokens)
            return self.unk_token_id if found is None else found
        return [self.convert_tokens_to_ids(token) for token in listed(tokens, "tokens", "tokens")]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Tokens of ids, as the vocabulary spells them."""
        found = ids_of(ids)
        if isinstance(found, int):
            return self._engine.token_of_id(found)
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._engine.token_of_id(one) for one in found if one not in special]

    def to_single_token(self, text: str) -> int:
        """The id of a text that is exactly one token, with no token added before it.

        ``encode(" yes")[0]`` differs where the tokenizer begins every text with a special token.
        """
        found = self._engine.single_token(string(text, "the text"))
        if found is None:
            raise TokenizerError(
                f"{text!r} is not one token: it is cut into {self.tokenize(text)}",
                "most words begin with a blank, as in ' Paris'",
            )
        return found

    def to_string_tokens(self, text: str | Any) -> list[str]:
        """The text of each token of a text or of ids: one id, a list, or an array [S] or [1, S]."""
        return [self._engine.shown(one) for one in (self.encode(text) if isinstance(text, str) else token_ids(text))]

    # Text to ids.

    def tokenize(self, text: str) -> list[str]:
        """The tokens of a text, as the vocabulary spells them, with none added."""
        ids, *_ = self._engine.encode(string(text, "the text"), False)
        return [str(self._engine.token_of_id(one)) for one in ids]

    def encode(
        self,
        text: str,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> Any:
        """The ids of one text: a list, or a tensor ``[1, S]``."""
        if not isinstance(text, str):
            raise InputError(f"encode takes one text, not {type(text).__name__}", "call the tokenizer for several")
        encoded = self(
            text,
            add_special_tokens=add_special_tokens,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
        )
        return encoded["input_ids"]

    def __call__(
        self,
        text: str | Sequence[str],
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        padding_side: Side | None = None,
        return_attention_mask: bool = True,
        return_offsets_mapping: bool = False,
    ) -> BatchEncoding:
        """Ids and mask of one text or several.

        ``padding`` pads rows to the longest (``True``, ``"longest"``) or to ``max_length``; ``truncation`` cuts them to
        ``max_length``, at ``truncation_side``, and keeps the special tokens. ``max_length`` without either is an error.
        """
        is_one = isinstance(text, str)
        texts = [text] if isinstance(text, str) else listed(text, "text", "texts")
        for number, one in enumerate(texts):
            if not isinstance(one, str):
                raise InputError(f"text {number} is {type(one).__name__}, not a string")
        if return_tensors not in (None, "pt", "np"):
            raise InputError(f'return_tensors is "pt", "np" or None, not {return_tensors!r}')
        if max_length is not None and truncation in (False, "do_not_truncate") and padding != "max_length":
            raise InputError(
                f"max_length is {max_length}, and neither cuts nor fills",
                'truncation=True cuts longer rows, padding="max_length" fills shorter ones',
            )
        limit = self._limit(truncation, max_length)
        rows: list[list[int]] = []
        spans: list[list[tuple[int, int]]] = []
        kept_texts: list[TextSpans] = []
        for one in texts:
            # The truncated end of a long text is not even tokenized.
            ids, (text_kept, places), _ = self.row(
                one, add_special_tokens, None if self.truncation_side == "left" else limit, stacklevel=3
            )
            if limit is not None and len(ids) > limit:
                ids, places = self._cut(ids, places, limit, add_special_tokens)
            rows.append(ids)
            spans.append(places)
            # Positions by substring use these; padding has no text.
            kept_texts.append((text_kept, places))
        masks = [[1] * len(row) for row in rows]
        width = self._width(rows, padding, max_length)
        offsets = [in_characters(one, places) for one, places in kept_texts]
        if width is not None:
            left = self._side(padding_side or self.padding_side) == "left"
            rows = filled(rows, self._filler(rows, width), width, left)
            masks = filled(masks, 0, width, left)
            offsets = filled(offsets, (0, 0), width, left)
        if return_tensors is not None and len({len(row) for row in rows}) > 1:
            raise InputError(
                "rows of different length do not make a tensor", "pad them: padding=True, perhaps truncation=True"
            )
        one_row = is_one and return_tensors is None
        data = {"input_ids": tensors.whole_numbers(rows, return_tensors)}
        if return_attention_mask:
            data["attention_mask"] = tensors.whole_numbers(masks, return_tensors)
        if return_offsets_mapping:
            data["offset_mapping"] = offsets
        if one_row:
            data = {key: value[0] for key, value in data.items()}
        return BatchEncoding(data, kept_texts)

    def row(
        self, text: str, add_special_tokens: bool = True, limit: int | None = None, *, stacklevel: int = 2
    ) -> tuple[list[int], TextSpans, bool]:
        """The ids of a text, the text with each id's bytes, and whether that is all of it.

        With ``limit``, reads a long text only until it yields that many tokens or slightly more.
        """
        ids, places, is_whole = self._engine.encode(string(text, "the text"), add_special_tokens, limit)
        if not is_whole:
            end = max((end for _, end in places), default=0)
            # A character has at least one byte, so this many hold everything that is kept.
            text = text[:end].encode()[:end].decode()
        for doubt in self._engine.warnings_for(text):
            warnings.warn(doubt, stacklevel=stacklevel)
        if self._engine.begins_twice(ids[:2]):
            warnings.warn(
                f"the text begins with {self.bos_token!r} twice: leave it out of the text, "
                "or pass add_special_tokens=False",
                stacklevel=stacklevel,
            )
        return ids, (text, places), is_whole

    def pad(
        self,
        encoded: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: Padding = True,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
    ) -> BatchEncoding:
        """Pads rows of ids to one length and their masks with 0; rows without a mask get one of ones."""
        if max_length is not None and padding != "max_length":
            raise InputError(
                f"max_length is {max_length}, and does not fill", 'padding="max_length" fills rows up to it'
            )
        if not isinstance(encoded, Mapping):
            listed = list(encoded)
            masked = ["attention_mask" in one for one in listed]
            if any(masked) and not all(masked):
                raise InputError(f"row {masked.index(False)} has no attention_mask, and others have one")
            keys = ("input_ids", "attention_mask") if any(masked) else ("input_ids",)
            encoded = {key: [one[key] for one in listed] for key in keys}
        if "input_ids" not in encoded:
            raise InputError(
                f"what is to be padded has no 'input_ids'; it has {', '.join(map(repr, encoded)) or 'nothing'}"
            )
        ids = [list(ids_of(row)) for row in encoded["input_ids"]]
        given = encoded.get("attention_mask")
        masks = [[1] * len(row) for row in ids] if given is None else [list(ids_of(row)) for row in given]
        if [len(row) for row in masks] != [len(row) for row in ids]:
            raise InputError("attention_mask has other lengths than input_ids")
        width = self._width(ids, padding, max_length)
        if width is not None:
            filler, left = self._filler(ids, width), self.padding_side == "left"
            ids, masks = filled(ids, filler, width, left), filled(masks, 0, width, left)
        data = {"input_ids": ids, "attention_mask": masks}
        return BatchEncoding({key: tensors.whole_numbers(one, return_tensors) for key, one in data.items()})

    def _limit(self, truncation: bool | str, max_length: int | None) -> int | None:
        if truncation in (False, "do_not_truncate"):
            return None
        if truncation not in (True, "longest_first", "only_first"):
            raise InputError(f"truncation is True or False, not {truncation!r}")
        if max_length is not None:
            return whole(max_length, "max_length", 1)
        return None if self.model_max_length >= _ENDLESS else self.model_max_length

    def _cut(
        self, ids: list[int], places: list[tuple[int, int]], limit: int, special: bool
    ) -> tuple[list[int], list[tuple[int, int]]]:
        """The row cut to length by dropping the text's own tokens; added ones stay."""
        own = [number for number, (start, end) in enumerate(places) if start < end or not special]
        first, last = (own[0], own[-1] + 1) if own else (0, 0)
        surplus = len(ids) - limit
        if surplus > last - first:
            raise InputError(f"max_length {limit} leaves no room for the special tokens alone")
        drop = range(first, first + surplus) if self.truncation_side == "left" else range(last - surplus, last)
        kept = [number for number in range(len(ids)) if number not in drop]
        return [ids[number] for number in kept], [places[number] for number in kept]

    def _width(self, rows: Sequence[Sequence[int]], padding: Padding, max_length: int | None) -> int | None:
        if padding in (False, "do_not_pad"):
            return None
        longest = max((len(row) for row in rows), default=0)
        if padding in (True, "longest"):
            return longest
        if padding == "max_length":
            if max_length is None and self.model_max_length >= _ENDLESS:
                raise InputError('padding="max_length" needs max_length: this tokenizer has no limit of its own')
            return max(longest, max_length if max_length is not None else self.model_max_length)
        raise InputError(f'padding is True, False, "longest" or "max_length", not {padding!r}')

    def _filler(self, rows: Sequence[Sequence[int]], width: int) -> int:
        if self.pad_token_id is not None:
            return self.pad_token_id
        if all(len(row) == width for row in rows):
            return 0
        raise TokenizerError(
            "this tokenizer has no padding token", "choose one: tokenizer.pad_token = tokenizer.eos_token"
        )

    @staticmethod
    def _side(side: str) -> str:
        if side not in ("left", "right"):
            raise InputError(f"a side is left or right, not {side!r}")
        return side

    # Ids to text.

    def decode(self, token_ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids: a number, a list, or a tensor with one axis."""
        found = ids_of(token_ids)
        return self._engine.decode([found] if isinstance(found, int) else found, skip_special_tokens)

    def batch_decode(self, sequences: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """The text of each row of ids."""
        return [self.decode(row, skip_special_tokens) for row in listed(sequences, "sequences", "rows of ids")]

    # Files, copies.

    def save_pretrained(self, save_directory: str | PathLike[str]) -> None:
        """Writes it as files that transformers reads, creating the folder if needed."""
        Path(folder(save_directory, "save_directory")).mkdir(parents=True, exist_ok=True)
        self._engine.save(folder(save_directory, "save_directory"))

    @property
    def chat_template(self) -> str | None:
        """The model's template for conversations (Jinja), if it has one."""
        return self._engine.chat_template

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        *,
        padding: Padding = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: Literal["pt", "np"] | None = None,
        return_dict: bool = True,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        strftime_now: str | date | None = None,
        **variables: Any,
    ) -> Any:
        """A conversation in the form the model was trained on: ids and mask, or the text with ``tokenize=False``.

        Each message is ``{"role": "user", "content": "..."}``, with whatever else the template reads. Several
        conversations, a list of lists, give one row each. Arguments and text match transformers'. ``chat_template`` is
        one of the model's templates by name, or a template. Further keywords are variables of the template
        (``enable_thinking=False``). A template that asks for the time gets ``strftime_now``, or by default the present:
        ``"2024-07-26"``, ``"2024-07-26T15:30:00"``, or a date. ``return_dict=False`` returns only the ids.
        """
        for name in ("sanitize_control_tokens", "return_assistant_tokens_mask"):
            if variables.pop(name, False):
                raise UnsupportedError(f"apply_chat_template does not build {name}", "transformers does")
        if not isinstance(conversation, (list, tuple)):
            raise InputError(
                f"conversation is {conversation!r:.80}",
                'it is a list of messages: [{"role": "user", "content": "..."}]',
            )
        is_one = not conversation or not isinstance(conversation[0], (list, tuple))
        found = [
            rendered(
                self._engine,
                messages,
                variables,
                tools=tools,
                documents=documents,
                chat_template=chat_template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                strftime_now=strftime_now,
            )
            for messages in cast("Sequence[Any]", [conversation] if is_one else conversation)
        ]
        texts = [text for text, _, _ in found]
        if found:
            warn_of_unread(set.intersection(*(unread for _, _, unread in found)))
        text = texts[0] if is_one else texts
        if not tokenize:
            return text
        # The text already holds the special tokens.
        encoded = self(
            text,
            add_special_tokens=False,
            padding=padding,
            truncation=truncation,
            max_length=max_length,
            return_tensors=return_tensors,
            **(tokenizer_kwargs or {}),
        )
        return encoded if return_dict else encoded["input_ids"]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        origin = dict(state["_origin"])
        self._engine, _ = _Engine.open(origin.pop("reference"), **origin)

    def __copy__(self) -> Tokenizer:
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new._roles = dict(self._roles)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self.__copy__()

    def __repr__(self) -> str:
        return f"Tokenizer({self.name_or_path!r}, {len(self)} tokens)"
