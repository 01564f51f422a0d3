"""Random small models of the supported families, with what transformers computes of them.

    python bench/random_models.py FOLDER [--count 20] [--only WORDS] [--seed 0] [--check PROGRAM]

Needs the packages of bench/requirements.txt. Starts from the configs of fixtures/tiny and changes sizes, heads, flags,
rotary embeddings, experts and patterns of layers. Each model is a folder with config.json, model.safetensors and
dump.safetensors: residual streams, attention patterns and logits. config.json is written in several spellings that
transformers reads to the same. With --check each is compared by `PROGRAM model check FOLDER --compare FILE`, and those
that differ or are refused are listed; with VERBOSE set, also those that transformers does not run.
"""

import argparse
import inspect
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from random_configs import DEPTH, changed
from random_spellings import respelled
from random_wrappers import CHAMELEON, WRAPPERS, wrapped
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

FIXTURES = Path(__file__).parent.parent / "fixtures" / "tiny"


def loud(model, generator):
    """Weights large enough that a wrong detail shows."""
    stored = model.state_dict()
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if name not in stored or not x.is_floating_point() or name.endswith("inv_freq"):
            continue
        noise = torch.randn(x.shape, generator=generator)
        with torch.no_grad():
            if x.dim() >= 2 and "norm" not in name:
                x.copy_(noise * 1.1 / x.shape[-1] ** 0.5)
            else:
                x.add_(noise * 0.2)


def blocks(model):
    """The list of decoder layers."""
    towers = ("vision", "visual", "audio", "projector", "connector")
    lists = [m for name, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and not any(t in name for t in towers)]
    config = model.config.get_text_config()
    n = next(getattr(config, key) for key in DEPTH if getattr(config, key, None))
    return next(m for m in lists if len(m) == n)


def recorded(model, ids, **padding):
    """What transformers computes of a batch: streams, patterns, logits."""
    kept, handles = {}, []

    def keep(name):
        def hook(_module, _args, out):
            kept[name] = (out[0] if isinstance(out, tuple) else out).detach().clone().contiguous()
        return hook

    def weights(name):
        def hook(_module, _args, out):
            if isinstance(out, tuple) and len(out) > 1 and torch.is_tensor(out[1]) and out[1].dim() == 4:
                kept[name] = out[1].detach().clone()[..., : ids.shape[1]].contiguous()
        return hook

    for layer, block in enumerate(blocks(model)):
        handles.append(block.register_forward_hook(keep(f"resid_out_{layer}")))
        for name, module in block.named_modules():
            if name.rsplit(".", 1)[-1] in ("self_attn", "self_attention", "attn", "attention", "temporal_block"):
                handles.append(module.register_forward_hook(weights(f"pattern_L{layer}")))
    with torch.no_grad():
        kept["logits"] = model(ids, use_cache=False, **padding).logits.contiguous()
    for handle in handles:
        handle.remove()
    return {k: v.float() for k, v in kept.items()}


def only_real(kept, mask):
    """The same with zeros at padding."""
    real = mask.bool()
    for name, x in kept.items():
        if name.startswith("pattern"):
            kept[name] = torch.where(real[:, None, :, None] & real[:, None, None, :], x, 0.0)
        else:
            kept[name] = torch.where(real[..., None], x, 0.0)
    return kept


