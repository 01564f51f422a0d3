"""Writes fuzz/corpus: small inputs that reach deep, from the fixtures and from the formats' own rules.

Run it in the project's root after a format, a family or a grammar has grown; the files are committed.
Inputs that once failed are kept by hand in `fuzz/corpus/TARGET/found-*`, which this leaves alone.
"""

import json
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"

KEYS = """resid_out_5 resid_out_* resid_in_{i} attn_raw_3:5 resid_mid_10: mlp_in_:4 mlp_hidden_-1 queries_L* keys_L0
values_L11 head_queries_L2H1 head_keys_L{l}H{h} pattern_L3H2 pattern_* pattern_L2 head_out_L4H* head_out_L{i}H{j}
projected_value_L0:4H-1 last_layernorm logits input_ids input_embeddings resid_in_post_layernorm_7
resid_out_*,pattern_*,logits blocks.5.hook_resid_post blocks.0.attn.hook_pattern blocks.11.mlp.hook_post
resid_outt_5 resid_out_99999999999999999999""".split()

POSITIONS = """all first last last-2 5 -1 4:9 -3:-1 special all-text random-text random-text-3 inputs-partition-0
random-inputs-partition-1 random-inputs-partition-0-2 first,last,-1,2:4 text:caf text:é all-image last-999999999
-999999999:999999999""".split() + ["text: Paris", "last, text:a, b", "text:"]

INTERVENTIONS = """resid_out_5@last=0 resid_in_1@4:9*0.5 mlp_out_3@all=mean:f.safetensors::t head_out_L1H2@-1=row:1
resid_out_5@3+f.safetensors::v resid_out_5@last+-2.5*f.safetensors::a::b pattern_L1H1@columns:3=0
pattern_L1H*@grid:9x2*1e+2 pattern_L1H1@pre:rows:5=-inf pattern_L*H1@keep-self:4:9=0
pattern_L1H1@grid:all-textxinputs-partition-0=0 blocks.5.hook_resid_post@special=0 resid_outt_5@last=0""".split() + [
    'resid_out_5 @ "text: Paris, x=y" , 0 = 1.5e-3',
    'pattern_L1H1@pre: grid: "text:fox" x "text:axe" *2',
    'mlp_hidden_2@all="a=b*c.safetensors::d+e"',
    'resid_out_5@"last=0',
]


CONDITIONS = """seed >= 3
extraction_config.extract_resid_out = true and seed >= 3
not (a.b = "x" or `with space` != 'y') and c in [1, 2.5, null, "z"]
deep.a.0 < 1e3 OR deep.a ~ "x" and on
_store.n_bytes <= -2""".splitlines()
PROMPTS = [
    "the cat\r\n\n  \nsat", '{"text": "a\\nb"}\n\n{"text": [1, 2, 4294967295]}\n', '{"prompt": "a"}', '["a"]',
    '{"text": "a"', "{" + '"text": [' * 20, "\ufeff{}",
    '{"extract_resid_out": true, "save_logits": false, "attn_heads": [{"layer": 1, "head": 2}]}',
    '{"extract_attn_pattern": true, "avg": true, "avg_over_example": true, "attn_pattern_avg": "baseline_ratio"}',
    '{"attn_pattern_row_positions": ["last", -2, [0, 4], "random-text-3", "text:a, b"], "attn_heads": "all"}',
    '{"keep_gradient": true}', '{"extract_resid_ou": 1}',
    'id,text\n1,"a, b"\n2,"two\nlines"\n3,\n', 'id\ttext\n1\ta\n', '{"x": NaN, "text": "a"}',
]


PATTERNS = json.loads((ROOT / "fixtures/tokenizers/patterns.json").read_text())


def write(target, files):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if not old.name.startswith("found-"):
            old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)


def configs():
    """Every fixture's config in both spellings, without blanks."""
    fixtures = ROOT / "fixtures"
    for path in sorted([*fixtures.glob("tiny/*/config.json"), *fixtures.glob("classic/*/config.json")]):
        value = json.loads(path.read_text())
        yield f"{path.parent.parent.name}-{path.parent.name}", json.dumps(value, separators=(",", ":")).encode()


def safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def safetensors_files():
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1, "F8_E4M3": 1}
    every, start = {"__metadata__": {"format": "pt"}}, 0
    for dtype, size in sizes.items():
        every[dtype.lower()] = tensor(dtype, [2, 3], start, start + 6 * size)
        start += 6 * size
    one = {"w": tensor("F32", [2], 0, 8)}
    return {
        "every-dtype": safetensors(every, bytes(range(start))),
        "scalar-and-empty": safetensors({"s": tensor("F32", [], 0, 4), "e": tensor("F32", [0, 5], 4, 4)}, bytes(4)),
        "truncated-data": safetensors(one, bytes(7)),
        "surplus-data": safetensors(one, bytes(9)),
        "overlap": safetensors({"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 4, 12)}, bytes(12)),
        "huge-shape": safetensors({"w": tensor("F32", [1 << 40, 1 << 40], 0, 8)}, bytes(8)),
        "header-beyond-file": safetensors(one, length=1 << 20),
        "header-bomb": safetensors(one, length=(1 << 64) - 1),
        "not-json": safetensors(b"{\"w\":"),
        "nested": safetensors(b"[" * 200 + b"]" * 200),
        "pickle": b"PK\x03\x04" + bytes(16),
    }


UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    packed = {UINT32: "<I", FLOAT32: "<f", BOOL: "<B"}
    return text(value) if kind == STRING else struct.pack(packed[kind], value)


def pair(key, kind, value):
    if kind == ARRAY:
        element, values = value
        body = struct.pack("<IQ", element, len(values)) + b"".join(scalar(element, v) for v in values)
    else:
        body = scalar(kind, value)
    return text(key) + struct.pack("<I", kind) + body


def gguf(pairs, tensors):
    """`tensors`: name -> (shape with the fastest axis first, number of the block type, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pair(*p) for p in pairs)
    data = b""
    for name, (shape, kind, raw) in tensors.items():
        data += bytes(-len(data) % 32)
        out += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, len(data))
        data += raw
    return out + bytes(-len(out) % 32) + data


TOKENS = ["<unk>", "<s>", "</s>", "a", "b", "ab", "Ġ", "Ġa"]


def gguf_model(name, extra, modules, tied):
    d_model, d_mlp, head = 8, 16, 4
    shapes = {
        "attn_q": (d_model, d_model), "attn_k": (d_model, head), "attn_v": (d_model, head),
        "attn_output": (d_model, d_model), "ffn_gate": (d_model, d_mlp), "ffn_up": (d_model, d_mlp),
        "ffn_down": (d_mlp, d_model),
    }
    tensors = {"token_embd": (d_model, len(TOKENS)), "output_norm": (d_model,)}
    tensors |= {} if tied else {"output": (d_model, len(TOKENS))}
    norms = {m: ((head,) if m in ("attn_q_norm", "attn_k_norm") else (d_model,)) for m in modules}
    tensors |= {f"blk.0.{module}": shape for module, shape in (shapes | norms).items()}
    size = lambda shape: 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    stored = {f"{n}.weight": (shape, 0, bytes(size(shape))) for n, shape in tensors.items()}
    sizes = {
        "context_length": 32, "embedding_length": d_model, "block_count": 1, "feed_forward_length": d_mlp,
        "attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": head,
    }
    pairs = [("general.architecture", STRING, name), ("general.type", STRING, "model")]
    pairs += [(f"{name}.{key}", UINT32, value) for key, value in sizes.items()]
    pairs += [(f"{name}.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5)]
    pairs += [(f"{name}.{key}", kind, value) for key, kind, value in extra]
    pairs += [
        ("tokenizer.ggml.model", STRING, "gpt2"),
        ("tokenizer.ggml.pre", STRING, "smollm"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, TOKENS)),
        ("tokenizer.ggml.token_type", ARRAY, (UINT32, [2, 3, 3, 1, 1, 1, 1, 1])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, ["a b", "Ġ a"])),
        ("tokenizer.ggml.bos_token_id", UINT32, 1),
        ("tokenizer.ggml.add_bos_token", BOOL, 1),
    ]
    return gguf(pairs, stored)


def gguf_files():
    norms = ["attn_norm", "ffn_norm"]
    # Number of the block type, values and bytes of a block.
    blocks = {"q4_0": (2, 32, 18), "q4_1": (3, 32, 20), "q5_0": (6, 32, 22), "q8_0": (8, 32, 34), "bf16": (30, 1, 2),
              "q4_k": (12, 256, 144), "q6_k": (14, 256, 210)}
    stored = {n: ((values, 2), kind, bytes(i % 61 for i in range(2 * size))) for n, (kind, values, size) in blocks.items()}
    rope = [("rope.freq_base", FLOAT32, 1e5), ("rope.scaling.type", STRING, "linear"), ("rope.scaling.factor", FLOAT32, 4.0)]
    gemma = [("attention.key_length", UINT32, 4), ("attention.value_length", UINT32, 4), ("attention.sliding_window", UINT32, 8)]
    whole = gguf_model("llama", rope, norms, tied=False)
    return {
        "llama": whole,
        "qwen2": gguf_model("qwen2", [], norms, tied=True),
        "qwen3": gguf_model("qwen3", gemma[:2], norms + ["attn_q_norm", "attn_k_norm"], tied=True),
        "gemma3": gguf_model("gemma3", gemma, norms + ["post_attention_norm", "post_ffw_norm", "attn_q_norm", "attn_k_norm"], tied=True),
        "blocks": gguf([], stored),
        "truncated": whole[: len(whole) // 2],
        "count-bomb": b"GGUF" + struct.pack("<IQQ", 3, 1 << 62, 1 << 62),
        "version-1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    }


def lines(values, before=b""):
    return {f"{number:02}": before + value.encode() for number, value in enumerate(values)}


write("config", dict(configs()))
write("safetensors", safetensors_files())
# Config and tensors with a zero byte between them (fuzz_targets/adapter.rs).
adapter = ROOT / "fixtures" / "checkpoints" / "adapter-beside"
parts = [(adapter / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")]
write("adapter", {"peft": parts[0] + b"\0" + parts[1], "config-alone": parts[0]})
write("gguf", gguf_files())
write("names", lines(KEYS))
# Before the text: length, pivot and seed (fuzz_targets/positions.rs).
write("interventions", {f"{i:02}": line.encode() for i, line in enumerate(INTERVENTIONS)})
write("positions", lines(POSITIONS, bytes([6, 3]) + struct.pack("<Q", 1)))
write("condition", lines(CONDITIONS))
records = sorted((ROOT / "fixtures" / "store" / "v1").glob("*/*/*/metadata.json"))
write("metadata", {f"golden-{i}": path.read_bytes() for i, path in enumerate(records)})
manifests = [json.loads(path.read_bytes())["_store"]["manifest"]["inline"] for path in records]
write("manifest", {f"golden-{i}": json.dumps(m, separators=(",", ":")).encode() for i, m in enumerate(manifests)})
torch_files = [*(ROOT / "fixtures" / "torch").glob("*.pt"), *(ROOT / "fixtures" / "store" / "original").glob("*/*/*/tensor.pt")]
write("torch", {f"{path.parent.name}-{path.stem}": path.read_bytes() for path in sorted(torch_files)})
DICTIONARIES = ROOT / "fixtures" / "dictionaries"
# Before the configuration: which of the cases of fuzz_targets/dictionary.rs it is of.
write("dictionary", {str(i): bytes([i]) + (DICTIONARIES / path).read_bytes() for i, path in enumerate((
    "saelens_jumprelu_layer_norm/cfg.json",
    "sparsify_sae/layers.1/cfg.json",
    "gemma_scope_2_transcoder/transcoder/layer_1_width_64_l0_small_affine/config.json",
    "dictionary_learning_batchtopk/config.json",
    "circuit_tracer_plt/config.yaml",
))})
write("yaml", {
    "plt": (DICTIONARIES / "circuit_tracer_plt/config.yaml").read_bytes(),
    "clt": (DICTIONARIES / "circuit_tracer_clt/config.yaml").read_bytes(),
    "odd": b'a: &x [1, "b", {c: ~}]\n? d\n: *x\n--- |\n text\n',
})
write("npz", {"two": (CORPUS / "npz" / "two").read_bytes()})
# Before the bytes: how many prompts are read at most (fuzz_targets/prompts.rs).
write("prompts", lines(PROMPTS, b"\x08"))
PAIRS = [
    '{"clean": "a b", "corrupt": "a c", "answer": " x", "against": 7}\n',
    '{"clean": [1, 2], "corrupt": [1, 4294967295]}\n\n{"clean": "", "corrupt": "b"}',
    '{"clean": "a", "corrupt": ["b"], "answer": null, "against": -1}', '{"corrupt": "b"}', '["a"]', "{" * 40,
]
write("pairs", lines(PAIRS, b"\x08"))
CIRCUIT = {
    "cfg": {"n_layers": 2, "n_heads": 3, "parallel_attn_mlp": False, "d_model": 48},
    "nodes": {"input": {"in_graph": True}},
    "edges": {
        "input->a0.h1<q>": {"score": -0.5, "in_graph": True},
        "a0.h2->m0": {"score": 1e300, "in_graph": False},
        "a1.h2->logits": {"in_graph": True},
        "m0->logits": {"score": None},
    },
}
write("circuit", lines([
    json.dumps(CIRCUIT), json.dumps({**CIRCUIT, "edges": {"m1->a0.h0<k>": {}}}), json.dumps({**CIRCUIT, "edges": []}),
    '{"cfg": {"n_layers": 2, "n_heads": 3}, "edges": {"a99999999999999999999.h0->m0": {}, "->": {}}}',
]))
# Pattern and text, with a zero between.
patterns = sorted({split["pattern"]["Regex"] for split in PATTERNS["splits"] if "Regex" in split["pattern"]})
write("patterns", lines([pattern + "\0Don't, x2y3 1234567\n caf\u00e9" for pattern in patterns[::5]]))

CHAT = ROOT / "fixtures/chat"
EXPRESSIONS = [case["template"] for case in json.loads((CHAT / "expressions.json").read_text())["cases"]]
TEMPLATES = [path.read_text() for path in sorted((CHAT / "templates").glob("*.jinja"))]
HOSTILE = [case["template"] for case in json.loads((CHAT / "hostile.json").read_text()) if "repeat" not in case]
write("chat", lines(TEMPLATES + EXPRESSIONS[::4] + HOSTILE))
