"""How a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from easyroutine.checks import whole
from easyroutine.errors import InputError, UnsupportedError

__all__ = ["HookedModelConfig"]

_DTYPES = {
    "float32": "float32",
    "f32": "float32",
    "auto": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}


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
        self.batch_size = whole(self.batch_size, "batch_size", 1)
        if self.threads is not None:
            self.threads = whole(self.threads, "threads", 1)
        if isinstance(self.allow_config_keys, str):
            raise InputError(
                "allow_config_keys is a list of keys, not a string", f"allow_config_keys=[{self.allow_config_keys!r}]"
            )
        self.allow_config_keys = list(self.allow_config_keys)
