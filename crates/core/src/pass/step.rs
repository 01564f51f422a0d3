//! The steps of a pass, and what each reads and writes.

use std::ops::Range;

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::reg::{Reg, Regs};
use crate::arch::{Activation, ExpertGate, Norm, Pooling, QueryGrowth, Router, State};
use crate::tap::{Keeping, Want};

/// A linear map of the model. The step's section determines its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Matrix {
    /// From the embedding's width to the stream's.
    EmbeddingIn,
    /// Queries, keys and values in one.
    Qkv,
    /// To the compressed queries.
    CompressQueries,
    /// To the queries, if they are separate.
    Queries,
    /// To the compressed keys and values, and the shared part of keys.
    CompressKv,
    /// From these to each head's own part of its key, and its value.
    KeysValues,
    /// Attention's output projection.
    Out,
    /// The MLP's first projection; gate and up in one for a gated MLP.
    Up,
    /// The MLP's last projection.
    Down,
    /// Scores of experts; always in f32, so that rounding changes no choice.
    Router,
    /// From the stream's width to that of experts that read another.
    LatentIn,
    /// From what such experts give to the stream's width.
    LatentOut,
    /// The shared expert's first projection, gate and up in one.
    SharedUp,
    /// The shared expert's last projection.
    SharedDown,
    /// The first projection of a recurrence.
    MixerIn,
    /// From its convolution's output to steps and weights of its state.
    Select,
    /// The last projection of a recurrence.
    MixerOut,
    /// From the stream's width back to the embedding's.
    EmbeddingOut,
    /// From the first stream to the additional inputs of all layers.
    PerLayerInputs,
    /// From the stream to the gate of a layer's additional input.
    PerLayerGate,
    /// From that input to the stream.
    PerLayerOut,
}

/// A norm of the model, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NormAt {
    /// On the embedding.
    Embedding,
    /// Before attention; in a block that norms the stream, after attention's output is added.
    Attention,
    /// On attention's output.
    AttentionPost,
    /// Before the MLP; in a block that norms the stream, after the MLP's output is added.
    Mlp,
    /// On the MLP's output.
    MlpPost,
    /// Next to the gate of a recurrence.
    Gate,
    /// Of what a selective scan projects from the convolved columns.
    Selected,
    /// Of compressed queries.
    CompressedQueries,
    /// Of compressed keys and values.
    KvLatent,
    /// Of queries.
    Queries,
    /// Of keys.
    Keys,
    /// Of values.
    Values,
    /// Before a router that reads the stream.
    Router,
    /// Before experts that read the stream.
    Experts,
    /// On the output of such experts.
    ExpertsPost,
    /// On the output of the shared expert next to them.
    SharedPost,
    /// Of the layers' additional inputs.
    PerLayer,
    /// On the output of such an input.
    PerLayerPost,
    /// Before the unembedding.
    Final,
}

/// The keys and values that a query head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyHeads {
    /// Those of its group, from [`Reg::Qkv`].
    Grouped,
    /// Its own, from [`Reg::HeadKv`].
    OfQueryHeads,
    /// Those of an earlier layer, from this register.
    Lent { layer: usize, reg: Reg },
    /// Those of an earlier layer, from the cache.
    Kept { layer: usize },
}

/// The form in which a step writes its result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// Rows of f32.
    #[default]
    Rows,
    /// Directly in the type that products multiply, because only products read it.
    Operand,
}