def dump(model, ids, lengths, left):
    """A batch of rows of these lengths. What transformers computes of padded rows is compared with what it computes of each
    row alone; where padding changes its numbers, those of the rows alone count, and the second result is the largest change."""
    length = ids.shape[1]
    if min(lengths) == length:
        return {"input_ids": ids, **recorded(model, ids)}, 0.0
    places = [slice(length - n, length) if left else slice(n) for n in lengths]
    mask, padded = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (place, n) in enumerate(zip(places, lengths)):
        mask[row, place] = 1
        padded[row, place] = ids[row, :n]
    padding = {"attention_mask": mask}
    if left and "position_ids" in inspect.signature(model.forward).parameters and not hasattr(model.config, "text_config"):
        padding["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    # Shorter rows first: tables that grow with the length (dynamic) do not shrink again.
    alone = {}
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        for name, x in recorded(model, ids[row : row + 1, : lengths[row]]).items():
            size = (x.shape[1], length, length) if name.startswith("pattern") else (length, x.shape[-1])
            target = alone.setdefault(name, torch.zeros(len(lengths), *size))[row]
            place = places[row]
            (target[:, place, place] if name.startswith("pattern") else target[place])[:] = x[0]
    both = only_real(recorded(model, padded, **padding), mask)
    changed = max(float((both[name] - x).abs().max() / x.abs().max().clamp(min=1e-30)) for name, x in alone.items())
    return {"input_ids": padded, "attention_mask": mask, **(both if changed < 1e-5 else alone)}, changed


def random_config(case, r):
    """A decoder's config from its fixture, or a wrapper's around one."""
    if case == "chameleon":
        return changed(CHAMELEON, r)
    fixture = r.choice(WRAPPERS[case][0]) if case in WRAPPERS else case
    infinity = lambda o: float(o["__float__"]) if "__float__" in o else o
    config = changed(json.loads((FIXTURES / fixture / "config.json").read_text(), object_hook=infinity), r)
    for key in ("architectures", "transformers_version"):
        config.pop(key, None)
    return wrapped(case, config, r) if case in WRAPPERS else config


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--only", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    words = [w for w in args.only.split(",") if w]
    for case in [*sorted(p.name for p in FIXTURES.iterdir()), "chameleon", *WRAPPERS]:
        if words and case not in words:
            continue
        same, unrun, wrong, moved = 0, [], [], []
        for number in range(args.count):
            r = random.Random(f"{args.seed} {case} {number}")
            config = random_config(case, r)
            generator = torch.Generator().manual_seed(number)
            try:
                made = AutoConfig.for_model(config.pop("model_type"), **config)
                auto = AutoModelForImageTextToText if case in WRAPPERS or case == "chameleon" else AutoModelForCausalLM
                model = auto.from_config(made, attn_implementation="eager", experts_implementation="eager").float().eval()
                loud(model, generator)
                length = r.choice([7, 19, 33])
                ids = torch.randint(3, 310, (r.choice([2, 3, 5]), length), generator=generator)
                lengths = [r.randint(1, length) if r.random() < 0.5 else length for _ in ids[1:]] if r.random() < 0.5 else []
                lengths = [length, *(lengths or [length] * (len(ids) - 1))]
                left = r.random() < 0.5
                kept, changed_by = dump(model, ids, lengths, left)
                if changed_by > 1e-5:
                    moved.append(f"  {case}-{number}: padding on the {'left' if left else 'right'} changes transformers by {changed_by:.0e}")
            except Exception as error:  # a config that the class itself does not run
                unrun.append(f"  {case}-{number}: {type(error).__name__}: {error}"[:300])
                continue
            folder = args.folder / f"{case}-{number}"
            model.save_pretrained(folder)
            save_file(kept, folder / "dump.safetensors")
            spelling = respelled(folder, r)
            if not args.check:
                continue
            command = [args.check, "model", "check", str(folder), "--compare", str(folder / "dump.safetensors"), "--format", "tsv"]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            if done.returncode == 0:
                same += 1
                for file in folder.iterdir():
                    file.unlink()
                folder.rmdir()
            else:
                lines = [l for l in done.stdout.splitlines() if not l.startswith(("same", "verdict"))]
                wrong.append(f"  {folder.name} ({spelling}): {(lines or [done.stderr.strip()])[0][:400]}")
        print(f"{case}: {same} the same, {len(wrong)} not, {len(unrun)} not run by transformers, {len(moved)} changed there by padding", flush=True)
        for line in wrong + (unrun + moved if os.environ.get("VERBOSE") else []):
            print(line, flush=True)


if __name__ == "__main__":
    main()
