"""Strings that end a continuation."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from easyroutine.checks import listed
from easyroutine.errors import InputError

if TYPE_CHECKING:
    from easyroutine.tokenizer import Tokenizer

__all__ = ["Stops"]


class Stops:
    """Ends a row once its text contains one of several strings, whose last letter a new token brought.

    As in transformers, a string may begin in the prompt, and the token that completes it may add more.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        strings: Any,
        prompts: Sequence[Sequence[int]],
        on_token: Callable[[int, int, float], Any] | None,
    ) -> None:
        """``on_token`` gets every token first and may end a row too."""
        self._strings = [strings] if isinstance(strings, str) else listed(strings, "stop_strings", "strings")
        if not self._strings or not all(isinstance(one, str) and one for one in self._strings):
            raise InputError(f"stop_strings is {strings!r}; it must be a string or several, none of them empty")
        self._tokenizer = tokenizer
        self._on_token = on_token
        # Every token but a special one covers at least a byte. In a longer window the first token may decode
        # differently.
        self._window = max(len(one.encode()) for one in self._strings) + 8
        self._rows = [list(ids[-self._window :]) for ids in prompts]

    def ends_with(self, row: int, id: int, logprob: float) -> bool:
        """Takes a token and says whether its row ends."""
        is_over = self._on_token is not None and bool(self._on_token(row, id, logprob))
        ids = self._rows[row]
        ids.append(id)
        del ids[: -self._window - 1]
        before, text = self._tokenizer.decode(ids[:-1]), self._tokenizer.decode(ids)
        # Where the text continues: the last token may have completed a letter that was partial before.
        known = len(os.path.commonprefix([before, text]))
        return is_over or any(one in text[max(0, known - len(one) + 1) :] for one in self._strings)