/// One step of a pass.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// to = the embedding's rows of the ids, times a factor.
    Embed { to: Reg, scale: Option<f32> },
    /// to += learned positions; position 0 takes the row `offset`.
    Positions { to: Reg, offset: usize },
    /// to = from
    Copy { from: Reg, to: Reg },
    /// to = norm(from)
    Norm { at: NormAt, norm: Norm, from: Reg, to: Reg, form: Form },
    /// The norm of each group of `group` columns, in place.
    NormInPlace { at: NormAt, norm: Norm, reg: Reg, columns: Range<usize>, group: usize },
    /// kv_latent = norm of the first columns of compressed_kv.
    NormLatent { norm: Norm, width: usize },
    /// Joins queries, keys and values; a key is its own part, then the columns shared by all heads.
    JoinHeads { shared: usize },
    /// Norms each query head's own key as if it were among the shared keys, since a norm may span all of them.
    NormHeadKeys { norm: Norm, group: usize },
    /// to = from W^T + b, followed by `finish`.
    Product { from: Reg, matrix: Matrix, inputs: usize, outputs: usize, finish: Finish, to: Reg, form: Form },
    /// One head's columns through its slice of the output projection, without the bias.
    HeadProduct { head: usize, from: Reg, columns: Range<usize>, to: Reg },
    /// Rotates pairs of columns of each head to their positions, by one of the rotary tables.
    Rotate { reg: Reg, columns: Range<usize>, rope: usize },
    /// Clamps values to `-to..to`.
    Clamp { reg: Reg, columns: Range<usize>, to: f32 },
    /// Queries times `1 + beta ln(1 + floor(position / original))`.
    Grow { columns: Range<usize>, growth: QueryGrowth },
    /// values = keys, of each head.
    KeysToValues,
    /// per_layer += the ids' rows of the additional-input table, times a factor.
    AddPerLayer { scale: f32 },
    /// per_layer_hidden *= the layer's columns of per_layer.
    GatePerLayer { columns: Range<usize> },
    /// The stream times a stored factor.
    ScaleLeaving,
    /// Stores keys and values where later layers read them.
    Lend { keys: KeyHeads, to: Reg },
    /// Copies keys and values, one per query head.
    Spread,
    /// Appends keys and values to those of earlier tokens.
    Keep { keys: KeyHeads },
    /// z = softmax(scores) v for all heads.
    Attend { keys: KeyHeads, form: Form },
    /// The same for a range of heads, whose patterns are written too.
    Patterns { heads: Range<usize>, keys: KeyHeads, form: Form },
    /// The scores of one head.
    Scores { head: usize, keys: KeyHeads },
    /// The softmax of one head's scores, in place.
    Softmax { head: usize },
    /// One head's columns of z from its pattern.
    Mix { head: usize, keys: KeyHeads },
    /// attn_out += head - unedited: a tap's change to a head's output.
    AddDifference { head: usize },
    /// hidden = xielu(hidden), with the layer's parameters.
    Xielu,
    /// to = act(the causal convolution of the first columns of mixed)
    Convolve { to: Reg, kernel: usize, act: Option<Activation> },
    /// selected = each block of columns of convolved through its own matrices: gates of a linear recurrent unit.
    SelectBlocks { width: usize, blocks: usize },
    /// mixer_z = the selective scan of convolved
    SelectiveScan(State),
    /// mixer_z = the state space of convolved
    StateSpace(State),
    /// mixer_z = the gated delta rule of convolved
    GatedDelta(State),
    /// mixer_z = the linear recurrent unit of convolved
    RecurrentUnit(State),
    /// reg *= act(columns of from)
    Gate { reg: Reg, columns: Range<usize>, from: Reg, by: Range<usize>, act: Option<Activation> },
    /// A range of columns of reg *= by
    ScaleColumns { reg: Reg, columns: Range<usize>, by: f32 },
    /// Stores the states of a recurrence for the tokens to come.
    KeepStates,
    /// reg *= by
    Scale { reg: Reg, by: f32 },
    /// to += from
    Add { from: Reg, to: Reg },
    /// The best experts of each token, with weights.
    Route { top_k: usize, router: Router },
    /// to += the weighted sum of the outputs of a token's experts in this range. The first range allocates the sum.
    Experts { experts: Range<usize>, from: Reg, to: Reg, gate: ExpertGate, d_mlp: usize, top_k: usize },
    /// One expert's output for the tokens routed to it.
    ExpertOut { expert: usize, from: Reg, gate: ExpertGate, d_mlp: usize, top_k: usize },
    /// to += weight * expert_out, for the tokens routed to it. The first expert allocates the sum.
    AddExpert { expert: usize, to: Reg },
    /// shared_out *= sigmoid(w read)
    WeighShared,
    /// From here on only tokens that some tap needs are computed.
    Narrow { live: Regs },
    /// Statistics of the stream, for the final norm.
    Moments,
    /// Selects the stream at the tokens for which any of these sites is wanted.
    Choose { sites: Vec<Site>, pooling: Pooling },
    /// logits = from U^T + b
    Unembed { from: Reg, inputs: usize, outputs: usize },
    /// logits /= by
    Divide { by: f32 },
    /// logits = cap · tanh(logits / cap)
    Softcap { cap: f32 },
    /// A tap looks, and may change what it sees.
    Visit(Visit),
}

/// A place where a tap looks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    pub(crate) site: Site,
    /// The head or the expert.
    pub(crate) number: Option<usize>,
    pub(crate) want: Want,
    pub(crate) values: Values,
}

