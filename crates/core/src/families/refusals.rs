//! What is refused before a family reads its config: unsupported models and encodings.

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};

/// Values at which a key has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// False.
    False,
    /// False or null.
    FalseOrNull,
    /// True.
    True,
    /// The number one.
    One,
    /// Null, or an object or list without entries.
    Empty,
    /// This string.
    Text(&'static str),
    /// Anything: the family reads this key, which most families refuse.
    Anything,
}

/// Keys of all classes that must hold these values.
const ONLY: &[(&str, Only)] = &[
    ("add_cross_attention", Only::False),
    ("cross_attention_hidden_size", Only::Empty),
    ("is_causal", Only::True),
    ("is_encoder_decoder", Only::False),
    ("per_layer_config", Only::Empty),
    ("pruned_heads", Only::Empty),
    ("tie_encoder_decoder", Only::False),
];

/// Objects that mark a config as part of a larger model.
const TOWERS: &[&str] = &["text_config", "vision_config", "audio_config", "encoder", "decoder"];

/// Refuses encoded weights and larger models.
pub(super) fn check(config: &Config) -> Result<()> {
    quantised(config)?;
    for key in TOWERS {
        if config.value(key).is_some_and(|v| v.is_object()) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("config.json: `{key}` makes this one part of a larger model, which is not built"),
            )
            .hint("supported: text decoders on their own"));
        }
    }
    Ok(())
}

/// One error for all keys that would make the decoder something else, if any do.
pub(super) fn values(config: &Config, only: &[(&str, Only)]) -> Option<Error> {
    let of_all = ONLY.iter().filter(|(key, _)| !only.iter().any(|(own, _)| own == key));
    let wrong = of_all.chain(only).filter_map(|(key, allowed)| allowed.check(config, key).err());
    wrong.reduce(Error::and)
}

impl Only {
    fn check(self, config: &Config, key: &str) -> Result<()> {
        let Some(value) = config.raw(key) else { return Ok(()) };
        let (fits, wanted) = match self {
            Only::False => (value == false, "false"),
            Only::FalseOrNull => (value == false || value.is_null(), "false, null"),
            Only::True => (value == true, "true"),
            Only::One => (value.as_f64() == Some(1.0), "1"),
            Only::Empty => {
                let object = value.as_object().is_some_and(serde_json::Map::is_empty);
                (value.is_null() || object || value.as_array().is_some_and(Vec::is_empty), "null")
            }
            Only::Text(text) => (value == text, text),
            Only::Anything => (true, ""),
        };
        if fits { Ok(()) } else { Err(config.unsupported(key, wanted)) }
    }
}

/// Refuses quantised weights, naming the method.
pub(super) fn quantised(config: &Config) -> Result<()> {
    for key in ["quantization_config", "compression_config", "quantization"] {
        let Some(value) = config.value(key) else { continue };
        if value.as_object().is_some_and(serde_json::Map::is_empty) {
            continue;
        }
        let flag = |name: &str| value.get(name).and_then(serde_json::Value::as_bool) == Some(true);
        let method = match value.get("quant_method").and_then(serde_json::Value::as_str) {
            Some(method) => method.chars().take(40).collect(),
            // Early bitsandbytes configs do not name the method.
            None if flag("load_in_4bit") || flag("load_in_8bit") => "bitsandbytes".to_owned(),
            None => "of an unnamed method".to_owned(),
        };
        // Blocks of gpt-oss's expert weights are read in their stored encoding.
        if method == "mxfp4" && config.value("model_type").is_some_and(|name| name == "gpt_oss") {
            continue;
        }
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("config.json: `{key}`: quantised weights ({method}) are not supported"),
        )
        .hint("use the model's bf16, f16 or f32 safetensors, or a GGUF file"));
    }
    Ok(())
}

/// Models with a vision or audio tower, or both.
const WITH_TOWER: &[&str] = &[
    "qwen2_5_omni",
    "mllama",
    "llama4",
    "pixtral",
    "idefics",
    "idefics2",
    "internvl",
    "blip",
    "blip-2",
    "instructblip",
    "clip",
    "siglip",
    "fuyu",
    "kosmos-2",
    "phi3_v",
    "phi4_multimodal",
    "qwen2_audio",
    "voxtral",
    "git",
    "vit",
    "florence2",
    "aya_vision",
];

/// Models whose activations match none of our sites, and why.
const UNLIKE: &[(&str, &str)] = &[
    ("gemma3n", "carries several residual streams, which the places of one stream cannot name"),
    ("gemma3n_text", "carries several residual streams, which the places of one stream cannot name"),
    ("deepseek_v4", "carries several residual streams, which the places of one stream cannot name"),
    ("diffllama", "mixes by two patterns a head, which the place of one pattern cannot name"),
];

/// Models with an encoder.
const WITH_ENCODER: &[&str] = &[
    "t5",
    "mt5",
    "umt5",
    "longt5",
    "bart",
    "mbart",
    "pegasus",
    "marian",
    "m2m_100",
    "blenderbot",
    "led",
    "prophetnet",
    "whisper",
    "speech_to_text",
    "encoder-decoder",
    "t5gemma",
    "bert",
    "roberta",
    "xlm-roberta",
    "distilbert",
    "albert",
    "electra",
    "deberta",
    "deberta-v2",
    "modernbert",
    "mpnet",
    "camembert",
    "longformer",
    "big_bird",
];

/// Models with unsupported mixers.
const OTHER_MIXERS: &[&str] = &["rwkv", "jamba", "bamba", "zamba", "zamba2", "xlstm"];

/// The error for a model that no family reads.
pub(super) fn unknown(model_type: &str, known: &[&str]) -> Error {
    let shown: String = model_type.chars().take(60).collect();
    let unlike = UNLIKE.iter().find(|(name, _)| *name == model_type);
    let reason = if let Some((_, reason)) = unlike {
        reason
    } else if WITH_TOWER.contains(&model_type) {
        "has a vision or audio tower, which is not built"
    } else if WITH_ENCODER.contains(&model_type) {
        "has an encoder, which is not built: only decoders are"
    } else if OTHER_MIXERS.contains(&model_type) {
        "mixes tokens by something other than attention, which is not built"
    } else {
        "is not supported"
    };
    let hint = format!("supported: {}", known.join(", "));
    Error::new(ErrorKind::Unsupported, format!("config.json: `model_type` \"{shown}\" {reason}")).hint(hint)
}
