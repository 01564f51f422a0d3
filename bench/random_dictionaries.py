"""Random dictionaries as their own libraries write them: what those read from the files beside what easyroutine reads.

    python bench/random_dictionaries.py --program target/release/easyroutine [--count 200] [--seed 0]

Needs torch, sae-lens, eai-sparsify, dictionary-learning, circuit-tracer and safetensors. Every case encodes and decodes the
activations of a tiny model of the fixtures. Each difference is printed with the seed that repeats it; what easyroutine refuses
is counted by its message.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")

import numpy as np
import torch
from safetensors.torch import load_file, save_file

MODEL = Path(__file__).parent.parent / "fixtures/tiny/llama"
WIDTH, HIDDEN, LAYERS = 48, 80, 3
IDS = [[1, 17, 250, 33, 96, 5, 201, 77, 310, 64], [1, 8, 90, 144, 12, 299, 3, 55, 181, 20]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# TransformerLens' name of a place, ours, and its width.
HOOKS = [
    ("blocks.{}.hook_resid_pre", "resid_in_{}", WIDTH),
    ("blocks.{}.hook_resid_mid", "resid_mid_{}", WIDTH),
    ("blocks.{}.hook_resid_post", "resid_out_{}", WIDTH),
    ("blocks.{}.hook_attn_out", "attn_out_{}", WIDTH),
    ("blocks.{}.hook_mlp_out", "mlp_out_{}", WIDTH),
    ("blocks.{}.attn.hook_z", "z_L{}", WIDTH),
    ("blocks.{}.mlp.hook_in", "mlp_in_{}", WIDTH),
    ("blocks.{}.mlp.hook_post", "mlp_hidden_{}", HIDDEN),
]
MODULES = [
    ("layers.{}", "resid_out_{}", "resid_in_{}"),
    ("model.layers.{}.mlp", "mlp_out_{}", "mlp_in_{}"),
    ("layers.{}.mlp", "mlp_out_{}", "mlp_in_{}"),
    ("layers.{}.self_attn", "attn_out_{}", "attn_in_{}"),
]


@dataclass
class Case:
    """A dictionary on the disk, and what its library makes of it."""

    path: Path
    reads: list[str]
    writes: list[str]
    # From a layer's vectors to its features; from all layers' features and a layer's vectors to its output.
    encode: Callable
    decode: Callable
    flags: list[str] = field(default_factory=list)
    is_set: bool = False


def some(r, *shape, scale=1.0):
    return torch.from_numpy(r.normal(size=shape).astype(np.float32)) * scale


def fill(r, module, d_in):
    """Random parameters, with decoder rows of many lengths."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if not tensor.is_floating_point() or tensor.dim() == 0:
                continue
            scale = 0.3 if tensor.dim() == 1 else d_in**-0.5
            values = some(r, *tensor.shape, scale=scale)
            if "threshold" in name:
                values = values.abs() if r.random() < 0.7 else values
            tensor.copy_(values.to(tensor.dtype))


