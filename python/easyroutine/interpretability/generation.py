"""Tokens one after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from easyroutine import tensors
from easyroutine._core import Tensor
from easyroutine.errors import InputError
from easyroutine.interpretability.inputs import Row
from easyroutine.interpretability.interventions import as_list, for_engine

if TYPE_CHECKING:
    from easyroutine.interpretability.extraction_config import ExtractionConfig
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["generate"]

#: What transformers continues by where nothing is said.
_NEW_TOKENS = 20
_KNOWN = (
    "max_new_tokens",
    "max_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "eos_token_id",
    "seed",
)
#: Settings of transformers that say nothing here: what they choose is the only way there is, or no setting of a run.
_SAY_NOTHING = (
    "transformers_version",
    "bos_token_id",
    "pad_token_id",
    "use_cache",
    "_from_model_config",
    "return_dict_in_generate",
)


def generate(
    model: HookedModel,
    inputs: Any,
    generation_config: Any,
    target_token_positions: Any,
    return_text: bool,
    *,
    extraction_config: ExtractionConfig | None = None,
    interventions: Any = None,
    on_token: Callable[[int, int, float], Any] | None = None,
    **settings: Any,
) -> Any:
    """See :meth:`HookedModel.generate`."""
    wishes = _wishes(generation_config, settings)
    rows = model.rows_of(inputs)
    longest = max(len(row.ids) for row in rows)
    if "max_new_tokens" not in wishes and "max_length" in wishes:
        if wishes["max_length"] <= longest:
            raise InputError(f"max_length is {wishes['max_length']}, and the prompt has {longest} tokens already")
        wishes["max_new_tokens"] = wishes["max_length"] - longest
    ends = wishes.get("eos_token_id")
    if ends is None:
        ends = model._engine.end_ids()
    samples = bool(wishes.get("do_sample", False))
    if not samples and any(wishes.get(name) is not None for name in ("temperature", "top_k", "top_p")):
        raise InputError("temperature, top_k and top_p are for drawn tokens", "do_sample=True")
    continued = model._engine.generate(
        [row.for_engine() for row in rows],
        {
            "max_new_tokens": int(wishes.get("max_new_tokens") or _NEW_TOKENS),
            "temperature": float(wishes.get("temperature") or 1.0) if samples else None,
            "top_k": wishes.get("top_k"),
            "top_p": wishes.get("top_p"),
            "ends": [int(ends)] if isinstance(ends, int) else [int(one) for one in ends],
            "seed": int(wishes.get("seed") or 0),
            "on_token": on_token,
        },
        for_engine([*model.interventions, *as_list(interventions)]),
        list(model._hooks.values()),
    )
    whole = [[*row.ids, *new] for row, (new, _, _) in zip(rows, continued, strict=True)]
    output = _output(model, whole, return_text)
    if target_token_positions is None and extraction_config is None:
        return output
    # The model was not built to read what comes after its context: the token that ends a row there was only chosen.
    most = model._engine.sizes["max_position_embeddings"]
    longer = [
        Row(ids[:most], row.text, n_new=len(ids[:most]) - len(row.ids)) for ids, row in zip(whole, rows, strict=True)
    ]
    positions = ("all",) if target_token_positions is None else target_token_positions
    cache = model.run(longer, positions, extraction_config, interventions=as_list(interventions))
    return {"generation_output": output, "cache": cache}


def _output(model: HookedModel, whole: list[list[int]], return_text: bool) -> Any:
    if return_text:
        texts = model.get_text_tokenizer().batch_decode(whole, skip_special_tokens=True)
        return texts[0] if len(texts) == 1 else texts
    if len({len(row) for row in whole}) == 1:
        return _ids(whole)
    return [_ids([row])[0] for row in whole]


def _ids(rows: list[list[int]]) -> Any:
    from array import array

    flat = array("q", [one for row in rows for one in row])
    return tensors.handed_out(Tensor.from_bytes(flat.tobytes(), [len(rows), len(rows[0])], "int64"))


def _wishes(config: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for, from a dictionary or a configuration of transformers, and from keywords, which win."""
    given: dict[str, Any] = {}
    if isinstance(config, Mapping):
        given.update(config)
    elif hasattr(config, "to_diff_dict"):
        given.update({key: value for key, value in config.to_diff_dict().items() if key not in _SAY_NOTHING})
    elif config is not None:
        raise InputError(f"generation_config is a dictionary or a GenerationConfig, not {type(config).__name__}")
    given.update(settings)
    unknown = next((key for key, value in given.items() if key not in _KNOWN and value is not None), None)
    if unknown is not None:
        raise InputError(f"generate() does not know {unknown!r}", f"it knows {', '.join(_KNOWN)}")
    return {key: value for key, value in given.items() if value is not None}
