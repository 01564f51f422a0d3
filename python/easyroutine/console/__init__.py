"""Progress on a terminal, in a notebook, or line by line in the log of a batch job."""

from easyroutine.console.progress import progress

__all__ = ["progress"]
