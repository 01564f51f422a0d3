"""The logit lens: any activation through the final norm and the unembedding, as if it were the last."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal, Union

from easyroutine import tensors
from easyroutine._core import Lens
from easyroutine.checks import string
from easyroutine.errors import InputError, KeyNotFoundError
from easyroutine.hints import in_python
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.model_loading import HookedModelConfig
from easyroutine.interpretability.model_parts import LastLayerNorm, LMHead, layernorm_type
from easyroutine.interpretability.tools.given_parts import head_of, norm_numbers
from easyroutine.interpretability.value_with_info import ValueWithInfo
from easyroutine.replaced import Replaced

if TYPE_CHECKING:
    from easyroutine.interpretability.hooked_model import HookedModel
    from easyroutine.tokenizer import Tokenizer

__all__ = ["LogitLens"]

Token = Union[int, str]
Direction = Union[Token, tuple[Token, Token]]
_STATISTICS = ("mean", "variance", "second_moment")


class LogitLens(Replaced):
    """Final norm and unembedding of a model, applied to its activations."""

    def __init__(
        self,
        unembedding_matrix: Any,
        last_layer_norm: LastLayerNorm | None,
        model_name: str,
        model_config: Any,
    ) -> None:
        """A lens from given parts.

        ``unembedding_matrix`` is [V, D], or the result of ``model.get_lm_head()``, which also knows bias, divisor and
        softcap. ``last_layer_norm`` is the result of ``model.get_last_layernorm()``, or a torch module. A module is
        probed on a few vectors, so that Gemma's norms, which multiply by 1 + weight, come out right. ``model_config``
        supplies the scale and softcap of the logits if ``unembedding_matrix`` does not.
        """
        head = head_of(unembedding_matrix, model_config)
        optional = {"bias": head.bias, "divisor": head.divisor, "softcap": head.softcap}
        if optional["bias"] is not None:
            optional["bias"] = tensors.as_tensor(optional["bias"], "bias")
        self._lens = Lens.of_numbers(
            tensors.as_tensor(head.weight, "unembedding_matrix"), norm=norm_numbers(last_layer_norm), **optional
        )
        self.model_name = model_name
        self.model_config = model_config
        self._tokenizer: Tokenizer | None = None
        self._made_by: tuple[Callable[..., LogitLens], tuple[Any, ...]] | None = None

    @classmethod
    def from_model(cls, model: HookedModel) -> LogitLens:
        """The lens of a model; shares its weights."""
        return cls._of_model(Lens.of_model(model._engine), model, (_opened, (cls, model.config)))

    @classmethod
    def from_tuned_lens(cls, tuned_lens_path: str | PathLike[str], model: HookedModel) -> LogitLens:
        """A lens that first translates streams, ``h + W h + b``, as the tuned-lens package trained it for this model.

        ``tuned_lens_path`` is the folder that the package saved, with ``params.pt`` and ``config.json``; the pickle is
        read, never run. The lens takes ``resid_in_{l}``, and ``resid_out_{l}``, which is the next layer's input. A lens
        that was trained with another unembedding, by the hash in its config, brings a warning; so does one without a
        hash, if the model that it names has another name.
        """
        engine, warning = Lens.of_tuned_lens(fspath(tuned_lens_path), model._engine)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        return cls._of_model(engine, model, (cls.from_tuned_lens, (tuned_lens_path, model)))

    @classmethod
    def from_jacobian(cls, path: str | PathLike[str], model: HookedModel) -> LogitLens:
        """A lens that first carries streams to the last layer, ``h Jᵀ``, by the mean Jacobian of the layers between.

        ``path`` is a published ``.pt`` file, whose pickle is read and never run, or the output of ``easyroutine
        jacobian fit`` or :meth:`HookedModel.fit_jacobian_lens`. The lens takes ``resid_out_{l}`` for the layers in the
        file, and for the last. A file that says that it was fitted on another model brings a warning.
        """
        engine, warning = Lens.of_jacobian(fspath(path), model._engine)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        return cls._of_model(engine, model, (cls.from_jacobian, (path, model)))

    @classmethod
    def _of_model(
        cls, engine: Lens, model: HookedModel, made_by: tuple[Callable[..., LogitLens], tuple[Any, ...]]
    ) -> LogitLens:
        lens = cls.__new__(cls)
        lens._lens = engine
        lens.model_name = model.name
        lens.model_config = model.model_config
        lens._tokenizer = model.get_text_tokenizer() if model._engine.has_tokenizer else None
        lens._made_by = made_by
        return lens

    @classmethod
    def from_model_name(
        cls,
        model_name: str,
        *,
        torch_dtype: Any = "float32",
        dtype: Any = None,
        revision: str | None = None,
        offline: bool = False,
        allow_config_keys: Sequence[str] = (),
        allow_tensors: Sequence[str] = (),
        adapter: str | PathLike[str] | bool | None = None,
    ) -> LogitLens:
        """The lens of a model by name: reads only the unembedding and the final norm.

        ``dtype`` is ``torch_dtype``; the other arguments are those of :class:`HookedModelConfig`.
        """
        config = HookedModelConfig(
            model_name,
            torch_dtype=torch_dtype if dtype is None else dtype,
            revision=revision,
            offline=offline,
            allow_config_keys=list(allow_config_keys),
            allow_tensors=list(allow_tensors),
            adapter=adapter,
        )
        return _opened(cls, config)

    @classmethod
    def _read(cls, config: HookedModelConfig) -> LogitLens:
        from easyroutine.tokenizer import Tokenizer

        lens = cls.__new__(cls)
        lens._lens, lens.model_name, warned = Lens.open(config.model_name, **config.for_engine())
        for warning in warned:
            warnings.warn(in_python(warning), stacklevel=4)
        lens.model_config = None
        lens._made_by = (_opened, (cls, config))
        try:
            lens._tokenizer = Tokenizer.from_pretrained(
                config.model_name, revision=config.revision, offline=config.offline, pre=config.pre
            )
        except (ValueError, OSError):
            # Ids need no tokenizer.
            lens._tokenizer = None
        return lens

    def to(self, device: Any) -> LogitLens:
        """Does nothing: everything is computed on the CPU."""
        return self

    def device(self) -> str:
        """``cpu``."""
        return "cpu"

    def get_vocab_size(self) -> int:
        """The number of tokens that can be predicted, V."""
        return self._lens.vocab_size

    @property
    def unembed(self) -> Any:
        """The unembedding, [V, D] in float32."""
        return tensors.handed_out(self._lens.matrix())

    @property
    def norm(self) -> LastLayerNorm | None:
        """The final norm; None if the architecture has none."""
        found = self._lens.final_norm()
        if found is None:
            return None
        kind, eps, weight, bias = found
        return LastLayerNorm(kind, eps, tensors.handed_out(weight), tensors.handed_out(bias))

    @property
    def layernorm_type(self) -> str | None:
        """The kind of the final norm: ``RMS`` or ``LayerNorm``; None if there is none."""
        norm = self.norm
        return None if norm is None else layernorm_type(norm.kind)

    @property
    def num_attn_heads(self) -> int:
        """The number of heads in a layer, from the model's config."""
        if self.model_config is None:
            raise InputError("this lens was made without the model's config", "LogitLens.from_model(model) has it")
        return int(self.model_config.num_attention_heads)

    def apply_layernorm(self, act: Any, mean: Any, variance: Any, second_moment: Any, key: str) -> Any:
        """``act`` [..., D] through the final norm with the statistics [...] of another vector: torch or numpy
        throughout.

        An RMSNorm reads ``second_moment``: ``w x / sqrt(E[x²] + eps)``. A LayerNorm reads the other two, ``w (x - mean)
        / sqrt(variance + eps) + b``; if ``key`` is a head's, the bias is divided equally among the heads of a layer.
        """
        norm = self.norm
        if norm is None:
            raise InputError("this architecture has no final norm")
        if norm.kind == "rms":
            return norm.weight_like(act) * (act / (second_moment + norm.eps)[..., None] ** 0.5)
        out = (act - mean[..., None]) / (variance + norm.eps)[..., None] ** 0.5
        bias = norm.bias_like(act) / (self.num_attn_heads if "head" in key else 1)
        return norm.weight_like(act) * out + bias

    @staticmethod
    def get_keys(activations: Mapping[str, Any], key_pattern: str) -> list[str]:
        """Keys that match a pattern such as ``resid_out_{i}`` or ``head_out_L{i}H{j}``, in numerical order; no match
        raises an error.
        """
        parts = re.split(r"\{\w*\}", key_pattern)
        expression = re.compile(r"(\d+)".join(re.escape(part) for part in parts) + "$")
        found = [(match, key) for key in activations if (match := expression.match(key))]
        if not found:
            held = ", ".join(list(activations)[:8])
            raise KeyNotFoundError(f"the activations have no {key_pattern!r}; they have {held}")
        return [key for _, key in sorted(found, key=lambda e: [int(number) for number in e[0].groups()])]

    def compute(
        self,
        activations: Mapping[str, Any],
        target_key: str,
        token_directions: Direction | Sequence[Direction] | None = None,
        apply_norm: bool = True,
        apply_softmax: bool = False,
        metric: Literal["logit_diff", "accuracy"] | None = "logit_diff",
        *,
        norm: Literal["cached", "own", "none"] | None = None,
    ) -> dict[str, Any]:
        """Computes ``logit_lens_{key}`` for every key that ``target_key`` matches (``resid_out_5``, ``resid_out_{i}``).

        Without ``token_directions``, the values are logits [B, T, V], or probabilities with ``apply_softmax``. A
        direction is an id, a string that is one token, or a pair of them; one for all rows or one per row.
        ``logit_diff`` gives [B, T] before any softcap: the logit or, for a pair, the difference. With ``apply_softmax``
        it is the probability among all tokens, softcap included, or the difference of a pair's probabilities (the
        original ignored ``apply_softmax`` here). ``accuracy`` gives the share of rows where the first of a pair wins,
        [T], or a single number for T = 1; probabilities win where logits do.

        ``apply_norm`` uses the final norm's statistics from the same run, which must be among the activations
        (``extract_last_layernorm``): parts then add up to the whole. ``norm="own"`` uses each vector's own instead: the
        classic lens.
        """
        if not apply_norm and norm in ("own", "cached"):
            raise InputError(f"apply_norm=False asks for no norm, and norm={norm!r} for one", "pass one of them")
        if not isinstance(activations, Mapping):
            raise InputError(
                f"activations is {type(activations).__name__}; it must be a cache or a dictionary of arrays"
            )
        string(target_key, "target_key")
        chosen = norm or ("cached" if apply_norm else "none")
        keys = self.get_keys(activations, target_key)
        # Values as the cache holds them: the engine reads them, so no torch tensor is needed.
        value_of = activations.raw if isinstance(activations, ActivationCache) else activations.__getitem__
        entries = [(key, _rows_of(value_of(key), key)) for key in keys]
        if chosen == "cached" and "last_layernorm" in activations:
            statistics = value_of("last_layernorm")
            entries += [(f"last_layernorm.{one}", _rows_of(statistics[one], one)) for one in _STATISTICS]
        directions = None if token_directions is None else self._directions(token_directions)
        results = self._lens.compute(
            entries,
            target_key if "{" not in target_key else re.sub(r"\{\w*\}", "*", target_key),
            averaged=_is_averaged(activations),
            directions=directions,
            norm=chosen,
            softmax=apply_softmax,
            metric=metric or "logit_diff",
        )
        return {key: _one_number(value, metric) for key, value in results.items()}

    def _directions(self, given: Any) -> list[tuple[int, int | None]]:
        if isinstance(given, (int, str)) or (isinstance(given, tuple) and len(given) == 2):
            given = [given]
        directions: list[tuple[int, int | None]] = []
        for direction in given:
            if isinstance(direction, (tuple, list)):
                if len(direction) != 2:
                    raise InputError(f"a direction is a token or a pair of tokens, not {direction!r}")
                a, b = (self._token(one) for one in direction)
                if a == b:
                    warnings.warn(
                        f"both tokens of the direction {direction!r} have the id {a}, so their difference is 0. "
                        'tokenizer.encode(" yes")[0] is the token that begins every text where there is one: '
                        'use tokenizer.to_single_token(" yes"), or strings as directions',
                        stacklevel=3,
                    )
                self._warn_of_special(a, b)
                directions.append((a, b))
            else:
                a = self._token(direction)
                self._warn_of_special(a)
                directions.append((a, None))
        return directions

    def _warn_of_special(self, *ids: int) -> None:
        special = set(self._tokenizer.all_special_ids) if self._tokenizer is not None else set()
        found = [one for one in ids if one in special]
        if found and len(set(ids)) == len(ids):
            warnings.warn(f"the direction has the special token {found[0]}: is that meant?", stacklevel=4)

    def _token(self, token: Any) -> int:
        if isinstance(token, str):
            if self._tokenizer is None:
                raise InputError("strings as directions need the model's tokenizer", "give ids instead")
            return self._tokenizer.to_single_token(token)
        if hasattr(token, "item"):
            token = token.item()
        if not hasattr(token, "__index__") or isinstance(token, bool) or int(token) < 0:
            raise InputError(f"{token!r} is not a token: a direction is made of ids or strings")
        return int(token)

    def __reduce__(self) -> Any:
        if self._made_by is not None:
            return self._made_by
        bias, divisor, softcap = self._lens.rules()
        found = self._lens.final_norm()
        norm = None if found is None else LastLayerNorm(*found)
        head = LMHead(self._lens.matrix(), bias, divisor, softcap)
        return type(self), (head, norm, self.model_name, self.model_config)

    def __repr__(self) -> str:
        return f"LogitLens({self.model_name!r}, vocabulary of {self.get_vocab_size()})"


def _opened(cls: type[LogitLens], config: HookedModelConfig) -> LogitLens:
    """The lens of a model alone, for copies and pickles."""
    return cls._read(config)


def _is_averaged(activations: Mapping[str, Any]) -> bool:
    """Whether activations are means over positions; a cache knows this without its tables."""
    if isinstance(activations, ActivationCache) and activations._selection is not None:
        return activations._selection.averaged
    mapping = activations.get("mapping_index")
    return isinstance(mapping, Mapping) and mapping.get("info") == "avg"


def _rows_of(value: Any, key: str) -> Any:
    """A cache value in the engine's form: a tensor, or a list with one per row."""
    if isinstance(value, ValueWithInfo):
        value = value.value()
    if isinstance(value, list) and value and all(tensors.is_array(one) for one in value):
        return [tensors.as_tensor(one, key) for one in value]
    return tensors.as_tensor(value, key)


def _one_number(value: Any, metric: str | None) -> Any:
    if metric == "accuracy" and tensors.shape_of(value) == (1,):
        value = value[0]
    return tensors.handed_out(value)
