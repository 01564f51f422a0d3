//! The pass in f64: a second executor of the same steps, slow and plain, that says what is right.
//!
//! Every operation is written here once more, from its formula and on its own: no kernel is used, one dot product serves all
//! matrices. Weights are those of the model, read row by row. What the model holds in f32 beside them (frequencies and
//! angles of rotations, decays of recurrences, norms' weights with their offset) is taken as it is.

mod carrying;
mod choosing;
mod formulas;
mod matrix;
mod mixing;
mod turning;
mod value;

use easyroutine_kernels::{Dtype, Finish};
use easyroutine_sites::Point;

use super::unembed::pooled;
use super::{Model, emit};
use crate::arch::Pooling;
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::pass::{Asked, At, Matrix as Weight, Program, Reg, Step, Values as Shown, Visit, multiplications};
use crate::stop::Stop;
use crate::tap::Want;
use formulas::{activation, moments, norm};
use matrix::{Matrix, product};
use value::Values;
pub use value::{ExactTap, ExactValue};

/// Multiplications with their additions that a run in f64 may take: some ten minutes of two cores.
const MOST_MULTIPLICATIONS: u64 = 2_000_000_000_000;

/// Bytes that its largest arrays may take: logits of all tokens, or the pattern of a head.
const MOST_BYTES: u64 = 8 << 30;

/// State of a run in f64.
struct Exact<'a> {
    model: &'a Model,
    batch: &'a Batch,
    registers: Vec<Matrix>,
    /// Scores or the pattern of one head, every row's queries by keys.
    square: Vec<f64>,
    /// Patterns of several heads, where somebody reads them.
    patterns: Vec<Vec<f64>>,
    /// The tokens whose logits are wanted.
    chosen: Vec<usize>,
    logits: Matrix,
    tap: &'a mut dyn ExactTap,
}

impl Model {
    /// Runs a batch in f64, reporting to `tap`: each operation from its formula, on the weights of this model. Slow; what a
    /// run in f32 gives is to be held against it. What the tap does not want is not computed.
    ///
    /// # Errors
    /// A model in bf16, whose weights are rounded; a batch that takes more than some ten minutes, with its cost; an id
    /// beyond the vocabulary, a row longer than the model's positions; a file that was written to meanwhile; an error of the
    /// tap; [`Interrupted`](ErrorKind::Interrupted) if it was stopped.
    pub fn forward_exact(&self, batch: &Batch, tap: &mut dyn ExactTap, stop: Stop<'_>) -> Result<()> {
        self.check(batch)?;
        if self.dtype() != Dtype::F32 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this model is in bf16, which rounds its weights: a run in f64 needs them as they are",
            )
            .hint("load it in f32"));
        }
        let wants = |point: Point| match tap.wants(point) {
            Want::Replace => Want::Edit,
            want => want,
        };
        let asked = Asked { wants: &wants, past: None, heads_at_once: 1 };
        let program = emit(self.arch(), &asked, At::all(self.arch()));
        check_cost(batch.n_tokens(), cost(self, batch, &program), bytes(self, batch, &program))?;
        self.weights.unembedding.files.during(|| {
            let mut run = Exact {
                model: self,
                batch,
                registers: vec![Matrix::default(); crate::pass::MATRICES],
                square: Vec::new(),
                patterns: Vec::new(),
                chosen: Vec::new(),
                logits: Matrix::default(),
                tap,
            };
            for section in &program.sections {
                stop.check()?;
                self.enter(section.at);
                section.steps.iter().try_for_each(|step| run.step(section.at, step))?;
            }
            Ok(())
        })
    }
}

