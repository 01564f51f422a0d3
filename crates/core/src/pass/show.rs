//! Steps as text: equations over named buffers.

use std::fmt;
use std::ops::Range;

use easyroutine_kernels::{Activation, Finish};

use super::At;
use super::reg::Reg;
use super::step::{KeyHeads, Matrix, NormAt, Step, Values, Visit};
use crate::arch::{
    Arch, Bias, ExpertGate, ExpertScores, ExpertWeights, Heads, Norm, NormKind, PositionMark, Router, Slopes,
    Window,
};
use crate::tap::Want;

/// A step as an equation.
pub(super) struct Shown<'a> {
    pub(super) arch: &'a Arch,
    pub(super) at: At,
    pub(super) step: &'a Step,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            Step::Embed { to, scale: None } => write!(f, "{to} = embedding[ids]"),
            Step::Embed { to, scale: Some(scale) } => write!(f, "{to} = {scale} * embedding[ids]"),
            Step::Positions { to, offset: 0 } => write!(f, "{to} += positions[position]"),
            Step::Positions { to, offset } => write!(f, "{to} += positions[position + {offset}]"),
            Step::Copy { from, to } => write!(f, "{to} = {from}"),
            Step::Norm { at, norm, from, to, .. } => write!(f, "{to} = {}_{at}({from})", kind(norm)),
            Step::NormInPlace { at, norm, reg, columns, group } => {
                let reg = Part { heads: self.heads(), reg: *reg, columns };
                write!(f, "{reg} = {}_{at}({reg})", kind(norm))?;
                if *group < columns.len() { write!(f, " by {group} columns") } else { Ok(()) }
            }
            Step::Clamp { reg, columns, to } => {
                let reg = Part { heads: self.heads(), reg: *reg, columns };
                write!(f, "{reg} = {reg} clamped to -{to}..{to}")
            }
            Step::Grow { growth, .. } => {
                write!(f, "queries *= 1 + {} ln(1 + floor(position / {}))", growth.beta, growth.original)
            }
            Step::Xielu => f.write_str("hidden = xielu(hidden)"),
            Step::NormLatent { norm, .. } => {
                write!(f, "kv_latent = {}_{}(compressed_kv)", kind(norm), NormAt::KvLatent)
            }
            Step::JoinHeads { shared } => {
                write!(f, "qkv = own_queries; own_kv with {shared} columns of compressed_kv in each key")
            }
            Step::NormHeadKeys { norm, .. } => {
                write!(f, "head keys = {}_{}(head keys)", kind(norm), NormAt::Keys)
            }
            Step::Product { from, matrix, finish, to, .. } => match finish {
                Finish::Store => write!(f, "{to} = {matrix} {from}"),
                Finish::Add => write!(f, "{to} += {matrix} {from}"),
                Finish::Activate(act) => write!(f, "{to} = {}({matrix} {from})", word(*act)),
                Finish::Gate(act) => write!(f, "{to} = {}(W_gate {from}) * W_up {from}", word(*act)),
            },
            Step::HeadProduct { from, columns, to, .. } => {
                let from = Part { heads: self.heads(), reg: *from, columns };
                write!(f, "{to} = {} {from}, each head", Matrix::Out)
            }
            Step::Rotate { reg, columns, rope } => {
                let reg = Part { heads: self.heads(), reg: *reg, columns };
                write!(f, "{reg} = rotary_{rope}({reg})")
            }
            Step::KeysToValues => f.write_str("values = keys"),
            Step::AddPerLayer { scale } => write!(f, "per_layer += {scale} * per_layer_table[ids]"),
            Step::GatePerLayer { columns } => {
                write!(f, "per_layer_hidden *= per_layer {}..{}", columns.start, columns.end)
            }
            Step::ScaleLeaving => f.write_str("stream *= leaving scale"),
            Step::Lend { to, .. } => write!(f, "{to} = keys, values, for later layers"),
            Step::Spread => f.write_str("head keys, head values = keys, values of each query head"),
            Step::Keep { .. } => f.write_str("keys and values join those of earlier tokens"),
            Step::Attend { keys, .. } => write!(f, "z = softmax({}) {}", self.scores(*keys), values(*keys)),
            Step::Patterns { keys, .. } => {
                write!(f, "pattern = softmax({}); z = pattern {}", self.scores(*keys), values(*keys))
            }
            Step::Scores { keys, .. } => write!(f, "scores = {}, each head", self.scores(*keys)),
            Step::Softmax { .. } => f.write_str("pattern = softmax(scores), each head"),
            Step::Mix { keys, .. } => write!(f, "z = pattern {}, each head", values(*keys)),
            Step::AddDifference { .. } => f.write_str("attn_out += head - unedited"),
            Step::Convolve { to, kernel, act } => {
                let sums = format!("sum of {kernel} tokens of mixed");
                match act {
                    Some(act) => write!(f, "{to} = {}({sums})", word(*act)),
                    None => write!(f, "{to} = {sums}"),
                }
            }
            Step::SelectBlocks { blocks, .. } => {
                write!(f, "selected = W_select convolved, each of {blocks} blocks of channels")
            }
            Step::SelectiveScan(_) => f.write_str("mixer_z = selective_scan(convolved, selected)"),
            Step::StateSpace(_) => f.write_str("mixer_z = state_space(convolved, steps of mixed)"),
            Step::GatedDelta(_) => f.write_str("mixer_z = gated_delta(convolved, rates of mixed)"),
            Step::RecurrentUnit(_) => f.write_str("mixer_z = recurrent_unit(convolved, selected)"),
            Step::ScaleColumns { reg, columns, by } => {
                write!(f, "{reg} {}..{} *= {by}", columns.start, columns.end)
            }
            Step::Gate { reg, from, by, act, .. } => {
                let gate = match from {
                    Reg::Qkv => "gate".to_owned(),
                    from => format!("{from} {}..{}", by.start, by.end),
                };
                match act {
                    Some(act) => write!(f, "{reg} *= {}({gate})", word(*act)),
                    None => write!(f, "{reg} *= {gate}"),
                }
            }
            Step::KeepStates => f.write_str("states are kept for the tokens to come"),
            Step::Scale { reg, by } => write!(f, "{reg} *= {by}"),
            Step::Add { from, to } => write!(f, "{to} += {from}"),
            Step::Route { top_k, router } => show_route(f, *top_k, router),
            Step::Experts { experts, from, to, gate, .. } => {
                let sign = if experts.start == 0 { "=" } else { "+=" };
                write!(f, "{to} {sign} sum of weight * {}", expert(*from, *gate))?;
                let all = self.at.layer().and_then(|layer| self.arch.layers.get(layer)?.experts());
                if Some(experts.len()) == all { Ok(()) } else { write!(f, " over experts {experts:?}") }
            }
            Step::ExpertOut { from, gate, .. } => {
                write!(f, "expert_out = {}, each expert", expert(*from, *gate))
            }
            Step::AddExpert { to, .. } => write!(f, "{to} += weight * expert_out, each expert"),
            Step::WeighShared => f.write_str("shared_out *= sigmoid(W_weigh read)"),
            Step::Narrow { .. } => f.write_str("only the tokens that are needed go on"),
            Step::Moments => f.write_str("moments = mean, variance, second moment of stream"),
            Step::Choose { .. } => f.write_str("final = stream"),
            Step::Unembed { from, .. } => write!(f, "logits = W_unembed {from}"),
            Step::Divide { by } => write!(f, "logits /= {by}"),
            Step::Softcap { cap } => write!(f, "logits = {cap} * tanh(logits / {cap})"),
            Step::Visit(Visit { site, number, want, values }) => {
                let verb = match want {
                    Want::Replace => "puts",
                    Want::Edit => "may change",
                    Want::Read | Want::Nothing => "reads",
                };
                write!(f, "tap {verb} {}: ", self.at.point(*site, *number))?;
                match values {
                    Values::Columns(reg, columns) => write!(f, "{reg} {}..{}", columns.start, columns.end),
                    Values::SharedKeys { .. } => f.write_str("head keys, one a group"),
                    Values::Chosen(reg) => write!(f, "{reg}"),
                    Values::Pairs { square, .. } => write!(f, "square {square}"),
                    Values::Logits { .. } => f.write_str("logits"),
                }
            }
        }
    }
}

