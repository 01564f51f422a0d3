//! One file per family: config.json, in both spellings, to [`Arch`] and [`Names`].
//!
//! Defaults of absent keys, aliases and rules follow transformers 5.24, `models/*/configuration_*.py` and
//! `modeling_*.py`.

pub mod gguf;

mod apertus;
mod arcee;
mod biogpt;
mod bloom;
mod chameleon;
mod codegen;
mod cohere;
mod cohere2;
mod deepseek_v2;
mod deepseek_v3;
mod delta;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone4;
mod falcon;
mod falcon_h1;
mod falcon_mamba;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gemma4_layers;
mod gemma4_text;
mod glm;
mod glm4;
mod glm4_moe;
mod glm4_moe_lite;
mod gpt2;
mod gpt_bigcode;
mod gpt_neo;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod granitemoe;
mod granitemoehybrid;
mod granitemoeshared;
pub mod heads;
mod helium;
mod hunyuan_v1_dense;
mod latent;
mod lfm2;
mod llama;
mod mamba;
mod mamba2;
mod minimax_m2;
mod ministral;
mod ministral3;
mod mistral;
mod mixers;
mod mixtral;
mod mpt;
mod nanochat;
mod nemotron;
mod nemotron_h;
mod olmo;
mod olmo2;
mod olmo3;
mod olmoe;
mod opt;
mod parts;
mod persimmon;
mod phi;
mod phi3;
mod phimoe;
mod qwen2;
mod qwen2_5_vl_text;
mod qwen2_moe;
mod qwen2_vl_text;
mod qwen3;
mod qwen3_5_moe_text;
mod qwen3_5_text;
mod qwen3_moe;
mod qwen3_next;
mod qwen3_vl_moe_text;
mod qwen3_vl_text;
mod recurrent_gemma;
mod refusals;
mod rope;
mod rope_by_type;
mod seed_oss;
mod sizes;
mod smollm3;
mod stablelm;
mod starcoder2;
mod stored;
#[cfg(test)]
mod tests;
mod vaultgemma;
mod wrappers;

use crate::arch::Arch;
use crate::config::{Config, INERT};
use crate::error::Result;
use crate::names::Names;

pub use refusals::Only;
pub use wrappers::{WRAPPERS, Wrapper};

/// A family of models that share one config class.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of config.json.
    pub model_type: &'static str,
    /// Reads a config of this family.
    pub read: fn(&Config) -> Result<(Arch, Names)>,
    /// Config keys without effect in this family, besides those inert everywhere.
    pub inert: &'static [&'static str],
    /// Config keys without effect while they hold this value.
    pub only: &'static [(&'static str, Only)],
}

/// Every family, in the order of the documentation.
pub const FAMILIES: &[Family] = &[
    gpt2::FAMILY,
    gpt_neox::FAMILY,
    gptj::FAMILY,
    opt::FAMILY,
    bloom::FAMILY,
    llama::FAMILY,
    mistral::FAMILY,
    mixtral::FAMILY,
    qwen2::FAMILY,
    qwen3::FAMILY,
    qwen3_moe::FAMILY,
    gemma::FAMILY,
    gemma2::FAMILY,
    gemma3_text::FAMILY,
    phi::FAMILY,
    phi3::FAMILY,
    olmo2::FAMILY,
    stablelm::FAMILY,
    starcoder2::FAMILY,
    granite::FAMILY,
    qwen2_vl_text::FAMILY,
    qwen2_5_vl_text::FAMILY,
    qwen3_vl_text::FAMILY,
    qwen3_vl_moe_text::FAMILY,
    chameleon::FAMILY,
    olmo::FAMILY,
    olmo3::FAMILY,
    cohere::FAMILY,
    cohere2::FAMILY,
    smollm3::FAMILY,
    exaone4::FAMILY,
    glm::FAMILY,
    glm4::FAMILY,
    ernie4_5::FAMILY,
    hunyuan_v1_dense::FAMILY,
    helium::FAMILY,
    arcee::FAMILY,
    apertus::FAMILY,
    seed_oss::FAMILY,
    ministral::FAMILY,
    ministral3::FAMILY,
    nemotron::FAMILY,
    vaultgemma::FAMILY,
    nanochat::FAMILY,
    falcon::FAMILY,
    mpt::FAMILY,
    gpt_neo::FAMILY,
    gpt_bigcode::FAMILY,
    codegen::FAMILY,
    biogpt::FAMILY,
    persimmon::FAMILY,
    olmoe::FAMILY,
    qwen2_moe::FAMILY,
    gpt_oss::FAMILY,
    glm4_moe::FAMILY,
    glm4_moe_lite::FAMILY,
    ernie4_5_moe::FAMILY,
    phimoe::FAMILY,
    granitemoe::FAMILY,
    granitemoeshared::FAMILY,
    minimax_m2::FAMILY,
    mamba::FAMILY,
    falcon_mamba::FAMILY,
    mamba2::FAMILY,
    falcon_h1::FAMILY,
    granitemoehybrid::FAMILY,
    nemotron_h::FAMILY,
    lfm2::FAMILY,
    qwen3_next::FAMILY,
    qwen3_5_text::FAMILY,
    qwen3_5_moe_text::FAMILY,
    recurrent_gemma::FAMILY,
    deepseek_v2::FAMILY,
    deepseek_v3::FAMILY,
    gemma4_text::FAMILY,
];

