"""Generation, token by token."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from easyroutine import tensors
from easyroutine._core import Tensor
from easyroutine.checks import function, number, token_id, truth, whole
from easyroutine.conversations import ChatArguments, takes_chats
from easyroutine.errors import InputError
from easyroutine.interpretability.extraction_config import as_config
from easyroutine.interpretability.inputs import Row
from easyroutine.interpretability.interventions import as_list, for_engine
from easyroutine.interpretability.stop_strings import Stops

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.extraction_config import ExtractionConfig
    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.interpretability.interventions import Intervention

__all__ = ["generate"]

#: The default of transformers.
_NEW_TOKENS = 20
_KNOWN = (
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "eos_token_id",
    "stop_strings",
    "seed",
)
#: Settings of transformers without effect here: they choose the only way there is, or do not affect a run.
_IGNORED = (
    "transformers_version",
    "bos_token_id",
    "pad_token_id",
    "use_cache",
    "_from_model_config",
    "return_dict_in_generate",
)


@takes_chats
def generate(
    model: HookedModel,
    inputs: Any,
    generation_config: Any = None,
    target_token_positions: Any = None,
    return_text: bool = False,
    *,
    return_full_text: bool = True,
    extraction_config: ExtractionConfig | None = None,
    interventions: Intervention | Sequence[Intervention] | None = None,
    max_new_tokens: int | None = None,
    max_length: int | None = None,
    do_sample: bool | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | Sequence[int] | None = None,
    stop_strings: str | Sequence[str] | None = None,
    seed: int | None = None,
    on_token: Callable[[int, int, float], Any] | None = None,
    **chat: Unpack[ChatArguments],
) -> Any:
    """Continues each row greedily, or by sampling with ``do_sample=True``. Inputs, conversations included, are as in
    :meth:`forward`.

    Returns the prompt's and the new ids [B, S], or a list with one tensor per row if rows differ in length; with
    ``return_text`` the text, or a list of texts for several rows. ``return_full_text=False`` leaves the prompt out of
    both.

    ``max_new_tokens`` (20) or ``max_length`` bound a row; it ends at ``eos_token_id`` (one id or several, by default
    the model's own), or once its text contains one of ``stop_strings``, which stays in it. ``temperature``, ``top_k``,
    ``top_p`` and ``seed`` govern sampling. ``generation_config``, a dictionary or transformers' ``GenerationConfig``,
    may hold all of these too; keywords win. ``on_token(row, id, logprob)`` is called with every token and ends its row
    by returning True.

    With ``target_token_positions`` or ``extraction_config`` it returns a dictionary: ``generation_output``, as above,
    and ``cache``, whose activations have the bits of the generating steps. ``"all"`` includes new tokens; any other
    position refers to the prompt.
    """
    settings = {
        "max_new_tokens": max_new_tokens,
        "max_length": max_length,
        "do_sample": do_sample,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "eos_token_id": eos_token_id,
        "stop_strings": stop_strings,
        "seed": seed,
    }
    wanted = _settings_of(generation_config, settings)
    if on_token is not None:
        function(on_token, "on_token")
    rows = model.rows_of(inputs, **chat)
    config = None if extraction_config is None else as_config(extraction_config)
    draws_from = whole(wanted.get("seed", 0), "seed")
    samples = truth(wanted.get("do_sample", False), "do_sample")
    if not samples and any(wanted.get(name) is not None for name in ("temperature", "top_k", "top_p")):
        raise InputError("temperature, top_k and top_p are for sampling", "do_sample=True")
    if "stop_strings" in wanted:
        stops = Stops(model.get_text_tokenizer(), wanted["stop_strings"], [row.ids for row in rows], on_token)
        on_token = stops.ends_with
    continued = model._engine.generate(
        [row.for_engine() for row in rows],
        {
            "max_new_tokens": _new_tokens(wanted, max(len(row.ids) for row in rows)),
            "temperature": number(wanted.get("temperature", 1.0), "temperature") if samples else None,
            "top_k": whole(wanted["top_k"], "top_k") if "top_k" in wanted else None,
            "top_p": number(wanted["top_p"], "top_p") if "top_p" in wanted else None,
            "ends": _ends(wanted["eos_token_id"]) if "eos_token_id" in wanted else model._engine.end_ids(),
            "seed": draws_from,
            "on_token": on_token,
        },
        for_engine([*model.interventions, *as_list(interventions)]),
        list(model._hooks.values()),
    )
    news = [new for new, _, _ in continued]
    complete = [[*row.ids, *new] for row, new in zip(rows, news, strict=True)]
    if return_text:
        output = _texts(model, rows, complete, return_full_text)
    else:
        output = _table(complete if return_full_text else news)
    if target_token_positions is None and config is None:
        return output
    # A token that ends a row at the end of the context was only chosen, never run: the model cannot read past its
    # context.
    most = model._engine.sizes["max_position_embeddings"]
    longer = [
        Row(ids[:most], row.text, n_new=len(ids[:most]) - len(row.ids)) for ids, row in zip(complete, rows, strict=True)
    ]
    positions = ("all",) if target_token_positions is None else target_token_positions
    cache = model.run(longer, positions, config, interventions=as_list(interventions), seed=draws_from)
    return {"generation_output": output, "cache": cache}


def _new_tokens(wanted: Mapping[str, Any], longest: int) -> int:
    """The most tokens to add; ``longest`` is the longest prompt in tokens."""
    if "max_length" not in wanted:
        return whole(wanted.get("max_new_tokens", _NEW_TOKENS), "max_new_tokens", 1)
    if "max_new_tokens" in wanted:
        warnings.warn("max_new_tokens and max_length are both set: max_new_tokens is used", stacklevel=4)
        return whole(wanted["max_new_tokens"], "max_new_tokens", 1)
    length = whole(wanted["max_length"], "max_length", 1)
    if length <= longest:
        raise InputError(f"max_length is {length}, and the prompt has {longest} tokens already")
    return length - longest


def _ends(ids: Any) -> list[int]:
    """Ids that end a row, given as one or several."""
    listed = ids.tolist() if hasattr(ids, "tolist") else ids
    return [token_id(one, "eos_token_id") for one in (listed if isinstance(listed, (list, tuple, set)) else [listed])]


def _texts(model: HookedModel, rows: Sequence[Row], complete: list[list[int]], with_prompt: bool) -> Any:
    """The text of each row, or only of what was added; for a single row, a plain string."""
    tokenizer = model.get_text_tokenizer()
    texts = tokenizer.batch_decode(complete, skip_special_tokens=True)
    if not with_prompt:
        # Cut from the whole text, because new ids decoded alone may lose their leading space.
        prompts = tokenizer.batch_decode([row.ids for row in rows], skip_special_tokens=True)
        for number, (text, prompt, row) in enumerate(zip(texts, prompts, rows, strict=True)):
            if text.startswith(prompt):
                texts[number] = text[len(prompt) :]
            else:
                texts[number] = tokenizer.decode(complete[number][len(row.ids) :], skip_special_tokens=True)
    return texts[0] if len(texts) == 1 else texts


def _table(rows: list[list[int]]) -> Any:
    """Ids [B, S], or a list with one tensor per row where lengths differ."""
    if len({len(row) for row in rows}) == 1:
        return _ids(rows)
    return [_ids([row])[0] for row in rows]


def _ids(rows: list[list[int]]) -> Any:
    from array import array

    flat = array("q", [one for row in rows for one in row])
    return tensors.handed_out(Tensor.from_bytes(flat.tobytes(), [len(rows), len(rows[0])], "int64"))


def _settings_of(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings from a dictionary or a transformers configuration, overridden by keywords."""
    given: dict[str, Any] = {}
    if isinstance(config, Mapping):
        given.update(config)
    elif hasattr(config, "to_diff_dict"):
        given.update({key: value for key, value in config.to_diff_dict().items() if key not in _IGNORED})
    elif config is not None:
        raise InputError(f"generation_config is a dictionary or a GenerationConfig, not {type(config).__name__}")
    given.update({key: value for key, value in settings.items() if value is not None})
    unknown = next((key for key, value in given.items() if key not in _KNOWN and value is not None), None)
    if unknown is not None:
        raise InputError(f"generate() does not know {unknown!r}", f"it knows {', '.join(_KNOWN)}")
    return {key: value for key, value in given.items() if value is not None}