impl Shown<'_> {
    fn heads(&self) -> Heads {
        self.arch.heads(self.at.layer().unwrap_or(0))
    }

    /// The argument of the softmax: `0.125 * queries keys, capped at 50, from the last 128 keys`.
    fn scores(&self, keys: KeyHeads) -> String {
        let layer = self.at.layer().and_then(|layer| self.arch.layers.get(layer));
        let Some(attention) = layer.and_then(|layer| layer.attention.as_ref()) else { return String::new() };
        let keys = match keys {
            KeyHeads::Grouped => "keys".to_owned(),
            KeyHeads::OfQueryHeads => "head keys".to_owned(),
            KeyHeads::Lent { layer, .. } | KeyHeads::Kept { layer } => format!("keys of block {layer}"),
        };
        let mut text = format!("{} * queries {keys}", attention.scale);
        if let Some(cap) = attention.softcap {
            text = format!("{cap} * tanh({text} / {cap})");
        }
        if let PositionMark::Alibi(slopes) = attention.position {
            text += match slopes {
                Slopes::OfLowerPower | Slopes::OfHigherPower => " + slope * position",
                Slopes::OfLowerPowerRounded => " + scale * bf16(slope * position)",
            };
        }
        if let Window::Sliding(window) = attention.window {
            text += &format!(" of {window} positions");
        }
        text
    }
}