/// What a tap sees.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Values {
    /// Columns of a register.
    Columns(Reg, Range<usize>),
    /// The keys in [`Reg::HeadKv`], one per group: query heads of a group with the same key share it.
    SharedKeys { width: usize },
    /// A register with rows of the chosen tokens.
    Chosen(Reg),
    /// One of the squares in [`Reg::Pairs`].
    Pairs { square: usize, keeping: Keeping },
    /// [`Reg::Logits`], which a tap may keep.
    Logits { width: usize, pooling: Pooling },
}

/// The effects of a step on registers.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// Registers that it reads.
    pub(crate) reads: Regs,
    /// Registers that it writes; the contents of those that it does not also read are lost.
    pub(crate) writes: Regs,
    /// Registers that it uses as rows of f32.
    pub(crate) rows: Regs,
}

impl KeyHeads {
    /// The register of new keys and values.
    fn reg(self) -> Reg {
        match self {
            KeyHeads::Grouped => Reg::Qkv,
            KeyHeads::OfQueryHeads => Reg::HeadKv,
            KeyHeads::Lent { reg, .. } => reg,
            // The queries, which are read anyway.
            KeyHeads::Kept { .. } => Reg::Qkv,
        }
    }
}

impl Step {
    /// The step's effects on registers.
    pub(crate) fn effects(&self) -> Effects {
        use Reg::{
            AttnOut, CompressedKv, ExpertOut, Final, Head, HeadKv, Hidden, KvLatent, Logits, Moments, OwnKv,
            OwnQueries, Pairs, PerLayer, PerLayerHidden, Qkv, Read,
        };
        use Reg::{Convolved, Mixed, MixerZ, RouterIndex, RouterScores, RouterWeights, Selected, SharedOut};
        use Reg::{States, Stream, Unedited, Z};
        let effects = |reads: &[Reg], writes: &[Reg]| Effects {
            reads: Regs::of(reads),
            writes: Regs::of(writes),
            rows: Regs::NONE,
        };
        // The first head allocates room for all; so does the first expert.
        let z = |first: bool| if first { Regs::NONE } else { Regs::of(&[Z]) };
        let sum = |to: Reg, first: bool| if first { Regs::NONE } else { Regs::of(&[to]) };
        match self {
            Step::Embed { to, .. } => effects(&[], &[*to]),
            Step::Positions { to, .. } => effects(&[*to], &[*to]),
            Step::Copy { from, to } | Step::Norm { from, to, .. } => effects(&[*from], &[*to]),
            Step::NormInPlace { reg, .. } | Step::Rotate { reg, .. } | Step::Clamp { reg, .. } => {
                effects(&[*reg], &[*reg])
            }
            Step::Scale { reg, .. } => Effects { rows: Regs::of(&[*reg]), ..effects(&[*reg], &[*reg]) },
            Step::Convolve { to, .. } => effects(&[Mixed], &[*to, States]),
            Step::SelectBlocks { .. } => effects(&[Convolved], &[Selected]),
            Step::SelectiveScan(_) | Step::RecurrentUnit(_) => {
                effects(&[Convolved, Selected], &[MixerZ, States])
            }
            Step::StateSpace(_) | Step::GatedDelta(_) => effects(&[Convolved, Mixed], &[MixerZ, States]),
            Step::Gate { reg, from, .. } => {
                Effects { rows: Regs::of(&[*reg, *from]), ..effects(&[*reg, *from], &[*reg]) }
            }
            Step::ScaleColumns { reg, .. } => effects(&[*reg], &[*reg]),
            Step::KeepStates => effects(&[States], &[]),
            Step::Grow { .. } => effects(&[Qkv], &[Qkv]),
            Step::Xielu => effects(&[Hidden], &[Hidden]),
            Step::NormLatent { .. } => {
                Effects { rows: Regs::of(&[CompressedKv]), ..effects(&[CompressedKv], &[KvLatent]) }
            }
            Step::JoinHeads { .. } => effects(&[OwnQueries, OwnKv, CompressedKv], &[Qkv]),
            Step::NormHeadKeys { .. } => effects(&[Qkv, HeadKv], &[HeadKv]),
            Step::Product { from, finish: Finish::Add, to, .. } | Step::Add { from, to } => {
                effects(&[*from, *to], &[*to])
            }
            Step::Product { from, matrix: Matrix::Router, to, .. } | Step::HeadProduct { from, to, .. } => {
                Effects { rows: Regs::of(&[*from]), ..effects(&[*from], &[*to]) }
            }
            Step::Product { from, to, .. } => effects(&[*from], &[*to]),
            Step::KeysToValues => effects(&[Qkv], &[Qkv]),
            Step::AddPerLayer { .. } => effects(&[PerLayer], &[PerLayer]),
            Step::GatePerLayer { .. } => Effects {
                rows: Regs::of(&[PerLayerHidden]),
                ..effects(&[PerLayer, PerLayerHidden], &[PerLayerHidden])
            },
            Step::ScaleLeaving => effects(&[Stream], &[Stream]),
            Step::Lend { keys, to } => effects(&[keys.reg()], &[*to]),
            Step::Spread => effects(&[Qkv], &[HeadKv]),
            Step::Keep { keys } => effects(&[keys.reg()], &[]),
            Step::Attend { keys, .. } => effects(&[Qkv, keys.reg()], &[Z]),
            Step::Patterns { heads, keys, .. } => {
                let effects = effects(&[Qkv, keys.reg()], &[Z, Pairs]);
                Effects { reads: effects.reads.and(z(heads.start == 0)), ..effects }
            }
            Step::Scores { keys, .. } => effects(&[Qkv, keys.reg()], &[Pairs]),
            Step::Softmax { .. } => effects(&[Pairs], &[Pairs]),
            Step::Mix { head, keys } => {
                let effects = effects(&[Pairs, keys.reg()], &[Z]);
                Effects { reads: effects.reads.and(z(*head == 0)), rows: Regs::of(&[Z]), ..effects }
            }
            Step::AddDifference { .. } => effects(&[Head, Unedited, AttnOut], &[AttnOut]),
            Step::Route { .. } => effects(&[RouterScores], &[RouterIndex, RouterWeights]),
            Step::Experts { experts, from, to, .. } => {
                let effects = effects(&[*from, RouterIndex, RouterWeights], &[*to]);
                let reads = effects.reads.and(sum(*to, experts.start == 0));
                Effects { reads, rows: Regs::of(&[*from]), ..effects }
            }
            Step::ExpertOut { from, .. } => {
                Effects { rows: Regs::of(&[*from]), ..effects(&[*from, RouterIndex], &[ExpertOut]) }
            }
            Step::AddExpert { expert, to } => {
                let effects = effects(&[ExpertOut, RouterIndex, RouterWeights], &[*to]);
                Effects { reads: effects.reads.and(sum(*to, *expert == 0)), ..effects }
            }
            Step::WeighShared => {
                Effects { rows: Regs::of(&[Read]), ..effects(&[Read, SharedOut], &[SharedOut]) }
            }
            Step::Narrow { live } => Effects { reads: *live, writes: *live, rows: Regs::NONE },
            Step::Moments => effects(&[Stream], &[Moments]),
            Step::Choose { .. } => effects(&[Stream], &[Final]),
            Step::Unembed { from, .. } => effects(&[*from], &[Logits]),
            Step::Divide { .. } | Step::Softcap { .. } => effects(&[Logits], &[Logits]),
            Step::Visit(visit) => {
                let reg = match visit.values {
                    Values::Columns(reg, _) | Values::Chosen(reg) => reg,
                    Values::SharedKeys { .. } => HeadKv,
                    Values::Pairs { .. } => Pairs,
                    Values::Logits { .. } => Logits,
                };
                match visit.want {
                    Want::Replace => effects(&[], &[reg]),
                    Want::Edit => Effects { rows: Regs::of(&[reg]), ..effects(&[reg], &[reg]) },
                    Want::Read | Want::Nothing => Effects { rows: Regs::of(&[reg]), ..effects(&[reg], &[]) },
                }
            }
        }
    }

    /// Whether the step has an effect besides writing registers, so that it stays even if nobody reads them.
    pub(crate) fn is_lasting(&self) -> bool {
        matches!(self, Step::Visit(_) | Step::Keep { .. } | Step::KeepStates)
    }

    /// The head or expert that the step works on, if it is a single one.
    pub(super) fn of_one(&self) -> Option<usize> {
        match self {
            Step::HeadProduct { head, .. }
            | Step::Scores { head, .. }
            | Step::Softmax { head }
            | Step::Mix { head, .. }
            | Step::AddDifference { head } => Some(*head),
            Step::ExpertOut { expert, .. } | Step::AddExpert { expert, .. } => Some(*expert),
            Step::Visit(visit) => visit.number,
            _ => None,
        }
    }

    /// The form of the step's result, if it can be chosen.
    pub(super) fn form_mut(&mut self) -> Option<(Reg, &mut Form)> {
        match self {
            Step::Norm { to, form, .. }
            | Step::Product { finish: Finish::Activate(_) | Finish::Gate(_), to, form, .. } => {
                Some((*to, form))
            }
            Step::Attend { form, .. } | Step::Patterns { form, .. } => Some((Reg::Z, form)),
            _ => None,
        }
    }
}