def saelens(r, folder):
    import sae_lens as lens

    kinds = {
        "standard": (lens.StandardSAE, lens.StandardSAEConfig),
        "gated": (lens.GatedSAE, lens.GatedSAEConfig),
        "topk": (lens.TopKSAE, lens.TopKSAEConfig),
        "jumprelu": (lens.JumpReLUSAE, lens.JumpReLUSAEConfig),
        "transcoder": (lens.Transcoder, lens.TranscoderConfig),
        "skip_transcoder": (lens.SkipTranscoder, lens.SkipTranscoderConfig),
        "jumprelu_transcoder": (lens.JumpReLUTranscoder, lens.JumpReLUTranscoderConfig),
        "jumprelu_skip_transcoder": (lens.JumpReLUSkipTranscoder, lens.JumpReLUSkipTranscoderConfig),
        "train_topk": (lens.TopKTrainingSAE, lens.TopKTrainingSAEConfig),
        "train_batchtopk": (lens.BatchTopKTrainingSAE, lens.BatchTopKTrainingSAEConfig),
        "train_jumprelu": (lens.JumpReLUTrainingSAE, lens.JumpReLUTrainingSAEConfig),
        "train_standard": (lens.StandardTrainingSAE, lens.StandardTrainingSAEConfig),
        "train_gated": (lens.GatedTrainingSAE, lens.GatedTrainingSAEConfig),
        "abstopk": (lens.AbsTopKSAE, lens.AbsTopKSAEConfig),
    }
    kind = r.choice(list(kinds))
    made, config = kinds[kind]
    is_transcoder = "transcoder" in kind
    layer = int(r.integers(LAYERS))
    hook, site, d_in = HOOKS[r.integers(len(HOOKS))]
    d_sae = int(r.choice([1, 7, d_in, 64, 100, 513]))
    settings = {
        "d_in": d_in,
        "d_sae": d_sae,
        "dtype": str(r.choice(list(DTYPES))),
        "normalize_activations": str(
            r.choice(["none", "none", "layer_norm", "constant_norm_rescale", "expected_average_only_in", "covariance_whitening"])
        ),
        "apply_b_dec_to_input": bool(r.random() < 0.5) and not is_transcoder,
    }
    out_site = site
    if is_transcoder:
        hook_out, out_site, settings["d_out"] = HOOKS[r.integers(len(HOOKS))]
    if "topk" in kind:
        settings["k"] = int(r.choice([1, 3, min(d_sae, 32), d_sae]))
        settings["rescale_acts_by_decoder_norm"] = bool(r.random() < 0.5)
    if hook.endswith("hook_z") and r.random() < 0.7 and not is_transcoder:
        settings["reshape_activations"] = "hook_z"
    cfg = config(**settings)
    cfg.metadata.hook_name = hook.format(layer)
    cfg.metadata.model_name = "tiny"
    if is_transcoder:
        cfg.metadata.hook_name_out = hook_out.format(layer)
    sae = made(cfg)
    fill(r, sae, d_in)
    if hasattr(sae, "topk_threshold"):
        sae.topk_threshold.fill_(abs(float(r.normal())))
    whole = kind.startswith("train") and r.random() < 0.3
    if kind.startswith("train") and not whole:
        sae.save_inference_model(folder)
    else:
        sae.save_model(folder)
    flags, factor = [], None
    written = json.loads((folder / "cfg.json").read_text())
    if settings["normalize_activations"] == "expected_average_only_in":
        factor = float(r.uniform(0.3, 3))
        flags = ["--norm-factor", repr(factor)]
    if not kind.startswith("train") and not is_transcoder and kind != "abstopk" and r.random() < 0.3:
        old(folder, written, r)
    read = lens.TrainingSAE if whole else lens.SAE
    sae = read.load_from_disk(folder, dtype="float32")
    if factor:
        sae.fold_activation_norm_scaling_factor(factor)
    reshape = sae.hook_z_reshaping_mode
    shaped = (lambda x: x.unflatten(-1, (4, -1))) if reshape else (lambda x: x)

    def encode(_, x):
        f = sae.encode(shaped(x))
        return f.to_dense() if f.is_sparse else f

    def decode(_, features, x):
        # What normalises keeps its statistics of the last vectors.
        sae.encode(shaped(x))
        y = sae.decode(features[0])
        if hasattr(sae, "W_skip"):
            y = y + x @ sae.W_skip.T
        return y.flatten(-2) if reshape else y

    return Case(folder, [site.format(layer)], [out_site.format(layer)], encode, decode, flags)


def old(folder, cfg, r):
    """The configuration as versions before 6 wrote it."""
    metadata = cfg.pop("metadata")
    cfg = {**cfg, "model_name": metadata["model_name"], "hook_name": metadata["hook_name"], "hook_layer": 0}
    cfg.pop("rescale_acts_by_decoder_norm", None)
    cfg["hook_layer"] = int(metadata["hook_name"].split(".")[1])
    cfg.update({"activation_fn_str": "relu", "activation_fn_kwargs": {}, "prepend_bos": True, "context_size": 128})
    if cfg["architecture"] == "topk":
        cfg.update({"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": cfg.pop("k")}})
    if r.random() < 0.5:
        cfg["hook_point"] = cfg.pop("hook_name")
        cfg["hook_point_layer"] = cfg.pop("hook_layer")
    if cfg["normalize_activations"] in ("none", "expected_average_only_in") and r.random() < 0.5:
        cfg["normalize_activations"] = cfg["normalize_activations"] != "none"
    if r.random() < 0.5:
        cfg["sae_lens_version"] = "5.4.2"
    (folder / "cfg.json").write_text(json.dumps(cfg))