/// An expert's formula.
fn expert(from: Reg, gate: ExpertGate) -> String {
    match gate {
        ExpertGate::Plain(act) => format!("W_down ({}(W_gate {from}) * W_up {from})", word(act)),
        ExpertGate::None(act) => format!("W_down {}(W_up {from})", word(act)),
        ExpertGate::Clamped { alpha, limit } => {
            format!("W_down ((up + 1) * gate * sigmoid({alpha} * gate)), both within {limit}")
        }
    }
}

/// How a token's experts are chosen.
fn show_route(f: &mut fmt::Formatter<'_>, top_k: usize, router: &Router) -> fmt::Result {
    let scores = match router.scores {
        ExpertScores::Softmax => "softmax(router)",
        ExpertScores::Sigmoid => "sigmoid(router)",
        ExpertScores::SparseMixer { jitter } => {
            return write!(
                f,
                "index, weights = two of router, one after the other, among those within {}",
                2.0 * jitter
            );
        }
    };
    write!(f, "index, weights = the {top_k} largest of {scores}")?;
    if router.correction == Bias::Stored {
        f.write_str(" + correction")?;
    }
    if let Some(groups) = router.groups {
        write!(f, " in {} of {} groups", groups.kept, groups.count)?;
    }
    if let ExpertWeights::Renormalised { .. } = router.weights {
        f.write_str(", renormalised")?;
    }
    if router.scale == 1.0 { Ok(()) } else { write!(f, ", times {}", router.scale) }
}

/// The values that are mixed.
fn values(keys: KeyHeads) -> &'static str {
    match keys {
        KeyHeads::Grouped => "values",
        KeyHeads::OfQueryHeads => "head values",
        KeyHeads::Lent { .. } | KeyHeads::Kept { .. } => "values of that block",
    }
}

/// Columns of a register, by name.
struct Part<'a> {
    heads: Heads,
    reg: Reg,
    columns: &'a Range<usize>,
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (q, k) = (self.heads.queries(), self.heads.keys());
        match (self.reg, self.columns.start) {
            (Reg::Qkv, 0) if self.columns.end > q + k => f.write_str("queries, keys, values"),
            (Reg::HeadKv, 0) if self.columns.end > q => f.write_str("head keys, head values"),
            (Reg::Qkv, start) if start < q && self.columns.end == q + k => f.write_str("queries, keys"),
            (Reg::Qkv, start) if start < q => f.write_str("queries"),
            (Reg::Qkv, start) if start < q + k => f.write_str("keys"),
            (Reg::Qkv, _) => f.write_str("values"),
            (Reg::HeadKv, start) if start < q => f.write_str("head keys"),
            (Reg::HeadKv, _) => f.write_str("head values"),
            (reg, _) => reg.fmt(f),
        }
    }
}

