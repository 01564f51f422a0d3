"""Trains a small dictionary and a set of transcoders on SmolLM2 within minutes, to try everything that takes one.

    python bench/train_dictionaries.py --text book.txt --out dictionaries/ [--program easyroutine] [--tokens 10000]

`OUT/resid_12` is a topk autoencoder of SAELens, trained by sae-lens. `OUT/transcoders` is a set of JumpReLU transcoders
as circuit-tracer stores it, trained by eai-sparsify with topk; each threshold then gives as many active features. Needs
torch, sae-lens, eai-sparsify and safetensors.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

LAYERS = 30


def activations(program, model, text, tokens, keys, folder):
    """Activations of text tokens by key, [tokens, D]."""
    import torch
    from safetensors import safe_open

    file = Path(folder) / "activations.safetensors"
    command = [program, "extract", "--file", str(text), "-m", model, "-a", ",".join(keys), "-o", str(file)]
    subprocess.run([*command, "--positions", "all-text"], check=True)
    with safe_open(file, "pt") as opened:
        names = set(opened.keys())
        for key in keys:
            # Rows of different lengths are stored end to end.
            found = opened.get_tensor(key if key in names else f"{key}.values")
            yield key, found.reshape(-1, found.shape[-1])[:tokens].to(torch.float32).clone()


def steps(x, count, batch, seed=0):
    """Random batches of rows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randint(len(x), (batch,), generator=generator)


def autoencoder(x, options, out):
    import torch
    from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    config = TopKTrainingSAEConfig(k=options.k, d_in=x.shape[1], d_sae=options.features)
    sae = TopKTrainingSAE(config)
    with torch.no_grad():
        sae.b_dec.copy_(x.median(dim=0).values)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for number, rows in enumerate(steps(x, options.steps, options.batch)):
        given = TrainStepInput(
            sae_in=x[rows],
            coefficients={},
            dead_neuron_mask=torch.zeros(options.features, dtype=torch.bool),
            n_training_steps=number,
            is_logging_step=False,
        )
        optimizer.zero_grad()
        sae.training_forward_pass(given).loss.backward()
        optimizer.step()
    sae.cfg.metadata.hook_name = "blocks.12.hook_resid_post"
    sae.cfg.metadata.model_name = "SmolLM2-135M-Instruct"
    sae.save_inference_model(str(out))


def transcoder(x, y, options):
    """The tensors of a JumpReLU transcoder from x to y."""
    import torch

    # Its triton kernels want a GPU.
    os.environ.setdefault("SPARSIFY_DISABLE_TRITON", "1")
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(x.shape[1], SparseCoderConfig(k=options.k, num_latents=options.transcoder_features, transcode=True))
    with torch.no_grad():
        coder.b_dec.copy_(y.mean(dim=0))
    optimizer = torch.optim.Adam(coder.parameters(), lr=2e-3)
    for rows in steps(x, options.transcoder_steps, options.batch):
        optimizer.zero_grad()
        coder(x[rows], y[rows]).fvu.backward()
        optimizer.step()
    with torch.no_grad():
        h = coder.encoder(x[:2000])
        threshold = h.flatten().kthvalue(h.numel() - options.k * len(h)).values.clamp(min=0)
        return {
            "W_enc": coder.encoder.weight.detach().clone(),
            "b_enc": coder.encoder.bias.detach().clone(),
            "W_dec": coder.W_dec.detach().clone(),
            "b_dec": coder.b_dec.detach().clone(),
            "activation_function.threshold": threshold.expand(h.shape[1]).clone(),
        }


def transcoders(found, options, out):
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    for layer in range(LAYERS):
        save_file(transcoder(found[f"mlp_in_{layer}"], found[f"mlp_out_{layer}"], options), out / f"layer_{layer}.safetensors")
    config = {
        "model_name": "SmolLM2-135M-Instruct",
        "model_kind": "transcoder_set",
        "feature_input_hook": "mlp.hook_in",
        "feature_output_hook": "hook_mlp_out",
        "transcoders": [f"layer_{layer}.safetensors" for layer in range(LAYERS)],
    }
    # JSON is YAML.
    (out / "config.yaml").write_text("\n".join(f"{key}: {json.dumps(value)}" for key, value in config.items()) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", required=True, help="one text per line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--program", default="easyroutine")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=10000)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--transcoder-features", type=int, default=768)
    parser.add_argument("--transcoder-steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keys = ["resid_out_12", *(f"mlp_{side}_{layer}" for layer in range(LAYERS) for side in ("in", "out"))]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = dict(activations(options.program, options.model, options.text, options.tokens, keys, folder))
    print(f"activations of {len(found['resid_out_12'])} tokens: {time.perf_counter() - start:.0f} s", flush=True)
    autoencoder(found["resid_out_12"], options, options.out / "resid_12")
    print(f"autoencoder: {time.perf_counter() - start:.0f} s", flush=True)
    transcoders(found, options, options.out / "transcoders")
    print(f"transcoders: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
