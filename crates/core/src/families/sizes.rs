//! Sizes common to all decoders, with the defaults of their config classes.

use crate::arch::*;
use crate::config::{Config, LARGEST_SIZE};
use crate::error::Result;

/// Limit on layers: a config with more is a damaged file, not a model.
const MOST_LAYERS: usize = 4096;

/// Keys and defaults of a config class.
#[derive(Clone, Copy)]
pub(super) struct SizeKeys {
    /// Width of the stream.
    pub(super) d_model: Key,
    /// Number of blocks.
    pub(super) n_layers: Key,
    /// Query heads.
    pub(super) n_heads: Key,
    /// Key/value heads.
    pub(super) n_kv_heads: KvHeads,
    /// Width of a head.
    pub(super) d_head: HeadWidth,
    /// Rows of the embedding.
    pub(super) vocabulary: usize,
    /// Longest row; `None` if the class has no limit.
    pub(super) context: Option<Key>,
    /// Whether embedding and unembedding are one matrix by default.
    pub(super) tied: bool,
}

/// A key with its aliases, and the class's default.
#[derive(Clone, Copy)]
pub(super) struct Key(pub(super) &'static [&'static str], pub(super) usize);

/// Meaning of an absent or null `num_key_value_heads`.
#[derive(Clone, Copy)]
pub(super) enum KvHeads {
    /// The class has no such key: as many as query heads.
    NoKey,
    /// Absent or null: as many as query heads.
    AsQueries,
    /// Absent: this many; null is an error.
    Default(usize),
    /// Absent: this many; null: as many as query heads.
    DefaultOrAsQueries(usize),
}

/// Meaning of an absent or null `head_dim`.
#[derive(Clone, Copy)]
pub(super) enum HeadWidth {
    /// The class always divides the stream by the heads; a contradicting key is refused.
    Always,
    /// Absent or null: the stream divided by the heads.
    Derived,
    /// The class computes it from other keys, which the family reads.
    OfOtherKeys,
    /// Absent: this; null is an error.
    Default(usize),
    /// Absent: this; null: the stream divided by the heads.
    DefaultOrDerived(usize),
}

/// Keys that most classes share.
pub(super) const fn usual(d_model: usize, n_layers: usize, n_heads: usize, context: usize) -> SizeKeys {
    SizeKeys {
        d_model: Key(&["hidden_size"], d_model),
        n_layers: Key(&["num_hidden_layers"], n_layers),
        n_heads: Key(&["num_attention_heads"], n_heads),
        n_kv_heads: KvHeads::AsQueries,
        d_head: HeadWidth::Derived,
        vocabulary: 0,
        context: Some(Key(&["max_position_embeddings"], context)),
        tied: false,
    }
}

/// Sizes of one model.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub(super) d_model: usize,
    pub(super) n_layers: usize,
    pub(super) n_heads: usize,
    pub(super) n_kv_heads: usize,
    pub(super) d_head: usize,
    pub(super) vocabulary: usize,
    pub(super) context: usize,
    pub(super) matrix: UnembedMatrix,
}

impl Sizes {
    /// Reads and checks the sizes.
    pub(super) fn read(config: &Config, keys: &SizeKeys) -> Result<Self> {
        let any = |key: Key| config.size_of_any(key.0, key.1);
        let d_model = any(keys.d_model)?;
        let n_layers = any(keys.n_layers)?;
        if n_layers > MOST_LAYERS {
            return Err(config.wrong(present(config, keys.n_layers.0), "at most 4096 layers"));
        }
        let n_heads = any(keys.n_heads)?;
        let n_kv_heads = n_kv_heads(config, keys.n_kv_heads, n_heads)?;
        if !n_heads.is_multiple_of(n_kv_heads) {
            return Err(config.wrong("num_key_value_heads", &format!("a divisor of {n_heads} query heads")));
        }
        let d_head = d_head(config, keys, d_model, n_heads)?;
        let tied = config.flag_or("tie_word_embeddings", keys.tied)?;
        Ok(Sizes {
            d_model,
            n_layers,
            n_heads,
            n_kv_heads,
            d_head,
            vocabulary: config.size_or("vocab_size", keys.vocabulary)?,
            context: keys.context.map_or(Ok(LARGEST_SIZE as usize), any)?,
            matrix: if tied { UnembedMatrix::Tied } else { UnembedMatrix::Own },
        })
    }

