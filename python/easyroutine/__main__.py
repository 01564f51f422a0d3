"""The command ``easyroutine``, also as ``python -m easyroutine``."""

from __future__ import annotations

import os
import signal
import sys

from easyroutine._core import command

__all__ = ["main"]


def main() -> int:
    """Runs the command line of this process and returns its exit status."""
    # Python only notes a Ctrl-C until its own code runs again, which it does at the end: the command sees to it itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    name = os.path.basename(sys.argv[0])
    return command(["easyroutine" if name == "__main__.py" else name, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
