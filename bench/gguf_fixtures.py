"""GGUF files of the tiny models as llama.cpp's converter writes them: metadata, and a checksum of each tensor.

    pip install gguf==0.19.0 numpy safetensors torch transformers sentencepiece
    python bench/gguf_fixtures.py LLAMA_CPP [CASE ...] [--keep FOLDER]

LLAMA_CPP is a checkout of llama.cpp (or vendor/llama.cpp of the source package of llama-cpp-python). Writes
fixtures/gguf/CASE.json. With `--runs FOLDER` it writes nothing but files into that folder, of random weights in sizes that
llama.cpp runs, for `bench/gguf.py --logits`. A test makes the same tensors of the safetensors fixture, compares the checksums, writes a GGUF file of
them and runs it beside the safetensors. `--keep` keeps the converter's own files.

A file that says less than config.json (llama.cpp then has a constant) is made of a config with that constant: `config` below
changes the fixture's, for the converter and for the test. `converter` changes it for the converter alone, which reads some keys
under their older names, and `unsaid` are keys that it shall not see. `removed` are tensors that the architecture has no place for.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import zlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 10000.0}

# What a case changes; cases without an entry are converted as they are.
CASES = {
    "apertus": {},
    "arcee": {},
    "bloom": {},
    "bloom_6heads": {},
    "cohere": {},
    "cohere2": {
        "config": {"attention_bias": False},
        "converter": {"rotary_pct": 1.0},
        "removed": [r"_proj\.bias$"],
    },
    "deepseek_v2": {},
    # Without it llama.cpp takes a softmax.
    "deepseek_v3": {"converter": {"scoring_func": "sigmoid"}},
    "ernie4_5": {},
    "ernie4_5_moe": {},
    "exaone4": {},
    "falcon": {
        "config": {"bias": False, "rope_parameters": DEFAULT_ROPE},
        "removed": [r"(dense|query_key_value|_4h|_h)\.bias$"],
    },
    "falcon_h1": {
        "config": {"projectors_bias": False, "mamba_proj_bias": False},
        "removed": [r"(in|out)_proj\.bias$"],
        "converter": {"head_dim": 8, "d_head": 8},
        "folded": True,
    },
    # The config says none: the files do not say the epsilon of the mixer's norms.
    "falcon_mamba": {"config": {"mixer_rms_eps": 1e-6, "use_bias": True}},
    "gemma": {},
    "gemma2": {"config": {"query_pre_attn_scalar": 16}},
    "gemma3_text": {"config": {"query_pre_attn_scalar": 16, "layer_types": ["sliding_attention"] * 4}},
    "gemma4_text": {},
    "gemma4_text_moe": {},
    "glm": {"config": {"rope_parameters": {**DEFAULT_ROPE, "partial_rotary_factor": 0.5}}, "metadata": {
        # The converter takes the stream's width over the heads, which is not this fixture's width of a head.
        "chatglm.attention.key_length": 16, "chatglm.attention.value_length": 16, "chatglm.rope.dimension_count": 8,
        "chatglm.context_length": 64,
    }},
    "glm4": {},
    "glm4_moe": {},
    "gpt2": {"converter": {"n_ctx": 64}},
    "gpt_bigcode": {},
    "gpt_neox": {"converter": {"rotary_pct": 0.25}},
    "gpt_oss": {"config": {"swiglu_alpha": 1.702, "swiglu_limit": 7.0,
                           "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}},
    "granite": {},
    "granitemoe": {},
    # With state spaces nothing turns.
    "granitemoehybrid": {
        "config": {"position_embedding_type": None, "max_position_embeddings": 2**20},
        "converter": {"layer_types": ["mamba", "attention", "mamba"]},
    },
    "granitemoeshared": {},
    "hunyuan_v1_dense": {"config": {"rope_parameters": DEFAULT_ROPE}},
    "lfm2": {
        "config": {"conv_bias": False, "block_auto_adjust_ff_dim": False, "intermediate_size": 32},
        "converter": {"block_ffn_dim_multiplier": 1.0, "block_multiple_of": 16},
        "removed": [r"conv\.(conv|in_proj|out_proj)\.bias$"],
    },
    "llama": {},
    "llama3": {},
    "llama_linear": {},
    "llama_yarn": {},
    "mamba": {},
    "mamba2": {"config": {"time_step_limit": [0.0, {"__float__": "Infinity"}]}},
    "minimax_m2": {"converter": {"scoring_func": "sigmoid"}},
    "ministral3": {},
    "mistral": {"config": {"sliding_window": None}},
    "mixtral": {},
    "mpt": {"converter": {"architectures": ["MPTForCausalLM"]}},
    "nemotron": {},
    "nemotron_h": {"layers": [0, 2, 3, 4], "config": {"max_position_embeddings": 2**20}, "converter": {"d_head": 8}},
    "nemotron_h_latent": {"config": {"max_position_embeddings": 2**20}, "converter": {"d_head": 8}},
    "nemotron_h_dense": {"fixture": "nemotron_h", "layers": [0, 1, 2, 4], "config": {"max_position_embeddings": 2**20},
                         "converter": {"d_head": 8},
                         "unsaid": ["num_experts_per_tok"]},
    "olmo": {},
    "olmo2": {},
    "olmo3": {},
    "olmoe": {"config": {"clip_qkv": None, "norm_topk_prob": False}},
    "phi": {},
    "phi3": {},
    "phi3_longrope": {},
    "qwen2": {},
    "qwen2_moe": {"config": {"mlp_only_layers": [], "norm_topk_prob": False, "use_sliding_window": False,
                             "layer_types": ["full_attention"] * 4, "sliding_window": None},
                  "layers": [0, 2, 3]},
    "qwen3": {},
    "qwen3_5_moe_text": {},
    "qwen3_5_text": {},
    "qwen3_moe": {},
    "qwen3_next": {"config": {"mlp_only_layers": []}, "layers": [1, 2, 3]},
    "seed_oss": {},
    "smollm3": {"config": {"no_rope_layers": [1, 1, 1, 0, 1], "use_sliding_window": False, "sliding_window": None,
                           "layer_types": ["full_attention"] * 5, "no_rope_layer_interval": 4}},
    "stablelm": {},
    "starcoder2": {},
}


FUSED = ("gemma4_text", "glm", "llama", "qwen2", "qwen3_5_moe_text", "qwen3_next")
CASES |= {f"{case}_fused": {"fixture": CASES[case].get("fixture", case), **CASES[case], "fused": True} for case in FUSED}


# What llama.cpp has as constants, or does not have: changes of a config for `--runs`.
RUNS = {
    # Of another depth it has no windows, whatever the file says.
    "exaone4": {"num_hidden_layers": 64, "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 16},
    # Norms of compressed vectors have the epsilon of the others; groups are chosen as in V3.
    "deepseek_v2": {"q_lora_rank": 24, "n_group": 1, "topk_group": 1, "topk_method": "greedy", "rms_norm_eps": 1e-6},
    "deepseek_v3": {"rms_norm_eps": 1e-6},
    # It has no biases there, and one epsilon for all norms.
    "falcon_mamba": {"use_bias": False, "layer_norm_epsilon": 1e-6},
    **{case: {"use_bias": False} for case in ("mamba", "mamba2")},
    "arcee": {"mlp_bias": False, "rope_parameters": DEFAULT_ROPE},
    "seed_oss": {"attention_out_bias": False},
    "smollm3": {"attention_bias": False, "mlp_bias": False},
    "granitemoehybrid": {"mamba_proj_bias": False},
    # The converter takes this over the number of key heads for the width of the shared experts.
    "ernie4_5_moe": {"use_bias": False, "intermediate_size": 128},
    # A file that says no cap is capped at 30; shared keys are those of the last layer but one, or of the last.
    "gemma4_text": {"final_logit_softcapping": 30.0, "num_kv_shared_layers": 2,
                    "layer_types": ["sliding_attention", "full_attention"] * 3,
                    "per_layer_config": {layer: {"head_dim": 16} for layer in "135"}},
    "gemma4_text_moe": {"final_logit_softcapping": 30.0},
    # It rounds the bounds of YaRN's ramp.
    "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}},
    # Values are as wide as keys.
    **{case: {"linear_value_head_dim": 8} for case in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
}


def drawn(config):
    """Random tensors for a config. Not as loud as the fixtures: some functions of llama.cpp are tables of f16."""
    import torch
    from safetensors.numpy import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    infinity = lambda value: float(value["__float__"]) if "__float__" in value else value
    config = json.loads(json.dumps(config), object_hook=infinity)
    made = AutoConfig.for_model(**{key: value for key, value in config.items() if key != "architectures"})
    model = AutoModelForCausalLM.from_config(made, attn_implementation="eager").float()
    torch.manual_seed(0)
    for name, x in model.named_parameters():
        noise = torch.randn(x.shape)
        with torch.no_grad():
            x.copy_(0.7 * noise / x.shape[-1] ** 0.5 if x.dim() >= 2 and "norm" not in name else x + 0.05 * noise)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(Path(folder) / "model.safetensors")


def prepare(folder, name, change, runs=False):
    """The fixture as the converter shall read it, in a folder; the changed config and the tensors that were removed."""
    from safetensors.numpy import load_file, save_file

    source = ROOT / "fixtures" / "tiny" / change.get("fixture", name)
    config = {**json.loads((source / "config.json").read_text()), **change.get("config", {})}
    if runs:
        config |= RUNS.get(change.get("fixture", name), {})
    tensors = drawn(config) if runs else load_file(source / "model.safetensors")
    kept = change.get("layers")
    if kept is not None:
        # Layers that the architecture has not: the others move up.
        config["num_hidden_layers"] = len(kept)
        for key in ("layer_types", "layers_block_type"):
            if key in config:
                config[key] = [config[key][layer] for layer in kept]
        moved = {}
        for key, tensor in tensors.items():
            match = re.search(r"layers\.(\d+)\.", key)
            if match is None:
                moved[key] = tensor
            elif int(match[1]) in kept:
                moved[key.replace(match[0], f"layers.{kept.index(int(match[1]))}.")] = tensor
        tensors = moved
    removed = [key for key in tensors if any(re.search(p, key) for p in change.get("removed", []))]
    tensors = {key: tensor for key, tensor in tensors.items() if key not in removed}
    (folder / "config.json").write_text(json.dumps({**config, **change.get("converter", {})}))
    # The converter of Gemma 3 looks into it.
    (folder / "tokenizer.json").write_text((source / "tokenizer.json").read_text())
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return config, removed


def vocabulary(model):
    """A vocabulary that llama.cpp reads, in the place of the fixture's."""
    count, writer = model.hparams["vocab_size"], model.gguf_writer
    tokens = [b"<unk>", b"<s>", b"</s>"] + [f"<0x{byte:02X}>".encode() for byte in range(256)]
    tokens = tokens[:count] + [f"t{i}".encode() for i in range(len(tokens), count)]
    kinds = ([2, 3, 3] + [6] * 256)[:count] + [1] * (count - 259)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * count)
    writer.add_token_types(kinds)


