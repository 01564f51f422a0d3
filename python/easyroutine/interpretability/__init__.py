"""Models whose activations can be read, caches that hold them, and the logit lens."""

from easyroutine.interpretability.activation_cache import ActivationCache, ValueWithInfo
from easyroutine.interpretability.activation_saver import ActivationLoader, ActivationSaver, QueryResult
from easyroutine.interpretability.attention_result import AttentionResult
from easyroutine.interpretability.checkpoints import CheckpointComparison, compare_checkpoints
from easyroutine.interpretability.circuits import Circuit
from easyroutine.interpretability.dictionary import Dictionary, Features
from easyroutine.interpretability.directions import Directions
from easyroutine.interpretability.extraction_config import ExtractionConfig
from easyroutine.interpretability.graphs import AttributionGraph
from easyroutine.interpretability.hooked_model import HookedModel, HookedModelConfig
from easyroutine.interpretability.interventions import FeatureIntervention, Intervention, InterventionConfig
from easyroutine.interpretability.lens_result import LensResult
from easyroutine.interpretability.patching import PatchingGrid
from easyroutine.interpretability.stored_run import StoredRun
from easyroutine.interpretability.token_index import TokenIndex
from easyroutine.interpretability.tools import LogitLens

__all__ = [
    "ActivationCache",
    "ActivationLoader",
    "ActivationSaver",
    "AttentionResult",
    "AttributionGraph",
    "CheckpointComparison",
    "Circuit",
    "Dictionary",
    "Directions",
    "ExtractionConfig",
    "FeatureIntervention",
    "Features",
    "HookedModel",
    "HookedModelConfig",
    "Intervention",
    "InterventionConfig",
    "LensResult",
    "LogitLens",
    "PatchingGrid",
    "QueryResult",
    "StoredRun",
    "TokenIndex",
    "ValueWithInfo",
    "compare_checkpoints",
]
