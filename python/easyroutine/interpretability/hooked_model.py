"""A model whose activations can be read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from os import PathLike
from typing import Any, Literal

from easyroutine import tensors
from easyroutine._core import Model as _Engine
from easyroutine._core import Tensor, most_likely
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability.activation_cache import ActivationCache, ValueWithInfo
from easyroutine.interpretability.extraction_config import ExtractionConfig, config_json
from easyroutine.interpretability.inputs import rows_of
from easyroutine.interpretability.lens_result import LensResult
from easyroutine.interpretability.model_parts import LastLayerNorm, LMHead, ModelConfig
from easyroutine.interpretability.selection import Position, Selection, as_json, normalised
from easyroutine.progress import download_progress
from easyroutine.tokenizer import Tokenizer

__all__ = ["HookedModel", "HookedModelConfig"]

_DTYPES = {
    "float32": "float32",
    "f32": "float32",
    "auto": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}

#: Activations that the original hands out with a word on their axes.
_WITH_INFO = ("head_queries_", "head_keys_", "head_values_", "head_out_")


@dataclass
class HookedModelConfig:
    """How a model is loaded."""

    #: A folder, a GGUF file, ``org/name`` of the hub, or a demo model.
    model_name: str
    #: Everything is computed on the CPU: ``cuda`` is refused.
    device_map: Literal["balanced", "cuda", "cpu", "auto"] = "balanced"
    #: ``float32`` or ``bfloat16``, as a string or as torch's dtype: what matrix products read. Activations are float32.
    torch_dtype: Any = "float32"
    #: Both are the same here: attention patterns can be read and changed in every model.
    attn_implementation: Literal["eager", "custom_eager"] = "custom_eager"
    #: How many prompts :meth:`HookedModel.extract_cache` runs at a time where it is given texts.
    batch_size: int = 1
    #: Threads of the arithmetic; all cores by default.
    threads: int | None = None
    #: Branch, tag or commit on the hub.
    revision: str | None = None
    #: Use what is on this machine alone.
    offline: bool = False
    #: Keys of config.json that may stay unread.
    allow_config_keys: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model_name = str(self.model_name)
        if self.device_map not in ("balanced", "cpu", "auto"):
            raise UnsupportedError(
                f"device_map={self.device_map!r}: models run on the CPU", 'device_map="cpu" or "auto"'
            )
        dtype = str(self.torch_dtype).removeprefix("torch.")
        if dtype not in _DTYPES:
            raise UnsupportedError(f"torch_dtype={self.torch_dtype!r} is not computed", "float32 or bfloat16")
        self.torch_dtype = _DTYPES[dtype]
        if self.attn_implementation not in ("eager", "custom_eager"):
            raise InputError(
                f"attn_implementation={self.attn_implementation!r} hides attention patterns",
                'attn_implementation="eager"',
            )
        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}; it is at least 1")


class HookedModel:
    """A decoder, ready to run, whose activations can be read.

    Its numbers are those of ``transformers`` with eager attention, for one row alone or in any batch, padded or not.
    """

    def __init__(self, config: HookedModelConfig) -> None:
        self.config = config
        self._engine = _Engine.open(
            config.model_name,
            dtype=config.torch_dtype,
            threads=config.threads,
            revision=config.revision,
            offline=config.offline,
            allow_config_keys=config.allow_config_keys,
            progress=download_progress(),
        )
        for key in self._engine.let_through:
            warnings.warn(f"config key {key!r} was let through: it is not computed", stacklevel=3)
        self._tokenizer: Tokenizer | None = None
        self._model_config: ModelConfig | None = None

    @classmethod
    def from_pretrained(cls, model_name: str | PathLike[str], **kwargs: Any) -> HookedModel:
        """Loads a model.

        ``model_name`` is a folder with ``config.json`` and safetensors, a GGUF file, or ``org/name`` of the Hugging Face hub,
        which is downloaded where it is not cached. Further arguments are the fields of :class:`HookedModelConfig`.
        """
        known = {one.name for one in fields(HookedModelConfig)} - {"model_name"}
        unknown = next((name for name in kwargs if name not in known), None)
        if unknown is not None:
            raise TypeError(f"from_pretrained has no argument {unknown!r}; it has {', '.join(sorted(known))}")
        return cls(HookedModelConfig(model_name=str(model_name), **kwargs))

    # What the model is.

    @property
    def name(self) -> str:
        """The hub id, else the stem of the folder or file."""
        return self._engine.name

    @property
    def model_config(self) -> ModelConfig:
        """Sizes under the names of transformers, and every key of config.json."""
        if self._model_config is None:
            self._model_config = ModelConfig(json.loads(self._engine.config), self._engine.sizes)
        return self._model_config

    @property
    def hf_tokenizer(self) -> Tokenizer:
        """The same as :meth:`get_tokenizer`."""
        return self.get_text_tokenizer()

    def get_tokenizer(self, backend: Literal["easyroutine", "hf"] = "easyroutine") -> Any:
        """The model's tokenizer; with ``backend="hf"`` that of transformers, which must be installed."""
        if backend == "hf":
            transformers = tensors.needed("transformers", 'get_tokenizer(backend="hf")')
            return transformers.AutoTokenizer.from_pretrained(self._engine.path)
        if backend != "easyroutine":
            raise InputError(f'backend is "easyroutine" or "hf", not {backend!r}')
        return self.get_text_tokenizer()

    def get_text_tokenizer(self) -> Tokenizer:
        """The same as :meth:`get_tokenizer`: these models read text alone."""
        if self._tokenizer is None:
            origin = {
                "reference": self.config.model_name,
                "revision": self.config.revision,
                "offline": self.config.offline,
            }
            self._tokenizer = Tokenizer(self._engine.tokenizer(), self.name, origin)
        return self._tokenizer

    def get_processor(self) -> None:
        """None: these models read text alone."""

    def is_multimodal(self) -> bool:
        """False: these models read text alone."""
        return False

    def use_full_model(self) -> None:
        """Nothing to do: these models read text alone."""

    def use_language_model_only(self) -> None:
        """Nothing to do: these models read text alone."""

    def get_image_placeholder(self) -> str:
        """An error: these models read text alone."""
        raise UnsupportedError("models with a vision tower are not built, so there is no placeholder for images")

    def get_lm_head(self) -> LMHead:
        """The unembedding: ``.weight`` is [V, D] in float32."""
        return LMHead.of(self._engine)

    def get_last_layernorm(self) -> LastLayerNorm | None:
        """The final norm; None where the architecture has none."""
        return LastLayerNorm.of(self._engine)

    def device(self) -> Any:
        """``cpu``, as torch's device where torch is what activations come as."""
        if tensors.get_tensor_backend() == "torch":
            return tensors.needed("torch", "device()").device("cpu")
        return "cpu"

    def eval(self) -> HookedModel:
        """Nothing to do: nothing here is trained."""
        return self

    def to_string_tokens(self, tokens: Any) -> list[str]:
        """What each token of ids, or of a text, stands for."""
        return self.get_text_tokenizer().to_string_tokens(tokens)

    # PyTorch's modules, of which there are none.

    def set_custom_modules(self) -> None:
        """Nothing to do: attention patterns can be read and changed in every model."""

    def restore_original_modules(self) -> None:
        """Nothing to do: no module is ever replaced."""

    def get_module_from_string(self, component: str) -> Any:
        """An error: there are no PyTorch modules. Activations are read by their keys."""
        raise UnsupportedError(
            f"no module {component!r}: the model is not made of PyTorch modules",
            "read activations by key (ExtractionConfig), weights of the ends by get_lm_head() and get_last_layernorm()",
        )

    # Running it.

    def __call__(self, *args: Any, **kwargs: Any) -> ActivationCache:
        """The same as :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        inputs: Any,
        target_token_positions: Sequence[Position] | Position = ("all",),
        pivot_positions: Sequence[int] | None = None,
        extraction_config: ExtractionConfig | None = None,
        interventions: Sequence[Any] | None = None,
        external_cache: ActivationCache | None = None,
        batch_idx: int | None = None,
        move_to_cpu: bool = False,
        vocabulary_index: int | None = None,
        *,
        seed: int = 0,
        first_row: int = 0,
    ) -> ActivationCache:
        """Runs the model and keeps what is asked for.

        ``inputs``: a text, a list of texts, token ids (a list, or an array of numpy or torch), rows of them, or a mapping with
        ``input_ids`` and perhaps ``attention_mask``. Positions count the real tokens of a row: padding is cut off.

        ``pivot_positions`` cut rows for ``inputs-partition-N``. ``external_cache`` and ``batch_idx`` carry the means of
        ``avg_over_example`` on from batch to batch. ``seed`` and ``first_row``, the number of the first row in its data set,
        decide what ``random-text`` draws. ``move_to_cpu`` has nothing to move; ``vocabulary_index`` belongs to ``keep_gradient``,
        which is refused.
        """
        if interventions:
            raise NotImplementedError("interventions of a run are not built yet")
        if vocabulary_index is not None:
            raise UnsupportedError(
                "vocabulary_index asks for a gradient, and this engine runs forward only",
                "take gradients with PyTorch",
            )
        rows = rows_of(inputs, self._tokenizer_of(inputs))
        positions = normalised(
            list(target_token_positions)
            if not isinstance(target_token_positions, (str, int, tuple))
            else target_token_positions
        )
        config = extraction_config if extraction_config is not None else ExtractionConfig()
        running, running_rows = _means_so_far(config, external_cache, batch_idx, len(rows))
        kept = self._engine.forward(
            [row.for_engine() for row in rows],
            positions=as_json(positions),
            config=config_json(config),
            pivots=[int(one) for one in pivot_positions or ()],
            seed=seed,
            first_row=first_row,
            running=running,
            running_rows=running_rows,
        )
        cache = _cache_of(kept, positions, config)
        if external_cache is not None:
            for key in cache:
                if key.startswith("avg_pattern_"):
                    external_cache[key] = cache.raw(key)
        return cache

    def predict(
        self, inputs: Any, k: int = 10, strip: bool = True, **kwargs: Any
    ) -> dict[str, float] | list[dict[str, float]]:
        """The ``k`` most likely next tokens with their probabilities, after the last of the selected positions.

        Several rows give one dictionary each. ``strip`` takes blanks off the tokens; of two that are then the same the likelier
        one stays. Further arguments are those of :meth:`forward`.
        """
        kwargs.setdefault("target_token_positions", ["last"])
        cache = self.forward(inputs, extraction_config=ExtractionConfig(), **kwargs)
        tokenizer = self.get_text_tokenizer()
        found = []
        for logits in cache.raw("logits"):
            likely: dict[str, float] = {}
            for token, probability in most_likely(logits[-1], k):
                text = tokenizer.decode(token)
                likely.setdefault(text.strip() if strip else text, probability)
            found.append(likely)
        return found[0] if len(found) == 1 else found

    def lens(
        self,
        prompt: Any,
        *,
        positions: Sequence[Position] | Position | None = None,
        layers: Iterable[int] | None = None,
        component: str = "resid_out",
        norm: Literal["own", "cached", "none"] = "own",
        k: int = 10,
        track: str | int | None = None,
    ) -> LensResult:
        """What each layer would predict at each token of one prompt, as a table and a picture.

        Nothing as wide as the vocabulary is ever held. ``layers`` are numbers, -1 the embedding; ``track`` follows one token.
        """
        rows = rows_of(prompt, self._tokenizer_of(prompt))
        if len(rows) != 1:
            raise InputError(f"a lens is drawn of one prompt at a time, not of {len(rows)}")
        tracked = self.get_text_tokenizer().to_single_token(track) if isinstance(track, str) else track
        return LensResult.of_prompt(
            self._engine,
            rows[0].for_engine(),
            positions=None if positions is None else as_json(normalised(positions, "positions")),
            layers=None if layers is None else list(layers),
            component=component,
            norm=norm,
            k=k,
            tracked=tracked,
        )

    def _tokenizer_of(self, inputs: Any) -> Tokenizer | None:
        """The tokenizer, where the inputs are text."""
        is_text = isinstance(inputs, str) or (
            isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], str)
        )
        return self.get_text_tokenizer() if is_text else None

    # Copies and pictures.

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]

    def __copy__(self) -> HookedModel:
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedModel:
        # Weights are never changed, so copies share them.
        return self.__copy__()

    def __repr__(self) -> str:
        sizes = self._engine.sizes
        return (
            f"HookedModel({self.name!r}, {self._engine.model_type}, {sizes['num_hidden_layers']} layers, "
            f"{sizes['num_attention_heads']} heads, d_model {sizes['hidden_size']}, {self._engine.dtype})"
        )


def _means_so_far(
    config: ExtractionConfig, cache: ActivationCache | None, batch_idx: int | None, n_rows: int
) -> tuple[list[tuple[str, Tensor]], int]:
    """Means over examples to go on from, and of how many rows they are."""
    if cache is None or not getattr(config, "avg_over_example", False):
        return [], 0
    keys = [key for key in cache if key.startswith("avg_pattern_")]
    if not keys or batch_idx == 0:
        return [], 0
    if batch_idx is None:
        raise InputError("external_cache holds means over examples: batch_idx says of how many batches they are")
    return [(key, tensors.as_tensor(cache.raw(key), key)) for key in keys], batch_idx * n_rows


def _cache_of(kept: Mapping[str, Any], positions: list[Position], config: Any) -> ActivationCache:
    """What the engine kept as a cache."""
    cache = ActivationCache()
    statistics: dict[str, Any] = {}
    for key, value, info in kept["entries"]:
        if key.startswith("last_layernorm."):
            statistics[key.removeprefix("last_layernorm.")] = value
            cache["last_layernorm"] = statistics
        elif key.startswith(_WITH_INFO):
            cache[key] = ValueWithInfo(value, f"Shape: {info}")
        else:
            cache[key] = value
    cache._selection = Selection(positions, kept["selection"], kept["averaged"])
    cache.update(cache._selection.tables())
    rows = getattr(config, "attn_pattern_row_positions", None)
    if kept["pattern_rows"] is not None and rows is not None:
        cache._pattern_rows = Selection(normalised(rows), kept["pattern_rows"], kept["averaged"])
        cache.update(cache._pattern_rows.tables("_rows"))
    return cache
