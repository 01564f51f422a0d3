"""Dictionaries beside other libraries, on the same weights and inputs. A ratio above 1 means that easyroutine is faster; the
time of the processor counts where the machine has other work.

    python bench/features.py encode --program target/release/examples/encode [--tokens 1024] [--width 2304] [--features 16384]

Encoding beside sae-lens, with random weights and vectors. The program is the example `encode` of easyroutine-dictionaries.
Needs torch, sae-lens and safetensors.

    python bench/features.py examples --program target/release/easyroutine --model smollm2-f32 --text README.md docs/*.md

The strongest examples of every feature over a text beside Delphi (its cache, then its data set of top examples), with a random
dictionary of sparsify's format. The model is a folder of SmolLM2 in float32 (`easyroutine model export`). Needs torch,
transformers, eai-sparsify and eai-delphi (which imports faiss-cpu, sentence-transformers, asyncer, orjson, blobfile, lxml and
bitsandbytes, but no client of a language model for this). Then features with their logits beside a plain extraction of the
same place.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ACTIVE = 64
# Delphi's defaults: tokens of a context, contexts of a batch, tokens of an example, parts of its cache.
CONTEXT, BATCH, WINDOW, SPLITS = 256, 32, 32, 5
LAYER, TOP = 12, 20


def processor():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def dictionaries(width, features):
    """A topk and a jumprelu dictionary with about as many active features."""
    import torch
    from sae_lens import JumpReLUSAE, JumpReLUSAEConfig, TopKSAE, TopKSAEConfig

    torch.manual_seed(0)
    sizes = {"d_in": width, "d_sae": features, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True}
    topk = TopKSAE(TopKSAEConfig(k=ACTIVE, **sizes))
    jump = JumpReLUSAE(JumpReLUSAEConfig(**sizes))
    encoder = torch.randn(width, features) / width**0.5
    with torch.no_grad():
        for sae in (topk, jump):
            sae.W_enc.copy_(encoder)
            sae.W_dec.copy_(encoder.T / encoder.norm(dim=0)[:, None])
        # Outputs of the encoder are standard normal.
        share = 1 - ACTIVE / features
        jump.threshold.fill_(torch.distributions.Normal(0, 1).icdf(torch.tensor(share)))
    for sae in (topk, jump):
        sae.cfg.metadata.hook_name = "blocks.0.hook_resid_post"
    return {"topk": topk, "jumprelu": jump}


def theirs(sae, x, times):
    import torch

    with torch.no_grad():
        features = sae.encode(x)
        start, used = time.perf_counter(), processor()
        for _ in range(times):
            sae.encode(x)
        seconds, used = time.perf_counter() - start, processor() - used
    active = features.to_dense() if features.is_sparse else features
    return seconds / times, used / times, int((active > 0).sum()), float(active.double().sum())


def encode(options):
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    x = torch.randn(options.tokens, options.width)
    with tempfile.TemporaryDirectory() as folder:
        vectors = Path(folder) / "x.f32"
        vectors.write_bytes(x.numpy().astype("<f4").tobytes())
        for name, sae in dictionaries(options.width, options.features).items():
            path = Path(folder) / name
            sae.save_model(str(path))
            command = [options.program, str(path), str(vectors), str(options.times)]
            ours = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            seconds, used, active, total = theirs(sae, x, options.times)
            near = abs(ours["sum"] - total) <= 1e-4 * abs(total)
            print(
                f"{name}: easyroutine {ours['seconds']:.3f} s ({ours['processor']:.3f} s of the processor), "
                f"sae-lens {seconds:.3f} s ({used:.3f} s), ratio {seconds / ours['seconds']:.2f} "
                f"({used / ours['processor']:.2f}); active {ours['active']} and {active}, "
                f"sums {'agree' if near else 'DIFFER'}"
            )


def prepare(room, options):
    """Contexts of a text as ids, and a random dictionary around the mean of what it reads."""
    import torch
    from sparsify import SparseCoder, SparseCoderConfig
    from transformers import AutoModel, AutoTokenizer

    text = "\n".join(Path(file).read_text() for file in options.text)
    ids = AutoTokenizer.from_pretrained(options.model)(text)["input_ids"]
    rows = torch.tensor(ids[: options.contexts * CONTEXT]).view(options.contexts, CONTEXT)
    torch.save(rows, room / "ids.pt")
    (room / "ids.jsonl").write_text("".join(json.dumps({"ids": row}) + "\n" for row in rows.tolist()))
    torch.manual_seed(0)
    model = AutoModel.from_pretrained(options.model, dtype=torch.float32)
    coder = SparseCoder(model.config.hidden_size, SparseCoderConfig(num_latents=options.features, k=options.k))
    with torch.no_grad():
        stream = model(rows[:2], output_hidden_states=True).hidden_states[LAYER + 1]
        coder.b_dec.copy_(stream[:, 1:].mean(dim=(0, 1)))
    coder.save_to_disk(room / "dictionary" / f"layers.{LAYER}")


def delphi(room, options):
    """Delphi's cache and its top examples; prints its seconds, and writes the strongest windows of each feature."""
    import torch
    from delphi.config import CacheConfig, ConstructorConfig, SamplerConfig
    from delphi.latents import LatentCache, LatentDataset
    from delphi.sparse_coders.load_sparsify import load_sparsify_hooks
    from transformers import AutoModel, AutoTokenizer

    torch.set_num_threads(options.threads)
    model = AutoModel.from_pretrained(options.model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = torch.load(room / "ids.pt")
    hooks, transcode = load_sparsify_hooks(model, str(room / "dictionary"), [f"layers.{LAYER}"])
    start, used = time.perf_counter(), processor()
    cache = LatentCache(model, hooks, batch_size=BATCH, transcode=transcode)
    cache.run(rows.numel(), rows)
    cache.save_splits(SPLITS, room / "latents")
    cache.save_config(room / "latents", CacheConfig(cache_ctx_len=CONTEXT), options.model)
    cached = time.perf_counter() - start
    dataset = LatentDataset(
        room / "latents",
        SamplerConfig(n_examples_train=TOP, n_examples_test=0, train_type="top"),
        ConstructorConfig(example_ctx_len=WINDOW, min_examples=1, n_non_activating=0),
        tokenizer=tokenizer,
    )
    found = {r.latent.latent_index: [float(e.activations.max()) for e in r.train] for r in dataset}
    seconds, used = time.perf_counter() - start, processor() - used
    (room / "delphi.json").write_text(json.dumps(found))
    print(json.dumps({"seconds": seconds, "cached": cached, "processor": used}))


def measured(command):
    """Runs a program: its output, seconds, seconds of the processor, and most memory in MiB."""
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = child.stdout.read()
    _, status, used = os.wait4(child.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return output, time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def agreement(room):
    """The share of all strongest windows of features that both sides give the same value, and how many there are."""
    theirs = json.loads((room / "delphi.json").read_text())
    alike = total = 0
    for line in (room / "examples/features_d.jsonl").read_text().splitlines():
        feature = json.loads(line)
        best = {}
        for kept in feature["top"]:
            best.setdefault((kept["prompt"], kept["position"] // WINDOW), kept["value"])
        expected = theirs.get(str(feature["feature"]), [])
        # Several tokens of one window may be among the strongest; Delphi counts windows, in float16.
        for ours, other in zip(best.values(), expected):
            alike += abs(ours - other) <= 1e-3 * abs(other) + 1e-4
            total += 1
    return alike / max(total, 1), total


def examples(options):
    own = [sys.executable, __file__, "examples", *(word for word in sys.argv[2:] if not word.startswith("--step"))]
    with tempfile.TemporaryDirectory() as folder:
        room = Path(options.room or folder)
        room.mkdir(parents=True, exist_ok=True)
        if options.step:
            {"prepare": prepare, "delphi": delphi}[options.step](room, options)
            return
        own += ["--room", str(room)]
        if not (room / "ids.jsonl").exists():
            measured([*own, "--step=prepare"])
        tokens = options.contexts * CONTEXT
        common = [options.program, None, "-m", options.model, "--file", str(room / "ids.jsonl"), "--field", "ids"]
        common += ["--positions", "all", "--threads", str(options.threads), "--dict", f"d={room}/dictionary/layers.{LAYER}"]

        def ours(what, *flags):
            command = [what if word is None else word for word in common]
            return measured([*command, *flags])

        if "delphi" in options.what:
            _, seconds, used, memory = ours("features", "--top", str(TOP), "--drawn", "0", "--logits", "0", "-o", str(room / "examples"))
            output, whole, _, other = measured([*own, "--step=delphi"])
            their = json.loads(output.splitlines()[-1])
            share, count = agreement(room)
            print(f"{tokens} tokens, {options.features} features, k = {options.k}, {options.threads} threads")
            print(f"easyroutine: {seconds:.1f} s ({used:.1f} s of the processor), start included; {memory:.0f} MiB")
            print(
                f"Delphi: {their['seconds']:.1f} s ({their['processor']:.1f} s), of which {their['cached']:.1f} s its cache; "
                f"{whole:.1f} s with its start; {other:.0f} MiB"
            )
            print(f"times as fast {their['seconds'] / seconds:.2f} ({their['processor'] / used:.2f}), memory {other / memory:.1f}")
            print(f"{share:.2%} of {count} windows have the same value")
        if "extract" in options.what:
            _, plain, used, _ = ours("extract", "-a", f"resid_out_{LAYER}", "-o", str(room / "plain.safetensors"))
            _, seconds, processor_, _ = ours("features", "-o", str(room / f"logits-{time.time_ns()}"))
            print(f"a plain extraction: {plain:.1f} s ({used:.1f} s of the processor), {tokens / plain:.0f} tokens a second")
            print(f"features with logits: {seconds:.1f} s ({processor_:.1f} s), {plain / seconds:.0%} ({used / processor_:.0%}) of its speed")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("encode")
    one.add_argument("--tokens", type=int, default=1024)
    one.add_argument("--width", type=int, default=2304)
    one.add_argument("--times", type=int, default=3)
    two = commands.add_parser("examples")
    two.add_argument("--model", required=True)
    two.add_argument("--text", nargs="+", required=True)
    two.add_argument("--contexts", type=int, default=64)
    two.add_argument("--k", type=int, default=32)
    two.add_argument("--what", nargs="+", default=["delphi", "extract"], choices=["delphi", "extract"])
    two.add_argument("--room", help="a folder that keeps the inputs and results")
    two.add_argument("--step", choices=["prepare", "delphi"], help=argparse.SUPPRESS)
    for command in (one, two):
        command.add_argument("--program", required=True)
        command.add_argument("--features", type=int, default=16384)
        command.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    {"encode": encode, "examples": examples}[options.command](options)


if __name__ == "__main__":
    main()
