//! Mamba: no attention and no MLPs; each block is a selective scan after a short convolution, with a gate.

use super::mixers::{alone, expanded, ungated};
use super::parts::{activation, norm};
use super::sizes::Sizes;
use super::{Family, stored};
use crate::arch::*;
use crate::config::Config;
use crate::error::Result;
use crate::names::*;

pub(super) const FAMILY: Family = Family { model_type: "mamba", read, inert: INERT, only: &[] };

/// Keys for training and kernels, and keys of the original implementation that the class does not read.
pub(super) const INERT: &[&str] = &[
    "d_inner",
    "d_model",
    "fused_add_norm",
    "n_layer",
    "pad_vocab_size_multiple",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "rms_norm",
    "ssm_cfg",
    "time_step_floor",
    "time_step_init_scheme",
    "time_step_max",
    "time_step_min",
    "time_step_scale",
    "use_associative_scan",
    "use_mambapy",
];

fn read(config: &Config) -> Result<(Arch, Names)> {
    scan(config, None)
}

/// Blocks of a selective scan, with a norm on what is projected from the convolved columns.
pub(super) fn scan(config: &Config, selected: Option<Norm>) -> Result<(Arch, Names)> {
    let sizes = Sizes::without_heads(config, [768, 32, 50_280], true)?;
    let norm = norm(config, NormKind::Rms, "layer_norm_epsilon", 1e-5)?;
    let derived = expanded(config, "expand", 2.0, sizes.d_model)?;
    let width = config.size_or("intermediate_size", derived)?;
    let rank = match config.raw("time_step_rank") {
        Some(value) if value != "auto" => config.size("time_step_rank")?,
        _ => sizes.d_model.div_ceil(16),
    };
    let act = activation(config, "hidden_act", "silu")?;
    let convolution_bias = Bias::when(config.flag_or("use_conv_bias", true)?);
    let recurrence = Recurrence {
        kernel: config.size_or("conv_kernel", 4)?,
        bias: convolution_bias,
        act: Some(act),
        factors: None,
        state: State::Selective { width, size: config.size_or("state_size", 16)?, rank, norm: selected },
        // The gate is silu, whatever `hidden_act` says (transformers, `mamba_selective_scan`).
        gate: ungated(Some(Activation::Silu)),
    };
    let arch = sizes.arch(vec![alone(recurrence, norm); sizes.n_layers], norm);

    let bias = Bias::when(config.flag_or("use_bias", false)?);
    let linear = |name, bias| Linear::new(name, bias);
    let names = RecurrenceNames {
        input: RecurrenceInput::Stacked(
            linear("mixer.in_proj", bias),
            [InputPart::Convolved, InputPart::Gate, InputPart::Rest],
        ),
        convolution: "mixer.conv1d",
        state: StateNames::Selective {
            select: linear("mixer.x_proj", Bias::Absent),
            steps: linear("mixer.dt_proj", Bias::Absent),
            decay: "mixer.A_log",
            skip: "mixer.D",
        },
        norm: None,
        out: linear("mixer.out_proj", bias),
    };
    Ok((arch, stored::backbone(vec![stored::alone(names)])))
}
