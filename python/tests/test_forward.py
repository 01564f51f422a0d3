"""Runs: what is kept, at which tokens, under which keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import PROMPT, TINY, largest_difference, reference

from easyroutine import _core
from easyroutine.errors import InputError, UnsupportedError
from easyroutine.interpretability import (
    ActivationSaver,
    ExtractionConfig,
    HookedModel,
    HookedModelConfig,
    ValueWithInfo,
)

pytestmark = pytest.mark.usefixtures("own_tensors")

#: ``score`` is of models with another head, ``mixer_*`` of models with recurrences, ``attn_gate`` of some of them.
MIXER = ("extract_attn_gate", "extract_mixer_in", "extract_mixer_z", "extract_mixer_out")
#: Of models with experts.
EXPERTS = tuple(
    f"extract_{site}" for site in ("router_logits", "router_index", "router_weights", "expert_out", "shared_out")
)
#: Of DeepSeek and of Gemma 4.
OF_SOME = ("extract_kv_compressed", "extract_per_layer_out")
LEFT_OUT = ("extract_mlp_hidden", "extract_resid_mid", "extract_score", *MIXER, *EXPERTS, *OF_SOME)
EVERYTHING = {flag: True for flag, _, _ in _core.sites() if flag not in LEFT_OUT}


def test_shapes_are_those_of_the_table(llama: HookedModel) -> None:
    cache = llama.forward(
        PROMPT, target_token_positions=["last", (0, 2)], extraction_config=ExtractionConfig(**EVERYTHING)
    )
    sizes = llama.model_config
    d, v, h = sizes.hidden_size, sizes.vocab_size, sizes.head_dim
    queries, keys = sizes.num_attention_heads * h, sizes.num_key_value_heads * h
    expected = {
        "input_ids": (1, 3),
        "input_embeddings": (1, 3, d),
        "resid_in_0": (1, 3, d),
        "resid_out_1": (1, 3, d),
        "attn_in_0": (1, 3, d),
        "resid_in_post_layernorm_0": (1, 3, d),
        "attn_out_0": (1, 3, d),
        "mlp_out_2": (1, 3, d),
        "queries_L0": (1, 3, queries),
        "keys_L0": (1, 3, keys),
        "values_L0": (1, 3, keys),
        "head_queries_L1H3": (1, 3, h),
        "head_out_L1H3": (1, 3, d),
        "projected_key_L0H0": (1, 3, d),
        "pattern_L2H1": (1, 3, 3),
        "scores_L2H1": (1, 3, 3),
        "logits": (1, 3, v),
    }
    assert {key: cache[key].shape for key in expected} == expected
    assert {key: value.shape for key, value in cache["last_layernorm"].items()} == dict.fromkeys(
        ("mean", "variance", "second_moment"), (1, 3)
    )
    assert isinstance(cache["head_out_L0H0"], ValueWithInfo) and "B T D" in cache["head_out_L0H0"].info()
    assert cache["input_ids"].dtype == "int64"


def test_positions_are_told(llama: HookedModel) -> None:
    cache = llama.forward([1, 2, 3, 4, 5], target_token_positions=["last", -2, (1, 3), [0, 2], "last"])
    assert cache["mapping_index"] == {"last": [0], -2: [1], (1, 3): [2, 3], (0, 2): [4, 5]}
    assert cache["token_dict"] == {"last": [4], -2: [3], (1, 3): [1, 2], (0, 2): [0, 1]}
    assert cache["logits"].shape == (1, 7, 320)


@pytest.mark.parametrize("positions", ["last", 3, (1, 3)])
def test_a_bare_position_is_a_list_of_one(llama: HookedModel, positions: Any) -> None:
    ids = [1, 2, 3, 4, 5]
    assert (
        llama.forward(ids, target_token_positions=positions)["logits"]
        == llama.forward(ids, target_token_positions=[positions])["logits"]
    )


def test_the_whole_row_is_the_default(llama: HookedModel) -> None:
    assert llama([1, 2, 3])["mapping_index"] == {"all": [0, 1, 2]}


def test_rows_of_different_length_are_a_list(llama: HookedModel) -> None:
    cache = llama.forward([[1, 2, 3], [4]])
    assert [row.shape for row in cache["logits"]] == [(3, 320), (1, 320)]
    assert cache["mapping_index"] == {"all": [[0, 1, 2], [0]]}
    assert [row.shape for row in cache.map_to_dict("logits")["all"]] == [(3, 320), (320,)]
    assert llama.forward([[1, 2, 3], [4]], target_token_positions=["last"])["logits"].shape == (2, 1, 320)


def test_a_substring_names_its_tokens(llama: HookedModel) -> None:
    tokenizer = llama.get_tokenizer()
    cache = llama.forward(PROMPT, target_token_positions=["text:capital"])
    assert "capital" in tokenizer.decode([tokenizer.encode(PROMPT)[i] for i in cache["token_dict"]["text:capital"]])
    encoded = tokenizer(PROMPT, return_tensors=None)
    assert llama.forward(encoded, target_token_positions=["text:capital"])["logits"] == cache["logits"]
    with pytest.raises(ValueError, match="does not contain"):
        llama.forward(PROMPT, target_token_positions=["text:Berlin"])
    with pytest.raises(ValueError, match="token ids"):
        llama.forward([1, 2], target_token_positions=["text:capital"])


def test_pivots_cut_rows_into_groups(llama: HookedModel) -> None:
    cache = llama.forward([1, 2, 3, 4, 5], target_token_positions=["inputs-partition-1"], pivot_positions=[4, 2])
    assert cache["token_dict"] == {"inputs-partition-1": [2, 3]}


def test_random_tokens_depend_on_the_seed_and_the_row_alone(llama: HookedModel) -> None:
    rows = [[5, 6, 7, 8, 9, 10]] * 3
    drawn = llama.forward(rows, target_token_positions=["random-text-2"], seed=3)["token_dict"]["random-text-2"]
    again = llama.forward(rows[0], target_token_positions=["random-text-2"], seed=3, first_row=2)
    assert again["token_dict"]["random-text-2"] == drawn[2]


def test_averages_have_one_column_a_specifier(llama: HookedModel) -> None:
    config = ExtractionConfig(extract_resid_out=True, extract_attn_pattern=True, avg=True)
    cache = llama.forward([1, 2, 3, 4], target_token_positions=[(0, 2), "last"], extraction_config=config)
    assert cache["mapping_index"] == {(0, 2): [0], "last": [1], "info": "avg"}
    assert cache["resid_out_0"].shape == (1, 2, 48) and cache["logits"].shape == (1, 2, 320)
    assert cache["pattern_L0H0"].shape == (1, 2, 2)


def test_pattern_rows_of_their_own(llama: HookedModel) -> None:
    config = ExtractionConfig(extract_attn_pattern=True, attn_pattern_row_positions=["last"])
    cache = llama.forward([1, 2, 3, 4], extraction_config=config)
    assert cache["pattern_L0H0"].shape == (1, 1, 4)
    assert cache["mapping_index_rows"] == {"last": [0]}


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "phi"])
def test_logits_are_those_of_transformers(family: str) -> None:
    model = HookedModel.from_pretrained(TINY / family)
    # Padded rows of transformers have numbers at the padding too; ours have the real tokens alone.
    for name, of_padding in (("full", None), ("left", "left"), ("right", "right")):
        inputs: dict[str, Any] = {"input_ids": reference(family, f"{name}.input_ids")}
        if of_padding:
            inputs["attention_mask"] = reference(family, f"{name}.attention_mask")
        expected = reference(family, f"{name}.logits")
        masks = inputs.get("attention_mask") or [[1] * len(row) for row in inputs["input_ids"]]
        for row, mask, found in zip(expected, masks, model.forward(inputs)["logits"], strict=True):
            real = [vector for vector, one in zip(row, mask, strict=True) if one]
            assert largest_difference(found.tolist(), real) < 1e-4


def test_every_flag_of_the_engine_is_a_field() -> None:
    names = set(ExtractionConfig().to_dict())
    assert {flag for flag, _, _ in _core.sites()} <= names


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"extract_resid_outt": True}, "did you mean `extract_resid_out`"),
        (ExtractionConfig(keep_gradient=True), "vocabulary_index"),
        (ExtractionConfig(save_logits=False), "asks for nothing"),
        (ExtractionConfig(attn_heads=[{"layer": 9, "head": 0}], extract_head_out=True), "L9H0`: no such layer"),
        (ExtractionConfig(extract_resid_out="yes"), "true or false"),  # type: ignore[arg-type]
        (3, "is an ExtractionConfig, not int"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(llama: HookedModel, config: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        llama.forward([1, 2], extraction_config=config)


def test_a_configuration_is_a_dataclass_of_its_own() -> None:
    config = ExtractionConfig(attn_heads=[{"layer": 0, "head": 1}])
    fields = config.to_dict()
    config.extract_resid_out = True
    config.attn_heads[0]["head"] = 2  # type: ignore[index]
    assert fields["extract_resid_out"] is False and fields["attn_heads"] == [{"layer": 0, "head": 1}]
    assert config.is_not_empty() and not ExtractionConfig(save_logits=False).is_not_empty()
    assert ExtractionConfig(extract_embed=True) == ExtractionConfig(extract_embed=True)


def test_a_subclass_may_have_fields_of_its_own(llama: HookedModel) -> None:
    class Mine(ExtractionConfig):
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "mine": 1}

    assert "resid_out_0" in llama.forward([1, 2], extraction_config=Mine(extract_resid_out=True))


def test_likely_tokens(llama: HookedModel) -> None:
    likely = llama.predict(PROMPT, k=5, strip=False)
    assert isinstance(likely, dict) and len(likely) == 5
    chances = list(likely.values())
    assert chances == sorted(chances, reverse=True) and 0 < sum(chances) < 1
    both = llama.predict([PROMPT, "x"], k=3)
    assert isinstance(both, list) and len(both) == 2


def test_the_model_tells_what_it_is(llama: HookedModel, gpt2: HookedModel) -> None:
    config = llama.model_config
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (3, 4, 2)
    assert config["vocab_size"] == 320 and config.model_type == "llama"
    # GPT-2 writes its sizes under other names; both are there.
    assert gpt2.model_config.num_hidden_layers == gpt2.model_config.n_layer
    with pytest.raises(AttributeError, match="no 'layers'"):
        _ = config.layers
    assert str(llama.device()) == "cpu" and llama.eval() is llama
    assert llama.get_text_tokenizer() is llama.hf_tokenizer
    assert llama.get_processor() is None and not llama.is_multimodal()
    llama.set_custom_modules(), llama.restore_original_modules(), llama.use_language_model_only()
    assert llama.to_string_tokens("The") == llama.to_string_tokens(llama.get_tokenizer().encode("The"))
    with pytest.raises(NotImplementedError, match="read activations by key"):
        llama.get_module_from_string("model.layers.0")


def test_loading_refuses_what_is_not_computed() -> None:
    with pytest.raises(ValueError, match="hides attention"):
        HookedModelConfig("x", attn_implementation="sdpa")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no argument 'flavour'"):
        HookedModel.from_pretrained("x", flavour="sweet")
    with pytest.raises(FileNotFoundError):
        HookedModel.from_pretrained("./nowhere")
    with pytest.raises(OSError, match="offline|downloads are off"):
        HookedModel.from_pretrained("nobody/nothing", offline=True)


@pytest.mark.parametrize(
    ("keywords", "would_do"),
    [
        ({"dtype": "float16"}, "bfloat16"),
        ({"torch_dtype": "half"}, "bfloat16"),
        ({"dtype": "float64"}, "float32"),
        ({"device_map": "cuda"}, "cpu"),
        ({"device_map": {"": 0}}, "cpu"),
        ({"device": "mps"}, "cpu"),
        ({"device": "cuda:1"}, "cpu"),
        ({"load_in_4bit": True}, "GGUF"),
        ({"quantization_config": object()}, "GGUF"),
        ({"trust_remote_code": True}, "built in"),
        ({"token": "x"}, "HF_TOKEN"),
        ({"cache_dir": "x"}, "HF_HUB_CACHE"),
        ({"use_safetensors": False}, "safetensors"),
    ],
)
def test_keywords_of_transformers_are_refused_with_what_would_do(keywords: dict[str, Any], would_do: str) -> None:
    with pytest.raises(UnsupportedError, match=would_do):
        HookedModel.from_pretrained(TINY / "llama", **keywords)


@pytest.mark.parametrize(
    ("keywords", "dtype"),
    [
        ({"dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "bf16", "torch_dtype": "bfloat16"}, "bfloat16"),
        ({"dtype": "auto"}, "float32"),
        ({"dtype": float, "device": "cpu"}, "float32"),
        ({"dtype": None, "torch_dtype": None, "device_map": None, "attn_implementation": None}, "float32"),
        ({"device_map": {"": "cpu"}, "attn_implementation": "eager"}, "float32"),
        ({"device_map": "sequential", "low_cpu_mem_usage": True, "use_safetensors": True}, "float32"),
        ({"trust_remote_code": False, "load_in_8bit": False, "quantization_config": None, "token": None}, "float32"),
        ({"local_files_only": True}, "float32"),
    ],
)
def test_keywords_of_transformers_are_read(keywords: dict[str, Any], dtype: str) -> None:
    model = HookedModel.from_pretrained(TINY / "llama", **keywords)
    assert model.config.torch_dtype == dtype and repr(model).endswith(f"{dtype})")
    assert model.config.offline == keywords.get("local_files_only", False)


def test_keywords_that_disagree_are_refused() -> None:
    with pytest.raises(ValueError, match="disagree"):
        HookedModel.from_pretrained(TINY / "llama", dtype="bfloat16", torch_dtype="float32")
    for wrong in ("last", 3, ["a"], [1.5], ExtractionConfig()):
        with pytest.raises(InputError, match="pivot_positions"):
            HookedModel.from_pretrained(TINY / "llama").forward([1, 2], ["all"], wrong)  # type: ignore[arg-type]


@pytest.mark.torch
def test_types_and_devices_of_torch_are_read() -> None:
    import torch

    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float32, "float32"), (torch.float, "float32")):
        model = HookedModel.from_pretrained(TINY / "llama", dtype=dtype, device=torch.device("cpu"))
        assert model.config.torch_dtype == name
    for wrong in ({"dtype": torch.float16}, {"device_map": torch.device("cuda", 0)}):
        with pytest.raises(UnsupportedError):
            HookedModel.from_pretrained(TINY / "llama", **wrong)


def test_a_bfloat16_model_computes(llama: HookedModel) -> None:
    model = HookedModel.from_pretrained(TINY / "llama", torch_dtype="bfloat16", device_map="cpu", batch_size=1)
    found, exact = (m.forward([1, 2, 3])["logits"].tolist()[0][2] for m in (model, llama))
    assert found != exact and max(abs(a - b) for a, b in zip(found, exact, strict=True)) < 0.1


def test_a_dictionary_is_a_configuration_everywhere(llama: HookedModel, tmp_path: Path) -> None:
    fields: Any = {"extract_attn_pattern": True, "attn_pattern_row_positions": ["last"]}
    whole = llama.forward([1, 2, 3], extraction_config=ExtractionConfig(**fields))
    found = llama.forward([1, 2, 3], extraction_config=fields)
    assert found["mapping_index_rows"] == {"last": [0]} and found["pattern_L0H0"] == whole["pattern_L0H0"]
    means: Any = {**fields, "avg_over_example": True}
    assert "avg_pattern_L0H0" in llama.extract_cache([[1, 2, 3]], ["all"], means)
    remove = llama.register_forward_hook("resid_out_0", lambda value, key: None)
    assert llama.extract_cache([[1, 2, 3]] * 2, ["all"], means)["avg_pattern_L0H0"].shape == (1, 1, 3)
    remove()
    kept = llama.generate([1, 2, 3], extraction_config=fields, max_new_tokens=1)["cache"]
    assert "mapping_index_rows" in kept
    saver = ActivationSaver(tmp_path)
    assert llama.extract_to_store(saver, [[1, 2, 3]], ["last"], {"extract_resid_out": True})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: model.forward([1], seed=-1), "seed is -1"),
        (lambda model: model.forward([1], first_row=-1), "first_row is -1"),
        (lambda model: model.extract_cache([[1]], seed=1.5), "seed is 1.5; it must be a whole number"),
        (lambda model: model.predict([1], k=-1), "k is -1; it must be at least 1"),
        (lambda model: model.lens("a", k=-1), "k is -1"),
        (lambda model: model.lens("a", track=-1), "track is -1"),
        (lambda model: model.lens("a", layers=["a"]), "`a`"),
        (lambda model: model.lens("a", layers=[3]), "a layer is 3; it must be at most 2"),
        (lambda model: model.sweep([1], layers="emb,0"), "a sweep does not change the embedding"),
        (lambda model: model.sweep([1], layers=[3]), "a layer is 3; it must be at most 2"),
        (lambda model: model.sweep([1], metric="rank", answer=-1), "answer is -1"),
        (lambda model: HookedModelConfig("x", threads=-1), "threads is -1; it must be at least 1"),
        (lambda model: HookedModelConfig("x", batch_size=0), "batch_size is 0"),
        (lambda model: HookedModelConfig("x", allow_config_keys="foo"), "a list of keys"),
    ],
)
def test_numbers_that_mean_nothing_are_named(llama: HookedModel, call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(llama)


def test_whole_numbers_of_numpy_are_numbers(llama: HookedModel) -> None:
    numpy = pytest.importorskip("numpy")
    assert len(llama.predict([1], k=numpy.int64(3), strip=False)) == 3
    drawn = [llama.generate([1], do_sample=True, seed=seed, max_new_tokens=3) for seed in (numpy.uint8(7), 7)]
    assert drawn[0].tolist() == drawn[1].tolist()
    assert llama.generate([1], max_new_tokens=numpy.int32(1), eos_token_id=numpy.array([3])).shape == (1, 2)


def test_what_a_tokenizer_gives_is_a_data_set_of_one_batch(llama: HookedModel) -> None:
    batch = {"input_ids": [[1, 2, 0], [3, 4, 5]], "attention_mask": [[1, 1, 0], [1, 1, 1]]}
    one, other = llama.extract_cache(batch, ["last"]), llama.extract_cache([batch], ["last"])
    assert one["logits"].tolist() == other["logits"].tolist()
    with pytest.raises(ValueError, match="a data set is a list"):
        llama.extract_cache({"text": "a"}, ["last"])
