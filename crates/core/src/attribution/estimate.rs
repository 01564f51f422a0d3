//! Attribution patching: every cell of a sweep to first order, from one gradient.
//!
//! A cell's effect is estimated as Σ (put - present) · ∂metric/∂activation, with the gradient at the unpatched run. So
//! one forward and one backward run replace as many runs as there are cells (Nanda 2023; TransformerLens 4.3,
//! `tools/analysis/attribution_patching.py`). The quality of the estimate is measured by also running the largest
//! cells.

use std::collections::BTreeSet;
use std::ops::Range;

use easyroutine_sites::{Point, Site};

use super::{Check, CheckedCell, difference, largest, log_probabilities};
use crate::cache::{ActivationCache, Key};
use crate::edit::Edits;
use crate::error::{Error, Result};
use crate::gradients::{self, Output, Rule};
use crate::model::Model;
use crate::patching::{By, Exact, Grid, Metric, Plan, Sweep, last_logits, set};
use crate::positions::{Context, Row, Specifier};
use crate::request::Request;
use crate::stop::Stop;

/// Options of an estimated sweep.
#[derive(Debug, Clone, Copy, Default)]
pub struct Estimating {
    /// What replaces the derivatives.
    pub rule: Rule,
    /// Number of cells also run exactly, those with the largest estimates; all if there are fewer.
    pub check: Option<usize>,
}

/// An estimated grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The grid; its values are the metric without a change plus the estimated effect.
    pub grid: Grid,
    /// The cells also run exactly, if requested.
    pub check: Option<Check>,
}

