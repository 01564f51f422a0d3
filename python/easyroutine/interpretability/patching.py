"""Patches activations of one run into another and measures the effect."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

from easyroutine import tensors
from easyroutine._core import draw_grid
from easyroutine.checks import function, listed, mapping, string, token_id, whole
from easyroutine.conversations import ChatArguments, Chats, takes_chats
from easyroutine.errors import InputError
from easyroutine.interpretability.activation_cache import ActivationCache
from easyroutine.interpretability.dataset import BatchSaver, batches, check_data_set
from easyroutine.interpretability.inputs import Row
from easyroutine.interpretability.pictures import framed, written, written_bytes
from easyroutine.interpretability.selection import Layers, as_json, layer_numbers, normalised

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from easyroutine.interpretability.dictionary import Dictionary
    from easyroutine.interpretability.hooked_model import HookedModel

__all__ = ["PatchingGrid", "check_unchanged", "compute_patching", "sweep"]

Token = int | str


@takes_chats
def compute_patching(
    model: HookedModel,
    target_token_positions: Any,
    base_dataloader: Iterable[Any],
    target_dataloader: Iterable[Any],
    patching_query: Sequence[Mapping[str, Any]] | Mapping[str, Any],
    base_dictonary_idxs: Sequence[Any] | None = None,
    target_dictonary_idxs: Sequence[Any] | None = None,
    return_logit_diff: bool = False,
    batch_saver: BatchSaver = lambda others: None,
    **chat: Unpack[ChatArguments],
) -> ActivationCache:
    """Patches activations of the base runs into the target runs, batch by batch, and compares the runs at the last
    token.

    A query is ``{"patching_elem": "@last", "layers_to_patch": [1, 2], "activation_type": "resid_in_{}"}``; without
    ``patching_elem`` it patches ``target_token_positions``. Labels (one id per row) add logit differences. The keys of
    the result: ``base_logits``, ``target_clean_logits``, ``target_patched_logits`` [B, V], ``kl_clean|base``,
    ``kl_patched|base``, ``kl_patched|clean``, ``kl_difference`` [B], in nats, and with labels ``logit_diff_in_clean``,
    ``logit_diff_in_patched``, ``logit_diff_variation`` [B].
    """
    base_labels, target_labels = base_dictonary_idxs, target_dictonary_idxs
    check_unchanged(model, "compute_patching")
    function(batch_saver, "batch_saver")
    patches = _patches(patching_query, target_token_positions)
    if base_labels is not None:
        base_labels = listed(base_labels, "base_dictonary_idxs", "labels")
    if target_labels is not None:
        target_labels = listed(target_labels, "target_dictonary_idxs", "labels")
    if (base_labels is None) != (target_labels is None) or (return_logit_diff and base_labels is None):
        raise InputError("logit differences need base_dictonary_idxs and target_dictonary_idxs")
    check_data_set(base_dataloader)
    check_data_set(target_dataloader)
    parts, n_rows, chats = [], 0, Chats(chat)
    size = model.config.batch_size
    for base, target in zip_longest(batches(base_dataloader, size), batches(target_dataloader, size)):
        if base is None or target is None:
            raise InputError("base_dataloader and target_dataloader have different numbers of batches")
        base_rows, target_rows = model._rows(base.inputs, chats), model._rows(target.inputs, chats)
        end = n_rows + len(target_rows)
        labels = None
        if base_labels is not None and target_labels is not None:
            if min(len(base_labels), len(target_labels)) < end:
                raise InputError(_counts(base_labels, target_labels, f"{end} rows or more"))
            pairs = zip(base_labels[n_rows:end], target_labels[n_rows:end], strict=True)
            labels = [(_label(a), _label(b)) for a, b in pairs]
        found = model._engine.patching(
            [row.for_engine() for row in base_rows],
            [row.for_engine() for row in target_rows],
            patches,
            labels,
        )
        cache = ActivationCache(found)
        cache.update(mapping(batch_saver(target.others) or {}, "what batch_saver returns"))
        parts.append(cache)
        n_rows = end
    if not parts:
        raise InputError("the data set is empty")
    chats.finish()
    if base_labels is not None and target_labels is not None:
        if not len(base_labels) == len(target_labels) == n_rows:
            raise InputError(_counts(base_labels, target_labels, f"{n_rows} rows"))
    joined = ActivationCache()
    joined._is_by_rows = True
    joined.cat_all(parts)
    return joined


def check_unchanged(model: HookedModel, what: str) -> None:
    """Rejects a model whose registered interventions or hooks would not apply."""
    if model.interventions or model.has_hooks:
        raise InputError(
            f"{what} runs the model without registered interventions and hooks, and this model has some",
            "remove them first: clean_interventions(), remove_hooks()",
        )


def _counts(base_labels: Sequence[Any], target_labels: Sequence[Any], rows: str) -> str:
    return (
        f"base_dictonary_idxs has {len(base_labels)} labels and target_dictonary_idxs {len(target_labels)}, "
        f"for {rows}: each needs one per row"
    )


def _patches(query: Any, default: Any) -> list[tuple[str, str]]:
    patches = []
    for one in [query] if isinstance(query, Mapping) else listed(query, "patching_query", "queries"):
        unknown = set(mapping(one, "a patching query")) - {"patching_elem", "layers_to_patch", "activation_type"}
        if unknown or "activation_type" not in one:
            raise InputError(
                f"a patching query is not {dict(one)!r}",
                'for example {"patching_elem": "@last", "layers_to_patch": [1, 2], "activation_type": "resid_in_{}"}',
            )
        element = one.get("patching_elem", default)
        element = element.removeprefix("@") if isinstance(element, str) else element
        positions = as_json(normalised(element, "patching_elem"))
        activation = str(one["activation_type"])
        layers = one.get("layers_to_patch")
        if layers is None:
            patches.append((activation.replace("{}", "*"), positions))
        elif isinstance(layers, str) or not isinstance(layers, Iterable):
            raise InputError(f"layers_to_patch is {layers!r}; it must be a list of layers")
        elif "{}" not in activation:
            raise InputError(
                f"layers_to_patch is {layers!r}, and activation_type {activation!r} has no place for a layer",
                'for example "resid_in_{}", or without layers_to_patch "resid_in_3"',
            )
        else:
            numbers = [whole(layer, "a layer of layers_to_patch") for layer in layers]
            patches += [(activation.replace("{}", str(number), 1), positions) for number in numbers]
    return patches


def _label(label: Any) -> int:
    """One id, perhaps in a list of one."""
    if hasattr(label, "tolist"):
        label = label.tolist()
    if isinstance(label, (list, tuple)):
        if len(label) != 1:
            raise InputError(f"the label of a row is one token, not {label!r}")
        label = label[0]
    return token_id(label, "the label of a row")


@takes_chats
def sweep(
    model: HookedModel,
    prompt: Any,
    *,
    along: Literal["positions", "heads", "sites", "experts", "features"] = "positions",
    experts: Sequence[int] | None = None,
    site: str | Sequence[str] | None = None,
    layers: Layers | None = None,
    positions: Any = ("all",),
    by: Literal["zero", "mean", "resample", "patch"] = "zero",
    base: Any = None,
    mean_over: Literal["rows", "tokens"] | None = None,
    metric: Literal["logit_diff", "normalised_logit_diff", "probability", "kl", "rank"] = "kl",
    answer: Token | None = None,
    against: Token | None = None,
    estimate: bool = False,
    check: int | None = None,
    rule: Literal["gradient", "relp"] = "gradient",
    dictionaries: Mapping[str, Dictionary] | None = None,
    features: Sequence[int] | None = None,
    top: int | None = None,
    on_progress: Callable[[int, int], Any] | None = None,
    **chat: Unpack[ChatArguments],
) -> PatchingGrid:
    """Makes many changes to one prompt, one at a time, and measures each.

    The rows of the grid are ``layers``, numbers or a string such as ``"0:30:5"``, -1 the last; ``along`` chooses its
    columns: positions, heads, sites or experts. ``site`` is what changes, by default ``"resid_in"`` along positions,
    ``"head_out"`` along heads, and along sites what layers add: those of ``["attn_out", "mixer_out", "mlp_out"]`` that the
    model has. Layers that have none of the sites have no row; along sites, a cell whose layer lacks the site is NaN.

    ``along="experts"`` changes what one expert of a mixture gives, before its routing factor, where a token goes through
    it; ``experts`` chooses their numbers. Which experts a token goes through, and with which factors, stays as in the
    unchanged run up to that layer. ``by="mean"`` is the mean over the tokens that go through the expert; ``resample`` and
    ``patch`` put zeros where the token of ``base`` goes through others. An expert that no token goes through has no
    effect, exactly, and is not run; ``grid.routed`` counts the tokens.

    ``by`` chooses the replacement at a place: zeros, a mean over ``base``, or the same place in ``base``, a prompt of
    the same length (``patch`` also measures against it). The mean is over the rows of ``base``, position by position
    (``mean_over="rows"``: they must be as long as the prompt), or over all tokens of all rows (``mean_over="tokens"``);
    by default over rows if the lengths agree, of experts over tokens.

    ``metric`` is read at the last token; the command line's names (``"logit-diff"``, ``"normalised"``, ``"p"``) work
    too. ``answer`` and ``against`` are ids, or strings that are one token.

    ``estimate=True`` runs no cell: each is the sum of (replacement - original) · gradient, from one gradient of the
    metric (attribution patching). ``check=N`` also runs the N largest cells, and the grid's ``check`` says how well the
    estimates agree. ``rule="relp"`` uses RelP's coefficients in place of the gradient. The metric must have a gradient,
    so not ``rank``.

    ``dictionaries={"sae": dictionary}`` changes features instead: those numbered ``features``, or the ``top`` (20) whose
    effects a gradient estimates to be the largest, strongest first. They are the rows of the grid; its columns are
    positions, or with ``along="features"`` one for all positions at once. ``site`` is ``"features_sae"``, of a set
    ``"features_sae_3"`` or ``"features_sae_*"``; by default the features of every dictionary. A feature that the change
    leaves as it is has no effect, exactly.
    """
    check_unchanged(model, "sweep")
    given = _dictionaries(model, dictionaries, layers, estimate)
    if not given and (features is not None or top is not None):
        raise InputError("features and top are for dictionaries", 'sweep(…, dictionaries={"sae": dictionary})')
    if features is not None and top is not None:
        raise InputError("features names the features, and top chooses others: give one of them")
    if experts is not None and along != "experts":
        raise InputError(f"along={along!r} does not read experts", 'along="experts" does')
    for name, choice in (("along", along), ("by", by), ("metric", metric)):
        string(choice, name)
    if on_progress is not None:
        function(on_progress, "on_progress")
    if not estimate and (check is not None or rule != "gradient"):
        raise InputError("check and rule are for estimates", "sweep(…, estimate=True)")
    if mean_over is not None and by != "mean":
        raise InputError(f"by={by!r} does not read mean_over", 'by="mean" does')
    chats = Chats(chat)
    rows = model._rows(prompt, chats)
    if len(rows) != 1:
        raise InputError(f"a sweep takes one prompt, not {len(rows)}")
    base_rows = [] if base is None else model._rows(base, chats)
    chats.finish()
    tokenizer = model.get_text_tokenizer() if any(isinstance(one, str) for one in (answer, against)) else None

    def token(one: Token | None, name: str) -> int | None:
        if tokenizer is not None and isinstance(one, str):
            return tokenizer.to_single_token(one)
        return None if one is None else token_id(one, name)

    text = model._engine.sweep(
        rows[0].ids,
        {
            "layers": [] if given else _layers(model, layers),
            "along": along,
            "experts": None if experts is None else _numbers(experts, "experts", "an expert"),
            "sites": _sites("features" if given else along, site),
            "positions": _indices(model, rows[0], positions),
            "by": by,
            "mean_over": mean_over,
            "others": [row.ids for row in base_rows],
            "metric": _METRICS.get(metric, metric),
            "answer": token(answer, "answer"),
            "against": token(against, "against"),
            "prompts": _prompts(by, rows[0], base_rows),
            "estimate": bool(estimate),
            "check": None if check is None else whole(check, "check", 0),
            "rule": string(rule, "rule"),
            "dictionaries": given,
            "features": None if features is None else _numbers(features, "features", "a feature"),
            "top": whole(20 if top is None else top, "top", 1, 65_536),
        },
        on_progress,
    )
    return PatchingGrid(json.loads(text))


def _dictionaries(model: HookedModel, dictionaries: Any, layers: Any, estimate: bool) -> list[tuple[str, Any, str]]:
    """Names, dictionaries and their records, in the engine's form."""
    from easyroutine.interpretability.dictionary import Dictionary

    given = mapping({} if dictionaries is None else dictionaries, "dictionaries")
    for name, one in given.items():
        if not isinstance(one, Dictionary):
            raise InputError(f"dictionaries[{name!r}] is {one!r:.80}; it must be a Dictionary", "Dictionary.open(path)")
        one._tell_of_other_model(model, stacklevel=5)
    if given and layers is not None:
        raise InputError(
            "a sweep of features has no layers", 'name the layers of a set as sites: site="features_NAME_3"'
        )
    if given and estimate:
        raise InputError(
            "features are run, not estimated", "Dictionary.attribution(…) estimates them all from one gradient"
        )
    return [
        (string(name, "the name of a dictionary"), one._engine, json.dumps(one._record)) for name, one in given.items()
    ]


