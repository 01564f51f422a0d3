//! Mamba 2: no attention and no MLPs; each block is a state space with heads, and a norm after its gate.

use super::mixers::{MIXER, SpaceKeys, alone, expanded, space, space_names, step_limits};
use super::parts::norm;
use super::sizes::Sizes;
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::Names;

pub(super) const FAMILY: Family = Family {
    model_type: "mamba2",
    read,
    // Keys for training and kernels, and keys of the original implementation that the class does not read.
    inert: &[
        "chunk_size",
        "norm_before_gate",
        "rescale_prenorm_residual",
        "residual_in_fp32",
        "rms_norm",
        "time_step_floor",
        "time_step_init_scheme",
        "time_step_max",
        "time_step_min",
        "time_step_rank",
        "time_step_scale",
    ],
    only: &[],
};

const KEYS: SpaceKeys = SpaceKeys {
    heads: ("num_heads", 128),
    groups: ("n_groups", 8),
    size: ("state_size", 128),
    kernel: ("conv_kernel", 4),
    bias: "use_conv_bias",
    act: "hidden_act",
    eps: ("layer_norm_epsilon", 1e-5),
};

fn read(config: &Config) -> Result<(Arch, Names)> {
    let sizes = Sizes::without_heads(config, [4096, 64, 32_768], false)?;
    let norm = norm(config, NormKind::Rms, "layer_norm_epsilon", 1e-5)?;
    let channels = expanded(config, "expand", 2.0, sizes.d_model)?;
    let recurrence = space(config, &KEYS, step_limits(config, "time_step_limit")?, |heads| {
        let width = config.size_or("head_dim", 64)?;
        match heads * width == channels {
            true => Ok(width),
            false => Err(config.wrong("head_dim", &format!("{channels} channels over {heads} heads"))),
        }
    })?;
    let arch = sizes.arch(vec![alone(recurrence, norm); sizes.n_layers], norm);
    let bias = Bias::when(config.flag_or("use_bias", false)?);
    Ok((arch, stored::backbone(vec![stored::alone(space_names(MIXER, bias, bias))])))
}
