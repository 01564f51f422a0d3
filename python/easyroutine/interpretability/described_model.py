"""Describes a loaded model: its name, sizes, tokenizer, embedding and unembedding."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

from easyroutine import tensors
from easyroutine._core import Model as _Engine
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability.model_loading import HookedModelConfig
from easyroutine.interpretability.model_parts import LastLayerNorm, LMHead, ModelConfig, layernorm_type
from easyroutine.replaced import Replaced
from easyroutine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["DescribedModel"]


class DescribedModel(Replaced):
    """What a model can tell without running."""

    config: HookedModelConfig
    _engine: _Engine
    _tokenizer: Tokenizer | None
    _model_config: ModelConfig | None

    @property
    def name(self) -> str:
        """The hub id, else the stem of the folder or file name."""
        return self._engine.name

    @property
    def digest(self) -> str:
        """The digest of the model's content: ``blake3:`` and 64 hexadecimal digits over its files and how they were
        loaded.

        It is the same for every copy of the model, whatever the folder's name. The first call reads all files; later
        calls recognise the files and reuse the digest.
        """
        return self._engine.digest()

    @property
    def model_config(self) -> ModelConfig:
        """Sizes under transformers' names, and every key of config.json."""
        if self._model_config is None:
            norm = LastLayerNorm.of(self._engine)
            kind = {} if norm is None else {"layernorm_type": layernorm_type(norm.kind)}
            self._model_config = ModelConfig(json.loads(self._engine.config), {**self._engine.sizes, **kind})
        return self._model_config

    @property
    def hf_tokenizer(self) -> Tokenizer:
        """The same as :meth:`get_tokenizer`."""
        return self.get_text_tokenizer()

    def get_tokenizer(self, backend: Literal["easyroutine", "hf"] = "easyroutine") -> Any:
        """The model's tokenizer; with ``backend="hf"`` transformers' own, which must be installed."""
        if backend == "hf":
            transformers = tensors.needed("transformers", 'get_tokenizer(backend="hf")')
            return transformers.AutoTokenizer.from_pretrained(self._engine.path)
        if backend != "easyroutine":
            raise InputError(f'backend is "easyroutine" or "hf", not {backend!r}')
        return self.get_text_tokenizer()

    def get_text_tokenizer(self) -> Tokenizer:
        """The same as :meth:`get_tokenizer`: these models read only text."""
        if self._tokenizer is None:
            origin = {
                "reference": self.config.model_name,
                "revision": self.config.revision,
                "offline": self.config.offline,
                "pre": self.config.pre,
            }
            self._tokenizer = Tokenizer(self._engine.tokenizer(), self.name, origin)
        return self._tokenizer

    def get_processor(self) -> None:
        """None: these models read only text."""

    def is_multimodal(self) -> bool:
        """False: these models read only text."""
        return False

    def use_full_model(self) -> None:
        """Does nothing: these models read only text."""

    def use_language_model_only(self) -> None:
        """Does nothing: these models read only text."""

    def get_image_placeholder(self) -> str:
        """Raises an error: these models read only text."""
        raise UnsupportedError("models with a vision tower are not built, so there is no placeholder for images")

    def get_lm_head(self) -> LMHead:
        """The unembedding: ``.weight`` is [V, D] in float32."""
        return LMHead.of(self._engine)

    def get_last_layernorm(self) -> LastLayerNorm | None:
        """The final norm; None if the architecture has none."""
        return LastLayerNorm.of(self._engine)

    def device(self) -> Any:
        """``cpu``; a ``torch.device`` if activations are torch tensors."""
        if tensors.get_tensor_backend() == "torch":
            return tensors.needed("torch", "device()").device("cpu")
        return "cpu"

    def eval(self) -> Self:
        """Does nothing: there is no training mode."""
        return self

    def to_string_tokens(self, tokens: Any) -> list[str]:
        """The text of each token of ids or of a text."""
        return self.get_text_tokenizer().to_string_tokens(tokens)

    # PyTorch modules: there are none.

    def set_custom_modules(self) -> None:
        """Does nothing: attention patterns can be read and changed in every model."""

    def restore_original_modules(self) -> None:
        """Does nothing: no module is ever replaced."""

    def get_module_from_string(self, component: str) -> Any:
        """Raises an error: there are no PyTorch modules. Read activations by their keys."""
        raise UnsupportedError(
            f"no module {component!r}: the model is not made of PyTorch modules",
            "read activations by key (ExtractionConfig), weights of the ends by get_lm_head() and get_last_layernorm()",
        )
