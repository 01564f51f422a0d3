"""The package's logger. It shows nothing until you ask: ``enable_info_logging()``, or :mod:`logging` itself."""

from __future__ import annotations

import logging
from os import PathLike, fspath

from easyroutine.errors import InputError

__all__ = [
    "disable_logging",
    "enable_debug_logging",
    "enable_info_logging",
    "enable_warning_logging",
    "log_to",
    "logger",
    "setup_default_logging",
    "setup_logging",
    "warning_once",
]

logger = logging.getLogger("easyroutine")
logger.addHandler(logging.NullHandler())
_said: set[str] = set()
_FORMAT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


def setup_logging(
    level: int | str = "INFO",
    file: str | PathLike[str] | None = None,
    console: bool = True,
    fmt: str = _FORMAT,
) -> logging.Logger:
    """Shows the package's messages of this level and above on standard error, and in ``file`` if given.

    It replaces any earlier setup. ``fmt`` is a :mod:`logging` format and applies to both.
    """
    number = _number(level)
    formatter = logging.Formatter(fmt)
    handlers: list[logging.Handler] = []
    if file is not None:
        handlers.append(logging.FileHandler(fspath(file)))
    if console:
        handlers.append(logging.StreamHandler())
    for old in _handlers():
        logger.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    logger.setLevel(number)
    return logger


def log_to(file: str | PathLike[str]) -> None:
    """Also writes messages of level INFO and above to a file; other handlers stay."""
    handler = logging.FileHandler(fspath(file))
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(handler)
    if logger.getEffectiveLevel() > logging.INFO:
        logger.setLevel(logging.INFO)


def setup_default_logging() -> None:
    """Shows messages of level INFO and above on standard error, unless something shows them already."""
    if not _is_shown():
        setup_logging()


def enable_debug_logging() -> None:
    """Shows every message."""
    _enable(logging.DEBUG)


def enable_info_logging() -> None:
    """Shows messages of level INFO and above."""
    _enable(logging.INFO)


def enable_warning_logging() -> None:
    """Shows warnings and errors."""
    _enable(logging.WARNING)


def disable_logging() -> None:
    """Shows nothing."""
    logger.setLevel(logging.CRITICAL + 1)


def warning_once(message: str) -> None:
    """Warns only the first time this message occurs."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)


def _enable(level: int) -> None:
    if _is_shown():
        logger.setLevel(level)
    else:
        setup_logging(level)


def _is_shown() -> bool:
    """Whether messages go anywhere: to a handler of this logger or of one above it."""
    return bool(_handlers()) or (logger.propagate and logging.getLogger().hasHandlers())


def _handlers() -> list[logging.Handler]:
    return [one for one in logger.handlers if not isinstance(one, logging.NullHandler)]


def _number(level: int | str) -> int:
    """A logging level from its number or name."""
    if isinstance(level, int):
        return level
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise InputError(f"logging has no level {level!r}", "DEBUG, INFO, WARNING, ERROR or CRITICAL")
    return number


# `from easyroutine import logger` gives the logger, which stands in for this module.
for _function in (
    setup_logging,
    enable_debug_logging,
    enable_info_logging,
    enable_warning_logging,
    disable_logging,
    warning_once,
):
    setattr(logger, _function.__name__, _function)
