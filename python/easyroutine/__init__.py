"""Look inside language models: run any Hugging Face decoder, read its activations, project them onto the vocabulary.

``from easyroutine.interpretability import HookedModel`` is where most work begins. Importing this package imports
neither torch nor numpy nor transformers; they are used where they are installed.
"""

import os as _os

from easyroutine import errors
from easyroutine._core import Tensor, __version__
from easyroutine._core import forked as _forked
from easyroutine.arithmetic import equip as _equip
from easyroutine.errors import EasyroutineError
from easyroutine.logger import logger
from easyroutine.tensors import get_tensor_backend, set_tensor_backend
from easyroutine.utils import path_to_parents

__all__ = [
    "EasyroutineError",
    "Tensor",
    "__version__",
    "errors",
    "get_tensor_backend",
    "logger",
    "path_to_parents",
    "set_tensor_backend",
]

_equip()

if hasattr(_os, "register_at_fork"):
    # A fork copies memory but no threads: models in the child run on one thread, with the same results.
    _os.register_at_fork(after_in_child=_forked)
