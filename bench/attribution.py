"""Gradients and attribution beside PyTorch's autograd and TransformerLens: time of the processor, and peak of memory.

    python bench/attribution.py --models .cache/bench --program target/release/examples/attribution [--rounds 5] [--only heads]

`gradients`: of a logit difference at the last token by the stream before and after every block; PyTorch runs transformers' model
in eager mode with hooks that keep the streams. `heads`: attribution patching of what every head gives to its output projection,
(base - target) times the gradient at the target; TransformerLens runs its bridge with hooks on `hook_z`. `edges`: EAP-IG with 5
steps over all edges, with the same hooks as its definition: heads' results, queries, keys and values of each head, MLPs.
`eap` and `exact` have no counterpart here: edges scored at once, and one run for each edge.

Both programs stay loaded, and take turns round by round, so that whatever else the machine does meets both. Times are medians
over rounds of the processor's time on one thread, which waiting for the processor does not change; a ratio above 1 means that
easyroutine is faster. Memory is what a process holds at most, the loaded model included.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

WORKLOADS = [
    ("gradients", 1, 128),
    ("gradients", 8, 128),
    ("heads", 1, 128),
    ("edges", 1, 32),
    ("eap", 1, 32),
    ("exact", 1, 32),
]
ALONE = ["eap", "exact"]


def ours(program, folder, workload, rows, tokens, repeats):
    """Seconds of the processor, KiB at most, and edges of the model."""
    command = [program, folder, workload, rows, tokens, repeats, 1]
    printed = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.split()
    return float(printed[3]), int(printed[7]), int(printed[9])


class Theirs:
    """PyTorch in a process of its own, which runs once whenever it is told to."""

    def __init__(self, folder, workload, rows, tokens):
        settings = json.dumps([folder, workload, rows, tokens])
        command = [sys.executable, __file__, "--run", settings]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.run()

    def run(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        while not (line := self.process.stdout.readline()).startswith("found "):
            if not line:
                raise SystemExit("the other program has ended")
        _, seconds, peak = line.split()
        return float(seconds), int(peak)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def run(folder, workload, rows, tokens):
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch

    torch.set_num_threads(1)
    # The ids of the example `attribution`.
    target, base = ([[500 + row + step * i for i in range(tokens)] for row in range(rows)] for step in (37, 41))
    target, base = torch.tensor(target), torch.tensor(base)
    work = {"gradients": gradients, "heads": heads, "edges": edges}[workload](folder, base, target)
    for _ in sys.stdin:
        start = time.process_time()
        work()
        seconds = time.process_time() - start
        print("found", seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


def difference(logits):
    return (logits[:, -1, 300] - logits[:, -1, 400]).sum()


def gradients(folder, _, target):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    model.requires_grad_(False)
    kept = []
    # The stream before every block, and the one that the final norm reads.
    for place in [*model.model.layers, model.model.norm]:
        place.register_forward_pre_hook(lambda module, args: kept.append(args[0]))

    def work():
        kept.clear()
        embedded = model.get_input_embeddings()(target).requires_grad_(True)
        torch.autograd.grad(difference(model(inputs_embeds=embedded, logits_to_keep=1).logits), kept)

    return work


def bridge(folder):
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = TransformerBridge.boot_transformers(folder, hf_model=model, tokenizer=tokenizer, dtype=torch.float32).eval()
    for weight in model.parameters():
        weight.requires_grad_(False)
    return model


def heads(folder, base, target):
    import torch

    model = bridge(folder)
    names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.cfg.n_layers)]

    def work():
        others, kept = [], []
        keep = lambda to: [(name, lambda x, hook: to.append(x) or x) for name in names]
        with torch.no_grad():
            model.run_with_hooks(base, fwd_hooks=keep(others))
        with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook: x.requires_grad_(True)), *keep(kept)]):
            found = torch.autograd.grad(difference(model(target)), kept)
        for other, own, gradient in zip(others, kept, found, strict=True):
            ((other - own.detach()) * gradient).flatten(2).unflatten(-1, (model.cfg.n_heads, -1)).sum(-1)

    return work


def edges(folder, base, target, steps=5):
    import torch

    model = bridge(folder)
    model.set_use_attn_result(True)
    model.set_use_split_qkv_input(True)
    model.set_use_hook_mlp_in(True)
    layers = range(model.cfg.n_layers)
    writers = ["hook_embed", *(f"blocks.{n}.{part}" for n in layers for part in ("attn.hook_result", "hook_mlp_out"))]
    heads = [f"blocks.{n}.attn.hook_{part}_input" for n in layers for part in "qkv"]
    readers = [*heads, *(f"blocks.{n}.hook_mlp_in" for n in layers), f"blocks.{layers[-1]}.hook_resid_post"]

    def written(ids):
        found = {}
        keep = [(name, lambda x, hook, name=name: found.setdefault(name, x)) for name in writers]
        with torch.no_grad():
            model.run_with_hooks(ids, fwd_hooks=keep)
        # A head is a writer of its own.
        return found["hook_embed"], torch.cat([x if x.dim() == 4 else x.unsqueeze(2) for x in found.values()], dim=2)

    def work():
        clean, clean_writes = written(base)
        corrupted, corrupted_writes = written(target)
        moved = corrupted_writes - clean_writes
        scores = [0] * len(readers)
        for step in range(1, steps + 1):
            start = (corrupted + step / steps * (clean - corrupted)).requires_grad_(True)
            kept = {}
            keep = [(name, lambda x, hook, name=name, kept=kept: kept.setdefault(name, x)) for name in readers]
            with model.hooks(fwd_hooks=[("hook_embed", lambda x, hook, start=start: start), *keep]):
                found = torch.autograd.grad(difference(model(base)), [kept[name] for name in readers])
            for at, gradient in enumerate(found):
                gradient = gradient if gradient.dim() == 4 else gradient.unsqueeze(2)
                scores[at] += torch.einsum("btwd,btrd->wr", moved, gradient) / steps

    return work


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models")
    parser.add_argument("--program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only")
    parser.add_argument("--run")
    args = parser.parse_args()
    if args.run:
        run(*json.loads(args.run))
        return
    folder = f"{args.models}/smollm2-f32"
    print("| work | easyroutine | peak | the other | peak | times as fast | of its memory |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for workload, rows, tokens in WORKLOADS:
        if args.only and workload != args.only:
            continue
        other = None if workload in ALONE else Theirs(folder, workload, rows, tokens)
        found, theirs = [], []
        for _ in range(args.rounds):
            found.append(ours(args.program, folder, workload, rows, tokens, 1))
            if other:
                theirs.append(other.run())
        seconds, peak = statistics.median(one[0] for one in found), max(one[1] for one in found)
        cells = [f"{workload} of {rows}x{tokens}", f"{seconds * 1000:.0f} ms", f"{peak / 1024:.0f} MiB"]
        if other:
            other.end()
            time_of_other, most = statistics.median(one[0] for one in theirs), theirs[-1][1]
            cells += [f"{time_of_other * 1000:.0f} ms", f"{most / 1024:.0f} MiB"]
            cells += [f"{time_of_other / seconds:.2f}", f"{peak / most:.2f}"]
        else:
            cells += [f"{found[0][2]} edges", "", "", ""]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