def _numbers(chosen: Any, name: str, one: str) -> list[int]:
    numbers = [whole(number, one, 0, 2**32 - 1) for number in listed(chosen, name, f"numbers of {name}")]
    return list(dict.fromkeys(numbers))


def _prompts(by: str, row: Row, others: Sequence[Row]) -> list[tuple[str, str]]:
    """The texts by role, for pictures; rows given as ids have none."""
    named = {
        "patch": [("base", others), ("target", [row])],
        "resample": [("prompt", [row]), ("with", others)],
    }.get(by, [("prompt", [row])])
    return [(name, one.text[0]) for name, rows in named for one in rows if one.text is not None]


#: The command line's names of metrics that differ from those here.
_METRICS = {
    "logit-diff": "logit_diff",
    "normalised": "normalised_logit_diff",
    "normalized": "normalised_logit_diff",
    "p": "probability",
}

#: What changes along each kind of column, unless sites are named; along sites what each layer adds.
_SITES = {
    "positions": ["resid_in"],
    "heads": ["head_out"],
    "experts": ["expert_out"],
}


def _sites(along: str, site: str | Sequence[str] | None) -> list[str]:
    if site is None:
        return _SITES.get(along, [])
    if isinstance(site, str):
        return [one.strip() for one in site.split(",")]
    return [string(one, "a site") for one in listed(site, "site", "sites")]


