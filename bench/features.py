"""Encoding with a dictionary beside sae-lens, on the same random weights and vectors.

    python bench/features.py --program target/release/examples/encode [--tokens 1024] [--width 2304] [--features 16384]

The program is the example `encode` of easyroutine-dictionaries. Needs torch, sae-lens and safetensors. A ratio above 1 means
that easyroutine is faster; the time of the processor counts where the machine has other work.
"""

import argparse
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

ACTIVE = 64


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--features", type=int, default=16384)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
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


if __name__ == "__main__":
    main()
