"""All errors of easyroutine. Each derives from :class:`EasyroutineError` and from the built-in that fits."""

from __future__ import annotations

from easyroutine.hints import in_python

__all__ = [
    "ConfigError",
    "DownloadError",
    "EasyroutineError",
    "ExchangeError",
    "FormatError",
    "InputError",
    "KeyNotFoundError",
    "MissingPackageError",
    "NotCachedError",
    "NotFoundError",
    "OutOfMemoryError",
    "ReplacedAttributeError",
    "ReplacedError",
    "StorageError",
    "TokenizerError",
    "UnsupportedError",
]


class EasyroutineError(Exception):
    """The base of all errors.

    The first argument says what is wrong; ``hint`` names the remedy, where there is one.
    """

    def __init__(self, message: str = "", hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[type[EasyroutineError], tuple[str, str | None]]:
        return type(self), (self.message, self.hint)


class InputError(EasyroutineError, ValueError):
    """The request names something that does not exist or does not fit: a name, a layer, a position, a shape."""


class ExchangeError(InputError, BufferError, TypeError):
    """This package and another library cannot exchange an array."""


class KeyNotFoundError(EasyroutineError, KeyError):
    """A cache does not hold this key."""


class NotFoundError(EasyroutineError, FileNotFoundError):
    """There is no such model, store, run or tensor."""


class NotCachedError(EasyroutineError, OSError):
    """The model is not on this machine, and downloading is not allowed."""


class DownloadError(EasyroutineError, OSError):
    """Downloading failed, or the hub wants a licence accepted or a token."""


class UnsupportedError(EasyroutineError, NotImplementedError, ValueError):
    """easyroutine knows this model or operation but does not compute it."""


class ConfigError(EasyroutineError, ValueError):
    """config.json is wrong, or the weights do not match it."""


class FormatError(EasyroutineError, ValueError):
    """A file is damaged or not of the format it claims."""


class TokenizerError(EasyroutineError, ValueError):
    """The tokenizer cannot be built or cannot do what was asked."""


class OutOfMemoryError(EasyroutineError, MemoryError):
    """Not enough memory."""


class StorageError(EasyroutineError, OSError):
    """The operating system refused to read or write."""


class ReplacedError(EasyroutineError, ImportError):
    """The original has this name; this package does the work in another way."""


class ReplacedAttributeError(EasyroutineError, AttributeError):
    """The original's class has this attribute; this package does the work in another way."""


class MissingPackageError(EasyroutineError, ImportError):
    """This needs a package that is not installed."""


_KINDS: dict[str, type[EasyroutineError]] = {
    "not_found": NotFoundError,
    "offline": NotCachedError,
    "gated": DownloadError,
    "network": DownloadError,
    "invalid_reference": InputError,
    "input": InputError,
    "exchange": ExchangeError,
    "unsupported": UnsupportedError,
    "config": ConfigError,
    "weights": ConfigError,
    "format": FormatError,
    "tokenizer": TokenizerError,
    "memory": OutOfMemoryError,
    "io": StorageError,
}


def of_kind(kind: str, message: str, hint: str | None) -> BaseException:
    """The exception for an error of the engine."""
    if kind == "interrupted":
        return KeyboardInterrupt()
    return _KINDS.get(kind, EasyroutineError)(in_python(message), None if hint is None else in_python(hint))
