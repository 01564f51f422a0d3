"""Texts at which a continuation ends."""

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
    """Ends a row once its text holds one of several strings, the last letter of which a new token brought.

    As in transformers, a string may begin in the prompt, and the token that ends it may bring more.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        strings: Any,
        prompts: Sequence[Sequence[int]],
        on_token: Callable[[int, int, float], Any] | None,
    ) -> None:
        """``on_token`` hears every token before it is looked at, and may end a row too."""
        self._strings = [strings] if isinstance(strings, str) else listed(strings, "stop_strings", "strings")
        if not self._strings or not all(isinstance(one, str) and one for one in self._strings):
            raise InputError(f"stop_strings is {strings!r}; it is a string or several, none of them empty")
        self._tokenizer = tokenizer
        self._on_token = on_token
        # A token stands for a byte at least, but for special ones; of a window that is longer the first may read otherwise.
        self._window = max(len(one.encode()) for one in self._strings) + 8
        self._rows = [list(ids[-self._window :]) for ids in prompts]

    def told(self, row: int, id: int, logprob: float) -> bool:
        """Hears a token and says whether its row ends."""
        is_over = self._on_token is not None and bool(self._on_token(row, id, logprob))
        ids = self._rows[row]
        ids.append(id)
        del ids[: -self._window - 1]
        before, text = self._tokenizer.decode(ids[:-1]), self._tokenizer.decode(ids)
        # Where the text goes on from: the last token may have made a whole letter of what was a part of one.
        known = len(os.path.commonprefix([before, text]))
        return is_over or any(one in text[max(0, known - len(one) + 1) :] for one in self._strings)
