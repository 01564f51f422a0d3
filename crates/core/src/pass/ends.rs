//! The equations before the first block and after the last.

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::emitter::Emitter;
use super::reg::Reg::{Embedded, Final, Moments, PerLayer, Projected, Stream};
use super::step::{Matrix, NormAt, Step, Values};
use crate::arch::{Head, Pooling};
use crate::tap::Want;

/// From token ids to the first residual stream.
pub(super) fn embedding(p: &mut Emitter<'_>) {
    let embed = &p.arch.embed;
    if embed.width == p.arch.d_model {
        p.push(Step::Embed { to: Stream, scale: embed.scale });
    } else {
        p.push(Step::Embed { to: Embedded, scale: embed.scale });
        p.product(Embedded, Matrix::EmbeddingIn, Finish::Store, Stream);
    }
    if let Some(positions) = embed.positions {
        p.push(Step::Positions { to: Stream, offset: positions.offset });
    }
    p.norm_in_place(embed.norm, NormAt::Embedding, Stream);
    p.visit(Site::InputEmbeddings, Stream);
    if let Some(inputs) = p.arch.per_layer {
        p.product(Stream, Matrix::PerLayerInputs, Finish::Store, PerLayer);
        p.scale(PerLayer, Some((p.arch.d_model as f64).powf(-0.5) as f32));
        let columns = 0..p.width(PerLayer);
        let (at, norm, group) = (NormAt::PerLayer, inputs.norm, inputs.width);
        p.push(Step::NormInPlace { at, norm, reg: PerLayer, columns, group });
        p.push(Step::AddPerLayer { scale: (inputs.width as f64).sqrt() as f32 });
        p.scale(PerLayer, Some(0.5_f64.sqrt() as f32));
    }
}

/// From the last residual stream to logits, or to the output of another head.
pub(super) fn unembedding(p: &mut Emitter<'_>) {
    let arch = p.arch;
    if arch.final_norm.is_some() {
        p.push(Step::Moments);
        p.visit(Site::LastLayernorm, Moments);
    }
    let (site, outputs, pooling) = match &arch.head {
        Head::Unembedding => (Site::Logits, arch.vocabulary, Pooling::EachToken),
        Head::Score(score) => (Site::Score, score.labels, score.pooling),
        Head::Nothing { .. } => return,
    };
    let has_norm_out = arch.final_norm.is_some() && pooling == Pooling::EachToken;
    let normed = if has_norm_out { p.want(Site::FinalNormOut, None) } else { Want::Nothing };
    let want = p.want(site, None);
    let wants = [(Site::FinalNormOut, normed), (site, want)];
    let sites = wants.iter().filter(|(_, want)| *want > Want::Nothing).map(|(site, _)| *site).collect();
    p.push(Step::Choose { sites, pooling });
    p.norm_in_place(arch.final_norm, NormAt::Final, Final);
    p.visit_as(normed, Site::FinalNormOut, None, Values::Chosen(Final));
    let mut from = Final;
    if arch.embed.width != arch.d_model {
        p.product(Final, Matrix::EmbeddingOut, Finish::Store, Projected);
        from = Projected;
    }
    p.push(Step::Unembed { from, inputs: p.width(from), outputs });
    if arch.head == Head::Unembedding {
        if let Some(by) = arch.unembed.divisor {
            p.push(Step::Divide { by });
        }
        if let Some(cap) = arch.unembed.softcap {
            p.push(Step::Softcap { cap });
        }
    }
    p.visit_as(want, site, None, Values::Logits { width: outputs, pooling });
}
