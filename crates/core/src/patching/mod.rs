//! Activations of one run put into another, and the consequences.
//!
//! Activations are taken from the *base* run and put into the *target* run. [`compute_patching`] does so once for every
//! row of a batch. A [`Sweep`] makes one change after another to a single row; its [`Grid`] holds the effect of each on
//! a [`Metric`].

mod additions;
mod cells;
mod experts;
mod grid;
mod metric;
mod plan;
mod sweep;
mod values;

use std::collections::BTreeSet;

use easyroutine_sites::{Point, Selector};

use crate::batch::Batch;
use crate::cache::Capture;
use crate::edit::{Edits, Intervention, Operation, Part, Tensor};
use crate::error::{Error, Result};
use crate::logits::LastLogits;
use crate::model::Model;
use crate::positions::{Context, Row, Selection, Specifier, select};
use crate::tap::Tap;

pub use additions::{Addition, Additions};
pub use grid::Grid;
pub use metric::Metric;
pub(crate) use plan::Plan;
pub(crate) use sweep::Exact;
pub use sweep::{Along, By, Sweep, sweep};

/// Activations put from the base run into the target run.
#[derive(Debug, Clone)]
pub struct Patch {
    /// The activations, whose whole vectors are replaced.
    pub activation: Selector,
    /// Positions in each row of both runs. The rows may differ in length, but not in the number of positions.
    pub positions: Vec<Specifier>,
}

/// The effect of a patch at the last token of each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Patched {
    /// Logits of the base run, one vector per row.
    pub base_logits: Vec<Vec<f32>>,
    /// Logits of the target run without the patch.
    pub target_clean_logits: Vec<Vec<f32>>,
    /// Logits of the target run with the patch.
    pub target_patched_logits: Vec<Vec<f32>>,
    /// For each row, logit(target label) - logit(base label), if labels were given.
    pub logit_diffs: Option<LogitDiffs>,
    /// KL(base ‖ clean), nats: `kl_clean|base`.
    pub kl_clean_base: Vec<f64>,
    /// KL(base ‖ patched): `kl_patched|base`.
    pub kl_patched_base: Vec<f64>,
    /// KL(clean ‖ patched): `kl_patched|clean`.
    pub kl_patched_clean: Vec<f64>,
    /// `kl_patched|base` - `kl_clean|base`.
    pub kl_difference: Vec<f64>,
}

/// Logit of the target label minus logit of the base label, one value per row.
#[derive(Debug, Clone, PartialEq)]
pub struct LogitDiffs {
    /// Of the target run without the patch.
    pub clean: Vec<f64>,
    /// Of the target run with the patch.
    pub patched: Vec<f64>,
    /// Patched minus clean.
    pub variation: Vec<f64>,
}

/// For each row, the tokens that the base run and the target run should predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels {
    /// Of the base run.
    pub base: u32,
    /// Of the target run.
    pub target: u32,
}

