"""Interventions, hooks, generation, patching."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import PROMPT, largest_difference, reference

from easyroutine import Tensor
from easyroutine.errors import InputError
from easyroutine.interpretability import ExtractionConfig, HookedModel, Intervention

pytestmark = pytest.mark.usefixtures("own_tensors")

IDS = [5, 17, 200, 3, 42]
OUT = ExtractionConfig(extract_resid_out=True, extract_attn_pattern=True)


def test_an_ablation_shows_in_the_cache_of_its_run(llama: HookedModel) -> None:
    zero = Intervention(type="full", activation="resid_out_1", token_positions=["last"], patching_values="ablation")
    cache = llama.forward(IDS, extraction_config=OUT, interventions=[zero])
    rows = cache["resid_out_1"].tolist()[0]
    assert rows[-1] == [0.0] * 48 and any(rows[0])
    assert cache["logits"] != llama.forward(IDS)["logits"]


def test_values_are_put_scaled_and_added(llama: HookedModel) -> None:
    clean = llama.forward(IDS, extraction_config=OUT)["resid_out_0"].tolist()[0][2]

    def edited(intervention: Intervention) -> Any:
        return llama.forward(IDS, extraction_config=OUT, interventions=[intervention])["resid_out_0"].tolist()[0][2]

    vector = [float(i) for i in range(48)]
    assert edited(Intervention("full", "resid_out_0", [2], [vector])) == vector
    assert edited(Intervention("full", "resid_out_0", [2], multiplication_value=2.0)) == [2 * x for x in clean]
    added = edited(Intervention.add("resid_out_0", vector, strength=2.0, token_positions=[2]))
    assert added == pytest.approx([x + 2 * v for x, v in zip(clean, vector, strict=True)])
    assert edited(Intervention.mean("resid_out_0", [vector, vector], [2])) == vector


def test_a_row_takes_the_values_of_another(llama: HookedModel) -> None:
    rows = [[1, 2, 3], [4, 5, 6]]
    taken = Intervention.resample("resid_out_2", source_row=1)
    logits = llama.forward(rows, interventions=[taken])["logits"]
    assert logits[0] == logits[1] == llama.forward(rows)["logits"][1]


def test_patterns_are_changed_before_and_after_the_softmax(llama: HookedModel) -> None:
    def pattern(intervention: Intervention) -> Any:
        cache = llama.forward(IDS, extraction_config=OUT, interventions=[intervention])
        return cache["pattern_L1H2"].tolist()[0]

    after = pattern(Intervention("columns", "pattern_L1H2", [0]))
    assert all(row[0] == 0.0 for row in after) and sum(after[4]) < 0.999
    before = pattern(Intervention("columns_pre_softmax", "pattern_L1H2", [0]))
    assert all(row[0] == 0.0 for row in before) and sum(before[4]) == pytest.approx(1)
    assert before[0] == [0.0] * 5
    rescaled = pattern(Intervention("grid", "pattern_L1H2", (["last"], [0, 1]), apply_softmax=True))
    assert rescaled[4][:2] == [0, 0] and sum(rescaled[4]) == pytest.approx(1)
    kept = pattern(Intervention("keep-self-attn", "pattern_L1H2", ["last"]))
    assert kept[4][:4] == [0.0] * 4


CASES = [
    ("attn_in_1@3=0", Intervention("full", "attn_in_1", [3])),
    ("attn_out_1@-1=0", Intervention("full", "attn_out_1", [-1])),
    ("head_out_L1H2@all=0", Intervention("full", "head_out_L1H2", ["all"])),
    ("keys_L1@2=0", Intervention("full", "keys_L1", [2])),
    ("mlp_hidden_1@2*2", Intervention("full", "mlp_hidden_1", [2], multiplication_value=2)),
    ("pattern_L1H1@columns:3=0", Intervention("columns", "pattern_L1H1", [3])),
    ("pattern_L1H1@rows:5=0", Intervention("rows", "pattern_L1H1", [5])),
    ("pattern_L1H1@grid:9x2=0", Intervention("grid", "pattern_L1H1", ([9], [2]))),
    ("pattern_L1H1@pre:grid:9x2=0", Intervention("grid_pre_softmax", "pattern_L1H1", ([9], [2]))),
    ("resid_in_1@4:9*0.5", Intervention("full", "resid_in_1", [(4, 9)], multiplication_value=0.5)),
    ("resid_mid_1@6=0", Intervention("full", "resid_mid_1", [6])),
]


@pytest.mark.parametrize(("name", "intervention"), CASES, ids=[name for name, _ in CASES])
def test_interventions_have_the_logits_of_transformers(llama: HookedModel, name: str, intervention: Any) -> None:
    ids = reference("llama", "full.input_ids")[:1]
    found = llama.forward(ids, interventions=[intervention])["logits"].tolist()
    assert largest_difference(found, reference("llama", f"interv.{name}.logits")) < 1e-4


def test_greedy_generation_has_the_ids_of_transformers(llama: HookedModel) -> None:
    prompt, expected = reference("llama", "greedy.input_ids"), reference("llama", "greedy.output_ids")
    found = llama.generate(prompt, max_new_tokens=len(expected[0]) - len(prompt[0]), eos_token_id=[])
    assert found.tolist() == expected


def test_registered_interventions_hold_until_they_are_taken_away(llama: HookedModel) -> None:
    clean = llama.forward(IDS)["logits"]
    llama.register_interventions([Intervention("full", "head_out_L0H1", ["all"])])
    try:
        cache = llama.forward(IDS, extraction_config=ExtractionConfig(extract_head_out=True))
        assert not any(any(row) for row in cache["head_out_L0H1"].tolist()[0])
        assert any(any(row) for row in cache["head_out_L0H0"].tolist()[0])
    finally:
        llama.clean_interventions()
    assert llama.forward(IDS)["logits"] == clean


@pytest.mark.parametrize(
    ("intervention", "says"),
    [
        (Intervention("full", "resid_outt_1", ["all"]), "resid_out"),
        (Intervention("full", "resid_out_9", ["all"]), "resid_out_9"),
        (Intervention("full", "resid_out_1", [7]), "outside the row"),
        (Intervention("full", "resid_out_1", ["all"], [1.0, 2.0]), "does not spread"),
        (Intervention("full", "logits", ["all"]), "logits"),
        (Intervention("columns", "resid_out_1", ["all"]), "columns"),
        (Intervention("colums", "pattern_L0H0", ["all"]), "did you mean `columns`"),  # type: ignore[arg-type]
        (Intervention("block-img-txt", "pattern_L0H0", ["all"]), "vision"),  # type: ignore[arg-type]
        (Intervention("grid", "pattern_L0H0", ["all"]), "rows, columns"),
        (Intervention("full", "resid_out_1", ["all"], "mean"), '"ablation" or a tensor'),
        (Intervention("full", "resid_out_1", ["all"], operation="add"), "needs patching_values"),
        (3, "not int"),
        ({"type": "full", "activaton": "resid_out_1"}, "activaton"),
    ],
)
def test_an_intervention_that_means_nothing_is_an_error(llama: HookedModel, intervention: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        llama.forward(IDS, interventions=[intervention])


def test_a_hook_sees_and_changes_what_it_names(llama: HookedModel) -> None:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def look(value: Tensor, key: str) -> None:
        seen.append((key, value.shape))

    def zero(value: Tensor, key: str) -> Tensor:
        return Tensor.from_bytes(bytes(value.nbytes), value.shape, "float32")

    clean = llama.forward(IDS)["logits"]
    remove = llama.register_forward_hook("resid_out_*", look)
    assert llama.forward(IDS)["logits"] == clean
    assert seen == [(f"resid_out_{layer}", (1, 5, 48)) for layer in range(3)]
    remove()
    llama.register_forward_hook("mlp_out_1", zero)
    try:
        found = llama.forward(IDS)["logits"]
    finally:
        llama.remove_hooks()
    ablated = llama.forward(IDS, interventions=[Intervention("full", "mlp_out_1", ["all"])])["logits"]
    assert found == ablated != clean


def test_a_hook_that_only_reads_changes_nothing_and_returns_nothing(llama: HookedModel) -> None:
    clean = llama.forward(IDS)["logits"]
    seen: list[tuple[str, tuple[int, ...]]] = []

    def look(value: Tensor, key: str) -> None:
        seen.append((key, value.shape))
        value.numpy()[...] = 0  # Without effect: the run does not read it back.

    keys = ["resid_mid_1", "attn_out_2", "pattern_L1H0", "head_out_L2H1", "logits"]
    removes = [llama.register_forward_hook(key, look, read_only=True) for key in keys]
    assert llama.forward(IDS)["logits"] == clean
    assert {key for key, _ in seen} == set(keys)
    assert dict(seen)["pattern_L1H0"] == (1, 5, 5)
    llama.remove_hooks(removes)
    remove = llama.register_forward_hook("resid_out_0", lambda v, k: v, read_only=True)
    with pytest.raises(ValueError, match="read_only=True"):
        llama.forward(IDS)
    remove()


def test_errors_of_hooks_come_through_and_leave_the_model_well(llama: HookedModel) -> None:
    clean = llama.forward(IDS)["logits"]

    def fails(value: Tensor, key: str) -> None:
        raise RuntimeError(f"at {key}")

    for function, error in ((fails, RuntimeError), (lambda v, k: v[0], ValueError), (lambda v, k: "x", ValueError)):
        remove = llama.register_forward_hook("resid_out_0", function)
        with pytest.raises(error):
            llama.forward(IDS)
        remove()
        assert llama.forward(IDS)["logits"] == clean
    with pytest.raises(ValueError, match="resid_out"):
        llama.register_forward_hook("resid_outt_0", fails)
    remove = llama.register_forward_hook(
        "projected_value_L0H0", lambda v, k: Tensor.from_bytes(bytes(v.nbytes), v.shape, "float32")
    )
    with pytest.raises(ValueError, match="can be read, not changed"):
        llama.forward(IDS)
    remove()


def test_rows_are_continued_as_whole_runs_would(llama: HookedModel) -> None:
    ids = list(IDS)
    for _ in range(6):
        logits = llama.forward(ids, target_token_positions=["last"])["logits"].tolist()[0][0]
        ids.append(logits.index(max(logits)))
    found = llama.generate(IDS, max_new_tokens=6, eos_token_id=[])
    assert found.tolist() == [ids] and found.dtype == "int64"
    both = llama.generate([IDS, [1]], max_new_tokens=6, eos_token_id=[])
    assert both[0].tolist() == ids and len(both[1]) == 7


def test_generation_takes_settings_and_tells_of_each_token(llama: HookedModel) -> None:
    told: list[int] = []

    def on_token(row: int, token: int, logprob: float) -> bool:
        told.append(token)
        return len(told) == 3

    found = llama.generate(IDS, on_token=on_token, eos_token_id=[])
    assert found.tolist()[0][5:] == told and len(told) == 3
    drawn = [
        llama.generate(IDS, {"do_sample": True, "temperature": 1.5, "top_k": 50}, seed=seed, eos_token_id=[]).tolist()
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert llama.generate(PROMPT, return_text=True, max_new_tokens=2).startswith(PROMPT[:10])
    zero = [Intervention("full", "resid_out_2", ["all"])]
    assert llama.generate(IDS, max_new_tokens=2, interventions=zero, eos_token_id=[]).tolist()[0][5:] == [0, 0]
    for wrong in ({"num_beams": 4}, {"temperature": 0.5}, {"max_length": 2}, {"do_sample": True, "top_p": 7.0}):
        with pytest.raises(ValueError):
            llama.generate(IDS, wrong)
    with pytest.raises(TypeError, match="num_beams"):
        llama.generate(IDS, num_beams=4)  # type: ignore[call-arg]


def test_generation_ends_at_strings_and_may_leave_the_prompt_out(llama: HookedModel) -> None:
    tokenizer = llama.get_tokenizer()
    whole = llama.generate(PROMPT, max_new_tokens=12, eos_token_id=[], return_text=True)
    ids = llama.generate(PROMPT, max_new_tokens=12, eos_token_id=[]).tolist()[0]
    n_prompt = len(tokenizer.encode(PROMPT))
    new = llama.generate(PROMPT, max_new_tokens=12, eos_token_id=[], return_full_text=False)
    assert new.tolist() == [ids[n_prompt:]]
    added = llama.generate(PROMPT, max_new_tokens=12, eos_token_id=[], return_text=True, return_full_text=False)
    assert whole.endswith(added) and whole[: -len(added)] == tokenizer.decode(ids[:n_prompt], skip_special_tokens=True)
    # Each string ends the row at the token that brings its last letter, and stays in the text.
    for cut in range(n_prompt + 1, len(ids)):
        before, text = tokenizer.decode(ids[: cut - 1]), tokenizer.decode(ids[:cut])
        stop = text[max(0, len(before) - 2) :]
        if not text.startswith(before) or len(text) == len(before) or stop in before:
            continue
        found = llama.generate(PROMPT, {"stop_strings": ["never said", stop]}, max_new_tokens=12, eos_token_id=[])
        assert found.tolist()[0] == ids[:cut]
    heard: list[int] = []
    llama.generate(
        [IDS, [1, 2]], max_new_tokens=3, stop_strings="never said", on_token=lambda row, id, p: heard.append(row)
    )
    assert sorted(heard) == [0, 0, 0, 1, 1, 1]
    for strings in ("", [], [1]):
        with pytest.raises(ValueError, match="stop_strings"):
            llama.generate(PROMPT, stop_strings=strings)  # type: ignore[arg-type]


def test_generation_keeps_activations_of_the_prompt_and_of_new_tokens(llama: HookedModel) -> None:
    half = [Intervention("full", "resid_in_1", ["all"], multiplication_value=0.5)]
    config = ExtractionConfig(extract_resid_out=True, save_input_ids=True)
    found = llama.generate(
        [IDS, [1]],
        None,
        ["all", "last"],
        extraction_config=config,
        interventions=half,
        max_new_tokens=3,
        eos_token_id=[],
    )
    cache = found["cache"]
    for row, (whole, prompt) in enumerate(zip(found["generation_output"], (IDS, [1]), strict=True)):
        assert cache["token_dict"]["last"][row] == [len(prompt) - 1]
        assert cache["input_ids"][row].tolist() == [*whole.tolist(), prompt[-1]]
        alone = llama.forward(whole, extraction_config=config, interventions=half)
        assert alone["resid_out_2"].tolist()[0] == cache["resid_out_2"][row].tolist()[:-1]
    alone = llama.generate(IDS, extraction_config=config, return_text=True, max_new_tokens=1, eos_token_id=[])
    assert isinstance(alone["generation_output"], str) and alone["cache"]["input_ids"].shape == (1, len(IDS) + 1)


def test_patching_everything_gives_the_base_run(llama: HookedModel) -> None:
    base, target = [[1, 2, 3], [4, 5, 6]], [[1, 2, 9], [4, 5, 7]]
    query = [{"patching_elem": "@last", "layers_to_patch": [0], "activation_type": "resid_in_{}"}]
    found = llama.compute_patching(
        ["last"],
        [base],
        [{"input_ids": target, "label": [0, 1]}],
        query,
        [10, 11],
        [20, 21],
        True,
        batch_saver=lambda others: others,
    )
    assert found["target_patched_logits"] == found["base_logits"] != found["target_clean_logits"]
    assert found["kl_patched|base"].tolist() == [0.0, 0.0]
    assert found["kl_difference"].tolist() == [-x for x in found["kl_clean|base"].tolist()]
    assert found["label"] == [0, 1]
    clean = found["target_clean_logits"].tolist()
    assert found["logit_diff_in_clean"].tolist() == pytest.approx(
        [clean[0][20] - clean[0][10], clean[1][21] - clean[1][11]]
    )
    one_by_one = llama.compute_patching(["last"], base, target, query)
    assert one_by_one["kl_patched|clean"].tolist() == found["kl_patched|clean"].tolist()
    with pytest.raises(ValueError, match="different numbers of batches"):
        llama.compute_patching(["last"], base, target[:1], query)
    with pytest.raises(ValueError, match="patching query"):
        llama.compute_patching(["last"], base, target, [{"layer": 1}])


def test_a_sweep_gives_a_grid(llama: HookedModel) -> None:
    grid = llama.sweep(IDS, by="patch", base=[5, 17, 201, 3, 42], metric="normalised_logit_diff", answer=7, against=8)
    assert (len(grid.values), len(grid.values[0])) == (3, 5)
    # Before the changed token nothing differs; the changed one alone, at the first layer, is the whole base run.
    assert grid.values[0][2] == pytest.approx(1) and grid.effects()[0][0] == 0
    assert grid.base == 1 and grid.unchanged == 0
    assert "3 layers by 5 columns" in repr(grid)
    heads = llama.sweep(IDS, along="heads", site="head_out", metric="kl", layers=[1])
    assert len(heads.columns) == 4 and heads.layers == [1]
    for wrong in ({"site": "nothing"}, {"metric": "nothing"}, {"by": "patch"}, {"along": "sideways"}):
        with pytest.raises(ValueError):
            llama.sweep(IDS, **wrong)
    for unread in ({"answer": 7}, {"against": 7}, {"answer": 7, "against": 8, "metric": "rank"}):
        with pytest.raises(ValueError, match="does not read"):
            llama.sweep(IDS, **unread)


def test_a_sweep_takes_the_words_of_the_command_line_and_says_which_there_are(llama: HookedModel) -> None:
    assert llama.sweep(IDS, along="heads").values == llama.sweep(IDS, along="heads", site="head_out").values
    assert llama.sweep(IDS, along="sites").columns == ["attn_out", "mlp_out"]
    assert llama.sweep(IDS, along="sites", site="attn_out,mlp_out", layers="1:").layers == [1, 2]
    pair = {"answer": 7, "against": 8, "layers": [1, -1]}
    one, other = (llama.sweep(IDS, metric=metric, **pair) for metric in ("logit_diff", "logit-diff"))
    assert one.values == other.values and one.layers == [1, 2]
    share = {"answer": 7, "layers": 1}
    assert llama.sweep(IDS, metric="p", **share).values == llama.sweep(IDS, metric="probability", **share).values
    for wrong, says in (
        ({"by": "patching"}, "by is zero, mean, resample or patch, not patching"),
        ({"by": "patch"}, 'by="patch" takes one prompt as base, not 0'),
        ({"by": "mean"}, 'by="mean" takes the mean over base'),
        ({"base": IDS}, 'by="zero" reads no base'),
        ({"along": "heads", "site": ["z", "head_out"]}, 'along="heads" changes one site, not 2'),
        ({"along": "experts"}, "this model has no experts"),
        ({"along": "experts", "site": "mlp_out"}, 'along="experts" changes expert_out'),
        ({"along": "heads", "experts": [1]}, "along='heads' does not read experts"),
        ({"along": "sideways"}, "along is positions, heads, sites or experts, not sideways"),
    ):
        with pytest.raises(ValueError, match=says):
            llama.sweep(IDS, **wrong)
    kept = [llama.gradients(IDS, "resid_out_0", metric, answer=7) for metric in ("p", "probability")]
    assert kept[0]["metric"].tolist() == kept[1]["metric"].tolist()


def test_the_last_layer_is_the_last_and_the_embedding_has_a_name(llama: HookedModel) -> None:
    def layers(given: Any) -> list[str]:
        return [layer["name"] for layer in llama.lens(IDS, layers=given).to_dict()["layers"]]

    assert layers([-1]) == layers("-1") == layers(2) == layers(["2"])
    assert layers(["emb", -1]) == layers("emb,-1") == [layers("emb")[0], layers([2])[0]]
    assert layers("1:") == layers([2, 1])


def test_names_of_other_packages_lead_to_those_of_this_one(llama: HookedModel) -> None:
    for name in ("run_with_cache", "run_with_hooks", "trace", "to_tokens"):
        with pytest.raises(AttributeError, match=f"HookedModel has no '{name}' here"):
            getattr(llama, name)
    cache = llama.forward(IDS, extraction_config=ExtractionConfig(extract_resid_out=True))
    with pytest.raises(KeyError, match="did you mean 'resid_out_"):
        cache["resid_out_9"]


def test_what_runs_without_registered_changes_is_refused_under_them(llama: HookedModel) -> None:
    query = [{"patching_elem": "@last", "layers_to_patch": [0], "activation_type": "resid_in_{}"}]

    def register() -> Any:
        llama.register_interventions(Intervention("full", "resid_out_0", ["last"]))
        return llama.clean_interventions

    for add in (register, lambda: llama.register_forward_hook("resid_out_0", lambda value, key: None)):
        remove = add()
        try:
            with pytest.raises(ValueError, match="sweep runs the model without registered"):
                llama.sweep(IDS)
            with pytest.raises(ValueError, match="compute_patching runs the model without registered"):
                llama.compute_patching(["last"], [IDS], [IDS], query)
        finally:
            remove()
    assert llama.sweep(IDS, layers=[-1]).layers == [2]


@pytest.mark.parametrize(
    ("query", "labels", "says"),
    [
        ({"activation_type": "resid_in_0", "layers_to_patch": [1]}, None, "no place for a layer"),
        ({"activation_type": "resid_in_{}", "layers_to_patch": [1.5]}, None, "1.5; it must be a whole number"),
        ({"activation_type": "resid_in_{}", "layers_to_patch": 1}, None, "it must be a list of layers"),
        ({"activation_type": "resid_in_0"}, ([1], [2, 3]), "1 labels and target_dictonary_idxs 2, for 1 rows"),
        ({"activation_type": "resid_in_0"}, ([1, 2], [3]), "2 labels and target_dictonary_idxs 1, for 1 rows"),
        ({"activation_type": "resid_in_0"}, ([], []), "for 1 rows"),
        ({"activation_type": "resid_in_0"}, ([-1], [3]), "label of a row is -1"),
    ],
)
def test_patching_that_would_leave_something_out_is_refused(
    llama: HookedModel, query: Any, labels: Any, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        llama.compute_patching(["last"], [IDS], [IDS], query, *(labels or ()))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
        ({"max_new_tokens": -3}, "max_new_tokens is -3"),
        ({"max_length": -3}, "max_length is -3"),
        ({"do_sample": True, "temperature": 0.0}, "temperature 0"),
        ({"do_sample": True, "temperature": "warm"}, "it must be a number"),
        ({"do_sample": True, "top_k": -1}, "top_k is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"eos_token_id": -1}, "eos_token_id is -1"),
        ({"eos_token_id": [3, 2**40]}, "eos_token_id is 1099511627776"),
    ],
)
def test_a_setting_of_generation_that_means_nothing_is_named(llama: HookedModel, settings: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        llama.generate(IDS, **settings)


def test_new_tokens_go_before_a_length(llama: HookedModel) -> None:
    with pytest.warns(UserWarning, match="max_new_tokens is used"):
        found = llama.generate(IDS, max_new_tokens=1, max_length=50, eos_token_id=[])
    assert found.shape == (1, 6)


def test_what_is_kept_of_generation_draws_the_tokens_that_generation_drew(llama: HookedModel) -> None:
    zero = [Intervention("full", "resid_in_1", ["random-text-1"])]
    config = ExtractionConfig(extract_resid_in=True)
    zeroed = set()
    for seed in range(6):
        found = llama.generate(
            IDS, extraction_config=config, interventions=zero, max_new_tokens=1, seed=seed, eos_token_id=[]
        )
        rows = found["cache"]["resid_in_1"].tolist()[0]
        logits = found["cache"]["logits"].tolist()[0][len(IDS) - 1]
        # The token that was chosen is that of the run that is kept.
        assert found["generation_output"].tolist()[0][-1] == logits.index(max(logits))
        zeroed.add(next(number for number, row in enumerate(rows) if not any(row)))
    assert len(zeroed) > 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"strength": 2.0}, "patch without patching_values does not read strength"),
        ({"source_row": 0}, "patch without patching_values does not read source_row"),
        ({"patching_values": [1.0], "multiplication_value": 0.5}, "with patching_values does not read multiplication"),
        ({"patching_values": [1.0], "operation": "add", "multiplication_value": 0.5}, "add does not read mult"),
        ({"patching_values": [1.0] * 48, "operation": "mean", "strength": 2.0}, "mean does not read strength"),
        ({"operation": "resample", "source_row": 0, "strength": 2.0}, "resample does not read strength"),
        ({"operation": "resample", "source_row": -1}, "source_row is -1"),
    ],
)
def test_a_field_that_its_operation_does_not_read_is_refused(llama: HookedModel, fields: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        llama.forward(IDS, interventions=[Intervention("full", "resid_out_0", ["last"], **fields)])


def test_a_hook_that_returns_another_shape_is_told_of_both(llama: HookedModel) -> None:
    llama.register_forward_hook("resid_out_0", lambda value, key: value[0])
    try:
        with pytest.raises(InputError, match=r"it returned \[5, 48\] for \[1, 5, 48\]$"):
            llama.forward(IDS)
        with pytest.raises(InputError, match=r"it returned \[1, 48\] for rows of \[\[1, 48\], \[2, 48\]\]$"):
            llama.forward([[1], [2, 3]])
    finally:
        llama.remove_hooks()
