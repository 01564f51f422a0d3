"""A mixture of experts and recurrences beside transformers: a prompt of 128 tokens, and a token of generation.

    bench/mixers.py --models FOLDER --program target/release/examples/forward [--only WORDS] [--dtypes f32,bf16] [--rounds 5]

Needs the packages of bench/requirements.txt. The models have random weights, and layers of real sizes but few of them. Both
sides get the same token ids, keep the streams of all layers of the prompt, and take turns. A ratio above 1 means that
easyroutine is faster.
"""

import argparse
from pathlib import Path

from compare import WARM_UP, Sides, row

# The model whose sizes these are, and its config.
MODELS = {
    "OLMoE-1B-7B, 2 layers": dict(
        model_type="olmoe", hidden_size=2048, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=16,
        num_key_value_heads=16, num_experts=64, num_experts_per_tok=8, vocab_size=50304),
    "Mamba-1.4B, 4 layers": dict(
        model_type="mamba", hidden_size=2048, state_size=16, num_hidden_layers=4, vocab_size=50280),
    "LFM2-1.2B, 4 layers": dict(
        model_type="lfm2", hidden_size=2048, intermediate_size=12288, num_hidden_layers=4, num_attention_heads=32,
        num_key_value_heads=8, layer_types=["conv", "conv", "full_attention", "conv"], vocab_size=65536),
    "Qwen3.5-0.8B, 4 layers": dict(
        model_type="qwen3_5_text", hidden_size=1024, intermediate_size=3584, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, head_dim=256, linear_num_key_heads=16, linear_num_value_heads=16, vocab_size=65536),
}
CASES = [("1x128, residuals, last logits", "end", [128]), ("a token of generation after 128", "generate", [128, 8])]


def folder_of(models, title):
    """The model's folder, made once, in bfloat16."""
    folder = Path(models, title.split(",")[0].lower())
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM

        torch.manual_seed(0)
        config = dict(MODELS[title])
        made = AutoConfig.for_model(config.pop("model_type"), **config)
        AutoModelForCausalLM.from_config(made, dtype=torch.bfloat16).save_pretrained(folder)
    return str(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--only", default="", help="models whose title holds one of these words, separated by commas")
    parser.add_argument("--make", action="store_true", help="make the models and measure nothing")
    args = parser.parse_args()
    titles = [title for title in MODELS if any(word in title for word in args.only.split(","))]
    folders = {title: folder_of(args.models, title) for title in titles}
    if args.make:
        return
    print("| work | dtype | easyroutine | transformers | ratio | range |\n|---|---|--:|--:|--:|---|")
    for title, folder in folders.items():
        for dtype in args.dtypes.split(","):
            sides = Sides(args, dtype)
            # A model without attention has one form in transformers.
            attention = "eager" if MODELS[title]["model_type"] == "mamba" else "sdpa"
            ours, theirs = sides.ours(folder), sides.theirs(folder, attention)
            for name, case, lengths in CASES:
                pairs = [(ours.run(case, lengths), theirs.run(case, lengths)) for _ in range(args.rounds + WARM_UP)]
                row(f"{title}: {name}", dtype, pairs[WARM_UP:])
            ours.end(), theirs.end()


if __name__ == "__main__":
    main()
