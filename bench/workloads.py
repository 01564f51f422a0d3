"""The two sides of a comparison: a program that is driven over pipes, and transformers with hooks.

`python bench/workloads.py FOLDER DTYPE ATTENTION THREADS` is transformers as such a program.
"""

import subprocess
import sys
import time


PAUSE = 0.3


class Program:
    """A process that answers a line `CASE LENGTHS` with one of milliseconds, `peak` with its peak memory in MB, and `forget`
    with what it has now, from which its peak counts afterwards."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready"

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def run(self, case, lengths):
        # Threads of the other side go on turning for a while after their work is done.
        time.sleep(PAUSE)
        return self.ask(f"{case} {','.join(map(str, lengths))}")

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Transformers:
    """transformers with hooks that keep the output of every layer."""

    def __init__(self, folder, dtype, attention):
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention).eval()
        self.kept = []
        trunk = getattr(self.model, "backbone", None) or self.model.model
        for layer in trunk.layers:
            layer.register_forward_hook(lambda _, __, out: self.kept.append(out[0] if isinstance(out, tuple) else out))

    def ids(self, row, length):
        vocabulary = self.model.config.vocab_size
        return [(row * 7919 + i * 104729 + i * i * 31 + 17) % vocabulary for i in range(length)]

    def run(self, case, lengths):
        with self.torch.inference_mode():
            if case == "generate":
                return self.generate(*lengths)
            rows = [self.ids(row, length) for row, length in enumerate(lengths)]
            self.kept.clear()
            start = time.perf_counter()
            out = getattr(self, case)(rows)
            elapsed = (time.perf_counter() - start) * 1e3
            del out
            self.kept.clear()
            return elapsed

    def residuals(self, rows):
        return self.model(input_ids=self.torch.tensor(rows), use_cache=False)

    def end(self, rows):
        """All residuals, and logits of the last token alone."""
        return self.model(input_ids=self.torch.tensor(rows), use_cache=False, logits_to_keep=1)

    def generate(self, prompt, new):
        """Greedy tokens one by one from a cache: milliseconds a token after the first."""
        torch = self.torch
        out = self.model(input_ids=torch.tensor([self.ids(0, prompt)]), use_cache=True, logits_to_keep=1)
        # Mamba's classes call their cache by another name.
        name = "cache_params" if getattr(out, "cache_params", None) is not None else "past_key_values"
        start = time.perf_counter()
        for step in range(new):
            token = out.logits[:, -1].argmax(-1, keepdim=True)
            out = self.model(input_ids=token, use_cache=True, **{name: out[name]})
            self.kept.clear()
        return (time.perf_counter() - start) * 1e3 / new

    def patterns(self, rows):
        return self.model(input_ids=self.torch.tensor(rows), use_cache=False, output_attentions=True)

    def last(self, rows):
        """The last token's residuals, in right-padded batches of 8."""
        torch, out = self.torch, []
        for i in range(0, len(rows), 8):
            batch = rows[i : i + 8]
            longest = max(map(len, batch))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in batch])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
            self.model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
            last = mask.sum(1) - 1
            out.append([r[torch.arange(len(last)), last].clone() for r in self.kept])
            self.kept.clear()
        return out

    def lens(self, rows):
        torch, out = self.torch, []
        ids = torch.tensor(rows)
        embedded = self.model.model.embed_tokens(ids)
        self.model(input_ids=ids, use_cache=False, logits_to_keep=1)
        for stream in [embedded, *self.kept]:
            logits = self.model.lm_head(self.model.model.norm(stream))
            logprobs = torch.log_softmax(logits.float(), -1)
            out.append((logprobs.topk(10), -(logprobs.exp() * logprobs).sum(-1)))
        return out


def peak_memory():
    """As Linux counts it, in MB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def forget_peak():
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_memory()


def main():
    folder, dtype, attention, threads = sys.argv[1:]
    import torch

    torch.set_num_threads(int(threads))
    model = Transformers(folder, dtype, attention)
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() in ("peak", "forget"):
            print(peak_memory() if line.strip() == "peak" else forget_peak(), flush=True)
            continue
        case, lengths = line.split()
        print(model.run(case, [int(n) for n in lengths.split(",")]), flush=True)


if __name__ == "__main__":
    main()
