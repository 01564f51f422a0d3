//! The documentation page made from the table.

use std::fmt::Write;

use crate::select::TRANSFORMER_LENS;
use crate::site::{Access, Site};

/// `docs/SITES.md`, made from the table; a test fails if the committed page differs.
pub fn sites_page() -> String {
    let mut page = String::from(
        "# Activations\n\n\
         Every place of the forward pass that can be read, in its order. This page is made from the table in\n\
         `crates/sites/src/site.rs`; `cargo run -p easyroutine-sites --example sites > docs/SITES.md` renews it.\n\n\
         B rows of the batch, T selected positions, D `d_model`, H query heads, K key/value heads, h `d_head`,\n\
         v columns of a value (mostly h), c columns of compressed keys and values, N channels of a recurrence,\n\
         F `d_mlp`, E experts, k experts a token, V vocabulary.\n\n\
         An intervention can change every place but those marked \"read only\".\n\n\
         | key | flag of ExtractionConfig | shape | meaning |\n|---|---|---|---|\n",
    );
    for site in Site::ALL {
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | `{}` | {} | {}{} |",
            site.template(),
            site.flag(),
            site.axes(),
            site.meaning(),
            if site.access() == Access::Reads { " *Read only.*" } else { "" }
        );
    }
    page.push_str(ASKING);
    for (hook, key) in TRANSFORMER_LENS {
        let _ = writeln!(page, "| `blocks.{{layer}}.{hook}` | `{key}` |");
    }
    page.push_str(IN_A_FILE);
    page
}

const ASKING: &str = "
## Asking for them

On the command line (`-a`) and in the library's `Request` they are asked for by patterns over keys, joined by commas;
in an `ExtractionConfig` by flags.

| pattern | means |
|---|---|
| `resid_out_5`, `resid_out_-1` | one layer; negative numbers count from the last |
| `resid_out_*`, `resid_out_0:4`, `resid_out_4:` | every layer; layers 0 to 3; from layer 4 on |
| `pattern_L5H3`, `pattern_L5`, `pattern_*` | one head; all heads of a layer; all heads of all layers |
| `pattern_L0:4H*`, `head_out_L5H0:2` | ranges of layers and of heads |
| `expert_out_5E3`, `expert_out_5`, `expert_out_*` | one expert; all experts of a layer; all experts of all layers |

A name that does not exist is an error. A pattern over many layers passes over those that lack the place (a layer of
experts has no `mlp_hidden`), unless all do.

Names of TransformerLens mean the same places; what comes back has our keys and shapes:

| TransformerLens | here |
|---|---|
";

const IN_A_FILE: &str = "
## In a safetensors file

`easyroutine extract` writes one tensor a key, and the three of `last_layernorm` as `last_layernorm.mean`, `.variance` and
`.second_moment`. Where every row of the batch has the same number T of selected positions, shapes are those of the table.

Where rows differ in T (`--positions all` on prompts of different length), every key is *ragged*: the rows of all prompts lie
end to end, `[sum of T, …]`, and `KEY.offsets` (int64, B + 1 numbers) says where each begins. A pattern is then flat: row b
of the batch is its T·T numbers from `offsets[b]`; with `--pattern-rows` its R·T numbers, where R is how many positions
`token_dict_rows` has for that row. To cut a row out again:

```python
from safetensors.numpy import load_file
tensors = load_file(\"activations.safetensors\")
start, end = tensors[\"resid_out_5.offsets\"][b : b + 2]
row = tensors[\"resid_out_5\"][start:end]                                            # [T, D]
start, end = tensors[\"pattern_L5H3.offsets\"][b : b + 2]
pattern = tensors[\"pattern_L5H3\"][start:end]
pattern = pattern.reshape(int(len(pattern) ** 0.5), -1)                             # [T, T], without --pattern-rows
```

The metadata of the file (strings, as the format has it; tables and lists are JSON):

| name | what |
|---|---|
| `schema` | `easyroutine.extract/1` |
| `model`, `model_type`, `commit`, `dtype` | which model made it; `commit` is empty where none is known |
| `model_digest` | which model it was by its content, as `model info` prints it |
| `mapping_index` | for each position specifier the columns of T that it stands for; one list a row where rows differ |
| `token_dict` | for each position specifier and row the positions in the sequence, negative ones resolved |
| `mapping_index_rows`, `token_dict_rows` | the same for the rows of patterns, with `--pattern-rows` |
| `interventions`, `seed`, `generate` | what `--intervene`, `--seed` and `--generate` were given, where they were |
| `interrupted` | how many rows there are of how many, after Ctrl-C; the tensor `rows` holds their numbers |

A table beyond 1 MiB stands in tensors, `token_dict/last` and, where rows have lists, `token_dict/last.offsets`. With
`--pattern-avg` the axes of a pattern are specifiers, in the order of the names of the tables, and `mapping_index` is for the
other activations.
";
