//! Models that read text and images: which part is the decoder, and what is ignored.
//!
//! Classes and defaults: transformers 5.24, `models/*/configuration_*.py`.

use super::heads::{self, Asked};
use super::{Family, Reading, family, refusals};
use crate::arch::{Bias, Rope, RopeScaling, Unembed, UnembedMatrix};
use crate::config::{Config, INERT};
use crate::error::Result;
use crate::names::Spelling;

/// A class around a decoder.
#[derive(Debug)]
pub struct Wrapper {
    /// The `model_type` of config.json.
    pub model_type: &'static str,
    /// The decoder's family, if `text_config` names none.
    text: &'static str,
    named: Named,
    absent: Absent,
    tied: Tied,
    head: Head,
    /// Keys of the placeholder tokens for images and videos, with the class's defaults.
    placeholders: &'static [(&'static str, u32)],
    /// Keys that concern the other parts.
    inert: &'static [&'static str],
    /// Keys of the decoder's config that concern the other parts.
    inert_in_text: &'static [&'static str],
    /// The position of the first token. Scores depend on distances alone, but some rotary tables on the last position.
    first_position: usize,
}

/// What determines the decoder's family.
#[derive(Debug, PartialEq)]
enum Named {
    /// `model_type` of `text_config`.
    Config,
    /// The class alone; `model_type` is ignored.
    Class,
}

/// The meaning of a config without `text_config`.
#[derive(Debug)]
enum Absent {
    /// The decoder's keys are next to the class's own.
    Beside,
    /// These keys (JSON).
    Keys(&'static str),
}

/// What the class's own head does besides the product; the decoder's class has no say.
#[derive(Debug, PartialEq)]
enum Head {
    /// Nothing.
    Plain,
    /// It applies the decoder's `final_logit_softcapping`.
    Softcapped,
}

/// The source of `tie_word_embeddings`.
#[derive(Debug)]
enum Tied {
    /// The class's own key, with this default.
    Own(bool),
    /// The class's own key, or the decoder's.
    OwnOrText,
}

/// Keys of the projector between the tower and the decoder.
const PROJECTOR: &[&str] = &[
    "ignore_index",
    "image_grid_pinpoints",
    "image_seq_length",
    "mm_tokens_per_image",
    "boi_token_index",
    "eoi_token_index",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "projection_dim",
    "spatial_merge_size",
    "use_image_newline_parameter",
    "vision_aspect_ratio",
    "vision_config",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    // The decoder has its own.
    "vocab_size",
];

const QWEN: &[&str] = &["vision_config", "vision_start_token_id", "vision_end_token_id", "vision_token_id"];

const GEMMA4: &[&str] = &[
    "audio_config",
    "boa_token_id",
    "boi_token_id",
    "eoa_token_id",
    "eoa_token_index",
    "eoi_token_id",
    "vision_config",
    "vision_soft_tokens_per_image",
];

const IDEFICS: &[&str] = &[
    "_pad_token_id",
    "image_seq_len",
    "perceiver_config",
    "qk_layer_norms",
    "scale_factor",
    "use_resampler",
    "vision_config",
    "freeze_config",
    "max_sequence_length",
    "additional_vocab_size",
    "use_reentrant_checkpointing",
    "vocab_size",
];

const USUAL: Wrapper = Wrapper {
    model_type: "",
    text: "llama",
    named: Named::Config,
    absent: Absent::Keys("{}"),
    tied: Tied::OwnOrText,
    head: Head::Plain,
    placeholders: &[("image_token_index", 32_000)],
    inert: PROJECTOR,
    inert_in_text: &[],
    first_position: 0,
};

const QWEN_VL: Wrapper = Wrapper {
    named: Named::Class,
    placeholders: &[("image_token_id", 151_655), ("video_token_id", 151_656)],
    inert: QWEN,
    ..USUAL
};

const QWEN3_5: Wrapper = Wrapper {
    model_type: "qwen3_5",
    text: "qwen3_5_text",
    tied: Tied::Own(false),
    placeholders: &[("image_token_id", 248_056), ("video_token_id", 248_057)],
    ..QWEN_VL
};

const IDEFICS3: Wrapper = Wrapper {
    tied: Tied::Own(false),
    absent: Absent::Keys(r#"{"rms_norm_eps": 1e-5}"#),
    placeholders: &[("image_token_id", 128_257)],
    inert: IDEFICS,
    inert_in_text: &[
        "_flash_attn_2_enabled",
        "is_llama_config",
        "neftune_noise_alpha",
        "perceiver_config",
        "pixel_shuffle_factor",
        "qk_layer_norms",
        "use_resampler",
    ],
    ..USUAL
};

/// Every wrapper, in the order of the documentation.
pub const WRAPPERS: &[Wrapper] = &[
    Wrapper {
        model_type: "gemma3",
        text: "gemma3_text",
        named: Named::Class,
        tied: Tied::Own(true),
        placeholders: &[("image_token_index", 262_144)],
        ..USUAL
    },
    Wrapper {
        model_type: "gemma4",
        text: "gemma4_text",
        named: Named::Class,
        head: Head::Softcapped,
        tied: Tied::Own(true),
        placeholders: &[
            ("image_token_id", 258_880),
            ("video_token_id", 258_884),
            ("audio_token_id", 258_881),
        ],
        inert: GEMMA4,
        ..USUAL
    },
    Wrapper { model_type: "llava", ..USUAL },
    Wrapper { model_type: "llava_next", tied: Tied::Own(false), ..USUAL },
    Wrapper {
        model_type: "llava_onevision",
        text: "qwen2",
        placeholders: &[("image_token_index", 151_646), ("video_token_index", 151_647)],
        ..USUAL
    },
    Wrapper {
        model_type: "mistral3",
        text: "mistral",
        tied: Tied::Own(true),
        placeholders: &[("image_token_index", 10)],
        absent: Absent::Keys(
            r#"{"head_dim": 128, "hidden_size": 5120, "intermediate_size": 32768,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 40,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-5, "rope_theta": 1e9, "sliding_window": null,
            "vocab_size": 131072}"#,
        ),
        ..USUAL
    },
    Wrapper { model_type: "qwen2_vl", text: "qwen2_vl_text", absent: Absent::Beside, ..QWEN_VL },
    Wrapper { model_type: "qwen2_5_vl", text: "qwen2_5_vl_text", absent: Absent::Beside, ..QWEN_VL },
    Wrapper { model_type: "qwen3_vl", text: "qwen3_vl_text", tied: Tied::Own(false), ..QWEN_VL },
    Wrapper { model_type: "qwen3_vl_moe", text: "qwen3_vl_moe_text", tied: Tied::Own(false), ..QWEN_VL },
    QWEN3_5,
    Wrapper { model_type: "qwen3_5_moe", text: "qwen3_5_moe_text", ..QWEN3_5 },
    Wrapper {
        model_type: "paligemma",
        text: "gemma",
        tied: Tied::Own(true),
        head: Head::Softcapped,
        placeholders: &[("image_token_index", 256_000)],
        absent: Absent::Keys(
            r#"{"hidden_size": 2048, "num_hidden_layers": 18, "intermediate_size": 16384,
            "num_attention_heads": 8, "num_key_value_heads": 1, "vocab_size": 257152}"#,
        ),
        inert: &[
            "projection_dim",
            "vision_config",
            "vocab_size",
            "hidden_size",
            "ignore_index",
            "_vocab_size",
        ],
        // Text without `token_type_ids` is read causally, whatever the flag says.
        inert_in_text: &["num_image_tokens", "use_bidirectional_attention"],
        first_position: 1,
        ..USUAL
    },
    Wrapper { model_type: "smolvlm", ..IDEFICS3 },
    Wrapper { model_type: "idefics3", ..IDEFICS3 },
];

