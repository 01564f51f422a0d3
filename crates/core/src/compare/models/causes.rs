//! Which tensors cause the difference: one of them at a time is put into the other model.

use easyroutine_kernels::Rows;
use easyroutine_sites::{Point, Site};

use super::apart::{Mean, Vector};
use super::{Options, Pair, Side};
use crate::batch::Batch;
use crate::cache::{ActivationCache, Capture, Kept};
use crate::error::{Error, Result};
use crate::extract::{Example, Progress};
use crate::lens::LogitLens;
use crate::model::{Buffer, Model};
use crate::positions::Selection;
use crate::stop::Stop;

/// Which model tensors are put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// B with a tensor of A: what of the difference it removes.
    Removes,
    /// A with a tensor of B: what of the difference it adds.
    Adds,
    /// Both, at twice the time.
    Both,
}

/// How far a model is from A after the last layer, on average over positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// The norm of the difference of the streams over the norm of A's.
    pub error: f64,
    /// KL(A ‖ the model) of the predictions in nats, if there is an unembedding.
    pub kl: Option<f64>,
}

impl Effect {
    /// The KL, or the error where there is none.
    pub fn size(&self) -> f64 {
        self.kl.unwrap_or(self.error)
    }
}

/// One tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Cause {
    /// Its number among [`Pair::tensors`].
    pub tensor: usize,
    /// How far B with A's tensor is from A.
    pub without: Option<Effect>,
    /// How far A with B's tensor is from A.
    pub alone: Option<Effect>,
}

/// The tensors, and how much each causes.
#[derive(Debug, Clone, PartialEq)]
pub struct Causes {
    /// How far B is from A.
    pub whole: Effect,
    /// The largest causes first.
    pub causes: Vec<Cause>,
    /// Number of prompts.
    pub n_rows: usize,
    /// Number of their tokens.
    pub n_tokens: usize,
}

impl Causes {
    /// The part of the difference that A's tensor removes from B: 1 for all of it; negative if B is further off with it.
    pub fn removed(&self, cause: &Cause) -> Option<f64> {
        cause.without.map(|effect| 1.0 - effect.size() / self.whole.size())
    }

    /// The part of the difference that B's tensor brings into A alone.
    pub fn added(&self, cause: &Cause) -> Option<f64> {
        cause.alone.map(|effect| effect.size() / self.whole.size())
    }

    /// What causes are ranked by.
    fn part(&self, cause: &Cause) -> f64 {
        self.removed(cause).or(self.added(cause)).unwrap_or(0.0)
    }
}

/// The first examples of so many tokens in all; at least one.
pub fn sample(examples: &[Example], tokens: usize) -> &[Example] {
    let mut sum = 0;
    let fits = |example: &&Example| {
        sum += example.ids.len();
        sum <= tokens
    };
    &examples[..examples.iter().take_while(fits).count().max(1).min(examples.len())]
}

/// One model's run of all examples.
struct Base {
    /// The stream that leaves each layer, or only that of the last where one layer reads more than the stream.
    leaving: Vec<Vec<f32>>,
}

impl Pair {
    /// Puts these of [`Pair::tensors`], one at a time, from one model into the other and runs all examples again, from the
    /// tensor's layer on. Nothing is estimated.
    ///
    /// Memory holds the streams of all examples, so they should be few: see [`sample`].
    ///
    /// # Errors
    /// As [`Model::forward`] and [`Pair::patched`]; `Interrupted` if it was stopped.
    pub fn causes(
        &mut self,
        examples: &[Example],
        tensors: &[usize],
        direction: Direction,
        options: Options<'_>,
    ) -> Result<Causes> {
        if examples.is_empty() {
            return Err(Error::input("no prompt given"));
        }
        let ids: Vec<&[u32]> = examples.iter().map(|example| example.ids.as_slice()).collect();
        let batch = Batch::new(&ids)?;
        let n = batch.n_tokens();
        let a = Base::run(&self.models[0], &batch, options.stop)?;
        let b = Base::run(&self.models[1], &batch, options.stop)?;
        let lens = match self.models[0].unembedding() {
            Ok(_) => Some(LogitLens::from_model(&self.models[0])?),
            Err(_) => None,
        };
        let from_a = |model: &Model, last: &[f32]| -> Result<Effect> {
            let streams = [a.last(), last].map(|values| Rows::dense(values, n, values.len() / n.max(1)));
            effect(lens.as_ref(), model, streams, options.stop)
        };
        let whole = from_a(&self.models[1], b.last())?;
        let sides: &[Side] = match direction {
            Direction::Removes => &[Side::B],
            Direction::Adds => &[Side::A],
            Direction::Both => &[Side::B, Side::A],
        };
        let all = tensors.len() * sides.len();
        let mut causes = Vec::with_capacity(tensors.len());
        for (number, tensor) in tensors.iter().enumerate() {
            let mut cause = Cause { tensor: *tensor, without: None, alone: None };
            for (done, side) in sides.iter().enumerate() {
                options.stop.check()?;
                let layer = self.layer_of(*tensor);
                let base = if *side == Side::A { &a } else { &b };
                let model = self.patched(*side, &[*tensor])?;
                let last = base.again(&model, &batch, layer, options.stop)?;
                let found = Some(from_a(&model, &last)?);
                drop(model);
                match side {
                    Side::A => cause.alone = found,
                    Side::B => cause.without = found,
                }
                if let Some(tell) = options.progress {
                    let tokens = number * sides.len() + done + 1;
                    tell(Progress { rows: number, all_rows: tensors.len(), tokens, all_tokens: all });
                }
            }
            causes.push(cause);
        }
        self.unchanged(|| Ok(()))?;
        let mut found = Causes { whole, causes: Vec::new(), n_rows: batch.n_rows(), n_tokens: n };
        causes.sort_by(|one, other| found.part(other).total_cmp(&found.part(one)));
        found.causes = causes;
        Ok(found)
    }
}

