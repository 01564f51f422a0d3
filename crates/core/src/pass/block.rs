//! The equations of a block, with every place where a tap may look.

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::attention::attention;
use super::emitter::Emitter;
use super::experts::experts;
use super::recurrence::recurrence;
use super::reg::Reg::{AttnOut, Hidden, MixerOut, MlpOut, PerLayerHidden, PerLayerOut, Read, Stream};
use super::step::{Matrix, NormAt, Step};
use crate::arch::{Bias, Mlp, Norms, StreamNorm, Wiring};

/// One block: what it reads from the residual stream, and what it adds.
pub(super) fn block(p: &mut Emitter<'_>) {
    p.visit(Site::ResidIn, Stream);
    match p.layer().wiring {
        Wiring::Sequential { attention: around_attention, mlp: around_mlp } => {
            mix(p, around_attention);
            add_mixed(p);
            if p.layer().mixes() && p.layer().mlp.is_some() {
                p.visit(Site::ResidMid, Stream);
            }
            p.narrow();
            mlp(p, NormAt::Mlp, around_mlp);
            add_mlp(p);
        }
        Wiring::Parallel { attention: before_attention, mlp: before_mlp } => {
            mix(p, Norms { pre: Some(before_attention), post: None });
            p.narrow();
            // A norm that both share is computed twice: an edit of `attn_in` must not reach the MLP.
            let (at, norm) = match before_mlp {
                Some(norm) => (NormAt::Mlp, norm),
                None => (NormAt::Attention, before_attention),
            };
            mlp(p, at, Norms { pre: Some(norm), post: None });
            add_mixed(p);
            add_mlp(p);
        }
        Wiring::NormOnStream { attention, mlp: of_mlp, side } => {
            let at = |this, norm| Some(norm).filter(|_| side == this);
            let none = Norms { pre: None, post: None };
            p.norm_in_place(at(StreamNorm::Before, attention), NormAt::Attention, Stream);
            mix(p, none);
            add_mixed(p);
            p.norm_in_place(at(StreamNorm::After, attention), NormAt::Attention, Stream);
            p.visit(Site::ResidMid, Stream);
            p.narrow();
            p.norm_in_place(at(StreamNorm::Before, of_mlp), NormAt::Mlp, Stream);
            mlp(p, NormAt::Mlp, none);
            add_mlp(p);
            p.norm_in_place(at(StreamNorm::After, of_mlp), NormAt::Mlp, Stream);
        }
    }
    per_layer(p);
    if p.layer().leaving_scale == Bias::Stored {
        p.push(Step::ScaleLeaving);
    }
    p.visit(Site::ResidOut, Stream);
}

/// The outputs of the block's attention and recurrence, each with its own copy of the input.
fn mix(p: &mut Emitter<'_>, around: Norms) {
    let factors = p.layer().factors;
    if p.layer().attention.is_some() {
        p.norm(around.pre, NormAt::Attention, Stream, Read);
        p.scale(Read, factors.attention_in);
        attention(p);
        p.norm_in_place(around.post, NormAt::AttentionPost, AttnOut);
        p.scale(AttnOut, factors.attention);
        p.visit(Site::AttnOut, AttnOut);
    }
    if let Some(described) = p.layer().recurrence {
        p.norm(around.pre, NormAt::Attention, Stream, Read);
        recurrence(p, described);
        p.norm_in_place(around.post, NormAt::AttentionPost, MixerOut);
        p.scale(MixerOut, factors.recurrence);
        p.visit(Site::MixerOut, MixerOut);
    }
}

fn add_mixed(p: &mut Emitter<'_>) {
    if p.layer().attention.is_some() {
        p.add(AttnOut, Stream);
    }
    if p.layer().recurrence.is_some() {
        p.add(MixerOut, Stream);
    }
}

/// The output of the block's MLP, from the stream after the norm at `at`.
fn mlp(p: &mut Emitter<'_>, at: NormAt, around: Norms) {
    if p.layer().mlp.is_some() {
        p.norm(around.pre, at, Stream, Read);
        neurons(p);
        p.norm_in_place(around.post, NormAt::MlpPost, MlpOut);
        p.scale(MlpOut, p.layer().factors.mlp);
        p.visit(Site::MlpOut, MlpOut);
    }
}

fn add_mlp(p: &mut Emitter<'_>) {
    if p.layer().mlp.is_some() {
        p.add(MlpOut, Stream);
    }
}

/// `stream += norm(W (gate(stream) * input))`, if the layer has an additional input.
fn per_layer(p: &mut Emitter<'_>) {
    let Some(inputs) = p.arch.per_layer else { return };
    let first = p.number() * inputs.width;
    p.product(Stream, Matrix::PerLayerGate, Finish::Activate(inputs.act), PerLayerHidden);
    p.push(Step::GatePerLayer { columns: first..first + inputs.width });
    p.product(PerLayerHidden, Matrix::PerLayerOut, Finish::Store, PerLayerOut);
    p.norm_in_place(Some(inputs.norm), NormAt::PerLayerPost, PerLayerOut);
    p.visit(Site::PerLayerOut, PerLayerOut);
    p.add(PerLayerOut, Stream);
}

/// `mlp_out = mlp(read)`
fn neurons(p: &mut Emitter<'_>) {
    p.visit(Site::MlpIn, Read);
    let Some(mlp) = p.layer().mlp else { return };
    match mlp {
        Mlp::Plain { act, .. } => {
            p.product(Read, Matrix::Up, Finish::Activate(act), Hidden);
            p.visit(Site::MlpHidden, Hidden);
            p.product(Hidden, Matrix::Down, Finish::Store, MlpOut);
        }
        Mlp::Xielu { .. } => {
            p.product(Read, Matrix::Up, Finish::Store, Hidden);
            p.push(Step::Xielu);
            p.visit(Site::MlpHidden, Hidden);
            p.product(Hidden, Matrix::Down, Finish::Store, MlpOut);
        }
        Mlp::Gated { act, .. } => {
            p.product(Read, Matrix::Up, Finish::Gate(act), Hidden);
            p.visit(Site::MlpHidden, Hidden);
            p.product(Hidden, Matrix::Down, Finish::Store, MlpOut);
        }
        Mlp::Experts { .. } => experts(p),
    }
}