/// The place of the decoder in a wrapper's files: in transformers 4 and 5, and in the class without a head.
const SPELLINGS: &[Spelling] = &[
    Spelling { prefix: "language_model.model.", unembed: "language_model.lm_head" },
    Spelling { prefix: "model.language_model.", unembed: "lm_head" },
    Spelling { prefix: "model.text_model.", unembed: "lm_head" },
    Spelling { prefix: "model.", unembed: "lm_head" },
    Spelling { prefix: "language_model.", unembed: "lm_head" },
    Spelling { prefix: "text_model.", unembed: "lm_head" },
];

/// Name prefixes of tensors of a tower, of its projector, and of separators between images.
const LEFT_OUT: &[&str] = &[
    "mtp.",
    "vision_tower.",
    "vision_model.",
    "visual.",
    "multi_modal_projector.",
    "connector.",
    "image_newline",
    "model.audio_tower.",
    "model.embed_audio.",
    "model.embed_vision.",
    "model.vision_tower.",
    "model.vision_model.",
    "model.visual.",
    "model.multi_modal_projector.",
    "model.connector.",
    "model.image_newline",
];

impl Wrapper {
    /// Reads its decoder's config, and accounts for every key of its own.
    pub(super) fn read(&self, config: &Config, head: Option<Asked>, allowed: &[String]) -> Result<Reading> {
        refusals::quantised(config)?;
        let nested = config.object("text_config")?;
        let alone = match (&nested, &self.absent) {
            (None, Absent::Keys(keys)) => {
                Some(Config::parse_as("config.json without `text_config`", keys.as_bytes())?)
            }
            _ => None,
        };
        let text = nested.as_ref().or(alone.as_ref()).unwrap_or(config);
        let family = self.family(nested.as_ref())?;
        let mut inert = vec![INERT, family.inert, self.inert_in_text];
        if std::ptr::eq(text, config) {
            inert.push(self.inert);
        }
        let passed_over = |key: &str| self.inert_in_text.contains(&key);
        let only: Vec<_> = family.only.iter().filter(|(key, _)| !passed_over(key)).copied().collect();
        let (mut arch, mut names) = super::decoder(text, family, &only, &inert, allowed)?;
        let by_length =
            |rope: &Rope| matches!(rope.scaling, RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. });
        if self.first_position > 0 && arch.ropes.iter().any(by_length) {
            let key = if text.has("rope_parameters") { "rope_parameters" } else { "rope_scaling" };
            let wanted =
                "a type that does not depend on the length, since this class counts positions from 1";
            return Err(text.unsupported(key, wanted));
        }
        let text_ties = arch.unembed.matrix == UnembedMatrix::Tied;
        let tied = match self.tied {
            Tied::Own(default) => config.flag_or("tie_word_embeddings", default)?,
            Tied::OwnOrText => config.flag_or("tie_word_embeddings", false)? || text_ties,
        };
        arch.unembed.matrix = if tied { UnembedMatrix::Tied } else { UnembedMatrix::Own };
        arch.embed.placeholders = self.placeholders(config)?;
        (names.spellings, names.left_out) = (SPELLINGS, LEFT_OUT);
        let own = self.own_head(&mut arch.unembed, family);
        let mut let_through = Vec::new();
        let parts = (&mut arch, &mut names);
        let mut warnings = heads::read(config, self.model_type, head, allowed, parts, &mut let_through)?;
        warnings.extend(own);
        let closed = [
            refusals::values(config, &[]).map_or_else(|| Ok(Vec::new()), Err),
            text.finish_with(&inert, allowed),
            config.finish(self.inert, allowed),
        ];
        let_through.extend(closed.into_iter().reduce(both).unwrap_or_else(|| Ok(Vec::new()))?);
        Ok(Reading { family, wrapper: Some(self.model_type), arch, names, let_through, warnings })
    }

    /// Takes off what the decoder's class does to logits and this class does not; a warning if that is something.
    fn own_head(&self, unembed: &mut Unembed, family: &Family) -> Option<String> {
        let cap = unembed.softcap.filter(|_| self.head == Head::Softcapped);
        let own = Unembed { bias: Bias::Absent, divisor: None, softcap: cap, ..unembed.clone() };
        if own == *unembed {
            return None;
        }
        *unembed = own;
        Some(format!(
            "{} computes logits by a matrix alone, without the bias, factor or softcap of {}, as transformers does",
            self.model_type, family.model_type
        ))
    }

    /// The family of the decoder.
    fn family(&self, nested: Option<&Config>) -> Result<&'static Family> {
        match nested.map(|text| text.optional_text("model_type")).transpose()?.flatten() {
            Some(named) if self.named == Named::Config => family(named).map_err(|e| e.at("`text_config`")),
            _ => family(self.text),
        }
    }

    /// The placeholder ids of images and videos. `image_token_id` and `image_token_index` are the same key.
    fn placeholders(&self, config: &Config) -> Result<Vec<u32>> {
        let id = |(key, default): &(&'static str, u32)| {
            let other = match key.strip_suffix("_index") {
                Some(stem) => format!("{stem}_id"),
                None => format!("{}_index", key.trim_end_matches("_id")),
            };
            let given = [*key, &other].into_iter().filter_map(|key| Some((key, config.value(key)?)));
            let ids: Result<Vec<u32>> = given
                .map(|(key, value)| {
                    let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
                    id.ok_or_else(|| config.wrong(key, "a token id"))
                })
                .collect();
            ids.map(|ids| if ids.is_empty() { vec![*default] } else { ids })
        };
        let ids: Vec<Vec<u32>> = self.placeholders.iter().map(id).collect::<Result<_>>()?;
        Ok(ids.concat())
    }
}

/// Finds a wrapper by its `model_type`.
pub(super) fn find(model_type: &str) -> Option<&'static Wrapper> {
    WRAPPERS.iter().find(|wrapper| wrapper.model_type == model_type)
}

/// Both lists, or both errors joined.
fn both(first: Result<Vec<String>>, second: Result<Vec<String>>) -> Result<Vec<String>> {
    match (first, second) {
        (Ok(mut first), Ok(second)) => {
            first.extend(second);
            Ok(first)
        }
        (Err(first), Err(second)) => Err(first.and(second)),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
