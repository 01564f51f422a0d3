"""Whole runs of easyroutine beside transformers: interleaved, medians, as a table of ratios.

    python bench/compare.py --model FOLDER --program target/release/examples/forward [--threads 2] [--rounds 9]

FOLDER is a Hugging Face folder that both read (`easyroutine model export REF FOLDER`). Both sides get the same token
ids and keep the same tensors: outputs of all layers, and logits or patterns where the case says so. A ratio above 1
means that easyroutine is faster.
"""

import argparse
import random
import statistics
import subprocess
import time

import torch
from transformers import AutoModelForCausalLM

DRAW = random.Random(0)
RAGGED = [DRAW.randint(8, 256) for _ in range(32)]
CASES = [
    ("1x16, residuals and logits", "residuals", [16]),
    ("1x128, residuals and logits", "residuals", [128]),
    ("1x512, residuals and logits", "residuals", [512]),
    ("8x128, residuals and logits", "residuals", [128] * 8),
    ("1x16, patterns too", "patterns", [16]),
    ("1x128, patterns too", "patterns", [128]),
    ("1x512, patterns too", "patterns", [512]),
    ("8x128, patterns too", "patterns", [128] * 8),
    ("32 prompts of 8 to 256, last residuals", "last", RAGGED),
    ("lens of 1x128, top-10 and entropy", "lens", [128]),
]


class Ours:
    """The example program `forward`, driven over pipes."""

    def __init__(self, program, model, dtype, threads):
        command = [program, model, dtype, str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready"

    def run(self, case, lengths):
        self.process.stdin.write(f"{case} {','.join(map(str, lengths))}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


class Theirs:
    """transformers with hooks that keep the output of every layer."""

    def __init__(self, folder, dtype, attention):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
        self.kept = []
        for layer in self.model.model.layers:
            layer.register_forward_hook(lambda _, __, out: self.kept.append(out[0] if isinstance(out, tuple) else out))

    def ids(self, row, length):
        vocabulary = self.model.config.vocab_size
        return [(row * 7919 + i * 104729 + i * i * 31 + 17) % vocabulary for i in range(length)]

    def batch(self, rows):
        longest = max(len(ids) for ids in rows)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
        return ids, mask

    @torch.inference_mode()
    def run(self, case, lengths):
        rows = [self.ids(row, length) for row, length in enumerate(lengths)]
        self.kept.clear()
        start = time.perf_counter()
        if case == "last":
            out = []
            for i in range(0, len(rows), 8):
                ids, mask = self.batch(rows[i : i + 8])
                self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
                last = mask.sum(1) - 1
                out.append([r[torch.arange(len(last)), last].clone() for r in self.kept])
                self.kept.clear()
        elif case == "lens":
            ids = torch.tensor(rows)
            embedded = self.model.model.embed_tokens(ids)
            self.model(input_ids=ids, use_cache=False, logits_to_keep=1)
            out = []
            for stream in [embedded, *self.kept]:
                logits = self.model.lm_head(self.model.model.norm(stream))
                logprobs = torch.log_softmax(logits.float(), -1)
                out.append((logprobs.topk(10), -(logprobs.exp() * logprobs).sum(-1)))
        else:
            ids = torch.tensor(rows)
            out = self.model(input_ids=ids, use_cache=False, output_attentions=case == "patterns")
        elapsed = (time.perf_counter() - start) * 1e3
        del out
        return elapsed


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, medians of {args.rounds} interleaved rounds\n")
    print("| work | dtype | easyroutine ms | transformers ms | ratio | range of ratios |\n|---|---|---|---|---|---|")
    for name in args.dtypes.split(","):
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[name]
        ours = Ours(args.program, args.model, name, args.threads)
        theirs = {a: Theirs(args.model, dtype, a) for a in ("sdpa", "eager")}
        for title, case, lengths in CASES:
            if args.only and args.only not in title:
                continue
            other = theirs["eager" if case == "patterns" else "sdpa"]
            pairs = [(ours.run(case, lengths), other.run(case, lengths)) for _ in range(args.rounds + 1)][1:]
            a, b = (statistics.median(side) for side in zip(*pairs))
            ratios = sorted(y / x for x, y in pairs)
            middle = statistics.median(ratios)
            print(f"| {title} | {name} | {a:.1f} | {b:.1f} | {middle:.2f} | {ratios[0]:.2f}-{ratios[-1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
