//! Runs a pass step by step.

use easyroutine_kernels::{Dtype, Finish, RowsMut, Sequence, large_values};
use easyroutine_sites::Site;

use super::embed::round_to_bf16;
use super::past::Past;
use super::registers::Registers;
use super::rotations::{Rotations, turning};
use super::unembed::{moments, pooled};
use super::{Model, router as choice};
use crate::arch::Pooling;
use crate::batch::Batch;
use crate::error::Result;
use crate::pass::{At, Form, KeyHeads, Matrix, NormAt, Program, Reg, Section, Step, Values, Visit};
use crate::stop::Stop;
use crate::tap::{Tap, Value, Want};

/// State of a run.
pub(crate) struct Run<'a> {
    pub(super) model: &'a Model,
    /// The tokens computed.
    pub(super) batch: &'a Batch,
    /// The tokens that continue after [`Step::Narrow`], if not all.
    tails: Option<&'a Batch>,
    pub(super) registers: &'a mut Registers,
    pub(super) tap: &'a mut dyn Tap,
    /// What precedes the batch's tokens.
    pub(super) past: Past<'a>,
    /// Rows of the batch as attention sees them.
    pub(super) sequences: Vec<Sequence>,
    /// One per rotary table of the architecture, made when a step first needs it.
    rotations: Vec<Option<Rotations>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        model: &'a Model,
        batch: &'a Batch,
        tails: Option<&'a Batch>,
        tap: &'a mut dyn Tap,
        registers: &'a mut Registers,
        past: Past<'a>,
    ) -> Self {
        let sequences = past.sequences(batch);
        let rotations = model.arch.ropes.iter().map(|_| None).collect();
        Run { model, batch, tails, registers, tap, past, sequences, rotations }
    }

    /// Runs all steps.
    ///
    /// # Errors
    /// If the tap fails, a file cannot be read, or the run was stopped.
    pub(super) fn all(&mut self, program: &Program, stop: Stop<'_>) -> Result<()> {
        for section in &program.sections {
            if let At::Block(_) = section.at {
                stop.check()?;
            }
            self.section(section)?;
        }
        Ok(())
    }

    /// Runs the steps of one section.
    pub(super) fn section(&mut self, section: &Section) -> Result<()> {
        self.model.enter(section.at);
        section.steps.iter().try_for_each(|step| self.step(section.at, step))
    }

    /// Cosines and sines of one rotary table for the tokens of the batch.
    pub(super) fn rotations(&mut self, rope: usize) -> &Rotations {
        let table = &self.model.arch.ropes[rope];
        self.rotations[rope].get_or_insert_with(|| Rotations::new(table, self.batch))
    }

    pub(super) fn step(&mut self, at: At, step: &Step) -> Result<()> {
        let model = self.model;
        let (cpu, weights, tokens) = (&model.cpu, &model.weights, self.batch.n_tokens());
        match step {
            Step::Embed { to, scale } => {
                let embedding = &weights.embedding;
                let factor = scale.map(|s| if model.dtype == Dtype::Bf16 { round_to_bf16(s) } else { s });
                let out = self.registers.get_mut(*to).resize(tokens, embedding.width);
                embedding.look_up(self.batch, factor, out)?;
            }
            Step::Positions { to, offset } => {
                weights.embedding.add_positions(self.batch, *offset, self.registers.get_mut(*to).rows_mut());
            }
            Step::Copy { from, to } => {
                let (from, to) = self.registers.pair(*from, *to);
                let mut out = to.resize(from.rows().n_rows(), from.rows().n_columns());
                (0..out.n_rows()).for_each(|i| out.row_mut(i).copy_from_slice(from.rows().row(i)));
            }
            Step::Norm { at: place, from, to, form, .. } => {
                let (from, to) = self.registers.pair(*from, *to);
                let out = to.resize_as(*form, model.dtype, from.n_rows(), from.rows().n_columns());
                weights.norm(at, *place)?.apply(cpu, from.rows(), out);
            }
            Step::NormInPlace { at: place, reg, columns, group, .. } => {
                let rows = self.registers.get_mut(*reg).rows_mut().columns(columns.clone());
                weights.norm(at, *place)?.apply_in_place(cpu, rows, *group);
            }
            Step::NormHeadKeys { group, .. } => {
                self.norm_head_keys(at, weights.norm(at, NormAt::Keys)?, *group);
            }
            Step::Product { from, matrix, outputs, finish, to, form, .. } => {
                self.product(at, *matrix, [*from, *to], *outputs, *finish, *form)?;
            }
            Step::HeadProduct { head, from, columns, to } => {
                let (from, to) = self.registers.pair(*from, *to);
                let vectors = from.rows().columns(columns.clone());
                let projection = weights.matrix(at, Matrix::Out)?;
                let out = to.resize(vectors.n_rows(), projection.outputs());
                projection.apply_part(cpu, vectors, *head, out);
            }
            Step::Rotate { reg, columns, rope } => {
                let table = &model.arch.ropes[*rope];
                let angles = self.rotations[*rope].get_or_insert_with(|| Rotations::new(table, self.batch));
                let rows = self.registers.get_mut(*reg).rows_mut().columns(columns.clone());
                let heads = model.arch.heads(at.layer().unwrap_or(0));
                cpu.rotary(rows, turning(table, heads), angles.cos(), angles.sin());
            }
            Step::Clamp { reg, columns, to } => {
                let mut rows = self.registers.get_mut(*reg).rows_mut().columns(columns.clone());
                // NaN stays NaN.
                (0..tokens).for_each(|i| rows.row_mut(i).iter_mut().for_each(|x| *x = x.clamp(-to, *to)));
            }
            Step::Grow { columns, growth } => self.grow(columns.clone(), *growth),
            Step::NormLatent { width, .. } => self.norm_latent(weights.norm(at, NormAt::KvLatent)?, *width),
            Step::JoinHeads { shared } => self.join_heads(at, *shared),
            Step::KeysToValues => self.keys_to_values(at),
            Step::AddPerLayer { scale } => {
                let factor = if model.dtype == Dtype::Bf16 { round_to_bf16(*scale) } else { *scale };
                let rows = self.registers.get_mut(Reg::PerLayer).rows_mut();
                weights.embedding.add_per_layer(self.batch, factor, rows);
            }
            Step::GatePerLayer { columns } => {
                let (inputs, out) = self.registers.pair(Reg::PerLayer, Reg::PerLayerHidden);
                let (inputs, mut out) = (inputs.rows().columns(columns.clone()), out.rows_mut());
                for token in 0..out.n_rows() {
                    let cells = out.row_mut(token).iter_mut().zip(inputs.row(token));
                    cells.for_each(|(out, x)| *out *= x);
                }
            }
            Step::ScaleLeaving => {
                let factor = weights.block(at)?.leaving_scale.unwrap_or(1.0);
                cpu.scale(self.registers.get_mut(Reg::Stream).rows_mut(), factor);
            }
            Step::Lend { keys, to } => self.lend(at, *keys, *to)?,
            Step::Spread => self.spread(at),
            Step::Keep { keys } => self.keep(at, *keys)?,
            Step::Attend { keys, form } => self.attend(at, *keys, *form)?,
            Step::Patterns { heads, keys, form } => self.patterns(at, heads.clone(), *keys, *form)?,
            Step::Scores { head, keys } => self.scores(at, *head, *keys)?,
            Step::Softmax { head } => self.softmax(at, *head)?,
            Step::Mix { head, keys } => self.mix(at, *head, *keys)?,
            Step::AddDifference { .. } => self.add_difference(),
            Step::Xielu => weights.xielu(at)?.apply(self.registers.get_mut(Reg::Hidden).rows_mut()),
            Step::Convolve { to, .. } => self.convolve(at, *to)?,
            Step::SelectBlocks { blocks, .. } => self.select_blocks(at, *blocks)?,
            Step::SelectiveScan(state)
            | Step::StateSpace(state)
            | Step::GatedDelta(state)
            | Step::RecurrentUnit(state) => self.carry(at, *state)?,
            Step::Gate { reg, columns, from, by, act } => {
                self.gate((*reg, columns.clone()), (*from, by.clone()), *act);
            }
            Step::ScaleColumns { reg, columns, by } => {
                cpu.scale(self.registers.get_mut(*reg).rows_mut().columns(columns.clone()), *by);
            }
            Step::KeepStates => {
                self.past.keep_states(at.layer().unwrap_or(0), &mut self.registers.states);
            }
            Step::Scale { reg, by } => cpu.scale(self.registers.get_mut(*reg).rows_mut(), *by),
            Step::Add { from, to } => {
                let (from, to) = self.registers.pair(*from, *to);
                cpu.add(from.rows(), to.rows_mut());
            }
            Step::Route { top_k, router } => {
                let [mut index, mut chosen] =
                    [Reg::RouterIndex, Reg::RouterWeights].map(|reg| self.registers.take(reg));
                let scores = self.registers.get(Reg::RouterScores).rows();
                let out = (index.resize(tokens, *top_k), chosen.resize(tokens, *top_k));
                choice::route(scores, router, weights.of_router(at)?, out.0, out.1);
                self.registers.put(Reg::RouterIndex, index);
                self.registers.put(Reg::RouterWeights, chosen);
            }
            Step::WeighShared => self.weigh_shared(at)?,
            Step::Experts { experts, from, to, gate, .. } => {
                self.experts(at, experts.clone(), [*from, *to], *gate)?;
            }
            Step::ExpertOut { expert, from, gate, .. } => self.expert_out(at, *expert, *from, *gate)?,
            Step::AddExpert { expert, to } => self.add_expert(*expert, *to),
            Step::Narrow { live } => self.narrow(live.iter()),
            Step::Moments => {
                let (stream, out) = self.registers.pair(Reg::Stream, Reg::Moments);
                let mut out = out.resize(tokens, 3);
                (0..tokens).for_each(|i| out.row_mut(i).copy_from_slice(&moments(stream.rows().row(i))));
            }
            Step::Choose { sites, pooling } => {
                let wanted = match pooling {
                    Pooling::LastToken { padding } => pooled(self.batch, *padding),
                    Pooling::EachToken => {
                        let of = |site: &Site| {
                            let wanted = self.tap.tokens(at.point(*site, None), self.batch);
                            wanted.unwrap_or_else(|| (0..tokens).collect())
                        };
                        let mut wanted: Vec<usize> = sites.iter().flat_map(of).collect();
                        wanted.sort_unstable();
                        wanted.dedup();
                        wanted
                    }
                };
                let (stream, out) = self.registers.pair(Reg::Stream, Reg::Final);
                let mut out = out.resize(wanted.len(), model.arch.d_model);
                let chosen = wanted.iter().enumerate();
                chosen.for_each(|(i, token)| out.row_mut(i).copy_from_slice(stream.rows().row(*token)));
                self.registers.chosen = wanted;
            }
            Step::Unembed { from, outputs, .. } => {
                let rows = self.registers.get(*from).rows();
                let mut logits = large_values(rows.n_rows() * outputs);
                let out = RowsMut::dense(&mut logits, rows.n_rows(), *outputs);
                weights.unembedding.matrix.apply(cpu, rows, out);
                self.registers.logits = logits;
            }
            Step::Divide { .. } => weights.unembedding.scale(&mut self.registers.logits),
            Step::Softcap { .. } => weights.unembedding.cap(&mut self.registers.logits),
            Step::Visit(visit) => self.visit(at, visit)?,
        }
        Ok(())
    }

    fn product(
        &mut self,
        at: At,
        matrix: Matrix,
        [from, to]: [Reg; 2],
        outputs: usize,
        finish: Finish,
        form: Form,
    ) -> Result<()> {
        let (model, projection) = (self.model, self.model.weights.matrix(at, matrix)?);
        let (from, to) = self.registers.pair(from, to);
        let (cpu, x, tokens) = (&model.cpu, from.left(), from.n_rows());
        match finish {
            Finish::Store => projection.apply(cpu, x, to.resize(tokens, outputs)),
            Finish::Add => projection.add(cpu, x, to.rows_mut()),
            Finish::Activate(act) => {
                projection.apply_activated(cpu, x, act, to.resize_as(form, model.dtype, tokens, outputs));
            }
            Finish::Gate(act) => {
                projection.apply_gated(cpu, x, act, to.resize_as(form, model.dtype, tokens, outputs))
            }
        }
        Ok(())
    }

    /// Adds a tap's change to a head's output.
    fn add_difference(&mut self) {
        let mut out = self.registers.take(Reg::AttnOut);
        let (new, old) = (self.registers.get(Reg::Head).rows(), self.registers.get(Reg::Unedited).rows());
        let mut sums = out.rows_mut();
        for token in 0..new.n_rows() {
            for ((sum, new), old) in sums.row_mut(token).iter_mut().zip(new.row(token)).zip(old.row(token)) {
                // Unedited values keep their bits, even infinities and negative zeros.
                if new.to_bits() != old.to_bits() {
                    *sum += new - old;
                }
            }
        }
        self.registers.put(Reg::AttnOut, out);
    }

    /// Continues with the tails alone.
    fn narrow(&mut self, live: impl Iterator<Item = usize>) {
        let Some(tails) = self.tails.take() else { return };
        let rows =
            || self.batch.spans().zip(tails.spans()).flat_map(|(all, tail)| all.end - tail.len()..all.end);
        live.for_each(|register| self.registers.numbered(register).keep(rows()));
        self.batch = tails;
    }

    fn visit(&mut self, at: At, visit: &Visit) -> Result<()> {
        let point = at.point(visit.site, visit.number);
        match &visit.values {
            Values::Columns(reg, columns) => {
                if visit.want == Want::Replace {
                    // Stale contents, in case the tap forgets a vector, must never pass for a result.
                    let register = self.registers.get_mut(*reg);
                    register.resize(self.batch.n_tokens(), columns.end).data_mut().fill(f32::NAN);
                }
                let rows = self.registers.get_mut(*reg).rows_mut().columns(columns.clone());
                self.tap.at(point, &mut Value::of_tokens(rows, self.batch))
            }
            Values::SharedKeys { width } => self.visit_shared_keys(point, *width),
            Values::Chosen(reg) => {
                let rows = self.registers.get(*reg).rows();
                let (width, of_tokens) = (rows.n_columns(), 0..rows.n_rows());
                let values = of_tokens.flat_map(|row| rows.row(row)).copied().collect();
                self.tap.at(point, &mut Value::of_some(values, width, &self.registers.chosen, self.batch))
            }
            Values::Pairs { square, keeping } => {
                let window = self.model.weights.attention(at, KeyHeads::Grouped)?.window;
                let pairs = &mut self.registers.pairs[*square];
                self.tap.at(point, &mut Value::of_pairs(pairs, window, *keeping, self.batch))
            }
            Values::Logits { width, pooling } => {
                let logits = std::mem::take(&mut self.registers.logits);
                let of = match pooling {
                    Pooling::EachToken => Value::of_some,
                    Pooling::LastToken { .. } => Value::of_rows,
                };
                self.tap.at(point, &mut of(logits, *width, &self.registers.chosen, self.batch))
            }
        }
    }
}