    /// Reads the sizes of a class without attention, under the usual keys, with defaults for width, layers and
    /// vocabulary.
    pub(super) fn without_heads(
        config: &Config,
        [d_model, n_layers, vocabulary]: [usize; 3],
        tied: bool,
    ) -> Result<Self> {
        let n_layers = config.size_or("num_hidden_layers", n_layers)?;
        if n_layers > MOST_LAYERS {
            return Err(config.wrong("num_hidden_layers", "at most 4096 layers"));
        }
        let tied = config.flag_or("tie_word_embeddings", tied)?;
        Ok(Sizes {
            d_model: config.size_or("hidden_size", d_model)?,
            n_layers,
            n_heads: 0,
            n_kv_heads: 0,
            d_head: 0,
            vocabulary: config.size_or("vocab_size", vocabulary)?,
            context: LARGEST_SIZE as usize,
            matrix: if tied { UnembedMatrix::Tied } else { UnembedMatrix::Own },
        })
    }

    /// The usual factor on scores, `d_head ** -0.5`.
    pub(super) fn scale(&self) -> f32 {
        (self.d_head as f64).powf(-0.5) as f32
    }

    /// A decoder of these layers without extras; families change what differs.
    pub(super) fn arch(&self, layers: Vec<Layer>, final_norm: Norm) -> Arch {
        Arch {
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            d_head: self.d_head,
            vocabulary: self.vocabulary,
            context: self.context,
            embed: Embed {
                width: self.d_model,
                scale: None,
                norm: None,
                positions: None,
                placeholders: Vec::new(),
            },
            per_layer: None,
            ropes: Vec::new(),
            layers,
            final_norm: Some(final_norm),
            unembed: Unembed {
                matrix: self.matrix,
                bias: Bias::Absent,
                never: Vec::new(),
                divisor: None,
                softcap: None,
            },
            head: Head::Unembedding,
        }
    }

    /// The same with one rotary table, which may extend the config's context.
    pub(super) fn rotary_arch(&self, rope: Rope, layers: Vec<Layer>, final_norm: Norm) -> Arch {
        let context = super::rope::reach(&rope, self.context);
        Arch { context, ropes: vec![rope], ..self.arch(layers, final_norm) }
    }
}

/// The spelling of the key in this config.
fn present(config: &Config, keys: &'static [&'static str]) -> &'static str {
    keys.iter().copied().find(|key| config.has(key)).unwrap_or(keys[0])
}

fn n_kv_heads(config: &Config, rule: KvHeads, n_heads: usize) -> Result<usize> {
    let key = "num_key_value_heads";
    match rule {
        KvHeads::NoKey => Ok(n_heads),
        KvHeads::AsQueries => Ok(config.optional_size(key)?.unwrap_or(n_heads)),
        KvHeads::Default(n) => config.size_or(key, n),
        KvHeads::DefaultOrAsQueries(n) if !config.has(key) => Ok(n),
        KvHeads::DefaultOrAsQueries(_) => Ok(config.optional_size(key)?.unwrap_or(n_heads)),
    }
}

fn d_head(config: &Config, keys: &SizeKeys, d_model: usize, n_heads: usize) -> Result<usize> {
    let stated = match keys.d_head {
        HeadWidth::OfOtherKeys => Some(1),
        HeadWidth::Default(width) => Some(config.size_or("head_dim", width)?),
        HeadWidth::DefaultOrDerived(width) if !config.has("head_dim") => Some(width),
        HeadWidth::DefaultOrDerived(_) => config.optional_size("head_dim")?,
        HeadWidth::Derived | HeadWidth::Always => config.optional_size("head_dim")?,
    };
    let always = matches!(keys.d_head, HeadWidth::Always);
    if let (Some(width), false) = (stated, always) {
        return Ok(width);
    }
    if !d_model.is_multiple_of(n_heads) {
        return Err(
            config.wrong(present(config, keys.n_heads.0), &format!("a divisor of the width {d_model}"))
        );
    }
    let derived = d_model / n_heads;
    match stated {
        Some(width) if width != derived => Err(config.unsupported("head_dim", &format!("{derived}"))),
        _ => Ok(derived),
    }
}
