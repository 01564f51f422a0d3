//! A backward rule for each step.

use easyroutine_kernels::{Finish, Rows};

use super::record::Kept;
use super::state::{Saved, Walk, add_row, put_columns};
use super::{Rule, is_shown, some};
use crate::error::Result;
use crate::model::attention::grow;
use crate::model::buffer::Buffer;
use crate::model::rotations::turning;
use crate::pass::{At, KeyHeads, Matrix, NormAt, Reg, Section, Step, Values, Visit};
use crate::tap::{Keeping, Tap, Value, Want};

impl Walk<'_> {
    /// Walks a section back, run again if it has no record, until `left` gradients were shown; returns how many were.
    pub(super) fn section(
        &mut self,
        section: &Section,
        kept: Kept,
        seeds: &mut dyn Tap,
        receiver: &mut dyn Tap,
        left: usize,
    ) -> Result<usize> {
        // Visits at the end need nothing of the forward run.
        let is_plain = |step: &&Step| matches!(step, Step::Visit(Visit { values: Values::Columns(..), .. }));
        let ends = section.steps.len() - section.steps.iter().rev().take_while(is_plain).count();
        let mut shown = 0;
        for step in section.steps[ends..].iter().rev() {
            shown += self.step_back(section.at, step, &Saved::Nothing, seeds, receiver)?;
        }
        if shown == left {
            return Ok(shown);
        }
        let steps = &section.steps[..ends];
        let tape = match kept.record {
            Some(record) => self.restore(record),
            None => {
                self.load(kept.stream);
                self.tape_of(section.at, steps)?
            }
        };
        for (step, saved) in steps.iter().zip(tape).rev() {
            shown += self.step_back(section.at, step, &saved, seeds, receiver)?;
            if shown == left {
                break;
            }
        }
        Ok(shown)
    }

    /// Walks the steps of a section back; returns how many gradients were shown.
    pub(super) fn back(
        &mut self,
        section: &Section,
        tape: Vec<Saved>,
        seeds: &mut dyn Tap,
        receiver: &mut dyn Tap,
    ) -> Result<usize> {
        let mut shown = 0;
        for (step, saved) in section.steps.iter().zip(tape).rev() {
            shown += self.step_back(section.at, step, &saved, seeds, receiver)?;
        }
        Ok(shown)
    }

    fn step_back(
        &mut self,
        at: At,
        step: &Step,
        saved: &Saved,
        seeds: &mut dyn Tap,
        receiver: &mut dyn Tap,
    ) -> Result<usize> {
        if let Step::Visit(visit) = step {
            self.visit_back(at, visit, saved, seeds, receiver)?;
            return Ok(usize::from(is_shown(at, step, receiver)));
        }
        self.rule_of(at, step, saved)?;
        Ok(0)
    }

    pub(super) fn rule_of(&mut self, at: At, step: &Step, saved: &Saved) -> Result<()> {
        let model = self.run.model;
        let (cpu, weights) = (&model.cpu, &model.weights);
        match step {
            Step::Copy { from, to } => {
                if let Some(g) = self.gradients.take(*to) {
                    self.add(*from, g);
                }
            }
            Step::Norm { at: place, from, to, .. } => {
                if let (Some(g), Saved::Rows(x)) = (self.gradients.take(*to), saved) {
                    let group = x.rows().n_columns();
                    let out = self.gradients.sum(*from, x.rows().n_rows(), group);
                    weights.norm(at, *place)?.back(cpu, self.rule.scale(), x.rows(), group, g.rows(), out);
                    self.gradients.free(g);
                }
            }
            Step::NormInPlace { at: place, reg, columns, group, .. } => {
                if let (Some(mut g), Saved::Rows(x)) = (self.gradients.take(*reg), saved) {
                    let mut out = self.gradients.zeros(x.rows().n_rows(), x.rows().n_columns());
                    let own = g.rows().columns(columns.clone());
                    let norm = weights.norm(at, *place)?;
                    norm.back(cpu, self.rule.scale(), x.rows(), *group, own, out.rows_mut());
                    put_columns(out.rows(), g.rows_mut().columns(columns.clone()));
                    self.gradients.free(out);
                    self.gradients.put(*reg, g);
                }
            }
            Step::NormHeadKeys { group, .. } => {
                self.head_keys_back(at, weights.norm(at, NormAt::Keys)?, *group, saved)
            }
            Step::Product { from, matrix, finish, to, .. } => {
                self.product_back(at, *matrix, [*from, *to], *finish, saved)?;
            }
            Step::HeadProduct { head, from, columns, to } => {
                if let Some(g) = self.gradients.take(*to) {
                    let (tokens, width) = (g.rows().n_rows(), self.run.registers.get(*from).n_columns());
                    let mut of_edited = self.of_edited.take();
                    let sum = of_edited.get_or_insert_with(|| self.gradients.zeros(tokens, width));
                    let out = sum.rows_mut().columns(columns.clone());
                    weights.matrix(at, Matrix::Out)?.part_back(cpu, columns.len(), *head, g.rows(), out);
                    self.of_edited = of_edited;
                    self.gradients.free(g);
                }
            }
            Step::Rotate { reg, columns, rope } => {
                let table = &model.arch.ropes[*rope];
                let angles = self.run.rotations(*rope);
                if let Some(g) = self.gradients.get_mut(*reg) {
                    let (cos, opposite) = (angles.cos(), angles.opposite());
                    let sin = Rows::dense(&opposite, cos.n_rows(), cos.n_columns());
                    let walked = self.tokens.as_ref().map(|tokens| [cos, sin].map(|rows| some(rows, tokens)));
                    let [cos, sin] =
                        walked.as_ref().map_or([cos, sin], |walked| walked.each_ref().map(Buffer::rows));
                    let turning = turning(table, model.arch.heads(at.layer().unwrap_or(0)));
                    cpu.rotary(g.columns(columns.clone()), turning, cos, sin);
                }
            }
            Step::Clamp { reg, columns, to } => {
                if let (Some(g), Saved::Rows(x)) = (self.gradients.get_mut(*reg), saved) {
                    let mut g = g.columns(columns.clone());
                    for row in 0..g.n_rows() {
                        let cells = g.row_mut(row).iter_mut().zip(x.rows().row(row));
                        cells.filter(|(_, x)| x.abs() > *to).for_each(|(g, _)| *g = 0.0);
                    }
                }
            }
            Step::Grow { columns, growth } => {
                if let Some(g) = self.gradients.get_mut(Reg::Qkv) {
                    grow(self.run.batch, g.columns(columns.clone()), *growth);
                }
            }
            Step::Xielu => {
                if let (Some(g), Saved::Rows(x)) = (self.gradients.get_mut(Reg::Hidden), saved) {
                    weights.xielu(at)?.back(x.rows(), g, self.rule == Rule::Gradient);
                }
            }
            Step::NormLatent { .. } => {
                if let (Some(g), Saved::Rows(x)) = (self.gradients.take(Reg::KvLatent), saved) {
                    self.norm_latent_back(weights.norm(at, NormAt::KvLatent)?, x, &g);
                    self.gradients.free(g);
                }
            }
            Step::JoinHeads { shared } => self.join_heads_back(at, *shared),
            Step::KeysToValues => self.keys_to_values_back(at),
            Step::ScaleLeaving => {
                if let Some(g) = self.gradients.get_mut(Reg::Stream) {
                    cpu.scale(g, weights.block(at)?.leaving_scale.unwrap_or(1.0));
                }
            }
            Step::GatePerLayer { columns } => {
                let (to, from) = (Reg::PerLayerHidden, Reg::PerLayer);
                self.gate_back((to, 0..columns.len()), (from, columns.clone()), None, saved);
            }
            Step::Lend { keys, to } => self.lend_back(at, *keys, *to),
            Step::Convolve { to, act, .. } => self.convolve_back(at, *to, *act)?,
            Step::SelectBlocks { width, blocks } => self.select_blocks_back(at, *width, *blocks)?,
            Step::SelectiveScan(state)
            | Step::StateSpace(state)
            | Step::GatedDelta(state)
            | Step::RecurrentUnit(state) => self.carry_back(at, *state)?,
            Step::Gate { reg, columns, from, by, act } => {
                self.gate_back((*reg, columns.clone()), (*from, by.clone()), *act, saved);
            }
            Step::ScaleColumns { reg, columns, by } => {
                if let Some(g) = self.gradients.get_mut(*reg) {
                    cpu.scale(g.columns(columns.clone()), *by);
                }
            }
            Step::Spread => self.spread_back(at),
            Step::Attend { keys, .. } => self.attend_back(at, *keys)?,
            Step::Scores { head, keys } => self.scores_back(at, *head, *keys)?,
            Step::Softmax { .. } => self.softmax_back(at, saved)?,
            Step::Mix { head, keys } => self.mix_back(at, *head, *keys, saved)?,
            Step::AddDifference { .. } => self.difference_back(),
            Step::Scale { reg, by } => {
                if let Some(g) = self.gradients.get_mut(*reg) {
                    cpu.scale(g, *by);
                }
            }
            Step::Add { from, to } => {
                if let Some(g) = self.gradients.get(*to).map(super::copy) {
                    self.add(*from, g);
                }
            }
            Step::Route { router, .. } => self.route_back(router, weights.of_router(at)?[1]),
            Step::Experts { .. } => self.experts_back(at, step)?,
            Step::ExpertOut { expert, from, gate, .. } => {
                self.expert_out_back(at, *expert, *from, *gate)?;
            }
            Step::AddExpert { expert, to } => self.add_expert_back(*expert, *to, saved),
            Step::WeighShared => self.weigh_shared_back(at, saved)?,
            Step::Choose { .. } => {
                if let Some(g) = self.gradients.take(Reg::Final) {
                    let (tokens, width) = (self.run.batch.n_tokens(), g.rows().n_columns());
                    let mut stream = self.gradients.sum(Reg::Stream, tokens, width);
                    for (i, token) in self.run.registers.chosen.iter().enumerate() {
                        add_row(g.rows().row(i), stream.row_mut(*token));
                    }
                    self.gradients.free(g);
                }
            }
            Step::Unembed { from, inputs, outputs } => self.unembed_back(*from, *inputs, *outputs),
            Step::Divide { .. } => weights.unembedding.scale(&mut self.logits),
            Step::Softcap { cap } => {
                for (g, logit) in self.logits.iter_mut().zip(&self.capped) {
                    let t = logit / cap;
                    *g *= 1.0 - t * t;
                }
            }
            // Nothing below the embedding is differentiated, and visits were handled above.
            _ => {}
        }
        Ok(())
    }

    fn product_back(
        &mut self,
        at: At,
        matrix: Matrix,
        [from, to]: [Reg; 2],
        finish: Finish,
        saved: &Saved,
    ) -> Result<()> {
        // Nothing below the embedding is requested.
        if from == Reg::Embedded {
            return Ok(());
        }
        let model = self.run.model;
        let Some(mut g) = self.gradients.take(to) else { return Ok(()) };
        match (finish, saved) {
            (Finish::Activate(act), Saved::Rows(x)) => {
                model.cpu.activate_back(act, self.rule.slope(), x.rows(), g.rows_mut());
            }
            (Finish::Gate(act), Saved::Rows(x)) => {
                let mut both = self.gradients.room(x.rows().n_rows(), x.rows().n_columns());
                model.cpu.gate_back(act, self.rule.slope(), x.rows(), g.rows(), both.rows_mut());
                self.gradients.free(std::mem::replace(&mut g, both));
            }
            _ => {}
        }
        let projection = model.weights.matrix(at, matrix)?;
        let transposed = match &mut self.transposed {
            None => &projection.transposed(&model.cpu),
            Some(kept) => {
                let known = kept.iter().position(|(of, _)| *of == matrix);
                let index = known.unwrap_or_else(|| {
                    kept.push((matrix, projection.transposed(&model.cpu)));
                    kept.len() - 1
                });
                &kept[index].1
            }
        };
        let tokens = g.rows().n_rows();
        match self.gradients.get_mut(from) {
            Some(sum) => transposed.back(&model.cpu, g.rows(), Finish::Add, sum),
            None => {
                let mut out = self.gradients.room(tokens, projection.inputs());
                transposed.back(&model.cpu, g.rows(), Finish::Store, out.rows_mut());
                self.gradients.put(from, out);
            }
        }
        // The target of an addition keeps its gradient.
        match finish {
            Finish::Add => self.gradients.put(to, g),
            _ => self.gradients.free(g),
        }
        Ok(())
    }

    fn unembed_back(&mut self, from: Reg, inputs: usize, outputs: usize) {
        let model = self.run.model;
        let matrix = &model.weights.unembedding.matrix;
        let rows = self.logits.len() / outputs.max(1);
        let mut out = self.gradients.zeros(rows, inputs);
        let g = Rows::dense(&self.logits, rows, outputs);
        // Most metrics read a logit or two: their rows cost less than the matrix.
        const FEW: usize = 8;
        let is_sparse = (0..rows).all(|row| g.row(row).iter().filter(|g| **g != 0.0).count() <= FEW);
        if is_sparse && !matrix.is_updated() {
            let mut weights = vec![0.0; inputs];
            for row in 0..rows {
                for (id, g) in g.row(row).iter().enumerate().filter(|(_, g)| **g != 0.0) {
                    matrix.matrix.read_row(id, &mut weights);
                    let mut out = out.rows_mut();
                    out.row_mut(row).iter_mut().zip(&weights).for_each(|(sum, w)| *sum += g * w);
                }
            }
        } else {
            matrix.back_in_parts(&model.cpu, g, out.rows_mut());
        }
        self.add(from, out);
    }

    /// A tap's change to a head's output: attn_out += head - unedited.
    fn difference_back(&mut self) {
        if let Some(g) = self.gradients.get(Reg::AttnOut).map(super::copy) {
            let mut negative = super::copy(g.rows());
            self.run.model.cpu.scale(negative.rows_mut(), -1.0);
            self.add(Reg::Head, g);
            self.add(Reg::Unedited, negative);
        }
    }

    fn visit_back(
        &mut self,
        at: At,
        visit: &Visit,
        saved: &Saved,
        seeds: &mut dyn Tap,
        receiver: &mut dyn Tap,
    ) -> Result<()> {
        let point = at.point(visit.site, visit.number);
        let seeds = Some(seeds).filter(|seeds| seeds.wants(point) > Want::Nothing);
        let receiver = Some(receiver).filter(|receiver| receiver.wants(point) > Want::Nothing);
        let is_edited = self.edits.borrow().wants(point) > Want::Nothing;
        if seeds.is_none() && receiver.is_none() && !is_edited {
            return Ok(());
        }
        let batch = self.run.batch;
        match &visit.values {
            Values::Columns(reg, columns) => {
                let width = match reg {
                    Reg::Stream => self.run.model.arch.d_model,
                    _ => self.run.registers.get(*reg).n_columns(),
                };
                // A head's output is a term of the sum of all heads, so it has the sum's gradient, whatever edits made
                // of it before.
                let (shown, of_shown) = match reg {
                    Reg::Head => (Reg::AttnOut, 0..columns.len()),
                    _ => (*reg, columns.clone()),
                };
                if seeds.is_some() || receiver.is_some() {
                    let rows = self.gradients.sum(shown, batch.n_tokens(), width).columns(of_shown);
                    let mut value = Value::of_tokens(rows, batch);
                    if let Some(seeds) = seeds {
                        seeds.at(point, &mut value)?;
                    }
                    if let Some(receiver) = receiver {
                        receiver.at(point, &mut value)?;
                    }
                }
                if is_edited && self.edits.borrow().leads_on(point) {
                    self.gradients.sum(*reg, batch.n_tokens(), width);
                }
                if is_edited && let Some(rows) = self.gradients.get_mut(*reg) {
                    let mut value = Value::of_tokens(rows.columns(columns.clone()), batch);
                    self.edits.borrow_mut().back(point, None, &mut value)?;
                }
            }
            Values::SharedKeys { width } => {
                let mut sum = self.gradient_of_shared_keys(at, *width);
                if let Some(seeds) = seeds {
                    let mut added = self.gradients.zeros(batch.n_tokens(), *width);
                    seeds.at(point, &mut Value::of_tokens(added.rows_mut(), batch))?;
                    self.run.model.cpu.add(added.rows(), sum.rows_mut());
                    self.add_to_shared_keys(at, added.rows());
                    self.gradients.free(added);
                }
                if let Some(receiver) = receiver {
                    receiver.at(point, &mut Value::of_tokens(sum.rows_mut(), batch))?;
                }
                self.gradients.free(sum);
                if is_edited {
                    self.shared_keys_back(at, point, *width)?;
                }
            }
            Values::Chosen(reg) => {
                if let Some(receiver) = receiver {
                    let width = self.run.registers.get(*reg).n_columns();
                    let rows = self.gradients.sum(*reg, self.run.registers.chosen.len(), width);
                    let values = (0..rows.n_rows()).flat_map(|row| rows.row(row)).copied().collect();
                    receiver
                        .at(point, &mut Value::of_some(values, width, &self.run.registers.chosen, batch))?;
                }
            }
            Values::Pairs { .. } => {
                let Saved::Square(before) = saved else { return Ok(()) };
                let window = self.run.model.weights.attention(at, KeyHeads::Grouped)?.window;
                let mut square = self.square.take().unwrap_or_else(|| vec![0.0; before.len()]);
                let mut value = Value::of_pairs(&mut square, window, Keeping::Refused, batch);
                if let Some(seeds) = seeds {
                    seeds.at(point, &mut value)?;
                }
                if let Some(receiver) = receiver {
                    receiver.at(point, &mut value)?;
                }
                if is_edited {
                    self.edits.borrow_mut().back(point, Some(before), &mut value)?;
                }
                drop(value);
                self.square = Some(square);
            }
            Values::Logits { width, .. } => {
                if let Some(receiver) = receiver {
                    let shown = self.logits.clone();
                    receiver
                        .at(point, &mut Value::of_some(shown, *width, &self.run.registers.chosen, batch))?;
                }
            }
        }
        Ok(())
    }
}
