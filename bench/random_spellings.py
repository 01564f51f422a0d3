"""The same config in other spellings: keys at their defaults left out, and the older names of rotary embeddings."""

import json

from transformers import AutoConfig

# Keys that a folder must say: the class takes them from elsewhere, or transformers reads the text of the file.
KEPT = ("model_type", "architectures", "torch_dtype", "dtype", "vocab_size", "text_config", "vision_config")
UNREAD = ("transformers_version", "_name_or_path", "architectures", "dtype", "torch_dtype")


def reading(folder):
    return {k: v for k, v in AutoConfig.from_pretrained(folder).to_dict().items() if k not in UNREAD}


def respelled(folder, r):
    """Rewrites config.json in `folder` at random, so that transformers reads the same from it. Says how."""
    path = folder / "config.json"
    text = path.read_text()
    meaning = reading(folder)
    how = []
    for name, change in (("bare", bare), ("patterned", patterned), ("older", older)):
        if r.random() < 0.5:
            before = path.read_text()
            keys = json.loads(before)
            change(keys, r)
            path.write_text(json.dumps(keys, indent=2))
            try:
                same = reading(folder) == meaning
            except Exception:  # a spelling that the class does not take
                same = False
            if same:
                how.append(name)
            else:
                path.write_text(before)
    return "+".join(how) or ("as saved" if path.read_text() == text else "")


def bare(keys, r):
    """Leaves out what the class has by default."""
    if isinstance(keys.get("text_config"), dict):
        bare(keys["text_config"], r)
    default = AutoConfig.for_model(keys["model_type"]).to_dict()
    for key in list(keys):
        if key not in KEPT and key in default and default[key] == keys[key] and r.random() < 0.7:
            del keys[key]


def patterned(keys, _r):
    """Patterns in place of kinds of layers."""
    for key in ("layer_types", "mlp_layer_types", "no_rope_layers"):
        keys.pop(key, None)
    if keys["model_type"] == "nemotron_h":
        letters = {"linear_attention": "M", "mlp": "-", "full_attention": "*", "moe": "E"}
        keys["hybrid_override_pattern"] = "".join(letters[kind] for kind in keys.pop("layers_block_type"))
    if isinstance(keys.get("text_config"), dict):
        patterned(keys["text_config"], _r)


def older(keys, r):
    """`rope_theta` and `rope_scaling` in place of `rope_parameters`."""
    if isinstance(keys.get("text_config"), dict):
        older(keys["text_config"], r)
        return
    rope = keys.pop("rope_parameters", None)
    if not isinstance(rope, dict) or "rope_type" not in rope:
        keys["rope_parameters"] = rope
        return
    keys["rope_theta"] = rope.pop("rope_theta")
    if "partial_rotary_factor" in rope:
        keys["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
    if rope.get("rope_type") != "default":
        rope["type"] = rope.pop("rope_type")
        keys["rope_scaling"] = rope
