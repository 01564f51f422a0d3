//! One forward pass as data: a list of steps over named buffers.
//!
//! From an architecture and the taps' wants, `emit` writes down everything that a run computes and shows; running it
//! makes no further choice. docs/design/pass.md tells how a pass comes about.

mod attention;
mod block;
mod emitter;
mod ends;
mod experts;
mod finish;
mod outline;
mod recurrence;
mod reg;
mod show;
mod step;
#[cfg(test)]
mod tests;

use easyroutine_sites::Point;

use crate::arch::Arch;
use crate::tap::Want;
use emitter::Emitter;
pub(crate) use outline::multiplications;
pub use outline::{Outline, Row, outline};
pub(crate) use reg::{MATRICES, Reg, Regs};
pub(crate) use step::{Form, KeyHeads, Matrix, NormAt, Step, Values, Visit};

/// A pass, or a range of its sections.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Program {
    pub(crate) sections: Vec<Section>,
}

/// The steps of one section of a pass.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Section {
    pub(crate) at: At,
    pub(crate) steps: Vec<Step>,
    /// What later sections read of the registers.
    pub(crate) leaves: Regs,
}

/// A section of a pass, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum At {
    Embedding,
    Block(usize),
    Unembedding,
}

/// The request for a pass.
pub(crate) struct Asked<'a> {
    /// What taps want at a point. Asked once per point, in the order of the pass.
    pub(crate) wants: &'a dyn Fn(Point) -> Want,
    /// If rows continue earlier tokens: whether a layer's cache has one key per query head.
    pub(crate) past: Option<&'a dyn Fn(usize) -> bool>,
    /// Number of heads whose patterns are held at a time.
    pub(crate) heads_at_once: usize,
}

/// The pass, or a range of its sections, as far as anything is wanted. Unless it ends with the unembedding, it computes
/// the stream that leaves it.
pub(crate) fn emit(arch: &Arch, asked: &Asked<'_>, sections: impl IntoIterator<Item = At>) -> Program {
    let written = sections.into_iter().map(|at| {
        Emitter::section(
            arch,
            asked,
            at,
            match at {
                At::Embedding => ends::embedding,
                At::Block(_) => block::block,
                At::Unembedding => ends::unembedding,
            },
        )
    });
    let mut sections: Vec<Section> = written.collect();
    let is_whole = sections.last().is_none_or(|section| section.at == At::Unembedding);
    finish::finish(&mut sections, if is_whole { Regs::NONE } else { Regs::of(&[Reg::Stream]) });
    Program { sections }
}

/// The steps of a block needed for the states of its recurrence.
pub(crate) fn emit_states(arch: &Arch, asked: &Asked<'_>, layer: usize) -> Program {
    let mut sections = vec![Emitter::section(arch, asked, At::Block(layer), block::block)];
    finish::finish(&mut sections, Regs::NONE);
    Program { sections }
}

impl Program {
    /// All visits of taps, in order.
    #[cfg(test)]
    pub(crate) fn visits(&self) -> impl Iterator<Item = (Point, &Visit)> {
        self.steps().filter_map(|(at, step)| match step {
            Step::Visit(visit) => Some((at.point(visit.site, visit.number), visit)),
            _ => None,
        })
    }

    /// The points that taps see after [`Step::Narrow`].
    pub(crate) fn points_of_some_tokens(&self) -> impl Iterator<Item = Point> {
        let after = self.steps().skip_while(|(_, step)| !matches!(step, Step::Narrow { .. }));
        after.filter_map(|(at, step)| match step {
            Step::Visit(visit) => Some(at.point(visit.site, visit.number)),
            _ => None,
        })
    }

    fn steps(&self) -> impl Iterator<Item = (At, &Step)> {
        self.sections.iter().flat_map(|section| section.steps.iter().map(|step| (section.at, step)))
    }
}
