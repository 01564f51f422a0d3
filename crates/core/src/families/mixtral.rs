//! Mixtral: Mistral with experts in place of every MLP.

use super::parts::{RENORMALISED, activation, attention, block, norm, pre_norm, top_k, window};
use super::rope::{RopeKeys, rope};
use super::sizes::{KvHeads, SizeKeys, Sizes, usual};
use super::{Family, Only, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::{Linear, Names};

pub(super) const FAMILY: Family = Family {
    model_type: "mixtral",
    read,
    inert: &[],
    only: &[("attention_bias", Only::False), ("mlp_bias", Only::False)],
};

const SIZES: SizeKeys =
    SizeKeys { vocabulary: 32_000, n_kv_heads: KvHeads::Default(8), ..usual(4096, 32, 32, 4096 * 32) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = rope(config, &sizes, &RopeKeys { default_theta: 1e6, ..RopeKeys::USUAL })?;
    let norm = norm(config, NormKind::Rms, "rms_norm_eps", 1e-5)?;
    let attention =
        Attention { window: window(config, None)?, ..attention(sizes.scale(), PositionMark::Rope(0)) };
    let count = config.size_of_any(&["num_local_experts", "num_experts"], 8)?;
    let mlp = Mlp::Experts {
        count,
        top_k: top_k(config, 2, count)?,
        d_mlp: config.size_or("intermediate_size", 14_336)?,
        latent: None,
        gate: ExpertGate::Plain(activation(config, "hidden_act", "silu")?),
        // `MixtralTopKRouter` divides by the sum, whatever the config says.
        router: Router::softmax(RENORMALISED),
        shared: None,
    };
    let layer = block(attention, mlp, pre_norm(norm));
    let arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    let router = Linear::new("block_sparse_moe.gate", Bias::Absent);
    let experts = stored::experts(router, stored::BLOCK_SPARSE);
    Ok((arch, stored::model(vec![stored::layer(Bias::Absent, Bias::Absent, experts)])))
}
