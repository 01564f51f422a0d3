"""Quantised files beside llama.cpp: milliseconds of a token of generation and of prompts of 16, 128 and 512 tokens, and peak
memory. `bench/gguf.py --program target/release/examples/forward [--threads 2 --clock] MODEL.gguf…`

Time of the processor with one thread, because llama.cpp's threads wait by turning: on a machine that is not idle its wall
time says nothing. `--clock` is for one that is. `python bench/gguf.py --llama MODEL` is llama.cpp as a program
that is driven over pipes, as bench/workloads.py.

Logits beside llama.cpp's, of files with few tokens in their vocabulary (those that bench/gguf_fixtures.py keeps):

    python bench/gguf.py --logits --program EASYROUTINE FILE.gguf…

Attention keeps keys and values in f32. llama.cpp gives logarithms of probabilities: they are shifted to our logits' sum, and
the largest difference is stated over the largest logit. Beyond 1e-4 a run in float64 says who is wrong.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from workloads import peak_memory

PROMPTS = [16, 128, 512]
NEW = 48


def ids(length):
    return [(i * 104729 + i * i * 31 + 17) % 40000 for i in range(length)]


def llama(path, threads):
    import xllamacpp

    # What llama.cpp prints goes elsewhere.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 1024, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        if line.strip() == "peak":
            print(peak_memory(), file=answers, flush=True)
            continue
        _, lengths = line.split()
        length, *new = map(int, lengths.split(","))
        options = {"ignore_eos": True, "temperature": 0.0, "cache_prompt": False}
        tokens = new[0] + 1 if new else 1
        server.handle_completions({"prompt": ids(length), "n_predict": tokens, **options})
        print(0, file=answers, flush=True)


# Positions of a prompt whose logits are compared.
LENGTH = 19
ALMOST = 1e-4


def probabilities(path):
    """Prints llama.cpp's logarithms of probabilities after each token of a prompt, `[LENGTH, vocabulary]`."""
    import xllamacpp

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 256, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    server = xllamacpp.Server(params)
    vocabulary = int(sys.stdin.readline())
    rows = []
    for end in range(1, LENGTH + 1):
        answer = server.handle_completions({
            "prompt": few(end), "n_predict": 1, "n_probs": vocabulary, "temperature": 0.0, "cache_prompt": False,
            # A token that ends the text or has none comes without probabilities; those of the others are not changed by this.
            "logit_bias": [[few(1)[0], 1e3]],
        })
        found = {one["id"]: one["logprob"] for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
        rows.append([found.get(token) for token in range(vocabulary)])
    print(json.dumps(rows), file=answers, flush=True)
    answers.close()
    os._exit(0)


def few(length):
    """Ids beyond the bytes of a small vocabulary."""
    return [260 + i * 29 % 60 for i in range(length)]


def compare(path, program, folder):
    """The largest difference of a file's logits to llama.cpp's over the largest of them, or why there is none."""
    import numpy
    from safetensors.numpy import load_file, save_file

    ours = Path(folder) / f"{Path(path).stem}.safetensors"
    tokens = json.dumps([few(LENGTH)])
    command = [program, "extract", "--token-ids", tokens, "-m", path, "-a", "logits", "--positions", "all", "-o", str(ours)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return "easyroutine: " + done.stderr.strip().splitlines()[-1]
    logits = next(x for name, x in load_file(ours).items() if name.startswith("logits")).astype(numpy.float64)
    logits = logits.reshape(LENGTH, -1)
    command = [sys.executable, __file__, "--probabilities", path]
    done = subprocess.run(command, capture_output=True, text=True, input=f"{logits.shape[1]}\n", timeout=300)
    if done.returncode or not done.stdout.startswith("["):
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower() or "ASSERT" in line]
        return "llama.cpp: " + (lines or done.stderr.splitlines() or ["ended"])[0].strip()[:300]
    theirs = numpy.array(json.loads(done.stdout), dtype=numpy.float64)
    theirs += numpy.logaddexp.reduce(logits, axis=1, keepdims=True)
    error = numpy.nanmax(abs(logits - theirs)) / abs(logits).max()
    if error > ALMOST:
        dump = Path(folder) / "theirs.safetensors"
        ids = numpy.array([few(LENGTH)], dtype=numpy.int64)
        save_file({"input_ids": ids, "logits": theirs[None].astype(numpy.float32)}, dump)
        check = [program, "model", "check", path, "--compare", str(dump), "--exact", "--format", "tsv"]
        done = subprocess.run(check, capture_output=True, text=True)
        print(done.stdout or done.stderr)
    return float(f"{error:.1e}")


class Program:
    """A process, asked over pipes; its time is what its threads had on a processor, or the clock's."""

    def __init__(self, command, clock):
        self.clock = clock
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, **options)
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def milliseconds(self):
        if self.clock:
            return 1e3 * time.monotonic()
        tasks = glob.glob(f"/proc/{self.process.pid}/task/*/schedstat")
        return sum(int(Path(task).read_text().split()[0]) for task in tasks) / 1e6

    def time(self, line):
        before = self.milliseconds()
        self.ask(line)
        return self.milliseconds() - before

    def token(self, case):
        """Of one token of generation: a run of many less a run of one."""
        one = self.time(f"{case} 16,1")
        return (self.time(f"{case} 16,{NEW}") - one) / (NEW - 1)

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(path, given):
    threads = str(given.threads)
    ours = Program([given.program, path, "f32", threads], given.clock)
    theirs = Program([sys.executable, __file__, "--threads", threads, "--llama", path], given.clock)
    for side in (ours, theirs):
        # Weights are packed at the third use.
        for _ in range(3):
            side.ask("end 16")
    found = {}
    for _ in range(given.rounds):
        for name, side in (("easyroutine", ours), ("llama.cpp", theirs)):
            taken = found.setdefault(name, {})
            taken.setdefault("token", []).append(side.token("generate"))
            if side is ours:
                taken.setdefault("token, every layer's stream kept", []).append(side.token("watched"))
            for length in PROMPTS:
                taken.setdefault(f"1x{length}", []).append(side.time(f"end {length}"))
    for name, side in (("easyroutine", ours), ("llama.cpp", theirs)):
        medians = {case: round(statistics.median(times), 1) for case, times in found[name].items()}
        print(json.dumps({"model": Path(path).name, "side": name, **medians, "peak MB": side.ask("peak")}), flush=True)
        side.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", action="store_true", help="time of the clock, on a machine without other work")
    parser.add_argument("--llama", action="store_true")
    parser.add_argument("--logits", action="store_true", help="compare logits instead")
    parser.add_argument("--probabilities", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    if arguments.llama:
        return llama(arguments.models[0], arguments.threads)
    if arguments.probabilities:
        return probabilities(arguments.models[0])
    if arguments.logits:
        with tempfile.TemporaryDirectory() as folder:
            for path in arguments.models:
                print(json.dumps({"model": Path(path).stem, "difference": compare(path, arguments.program, folder)}), flush=True)
        return None
    for path in arguments.models:
        measure(path, arguments)


if __name__ == "__main__":
    main()