/// Refuses what would take too long, or too much memory.
fn check_cost(tokens: usize, multiplications: u64, bytes: u64) -> Result<()> {
    let (billion, gib) = (1_000_000_000, 1 << 30);
    let refused = if multiplications > MOST_MULTIPLICATIONS {
        let (cost, most) = (multiplications.div_ceil(billion), MOST_MULTIPLICATIONS / billion);
        format!("takes {cost} billion multiplications, and {most} billion are allowed")
    } else if bytes > MOST_BYTES {
        let (cost, most) = (bytes.div_ceil(gib), MOST_BYTES / gib);
        format!("takes {cost} GiB for its largest array, and {most} GiB are allowed")
    } else {
        return Ok(());
    };
    let message = format!("a run of {tokens} tokens in f64 {refused}");
    Err(Error::new(ErrorKind::Unsupported, message).hint("give it fewer tokens, or earlier places alone"))
}

/// Bytes of the largest array of a program on these tokens, in f64; a product has its sums twice for a moment.
fn bytes(model: &Model, batch: &Batch, program: &Program) -> u64 {
    let tokens = batch.n_tokens() as u64;
    let pairs: u64 = batch.spans().map(|span| (span.len() as u64).pow(2)).sum();
    let of_step = |step: &Step| match step {
        Step::Product { outputs, .. } | Step::Unembed { outputs, .. } => 2 * tokens * *outputs as u64,
        Step::Attend { .. } | Step::Scores { .. } => pairs,
        Step::Patterns { heads, .. } => pairs * heads.len() as u64,
        _ => tokens * model.arch().d_model as u64,
    };
    let steps = program.sections.iter().flat_map(|section| &section.steps);
    steps.map(of_step).max().unwrap_or(0).saturating_mul(8)
}

/// Multiplications of a program on these tokens.
fn cost(model: &Model, batch: &Batch, program: &Program) -> u64 {
    let tokens = batch.n_tokens() as u64;
    let pairs: u64 = batch.spans().map(|span| (span.len() as u64).pow(2)).sum();
    let steps =
        program.sections.iter().flat_map(|section| section.steps.iter().map(|step| (section.at, step)));
    let of_step = |(at, step): (At, &Step)| {
        let times = match step {
            Step::Attend { .. } | Step::Patterns { .. } | Step::Scores { .. } | Step::Mix { .. } => pairs,
            _ => tokens,
        };
        multiplications(model.arch(), at, step).saturating_mul(times)
    };
    steps.map(of_step).fold(0, u64::saturating_add)
}

impl<'a> Exact<'a> {
    fn reg(&self, reg: Reg) -> &Matrix {
        &self.registers[reg as usize]
    }

    fn reg_mut(&mut self, reg: Reg) -> &mut Matrix {
        &mut self.registers[reg as usize]
    }

