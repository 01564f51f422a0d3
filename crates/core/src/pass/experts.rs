//! The equations of a layer of experts, with every place where a tap may look.

use std::ops::Range;

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::emitter::Emitter;
use super::reg::Reg::{
    self, ExpertOut, LatentRead, LatentSum, MlpOut, Read, RouterIndex, RouterScores, RouterWeights,
    SharedHidden, SharedOut, Stream,
};
use super::step::{Matrix, NormAt, Step, Values};
use crate::arch::{ExpertGate, Mlp, Norm, SharedWeight};
use crate::tap::Want;

/// `mlp_out = sum of weight * expert(read) + shared(read)`; the experts may read a compressed stream, whose sum then goes
/// back to the width of the stream.
pub(super) fn experts(p: &mut Emitter<'_>) {
    let Some(Mlp::Experts { count, top_k, d_mlp, latent, gate, router, shared }) = p.layer().mlp else {
        return;
    };
    if let Some(norm) = router.apart {
        // The shared expert reads first; the router and the experts then read the stream afresh.
        beside(p, norm);
        p.norm(Some(norm), NormAt::Router, Stream, Read);
    }
    p.product(Read, Matrix::Router, Finish::Store, RouterScores);
    p.visit(Site::RouterLogits, RouterScores);
    p.push(Step::Route { top_k, router });
    p.visit(Site::RouterIndex, RouterIndex);
    p.visit(Site::RouterWeights, RouterWeights);
    if let Some(norm) = router.apart {
        p.norm(Some(norm), NormAt::Experts, Stream, Read);
    }
    if latent.is_some() {
        p.product(Read, Matrix::LatentIn, Finish::Store, LatentRead);
        Routed { from: LatentRead, to: LatentSum, top_k, d_mlp, gate }.sum(p, count);
        p.product(LatentSum, Matrix::LatentOut, Finish::Store, MlpOut);
    } else {
        Routed { from: Read, to: MlpOut, top_k, d_mlp, gate }.sum(p, count);
    }
    if let Some(norm) = router.apart {
        p.norm_in_place(Some(norm), NormAt::ExpertsPost, MlpOut);
        p.add(SharedOut, MlpOut);
    } else if let Some(shared) = shared {
        let finish = match gate {
            ExpertGate::None(_) => Finish::Activate(shared.act),
            ExpertGate::Plain(_) | ExpertGate::Clamped { .. } => Finish::Gate(shared.act),
        };
        p.product(Read, Matrix::SharedUp, finish, SharedHidden);
        p.product(SharedHidden, Matrix::SharedDown, Finish::Store, SharedOut);
        if shared.weight == SharedWeight::Sigmoid {
            p.push(Step::WeighShared);
        }
        p.visit(Site::SharedOut, SharedOut);
        p.add(SharedOut, MlpOut);
    }
}

/// The shared expert, which every token goes through, before the others, with a norm on its output.
fn beside(p: &mut Emitter<'_>, norm: Norm) {
    let Some(Mlp::Experts { shared: Some(shared), .. }) = p.layer().mlp else { return };
    p.product(Read, Matrix::SharedUp, Finish::Gate(shared.act), SharedHidden);
    p.product(SharedHidden, Matrix::SharedDown, Finish::Store, SharedOut);
    p.norm_in_place(Some(norm), NormAt::SharedPost, SharedOut);
    p.visit(Site::SharedOut, SharedOut);
}

/// Experts chosen by a router.
struct Routed {
    from: Reg,
    to: Reg,
    top_k: usize,
    d_mlp: usize,
    gate: ExpertGate,
}

impl Routed {
    /// The sum of all, in ascending order. An expert that a tap looks at is computed separately.
    fn sum(&self, p: &mut Emitter<'_>, count: usize) {
        let Routed { from, to, top_k, d_mlp, gate } = *self;
        let mut first = 0;
        for expert in 0..count {
            let want = p.want(Site::ExpertOut, Some(expert));
            if want > Want::Nothing {
                self.unseen(p, first..expert);
                p.push(Step::ExpertOut { expert, from, gate, d_mlp, top_k });
                let values = Values::Columns(ExpertOut, 0..p.width(ExpertOut));
                p.visit_as(want, Site::ExpertOut, Some(expert), values);
                p.push(Step::AddExpert { expert, to });
                first = expert + 1;
            }
        }
        self.unseen(p, first..count);
    }

    fn unseen(&self, p: &mut Emitter<'_>, experts: Range<usize>) {
        let Routed { from, to, top_k, d_mlp, gate } = *self;
        if !experts.is_empty() {
            p.push(Step::Experts { experts, from, to, gate, d_mlp, top_k });
        }
    }
}