/// Estimates every cell of a sweep, and runs the largest cells exactly if requested. `progress` gets the number of
/// those runs done and in total.
///
/// # Errors
/// As [`sweep`](crate::patching::sweep) and [`gradients`](gradients::gradients), for example if a metric has no gradient, or the model is in
/// bf16 or has a step without a backward rule. Also for KL to the unchanged run, whose gradient is zero there, for a
/// check of no cells, and if an estimate is not finite.
pub fn estimate(
    model: &Model,
    row: &[u32],
    sweep: &Sweep,
    estimating: Estimating,
    stop: Stop<'_>,
    progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Estimate> {
    estimating.check.map_or(Ok(()), Check::refuse_none)?;
    if sweep.metric == Metric::Kl && !matches!(sweep.by, By::Patch(_)) {
        return Err(Error::input(
            "`kl` from the unchanged run is least in that run, so its gradient there is 0 and says nothing of any change",
        )
        .hint("run the cells instead of estimating them, or measure `logit_diff` or `p`"));
    }
    let plan = Plan::new(model, row, sweep)?;
    let places: Vec<Place> = plan.cells.iter().map(|cell| Place::of(model, cell.point)).collect();
    let points = set(plan.changing().map(|cell| places[cell].point));
    let values = plan.values(model, row, &sweep.by, points.clone())?;
    let base = match &sweep.by {
        By::Patch(base) => last_logits(model, &[Row::of(0, base)], ())?.pop(),
        _ => None,
    };
    let present = last_logits(model, &[Row::of(0, row)], ())?.pop().unwrap_or_default();
    let measured = sweep.metric.against(&present, base.as_deref())?;
    let (unchanged, of_base) = (measured.of(&present), base.as_deref().map(|logits| measured.of(logits)));
    let slopes = match points.is_empty() {
        true => None,
        false => Some(Slopes::new(
            model,
            row,
            &points,
            sweep.metric,
            base.as_deref(),
            &present,
            estimating.rule,
            stop,
        )?),
    };
    let mut effects = Vec::with_capacity(plan.cells.len());
    for (cell, place) in plan.cells.iter().zip(&places) {
        let mut effect = 0.0;
        let put = values.as_ref().filter(|_| cell.changes());
        let put = put.map(|values| values.at(place.point, &cell.positions)).transpose()?;
        for (i, position) in cell.positions.iter().enumerate() {
            let Some(slopes) = &slopes else { break };
            let [value, slope] = slopes.at(place, *position);
            let width = slopes.width(place.point);
            let put = put.as_ref().map(|put| {
                let one = if put.shape().len() == 1 { 0 } else { i * width };
                &put.values()[one..one + width][place.columns(width)]
            });
            effect += match put {
                Some(put) => difference(put.iter().copied(), value, slope),
                None => difference(std::iter::repeat_n(0.0, value.len()), value, slope),
            };
        }
        let effect = effect * slopes.as_ref().map_or(1.0, |slopes| slopes.factor);
        if !effect.is_finite() {
            return Err(Error::input(format!("the estimate of `{}` is {effect}", cell.point))
                .hint("an activation of one of the two runs is not finite"));
        }
        effects.push(effect);
    }
    let check = match estimating.check {
        None => None,
        Some(most) => {
            // Of a cell that changes nothing, estimate and exact effect are 0: it says nothing of the others.
            let changing: Vec<usize> = plan.changing().collect();
            let of_changing: Vec<f64> = changing.iter().map(|cell| effects[*cell]).collect();
            let chosen: Vec<usize> =
                largest(&of_changing, most).into_iter().map(|cell| changing[cell]).collect();
            let exact = Exact::new(model, row, &plan, sweep)?;
            let found = exact.of(&plan, &chosen, progress)?;
            let cell = |(cell, value): (&usize, f64)| CheckedCell {
                activation: plan.cells[*cell].point.to_string(),
                column: cell % plan.labels.len(),
                part: None,
                estimate: effects[*cell],
                exact: value - unchanged,
            };
            Some(Check::of(chosen.iter().zip(found).map(cell).collect()))
        }
    };
    let values: Vec<f64> = effects.iter().map(|effect| unchanged + effect).collect();
    Ok(Estimate { grid: plan.grid(values, unchanged, of_base, sweep.metric), check })
}

/// The place where a cell's activation is read. A head's output is linear in its mixed values, which are much smaller.
struct Place {
    point: Point,
    columns: Option<Range<usize>>,
}

impl Place {
    fn of(model: &Model, point: Point) -> Self {
        match (point.site(), point.layer(), point.head()) {
            (Site::HeadOut, Some(layer), Some(head)) => {
                let columns = model.arch().heads(layer).of_value(head);
                Place { point: Point::layer_of(Site::Z, layer), columns: Some(columns) }
            }
            _ => Place { point, columns: None },
        }
    }

    fn columns(&self, width: usize) -> Range<usize> {
        self.columns.clone().unwrap_or(0..width)
    }
}

/// Values of the changed run, with the metric's gradients.
struct Slopes {
    values: ActivationCache,
    gradients: ActivationCache,
    /// The factor on the gradients.
    factor: f64,
}

impl Slopes {
    #[expect(clippy::too_many_arguments, reason = "each is known where it is called")]
    fn new(
        model: &Model,
        row: &[u32],
        points: &BTreeSet<Point>,
        metric: Metric,
        base: Option<&[f32]>,
        present: &[f32],
        rule: Rule,
        stop: Stop<'_>,
    ) -> Result<Self> {
        let activations =
            points.iter().map(|point| Ok(point.to_string().parse()?)).collect::<Result<Vec<_>>>()?;
        let request = Request { activations, positions: vec![Specifier::All], ..Request::default() };
        let rows = [Row::of(0, row)];
        let (metric, factor) = match metric {
            Metric::NormalisedLogitDiff { answer, against } => {
                let diff =
                    |logits: &[f32]| f64::from(logits[answer as usize]) - f64::from(logits[against as usize]);
                let whole = diff(base.unwrap_or(present)) - diff(present);
                (Metric::LogitDiff { answer, against }, 1.0 / whole)
            }
            metric => (metric, 1.0),
        };
        let target = (metric == Metric::Kl).then(|| vec![log_probabilities(base.unwrap_or(present))]);
        let output = Output::Metric { metrics: &[metric], target: target.as_deref() };
        let context = Context::default();
        let mut edits = Edits::default();
        let found =
            gradients::run(model, &rows, &request, Some(&request), output, rule, &mut edits, context, stop)?;
        Ok(Slopes { values: found.values, gradients: found.gradients.cache, factor })
    }

    fn width(&self, point: Point) -> usize {
        self.values.get(point).map_or(0, |kept| kept.row_shapes[0][1])
    }

    /// Value and gradient at a position.
    fn at(&self, place: &Place, position: usize) -> [&[f32]; 2] {
        let width = self.width(place.point);
        let kept = [self.values.get(place.point), self.gradients.get(Key::Gradient(place.point))];
        kept.map(|kept| match kept {
            Some(kept) => &kept.values()[position * width..(position + 1) * width][place.columns(width)],
            None => &[],
        })
    }
}
