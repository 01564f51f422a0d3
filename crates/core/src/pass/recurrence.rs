//! The equations of a recurrence, with every place where a tap may look.

use easyroutine_kernels::Finish;
use easyroutine_sites::Site;

use super::emitter::Emitter;
use super::reg::Reg::{Convolved, Mixed, MixerOut, MixerZ, Read, Selected};
use super::step::{Matrix, NormAt, Step};
use crate::arch::{GateNorm, Norm, Recurrence, State};

/// `mixer_out = recurrence(read)`
pub(super) fn recurrence(p: &mut Emitter<'_>, recurrence: Recurrence) {
    let Recurrence { kernel, act, state, gate, .. } = recurrence;
    let (convolved, width) = (recurrence.convolved(), recurrence.width());
    let rest = convolved + width..p.width(Mixed);
    p.visit(Site::MixerIn, Read);
    p.scale(Read, p.layer().factors.recurrence_in);
    p.product(Read, Matrix::MixerIn, Finish::Store, Mixed);
    if let (Some(factors), State::Space { heads, d_head, groups, size, .. }) = (recurrence.factors, state) {
        let mut start = 0;
        for (width, by) in
            [heads * d_head, groups * size, groups * size, width, heads].into_iter().zip(factors)
        {
            p.push(Step::ScaleColumns { reg: Mixed, columns: start..start + width, by });
            start += width;
        }
    }
    if let State::None { .. } = state {
        p.push(Step::Gate { reg: Mixed, columns: 0..convolved, from: Mixed, by: rest, act: None });
        p.push(Step::Convolve { to: MixerZ, kernel, act });
    } else {
        p.push(Step::Convolve { to: Convolved, kernel, act });
    }
    match state {
        State::None { .. } => {}
        State::Selective { size, rank, norm, .. } => {
            p.product(Convolved, Matrix::Select, Finish::Store, Selected);
            if let Some(norm) = norm {
                for (columns, group) in [(0..rank, rank), (rank..rank + 2 * size, size)] {
                    p.push(Step::NormInPlace { at: NormAt::Selected, norm, reg: Selected, columns, group });
                }
            }
            p.push(Step::SelectiveScan(state));
        }
        State::Space { .. } => p.push(Step::StateSpace(state)),
        State::Delta { .. } => p.push(Step::GatedDelta(state)),
        State::Unit { width, blocks } => {
            p.push(Step::SelectBlocks { width, blocks });
            p.push(Step::RecurrentUnit(state));
        }
    }
    if p.asked.past.is_some() {
        p.push(Step::KeepStates);
    }
    if let GateNorm::Before(norm, group) | GateNorm::BeforeOwnWeights(norm, group) = gate.norm {
        norm_groups(p, norm, group);
    }
    let by = convolved..convolved + width;
    p.push(Step::Gate { reg: MixerZ, columns: 0..width, from: Mixed, by, act: gate.act });
    if let GateNorm::AfterOwnWeights(norm, group) = gate.norm {
        norm_groups(p, norm, group);
    }
    p.visit(Site::MixerZ, MixerZ);
    p.product(MixerZ, Matrix::MixerOut, Finish::Store, MixerOut);
}

/// Norms the recurrence's output in groups of columns.
fn norm_groups(p: &mut Emitter<'_>, norm: Norm, group: usize) {
    let columns = 0..p.width(MixerZ);
    p.push(Step::NormInPlace { at: NormAt::Gate, norm, reg: MixerZ, columns, group });
}