    fn step(&mut self, at: At, step: &Step) -> Result<()> {
        let (model, batch) = (self.model, self.batch);
        let (cpu, weights, tokens) = (&model.cpu, &model.weights, batch.n_tokens());
        match step {
            Step::Embed { to, scale } => *self.reg_mut(*to) = self.embed(*scale)?,
            Step::Positions { to, offset } => self.add_positions(*to, *offset),
            Step::Copy { from, to } => *self.reg_mut(*to) = self.reg(*from).clone(),
            Step::Norm { at: place, from, to, .. } => {
                let mut x = self.reg(*from).clone();
                let (of, group) = (weights.norm(at, *place)?, x.n_columns());
                x.rows_mut().for_each(|row| norm(of, row, group));
                *self.reg_mut(*to) = x;
            }
            Step::NormInPlace { at: place, reg, columns, group, .. } => {
                let of = weights.norm(at, *place)?;
                self.reg_mut(*reg).rows_mut().for_each(|row| norm(of, &mut row[columns.clone()], *group));
            }
            Step::NormLatent { width, .. } => {
                let of = weights.norm(at, crate::pass::NormAt::KvLatent)?;
                let mut x = self.reg(Reg::CompressedKv).columns(0..*width);
                x.rows_mut().for_each(|row| norm(of, row, *width));
                *self.reg_mut(Reg::KvLatent) = x;
            }
            Step::NormHeadKeys { group, .. } => self.norm_head_keys(at, *group)?,
            Step::JoinHeads { shared } => self.join_heads(at, *shared),
            Step::Product { from, matrix, outputs, finish, to, .. } => {
                let sums = product(cpu, self.reg(*from), weights.matrix(at, *matrix)?);
                match finish {
                    Finish::Add => self.reg_mut(*to).add(&sums),
                    finish => *self.reg_mut(*to) = finished(sums, *finish, *outputs),
                }
            }
            Step::HeadProduct { head, from, columns, to } => {
                let of_head = self.reg(*from).columns(columns.clone());
                *self.reg_mut(*to) = self.head_product(at, *head, &of_head)?;
            }
            Step::Rotate { reg, columns, rope } => self.rotate(at, *reg, columns.clone(), *rope),
            Step::Clamp { reg, columns, to } => {
                let to = f64::from(*to);
                self.on_columns(*reg, columns.clone(), |x| x.clamp(-to, to));
            }
            Step::Grow { columns, growth } => self.grow(columns.clone(), *growth),
            Step::KeysToValues => self.keys_to_values(at),
            Step::AddPerLayer { scale } => self.add_per_layer(*scale),
            Step::GatePerLayer { columns } => {
                let width = columns.len();
                self.gate((Reg::PerLayerHidden, 0..width), (Reg::PerLayer, columns.clone()), None);
            }
            Step::ScaleLeaving => {
                let by = f64::from(weights.block(at)?.leaving_scale.unwrap_or(1.0));
                self.scale(Reg::Stream, by);
            }
            Step::Lend { keys, to } => self.lend(at, *keys, *to)?,
            Step::Spread => self.spread(at),
            Step::Attend { keys, .. } => drop(self.attend(at, 0..self.heads(at).n, *keys)?),
            Step::Patterns { heads, keys, .. } => self.patterns = self.attend(at, heads.clone(), *keys)?,
            Step::Scores { head, keys } => {
                self.patterns.clear();
                self.scores(at, *head, *keys)?;
            }
            Step::Softmax { head } => self.softmax(at, *head)?,
            Step::Mix { head, keys } => self.mix(at, *head, *keys)?,
            Step::AddDifference { .. } => {
                let mut difference = self.reg(Reg::Unedited).clone();
                difference.values_mut().iter_mut().for_each(|x| *x = -*x);
                difference.add(self.reg(Reg::Head));
                self.reg_mut(Reg::AttnOut).add(&difference);
            }
            Step::Xielu => {
                let xielu = weights.xielu(at)?;
                self.on_columns(Reg::Hidden, 0..self.reg(Reg::Hidden).n_columns(), |x| xielu.exact(x));
            }
            Step::Convolve { to, act, .. } => self.convolve(at, *to, *act)?,
            Step::SelectBlocks { width, blocks } => self.select_blocks(at, *width, *blocks)?,
            Step::SelectiveScan(state)
            | Step::StateSpace(state)
            | Step::GatedDelta(state)
            | Step::RecurrentUnit(state) => self.carry(at, *state)?,
            Step::Gate { reg, columns, from, by, act } => {
                self.gate((*reg, columns.clone()), (*from, by.clone()), *act);
            }
            Step::ScaleColumns { reg, columns, by } => {
                let by = f64::from(*by);
                self.on_columns(*reg, columns.clone(), |x| x * by);
            }
            Step::Scale { reg, by } => self.scale(*reg, f64::from(*by)),
            Step::Add { from, to } => {
                let from = self.reg(*from).clone();
                self.reg_mut(*to).add(&from);
            }
            Step::Route { top_k, router } => self.route(at, *top_k, router)?,
            Step::Experts { experts, from, to, gate, .. } => {
                self.experts(at, experts.clone(), [*from, *to], *gate)?;
            }
            Step::ExpertOut { expert, from, gate, .. } => self.expert_out(at, *expert, *from, *gate)?,
            Step::AddExpert { expert, to } => self.add_expert(*expert, *to),
            Step::WeighShared => self.weigh_shared(at)?,
            Step::Moments => {
                let mut out = Matrix::zeros(tokens, 3);
                let stream = self.reg(Reg::Stream);
                (0..tokens).for_each(|i| out.row_mut(i).copy_from_slice(&moments(stream.row(i))));
                *self.reg_mut(Reg::Moments) = out;
            }
            Step::Choose { pooling, .. } => {
                self.chosen = match pooling {
                    Pooling::EachToken => (0..tokens).collect(),
                    Pooling::LastToken { padding } => pooled(batch, *padding),
                };
                let mut out = Matrix::zeros(self.chosen.len(), model.arch().d_model);
                for (i, token) in self.chosen.iter().enumerate() {
                    out.row_mut(i).copy_from_slice(self.reg(Reg::Stream).row(*token));
                }
                *self.reg_mut(Reg::Final) = out;
            }
            Step::Unembed { from, .. } => {
                self.logits = product(cpu, self.reg(*from), &weights.unembedding.matrix);
            }
            Step::Divide { by } => {
                self.logits.values_mut().iter_mut().for_each(|x| *x /= f64::from(*by));
            }
            Step::Softcap { cap } => {
                let cap = f64::from(*cap);
                self.logits.values_mut().iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
            }
            Step::Visit(visit) => self.visit(at, visit)?,
            // All tokens are computed, and none come later.
            Step::Narrow { .. } | Step::Keep { .. } | Step::KeepStates => {}
        }
        Ok(())
    }