def convert(folder, target, change):
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    hparams = {**ModelBase.load_hparams(folder, False), **change.get("converter", {})}
    for key in change.get("unsaid", []):
        del hparams[key]
    own = get_model_class(get_model_architecture(hparams, ModelType.TEXT), mmproj=False)

    class Model(own):
        model_arch = own.model_arch
        set_vocab = vocabulary

    if hasattr(own, "no_mtp"):
        Model.no_mtp = True
    fused = {"fuse_qkv": True, "fuse_gate_up_exps": True} if change.get("fused") else {}
    model = Model(folder, gguf.LlamaFileType.ALL_F32, target, eager=True, hparams=hparams, **fused)
    if hasattr(model, "impl"):
        # One that stands for another.
        model.impl.set_vocab = lambda: vocabulary(model.impl)
    model.write()


def describe(path, metadata):
    """Metadata but the tokenizer's, and for each tensor its shape and the checksum of its bytes. Decays are exponentials,
    whose last bit may differ: of these a sum, each number times its place. Tables of frequencies as they are."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(path)
    kept = {}
    for key, field in reader.fields.items():
        if key.startswith(("GGUF.", "tokenizer.")) or key in ("general.name", "general.quantization_version"):
            continue
        kept[key] = field.contents()
    kept = {key: value for key, value in {**kept, **metadata}.items() if not key.startswith("general.size")}
    tensors = {}
    for tensor in reader.tensors:
        shape = [int(size) for size in reversed(tensor.shape)]
        values = np.ascontiguousarray(tensor.data, dtype=np.float32).reshape(-1)
        if tensor.name.startswith("rope_"):
            tensors[tensor.name] = [shape, [float(value) for value in values]]
        elif tensor.name.endswith("ssm_a"):
            tensors[tensor.name] = [shape, float((values.astype(np.float64) * (np.arange(len(values)) + 1)).sum())]
        else:
            tensors[tensor.name] = [shape, f"{zlib.crc32(values.tobytes()):08x}"]
    return kept, tensors


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("llama_cpp", type=Path)
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--runs", type=Path)
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.llama_cpp), str(arguments.llama_cpp / "gguf-py")]
    os.environ["NO_LOCAL_GGUF"] = "1"
    failed = []
    for name in arguments.cases or CASES:
        change = CASES[name]
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            try:
                config, removed = prepare(folder, name, change, arguments.runs is not None)
                target = (arguments.keep or arguments.runs or folder) / f"{name}.gguf"
                convert(folder, target, change)
                if arguments.runs is not None:
                    continue
                metadata, tensors = describe(target, change.get("metadata", {}))
            except Exception as error:  # noqa: BLE001
                failed.append(f"{name}: {type(error).__name__}: {error}")
                continue
        fixture = change.get("fixture", name)
        original = json.loads((ROOT / "fixtures" / "tiny" / fixture / "config.json").read_text())
        case = {
            "fixture": change.get("fixture"),
            "config": {key: value for key, value in config.items() if original.get(key, ...) != value},
            "removed": removed,
            "layers": change.get("layers"),
            # Factors of the config are in the weights: no tensor is the fixture's.
            "folded": change.get("folded"),
            # The converter's own metadata is wrong for this fixture.
            "corrected": "metadata" in change or None,
            "metadata": metadata,
            "tensors": tensors,
        }
        case = {key: value for key, value in case.items() if value not in (None, [], {})}
        lines = ",\n".join(
            f"  {json.dumps(key)}: "
            + (json.dumps(value) if key != "tensors" else "{\n" + ",\n".join(
                f"    {json.dumps(tensor)}: {json.dumps(said)}" for tensor, said in value.items()) + "\n  }")
            for key, value in case.items()
        )  # fmt: skip
        (ROOT / "fixtures" / "gguf" / f"{name}.json").write_text("{\n" + lines + "\n}\n")
    print("\n".join(failed) or "all converted")
    sys.exit(bool(failed))


main()
