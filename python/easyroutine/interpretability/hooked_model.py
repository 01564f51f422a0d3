"""A model whose activations can be read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Literal

from easyroutine import tensors
from easyroutine._core import Attention, most_likely
from easyroutine._core import Model as _Engine
from easyroutine.checks import token_id, whole
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.activation_saver import ActivationSaver
from easyroutine.interpretability.attention_result import AttentionResult
from easyroutine.interpretability.dataset import as_given, extract_cache, extract_to_store
from easyroutine.interpretability.extraction_config import ExtractionConfig, as_config, config_json
from easyroutine.interpretability.generation import generate
from easyroutine.interpretability.inputs import Row, one_row, pivots_of, rows_of
from easyroutine.interpretability.interventions import Intervention, as_list, for_engine
from easyroutine.interpretability.kept import cache_of
from easyroutine.interpretability.lens_result import LensResult
from easyroutine.interpretability.model_loading import HookedModelConfig, config_of_keywords
from easyroutine.interpretability.model_parts import LastLayerNorm, LMHead, ModelConfig
from easyroutine.interpretability.patching import PatchingGrid, compute_patching, sweep
from easyroutine.interpretability.running_means import carried_on, means_of
from easyroutine.interpretability.selection import Position, as_json, normalised
from easyroutine.progress import download_progress
from easyroutine.tokenizer import Tokenizer

__all__ = ["HookedModel", "HookedModelConfig"]


class HookedModel:
    """A decoder, ready to run, whose activations can be read.

    Its numbers are those of ``transformers`` with eager attention, for one row alone or in any batch, padded or not.
    """

    def __init__(self, config: HookedModelConfig) -> None:
        self.config = config
        self._engine = _Engine.open(
            config.model_name,
            dtype=config.torch_dtype,
            threads=config.threads,
            revision=config.revision,
            offline=config.offline,
            allow_config_keys=config.allow_config_keys,
            progress=download_progress(),
        )
        for key in self._engine.let_through:
            warnings.warn(f"config key {key!r} was let through: it is not computed", stacklevel=3)
        #: Registered interventions.
        self.interventions: list[Intervention] = []
        self._hooks: dict[int, tuple[str, Callable[[Any, str], Any]]] = {}
        self._tokenizer: Tokenizer | None = None
        self._model_config: ModelConfig | None = None

    @classmethod
    def from_pretrained(cls, model_name: str | PathLike[str], **kwargs: Any) -> HookedModel:
        """Loads a model.

        ``model_name`` is a folder with ``config.json`` and safetensors, a GGUF file, or ``org/name`` of the Hugging Face hub,
        which is downloaded where it is not cached. Further arguments are the fields of :class:`HookedModelConfig`, and as in
        transformers ``dtype`` (the same as ``torch_dtype``), ``device`` (``"cpu"``) and ``local_files_only`` (``offline``);
        what else transformers takes and this package cannot do, such as quantisation, is refused by name.
        """
        return cls(config_of_keywords(str(model_name), kwargs))

    # What the model is.

    @property
    def name(self) -> str:
        """The hub id, else the stem of the folder or file."""
        return self._engine.name

    @property
    def model_config(self) -> ModelConfig:
        """Sizes under the names of transformers, and every key of config.json."""
        if self._model_config is None:
            self._model_config = ModelConfig(json.loads(self._engine.config), self._engine.sizes)
        return self._model_config

    @property
    def hf_tokenizer(self) -> Tokenizer:
        """The same as :meth:`get_tokenizer`."""
        return self.get_text_tokenizer()

    def get_tokenizer(self, backend: Literal["easyroutine", "hf"] = "easyroutine") -> Any:
        """The model's tokenizer; with ``backend="hf"`` that of transformers, which must be installed."""
        if backend == "hf":
            transformers = tensors.needed("transformers", 'get_tokenizer(backend="hf")')
            return transformers.AutoTokenizer.from_pretrained(self._engine.path)
        if backend != "easyroutine":
            raise InputError(f'backend is "easyroutine" or "hf", not {backend!r}')
        return self.get_text_tokenizer()

    def get_text_tokenizer(self) -> Tokenizer:
        """The same as :meth:`get_tokenizer`: these models read text alone."""
        if self._tokenizer is None:
            origin = {
                "reference": self.config.model_name,
                "revision": self.config.revision,
                "offline": self.config.offline,
            }
            self._tokenizer = Tokenizer(self._engine.tokenizer(), self.name, origin)
        return self._tokenizer

    def get_processor(self) -> None:
        """None: these models read text alone."""

    def is_multimodal(self) -> bool:
        """False: these models read text alone."""
        return False

    def use_full_model(self) -> None:
        """Nothing to do: these models read text alone."""

    def use_language_model_only(self) -> None:
        """Nothing to do: these models read text alone."""

    def get_image_placeholder(self) -> str:
        """An error: these models read text alone."""
        raise UnsupportedError("models with a vision tower are not built, so there is no placeholder for images")

    def get_lm_head(self) -> LMHead:
        """The unembedding: ``.weight`` is [V, D] in float32."""
        return LMHead.of(self._engine)

    def get_last_layernorm(self) -> LastLayerNorm | None:
        """The final norm; None where the architecture has none."""
        return LastLayerNorm.of(self._engine)

    def device(self) -> Any:
        """``cpu``, as torch's device where torch is what activations come as."""
        if tensors.get_tensor_backend() == "torch":
            return tensors.needed("torch", "device()").device("cpu")
        return "cpu"

    def eval(self) -> HookedModel:
        """Nothing to do: nothing here is trained."""
        return self

    def to_string_tokens(self, tokens: Any) -> list[str]:
        """What each token of ids, or of a text, stands for."""
        return self.get_text_tokenizer().to_string_tokens(tokens)

    # PyTorch's modules, of which there are none.

    def set_custom_modules(self) -> None:
        """Nothing to do: attention patterns can be read and changed in every model."""

    def restore_original_modules(self) -> None:
        """Nothing to do: no module is ever replaced."""

    def get_module_from_string(self, component: str) -> Any:
        """An error: there are no PyTorch modules. Activations are read by their keys."""
        raise UnsupportedError(
            f"no module {component!r}: the model is not made of PyTorch modules",
            "read activations by key (ExtractionConfig), weights of the ends by get_lm_head() and get_last_layernorm()",
        )

    # Running it.

    def __call__(self, *args: Any, **kwargs: Any) -> ActivationCache:
        """The same as :meth:`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self,
        inputs: Any,
        target_token_positions: Sequence[Position] | Position = ("all",),
        pivot_positions: Sequence[int] | None = None,
        extraction_config: ExtractionConfig | None = None,
        interventions: Sequence[Intervention] | None = None,
        external_cache: ActivationCache | None = None,
        batch_idx: int | None = None,
        move_to_cpu: bool = False,
        vocabulary_index: int | None = None,
        *,
        seed: int = 0,
        first_row: int = 0,
    ) -> ActivationCache:
        """Runs the model and keeps what is asked for.

        ``inputs``: a text, a list of texts, token ids (a list, or an array of numpy or torch), rows of them, or a mapping with
        ``input_ids`` and perhaps ``attention_mask``. Positions count the real tokens of a row: padding is cut off.

        ``interventions`` change this run, after those that are registered; what is kept shows them. ``pivot_positions`` cut
        rows for ``inputs-partition-N``. ``external_cache`` carries the means of ``avg_over_example`` on from batch to batch, over
        all rows so far; ``batch_idx=0`` begins anew. ``seed`` and ``first_row``, the number of the first row in its data set,
        decide what ``random-text`` draws. ``move_to_cpu`` has nothing to move; ``vocabulary_index`` belongs to
        ``keep_gradient``, which is refused.
        """
        if vocabulary_index is not None:
            raise UnsupportedError(
                "vocabulary_index asks for a gradient, and this engine runs forward only",
                "take gradients with PyTorch",
            )
        rows = self.rows_of(inputs)
        config = as_config(extraction_config)
        means, mean_rows = carried_on(external_cache, batch_idx) if config.avg_over_example else ({}, 0)
        cache = self.run(
            rows,
            target_token_positions,
            config,
            interventions=as_list(interventions),
            pivot_positions=pivot_positions,
            means=means,
            mean_rows=mean_rows,
            seed=seed,
            first_row=first_row,
        )
        if external_cache is not None and config.avg_over_example:
            external_cache.update(means_of(cache))
            external_cache._mean_rows = cache._mean_rows
        return cache

    def run(
        self,
        rows: Sequence[Row],
        target_token_positions: Any,
        extraction_config: ExtractionConfig | None,
        *,
        interventions: Sequence[Intervention] = (),
        pivot_positions: Sequence[int] | None = None,
        means: Mapping[str, Any] | None = None,
        mean_rows: int = 0,
        seed: int = 0,
        first_row: int = 0,
    ) -> ActivationCache:
        """As :meth:`forward`, of rows that are read already; ``means`` over ``mean_rows`` examples are carried on."""
        positions = as_given(target_token_positions)
        config = as_config(extraction_config)
        kept = self._engine.forward(
            [row.for_engine() for row in rows],
            positions=as_json(positions),
            config=config_json(config),
            interventions=for_engine([*self.interventions, *interventions]),
            hooks=[(component, function) for component, function in self._hooks.values()],
            pivots=pivots_of(pivot_positions),
            seed=whole(seed, "seed"),
            first_row=whole(first_row, "first_row"),
            running=[(key, tensors.as_tensor(value, key)) for key, value in (means or {}).items()],
            running_rows=mean_rows,
            n_new=[row.n_new for row in rows],
        )
        cache = cache_of(kept, positions, config)
        cache._mean_rows = mean_rows + len(rows)
        return cache

    def rows_of(self, inputs: Any) -> list[Row]:
        """What the model would be given, as rows of ids without padding."""
        return rows_of(inputs, self._tokenizer_of(inputs))

    def extract_cache(
        self,
        dataloader: Iterable[Any],
        target_token_positions: Sequence[Position] | Position = ("all",),
        extraction_config: ExtractionConfig | None = None,
        interventions: Sequence[Intervention] | None = None,
        batch_saver: Callable[[dict[str, Any]], Mapping[str, Any] | None] = lambda others: None,
        move_to_cpu_after_forward: bool = True,
        **kwargs: Any,
    ) -> ActivationCache:
        """Runs a data set and keeps what is asked for, rows in the order of the batches, with the metadata of the run.

        A batch is whatever :meth:`forward` takes; texts in a list are taken ``batch_size`` at a time. Keys of a batch that the
        model does not read go to ``batch_saver``, and what it returns into the cache; ``pivot_positions`` are read. Further
        arguments: ``seed``; ``batch_tokens`` (4096), how many tokens run together at most: rows of like length run together,
        without padding, and give the same bits in any batch; ``register_aggregation=(prefix, function)`` for how values are
        joined. With it, with hooks, and under interventions that speak of single rows the batches run as they came.
        """
        return extract_cache(
            self, dataloader, target_token_positions, extraction_config, as_list(interventions), batch_saver, **kwargs
        )

    def extract_to_store(
        self,
        saver: ActivationSaver,
        dataloader: Iterable[Any],
        target_token_positions: Sequence[Position] | Position = ("all",),
        extraction_config: ExtractionConfig | None = None,
        interventions: Sequence[Intervention] | None = None,
        **kwargs: Any,
    ) -> str | None:
        """Runs a data set straight into a run of a store, shard by shard: memory holds one shard, whatever the data set.

        The batches are as in :meth:`extract_cache`; of keys that the model does not read nothing is kept. Further arguments:
        ``run``, the name of the run; ``resume=True`` goes on with a run of that name that was interrupted; ``part=(3, 8)`` writes
        the third of eight shares, each a process of its own; ``unit``, examples of a shard; ``tag`` and ``other_metadata`` as in
        ``saver.save``; ``seed`` and ``batch_tokens`` as in :meth:`extract_cache`. Gives the run's folder, None where other
        parts are not done.
        """
        return extract_to_store(
            self, saver, dataloader, target_token_positions, extraction_config, as_list(interventions), **kwargs
        )

    def generate(
        self,
        inputs: Any,
        generation_config: Any = None,
        target_token_positions: Any = None,
        return_text: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Continues each row: greedy, or drawn with ``do_sample=True``.

        Gives prompt and new ids [B, S], a list of one tensor a row where rows differ in length; with ``return_text`` the text, of
        several rows a list. Further arguments, also as a dictionary or transformers' ``GenerationConfig``: ``max_new_tokens``
        (20), ``max_length``, ``do_sample``, ``temperature``, ``top_k``, ``top_p``, ``eos_token_id``, ``seed``, ``interventions``,
        and ``on_token(row, id, logprob)``, which hears every token and ends its row by returning True.

        With ``target_token_positions`` or ``extraction_config`` activations are kept, and what comes back is a dictionary:
        ``generation_output``, the above, and ``cache``, with the bits that the steps had. ``"all"`` names new tokens too, any
        other position a token of the prompt.
        """
        return generate(self, inputs, generation_config, target_token_positions, return_text, **kwargs)

    def compute_patching(
        self,
        target_token_positions: Any,
        base_dataloader: Iterable[Any],
        target_dataloader: Iterable[Any],
        patching_query: Sequence[Mapping[str, Any]],
        base_dictonary_idxs: Sequence[Any] | None = None,
        target_dictonary_idxs: Sequence[Any] | None = None,
        return_logit_diff: bool = False,
        batch_saver: Callable[[dict[str, Any]], Mapping[str, Any] | None] = lambda others: None,
    ) -> ActivationCache:
        """Puts activations of the base runs into the target runs, batch by batch, and compares at the last token.

        A query is ``{"patching_elem": "@last", "layers_to_patch": [1, 2], "activation_type": "resid_in_{}"}``; where it names no
        element, ``target_token_positions`` are patched. Labels (one id a row) give logit differences. The keys of the result:
        ``base_logits``, ``target_clean_logits``, ``target_patched_logits`` [B, V], ``kl_clean|base``, ``kl_patched|base``,
        ``kl_patched|clean``, ``kl_difference`` [B], in nats, and with labels ``logit_diff_in_clean``,
        ``logit_diff_in_patched``, ``logit_diff_variation`` [B].
        """
        return compute_patching(
            self,
            target_token_positions,
            base_dataloader,
            target_dataloader,
            patching_query,
            base_dictonary_idxs,
            target_dictonary_idxs,
            return_logit_diff,
            batch_saver,
        )

    def sweep(self, prompt: Any, **options: Any) -> PatchingGrid:
        """One change after another of one prompt, and what each does to the prediction: layers by positions, heads or sites.

        The arguments are those of :func:`easyroutine.interpretability.patching.sweep`.
        """
        return sweep(self, prompt, **options)

    # Changes and functions that stay.

    def register_interventions(self, interventions: Sequence[Intervention] | Intervention) -> None:
        """Interventions of every run from now on, before those of a call."""
        self.interventions.extend(as_list(interventions))

    def clean_interventions(self) -> None:
        """Takes the registered interventions away."""
        self.interventions.clear()

    def register_forward_hook(self, component: str, hook_function: Callable[[Any, str], Any]) -> Callable[[], None]:
        """Calls ``hook_function(value, key)`` in every run from now on, after the interventions.

        ``component`` is a key or a pattern of keys (``resid_out_3``, ``pattern_L3H*``). The value is [B, S, ...] of all tokens, a
        list of one a row where rows differ; what the function returns takes its place, and what it changes in place stays
        changed. Returned is a function that takes the hook away.
        """
        number = max(self._hooks, default=-1) + 1
        self._engine.check_hook(component)
        self._hooks[number] = (component, hook_function)
        return lambda: self._hooks.pop(number, None) and None

    @property
    def has_hooks(self) -> bool:
        """Whether a function is called in every run."""
        return bool(self._hooks)

    def remove_hooks(self) -> None:
        """Takes all functions away."""
        self._hooks.clear()

    def predict(
        self, inputs: Any, k: int = 10, strip: bool = True, **kwargs: Any
    ) -> dict[str, float] | list[dict[str, float]]:
        """The ``k`` most likely next tokens with their probabilities, after the last of the selected positions.

        Several rows give one dictionary each. ``strip`` takes blanks off the tokens; of two that are then the same the likelier
        one stays, so there may be fewer than ``k``. Further arguments are those of :meth:`forward`, but for ``extraction_config``.
        """
        k = whole(k, "k", 1)
        kwargs.setdefault("target_token_positions", ["last"])
        cache = self.forward(inputs, extraction_config=ExtractionConfig(), **kwargs)
        tokenizer = self.get_text_tokenizer()
        found = []
        for logits in cache.raw("logits"):
            likely: dict[str, float] = {}
            for token, probability in most_likely(logits[-1], k):
                text = tokenizer.to_string_tokens([token])[0]
                likely.setdefault(text.strip() if strip else text, probability)
            found.append(likely)
        return found[0] if len(found) == 1 else found

    def lens(
        self,
        prompt: Any,
        *,
        positions: Sequence[Position] | Position | None = None,
        layers: Iterable[int] | None = None,
        component: str = "resid_out",
        norm: Literal["own", "cached", "none"] = "own",
        k: int = 10,
        track: str | int | None = None,
        interventions: Intervention | Sequence[Intervention] | None = None,
    ) -> LensResult:
        """What each layer would predict at each token of one prompt, as a table and a picture.

        Layers are read as ``interventions``, registered ones and hooks leave them; pictures say which there were. Nothing as
        wide as the vocabulary is ever held. ``layers`` are numbers, -1 the embedding; ``track`` follows one token.
        """
        row = one_row(self.rows_of(prompt), "a lens is drawn")
        tracked = self.get_text_tokenizer().to_single_token(track) if isinstance(track, str) else track
        return LensResult.of_prompt(
            self._engine,
            row.for_engine(),
            for_engine([*self.interventions, *as_list(interventions)]),
            list(self._hooks.values()),
            positions=None if positions is None else as_json(normalised(positions, "positions")),
            layers=None if layers is None else [whole(layer, "a layer", -1) for layer in layers],
            component=component,
            norm=norm,
            k=whole(k, "k"),
            tracked=None if tracked is None else token_id(tracked, "track"),
        )

    def attention(
        self,
        prompt: Any,
        *,
        layer: int | str = "*",
        head: int | str = "*",
        interventions: Sequence[Intervention] | None = None,
    ) -> AttentionResult:
        """Which tokens each head looks at in one prompt, as pictures and tables.

        It is read as ``interventions``, registered ones and hooks leave it; pictures say which there were. ``layer`` and
        ``head`` are a number, -1 for the last, a range such as ``"4:9"`` (4 to 8), or ``"*"``, all of them.
        """
        row = one_row(self.rows_of(prompt), "attention is drawn")
        heads = f"pattern_L{layer}H{head}"
        changes = for_engine([*self.interventions, *as_list(interventions)])
        hooks = list(self._hooks.values())
        return AttentionResult(Attention.of_prompt(self._engine, row.for_engine(), heads, changes, hooks))

    def _tokenizer_of(self, inputs: Any) -> Tokenizer | None:
        """The tokenizer, where the inputs are text."""
        is_text = isinstance(inputs, str) or (
            isinstance(inputs, (list, tuple)) and bool(inputs) and isinstance(inputs[0], str)
        )
        return self.get_text_tokenizer() if is_text else None

    # Copies and pictures.

    def __getstate__(self) -> dict[str, Any]:
        # The files are read again; functions do not travel.
        return {"config": self.config, "interventions": self.interventions}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]
        self.interventions = state["interventions"]

    def __copy__(self) -> HookedModel:
        new = type(self).__new__(type(self))
        new.__dict__.update(self.__dict__)
        new.interventions, new._hooks = list(self.interventions), dict(self._hooks)
        return new

    def __deepcopy__(self, memo: dict[int, Any]) -> HookedModel:
        # Weights are never changed, so copies share them.
        return self.__copy__()

    def __repr__(self) -> str:
        sizes = self._engine.sizes
        return (
            f"HookedModel({self.name!r}, {self._engine.model_type}, {sizes['num_hidden_layers']} layers, "
            f"{sizes['num_attention_heads']} heads, d_model {sizes['hidden_size']}, {self._engine.dtype})"
        )
