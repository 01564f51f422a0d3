"""Gradients and attribution beside PyTorch's autograd: time and peak of memory, one process a workload.

    python bench/attribution.py --models .cache/bench --program target/release/examples/attribution [--repeats 5]

`gradients`: of a logit difference at the last token by the stream before and after every block. `heads`: attribution patching
of what enters each output projection, (base - target) times the gradient of the target. `edges`: EAP-IG with 5 steps, which has
no counterpart here. PyTorch runs transformers' model in eager mode with hooks that keep what is asked for. A ratio above 1 means
that easyroutine is faster, or takes less memory; memory is what a process holds at most, the loaded model included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

THREADS = 2
WORKLOADS = [("gradients", 1, 128), ("gradients", 8, 128), ("heads", 1, 128), ("heads", 8, 128), ("edges", 1, 128)]


def ours(program, folder, workload, rows, tokens, repeats):
    """Seconds, and KiB at most."""
    command = [program, folder, workload, rows, tokens, repeats, THREADS]
    printed = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.split()
    return float(printed[1]), int(printed[5])


def theirs(folder, workload, rows, tokens, repeats):
    """The same of PyTorch, in a process of its own."""
    settings = json.dumps([folder, workload, rows, tokens, repeats])
    printed = subprocess.run(
        [sys.executable, __file__, "--run", settings], check=True, capture_output=True, text=True
    ).stdout.split()
    return float(printed[0]), int(printed[1])


def run(folder, workload, rows, tokens, repeats):
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(False)
    # The ids of the example `attribution`.
    target, base = ([[500 + row + step * i for i in range(tokens)] for row in range(rows)] for step in (37, 41))
    target, base = torch.tensor(target), torch.tensor(base)
    kept = []

    def keep(module, args):
        kept.append(args[0])

    def metric(ids):
        logits = model(inputs_embeds=model.get_input_embeddings()(ids).requires_grad_(True), logits_to_keep=1).logits
        return (logits[:, -1, 300] - logits[:, -1, 400]).sum()

    def gradients():
        # The stream before every block, and the one that the final norm reads.
        kept.clear()
        torch.autograd.grad(metric(target), kept)

    def heads():
        kept.clear()
        with torch.no_grad():
            metric(base)
        others = list(kept)
        kept.clear()
        value = metric(target)
        for other, own, gradient in zip(others, kept, torch.autograd.grad(value, kept), strict=True):
            ((other - own.detach()) * gradient).unflatten(-1, (model.config.num_attention_heads, -1)).sum(-1)

    layers = model.model.layers
    places = [*layers, model.model.norm] if workload == "gradients" else [layer.self_attn.o_proj for layer in layers]
    for place in places:
        place.register_forward_pre_hook(keep)
    work = {"gradients": gradients, "heads": heads}[workload]
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds[1:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models")
    parser.add_argument("--program")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run")
    args = parser.parse_args()
    if args.run:
        run(*json.loads(args.run))
        return
    folder = f"{args.models}/smollm2-f32"
    print("| work | easyroutine | peak | PyTorch | peak | times as fast | of its memory |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for workload, rows, tokens in WORKLOADS:
        seconds, peak = ours(args.program, folder, workload, rows, tokens, args.repeats)
        cells = [f"{workload} of {rows}x{tokens}", f"{seconds * 1000:.0f} ms", f"{peak / 1024:.0f} MiB"]
        if workload == "edges":
            cells += [""] * 4
        else:
            other, most = theirs(folder, workload, rows, tokens, args.repeats)
            cells += [f"{other * 1000:.0f} ms", f"{most / 1024:.0f} MiB", f"{other / seconds:.2f}", f"{peak / most:.2f}"]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
