//! One file a family: config.json in both spellings to [`Arch`] and [`Names`].
//!
//! The defaults of absent keys, the aliases and the rules are those of transformers 5.23,
//! `models/*/configuration_*.py` and `modeling_*.py`.

pub mod gguf;

mod bloom;
mod gemma;
mod gemma2;
mod gemma3_text;
mod gpt2;
mod gpt_neox;
mod gptj;
mod granite;
pub mod heads;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod opt;
mod parts;
mod phi;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod refusals;
mod rope;
mod sizes;
mod stablelm;
mod starcoder2;
mod stored;
#[cfg(test)]
mod tests;

use crate::arch::Arch;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub use refusals::Only;

/// A family of models that share one config class.
#[derive(Debug)]
pub struct Family {
    /// The `model_type` of config.json.
    pub model_type: &'static str,
    /// Reads a config of this family.
    pub read: fn(&Config) -> Result<(Arch, Names)>,
    /// Config keys that change nothing in this family, beside those inert everywhere.
    pub inert: &'static [&'static str],
    /// Config keys that change nothing as long as they hold this value.
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
];

/// What a config says.
#[derive(Debug)]
pub struct Reading {
    /// The family it belongs to.
    pub family: &'static Family,
    /// What the model computes.
    pub arch: Arch,
    /// How its checkpoint names and lays out the weights.
    pub names: Names,
    /// Unknown keys that were let through by name.
    pub let_through: Vec<String>,
    /// What the config says in two ways, and which of them is followed.
    pub warnings: Vec<String>,
}

/// Reads a whole config: finds its family, refuses what is not built, accounts for every key.
///
/// # Errors
/// A model that no family reads, a value that makes no sense or is not computed, an unknown key that is not in
/// `allowed`.
pub fn read(config: &Config, allowed: &[String]) -> Result<Reading> {
    read_with(config, None, allowed)
}

/// As [`read`], with a head that is not the one that config.json names.
///
/// # Errors
/// As [`read`].
pub fn read_with(config: &Config, head: Option<heads::Asked>, allowed: &[String]) -> Result<Reading> {
    let model_type = config.optional_text("model_type")?.ok_or_else(|| config.missing("model_type"))?;
    let family = family(model_type)?;
    refusals::check(config)?;
    let refused = refusals::values(config, family.only);
    let (mut arch, mut names) = match ((family.read)(config), refused) {
        (Ok(read), None) => read,
        // Whatever else is wrong is named at once; a reading that failed has not met all keys.
        (Ok(_), Some(refused)) => {
            return Err(match config.finish(family.inert, allowed) {
                Ok(_) => refused,
                Err(unknown) => refused.and(unknown),
            });
        }
        (Err(error), refused) => return Err(refused.unwrap_or(error)),
    };
    let warnings = heads::read(config, model_type, head, allowed, (&mut arch, &mut names))?;
    let let_through = config.finish(family.inert, allowed)?;
    Ok(Reading { family, arch, names, let_through, warnings })
}

/// Finds a family by its `model_type`.
///
/// # Errors
/// No family has that name.
pub fn family(model_type: &str) -> Result<&'static Family> {
    FAMILIES.iter().find(|f| f.model_type == model_type).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|f| f.model_type).collect();
        refusals::unknown(model_type, &known)
    })
}