def _layers(model: HookedModel, layers: Layers | None) -> list[int]:
    n_layers = model.model_config.num_hidden_layers
    numbers = list(range(n_layers)) if layers is None else layer_numbers(layers, n_layers)
    if numbers[0] < 0:
        raise InputError(
            "a sweep does not change the embedding",
            f'layers are 0 to {n_layers - 1}; site="resid_in" of layer 0',
        )
    return numbers


def _indices(model: HookedModel, row: Any, positions: Any) -> list[int]:
    from easyroutine._core import select

    listed = normalised(positions if isinstance(positions, (str, int)) else list(positions), "positions")
    found = select([row.for_engine()], as_json(listed), special=model.get_text_tokenizer().all_special_ids)
    return sorted(set(found[0][0]))


class PatchingGrid:
    """A number for every change of a sweep: layers by columns; of a dictionary's features, features by columns."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = dict(data)

    @property
    def tokens(self) -> list[str]:
        """The prompt, token by token."""
        return [str(token["text"]) for token in self.data["tokens"]]

    @property
    def layers(self) -> list[int]:
        """The layer of each row."""
        return list(self.data["layers"])

    @property
    def features(self) -> list[int]:
        """The feature of each row, where a dictionary's features were changed; else empty."""
        return list(self.data.get("features", []))

    @property
    def columns(self) -> list[str]:
        """What each column changes."""
        return list(self.data["columns"])

    @property
    def values(self) -> list[list[float]]:
        """The metric under each change, layers by columns; NaN where a layer has no such activation."""
        return [[math.nan if value is None else value for value in row] for row in self.data["values"]]

    @property
    def routed(self) -> list[list[int]]:
        """Along experts, the number of changed tokens that go through each, layers by columns; else empty."""
        return [list(row) for row in self.data.get("routed", [])]

    @property
    def unchanged(self) -> float:
        """The metric without any change."""
        return float(self.data["unchanged"])

    @property
    def base(self) -> float | None:
        """The metric of the base run, if there is one."""
        found = self.data["base"]
        return None if found is None else float(found)

    def effects(self) -> list[list[float]]:
        """The effect of each change: the metric with it minus the metric without it."""
        return [[value - self.unchanged for value in row] for row in self.values]

    @property
    def check(self) -> dict[str, Any] | None:
        """The cells of an estimate that were also run: ``cells``, ``pearson``, ``spearman``; None without a check."""
        estimate = self.data.get("estimate")
        return None if estimate is None else estimate["check"]

    def to_dict(self) -> dict[str, Any]:
        """Everything, in the schema ``easyroutine.grid/1``."""
        return dict(self.data)

    def to_pandas(self) -> Any:
        """Layers by columns as a pandas table, features by their names; needs pandas."""
        pandas = tensors.needed("pandas", "to_pandas()")
        return pandas.DataFrame(self.values, index=self._rows(), columns=self.columns)

    def to_html(self, path: str | PathLike[str] | None = None) -> str:
        """One self-contained page, which needs no network; written to ``path`` if given."""
        return written(self._drawn("html"), path)

    def to_svg(self, path: str | PathLike[str] | None = None) -> str:
        """An SVG picture; written to ``path`` if given."""
        return written(self._drawn("svg"), path)

    def to_png(self, path: str | PathLike[str] | None = None) -> bytes:
        """A PNG picture; written to ``path`` if given."""
        return written_bytes(draw_grid(self._as_drawn(), "png"), path)

    def to_csv(self, path: str | PathLike[str] | None = None) -> str:
        """One line per cell; written to ``path`` if given."""
        return written(self._drawn("csv"), path)

    def to_markdown(self) -> str:
        """A Markdown table."""
        return self._drawn("markdown")

    def table(self, *, width: int = 100, colour: bool = False) -> str:
        """A table for a terminal."""
        return self._drawn("terminal", width=whole(width, "width"), colour=colour)

    def _drawn(self, format: str, **options: Any) -> str:
        return draw_grid(self._as_drawn(), format, **options).decode()

    def _as_drawn(self) -> dict[str, Any]:
        tokens = self.tokens
        columns = []
        for label in self.columns:
            number = label.removeprefix("position ")
            is_position = number != label and number.isdecimal() and int(number) < len(tokens)
            expert = label.removeprefix("expert ")
            shown = label if expert == label else f"E{expert}"
            columns.append((number, tokens[int(number)]) if is_position else (shown, None))
        return {
            **self.data,
            "values": self.values,
            "features": self.features,
            "routed": self.routed,
            "prompts": list(self.data["prompts"].items()),
            "columns": columns,
        }

    def _rows(self) -> list[Any]:
        return [names[0] for names in self.data["activations"]] if self.features else self.layers

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        rows = "features" if self.features else "layers"
        return f"PatchingGrid({self.data['metric']['name']}, {len(self.layers)} {rows} by {len(self.columns)} columns)"

    def _repr_html_(self) -> str:
        """The page in an iframe; the picture where frames are off."""
        picture = self.to_svg()
        return framed(self.to_html(), picture, str(self.data["title"]), 260 + 26 * len(self.layers))
