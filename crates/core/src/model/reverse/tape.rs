//! Records what backward rules need of the forward run.

use easyroutine_kernels::{Finish, RowsMut};

use super::state::{Saved, Walk};
use super::{copy, shows_pairs};
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::pass::{At, Reg, Section, Step};

impl Saved {
    /// Keeps only these tokens, ascending.
    pub(super) fn keep(&mut self, tokens: &[usize]) {
        let rows = || tokens.iter().copied();
        match self {
            Saved::Rows(buffer) => buffer.keep(rows()),
            Saved::Keys(shared, own) => [shared, own].into_iter().for_each(|buffer| buffer.keep(rows())),
            Saved::Nothing | Saved::Square(_) => {}
        }
    }
}

impl Walk<'_> {
    /// Runs a section forward on the stream in its register, and records what its rules need.
    pub(super) fn tape(&mut self, section: &Section) -> Result<Vec<Saved>> {
        self.tape_of(section.at, &section.steps)
    }

    /// The same for some of a section's steps.
    pub(super) fn tape_of(&mut self, at: At, steps: &[Step]) -> Result<Vec<Saved>> {
        steps.iter().map(|step| self.taped(at, step)).collect()
    }

    fn taped(&mut self, at: At, step: &Step) -> Result<Saved> {
        let registers = &self.run.registers;
        let before = match step {
            Step::Norm { from, .. } => Saved::Rows(copy(registers.get(*from).rows())),
            Step::NormInPlace { reg, columns, .. } | Step::Clamp { reg, columns, .. } => {
                Saved::Rows(copy(registers.get(*reg).rows().columns(columns.clone())))
            }
            Step::NormLatent { width, .. } => {
                Saved::Rows(copy(registers.get(Reg::CompressedKv).rows().columns(0..*width)))
            }
            Step::Gate { reg, columns, .. } => {
                Saved::Rows(copy(registers.get(*reg).rows().columns(columns.clone())))
            }
            Step::GatePerLayer { .. } => Saved::Rows(copy(registers.get(Reg::PerLayerHidden).rows())),
            Step::AddExpert { .. } => Saved::Rows(copy(registers.get(Reg::ExpertOut).rows())),
            Step::WeighShared => Saved::Rows(copy(registers.get(Reg::SharedOut).rows())),
            Step::Xielu => Saved::Rows(copy(registers.get(Reg::Hidden).rows())),
            Step::NormHeadKeys { .. } => {
                let keys = registers.get(Reg::Qkv).rows();
                Saved::Keys(copy(keys), copy(registers.get(Reg::HeadKv).rows()))
            }
            Step::Product { finish: Finish::Activate(_) | Finish::Gate(_), .. } => {
                return self.activated(at, step).map(Saved::Rows);
            }
            Step::Mix { .. } => Saved::Square(registers.pairs.first().cloned().unwrap_or_default()),
            step if shows_pairs(step) => Saved::Square(registers.pairs.first().cloned().unwrap_or_default()),
            _ => Saved::Nothing,
        };
        self.run.step(at, step)?;
        if matches!(step, Step::Softmax { .. }) {
            return Ok(Saved::Square(self.run.registers.pairs.first().cloned().unwrap_or_default()));
        }
        Ok(before)
    }

    /// A product and its activation in two steps: the same bits, and the value in between.
    fn activated(&mut self, at: At, step: &Step) -> Result<Buffer> {
        let Step::Product { from, matrix, outputs, finish, to, .. } = step else {
            return Ok(Buffer::default());
        };
        let model = self.run.model;
        let projection = model.weights.matrix(at, *matrix)?;
        let (from, to) = self.run.registers.pair(*from, *to);
        let mut sums = Buffer::default();
        sums.resize(from.n_rows(), projection.outputs());
        projection.apply(&model.cpu, from.left(), sums.rows_mut());
        let (rows, mut out) = (sums.rows(), to.resize(from.n_rows(), *outputs));
        for row in 0..rows.n_rows() {
            out.row_mut(row).copy_from_slice(&rows.row(row)[..*outputs]);
        }
        match finish {
            Finish::Activate(act) => model.cpu.activate(*act, out),
            Finish::Gate(act) => {
                model.cpu.activate(*act, out.reborrow());
                multiply(rows.columns(*outputs..2 * *outputs), out);
            }
            Finish::Store | Finish::Add => {}
        }
        Ok(sums)
    }
}

/// out *= by
fn multiply(by: easyroutine_kernels::Rows<'_>, mut out: RowsMut<'_>) {
    for row in 0..out.n_rows() {
        out.row_mut(row).iter_mut().zip(by.row(row)).for_each(|(out, by)| *out *= by);
    }
}
