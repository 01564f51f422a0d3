//! nanochat: norms without parameters, also on the embedding and on queries and keys after rotation, which runs in the
//! opposite direction.

use super::parts::{attention, block, norm, plain, pre_norm};
use super::rope::{RopeKeys, rope};
use super::sizes::{SizeKeys, Sizes, usual};
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

use super::gemma2::softcap;

pub(super) const FAMILY: Family =
    Family { model_type: "nanochat", read, inert: &["logits_soft_cap"], only: &[] };

const SIZES: SizeKeys = SizeKeys { vocabulary: 50_304, ..usual(768, 12, 6, 2048) };

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::read(config, &SIZES)?;
    let rope = Rope { turn: Turn::Backward, ..rope(config, &sizes, &RopeKeys::USUAL)? };
    let norm = norm(config, NormKind::RmsNoParams, "rms_norm_eps", 1e-6)?;
    let attention = Attention {
        qk_norm: QkNorm::PerHead(norm),
        qk_norm_at: QkNormAt::Rotated,
        ..attention(sizes.scale(), PositionMark::Rope(0))
    };
    let layer = block(attention, plain(config, 8192, "relu2")?, pre_norm(norm));
    let mut arch = sizes.rotary_arch(rope, vec![layer; sizes.n_layers], norm);
    arch.embed.norm = Some(norm);
    arch.unembed.softcap = softcap(config, "final_logit_softcapping", Some(15.0))?;
    let bias = Bias::when(config.flag_or("attention_bias", false)?);
    let mut layer = stored::layer(bias, bias, stored::plain("mlp.fc1", "mlp.fc2", Bias::Absent));
    (layer.attention_norm, layer.mlp_norm) = (None, None);
    Ok((arch, Names { final_norm: None, ..stored::model(vec![layer]) }))
}
