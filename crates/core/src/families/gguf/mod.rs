//! GGUF files: their metadata as a config of transformers, their tensor names as those of the safetensors checkpoint.
//! For the keys' meanings see the `gguf` package (`constants.py`), llama.cpp's `convert_hf_to_gguf.py`, transformers'
//! `integrations/ggml.py` and `modeling_gguf_pytorch_utils.py`.

mod metadata;
mod scaling;
mod tensors;

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use metadata::Metadata;

pub use tensors::tensor_names;

/// The parts of a GGUF file that a config needs.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// The metadata: scalars, and arrays of numbers or flags. Keys under `tokenizer.` may be omitted, except the
    /// special ids.
    pub metadata: &'a Map<String, Value>,
    /// Rows of `token_embd.weight`.
    pub vocabulary: usize,
    /// The location of the unembedding.
    pub unembed: Unembedding,
    /// Values of `rope_freqs.weight`, if the file has that tensor.
    pub rope_divisors: Option<&'a [f32]>,
}

/// The location of a GGUF file's unembedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unembedding {
    /// In `output.weight`.
    OwnTensor,
    /// No such tensor: the token embedding is used twice.
    TokenEmbedding,
}

/// A supported GGUF architecture.
struct Architecture {
    /// `general.architecture`.
    name: &'static str,
    /// `model_type` of the config it becomes.
    model_type: &'static str,
    /// `architectures` of that config.
    class: &'static str,
    /// Keys beyond the common ones.
    config: fn(&Header<'_>, &Metadata, &mut Map<String, Value>) -> Result<()>,
    /// Differences in storage.
    storage: Storage,
    /// Modules of a layer beyond the common ones: their names in the file and in the checkpoint.
    modules: &'static [(&'static str, &'static str)],
}

/// How an architecture's files differ in storage from the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Storage {
    /// Nothing.
    Same,
    /// Rows of queries and keys are interleaved for a rotary embedding of adjacent columns.
    InterleavedQueriesAndKeys,
    /// Norms hold `1 + weight`.
    NormsPlusOne,
}

const BEFORE_MLP: (&str, &str) = ("ffn_norm", "post_attention_layernorm");
const QK_NORMS: [(&str, &str); 2] =
    [("attn_q_norm", "self_attn.q_norm"), ("attn_k_norm", "self_attn.k_norm")];
const FOUR_NORMS: [(&str, &str); 3] = [
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
];

/// Every supported GGUF architecture. Mistral's files say `llama`.
const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        model_type: "llama",
        class: "LlamaForCausalLM",
        config: llama,
        storage: Storage::InterleavedQueriesAndKeys,
        modules: &[BEFORE_MLP],
    },
    Architecture {
        name: "qwen2",
        model_type: "qwen2",
        class: "Qwen2ForCausalLM",
        config: qwen,
        storage: Storage::Same,
        modules: &[BEFORE_MLP],
    },
    Architecture {
        name: "qwen3",
        model_type: "qwen3",
        class: "Qwen3ForCausalLM",
        config: qwen,
        storage: Storage::Same,
        modules: &[BEFORE_MLP, QK_NORMS[0], QK_NORMS[1]],
    },
    Architecture {
        name: "gemma",
        model_type: "gemma",
        class: "GemmaForCausalLM",
        config: gemma,
        storage: Storage::NormsPlusOne,
        modules: &[BEFORE_MLP],
    },
    Architecture {
        name: "gemma2",
        model_type: "gemma2",
        class: "Gemma2ForCausalLM",
        config: gemma2,
        storage: Storage::NormsPlusOne,
        modules: &FOUR_NORMS,
    },
    Architecture {
        name: "gemma3",
        model_type: "gemma3_text",
        class: "Gemma3ForCausalLM",
        config: gemma3,
        storage: Storage::NormsPlusOne,
        modules: &[FOUR_NORMS[0], FOUR_NORMS[1], FOUR_NORMS[2], QK_NORMS[0], QK_NORMS[1]],
    },
];

