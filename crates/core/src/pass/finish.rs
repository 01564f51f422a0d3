//! Removes steps whose results nobody reads, once all readers are known.

use super::Section;
use super::reg::Regs;
use super::step::{Form, Step};

/// Removes, from the end, steps whose results are not read, and chooses the form in which the others write. `live` is
/// read after the end.
pub(super) fn finish(sections: &mut Vec<Section>, mut live: Regs) {
    // Registers that a later step reads as rows of f32.
    let mut rows = live;
    for section in sections.iter_mut().rev() {
        section.leaves = live;
        let mut kept = Vec::with_capacity(section.steps.len());
        while let Some(mut step) = section.steps.pop() {
            if let Step::Narrow { live: narrowed } = &mut step {
                *narrowed = live;
            }
            let effects = step.effects();
            if effects.writes.both(live).is_empty() && !step.is_lasting() {
                continue;
            }
            if let Some((to, form)) = step.form_mut() {
                *form = if rows.has(to) { Form::Rows } else { Form::Operand };
            }
            let lost = effects.writes.without(effects.reads);
            live = live.without(lost).and(effects.reads);
            rows = rows.without(lost).and(effects.rows);
            kept.push(step);
        }
        kept.reverse();
        section.steps = kept;
    }
    sections.retain(|section| !section.steps.is_empty());
}