/// The contents of a config.
#[derive(Debug)]
pub struct Reading {
    /// The family it belongs to.
    pub family: &'static Family,
    /// The `model_type` of the class around the decoder, if the decoder is one part of a model.
    pub wrapper: Option<&'static str>,
    /// What the model computes.
    pub arch: Arch,
    /// How its checkpoint names and lays out the weights.
    pub names: Names,
    /// Unknown keys that were allowed by name.
    pub let_through: Vec<String>,
    /// Contradictions within the config, and which side is followed.
    pub warnings: Vec<String>,
}

/// Reads a whole config: finds its family, refuses what is not supported, accounts for every key.
///
/// # Errors
/// If no family reads the model, a value makes no sense or is not supported, or an unknown key is not in `allowed`.
pub fn read(config: &Config, allowed: &[String]) -> Result<Reading> {
    read_with(config, None, allowed)
}

/// As [`read`], with a head other than the one in config.json.
///
/// # Errors
/// As [`read`].
pub fn read_with(config: &Config, head: Option<heads::Asked>, allowed: &[String]) -> Result<Reading> {
    let model_type = config.optional_text("model_type")?.ok_or_else(|| config.missing("model_type"))?;
    if let Some(wrapper) = wrappers::find(model_type) {
        return wrapper.read(config, head, allowed);
    }
    // As AutoConfig of transformers.
    let alternates = model_type == "mistral" && config.raw("layer_types").is_some();
    let family = family(if alternates { "ministral" } else { model_type })?;
    refusals::check(config)?;
    let inert = &[INERT, family.inert];
    let (mut arch, mut names) = decoder(config, family, family.only, inert, allowed)?;
    let mut let_through = Vec::new();
    let warnings = heads::read(config, model_type, head, allowed, (&mut arch, &mut names), &mut let_through)?;
    let_through.extend(config.finish_with(inert, allowed)?);
    Ok(Reading { family, wrapper: None, arch, names, let_through, warnings })
}

/// Reads the keys of a decoder. `only` and `inert` come from the family and from a class around it.
fn decoder(
    config: &Config,
    family: &Family,
    only: &[(&str, Only)],
    inert: &[&[&str]],
    allowed: &[String],
) -> Result<(Arch, Names)> {
    match ((family.read)(config), refusals::values(config, only)) {
        (Ok(read), None) => Ok(read),
        // All other errors are reported at once; a failed reading has not seen all keys.
        (Ok(_), Some(refused)) => Err(match config.finish_with(inert, allowed) {
            Ok(_) => refused,
            Err(unknown) => refused.and(unknown),
        }),
        (Err(error), refused) => Err(refused.unwrap_or(error)),
    }
}

/// Finds a family by its `model_type`.
///
/// # Errors
/// If no family has that name.
pub fn family(model_type: &str) -> Result<&'static Family> {
    FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| {
        let wrappers = WRAPPERS.iter().map(|wrapper| wrapper.model_type);
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.model_type).chain(wrappers).collect();
        refusals::unknown(model_type, &known)
    })
}
