"""Random small models of the supported families, with what transformers computes of them.

    python bench/random_models.py FOLDER [--count 20] [--only WORDS] [--seed 0] [--check PROGRAM]

Needs the packages of bench/requirements.txt. Starts from the configs of fixtures/tiny and changes sizes, heads, flags,
rotary embeddings, experts and patterns of layers. Each model is a folder with config.json, model.safetensors and
dump.safetensors: residual streams, attention patterns and logits. With --check each is compared by
`PROGRAM model check FOLDER --compare FILE`, and those that differ or are refused are listed.
"""

import argparse
import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

FIXTURES = Path(__file__).parent.parent / "fixtures" / "tiny"
# Falcon's biases are added twice where transformers computes eagerly (5.24), so that there is nothing to compare with.
FIXED = {"falcon": {"alibi": False}}
FLAGS = (
    "attention_bias", "mlp_bias", "tie_word_embeddings", "norm_topk_prob", "use_qk_norm", "bias", "multi_query",
    "parallel_attn", "new_decoder_architecture", "use_bias", "use_conv_bias", "mamba_conv_bias", "mamba_proj_bias",
    "mamba_rms_norm", "mamba_norm_before_gate", "projectors_bias", "qk_layernorm", "lm_head_bias", "attention_out_bias",
    "scale_embedding", "conv_bias", "rope_interleave", "scale_attn_weights", "qkv_bias", "use_double_wide_mlp",
    "attention_k_eq_v", "head_dim_is_stated", "swiglu", "use_parallel_residual",
)
ROPES = [
    lambda r: {"rope_type": "default"},
    lambda r: {"rope_type": "linear", "factor": r.choice([1.5, 4.0])},
    lambda r: {"rope_type": "dynamic", "factor": r.choice([2.0, 3.0])},
    lambda r: {"rope_type": "yarn", "factor": r.choice([2.0, 8.0]), "original_max_position_embeddings": 16,
               **r.choice([{}, {"beta_fast": 16.0, "beta_slow": 2.0}, {"attention_factor": 1.3}, {"truncate": False}])},
    lambda r: {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": r.choice([16, 24])},
]


def changed(config, r):
    """A config that differs in many ways from a given one."""
    c = copy.deepcopy(config)
    kind = c["model_type"]

    def put(key, value):
        if key in c:
            c[key] = value

    heads_key = next((k for k in ("num_attention_heads", "n_head", "n_heads", "num_heads") if k in c), None)
    d_key = next((k for k in ("hidden_size", "n_embd", "d_model") if k in c), None)
    if heads_key and c[heads_key]:
        heads = r.choice([4, 8] if kind == "codegen" else [1, 2, 3, 4, 5, 6])
        d_head = r.choice([8, 12, 16])
        c[heads_key] = heads
        shared = r.choice([n for n in range(1, heads + 1) if heads % n == 0])
        for key in ("num_key_value_heads", "num_kv_heads", "n_kv_heads"):
            if c.get(key) is not None:
                c[key] = heads if kind.startswith("deepseek") else shared
        # Widths apart from the heads only where the class has them.
        apart = c.get("head_dim") is not None and not kind.startswith(("deepseek", "helium", "cohere2"))
        if apart:
            c["head_dim"] = d_head
            c[d_key] = r.choice([24, 32, 40, 48])
        else:
            c[d_key] = heads * d_head
            if "head_dim" in c:
                c["head_dim"] = d_head
        if kind == "recurrent_gemma":
            c[d_key] = heads * d_head
            c["lru_width"] = heads * r.choice([8, 12])
    elif d_key:
        c[d_key] = r.choice([24, 32, 40])
    d = c[d_key]
    for key in ("intermediate_size", "ffn_hidden_size", "moe_intermediate_size", "shared_expert_intermediate_size",
                "moe_shared_expert_intermediate_size", "ffn_dim", "n_inner", "block_ff_dim"):
        if c.get(key):
            c[key] = r.choice([20, 28, 36, 48])
    if kind in ("mamba", "mamba2"):
        c["expand"] = r.choice([2, 3])
        if kind == "mamba":
            c["intermediate_size"] = c["expand"] * d
    if kind == "mamba2":
        width = c["expand"] * d
        c["head_dim"] = r.choice([n for n in (4, 8, 12) if width % n == 0])
        c["num_heads"] = width // c["head_dim"]
        c["n_groups"] = r.choice([n for n in (1, 2, 3, 4) if c["num_heads"] % n == 0])
    put("state_size", r.choice([4, 8, 16]))
    put("conv_kernel", r.choice([2, 3, 4]))
    put("time_step_rank", r.choice([3, 4]))
    put("mamba_d_conv", r.choice([2, 4]))
    put("mamba_d_state", r.choice([4, 8]))
    put("ssm_state_size", r.choice([4, 8]))
    if kind in ("falcon_h1", "granitemoehybrid"):
        c["mamba_n_heads"] = r.choice([4, 6, 8])
        c["mamba_n_groups"] = r.choice([1, 2])
        if kind == "falcon_h1":
            c["mamba_d_head"] = r.choice([4, 8])
            c["mamba_d_ssm"] = c["mamba_n_heads"] * c["mamba_d_head"]
        else:
            while (c["mamba_expand"] * d) % c["mamba_n_heads"]:
                c["mamba_n_heads"] = r.choice([2, 4, 6, 8])
            c["mamba_d_head"] = c["mamba_expand"] * d // c["mamba_n_heads"]
    if kind == "nemotron_h":
        c["mamba_num_heads"] = r.choice([4, 6, 8])
        c["mamba_head_dim"] = r.choice([4, 8])
        c["n_groups"] = r.choice([1, 2])
    if "linear_num_key_heads" in c:
        c["linear_num_key_heads"] = r.choice([1, 2, 3])
        c["linear_num_value_heads"] = c["linear_num_key_heads"] * r.choice([1, 2, 3])
        c["linear_key_head_dim"] = r.choice([4, 8])
        c["linear_value_head_dim"] = r.choice([4, 8, 12])
        c["linear_conv_kernel_dim"] = r.choice([2, 4])
    if "qk_nope_head_dim" in c:
        c["qk_nope_head_dim"] = r.choice([6, 8, 12])
        c["qk_rope_head_dim"] = r.choice([4, 8])
        c["v_head_dim"] = r.choice([6, 8, 12])
        c["kv_lora_rank"] = r.choice([9, 16])
        c["q_lora_rank"] = r.choice([None, 10, 14])
        c["head_dim"] = c["qk_rope_head_dim"]
    count_key = next((k for k in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts") if c.get(k)), None)
    if count_key and kind != "phimoe":
        groups = r.choice([1, 2]) if "n_group" in c and c["n_group"] is not None else 1
        count = groups * r.choice([2, 3, 4])
        c[count_key] = count
        if "n_group" in c:
            c["n_group"] = groups
            c["topk_group"] = r.randint(1, groups)
        allowed = count // groups * (c.get("topk_group") or groups)
        for key in ("num_experts_per_tok", "moe_k", "top_k_experts"):
            if c.get(key):
                c[key] = r.randint(1, min(3, allowed))
    put("n_shared_experts", r.choice([1, 2]))
    put("moe_num_shared_experts", r.choice([0, 1, 2]))
    put("routed_scaling_factor", r.choice([1.0, 2.5]))
    if c.get("first_k_dense_replace") is not None:
        c["first_k_dense_replace"] = r.randint(0, 2)
    if kind == "deepseek_v2":
        c["topk_method"] = r.choice(["greedy", "group_limited_greedy"])
    put("decoder_sparse_step", r.choice([1, 2]))
    for flag in FLAGS:
        if isinstance(c.get(flag), bool):
            c[flag] = r.random() < 0.5
    if isinstance(c.get("layer_types"), list) and kind not in ("gemma4_text",):
        kinds = sorted(set(c["layer_types"]))
        n = len(c["layer_types"])
        c["layer_types"] = [r.choice(kinds) for _ in range(n)]
    put("sliding_window", r.choice([3, 5, 9]) if c.get("sliding_window") else c.get("sliding_window"))
    rope = c.get("rope_parameters")
    if isinstance(rope, dict) and "rope_type" in rope and kind not in ("phimoe", "hunyuan_v1_dense", "ministral3", "gemma4_text", "recurrent_gemma"):
        new = r.choice(ROPES)(r)
        new["rope_theta"] = r.choice([10000.0, 500000.0])
        if "partial_rotary_factor" in rope:
            new["partial_rotary_factor"] = r.choice([0.25, 0.5, 1.0])
        if new["rope_type"] == "yarn" and kind.startswith("deepseek"):
            new.update(r.choice([{}, {"mscale": 0.7, "mscale_all_dim": 0.7}, {"mscale": 1.0, "mscale_all_dim": 0.8}]))
        if "mrope_section" in rope:
            new["mrope_section"] = rope["mrope_section"]
        c["rope_parameters"] = new
    act = r.choice(["silu", "gelu_pytorch_tanh", "gelu", "relu"])
    for key in ("hidden_act", "hidden_activation", "activation_function"):
        if c.get(key) in ("silu", "gelu_pytorch_tanh", "gelu", "gelu_new") and kind not in ("mamba", "mamba2", "qwen3_next"):
            c[key] = act
    for key in ("logits_soft_cap", "final_logit_softcapping", "logit_scale", "residual_multiplier", "attention_multiplier",
                "embedding_multiplier", "logits_scaling", "key_multiplier", "ssm_in_multiplier", "lm_head_multiplier"):
        if isinstance(c.get(key), float):
            c[key] = round(c[key] * r.choice([0.7, 1.0, 1.4]), 4)
    if kind == "phimoe" and r.random() < 0.5:
        pairs = c[d_key] // c[heads_key] // 2
        factors = {name: [round(r.uniform(1.0, 4.0), 3) for _ in range(pairs)] for name in ("short_factor", "long_factor")}
        scale = r.choice([1.0, 1.3])
        c["rope_parameters"] = {"rope_type": "longrope", "rope_theta": 10000.0, **factors, "short_mscale": scale,
                                "long_mscale": scale, "original_max_position_embeddings": r.choice([16, 64])}
    c.update(FIXED.get(kind, {}))
    return c


def loud(model, generator):
    """Weights large enough that a wrong detail shows."""
    stored = model.state_dict()
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if name not in stored or not x.is_floating_point() or name.endswith(("inv_freq", "A_log", "dt_bias", ".D", "recurrent_param")):
            continue
        noise = torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            if x.dim() >= 2 and "norm" not in name:
                x.copy_(noise * 1.1 / x.shape[-1] ** 0.5)
            else:
                x.add_(noise * 0.2)


def blocks(model):
    """The list of decoder layers."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    n = getattr(model.config, "num_hidden_layers", None) or getattr(model.config, "n_layer", None) or model.config.n_layers
    return next(m for m in lists if len(m) == n)


def dump(model, ids):
    kept = {"input_ids": ids}
    handles = []

    def keep(name):
        def hook(_module, _args, out):
            kept[name] = (out[0] if isinstance(out, tuple) else out).detach().clone().contiguous()
        return hook

    def weights(name):
        def hook(_module, _args, out):
            if isinstance(out, tuple) and len(out) > 1 and torch.is_tensor(out[1]) and out[1].dim() == 4:
                kept[name] = out[1].detach().clone()[..., : ids.shape[1]].contiguous()
        return hook

    for layer, block in enumerate(blocks(model)):
        handles.append(block.register_forward_hook(keep(f"resid_out_{layer}")))
        for name, module in block.named_modules():
            if name.rsplit(".", 1)[-1] in ("self_attn", "self_attention", "attn", "attention", "temporal_block"):
                handles.append(module.register_forward_hook(weights(f"pattern_L{layer}")))
    with torch.no_grad():
        kept["logits"] = model(ids, use_cache=False).logits.contiguous()
    for handle in handles:
        handle.remove()
    return {k: v if k == "input_ids" else v.float() for k, v in kept.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    words = [w for w in args.only.split(",") if w]
    for case in sorted(p.name for p in FIXTURES.iterdir()):
        if words and case not in words:
            continue
        infinity = lambda o: float(o["__float__"]) if "__float__" in o else o
        base = json.loads((FIXTURES / case / "config.json").read_text(), object_hook=infinity)
        same, wrong = 0, []
        for number in range(args.count):
            r = random.Random(f"{args.seed} {case} {number}")
            config = changed(base, r)
            config.pop("architectures", None)
            config.pop("transformers_version", None)
            generator = torch.Generator().manual_seed(number)
            try:
                made = AutoConfig.for_model(config.pop("model_type"), **config)
                model = AutoModelForCausalLM.from_config(made, attn_implementation="eager").float().eval()
                loud(model, generator)
                ids = torch.randint(3, model.config.vocab_size, (2, r.choice([7, 19, 33])), generator=generator)
                kept = dump(model, ids)
            except Exception as error:  # a config that the class itself does not run
                if os.environ.get("VERBOSE"):
                    print(f"{case} {number}: not run by transformers: {type(error).__name__}: {error}"[:300])
                continue
            folder = args.folder / f"{case}-{number}"
            model.save_pretrained(folder)
            save_file(kept, folder / "dump.safetensors")
            if not args.check:
                continue
            command = [args.check, "model", "check", str(folder), "--compare", str(folder / "dump.safetensors"), "--format", "tsv"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                same += 1
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
            else:
                lines = [l for l in done.stdout.splitlines() if not l.startswith(("same", "verdict"))]
                wrong.append(f"  {folder.name}: {(lines or [done.stderr.strip()])[0][:400]}")
        print(f"{case}: {same} the same, {len(wrong)} not", flush=True)
        print("\n".join(wrong), flush=True) if wrong else None


if __name__ == "__main__":
    main()
