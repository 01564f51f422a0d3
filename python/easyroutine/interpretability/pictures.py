"""Results as files and in notebooks."""

from __future__ import annotations

from html import escape
from os import PathLike, fspath
from pathlib import Path

from easyroutine.errors import InputError, StorageError

__all__ = ["framed", "written", "written_bytes"]


def written(text: str, path: str | PathLike[str] | None) -> str:
    """The text; written to ``path`` if given."""
    if path is not None:
        written_bytes(text.encode(), path)
    return text


def written_bytes(picture: bytes, path: str | PathLike[str] | None) -> bytes:
    """The picture; written to ``path`` if given."""
    if path is not None:
        try:
            Path(path).write_bytes(picture)
        except TypeError:
            raise InputError(f"path is {path!r:.80}; it must be a path to write to") from None
        except OSError as error:
            raise StorageError(f"{fspath(path)}: {error.strerror}") from error
    return picture


def framed(page: str, picture: str, title: str, height: int) -> str:
    """A page in an iframe ``height`` pixels high; the picture where scripts are off."""
    frame = (
        f'<iframe srcdoc="{escape(page, quote=True)}" style="width:100%;height:{min(height, 900)}px;border:0" '
        f'sandbox="allow-scripts allow-downloads" title="{escape(title, quote=True)}"></iframe>'
    )
    return f"{frame}<noscript>{picture}</noscript>"
