//! Config parts that families with recurrences share.

use super::parts::{norm, pre_norm};
use crate::arch::*;
use crate::config::{Config, LARGEST_SIZE};
use crate::error::Result;
use crate::names::{InputPart, Linear, RecurrenceInput, RecurrenceNames, StateNames};

/// A block with only a recurrence.
pub(super) fn alone(recurrence: Recurrence, norm: Norm) -> Layer {
    mixed(recurrence, None, norm)
}

/// A block of a recurrence and an MLP, each after a norm.
pub(super) fn mixed(recurrence: Recurrence, mlp: Option<Mlp>, norm: Norm) -> Layer {
    let (attention, factors) = (None, Factors::default());
    Layer {
        attention,
        recurrence: Some(recurrence),
        mlp,
        wiring: pre_norm(norm),
        factors,
        leaving_scale: Bias::Absent,
    }
}

/// A gate without a norm next to it.
pub(super) fn ungated(act: Option<Activation>) -> Gate {
    Gate { act, norm: GateNorm::None }
}

/// The width of the stream times the number under `key`, truncated to an integer.
pub(super) fn expanded(config: &Config, key: &str, default: f64, d_model: usize) -> Result<usize> {
    let width = (config.positive_or(key, default)? * d_model as f64).floor();
    if (1.0..=LARGEST_SIZE as f64).contains(&width) {
        return Ok(width as usize);
    }
    Err(config.wrong(key, "a factor that gives a width from 1 to 2^28"))
}

/// For each layer, whether it has attention: from the list under the first of `keys` that exists, else from `absent`.
pub(super) fn layer_kinds<const R: usize, const A: usize>(
    config: &Config,
    keys: &[&str],
    n_layers: usize,
    recurrent: [&str; R],
    attention: [&str; A],
    absent: impl Fn(usize) -> bool,
) -> Result<Vec<bool>> {
    let mut found = None;
    for key in keys {
        // Read all of them, so that a second one is not reported as unknown.
        let kinds = config.optional_texts(key)?;
        found = found.or(kinds.map(|kinds| (*key, kinds)));
    }
    let Some((key, kinds)) = found else { return Ok((0..n_layers).map(absent).collect()) };
    if kinds.len() != n_layers {
        return Err(config.wrong(key, &format!("one entry for each of {n_layers} layers")));
    }
    let one = |kind: &&str| match () {
        () if attention.contains(kind) => Ok(true),
        () if recurrent.contains(kind) => Ok(false),
        () => Err(config.unsupported(key, &[&attention[..], &recurrent].concat().join(", "))),
    };
    kinds.iter().map(one).collect()
}

/// The single part of each block, in the older spelling's letters: M a recurrence, * attention, - an MLP, E experts.
pub(super) fn letters(config: &Config) -> Result<String> {
    let (listed, key) = (config.optional_texts("layers_block_type")?, "hybrid_override_pattern");
    let pattern = config.optional_text(key)?;
    let letter = |kind: &&str| match *kind {
        "linear_attention" | "mamba" => Ok('M'),
        "full_attention" | "attention" => Ok('*'),
        "mlp" => Ok('-'),
        "moe" => Ok('E'),
        _ => Err(config.unsupported("layers_block_type", "linear_attention, full_attention, mlp, moe")),
    };
    let kinds: String = match (listed, pattern) {
        (Some(listed), _) => listed.iter().map(letter).collect::<Result<_>>()?,
        (None, Some(pattern)) => pattern.to_owned(),
        (None, None) => "ME*-".to_owned(),
    };
    match kinds.chars().all(|kind| "M*-E".contains(kind)) && (1..=4096).contains(&kinds.len()) {
        true => Ok(kinds),
        false => Err(config.unsupported(key, "1 to 4096 of the letters M, *, -, E")),
    }
}

