"""Loading a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike, fspath
from os.path import isfile, join
from typing import Any, Literal

from easyroutine.checks import listed, string, truth, whole
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.progress import download_progress

__all__ = ["HookedModelConfig", "config_of_keywords"]

_DTYPES = {
    "float32": "float32",
    "float": "float32",
    "f32": "float32",
    "fp32": "float32",
    "auto": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
}
_MAPS = ("balanced", "balanced_low_0", "sequential", "auto", "cpu")
#: Keywords of transformers that have no effect here, whatever their values.
_INERT = ("low_cpu_mem_usage", "output_attentions", "output_hidden_states", "use_cache")
#: Keywords that are accepted only while they request nothing, with what to do instead.
_REFUSED = {
    "load_in_8bit": "a GGUF file holds quantised weights",
    "load_in_4bit": "a GGUF file holds quantised weights",
    "quantization_config": "a GGUF file holds quantised weights",
    "trust_remote_code": "code of a repository is never run: the families that are built in are read without it",
    "token": "set the environment variable HF_TOKEN",
    "use_auth_token": "set the environment variable HF_TOKEN",
    "cache_dir": "set the environment variable HF_HUB_CACHE",
    "force_download": "remove the model from the Hugging Face cache",
    "max_memory": "weights are read from the mapped file, and only the CPU computes",
    "offload_folder": "weights are read from the mapped file, and only the CPU computes",
    "subfolder": "give the path of the folder itself",
    "variant": "give the path of a folder that holds these files alone",
    "gguf_file": "give the path of the GGUF file as the model",
}


def config_of_keywords(model_name: Any, given: Mapping[str, Any]) -> HookedModelConfig:
    """The configuration from keywords of ``from_pretrained``.

    They are the fields of :class:`HookedModelConfig`, and those of transformers, which are honoured or rejected by
    name.
    """
    keywords: dict[str, Any] = dict(given)
    for name, hint in _REFUSED.items():
        if keywords.pop(name, None):
            raise UnsupportedError(f"{name}={given[name]!r:.80} is not something that this package does", hint)
    for name in _INERT:
        keywords.pop(name, None)
    if keywords.pop("use_safetensors", True) is False:
        raise UnsupportedError(
            "use_safetensors=False asks for pickled weights, which can run code", "safetensors, GGUF"
        )
    _rename(keywords, "dtype", "torch_dtype", _dtype)
    _rename(keywords, "device", "device_map", _device)
    _rename(keywords, "local_files_only", "offline", bool)
    known = {one.name for one in fields(HookedModelConfig)} - {"model_name"}
    unknown = next((name for name in keywords if name not in known), None)
    if unknown is not None:
        raise TypeError(
            f"from_pretrained has no argument {unknown!r}; it has {', '.join(sorted(known))}, and takes dtype, device and "
            "local_files_only of transformers"
        )
    # In transformers, None means the default.
    named = ("torch_dtype", "device_map", "attn_implementation")
    wanted: dict[str, Any] = {name: value for name, value in keywords.items() if value is not None or name not in named}
    return HookedModelConfig(model_name=model_name, **wanted)


def _rename(keywords: dict[str, Any], alias: str, name: str, read: Any) -> None:
    """Renames an argument to its name here; both may be given if they agree."""
    if alias not in keywords:
        return
    value = keywords.pop(alias)
    if value is None:
        return
    other = keywords.get(name)
    if other is not None and read(other) != read(value):
        raise InputError(f"{alias}={value!r} and {name}={other!r} disagree", f"give only {alias}")
    keywords[name] = value


def _dtype(given: Any) -> str:
    """The name of a compute dtype."""
    name = given if isinstance(given, str) else getattr(given, "__name__", None) or str(given)
    name = name.removeprefix("torch.")
    if name not in _DTYPES:
        raise UnsupportedError(
            f"dtype {name!r} is not computed here",
            '"float32" has the numbers of transformers, "bfloat16" takes half the memory',
        )
    return _DTYPES[name]


def _device(given: Any) -> str:
    """The name of a device map, all of whose devices are the CPU."""
    parts = list(given.values()) if isinstance(given, Mapping) else [given]
    names = [f"cuda:{part}" if isinstance(part, int) else str(part) for part in parts]
    wrong = next((name for name in names if name.partition(":")[0] not in _MAPS), None)
    if wrong is not None:
        raise UnsupportedError(f"device {wrong!r}: models run on the CPU, fast", 'device_map="cpu", or leave it out')
    return "cpu" if isinstance(given, Mapping) or names[0].startswith("cpu") else names[0]


@dataclass
class HookedModelConfig:
    """The settings for loading a model.

    Args:
        model_name: A folder, a GGUF file, ``org/name`` of the hub, or a demo model.
        device_map: Everything runs on the CPU: ``cuda`` and ``mps`` are refused. A torch device, or a map of devices,
            may name the CPU.
        torch_dtype: ``float32`` (``auto`` too) or ``bfloat16``, as a string or as torch's dtype: what matrix products
            read. Activations are float32. :meth:`HookedModel.from_pretrained` takes it as ``dtype`` too.
        attn_implementation: Both values mean the same here: attention patterns can be read and changed in every model.
        batch_size: How many prompts :meth:`HookedModel.extract_cache` groups into a batch.
        threads: How many threads compute; all cores by default.
        revision: Branch, tag or commit on the hub.
        offline: Use only what is on this machine.
        allow_config_keys: Keys of config.json that may stay unread.
        pre: The rule for cutting text, if a GGUF file does not name it: ``"llama-bpe"``, ``"qwen2"`` and so on.
        allow_tensors: Surplus tensors of the weights to ignore, by name or by a pattern such as ``"*.k_scale"``.
        adapter: The LoRA adapter to apply: a folder as peft writes it, or ``org/name`` of the hub. None applies the one
            beside the weights, if there is one; False ignores it.
        memory: Bytes that weights and activations may take, as a number or as ``"3G"``; what is free by default. Of a model
            that needs more, every run reads one layer after another, and :meth:`HookedModel.extract_cache` takes many batches
            through each. Results are the same to the bit.
    """

    model_name: str
    device_map: Any = "balanced"
    torch_dtype: Any = "float32"
    attn_implementation: Literal["eager", "custom_eager"] = "custom_eager"
    batch_size: int = 1
    threads: int | None = None
    revision: str | None = None
    offline: bool = False
    allow_config_keys: list[str] = field(default_factory=list)
    pre: str | None = None
    allow_tensors: list[str] = field(default_factory=list)
    adapter: str | PathLike[str] | bool | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, (str, PathLike)):
            raise InputError(
                f"model_name is {self.model_name!r:.80}",
                "it is a folder, a GGUF file, or org/name of the Hugging Face hub",
            )
        self.model_name = string(str(self.model_name), "model_name")
        if self.pre is not None and isfile(join(self.model_name, "config.json")):
            raise InputError(f"pre={self.pre!r} is for GGUF files, and {self.model_name} is a folder", "leave pre out")
        for name in ("revision", "pre"):
            if getattr(self, name) is not None:
                string(getattr(self, name), name)
        self.offline = truth(self.offline, "offline")
        self.device_map = _device(self.device_map)
        self.torch_dtype = _dtype(self.torch_dtype)
        if self.attn_implementation not in ("eager", "custom_eager"):
            raise InputError(
                f"attn_implementation={self.attn_implementation!r} hides attention patterns",
                'attn_implementation="eager"',
            )
        self.batch_size = whole(self.batch_size, "batch_size", 1)
        if self.threads is not None:
            self.threads = whole(self.threads, "threads", 1)
        if isinstance(self.memory, str):
            string(self.memory, "memory")
        elif self.memory is not None:
            self.memory = whole(self.memory, "memory", 1)
        for name, what in (("allow_config_keys", "keys"), ("allow_tensors", "names")):
            given = getattr(self, name)
            if isinstance(given, str):
                raise InputError(f"{name} is a list of {what}, not a string", f"{name}=[{given!r}]")
            setattr(self, name, [string(one, f"one of {name}") for one in listed(given, name, what)])
        if self.adapter is not None and not isinstance(self.adapter, bool):
            if not isinstance(self.adapter, (str, PathLike)):
                raise InputError(f"adapter is {self.adapter!r:.80}; it must be a folder, org/name of the hub, or False")
            self.adapter = string(fspath(self.adapter), "adapter")

    def for_engine(self) -> dict[str, Any]:
        """The engine's options for opening the model, besides its name."""
        named = None if self.adapter is None or isinstance(self.adapter, bool) else fspath(self.adapter)
        return {
            "dtype": self.torch_dtype,
            "revision": self.revision,
            "offline": self.offline,
            "allow_config_keys": self.allow_config_keys,
            "allow_tensors": self.allow_tensors,
            "adapter": named,
            "with_adapter": self.adapter is not False,
            "progress": download_progress(),
        }
