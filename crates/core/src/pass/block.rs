//! The equations of a block, with every place where a tap may look.

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::attention::attention;
use super::emitter::Emitter;
use super::step::Reg::{AttnOut, Hidden, MlpOut, Read, RouterScores, SharedHidden, SharedOut, Stream};
use super::step::{Matrix, NormAt, Step};
use crate::arch::{Mlp, SharedWeight, Wiring};

/// One block: what reads the residual stream, and what is added to it.
pub(super) fn block(p: &mut Emitter<'_>) {
    let factor = p.layer().residual_scale;
    p.visit(Site::ResidIn, Stream);
    match p.layer().wiring {
        Wiring::Sequential { attention: around_attention, mlp: around_mlp } => {
            p.norm(around_attention.pre, NormAt::Attention, Stream, Read);
            attention(p);
            p.norm_in_place(around_attention.post, NormAt::AttentionPost, AttnOut);
            p.scale(AttnOut, factor);
            p.visit(Site::AttnOut, AttnOut);
            p.add(AttnOut, Stream);
            p.visit(Site::ResidMid, Stream);
            p.narrow();
            p.norm(around_mlp.pre, NormAt::Mlp, Stream, Read);
            mlp(p);
            p.norm_in_place(around_mlp.post, NormAt::MlpPost, MlpOut);
            p.scale(MlpOut, factor);
            p.visit(Site::MlpOut, MlpOut);
            p.add(MlpOut, Stream);
        }
        Wiring::Parallel { attention: before_attention, mlp: before_mlp } => {
            p.norm(Some(before_attention), NormAt::Attention, Stream, Read);
            attention(p);
            p.scale(AttnOut, factor);
            p.visit(Site::AttnOut, AttnOut);
            p.narrow();
            // A norm that both share is computed for each: an edit of `attn_in` must not reach the MLP.
            match before_mlp {
                Some(norm) => p.norm(Some(norm), NormAt::Mlp, Stream, Read),
                None => p.norm(Some(before_attention), NormAt::Attention, Stream, Read),
            }
            mlp(p);
            p.scale(MlpOut, factor);
            p.visit(Site::MlpOut, MlpOut);
            p.add(AttnOut, Stream);
            p.add(MlpOut, Stream);
        }
        Wiring::NormOnStream { attention: after_attention, mlp: after_mlp } => {
            p.norm(None, NormAt::Attention, Stream, Read);
            attention(p);
            p.scale(AttnOut, factor);
            p.visit(Site::AttnOut, AttnOut);
            p.add(AttnOut, Stream);
            p.norm_in_place(Some(after_attention), NormAt::Attention, Stream);
            p.visit(Site::ResidMid, Stream);
            p.narrow();
            p.norm(None, NormAt::Mlp, Stream, Read);
            mlp(p);
            p.scale(MlpOut, factor);
            p.visit(Site::MlpOut, MlpOut);
            p.add(MlpOut, Stream);
            p.norm_in_place(Some(after_mlp), NormAt::Mlp, Stream);
        }
    }
    p.visit(Site::ResidOut, Stream);
}

/// `mlp_out = mlp(read)`
fn mlp(p: &mut Emitter<'_>) {
    p.visit(Site::MlpIn, Read);
    match p.layer().mlp {
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
        Mlp::Experts { top_k, d_mlp, gate, router, shared, .. } => {
            p.product(Read, Matrix::Router, Finish::Store, RouterScores);
            p.push(Step::Route { top_k, router });
            p.push(Step::Experts { gate, d_mlp, top_k });
            if let Some(shared) = shared {
                p.product(Read, Matrix::SharedUp, Finish::Gate(shared.act), SharedHidden);
                p.product(SharedHidden, Matrix::SharedDown, Finish::Store, SharedOut);
                if shared.weight == SharedWeight::Sigmoid {
                    p.push(Step::WeighShared);
                }
                p.add(SharedOut, MlpOut);
            }
        }
    }
}