/// Runs both batches, then the target with the base's activations. Row i of the base goes into row i of the target.
///
/// # Errors
/// If the batches differ in their number of rows, there is no patch, positions select different numbers of tokens in
/// two rows (both lengths are named), an activation cannot be replaced as whole vectors, or a label is beyond the
/// vocabulary.
pub fn compute_patching(
    model: &Model,
    base: &[Row<'_>],
    target: &[Row<'_>],
    patches: &[Patch],
    labels: Option<&[Labels]>,
    context: Context<'_>,
) -> Result<Patched> {
    model.unembedding()?;
    if base.len() != target.len() {
        return Err(Error::input(format!("{} rows of base but {} of target", base.len(), target.len())));
    }
    if patches.is_empty() {
        return Err(Error::input("no patch: name an activation and positions"));
    }
    check_labels(labels, base.len(), model.arch().vocabulary)?;
    let interventions =
        patches.iter().map(|patch| taken(model, base, target, patch, context)).collect::<Result<Vec<_>>>()?;
    let edits = Edits::new(&interventions.concat(), model.arch(), target, context)?;
    let base_logits = last_logits(model, base, ())?;
    let clean = last_logits(model, target, ())?;
    let patched = last_logits(model, target, edits)?;
    let pairwise = |p: &[Vec<f32>], q: &[Vec<f32>]| -> Vec<f64> {
        p.iter().zip(q).map(|(p, q)| metric::kl_divergence(p, q)).collect()
    };
    let kl_clean_base = pairwise(&base_logits, &clean);
    let kl_patched_base = pairwise(&base_logits, &patched);
    let logit_diffs = labels.map(|labels| {
        let diffs = |logits: &[Vec<f32>]| -> Vec<f64> {
            let diff = |(row, label): (&Vec<f32>, &Labels)| {
                f64::from(row[label.target as usize]) - f64::from(row[label.base as usize])
            };
            logits.iter().zip(labels).map(diff).collect()
        };
        let (clean, patched) = (diffs(&clean), diffs(&patched));
        let variation = patched.iter().zip(&clean).map(|(patched, clean)| patched - clean).collect();
        LogitDiffs { clean, patched, variation }
    });
    Ok(Patched {
        kl_patched_clean: pairwise(&clean, &patched),
        kl_difference: kl_patched_base.iter().zip(&kl_clean_base).map(|(a, b)| a - b).collect(),
        kl_clean_base,
        kl_patched_base,
        logit_diffs,
        base_logits,
        target_clean_logits: clean,
        target_patched_logits: patched,
    })
}

fn check_labels(labels: Option<&[Labels]>, n_rows: usize, vocabulary: usize) -> Result<()> {
    let Some(labels) = labels else { return Ok(()) };
    if labels.len() != n_rows {
        return Err(Error::input(format!("{} pairs of labels for {n_rows} rows", labels.len())));
    }
    let beyond = labels.iter().flat_map(|l| [l.base, l.target]).find(|id| *id as usize >= vocabulary);
    match beyond {
        Some(id) => Err(Error::input(format!("label {id} is beyond the vocabulary of {vocabulary}"))),
        None => Ok(()),
    }
}

/// The base's activations of one patch, as interventions on the target.
fn taken(
    model: &Model,
    base: &[Row<'_>],
    target: &[Row<'_>],
    patch: &Patch,
    context: Context<'_>,
) -> Result<Vec<Intervention>> {
    let points = model.arch().named(&patch.activation)?;
    let mut selected = Vec::with_capacity(base.len());
    for (from, to) in base.iter().zip(target) {
        let [taken, put] = [from, to].map(|row| select(&patch.positions, *row, context));
        let (taken, put) = (taken?, put?);
        if taken.indices.len() != put.indices.len() {
            return Err(Error::input(format!(
                "row {}: `{}` selects {} tokens of the base ({} long) and {} of the target ({} long)",
                to.number,
                patch.activation,
                taken.indices.len(),
                from.ids.len(),
                put.indices.len(),
                to.ids.len()
            ))
            .hint("a patch puts each token in the place of one token"));
        }
        selected.push(taken);
    }
    let n_tokens = selected[0].indices.len();
    if selected.iter().any(|s| s.indices.len() != n_tokens) {
        return Err(Error::input(format!("`{}`: rows select different numbers of tokens", patch.activation))
            .hint("patch such rows one at a time"));
    }
    let batch = Batch::new(&base.iter().map(|row| row.ids).collect::<Vec<_>>())?;
    let selection = Selection { specifiers: patch.positions.clone(), rows: selected };
    let mut capture = Capture::new(points.iter().copied().collect(), selection);
    model.forward(&batch, &mut capture)?;
    let cache = capture.finish(&batch);
    let put = |point: &Point| -> Result<Intervention> {
        let kept = cache.get(*point);
        let kept = kept.ok_or_else(|| Error::input(format!("`{point}` cannot be patched")))?;
        let values = kept.values();
        let shape = [base.len(), n_tokens, values.len() / (base.len() * n_tokens)];
        Ok(Intervention {
            activation: point.to_string().parse()?,
            entries: Vec::new(),
            part: Part::Full(patch.positions.clone()),
            operation: Operation::Replace(Tensor::new(point.to_string(), &shape, values.to_vec())?),
        })
    };
    points.iter().map(put).collect()
}

/// Logits of the last token of each row, with a tap that comes first.
pub(crate) fn last_logits(model: &Model, rows: &[Row<'_>], first: impl Tap) -> Result<Vec<Vec<f32>>> {
    let batch = Batch::new(&rows.iter().map(|row| row.ids).collect::<Vec<_>>())?;
    let mut taps = (first, LastLogits::of(0..rows.len()));
    model.forward(&batch, &mut taps)?;
    Ok(taps.1.logits.into_iter().flatten().collect())
}

/// Points without duplicates, as a capture needs them.
pub(crate) fn set(points: impl IntoIterator<Item = Point>) -> BTreeSet<Point> {
    points.into_iter().collect()
}