    fn scale(&mut self, reg: Reg, by: f64) {
        self.reg_mut(reg).values_mut().iter_mut().for_each(|x| *x *= by);
    }

    /// Replaces the values of some columns.
    fn on_columns(&mut self, reg: Reg, columns: std::ops::Range<usize>, of: impl Fn(f64) -> f64) {
        self.reg_mut(reg)
            .rows_mut()
            .for_each(|row| row[columns.clone()].iter_mut().for_each(|x| *x = of(*x)));
    }

    /// Rows of the embedding. Their factor is f32 in any precision.
    fn embed(&self, scale: Option<f32>) -> Result<Matrix> {
        let (embedding, tokens) = (&self.model.weights.embedding, self.batch.n_tokens());
        let mut stored = vec![0.0; tokens * embedding.width];
        let rows = easyroutine_kernels::RowsMut::dense(&mut stored, tokens, embedding.width);
        embedding.look_up(self.batch, None, rows)?;
        let mut out = Matrix::zeros(tokens, embedding.width);
        let by = f64::from(scale.unwrap_or(1.0));
        out.values_mut().iter_mut().zip(&stored).for_each(|(out, x)| *out = f64::from(*x) * by);
        Ok(out)
    }

    fn add_positions(&mut self, to: Reg, offset: usize) {
        let (batch, table) = (self.batch, &self.model.weights.embedding.positions);
        let out = self.reg_mut(to);
        let width = out.n_columns();
        for span in batch.spans() {
            for (position, token) in span.enumerate() {
                let row = &table[(offset + position) * width..][..width];
                out.row_mut(token).iter_mut().zip(row).for_each(|(x, p)| *x += f64::from(*p));
            }
        }
    }

    fn add_per_layer(&mut self, scale: f32) {
        let Some(per_layer) = &self.model.weights.embedding.per_layer else { return };
        let batch = self.batch;
        let out = self.reg_mut(Reg::PerLayer);
        let mut row = vec![0.0; out.n_columns()];
        for (token, id) in batch.ids().iter().enumerate() {
            per_layer.table.read(*id as usize, &mut row);
            let by = f64::from(scale);
            out.row_mut(token).iter_mut().zip(&row).for_each(|(x, w)| *x += f64::from(*w) * by);
        }
    }

    /// One head's vectors through its columns of the output projection, without the bias.
    fn head_product(&self, at: At, head: usize, vectors: &Matrix) -> Result<Matrix> {
        let projection = self.model.weights.matrix(at, Weight::Out)?;
        let width = vectors.n_columns();
        let mut wide = Matrix::zeros(vectors.n_rows(), projection.inputs());
        wide.put_columns(head * width..(head + 1) * width, vectors);
        let mut out = product(&self.model.cpu, &wide, projection);
        if let Some(bias) = &projection.bias {
            out.rows_mut().for_each(|row| row.iter_mut().zip(bias).for_each(|(x, b)| *x -= f64::from(*b)));
        }
        Ok(out)
    }

