"""Tools that compute on activations."""

from easyroutine.interpretability.tools.logit_lens import LogitLens

__all__ = ["LogitLens"]