def sparsify(r, folder):
    from sparsify import SparseCoder, SparseCoderConfig

    module, out, into = MODULES[r.integers(len(MODULES))]
    layer = int(r.integers(LAYERS))
    features = int(r.choice([48, 64, 96, 256]))
    transcode = bool(r.random() < 0.5)
    cfg = SparseCoderConfig(
        activation=str(r.choice(["topk", "groupmax"])),
        num_latents=features,
        k=int(r.choice([1, 4, 16])),
        normalize_decoder=bool(r.random() < 0.5),
        skip_connection=bool(r.random() < 0.5),
        transcode=transcode,
    )
    if r.random() < 0.3:
        cfg.num_latents, cfg.expansion_factor = 0, int(r.choice([1, 2, 3]))
    coder = SparseCoder(WIDTH, cfg, dtype=DTYPES[str(r.choice(list(DTYPES)))])
    fill(r, coder, WIDTH)
    path = folder / module.format(layer)
    coder.save_to_disk(path)
    coder = SparseCoder.load_from_disk(path).float()

    def encode(_, x):
        top = coder.encode(x.flatten(0, 1))
        features = torch.zeros(x.shape[0] * x.shape[1], coder.num_latents)
        return features.scatter_(-1, top.top_indices, top.top_acts).unflatten(0, x.shape[:2])

    def decode(_, features, x):
        y = features[0] @ coder.W_dec + coder.b_dec
        return y if coder.W_skip is None else y + x @ coder.W_skip.mT

    reads = into if transcode else out
    return Case(path, [reads.format(layer)], [out.format(layer)], encode, decode)


