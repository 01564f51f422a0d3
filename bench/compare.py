"""Whole runs of easyroutine beside transformers: interleaved, medians, as a table of ratios.

    bench/run.sh [--rounds 7] [--dtypes f32,bf16] [--only WORDS]

Both sides get the same token ids and keep the same tensors: outputs of all layers, and logits or patterns where the case
says so. A ratio above 1 means that easyroutine is faster, or takes less memory.
"""

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

from workloads import Program

DRAW = random.Random(0)
RAGGED = [DRAW.randint(8, 256) for _ in range(32)]
# Title, case, lengths, transformers' attention.
CASES = [
    ("1x16, residuals of all layers and all logits", "residuals", [16], "sdpa"),
    ("1x128", "residuals", [128], "sdpa"),
    ("1x512", "residuals", [512], "sdpa"),
    ("8x128", "residuals", [128] * 8, "sdpa"),
    ("1x16, all attention patterns too", "patterns", [16], "eager"),
    ("1x128, patterns too", "patterns", [128], "eager"),
    ("1x512, patterns too", "patterns", [512], "eager"),
    ("8x128, patterns too", "patterns", [128] * 8, "eager"),
    ("32 prompts of 8 to 256 tokens, last token's residuals", "last", RAGGED, "sdpa"),
    ("lens of every layer and position of 1x128, top-10 and entropy", "lens", [128], "sdpa"),
]
WIDE = ("d_model 2048, 4 layers: 1x128, residuals, last logits", "end", [128])
WARM_UP = 3
WORKLOADS = str(Path(__file__).with_name("workloads.py"))


def wide_folder(models):
    """A Llama of d_model 2048 with random weights, made once."""
    folder = Path(models, "wide")
    if not (folder / "model.safetensors").exists():
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=2048, num_hidden_layers=4, intermediate_size=8192, num_attention_heads=32,
            num_key_value_heads=8, head_dim=64, vocab_size=32000, max_position_embeddings=2048,
        )
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return str(folder)


class Sides:
    """How each side is started."""

    def __init__(self, args, dtype):
        self.args, self.dtype = args, dtype

    def ours(self, folder):
        return Program([self.args.program, folder, self.dtype, str(self.args.threads)])

    def theirs(self, folder, attention="sdpa"):
        return Program([sys.executable, WORKLOADS, folder, self.dtype, attention, str(self.args.threads)])


def row(title, dtype, pairs, unit="ms"):
    ratios = sorted(b / a for a, b in pairs)
    ours, theirs = (statistics.median(side) for side in zip(*pairs))
    middle = statistics.median(ratios)
    print(f"| {title} | {dtype} | {ours:.4g} {unit} | {theirs:.4g} {unit} | {middle:.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |", flush=True)


def runs(sides, folder, cases, rounds):
    """Each case in turn, the sides one after the other; the first rounds warm up: easyroutine packs weights at the third run."""
    ours = sides.ours(folder)
    theirs = {attention: sides.theirs(folder, attention) for attention in {case[3] for case in cases}}
    for title, case, lengths, attention in cases:
        pairs = [(ours.run(case, lengths), theirs[attention].run(case, lengths)) for _ in range(rounds + WARM_UP)]
        row(title, sides.dtype, pairs[WARM_UP:])
    for side in [ours, *theirs.values()]:
        side.end()


def starts(sides, folder, rounds):
    """From the start of a process to the first logits of 16 tokens."""

    def once(start):
        begin = time.perf_counter()
        side = start(folder)
        side.ask("residuals 16")
        elapsed = time.perf_counter() - begin
        side.end()
        return elapsed

    once(sides.ours), once(sides.theirs)
    row("process start to first logits of 16 tokens", sides.dtype, [(once(sides.ours), once(sides.theirs)) for _ in range(rounds)], "s")


def peaks(sides, folder):
    """Peak resident memory of a process that loads and runs one case; and what a lens adds to it."""

    def peak(start):
        side = start(folder)
        side.run("end", [512])
        most = side.ask("peak")
        side.end()
        return most

    def added_by_lens(start):
        side = start(folder)
        # Loaded is what has run: easyroutine has packed all its weights by then.
        for _ in range(WARM_UP):
            side.run("residuals", [16])
        before = side.ask("forget")
        side.run("lens", [128])
        after = side.ask("peak")
        side.end()
        return after - before

    row("peak memory, load and 1x512, residuals, last logits", sides.dtype, [[peak(s) for s in (sides.ours, sides.theirs)]], "MB")
    both = [added_by_lens(start) for start in (sides.ours, sides.theirs)]
    row("memory that a lens of 1x128 adds to the loaded weights", sides.dtype, [both], "MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", required=True, help="a folder with smollm2-f32 and smollm2-bf16")
    parser.add_argument("--program", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--only", default="", help="cases whose title holds one of these words, separated by commas")
    args = parser.parse_args()
    chosen = lambda title: any(word in title for word in args.only.split(","))
    print("| work | dtype | easyroutine | transformers | ratio | range |\n|---|---|--:|--:|--:|---|")
    for dtype in args.dtypes.split(","):
        sides, folder = Sides(args, dtype), str(Path(args.models, f"smollm2-{dtype}"))
        cases = [case for case in CASES if chosen(case[0])]
        if cases:
            runs(sides, folder, cases, args.rounds)
        if chosen("start"):
            starts(sides, folder, min(args.rounds, 3))
        if chosen(WIDE[0]):
            runs(sides, wide_folder(args.models), [(*WIDE, "sdpa")], args.rounds)
        if chosen("memory"):
            peaks(sides, folder)


if __name__ == "__main__":
    main()
