"""Every example of the original's documentation, its calls in its order; models are those at hand."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from easyroutine.interpretability import ActivationLoader, ActivationSaver, ExtractionConfig, HookedModel
from easyroutine.interpretability.tools import LogitLens

pytestmark = [pytest.mark.torch, pytest.mark.real]


def test_logit_lens_usage(smollm2: HookedModel) -> None:
    model = smollm2
    inputs = model.get_tokenizer()("Is Paris in France?", return_tensors="pt")
    logit_lens = LogitLens.from_model(model)
    cache = model.forward(
        inputs,
        target_token_positions=["last"],
        extraction_config=ExtractionConfig(extract_resid_out=True, extract_last_layernorm=True),
    )
    layer = 12
    results = logit_lens.compute(
        activations=cache, target_key=f"resid_out_{layer}", apply_norm=True, apply_softmax=True
    )
    assert results[f"logit_lens_resid_out_{layer}"].shape == (1, 1, 49152)
    token_diff_results = logit_lens.compute(
        activations=cache,
        target_key=f"resid_out_{layer}",
        token_directions=[(model.hf_tokenizer.encode(" yes")[0], model.hf_tokenizer.encode(" no")[0])],
        metric="logit_diff",
    )
    assert token_diff_results[f"logit_lens_resid_out_{layer}"].shape == (1, 1)


def test_analyzing_mid_layer_predictions(smollm2: HookedModel) -> None:
    import torch

    model = smollm2
    logit_lens = LogitLens.from_model(model)
    tokenizer = model.get_tokenizer()
    prompt = "The capital of France is"
    inputs = tokenizer(prompt, return_tensors="pt")
    cache = model.forward(
        inputs,
        target_token_positions=["last"],
        extraction_config=ExtractionConfig(extract_resid_out=True, extract_last_layernorm=True),
    )
    results = {}
    for layer in range(model.model_config.num_hidden_layers):
        layer_results = logit_lens.compute(
            activations=cache, target_key=f"resid_out_{layer}", apply_norm=True, apply_softmax=True
        )
        logits = layer_results[f"logit_lens_resid_out_{layer}"][0, -1]
        top_tokens = torch.topk(logits, 5)
        results[layer] = [
            (tokenizer.decode(idx.item()), prob.item())
            for idx, prob in zip(top_tokens.indices, top_tokens.values, strict=True)
        ]
    assert results[29][0][0] == " Paris"


def test_activation_saver_usage(smollm2: HookedModel, tmp_path: Path) -> None:
    model = smollm2
    tokenizer = model.get_tokenizer()
    inputs = tokenizer("Hello, world!", return_tensors="pt")
    cache = model.forward(
        inputs, target_token_positions=["last"], extraction_config=ExtractionConfig(extract_resid_out=True)
    )
    saver = ActivationSaver(base_dir=tmp_path / "saved_activations", experiment_name="hello_world_test")
    save_dir = saver.save(
        activations=cache,
        model=model,
        target_token_positions=["last"],
        interventions=None,
        extraction_config=ExtractionConfig(extract_resid_out=True),
        tag="first_test",
    )
    assert Path(save_dir).is_dir()
    dataloader = [inputs, tokenizer("Bye!", return_tensors="pt")]
    dataset_cache = model.extract_cache(
        dataloader, target_token_positions=["last"], extraction_config=ExtractionConfig(extract_resid_out=True)
    )
    saver.save_cache(dataset_cache, tag="dataset_run")
    assert dataset_cache["resid_out_0"].shape == (2, 1, 576)


def test_query_results(smollm2: HookedModel, tmp_path: Path) -> None:
    saver = ActivationSaver(tmp_path)
    cache = smollm2.forward("x", target_token_positions=["last"])
    for _ in range(3):
        saver.save(cache, smollm2, ["last"], None, ExtractionConfig())
    query_result = ActivationLoader.from_saver(saver).query()
    print(query_result)
    print(query_result.get_paths())
    activations, metadata = query_result.load(-1)
    assert activations["logits"].equal(cache["logits"]) and metadata["model_name"] == smollm2.name
    # The name of a run's folder, as the documentation writes such.
    activations, metadata = query_result.load(query_result.results[0][2])
    query_result.remove(-1)
    query_result.update_run_experiment(-1, "new_experiment_name")
    assert len(ActivationLoader(tmp_path, "new_experiment_name").query().results) == 1


def test_comprehensive_workflow(smollm2: HookedModel, tmp_path: Path) -> None:
    model = smollm2
    tokenizer = model.get_tokenizer()
    texts = ["Example text 1", "Example text 2", "Example text 3"]
    dataset = [tokenizer(text, return_tensors="pt") for text in texts]
    saver = ActivationSaver(base_dir=tmp_path / "saved_activations", experiment_name="documentation_example")
    config = ExtractionConfig(extract_resid_out=True, extract_attn_pattern=True)
    for i, inputs in enumerate(dataset):
        cache = model.forward(inputs, target_token_positions=["last"], extraction_config=config)
        saver.save(
            activations=cache,
            model=model,
            target_token_positions=["last"],
            interventions=None,
            extraction_config=ExtractionConfig(extract_resid_out=True, extract_attn_pattern=True),
            other_metadata={"batch_id": i},
            tag=f"batch_{i}",
        )
    loader = ActivationLoader.from_saver(saver)
    batch_0_results = loader.query(tag="batch_0")
    activations, metadata = batch_0_results.load(-1)
    assert metadata["batch_id"] == 0 and "pattern_L0H0" in activations
    specific_batch = loader.query(custom_keys={"batch_id": 1})
    activations, metadata = specific_batch.load(-1)
    assert metadata["tag"] == "batch_1"
    all_runs = loader.query(model_name=model.name, extraction_config=ExtractionConfig(extract_attn_pattern=True))
    print(f"Found {len(all_runs.results)} matching runs")
    assert len(all_runs.results) == 3


@pytest.mark.filterwarnings("ignore")
def test_the_real_tokenizer_of_transformers_may_be_had(llama: HookedModel) -> None:
    theirs: Any = llama.get_tokenizer(backend="hf")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inputs = theirs("The capital", return_tensors="pt")
    assert llama.forward(inputs)["logits"].equal(llama.forward("The capital")["logits"])
