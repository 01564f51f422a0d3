"""What is computed of activations."""

from easyroutine.interpretability.tools.logit_lens import LogitLens

__all__ = ["LogitLens"]
