"""Patching sweeps beside TransformerLens' own: one run each, as they take minutes.

    python bench/sweep.py --models .cache/bench --program target/release/examples/sweep [--tokens 32]

Both patch the residual stream before every block at every position of one prompt, and look at the difference of two logits
at its last token. A ratio above 1 means that easyroutine is faster.
"""

import argparse
import os
import re
import subprocess
import sys
import time

THREADS = 2


def ours(program, folder, tokens):
    """What the program prints, and the seconds of the sweep over positions and of one whole run a cell."""
    command = [program, folder, str(tokens), str(THREADS)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    swept, whole = re.search(r"resid_in: ([\d.]+) s; one whole run a cell: ([\d.]+) s", printed).groups()
    return printed, float(swept), float(whole)


def transformer_lens(folder, tokens):
    """Seconds of its sweep of `resid_pre`; the ids are those of the example `sweep`."""
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(THREADS)
    torch.set_grad_enabled(False)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    bridge = TransformerBridge.boot_transformers(
        folder, hf_model=model.eval(), tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu"
    )
    target = torch.tensor([[500 + 37 * i for i in range(tokens)]])
    base = torch.tensor([[700 + 41 * i for i in range(tokens)]])
    start = time.perf_counter()
    _, cache = bridge.run_with_cache(base)
    patching.get_act_patch_resid_pre(bridge, target, cache, lambda logits: logits[0, -1, 300] - logits[0, -1, 400])
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", required=True)
    parser.add_argument("--program", required=True)
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    folder = f"{args.models}/smollm2-f32"
    printed, swept, whole = ours(args.program, folder, args.tokens)
    sys.stdout.write(printed)
    theirs = transformer_lens(folder, args.tokens)
    print(f"TransformerLens, positions of resid_pre: {theirs:.2f} s, {theirs / swept:.1f} times as long")
    print(f"one whole run a cell against it: {theirs / whole:.1f}")


if __name__ == "__main__":
    main()