impl fmt::Display for Reg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reg::Embedded => "embedded",
            Reg::Stream => "stream",
            Reg::Read => "read",
            Reg::CompressedQueries => "compressed_queries",
            Reg::CompressedKv => "compressed_kv",
            Reg::KvLatent => "kv_latent",
            Reg::OwnQueries => "own_queries",
            Reg::OwnKv => "own_kv",
            Reg::Qkv => "qkv",
            Reg::HeadKv => "head_kv",
            Reg::Z => "z",
            Reg::AttnOut => "attn_out",
            Reg::Hidden => "hidden",
            Reg::MlpOut => "mlp_out",
            Reg::Head => "head",
            Reg::Unedited => "unedited",
            Reg::SharedHidden => "shared_hidden",
            Reg::SharedOut => "shared_out",
            Reg::PerLayer => "per_layer",
            Reg::PerLayerHidden => "per_layer_hidden",
            Reg::PerLayerOut => "per_layer_out",
            Reg::LentFull => "lent_full",
            Reg::LentSliding => "lent_sliding",
            Reg::RouterScores => "router",
            Reg::Mixed => "mixed",
            Reg::Convolved => "convolved",
            Reg::Selected => "selected",
            Reg::MixerZ => "mixer_z",
            Reg::MixerOut => "mixer_out",
            Reg::States => "states",
            Reg::RouterIndex => "router_index",
            Reg::RouterWeights => "router_weights",
            Reg::LatentRead => "latent_read",
            Reg::LatentSum => "latent_sum",
            Reg::ExpertOut => "expert_out",
            Reg::Moments => "moments",
            Reg::Final => "final",
            Reg::Projected => "projected",
            Reg::Pairs => "pairs",
            Reg::Logits => "logits",
        })
    }
}

impl fmt::Display for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Matrix::EmbeddingIn => "W_embed_in",
            Matrix::Qkv => "W_qkv",
            Matrix::CompressQueries => "W_compress_queries",
            Matrix::Queries => "W_queries",
            Matrix::CompressKv => "W_compress_kv",
            Matrix::KeysValues => "W_keys_values",
            Matrix::Out => "W_out",
            Matrix::Up => "W_up",
            Matrix::Down => "W_down",
            Matrix::Router => "W_router",
            Matrix::LatentIn => "W_latent_in",
            Matrix::LatentOut => "W_latent_out",
            Matrix::SharedUp => "W_shared_up",
            Matrix::SharedDown => "W_shared_down",
            Matrix::MixerIn => "W_mixer_in",
            Matrix::Select => "W_select",
            Matrix::MixerOut => "W_mixer_out",
            Matrix::EmbeddingOut => "W_embed_out",
            Matrix::PerLayerInputs => "W_per_layer_inputs",
            Matrix::PerLayerGate => "W_per_layer_gate",
            Matrix::PerLayerOut => "W_per_layer_out",
        })
    }
}

impl fmt::Display for NormAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NormAt::Embedding => "embedding",
            NormAt::Attention => "attention",
            NormAt::AttentionPost => "attention_post",
            NormAt::Mlp => "mlp",
            NormAt::MlpPost => "mlp_post",
            NormAt::Gate => "gate",
            NormAt::Selected => "selected",
            NormAt::CompressedQueries => "compressed_queries",
            NormAt::KvLatent => "kv_latent",
            NormAt::Queries => "queries",
            NormAt::Keys => "keys",
            NormAt::Values => "values",
            NormAt::Router => "router",
            NormAt::Experts => "experts",
            NormAt::ExpertsPost => "experts_post",
            NormAt::SharedPost => "shared_post",
            NormAt::PerLayer => "per_layer",
            NormAt::PerLayerPost => "per_layer_post",
            NormAt::Final => "final",
        })
    }
}

fn kind(norm: &Norm) -> &'static str {
    match norm.kind {
        NormKind::Layer | NormKind::LayerNoBias | NormKind::LayerNoParams | NormKind::LayerOffset => {
            "layer_norm"
        }
        NormKind::Rms | NormKind::RmsOffset | NormKind::RmsNoParams => "rms_norm",
    }
}

fn word(act: Activation) -> String {
    format!("{act:?}").to_lowercase()
}
