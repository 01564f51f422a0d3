//! Trains tuned lenses: translators h + W h + b, one per layer, whose output the final norm and the unembedding read.
//!
//! Translator l reads `resid_in_l` and is trained towards the model's own prediction: the loss is Σ_l mean over tokens
//! of KL(final ‖ lens_l) (Belrose et al. 2023, arXiv 2303.08112; tuned-lens, `scripts/train_loop.py` and
//! `scripts/ingredients.py`). Everything is f32 in a fixed order, so the same rows give the same bits, and training
//! resumes from its state to the bit.

mod file;
mod optimiser;
mod slope;

use easyroutine_sites::{Point, Site};

use crate::batch::Batch;
use crate::cache::ActivationCache;
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::positions::{Context, Row, uniform};
use crate::request::Request;
use crate::stop::Stop;
pub use file::{save_tuned_lens, tuned_lens_config, tuning_settings};
use optimiser::Moments;
pub use optimiser::{Optimiser, Schedule};
use slope::Slope;

/// The norm to which all gradients together are clipped.
const LARGEST_NORM: f64 = 1.0;

/// Translators in training.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// The optimiser.
    pub optimiser: Optimiser,
    /// Steps of the whole training, over which the rate falls.
    pub steps: usize,
    /// Steps done.
    pub done: usize,
    d_model: usize,
    /// For each layer W, D by D, then b, D.
    parameters: Vec<Vec<f32>>,
    moments: Vec<Moments>,
}

/// A report of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct TuningStep {
    /// The loss of each layer before the step, nats.
    pub losses: Vec<f64>,
    /// The norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// The learning rate.
    pub rate: f64,
}

impl Tuning {
    /// Translators initialised to the identity.
    ///
    /// # Errors
    /// If the model has no unembedding, is in bf16, or has an adapter on its unembedding; or if there are no steps.
    pub fn new(model: &Model, optimiser: Optimiser, steps: usize) -> Result<Self> {
        let unembedding = model.unembedding()?;
        if model.dtype() != easyroutine_kernels::Dtype::F32 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a lens is trained in f32, and this model is in bf16",
            )
            .hint("load it in f32"));
        }
        if unembedding.matrix.is_updated() {
            return Err(Error::input("an adapter changes the unembedding: merge it into the model first"));
        }
        if steps == 0 {
            return Err(Error::input("0 steps train nothing"));
        }
        let (layers, d_model) = (model.arch().layers.len(), model.arch().d_model);
        let size = d_model * d_model + d_model;
        Ok(Tuning {
            optimiser,
            steps,
            done: 0,
            d_model,
            parameters: vec![vec![0.0; size]; layers],
            moments: (0..layers).map(|_| Moments::new(optimiser, size)).collect(),
        })
    }

    /// Number of translators.
    pub fn n_layers(&self) -> usize {
        self.parameters.len()
    }

    /// Width of the stream, D.
    pub fn d_model(&self) -> usize {
        self.d_model
    }

    /// W of a layer.
    ///
    /// # Shapes
    /// D by D, as in `torch.nn.Linear`: one row per output.
    pub fn weight(&self, layer: usize) -> &[f32] {
        &self.parameters[layer][..self.d_model * self.d_model]
    }

    /// b of a layer.
    ///
    /// # Shapes
    /// D.
    pub fn bias(&self, layer: usize) -> &[f32] {
        &self.parameters[layer][self.d_model * self.d_model..]
    }

    /// Takes a step on a list of rows. All their tokens count equally.
    ///
    /// # Errors
    /// If all planned steps are done, a loss is not finite, or a run fails.
    pub fn step(&mut self, model: &Model, rows: &[&[u32]], stop: Stop<'_>) -> Result<TuningStep> {
        if self.done >= self.steps {
            return Err(Error::input(format!("all {} steps were made", self.steps)));
        }
        let cache = self.run(model, rows, stop)?;
        let mut losses = Vec::with_capacity(self.n_layers());
        let mut gradients = Vec::with_capacity(self.n_layers());
        let slope = Slope::new(model, kept(&cache, Site::ResidOut, self.n_layers() - 1)?)?;
        for layer in 0..self.n_layers() {
            let (loss, gradient) = slope.of(self, layer, kept(&cache, Site::ResidIn, layer)?, true)?;
            if !loss.is_finite() {
                return Err(Error::input(format!("step {}: the loss of layer {layer} is {loss}", self.done))
                    .hint("a smaller rate, or prompts that the model computes without NaN"));
            }
            losses.push(loss);
            gradients.push(gradient);
        }
        let squares: f64 = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum();
        let gradient_norm = squares.sqrt();
        let clip = (LARGEST_NORM / (gradient_norm + 1e-6)).min(1.0) as f32;
        let rate = self.optimiser.rate(self.done, self.steps);
        for ((parameters, moments), gradient) in
            self.parameters.iter_mut().zip(&mut self.moments).zip(&mut gradients)
        {
            gradient.iter_mut().for_each(|g| *g *= clip);
            moments.step(self.optimiser, self.done, rate, parameters, gradient);
        }
        self.done += 1;
        Ok(TuningStep { losses, gradient_norm, rate })
    }

    /// The loss of each layer on a list of rows: mean over tokens of KL(final ‖ lens), nats.
    ///
    /// # Errors
    /// If a run fails.
    pub fn losses(&self, model: &Model, rows: &[&[u32]], stop: Stop<'_>) -> Result<Vec<f64>> {
        let cache = self.run(model, rows, stop)?;
        let slope = Slope::new(model, kept(&cache, Site::ResidOut, self.n_layers() - 1)?)?;
        (0..self.n_layers())
            .map(|layer| Ok(slope.of(self, layer, kept(&cache, Site::ResidIn, layer)?, false)?.0))
            .collect()
    }

    fn run(&self, model: &Model, rows: &[&[u32]], stop: Stop<'_>) -> Result<ActivationCache> {
        let last = self.n_layers() - 1;
        let request = Request::parse(&format!("resid_in_*,resid_out_{last}"), "all")?;
        let batch = Batch::new(rows)?;
        let rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
        request.run_until(model, &batch, &rows, Context::default(), (), stop)
    }
}

fn kept(cache: &ActivationCache, site: Site, layer: usize) -> Result<&[f32]> {
    let point = Point::layer_of(site, layer);
    let kept = cache.get(point).ok_or_else(|| Error::input(format!("`{point}` was not reached")))?;
    Ok(kept.values())
}

/// The rows of a step. Each pass over the data set has its own order, drawn with the seed, and every row is in one step
/// of a pass; rows left over at its end begin the next.
pub fn shuffled(n_rows: usize, rows_of_step: usize, seed: u64, step: usize) -> Vec<usize> {
    let order = |pass: usize| {
        let mut order: Vec<usize> = (0..n_rows).collect();
        let keys: Vec<f64> = order.iter().map(|row| uniform(seed, pass, *row)).collect();
        order.sort_by(|a, b| keys[*a].total_cmp(&keys[*b]).then(a.cmp(b)));
        order
    };
    let places = step * rows_of_step..(step + 1) * rows_of_step;
    let passes = places.start / n_rows.max(1)..places.end.saturating_sub(1) / n_rows.max(1) + 1;
    let orders: Vec<Vec<usize>> = passes.clone().map(order).collect();
    places
        .filter_map(|place| orders[place / n_rows.max(1) - passes.start].get(place % n_rows.max(1)).copied())
        .collect()
}
