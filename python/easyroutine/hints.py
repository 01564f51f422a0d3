"""Rewrites the engine's errors for Python: the engine also serves the command line, and names its flags."""

from __future__ import annotations

import re

__all__ = ["in_python"]

#: Command-line phrases (regular expressions) with their Python equivalents. Phrases go before flags.
_WORDS: list[tuple[str, str]] = [
    (
        r"pass --truncate to keep its first tokens",
        "keep its first tokens: tokenizer(text, truncation=True, max_length=…)",
    ),
    (r"`easyroutine extract --token-ids`", "give ids instead of text"),
    (r"encode without one: `--bos auto` or `--bos no`", "encode without one: add_special_tokens=False"),
    (r"without --resume it is begun", "resume=False begins it"),
    (
        r"--resume continues it; another --run begins another",
        'resume=True continues it; another run="…" begins another',
    ),
    (r"with --resume", "with resume=True"),
    (r" \(`--avg`\)", ""),
    (r" \(`-a [^`]*`\)", ""),
    (r"--pattern-avg", "attn_pattern_avg"),
    (r"--pattern-rows", "attn_pattern_row_positions"),
    (r"--avg-over-examples", "avg_over_example"),
    (r"--allow-config-key (\S+)", r'allow_config_keys=["\1"]'),
    (r" \(`--bos yes` adds it\)", ""),
    (r"`--bos no` leaves it out", "add_special_tokens=False leaves it out"),
    (r"`--pre NAME`", "pre=NAME"),
    (r"`--pre ([\w-]+)`", r'pre="\1"'),
    (r"--no-adapter (reads|exports)", r"adapter=False \1"),
    (
        r"the model as BASE, and this as its adapter: --model BASE --adapter (\S+)",
        r'from_pretrained(BASE, adapter="\1")',
    ),
    (r"--allow-tensor '([^']*)'", r'allow_tensors=["\1"]'),
    (r"--allow-config-key", "allow_config_keys"),
    (r", on the command line `-a '[^']*'`", ""),
    (r"`?--offline`?", "offline=True"),
    (r"say which holds the prompts: --field NAME", "rename the field that holds the prompts"),
    (r"--skip-empty skips such rows and keeps the others' numbers", "leave such rows out"),
    (r"if it is meant, raise the limit: --longest-row SIZE", "shorten the row"),
    (r"--limit takes its first rows", "give fewer rows"),
    (r'--dtype f32 \(in Python dtype=\\?"float32\\?"\)', 'dtype="float32"'),
    (r", one for each id: --target FILE::TENSOR", ", one for each id"),
    (r"--max-features", "max_features"),
    (
        r"continue from it: easyroutine jacobian fit --from FILE",
        "the command `easyroutine jacobian fit` continues from it",
    ),
    (r"give each a name of its own: --dict NAME=PATH", "give each folder a name of its own"),
    (r"name one with --dict NAME=PATH", "open one with Dictionary"),
    (r"--place IN,OUT", 'place="IN,OUT"'),
    (r"as in --place ([\w,]+)", r'as in place="\1"'),
    (r"--place", "place"),
    (r"--norm-factor", "norm_factor"),
    (r"--dtype bf16 halves", 'dtype="bfloat16" halves'),
    (r"\(--memory\)", '(memory="8G")'),
]
_COMPILED = [(re.compile(expression), words) for expression, words in _WORDS]


def in_python(text: str) -> str:
    """An error or a warning with Python's arguments in place of flags."""
    if "--" in text or "`-" in text:
        for expression, words in _COMPILED:
            text = expression.sub(words, text)
    return text