impl Base {
    fn run(model: &Model, batch: &Batch, stop: Stop<'_>) -> Result<Base> {
        let arch = model.arch();
        let layers = 0..arch.layers.len();
        let kept = if arch.reads_across_blocks().is_none() { layers } else { layers.end - 1..layers.end };
        let points: Vec<Point> = kept.map(|layer| Point::layer_of(Site::ResidOut, layer)).collect();
        let mut capture = Capture::new(points.iter().copied().collect(), everywhere(batch));
        model.forward_until(batch, &mut capture, stop)?;
        let cache = capture.finish(batch);
        let leaving = points.iter().map(|point| stream(&cache, *point)).collect::<Result<_>>()?;
        Ok(Base { leaving })
    }

    fn last(&self) -> &[f32] {
        self.leaving.last().map_or(&[], Vec::as_slice)
    }

    /// The last stream of this model with other weights in one layer, or in none (`None`: in those before and after).
    fn again(&self, model: &Model, batch: &Batch, layer: Option<usize>, stop: Stop<'_>) -> Result<Vec<f32>> {
        let last = Point::layer_of(Site::ResidOut, model.arch().layers.len() - 1);
        let mut capture = Capture::new([last].into(), everywhere(batch));
        // The layers below are those of the run before, to the bit.
        let entering = layer.and_then(|layer| layer.checked_sub(1)).filter(|_| self.leaving.len() > 1);
        match entering.and_then(|below| Some((below, self.leaving.get(below)?))) {
            None => model.forward_until(batch, &mut capture, stop)?,
            Some((below, values)) => {
                let mut stream = Buffer::default();
                let width = model.arch().d_model;
                stream.resize(batch.n_tokens(), width);
                let rows = values.chunks_exact(width).enumerate();
                rows.for_each(|(n, row)| stream.rows_mut().row_mut(n).copy_from_slice(row));
                model.forward_from(below + 1, batch, &mut stream, &mut capture, stop)?;
            }
        }
        stream(&capture.finish(batch), last)
    }
}

/// The values of a point at all tokens.
fn stream(cache: &ActivationCache, point: Point) -> Result<Vec<f32>> {
    let kept: Option<&Kept> = cache.get(point);
    kept.map(|kept| kept.values().to_vec()).ok_or_else(|| Error::input(format!("`{point}` was not reached")))
}

fn everywhere(batch: &Batch) -> Selection {
    Selection::all((0..batch.n_rows()).map(|row| batch.length(row)))
}

/// How far a model's last streams are from those of A.
fn effect(lens: Option<&LogitLens>, model: &Model, streams: [Rows<'_>; 2], stop: Stop<'_>) -> Result<Effect> {
    let mut error = Mean::default();
    for n in 0..streams[0].n_rows() {
        error.add(Vector::of(streams[0].row(n), streams[1].row(n)).error);
    }
    let kl = match lens {
        None => None,
        Some(lens) => {
            let own = LogitLens::from_model(model)?;
            let mut kl = Mean::default();
            let found = LogitLens::divergences([lens, &own], streams, stop)?;
            found.iter().for_each(|found| kl.add(found.kl));
            Some(kl.mean())
        }
    };
    Ok(Effect { error: error.mean(), kl })
}
