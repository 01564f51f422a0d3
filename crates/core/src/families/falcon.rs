//! Falcon: three ways to store queries, keys and values, three wirings, rotary positions or linear biases.

use super::parts::{activation, attention, block, norm, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{HeadWidth, Key, KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family {
    model_type: "falcon",
    read,
    inert: &[],
    only: &[("apply_residual_connection_post_layernorm", Only::False)],
};

const SIZES: SizeKeys = SizeKeys {
    d_model: Key(&["hidden_size", "n_embed"], 4544),
    vocabulary: 65_024,
    n_kv_heads: KvHeads::NoKey,
    d_head: HeadWidth::Always,
    tied: true,
    ..usual(4544, 32, 71, 2048)
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let mut sizes = Sizes::read(config, &SIZES)?;
    let given = config.optional_size("num_kv_heads")?.unwrap_or(sizes.n_heads);
    let grouped = config.flag_or("new_decoder_architecture", false)?;
    // The other two keys apply only if the first does not.
    sizes.n_kv_heads = match (grouped, config.flag_or("multi_query", true)?) {
        (true, _) => given,
        (false, true) => 1,
        (false, false) => sizes.n_heads,
    };
    if !sizes.n_heads.is_multiple_of(sizes.n_kv_heads) {
        return Err(config.wrong("num_kv_heads", &format!("a divisor of {} query heads", sizes.n_heads)));
    }
    let norm = norm(config, NormKind::Layer, "layer_norm_epsilon", 1e-5)?;
    let (wiring, [first, second]) = wiring(config, grouped, norm)?;
    let mlp = Mlp::Plain {
        d_mlp: config.optional_size("ffn_hidden_size")?.unwrap_or(4 * sizes.d_model),
        act: activation(config, "activation", "gelu")?,
    };
    let rope = rope(config, &sizes, &RopeKeys::USUAL)?;
    let arch = match config.flag_or("alibi", false)? {
        true => {
            let position = PositionMark::Alibi(Slopes::OfLowerPowerRounded);
            sizes.arch(vec![block(attention(sizes.scale(), position), mlp, wiring); sizes.n_layers], norm)
        }
        false => {
            let attention = attention(sizes.scale(), PositionMark::Rope(0));
            sizes.rotary_arch(rope, vec![block(attention, mlp, wiring); sizes.n_layers], norm)
        }
    };
    let bias = Bias::when(config.flag_or("bias", false)?);
    let qkv = Linear::new("self_attention.query_key_value", bias);
    let layer = LayerNames {
        attention_norm: first,
        mlp_norm: second,
        qkv: match (grouped, sizes.n_kv_heads) {
            (true, _) => QkvNames::ByGroup(qkv),
            (false, 1) => QkvNames::Stacked(qkv),
            (false, _) => QkvNames::ByHead(qkv),
        },
        out: Linear::new("self_attention.dense", bias),
        ..stored::layer(bias, bias, stored::plain("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", bias))
    };
    let names = Names {
        prefix: "transformer.",
        embed: "word_embeddings",
        final_norm: Some("ln_f"),
        layer: "h.{}.",
        ..stored::model(vec![layer])
    };
    Ok((arch, names))
}

/// The wiring and the names of its norms (`FalconDecoderLayer`).
fn wiring(config: &Config, grouped: bool, norm: Norm) -> Result<(Wiring, [Option<&'static str>; 2])> {
    let norms = config.optional_size("num_ln_in_parallel_attn")?.unwrap_or(2);
    let parallel = config.flag_or("parallel_attn", true)?;
    Ok(match (grouped, parallel) {
        (true, _) if norms == 2 => {
            (Wiring::Parallel { attention: norm, mlp: Some(norm) }, [Some("ln_attn"), Some("ln_mlp")])
        }
        (true, false) => {
            return Err(config.unsupported("parallel_attn", "true with `new_decoder_architecture`"));
        }
        (_, true) => (Wiring::Parallel { attention: norm, mlp: None }, [Some("input_layernorm"), None]),
        (false, false) => (pre_norm(norm), [Some("input_layernorm"), Some("post_attention_layernorm")]),
    })
}
