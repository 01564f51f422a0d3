"""A model whose activations can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from easyroutine import tensors
from easyroutine._core import Attention, most_likely
from easyroutine._core import Model as _Engine
from easyroutine.checks import function, listed, string, token_id, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import InputError
from easyroutine.hints import in_python
from easyroutine.interpretability import (
    attribution,
    circuits,
    comparison,
    dataset,
    direct_attribution,
    generation,
    gradients,
    graphs,
    lens_fits,
    mean_attribution,
    patching,
)
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.attention_result import AttentionResult
from easyroutine.interpretability.dataset import as_given
from easyroutine.interpretability.described_model import DescribedModel
from easyroutine.interpretability.extraction_config import ExtractionConfig, as_config, config_json
from easyroutine.interpretability.inputs import Row, one_row, pivots_of, rows_of
from easyroutine.interpretability.interventions import Intervention, as_list, for_engine
from easyroutine.interpretability.kept import cache_of
from easyroutine.interpretability.lens_result import LensResult
from easyroutine.interpretability.model_loading import HookedModelConfig, config_of_keywords
from easyroutine.interpretability.model_parts import ModelConfig
from easyroutine.interpretability.page import Page, page_of_model
from easyroutine.interpretability.running_means import carried_on, means_of
from easyroutine.interpretability.selection import Layers, Position, as_json, layer_numbers, normalised
from easyroutine.logger import log_to
from easyroutine.replaced import replaced_name
from easyroutine.tokenizer import Tokenizer

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["HookedModel", "HookedModelConfig"]


class HookedModel(DescribedModel):
    """A decoder, ready to run, whose activations can be read.

    It computes the same numbers as ``transformers`` with eager attention, for one row alone or in any batch, padded or
    not.
    """

    def __init__(self, config: HookedModelConfig, log_file_path: str | PathLike[str] | None = None) -> None:
        """Loads a model. From then on the package's messages also go to ``log_file_path``."""
        if log_file_path is not None:
            log_to(log_file_path)
        self.config = config
        self._engine = _Engine.open(
            config.model_name,
            threads=config.threads,
            memory=None if config.memory is None else str(config.memory),
            pre=config.pre,
            **config.for_engine(),
        )
        for warning in self._engine.warnings:
            warnings.warn(in_python(warning), stacklevel=3)
        #: Registered interventions.
        self.interventions: list[Intervention] = []
        self._hooks: dict[int, tuple[str, Callable[[Any, str], Any], bool]] = {}
        self._tokenizer: Tokenizer | None = None
        self._model_config: ModelConfig | None = None

    @classmethod
    def from_pretrained(
        cls,
        model_name: str | PathLike[str],
        *,
        device_map: str | None = None,
        torch_dtype: Any = None,
        attn_implementation: Literal["eager", "custom_eager"] | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        revision: str | None = None,
        offline: bool | None = None,
        allow_config_keys: Sequence[str] | None = None,
        pre: str | None = None,
        allow_tensors: Sequence[str] | None = None,
        adapter: str | PathLike[str] | bool | None = None,
        dtype: Any = None,
        device: Any = None,
        local_files_only: bool | None = None,
        memory: int | str | None = None,
        **others: Any,
    ) -> HookedModel:
        """Loads a model.

        ``model_name`` is a folder with ``config.json`` and safetensors, a GGUF file, or ``org/name`` of the Hugging Face hub,
        which is downloaded unless it is cached. The arguments are the fields of :class:`HookedModelConfig`, with its defaults,
        and three names of transformers: ``dtype`` (the same as ``torch_dtype``), ``device`` (``"cpu"``) and ``local_files_only``
        (``offline``). Other arguments of transformers that this package cannot honour, such as quantisation, are refused by name.
        """
        named = {name: value for name, value in locals().items() if name not in ("cls", "model_name", "others")}
        given = {name: value for name, value in named.items() if value is not None}
        return cls(config_of_keywords(model_name, {**given, **others}))

    # Running it.

    @takes_chats
    def __call__(
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
        **chat: Unpack[ChatArguments],
    ) -> ActivationCache:
        """The same as :meth:`forward`."""
        return self.forward(
            inputs,
            target_token_positions,
            pivot_positions,
            extraction_config,
            interventions,
            external_cache,
            batch_idx,
            move_to_cpu,
            vocabulary_index,
            seed=seed,
            first_row=first_row,
            **chat,
        )

    @takes_chats
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
        vocabulary_index: int | Sequence[int] | None = None,
        *,
        seed: int = 0,
        first_row: int = 0,
        **chat: Unpack[ChatArguments],
    ) -> ActivationCache:
        """Runs the model and returns the requested activations.

        ``inputs``: a text, a conversation (a list of messages ``{"role": "user", "content": "..."}``), a list of
        either, token ids (a list, or an array of numpy or torch), rows of them, or a mapping with ``input_ids`` and
        perhaps ``attention_mask``. Conversations go through the model's chat template; ``tools``, ``chat_variables``
        and so on (:class:`ChatArguments`) say how.

        ``target_token_positions`` select tokens, one position or a list: ``"all"``, ``"first"``, ``"last"``,
        ``"last-2"``, a number (-1 is the last), a pair ``(4, 9)`` or range ``"4:9"`` (4 to 8), ``"special"``,
        ``"all-text"`` (all but special tokens), ``"random-text-3"`` (three of those, drawn by ``seed``),
        ``"text:Paris"`` (the tokens of this text), ``"inputs-partition-0"`` (up to the first pivot). They count the
        real tokens of a row: padding is cut off.

        ``interventions`` change this run, after the registered ones, and the cache shows their effect.
        ``pivot_positions`` cut rows for ``inputs-partition-N``. ``external_cache`` carries the means of
        ``avg_over_example`` from batch to batch, over all rows so far; ``batch_idx=0`` starts again. ``seed`` and
        ``first_row`` (the number of the first row in its data set) determine what ``random-text`` draws.
        ``move_to_cpu`` has no effect. ``keep_gradient`` differentiates the logit of ``vocabulary_index``, a token or
        one per row, at the last token: ``input_embeddings_gradients`` [B, T, D]. For other metrics and activations use
        :meth:`gradients`.
        """
        if external_cache is not None and not isinstance(external_cache, ActivationCache):
            raise InputError(f"external_cache is {type(external_cache).__name__}; it must be an ActivationCache")
        if batch_idx is not None:
            whole(batch_idx, "batch_idx")
        rows = self.rows_of(inputs, **chat)
        config = self._config(extraction_config)
        if config.keep_gradient != (vocabulary_index is not None):
            raise InputError(
                "keep_gradient and vocabulary_index go together: the gradient is that of one token's logit",
                "ExtractionConfig(keep_gradient=True) and vocabulary_index=ID",
            )
        keeps_gradient, config = config.keep_gradient, replace(config, keep_gradient=False)
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
        if keeps_gradient:
            kept = gradients.kept_gradient(
                self,
                rows,
                target_token_positions,
                vocabulary_index,
                interventions=as_list(interventions),
                pivot_positions=pivot_positions,
                seed=seed,
                first_row=first_row,
            )
            cache["input_embeddings_gradients"] = kept["input_embeddings_gradients"]
        if external_cache is not None and config.avg_over_example:
            external_cache.update(means_of(cache))
            external_cache._mean_rows = cache._mean_rows
        return cache

    def _config(self, given: Any) -> ExtractionConfig:
        """The default: the logits, or the score of a model whose head computes one."""
        if given is None and self._engine.head == "score":
            return ExtractionConfig(save_logits=False, extract_score=True)
        return as_config(given)

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
        """Like :meth:`forward`, for rows already read; continues ``means`` over ``mean_rows`` examples."""
        positions = as_given(target_token_positions)
        config = self._config(extraction_config)
        kept = self._engine.forward(
            [row.for_engine() for row in rows],
            positions=as_json(positions),
            config=config_json(config),
            interventions=for_engine([*self.interventions, *interventions]),
            hooks=list(self._hooks.values()),
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

    @takes_chats
    def rows_of(self, inputs: Any, **chat: Unpack[ChatArguments]) -> list[Row]:
        """The rows of ids, without padding, that the model would run. The arguments are those of :meth:`forward`."""
        chats = Chats(chat)
        rows = self._rows(inputs, chats)
        chats.finish()
        return rows

    def _rows(self, inputs: Any, chats: Chats) -> list[Row]:
        """Some of a call's rows, whose conversations all get the same time."""
        return rows_of(inputs, self.get_text_tokenizer, chats, self._engine.sizes["max_position_embeddings"])

    # In these files the model is called ``model``, not ``self``.

    extract_cache = dataset.extract_cache
    extract_to_store = dataset.extract_to_store
    generate = generation.generate
    compute_patching = patching.compute_patching
    sweep = patching.sweep
    gradients = gradients.gradients
    direct_attribution = direct_attribution.direct_attribution
    compare = comparison.compare
    attribution_patching = attribution.attribution_patching
    integrated_gradients = attribution.integrated_gradients
    mean_attribution = mean_attribution.mean_attribution
    edges = circuits.edges
    attribution_graph = graphs.attribution_graph
    fit_jacobian_lens = lens_fits.fit_jacobian_lens
    tune_lens = lens_fits.tune_lens

    # Registered interventions and hooks.

    def register_interventions(self, interventions: Sequence[Intervention] | Intervention) -> None:
        """Adds interventions to every later run, before those of the call."""
        self.interventions.extend(as_list(interventions))

    def clean_interventions(self) -> None:
        """Removes the registered interventions."""
        self.interventions.clear()

    def register_forward_hook(
        self, component: str, hook_function: Callable[[Any, str], Any], *, read_only: bool = False
    ) -> Callable[[], None]:
        """Calls ``hook_function(value, key)`` in every later run, after the interventions.

        ``component`` is a key or a pattern of keys (``resid_out_3``, ``pattern_L3H*``). The value is [B, S, ...] for
        all tokens, or a list with one per row if rows differ. What the function returns replaces it, and changes in
        place persist. Returns a function that removes the hook.

        With ``read_only=True`` the function must return None, changes in place have no effect, and the run keeps its
        faster path, which an edit of the same value would rule out.
        """
        number = max(self._hooks, default=-1) + 1
        self._engine.check_hook(string(component, "component"))
        function(hook_function, "hook_function")
        self._hooks[number] = (component, hook_function, read_only)
        return lambda: self._hooks.pop(number, None) and None

    @property
    def has_hooks(self) -> bool:
        """Whether any hook is registered."""
        return bool(self._hooks)

    def remove_hooks(self, hook_handlers: Iterable[Callable[[], None]] | None = None) -> None:
        """Removes the hooks in ``hook_handlers``, as returned by :meth:`register_forward_hook`, or all hooks."""
        if hook_handlers is None:
            self._hooks.clear()
        else:
            for remove in listed(hook_handlers, "hook_handlers", "what register_forward_hook returned"):
                function(remove, "one of hook_handlers")()

    @takes_chats
    def predict(
        self,
        inputs: Any,
        k: int = 10,
        strip: bool = True,
        *,
        target_token_positions: Sequence[Position] | Position = ("last",),
        pivot_positions: Sequence[int] | None = None,
        interventions: Sequence[Intervention] | None = None,
        seed: int = 0,
        first_row: int = 0,
        **chat: Unpack[ChatArguments],
    ) -> dict[str, float] | list[dict[str, float]]:
        """The ``k`` most likely next tokens with their probabilities, after the last of the selected positions.

        Several rows give one dictionary each. ``strip`` removes the spaces around tokens; if two are then equal, the
        likelier one stays, so there may be fewer than ``k``. The other arguments are those of :meth:`forward`.
        """
        k = whole(k, "k", 1)
        cache = self.forward(
            inputs,
            target_token_positions,
            pivot_positions,
            ExtractionConfig(),
            interventions,
            seed=seed,
            first_row=first_row,
            **chat,
        )
        tokenizer = self.get_text_tokenizer()
        found = []
        for logits in cache.raw("logits"):
            likely: dict[str, float] = {}
            for token, probability in most_likely(logits[-1], k):
                text = tokenizer.to_string_tokens([token])[0]
                likely.setdefault(text.strip() if strip else text, probability)
            found.append(likely)
        return found[0] if len(found) == 1 else found

    @takes_chats
    def lens(
        self,
        prompt: Any,
        *,
        positions: Sequence[Position] | Position | None = None,
        layers: Layers | None = None,
        component: str = "resid_out",
        norm: Literal["own", "cached", "none"] = "own",
        k: int = 10,
        track: str | int | None = None,
        interventions: Intervention | Sequence[Intervention] | None = None,
        **chat: Unpack[ChatArguments],
    ) -> LensResult:
        """What each layer would predict at each token of one prompt, as a table and a picture.

        The lens reads layers under ``interventions``, registered ones and hooks; pictures name them. It never holds a
        tensor as wide as the vocabulary. ``layers`` are numbers (-1 is the last) and ``"emb"``, the embedding, or one
        string such as ``"emb,0:30:5,-1"``; ``track`` follows one token.
        """
        row = one_row(self.rows_of(prompt, **chat), "a lens is drawn")
        tracked = self.get_text_tokenizer().to_single_token(track) if isinstance(track, str) else track
        return LensResult.of_prompt(
            self._engine,
            row.for_engine(),
            for_engine([*self.interventions, *as_list(interventions)]),
            list(self._hooks.values()),
            positions=None if positions is None else as_json(normalised(positions, "positions")),
            layers=None if layers is None else layer_numbers(layers, self.model_config.num_hidden_layers),
            component=string(component, "component"),
            norm=string(norm, "norm"),
            k=whole(k, "k"),
            tracked=None if tracked is None else token_id(tracked, "track"),
        )

    @takes_chats
    def attention(
        self,
        prompt: Any,
        *,
        layer: int | str = "*",
        head: int | str = "*",
        interventions: Sequence[Intervention] | None = None,
        **chat: Unpack[ChatArguments],
    ) -> AttentionResult:
        """What each head attends to in one prompt, as pictures and tables.

        It runs under ``interventions``, registered ones and hooks; pictures name them. ``layer`` and ``head`` are a
        number (-1 is the last), a range such as ``"4:9"`` (4 to 8), or ``"*"`` for all of them.
        """
        row = one_row(self.rows_of(prompt, **chat), "attention is drawn")
        for name, given in (("layer", layer), ("head", head)):
            if not isinstance(given, str):
                whole(given, name, -(2**31), 2**31)
        heads = f"pattern_L{layer}H{head}"
        changes = for_engine([*self.interventions, *as_list(interventions)])
        hooks = list(self._hooks.values())
        return AttentionResult(Attention.of_prompt(self._engine, row.for_engine(), heads, changes, hooks))

    def view(self, prompt: str, *, changes: Sequence[str] = (), port: int | None = None) -> Page:
        """The prompt on the page of ``easyroutine serve``: lens, attention, attribution, patching, generation side by
        side.

        A separate process serves the page; it loads the model again and ends with the result (``close``, or the end of
        Python). In a notebook the page appears in an iframe; ``.open()`` shows it in the browser. ``changes`` are
        interventions as the command line writes them, ``"resid_out_10@last*0.5"``; ``port`` defaults to a free one.
        """
        patching.check_unchanged(self, "view")
        return page_of_model(self.config, prompt, changes, port)

    # Copies and pickles.

    def __getstate__(self) -> dict[str, Any]:
        # A pickle reads the files again, and functions cannot be pickled.
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
        # Weights never change, so copies share them.
        return self.__copy__()

    def __repr__(self) -> str:
        sizes = self._engine.sizes
        adapter = f" with adapter {Path(self._engine.adapter).name!r}" if self._engine.adapter else ""
        return (
            f"HookedModel({self.name!r}{adapter}, {self._engine.model_type}, {sizes['num_hidden_layers']} layers, "
            f"{sizes['num_attention_heads']} heads, d_model {sizes['hidden_size']}, {self._engine.dtype})"
        )


def __getattr__(name: str) -> Any:
    raise replaced_name(__name__, name)
