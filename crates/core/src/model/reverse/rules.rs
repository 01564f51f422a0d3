//! Which steps have a rule.

use crate::pass::Step;

/// Whether a step has a backward rule.
pub(super) fn has_rule(step: &Step) -> bool {
    matches!(
        step,
        Step::Route { .. }
            | Step::Experts { .. }
            | Step::ExpertOut { .. }
            | Step::AddExpert { .. }
            | Step::WeighShared
            | Step::Embed { .. }
            | Step::Positions { .. }
            | Step::Copy { .. }
            | Step::Norm { .. }
            | Step::NormInPlace { .. }
            | Step::NormLatent { .. }
            | Step::JoinHeads { .. }
            | Step::KeysToValues
            | Step::ScaleLeaving
            | Step::AddPerLayer { .. }
            | Step::GatePerLayer { .. }
            | Step::Lend { .. }
            | Step::Convolve { .. }
            | Step::SelectBlocks { .. }
            | Step::SelectiveScan(_)
            | Step::StateSpace(_)
            | Step::GatedDelta(_)
            | Step::RecurrentUnit(_)
            | Step::Gate { .. }
            | Step::ScaleColumns { .. }
            | Step::NormHeadKeys { .. }
            | Step::Product { .. }
            | Step::HeadProduct { .. }
            | Step::Rotate { .. }
            | Step::Clamp { .. }
            | Step::Grow { .. }
            | Step::Xielu
            | Step::Spread
            | Step::Attend { .. }
            | Step::Scores { .. }
            | Step::Softmax { .. }
            | Step::Mix { .. }
            | Step::AddDifference { .. }
            | Step::Scale { .. }
            | Step::Add { .. }
            | Step::Narrow { .. }
            | Step::Choose { .. }
            | Step::Unembed { .. }
            | Step::Divide { .. }
            | Step::Softcap { .. }
            | Step::Visit(_)
    )
}

/// What a step is about that RelP has no rule for.
pub(super) fn beyond_relp(step: &Step) -> Option<&'static str> {
    match step {
        Step::Route { .. } => Some("experts"),
        Step::Convolve { .. } => Some("recurrences"),
        Step::Gate { .. } => Some("gates of attention"),
        Step::GatePerLayer { .. } => Some("further inputs of layers"),
        _ => None,
    }
}

/// Whether a step's rule reads, of the tokens that are not walked, nothing but what attention does.
pub(super) fn is_by_token(step: &Step) -> bool {
    matches!(
        step,
        Step::Copy { .. }
            | Step::Norm { .. }
            | Step::NormInPlace { .. }
            | Step::NormHeadKeys { .. }
            | Step::NormLatent { .. }
            | Step::JoinHeads { .. }
            | Step::KeysToValues
            | Step::Product { .. }
            | Step::Rotate { .. }
            | Step::Clamp { .. }
            | Step::Spread
            | Step::Lend { .. }
            | Step::Attend { .. }
            | Step::Xielu
            | Step::ScaleColumns { .. }
            | Step::ScaleLeaving
            | Step::Scale { .. }
            | Step::Add { .. }
            // Nothing is narrowed in a run that is walked back.
            | Step::Narrow { .. }
    )
}