    fn visit(&mut self, at: At, visit: &Visit) -> Result<()> {
        let (point, batch) = (at.point(visit.site, visit.number), self.batch);
        match &visit.values {
            Shown::Columns(reg, columns) => {
                let mut shown = self.reg(*reg).columns(columns.clone());
                self.tap.at(point, &mut ExactValue { values: Values::Tokens(&mut shown), batch })?;
                self.reg_mut(*reg).put_columns(columns.clone(), &shown);
            }
            Shown::SharedKeys { width } => self.visit_shared_keys(at, point, *width)?,
            Shown::Chosen(reg) => {
                let mut shown = self.reg(*reg).clone();
                let values = Values::Some(&mut shown, &self.chosen);
                self.tap.at(point, &mut ExactValue { values, batch })?;
            }
            Shown::Pairs { square, .. } => {
                let squares = self.patterns.get_mut(*square).unwrap_or(&mut self.square);
                self.tap.at(point, &mut ExactValue { values: Values::Pairs(squares), batch })?;
            }
            Shown::Logits { .. } => {
                let values = Values::Some(&mut self.logits, &self.chosen);
                self.tap.at(point, &mut ExactValue { values, batch })?;
            }
        }
        Ok(())
    }

    /// Shows the key of each group's first query head; what a tap makes of it, all query heads of the group get.
    fn visit_shared_keys(&mut self, at: At, point: Point, width: usize) -> Result<()> {
        let (heads, batch) = (self.heads(at), self.batch);
        let mut shown = Matrix::zeros(batch.n_tokens(), width);
        for head in (0..heads.n).step_by(heads.group()) {
            shown.put_columns(
                heads.of_query(head / heads.group()),
                &self.reg(Reg::HeadKv).columns(heads.of_query(head)),
            );
        }
        let before = shown.clone();
        self.tap.at(point, &mut ExactValue { values: Values::Tokens(&mut shown), batch })?;
        for head in 0..heads.n {
            let (shared, own) = (heads.of_query(head / heads.group()), heads.of_query(head));
            for token in 0..batch.n_tokens() {
                let (old, new) = (&before.row(token)[shared.clone()], &shown.row(token)[shared.clone()]);
                if old != new {
                    self.reg_mut(Reg::HeadKv).row_mut(token)[own.clone()].copy_from_slice(new);
                }
            }
        }
        Ok(())
    }
}

/// What becomes of a product's sums.
fn finished(sums: Matrix, finish: Finish, outputs: usize) -> Matrix {
    match finish {
        Finish::Store | Finish::Add => sums,
        Finish::Activate(act) => {
            let mut out = sums;
            out.values_mut().iter_mut().for_each(|x| *x = activation(act, *x));
            out
        }
        Finish::Gate(act) => {
            let mut out = Matrix::zeros(sums.n_rows(), outputs);
            for token in 0..sums.n_rows() {
                let (gate, up) = sums.row(token).split_at(outputs);
                let cells = out.row_mut(token).iter_mut().zip(gate.iter().zip(up));
                cells.for_each(|(out, (gate, up))| *out = activation(act, *gate) * up);
            }
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_cost;

    #[test]
    fn what_takes_too_long_or_too_much_is_refused_with_its_cost() {
        assert!(check_cost(9, 1_000_000, 1 << 20).is_ok());
        let refused = check_cost(9, 3_000_000_000_001, 8).unwrap_err().to_string();
        assert!(refused.contains("9 tokens in f64 takes 3001 billion multiplications"), "{refused}");
        let refused = check_cost(9, 8, (9 << 30) + 1).unwrap_err().to_string();
        assert!(refused.contains("takes 10 GiB"), "{refused}");
    }
}
