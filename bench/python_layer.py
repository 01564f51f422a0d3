"""The Python package: its start beside transformers, what its layer adds to the engine, handing over a tensor.

    python bench/python_layer.py --models FOLDER [--rounds 7] [--only WORDS]

The package, torch and transformers must be installed in the environment that runs this; FOLDER holds smollm2-f32, as
bench/run.sh makes it. Rounds are interleaved, medians are shown.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PROMPT = "The capital of France is"
OURS = """
import sys
from easyroutine.interpretability import HookedModel
print(HookedModel.from_pretrained(sys.argv[1], threads=int(sys.argv[2])).lens(sys.argv[3]).records()[-1]["top"])
"""
THEIRS = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
torch.set_num_threads(int(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
with torch.inference_mode():
    out = model(**tokenizer(sys.argv[3], return_tensors="pt"), output_hidden_states=True)
    streams = [*map(model.model.norm, out.hidden_states[:-1]), out.hidden_states[-1]]
    tops = [model.lm_head(stream).log_softmax(-1).topk(10) for stream in streams]
print(tokenizer.decode(tops[-1].indices[0, -1, 0]))
"""


def shown(title, values, unit, of=1.0):
    values = sorted(value * of for value in values)
    print(f"| {title} | {statistics.median(values):.4g} {unit} | {values[0]:.4g} to {values[-1]:.4g} |", flush=True)


def start(folder, threads, rounds):
    """A whole process: import, model, lens of every layer at every token of a short prompt."""

    def once(program):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", program, folder, str(threads), PROMPT], check=True, capture_output=True)
        return time.perf_counter() - begin

    once(OURS), once(THEIRS)
    pairs = [(once(OURS), once(THEIRS)) for _ in range(rounds)]
    shown("process with import, model and lens of 5 tokens, easyroutine", [a for a, _ in pairs], "s")
    shown("the same with transformers", [b for _, b in pairs], "s")
    shown("ratio", [b / a for a, b in pairs], "")


def layer(folder, threads, rounds):
    """What stands around the engine's own work in a forward pass of 1x128 that keeps every residual and all logits."""
    from easyroutine.interpretability import ExtractionConfig, HookedModel

    model = HookedModel.from_pretrained(folder, threads=threads)
    ids = [(i * 104729 + i * i * 31 + 17) % model.model_config.vocab_size for i in range(128)]
    config = ExtractionConfig(extract_resid_out=True)
    inner = []

    class Timed:
        """The engine, with a clock."""

        def __init__(self, engine):
            self.engine = engine

        def __getattr__(self, name):
            return getattr(self.engine, name)

        def forward(self, *args, **kwargs):
            begin = time.perf_counter()
            kept = self.engine.forward(*args, **kwargs)
            inner.append(time.perf_counter() - begin)
            return kept

    model._engine = Timed(model._engine)
    shares = []
    for _ in range(3 * rounds):
        begin = time.perf_counter()
        model.forward(ids, extraction_config=config)
        whole = time.perf_counter() - begin
        shares.append((whole - inner[-1]) / inner[-1])
    shown("1x128, all residuals and logits: Python around the engine's call", shares[1:], "%", 100)


def engine(folder, threads, rounds, program):
    """The same pass in Python and in the Rust library, one after the other."""
    from workloads import Program

    from easyroutine.interpretability import ExtractionConfig, HookedModel

    model = HookedModel.from_pretrained(folder, threads=threads)
    ids = [(i * 104729 + i * i * 31 + 17) % model.model_config.vocab_size for i in range(128)]
    config = ExtractionConfig(extract_resid_out=True)
    rust = Program([program, folder, "f32", str(threads)])
    ratios = []
    for _ in range(5 * rounds):
        theirs = rust.run("residuals", [128])
        begin = time.perf_counter()
        model.forward(ids, extraction_config=config)
        ratios.append((time.perf_counter() - begin) * 1e3 / theirs)
    rust.end()
    shown("1x128, all residuals and logits: time in Python over time in Rust", ratios[1:], "")


def handing(folder, threads, rounds):
    """A tensor of torch from one of the engine's, which shares its memory."""
    import torch

    from easyroutine.interpretability import ExtractionConfig, HookedModel

    model = HookedModel.from_pretrained(folder, threads=threads)
    config = ExtractionConfig(extract_resid_out=True, extract_attn_pattern=True)
    times = []
    for _ in range(rounds):
        cache = model.forward(PROMPT, extraction_config=config)
        keys = [key for key in cache if key.startswith(("resid_", "pattern_"))]
        begin = time.perf_counter()
        for key in keys:
            cache[key]
        times.append((time.perf_counter() - begin) / len(keys))
        assert all(isinstance(cache[key], torch.Tensor) for key in keys)
    shown("cache[key] as a tensor of torch, each of 300", times, "us", 1e6)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", required=True)
    parser.add_argument("--program", help="target/release/examples/forward, for the comparison with Rust")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    folder = str(Path(args.models, "smollm2-f32"))
    print("| what | median | range |\n|---|--:|---|")
    chosen = [word for word in args.only.split(",") if word] or ["start", "layer", "engine", "handing"]
    if "start" in chosen:
        start(folder, args.threads, min(args.rounds, 5))
    if "layer" in chosen:
        layer(folder, args.threads, args.rounds)
    if "engine" in chosen and args.program:
        engine(folder, args.threads, args.rounds, args.program)
    if "handing" in chosen:
        handing(folder, args.threads, args.rounds)


if __name__ == "__main__":
    main()
