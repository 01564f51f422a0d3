"""Random blocks of every type that is decoded, and what the Python package `gguf` makes of them.

    pip install gguf==0.19.0 safetensors numpy
    python make_blocks.py            # writes blocks.gguf and answers.safetensors beside itself

Integers are any bits. Half-precision scales are finite (NaN has many spellings, and no weight is NaN), subnormal ones included.
"""

from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T
from safetensors.numpy import save_file

# Where in a block the half-precision numbers stand, in bytes.
HALVES = {
    T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0],
    T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208], T.F16: [0], T.BF16: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
    T.IQ4_NL: [0], T.IQ4_XS: [0], T.MXFP4: [], T.TQ1_0: [52], T.TQ2_0: [64],
}  # fmt: skip
ROWS, COLUMNS = 3, 512
folder = Path(__file__).parent
random = np.random.default_rng(20240229)


def random_blocks(kind):
    block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (ROWS * COLUMNS // block_len, block_bytes), dtype=np.uint8)
    # The exponent's lowest bit is cleared, so that it is never all ones: 5 bits of a half, 8 of a bfloat16.
    byte, keep = (0, 0x7F) if kind == T.BF16 else (1, 0xFB)
    for place in HALVES[kind]:
        blocks[:, place + byte] &= keep
    return blocks.reshape(ROWS, COLUMNS // block_len * block_bytes)


writer = gguf.GGUFWriter(folder / "blocks.gguf", "none")
answers = {}
for kind in HALVES:
    stored = random_blocks(kind)
    writer.add_tensor(kind.name, stored, raw_dtype=kind)
    with np.errstate(all="ignore"):
        answers[kind.name] = gguf.dequantize(stored, kind).reshape(ROWS, COLUMNS).astype(np.float32)
    assert np.isfinite(answers[kind.name]).all(), kind
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
save_file(answers, folder / "answers.safetensors", {"made_by": f"gguf {__import__('importlib.metadata').metadata.version('gguf')}"})