/// Keys and defaults of a class's state space (Mamba 2).
pub(super) struct SpaceKeys {
    pub(super) heads: (&'static str, usize),
    pub(super) groups: (&'static str, usize),
    pub(super) size: (&'static str, usize),
    pub(super) kernel: (&'static str, usize),
    /// The convolution's bias.
    pub(super) bias: &'static str,
    /// The activation after it.
    pub(super) act: &'static str,
    /// The epsilon of the norm next to the gate.
    pub(super) eps: (&'static str, f64),
}

/// Keys of classes that prefix state space keys with `mamba_`.
pub(super) const PREFIXED: SpaceKeys = SpaceKeys {
    heads: ("mamba_n_heads", 128),
    groups: ("mamba_n_groups", 1),
    size: ("mamba_d_state", 256),
    kernel: ("mamba_d_conv", 4),
    bias: "mamba_conv_bias",
    act: "hidden_act",
    eps: ("rms_norm_eps", 1e-6),
};

/// A state space whose gated output is normed by groups. `d_head` gives the width of a head.
pub(super) fn space(
    config: &Config,
    keys: &SpaceKeys,
    steps: [f32; 2],
    d_head: impl FnOnce(usize) -> Result<usize>,
) -> Result<Recurrence> {
    let heads = config.size_or(keys.heads.0, keys.heads.1)?;
    let (d_head, groups) = (d_head(heads)?, config.size_or(keys.groups.0, keys.groups.1)?);
    if !heads.is_multiple_of(groups) {
        return Err(config.wrong(keys.groups.0, &format!("a divisor of {heads} heads")));
    }
    let norm = norm(config, NormKind::Rms, keys.eps.0, keys.eps.1)?;
    let act = super::parts::activation(config, keys.act, "silu")?;
    Ok(Recurrence {
        kernel: config.size_or(keys.kernel.0, keys.kernel.1)?,
        bias: Bias::when(config.flag_or(keys.bias, true)?),
        act: Some(act),
        factors: None,
        state: State::Space { heads, d_head, groups, size: config.size_or(keys.size.0, keys.size.1)?, steps },
        gate: Gate {
            act: Some(Activation::Silu),
            norm: GateNorm::AfterOwnWeights(norm, heads * d_head / groups),
        },
    })
}

/// The head width of a state space with this many channels: under `key`, or `auto`.
pub(super) fn head_width(config: &Config, key: &str, channels: usize, heads: usize) -> Result<usize> {
    if !channels.is_multiple_of(heads) {
        return Err(config.wrong("mamba_n_heads", &format!("a divisor of {channels} channels")));
    }
    let derived = channels / heads;
    let width = match config.raw(key) {
        Some(value) if value != "auto" => config.size(key)?,
        _ => derived,
    };
    match width == derived {
        true => Ok(width),
        false => Err(config.wrong(key, &format!("{derived}, the {channels} channels over {heads} heads"))),
    }
}

/// The smallest and largest step under `key`. Infinity is the word, or the object that transformers 5 writes for it.
pub(super) fn step_limits(config: &Config, key: &str) -> Result<[f32; 2]> {
    let Some(value) = config.raw(key) else { return Ok([0.0, f32::INFINITY]) };
    let number = |value: &serde_json::Value| match value.get("__float__") {
        Some(word) if word == "Infinity" => Some(f32::INFINITY),
        Some(_) => None,
        None => value.as_f64().map(|x| x as f32),
    };
    let limits: Option<Vec<f32>> = value.as_array().and_then(|list| list.iter().map(number).collect());
    match limits.as_deref() {
        Some([least, most]) if least <= most => Ok([*least, *most]),
        _ => Err(config.wrong(key, "two numbers, the first no larger than the second")),
    }
}

/// The storage names of a state space in most classes.
pub(super) fn space_names(names: [&'static str; 7], bias: Bias, out: Bias) -> RecurrenceNames {
    let [input, convolution, steps, decay, skip, norm, last] = names;
    let order = [InputPart::Gate, InputPart::Convolved, InputPart::Rest];
    RecurrenceNames {
        input: RecurrenceInput::Stacked(Linear::new(input, bias), order),
        convolution,
        state: StateNames::Heads { steps, decay, skip: Some(skip) },
        norm: Some(norm),
        out: Linear::new(last, out),
    }
}

/// The names of a state space stored as `mixer`.
pub(super) const MIXER: [&str; 7] = [
    "mixer.in_proj",
    "mixer.conv1d",
    "mixer.dt_bias",
    "mixer.A_log",
    "mixer.D",
    "mixer.norm",
    "mixer.out_proj",
];

/// The names of a state space stored as `mamba`.
pub(super) const MAMBA: [&str; 7] = [
    "mamba.in_proj",
    "mamba.conv1d",
    "mamba.dt_bias",
    "mamba.A_log",
    "mamba.D",
    "mamba.norm",
    "mamba.out_proj",
];
