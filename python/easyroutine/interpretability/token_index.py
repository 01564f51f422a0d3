"""Finds the tokens that a specifier names, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from easyroutine._core import select
from easyroutine.checks import whole
from easyroutine.errors import InputError
from easyroutine.interpretability.inputs import rows_of
from easyroutine.interpretability.selection import Position, Selection, as_json, normalised
from easyroutine.replaced import Replaced, replaced_name

__all__ = ["TokenIndex"]


class TokenIndex(Replaced):
    """Indices of named tokens in a row of ids.

    ``model_name`` is accepted for old code; ``special_ids`` says which ids are special.
    """

    def __init__(
        self,
        model_name: str = "",
        pivot_positions: Sequence[int] | None = None,
        pivot_tokens: Sequence[str] | None = None,
        *,
        special_ids: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self.model_name = model_name
        self.pivot_positions = list(pivot_positions or ())
        self.pivot_tokens = list(pivot_tokens or ())
        self.special_ids = list(special_ids)
        self.seed = whole(seed, "seed")

    def get_token_index(
        self,
        tokens: Sequence[Position] | Position,
        string_tokens: Sequence[str],
        return_type: Literal["list", "dict", "all"] = "list",
        *,
        input_ids: Any = None,
    ) -> Any:
        """Indices of ``tokens`` in a row whose tokens read ``string_tokens``.

        ``list``: all indices in the order requested; ``dict``: by specifier; ``all``: both. ``input_ids`` of the row
        are needed if a specifier depends on which tokens are special.
        """
        if return_type not in ("list", "dict", "all"):
            raise InputError(f'return_type is "list", "dict" or "all", not {return_type!r}')
        ids = rows_of(input_ids, None)[0].ids if input_ids is not None else list(range(len(string_tokens)))
        if len(ids) != len(string_tokens):
            raise InputError(f"{len(string_tokens)} string tokens but {len(ids)} ids")
        positions = normalised(tokens, "tokens")
        pivots = [*self.pivot_positions, *self._pivots_of(string_tokens)]
        spans, text = [], b""
        for token in string_tokens:
            spans.append((len(text), len(text) + len(token.encode())))
            text += token.encode()
        rows = select(
            [(ids, (text.decode(), spans))],
            as_json(positions),
            pivots=pivots,
            special=self.special_ids,
            seed=self.seed,
        )
        listed = rows[0][0]
        by_token = Selection(positions, rows).tables()["token_dict"]
        if return_type == "list":
            return listed
        return by_token if return_type == "dict" else (listed, by_token)

    def _pivots_of(self, string_tokens: Sequence[str]) -> list[int]:
        found = [at for at, token in enumerate(string_tokens) if token in self.pivot_tokens]
        missing = next((token for token in self.pivot_tokens if token not in string_tokens), None)
        if missing is not None:
            raise InputError(f"the pivot token {missing!r} is not among the row's tokens")
        return found


def __getattr__(name: str) -> Any:
    raise replaced_name(__name__, name)
