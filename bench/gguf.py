"""Quantised files beside llama.cpp: milliseconds of a token of generation and of prompts of 16, 128 and 512 tokens, and peak
memory. `bench/gguf.py --program target/release/examples/forward [--threads 2 --clock] MODEL.gguf…`

Time of the processor with one thread, because llama.cpp's threads wait by turning: on a machine that is not idle its wall
time says nothing. `--clock` is for one that is. `python bench/gguf.py --llama MODEL` is llama.cpp as a program
that is driven over pipes, as bench/workloads.py.
"""

import argparse
import glob
import json
import os
import statistics
import subprocess
import sys
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
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    if arguments.llama:
        return llama(arguments.models[0], arguments.threads)
    for path in arguments.models:
        measure(path, arguments)


if __name__ == "__main__":
    main()