def dictionary_learning(r, folder):
    import dictionary_learning.dictionary as plain
    from dictionary_learning.trainers.batch_top_k import BatchTopKSAE
    from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKSAE
    from dictionary_learning.trainers.top_k import AutoEncoderTopK

    features = int(r.choice([WIDTH, 64, 200]))
    k = int(r.choice([1, 5, 20, features]))
    layer = int(r.integers(LAYERS))
    kinds = {
        "AutoEncoder": lambda: plain.AutoEncoder(WIDTH, features),
        "AutoEncoderNew": lambda: plain.AutoEncoderNew(WIDTH, features),
        "GatedAutoEncoder": lambda: plain.GatedAutoEncoder(WIDTH, features),
        "JumpReluAutoEncoder": lambda: plain.JumpReluAutoEncoder(WIDTH, features),
        "AutoEncoderTopK": lambda: AutoEncoderTopK(WIDTH, features, k),
        "BatchTopKSAE": lambda: BatchTopKSAE(WIDTH, features, k),
        "MatryoshkaBatchTopKSAE": lambda: MatryoshkaBatchTopKSAE(WIDTH, features, k, [features // 2, features - features // 2]),
    }
    kind = str(r.choice(list(kinds)))
    ae = kinds[kind]()
    fill(r, ae, WIDTH)
    if "BatchTopK" in kind and r.random() < 0.7:
        ae.threshold.fill_(abs(float(r.normal(scale=0.5))))
    if r.random() < 0.3:
        ae = ae.to(DTYPES[str(r.choice(list(DTYPES)))])
    torch.save(ae.state_dict(), folder / "ae.pt")
    names = [f"resid_post_layer_{layer}", f"mlp_layer_{layer}", None, f"model.layers.{layer}.mlp"]
    name = names[r.integers(len(names))]
    io = str(r.choice(["out", "out", "in"])) if name is None or "mlp" in name else "out"
    trainer = {"dict_class": kind, "layer": layer, "lm_name": "tiny", "submodule_name": name, "trainer_class": "T"}
    trainer |= {"activation_dim": WIDTH, "dict_size": features, "steps": 10, "seed": 0, "lr": 1e-3, "device": "cpu"}
    if "TopK" in kind:
        trainer["k"] = k
    buffer = {"d_submodule": WIDTH, "io": io, "n_ctxs": 10, "ctx_len": 32, "refresh_batch_size": 8, "out_batch_size": 4, "device": "cpu"}
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": buffer}))
    ae = ae.float()
    kind_of = "mlp" if name and "mlp" in name else "resid"
    site = f"{kind_of}_{io}_{layer}"
    return Case(folder, [site], [site], lambda _, x: ae.encode(x.flatten(0, 1)).unflatten(0, x.shape[:2]), lambda _, f, x: ae.decode(f[0]))


def gemma_scope(r, folder):
    features = 1024
    layer = int(r.integers(LAYERS))
    kind, site = [("res", "resid_out"), ("mlp", "mlp_out"), ("att", "z_L")][r.integers(3)]
    path = folder / f"gemma-scope-2b-pt-{kind}/layer_{layer}/width_1k/average_l0_8"
    path.mkdir(parents=True)
    dtype = np.float32 if r.random() < 0.7 else np.float16
    t = {
        "W_enc": some(r, WIDTH, features, scale=WIDTH**-0.5).numpy(),
        "W_dec": some(r, features, WIDTH, scale=WIDTH**-0.5).numpy(),
        "b_enc": some(r, features, scale=0.3).numpy(),
        "b_dec": some(r, WIDTH, scale=0.3).numpy(),
        "threshold": some(r, features, scale=0.5).numpy(),
    }
    t = {name: a.astype(dtype) for name, a in t.items()}
    if r.random() < 0.5:
        t["W_enc"] = np.asfortranarray(t["W_enc"])
    lower = r.random() < 0.3
    saved = {("w" + name[1:] if lower and name.startswith("W_") else name): a for name, a in t.items()}
    (np.savez if r.random() < 0.8 else np.savez_compressed)(path / "params.npz", **saved)
    t = {name: torch.from_numpy(np.ascontiguousarray(a)).float() for name, a in t.items()}

    def encode(_, x):
        h = x @ t["W_enc"] + t["b_enc"]
        return h.relu() * (h > t["threshold"])

    site = f"z_L{layer}" if site == "z_L" else f"{site}_{layer}"
    return Case(path, [site], [site], encode, lambda _, f, x: f[0] @ t["W_dec"] + t["b_dec"])


def qwen_scope(r, folder):
    k, layer = int(r.choice([1, 8, 64])), int(r.integers(LAYERS))
    path = folder / f"SAE-Res-Tiny-W1K-L0_{k}"
    path.mkdir()
    dtype = DTYPES[str(r.choice(list(DTYPES)))]
    t = {
        "W_enc": some(r, 1024, WIDTH, scale=WIDTH**-0.5).to(dtype),
        "W_dec": some(r, WIDTH, 1024, scale=WIDTH**-0.5).to(dtype),
        "b_enc": some(r, 1024, scale=0.3).to(dtype),
        "b_dec": some(r, WIDTH, scale=0.3).to(dtype),
    }
    torch.save(t, path / f"layer{layer}.sae.pt")
    t = {name: a.float() for name, a in t.items()}

    def encode(_, x):
        top = (x @ t["W_enc"].T + t["b_enc"]).topk(k, dim=-1)
        return torch.zeros(*x.shape[:-1], 1024).scatter_(-1, top.indices, top.values.relu())

    site = f"resid_out_{layer}"
    return Case(path, [site], [site], encode, lambda _, f, x: f[0] @ t["W_dec"].T + t["b_dec"])


def circuit_tracer(r, folder):
    import yaml
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder, TranscoderSet, load_transcoder_set

    cross, jump = r.random() < 0.5, r.random() < 0.5
    features = int(r.choice([WIDTH, 64, 130]))
    dtype = DTYPES[str(r.choice(list(DTYPES)))]
    inputs, reads = [("mlp.hook_in", "mlp_in_{}"), ("hook_resid_mid", "resid_mid_{}")][r.integers(2)]
    made = {"device": torch.device("cpu"), "dtype": dtype}
    if cross:
        act = "jump_relu" if jump else "relu"
        module = CrossLayerTranscoder(LAYERS, features, WIDTH, activation_function=act, lazy_decoder=False, **made)
    else:
        skip = bool(r.random() < 0.5)
        acts = [JumpReLU(torch.zeros(features, dtype=dtype)) if jump else torch.nn.functional.relu for _ in range(LAYERS)]
        coders = {i: SingleLayerTranscoder(WIDTH, features, acts[i], i, skip_connection=skip, **made) for i in range(LAYERS)}
        module = TranscoderSet(coders, inputs, "hook_mlp_out", scan="tiny")
    fill(r, module, WIDTH)
    module.to_safetensors(str(folder))
    config = {"model_name": "tiny", "scan": "tiny", "feature_input_hook": inputs, "feature_output_hook": "hook_mlp_out"}
    config["model_kind"] = "cross_layer_transcoder" if cross else "transcoder_set"
    files = [f"layer_{i}.safetensors" for i in range(LAYERS)]
    if not cross:
        config["transcoders"] = files
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    places = {"feature_input_hook": inputs, "feature_output_hook": "hook_mlp_out", "device": torch.device("cpu")}
    if cross:
        module = load_clt(str(folder), dtype=torch.float32, lazy_decoder=False, **places)
        encode = lambda i, x: module.encode_layer(x, i)
        decode = lambda i, f, x: sum(f[j] @ module.W_dec[j][:, i - j] for j in range(i + 1)) + module.b_dec[i]
    else:
        module = load_transcoder_set({i: str(folder / files[i]) for i in range(LAYERS)}, scan="", dtype=torch.float32, **places)
        encode = lambda i, x: module[i].encode(x)
        decode = lambda i, f, x: module[i].decode(f[i], x)
    layers = range(LAYERS)
    return Case(folder, [reads.format(i) for i in layers], [f"mlp_out_{i}" for i in layers], encode, decode, is_set=True)


KINDS = [saelens, saelens, saelens, sparsify, dictionary_learning, gemma_scope, qwen_scope, circuit_tracer]


def run(options, case, keys, changes=()):
    """The activations of a run, or the message of its refusal."""
    with tempfile.TemporaryDirectory() as room:
        out = Path(room) / "o.safetensors"
        command = [options.program, "extract", "--token-ids", json.dumps(IDS), "-m", str(MODEL), "--positions", "all"]
        command += ["--dict", f"d={case.path}", "-a", ",".join(keys), "-o", str(out), *case.flags]
        command += [part for change in changes for part in ("--intervene", change)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return done.stderr.strip()
        return load_file(out)


def dense(found, name):
    values = torch.zeros(tuple(int(n) for n in found[f"{name}.shape"]))
    at = found[f"{name}.indices"].long()
    values[at[:, 0], at[:, 1], at[:, 2]] = found[f"{name}.values"]
    return values


def differ(what, ours, theirs, share=2e-5):
    if ours.shape != theirs.shape:
        return [f"{what}: shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"]
    largest = max(float(theirs.abs().max()), 1e-6)
    wrong = (ours - theirs).abs() > share * largest
    if not wrong.any() and torch.isfinite(ours).all():
        return []
    return [f"{what}: {int(wrong.sum())} of {wrong.numel()} numbers differ, most by {float((ours - theirs).abs().max() / largest):.1e}"]


@torch.no_grad()
def compared(options, case):
    layers = range(len(case.reads))
    names = [f"features_d_{i}" if case.is_set else "features_d" for i in layers]
    found = run(options, case, [*names, *dict.fromkeys([*case.reads, *case.writes])])
    if isinstance(found, str):
        return found, []
    wrong = []
    vectors = [found[key].flatten(2) for key in case.reads]
    try:
        theirs = [case.encode(i, vectors[i]) for i in layers]
    except RuntimeError as error:
        return None, [f"its library cannot encode: {error}"]
    ours = [dense(found, name) for name in names]
    for i in layers:
        wrong += differ(f"features {i}", ours[i], theirs[i])
    # In a set every layer would read what earlier ones have written: only the first is compared.
    changes = [f"{names[0]}@all=splice"]
    spliced = run(options, case, case.writes[:1], changes)
    if isinstance(spliced, str):
        return None, [*wrong, spliced]
    wrong += differ("decoded", spliced[case.writes[0]].flatten(2), case.decode(0, theirs, vectors[0]))
    return None, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help="one format alone, as sparsify")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [kind for kind in KINDS if options.kind in (None, kind.__name__)]
    refused, alike, failed = Counter(), Counter(), 0
    for seed in range(options.seed, options.seed + options.count):
        r = np.random.default_rng(seed)
        torch.manual_seed(seed)
        random.seed(seed)
        with tempfile.TemporaryDirectory() as room:
            folder = Path(room) / "d"
            folder.mkdir()
            make = kinds[r.integers(len(kinds))]
            case = make(r, folder)
            refusal, wrong = compared(options, case)
            if refusal:
                refused[f"{make.__name__}: " + refusal.replace(str(case.path), "PATH")] += 1
            elif wrong:
                failed += 1
                settings = next((f.read_text() for name in ("cfg.json", "config.json", "config.yaml") if (f := case.path / name).exists()), "")
                print(f"{make.__name__}, seed {seed}, {case.reads} to {case.writes}: {'; '.join(wrong)}\n    {settings[:900]}", flush=True)
            else:
                alike[make.__name__] += 1
    print(f"alike: {dict(alike)}; different: {failed}")
    for message, count in refused.most_common():
        print(f"refused {count} times: {message}")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
