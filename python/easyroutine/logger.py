"""The package's logger. Nothing is printed: whoever wants to see it configures ``logging``."""

from __future__ import annotations

import logging

__all__ = ["logger", "setup_logging", "warning_once"]

logger = logging.getLogger("easyroutine")
logger.addHandler(logging.NullHandler())
_said: set[str] = set()


def setup_logging(level: int | str = "INFO", file: str | None = None) -> logging.Logger:
    """Shows the package's messages of this level and above on standard error, or writes them to a file."""
    handler: logging.Handler = logging.FileHandler(file) if file else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    for old in [one for one in logger.handlers if not isinstance(one, logging.NullHandler)]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    return logger


def warning_once(message: str) -> None:
    """Warns the first time that this is said."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)
