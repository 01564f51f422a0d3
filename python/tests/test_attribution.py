"""Attribution, edges and fitted lenses in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, largest_difference
from test_gradients import tensor_of

from easyroutine.errors import EasyroutineError, InputError, UnsupportedError
from easyroutine.interpretability import Circuit, ExtractionConfig, HookedModel, LogitLens


def reference(name: str) -> Any:
    """A tensor of the references of attribution of llama."""
    return tensor_of(TINY / "llama" / "attribution.safetensors", name)


@pytest.fixture
def pair() -> tuple[list[list[int]], list[list[int]], list[int], list[int]]:
    pairs = reference("pairs")
    return reference("clean_ids"), reference("corrupt_ids"), [p[0] for p in pairs], [p[1] for p in pairs]


def test_scores_are_those_of_the_references(llama: HookedModel, pair: Any) -> None:
    clean, corrupt, answer, against = pair
    found = llama.attribution_patching(corrupt, clean, "resid_in_1,z_L2".split(","), answer=answer, against=against)
    assert largest_difference(found["resid_in_1"].tolist(), reference("atp.denoise.resid_in_1")) < 1e-3
    assert largest_difference(found["z_L2"].tolist(), reference("atp.denoise.z_2")) < 1e-3
    assert largest_difference(found["metric"].tolist(), reference("metric.corrupt")) < 1e-3
    assert largest_difference(found["base_metric"].tolist(), reference("metric.clean")) < 1e-3
    checked = llama.attribution_patching(corrupt, clean, "z_L1", answer=answer, against=against, check=4)
    assert [len(check["cells"]) for check in checked["check"]] == [4, 4]
    with pytest.raises(InputError, match="0 cells"):
        llama.attribution_patching(corrupt, clean, "z_L1", answer=answer, against=against, check=0)


def test_a_sweep_is_estimated_and_checked(llama: HookedModel, pair: Any) -> None:
    clean, corrupt, answer, against = pair
    arguments: dict[str, Any] = {
        "by": "patch",
        "base": [clean[0]],
        "metric": "logit_diff",
        "answer": answer[0],
        "against": against[0],
    }
    exact = llama.sweep([corrupt[0]], **arguments)
    heard: list[tuple[int, int]] = []
    found = llama.sweep([corrupt[0]], **arguments, estimate=True, check=3, on_progress=lambda *done: heard.append(done))
    assert exact.check is None
    assert found.unchanged == exact.unchanged
    assert found.check is not None and len(found.check["cells"]) == 3 and heard[-1] == (3, 3)
    assert "estimate" in found.table()
    with pytest.raises(InputError, match="estimate=True"):
        llama.sweep([corrupt[0]], **arguments, check=3)


def test_integrated_gradients_are_complete(llama: HookedModel, pair: Any) -> None:
    clean, corrupt, answer, against = pair
    with pytest.warns(UserWarning, match="the attributions sum to"):
        found = llama.integrated_gradients(clean, baseline=corrupt, answer=answer, against=against, steps=8)
    assert largest_difference(found["input_embeddings"].tolist(), reference("ig.corrupt.gausslegendre")) < 1e-3
    for row in range(2):
        whole = sum(sum(vector) for vector in found["input_embeddings"].tolist()[row])
        change = found["metric"].tolist()[row] - found["baseline_metric"].tolist()[row]
        assert abs(change - whole - found["missing"].tolist()[row]) < 1e-3
    with pytest.raises(InputError, match="singular"):
        llama.integrated_gradients(clean, answer=answer, against=against, points="left")
    with pytest.warns(UserWarning, match="more steps"):
        llama.integrated_gradients(clean[:1], answer=answer[0], against=against[0], steps=1)


def test_a_circuit_has_scores_runs_and_pictures(llama: HookedModel, pair: Any, tmp_path: Path) -> None:
    clean, corrupt, answer, against = pair
    circuit = llama.edges(clean, corrupt, answer=answer, against=against, steps=8, top=40, curve=True)
    scores = reference("eap_ig.scores")
    mean = (scores[0][0][-1] + scores[1][0][-1]) / 2
    assert abs(circuit.scores["input->logits"] - mean) < 1e-3
    expected = json.loads((TINY / "llama" / "circuits.json").read_text())["top"]["40"]
    assert sorted(circuit.kept) == expected["edges"]
    metric = circuit.data["easyroutine"]["circuit"]["metric"]
    assert abs(metric - sum(expected["metric"]) / 2) < 1e-3
    assert circuit.curve is not None and abs(circuit.curve["faithfulness"][-1] - 1) < 1e-3
    circuit.save(tmp_path / "c.json")
    again = Circuit(json.loads((tmp_path / "c.json").read_text()))
    assert again.kept == circuit.kept and again.faithfulness == circuit.faithfulness
    assert "<svg" in circuit.to_svg() and "Content-Security-Policy" in circuit.to_html()
    assert circuit.to_png().startswith(b"\x89PNG") and "logits" in str(circuit)
    with pytest.raises(UnsupportedError, match="norms the sum of its heads"):
        HookedModel.from_pretrained(str(TINY / "gemma2")).edges([[1, 2]], [[1, 3]], answer=1, against=2)
    with pytest.raises(EasyroutineError, match="eap, eap-ig"):
        llama.edges(clean, corrupt, answer=answer, against=against, method="ifr")  # type: ignore[arg-type]


class Stopped(Exception):
    """Raised by a callback in the middle of some work."""


def test_mean_scores_are_resumed_to_the_bit(llama: HookedModel, pair: Any, tmp_path: Path) -> None:
    keys = ("clean", "corrupt", "answer", "against")
    pairs = [dict(zip(keys, row, strict=True)) for row in zip(*pair, strict=True)]
    whole = llama.mean_attribution(pairs, ["z_L*", "resid_in_1"])
    assert (
        whole["pairs"] == 2 and len(whole["scores"]["z_L0"]) == 4 and isinstance(whole["scores"]["resid_in_1"], float)
    )
    one = llama.attribution_patching(pair[1], pair[0], "resid_in_1", answer=pair[2], against=pair[3])
    assert whole["scores"]["resid_in_1"] == pytest.approx(sum(map(sum, one["resid_in_1"].tolist())) / 2, rel=1e-5)

    def stop(done: int) -> None:
        raise Stopped

    state = tmp_path / "sums.safetensors"
    with pytest.raises(Stopped):
        llama.mean_attribution(pairs, ["z_L*", "resid_in_1"], state=state, on_progress=stop)
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in pairs), encoding="utf-8")
    heard: list[int] = []
    resumed = llama.mean_attribution(file, ["z_L*", "resid_in_1"], state=state, on_progress=heard.append)
    assert resumed == whole and heard == [1, 2]
    with pytest.raises(InputError, match="not the first of these"):
        llama.mean_attribution(pairs[::-1], ["z_L*", "resid_in_1"], state=state)
    with pytest.raises(InputError, match="sums hold 2 pairs, and 1 are read"):
        llama.mean_attribution(pairs[:1], ["z_L*", "resid_in_1"], state=state)
    with pytest.raises(InputError, match="another `activations`"):
        llama.mean_attribution(pairs, "z_L*", state=state)
    with pytest.raises(InputError, match="safetensors file"):
        llama.mean_attribution(pairs, "z_L*", state=tmp_path / "sums.pt")
    with pytest.raises(InputError, match="pair 0 has no 'corrupt'"):
        llama.mean_attribution([{"clean": [1]}], "z_L*")
    with pytest.raises(InputError, match="no pair"):
        llama.mean_attribution([], "z_L*")
    with pytest.warns(UserWarning, match="'note'"):
        llama.mean_attribution([{**pairs[0], "note": 1}], "z_L*")
    file.write_text("{}\n{", encoding="utf-8")
    with pytest.raises(InputError, match="pair 0 has no 'clean'"):
        llama.mean_attribution(file, "z_L*")
    file.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="line 1"):
        llama.mean_attribution(file, "z_L*")
    file.write_bytes(b"\xff\n")
    with pytest.raises(InputError, match="UTF-8"):
        llama.mean_attribution(file, "z_L*")


def test_fits_that_were_stopped_are_resumed_to_the_bit(llama: HookedModel, tmp_path: Path) -> None:
    prompts = tensor_of(TINY / "llama" / "jacobian_lens.safetensors", "prompts")
    parts = [tmp_path / name for name in ("whole.safetensors", "resumed.safetensors")]

    def stop(share: float) -> Any:
        def told(done: int, of: int) -> None:
            if done >= share * of:
                raise Stopped

        return told

    llama.fit_jacobian_lens(prompts, parts[0], skip_first=2)
    with pytest.raises(Stopped):
        llama.fit_jacobian_lens(prompts, parts[1], skip_first=2, on_progress=stop(0.6))
    assert parts[1].read_bytes() != parts[0].read_bytes()
    with pytest.raises(InputError, match="another `skip_first`"):
        llama.fit_jacobian_lens(prompts, parts[1], skip_first=3, resume=True)
    with pytest.raises(InputError, match="hold 3 prompts, and 1 are read"):
        llama.fit_jacobian_lens(prompts[:1], parts[1], skip_first=2, resume=True)
    with pytest.raises(InputError, match="not the first of these"):
        llama.fit_jacobian_lens(prompts[::-1], parts[1], skip_first=2, resume=True)
    llama.fit_jacobian_lens(prompts, parts[1], skip_first=2, resume=True)
    assert parts[1].read_bytes() == parts[0].read_bytes()
    with pytest.raises(InputError, match="exact sums"):
        llama.fit_jacobian_lens(prompts, tmp_path / "x.pt", resume=True)

    settings: dict[str, Any] = {"steps": 6, "rows_per_step": 3, "seed": 4}
    whole = llama.tune_lens(prompts, tmp_path / "whole", **settings)
    with pytest.raises(Stopped):
        llama.tune_lens(prompts, tmp_path / "resumed", **settings, on_progress=stop(0.5))
    with pytest.raises(InputError, match="another `seed`"):
        llama.tune_lens(prompts, tmp_path / "resumed", **{**settings, "seed": 5}, resume=True)
    with pytest.raises(InputError, match="another `content_of_prompts`"):
        llama.tune_lens(prompts[::-1], tmp_path / "resumed", **settings, resume=True)
    assert llama.tune_lens(prompts, tmp_path / "resumed", **settings, resume=True) == whole[3:]
    for name in ("params.pt", "config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "resumed").iterdir()) == ["config.json", "params.pt"]
    with pytest.raises(InputError, match="nothing to resume"):
        llama.tune_lens(prompts, tmp_path / "resumed", **settings, resume=True)


def test_fitted_lenses_are_read_again(llama: HookedModel, tmp_path: Path) -> None:
    file = TINY / "llama" / "jacobian_lens.safetensors"
    prompts = tensor_of(file, "prompts")
    told = llama.fit_jacobian_lens(prompts, tmp_path / "j.safetensors", skip_first=2)
    assert told["n_prompts"] == 6 and len(told["uncertainty"]) == 2
    config = ExtractionConfig(extract_resid_out=True)
    cache = llama.forward(tensor_of(file, "input_ids"), ["all"], extraction_config=config)
    for path, name in ((tmp_path / "j.safetensors", "logits"), (TINY / "llama" / "jacobian_lens.pt", "logits_f16")):
        lens = LogitLens.from_jacobian(path, llama)
        found = lens.compute(cache, "resid_out_1", norm="own")["logit_lens_resid_out_1"]
        assert largest_difference(found.tolist(), tensor_of(file, f"{name}.1")) < 1e-3
    with pytest.warns(UserWarning, match="fitted on another model"):
        LogitLens.from_jacobian(tmp_path / "j.safetensors", HookedModel.from_pretrained(str(TINY / "gpt2")))
    losses = llama.tune_lens(prompts, tmp_path / "lens", steps=6, rows_per_step=3)
    assert len(losses) == 6 and losses[-1] < losses[0]
    LogitLens.from_tuned_lens(tmp_path / "lens", llama)
    with pytest.raises(InputError, match="so none counts"):
        llama.fit_jacobian_lens(prompts, tmp_path / "x.pt", skip_first=30)
    with pytest.raises(InputError, match="safetensors or a .pt"):
        llama.fit_jacobian_lens(prompts, tmp_path / "x.json")