/// The config.json equivalent to a GGUF file's metadata, for [`super::read`] and for export, and the unknown keys that
/// were allowed.
///
/// # Errors
/// If the architecture is not supported, a value is missing or senseless, or the architecture has an unknown key that
/// is not in `allowed`.
pub fn config(header: &Header<'_>, allowed: &[String]) -> Result<(Map<String, Value>, Vec<String>)> {
    let architecture = architecture(header.metadata)?;
    let metadata = Metadata::new(architecture.name, header.metadata)?;
    let mut out = Map::new();
    out.insert("architectures".into(), vec![architecture.class].into());
    out.insert("model_type".into(), architecture.model_type.into());
    out.insert("vocab_size".into(), header.vocabulary.into());
    out.insert("tie_word_embeddings".into(), (header.unembed == Unembedding::TokenEmbedding).into());
    metadata.common(&mut out)?;
    (architecture.config)(header, &metadata, &mut out)?;
    if header.rope_divisors.is_some() && !out.contains_key("rope_scaling") {
        return Err(unsupported("tensor `rope_freqs.weight` is supported only in llama files"));
    }
    let let_through = metadata.finish(allowed)?;
    Ok((out, let_through))
}

fn architecture(metadata: &Map<String, Value>) -> Result<&'static Architecture> {
    let key = "general.architecture";
    let name = metadata
        .get(key)
        .and_then(Value::as_str)
        .ok_or_else(|| Error::new(ErrorKind::Config, format!("GGUF metadata: `{key}` is missing")))?;
    by_name(name)
}

fn by_name(name: &str) -> Result<&'static Architecture> {
    ARCHITECTURES.iter().find(|a| a.name == name).ok_or_else(|| {
        let known: Vec<&str> = ARCHITECTURES.iter().map(|a| a.name).collect();
        let shown: String = name.chars().take(60).collect();
        unsupported(&format!("GGUF metadata: `general.architecture` \"{shown}\" is not supported"))
            .hint(format!("supported: {}; or the model's safetensors", known.join(", ")))
    })
}

fn unsupported(message: &str) -> Error {
    Error::new(ErrorKind::Unsupported, message)
}

fn llama(header: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    // Dense files have expert counts too, as zero.
    metadata.only("expert_count", &[0.0])?;
    metadata.only("expert_used_count", &[0.0])?;
    metadata.head_dim(out, None)?;
    match header.rope_divisors {
        None => scaling::scaling(metadata, out),
        Some(divisors) => scaling::divisors(metadata, divisors, out),
    }
}

fn qwen(_: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    metadata.head_dim(out, None)?;
    scaling::scaling(metadata, out)
}

fn gemma(_: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    metadata.head_dim(out, None)
}

/// Layers of the 27B models, which scale scores by the stream's width over the number of heads instead of the head's
/// width. The files do not say so (llama.cpp, `llama-model.cpp`, `f_attention_scale`).
const LAYERS_OF_GEMMA2_27B: usize = 46;
const LAYERS_OF_GEMMA3_27B: usize = 62;

fn gemma2(_: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    metadata.head_dim(out, Some(LAYERS_OF_GEMMA2_27B))?;
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    metadata.copy("attn_logit_softcapping", "attn_logit_softcapping", out)?;
    metadata.copy("final_logit_softcapping", "final_logit_softcapping", out)
}

fn gemma3(_: &Header<'_>, metadata: &Metadata, out: &mut Map<String, Value>) -> Result<()> {
    metadata.head_dim(out, Some(LAYERS_OF_GEMMA3_27B))?;
    metadata.copy("attention.sliding_window", "sliding_window", out)?;
    metadata.copy("final_logit_softcapping", "final_logit_softcapping", out)?;
    // Without these two keys, the class's defaults 10000 and 6 apply.
    metadata.copy("rope.freq_base_swa", "rope_local_base_freq", out)?;
    metadata.window_pattern(out)?;
    // This concerns only the full layers, like `rope_scaling` in this family.
    scaling::scaling(metadata, out)
}
