"""The store beside torch.save, torch.load and Python's safetensors, in turn and in one run: medians, as a table.

    cargo build --release -p easyroutine-store --example figures
    python bench/store.py FOLDER [--program target/release/examples/figures] [--rounds 5]

FOLDER is on the disk that is measured, with 8 GiB free. The run has 16 layers of bf16 [256, 128, 1024], 1 GiB.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file

KEY = "resid_out_7"


def drop(folder):
    """Takes files out of the page cache."""
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(action):
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def touched(tensor):
    return int(tensor.view(torch.uint8).flatten()[::4096].sum())


def torch_save(content, file):
    torch.save(content, file)
    with open(file, "rb") as saved:
        os.fsync(saved.fileno())


def safetensors_layer(file):
    with safetensors.safe_open(file, "pt") as opened:
        touched(opened.get_tensor(KEY))


def upstream_scan(base):
    """What the original's query does: folder by folder, every metadata.json that is there is parsed and compared."""
    found = []
    for experiment in Path(base).iterdir():
        for model in experiment.iterdir() if experiment.is_dir() else []:
            for run in model.iterdir() if model.is_dir() else []:
                record = run / "metadata.json"
                if run.is_dir() and record.exists():
                    with open(record) as file:
                        metadata = json.load(file)
                    if metadata["tag"] == "tag_7":
                        found.append((experiment.name, model.name, run.name, metadata))
    assert len(found) == 20, found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--program", default="target/release/examples/figures")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    work = args.folder / "easyroutine-bench"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)

    def ours(task, base, *more):
        output = subprocess.run([args.program, task, str(base), *map(str, more)], check=True, capture_output=True, text=True)
        return [float(x) for x in output.stdout.split()]

    def medians(*actions):
        """What each action takes, in turn so that whatever else the machine does meets all of them."""
        taken = [[action() for action in actions] for _ in range(args.rounds)]
        return [statistics.median(times) for times in zip(*taken, strict=True)]

    rows = []

    def compare(what, mine, theirs, other):
        rows.append((what, mine, other, theirs, theirs / mine))

    base, pt, st = work / "base", work / "t.pt", work / "t.safetensors"
    content = {f"resid_out_{i}": torch.randn(256, 128, 1024).bfloat16() for i in range(16)}

    def fresh_save():
        shutil.rmtree(base, ignore_errors=True)
        return ours("save", base)[0]

    compare("save 1 GiB, with fsync", *medians(fresh_save, lambda: timed(lambda: torch_save(content, pt))), "torch.save")
    save_file(content, st)
    del content

    def cold(action):
        def run():
            drop(work)
            return action()

        return run

    layer = lambda times: lambda: ours("layer", base, times)[0]
    unverified = lambda times: lambda: ours("unverified", base, times)[0]
    load = lambda: timed(lambda: touched(torch.load(pt)[KEY]))
    mapped = lambda: timed(lambda: touched(torch.load(pt, mmap=True)[KEY]))
    stock = lambda: timed(lambda: safetensors_layer(st))
    # Warm, each side reads in a process that has read before.
    for name, how, times in [("cold", cold, 1), ("warm", lambda action: action, 5)]:
        others = [("--no-verify", unverified(times)), ("torch.load", load)]
        others += [("torch.load(mmap=True)", mapped), ("safetensors", stock)]
        mine, *theirs = medians(how(layer(times)), *(how(action) for _, action in others))
        for (other, _), its in zip(others, theirs, strict=True):
            compare(f"one layer of 1 GiB, {name}", mine, its, other)
    whole, trusted, torchs = medians(
        cold(lambda: ours("whole", base)[0]),
        cold(lambda: ours("whole-unverified", base)[0]),
        cold(lambda: timed(lambda: [touched(tensor) for tensor in torch.load(pt).values()])),
    )
    compare("all of 1 GiB, cold", whole, trusted, "--no-verify")
    compare("all of 1 GiB, cold", whole, torchs, "torch.load")
    shutil.rmtree(base)
    pt.unlink()
    st.unlink()

    many = work / "many"
    ours("runs", many, 10_000)
    time.sleep(4)
    ours("query", many)
    indexed, scanned, theirs = medians(
        lambda: ours("query", many)[0], lambda: ours("scan", many)[0], lambda: timed(lambda: upstream_scan(many))
    )
    compare("query of 10,000 runs, 20 hits, index", indexed, theirs, "the original's scan")
    compare("query of 10,000 runs, 20 hits, scan", scanned, theirs, "the original's scan")
    seconds, peak = ours("stream", work / "stream")

    print(f"| what | ours, s | against | theirs, s | ratio |\n|---|---|---|---|---|")
    for what, mine, other, its, ratio in rows:
        print(f"| {what} | {mine:.4f} | {other} | {its:.4f} | {ratio:.2f} |")
    print(f"\nwriting 4 GiB: {seconds:.1f} s, at most {peak:.0f} MiB of memory")
    shutil.rmtree(work)


main()
