"""The command ``easyroutine``, also as ``python -m easyroutine``."""

from __future__ import annotations

import os
import signal
import sys

from easyroutine._core import command

__all__ = ["main"]


def main() -> int:
    """Runs this process's command line and returns its exit status."""
    # Python handles a Ctrl-C only when its own code runs again, which is at the end, so the command handles it itself.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    name = os.path.basename(sys.argv[0])
    return command(["easyroutine" if name == "__main__.py" else name, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
