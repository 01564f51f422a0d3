"""Layer by layer: a random model of Mistral 7B's shape on 1,000 short prompts, within a bound on memory and without.

    python3 bench/layers.py make FOLDER [--layers 32]      14.5 GB of random bf16, in as long as the disk takes
    python3 bench/layers.py run FOLDER --program EASYROUTINE [--memory 3G] [--rows 1000] [--threads 2]

`run` prints seconds and the largest private memory of the process: pages of mapped files are apart, since the system takes
them back whenever it wants to. With `--memory whole` the model stays in memory.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

CONFIG = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}

# High bytes of bf16: a sign, and numbers from 0.0078 to 0.031.
SMALL = bytes((byte & 0x80) | 0x3C for byte in range(256))
ONE = b"\x80\x3f"


def tensors(config):
    """Names and shapes, in the order of the file."""
    width, neurons = config["hidden_size"], config["intermediate_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", [config["vocab_size"], width]
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", [width]
        for name, outputs in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield f"{prefix}self_attn.{name}_proj.weight", [outputs, width]
        yield prefix + "post_attention_layernorm.weight", [width]
        for name, shape in (("gate", [neurons, width]), ("up", [neurons, width]), ("down", [width, neurons])):
            yield f"{prefix}mlp.{name}_proj.weight", shape
    yield "model.norm.weight", [width]
    yield "lm_head.weight", [config["vocab_size"], width]


def make(folder, layers):
    """Writes the model."""
    folder.mkdir(parents=True, exist_ok=True)
    config = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    header, end = {}, 0
    for name, shape in tensors(config):
        bytes_ = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + bytes_]}
        end += bytes_
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    # One block of random numbers, each time from another place on: no two layers are equal.
    numbers = 1 << 26
    block = bytearray(2 * numbers)
    block[0::2] = os.urandom(numbers)
    block[1::2] = os.urandom(numbers).translate(SMALL)
    block, at = memoryview(block), 0
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in tensors(config):
            if len(shape) == 1:
                file.write(ONE * shape[0])
                continue
            left = 2 * shape[0] * shape[1]
            while left:
                piece = block[at : at + left]
                file.write(piece)
                left -= len(piece)
                at = (at + len(piece) + 10_006) % len(block) // 2 * 2
    print(f"{folder}: {end / 1e9:.1f} GB")


def private_bytes(pid):
    """Private memory of a process, and pages of files that it has mapped."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0, 0
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith("Rss")}
    return sizes.get("RssAnon", 0), sizes.get("RssFile", 0)


def run(folder, program, memory, rows, threads, keys):
    """Extracts the last token's stream of every layer, and says how long it took and what it held."""
    all_ids = [[1 + (row * 7919 + i * 104729) % 9999 for i in range(8 + row % 17)] for row in range(rows)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        out = str(Path(place) / "out.safetensors")
        command = [program, "extract", "--token-ids", json.dumps(all_ids, separators=(",", ":")), "-m", str(folder)]
        command += ["-a", keys, "--positions", "last", "-o", out, "--threads", str(threads)]
        if memory != "whole":
            command += ["--memory", memory]
        began = time.monotonic()
        process = subprocess.Popen(command)
        private = mapped = 0
        while process.poll() is None:
            anon, file = private_bytes(process.pid)
            private, mapped = max(private, anon), max(mapped, file)
            time.sleep(0.05)
        seconds = time.monotonic() - began
    tokens = sum(map(len, all_ids))
    print(
        f"{memory}: {rows} rows, {tokens} tokens, {seconds:.1f} s, {tokens / seconds:.1f} tokens/s, "
        f"private {private / 1e9:.2f} GB, mapped files {mapped / 1e9:.2f} GB, status {process.returncode}"
    )


def main():
    """What is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--program", default="easyroutine")
    parser.add_argument("--memory", default="3G")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keys", default="resid_out_*")
    given = parser.parse_args()
    if given.what == "make":
        make(given.folder, given.layers)
    else:
        run(given.folder, given.program, given.memory, given.rows, given.threads, given.keys)


if __name__ == "__main__":
    main()
