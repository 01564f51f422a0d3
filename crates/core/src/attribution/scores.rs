//! Attribution patching for any activations, down to single neurons and entries of patterns.

use easyroutine_sites::{Point, Site};

use super::{Check, CheckedCell, difference, largest, log_probabilities, values_and_logits};
use crate::cache::{ActivationCache, Kept, Key};
use crate::edit::{Edits, Intervention, Operation, Part, Softmax, Tensor, check_access};
use crate::error::{Error, Result};
use crate::gradients::{self, Output, Rule};
use crate::model::Model;
use crate::patching::{Metric, last_logits};
use crate::positions::{Context, Row, Selection, Specifier};
use crate::request::Request;
use crate::stop::Stop;

/// The first-order effect of every activation of a request on a metric.
#[derive(Debug, Clone)]
pub struct Attribution {
    /// Scores by activation.
    ///
    /// # Shapes
    /// Per row `[T]`; `[T, heads]` for queries, keys, values and z; `[T, F]` for neurons; `[T, T]` for patterns and
    /// scores.
    pub scores: Vec<(Point, Kept)>,
    /// The metric of each row of the target.
    pub target: Vec<f64>,
    /// The metric of each row of the base; NaN if it is not read at the last token.
    pub base: Vec<f64>,
    /// The tokens that T counts.
    pub selection: Selection,
    metrics: Vec<Metric>,
    /// Logits of the last token of each row of the base.
    base_logits: Vec<Vec<f32>>,
    /// The same of the target; `None` if the metric does not read them.
    target_logits: Vec<Option<Vec<f32>>>,
    base_values: ActivationCache,
    target_values: ActivationCache,
}

/// One score.
#[derive(Debug, Clone, PartialEq)]
pub struct Cell {
    /// The row.
    pub row: usize,
    /// The activation.
    pub point: Point,
    /// The position; for patterns and scores the query's.
    pub position: usize,
    /// The head, the neuron, or the position of the key, if there are several.
    pub part: Option<usize>,
    /// The score.
    pub value: f64,
}

/// Scores Σ (base - target) · ∂metric/∂activation, with the gradient at the target: an estimate of how the target's
/// metric changes when each activation is replaced by the base's. A corrupted target with a clean base is denoising,
/// the reverse is noising.
///
/// # Errors
/// As [`gradients`](gradients::gradients). Also if base and target differ in number or length of rows, for [`Metric::NormalisedLogitDiff`],
/// which only rescales another metric, and if an activation is not finite.
#[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
pub fn attribution_patching(
    model: &Model,
    base: &[Row<'_>],
    target: &[Row<'_>],
    request: &Request,
    metrics: &[Metric],
    rule: Rule,
    context: Context<'_>,
    stop: Stop<'_>,
) -> Result<Attribution> {
    as_long(base, target)?;
    let tokens = request.tokens(target, context)?;
    let (base_values, base_logits) = values_and_logits(model, base, request, tokens.clone(), stop)?;
    let reference = metrics
        .contains(&Metric::Kl)
        .then(|| base_logits.iter().map(|row| log_probabilities(row)).collect::<Vec<_>>());
    let output = Output::Metric { metrics, target: reference.as_deref() };
    let mut edits = Edits::default();
    let found =
        gradients::run(model, target, request, Some(request), output, rule, &mut edits, context, stop)?;
    let (gradients, target_values) = (found.gradients, found.values);
    let selection = tokens.columns;
    let target_logits = found.last_logits;
    let mut scores = Vec::new();
    for point in request.points(model.arch())? {
        let of = |cache: &ActivationCache, key: Key| {
            cache.get(key).cloned().ok_or_else(|| Error::input(format!("`{point}` was not reached")))
        };
        let (base, target) = (of(&base_values, Key::Point(point))?, of(&target_values, Key::Point(point))?);
        let kept = scored(model, point, &base, &target, &of(&gradients.cache, Key::Gradient(point))?);
        if kept.values().iter().any(|x| !x.is_finite()) {
            return Err(Error::input(format!("the score of `{point}` is not finite"))
                .hint("an activation of one of the two runs is not finite"));
        }
        scores.push((point, kept));
    }
    let of = |row: usize| metrics[if metrics.len() == 1 { 0 } else { row }];
    let measured = |row: usize, logits: &[f32]| of(row).of(logits, logits, None).unwrap_or(f64::NAN);
    let base = match metrics.contains(&Metric::Kl) {
        true => vec![0.0; base.len()],
        false => base_logits.iter().enumerate().map(|(row, logits)| measured(row, logits)).collect(),
    };
    let metrics = (0..target.len()).map(of).collect();
    let target = gradients.values;
    Ok(Attribution {
        scores,
        target,
        base,
        selection,
        metrics,
        base_logits,
        target_logits,
        base_values,
        target_values,
    })
}

/// # Errors
/// If the numbers of rows differ, or the rows of a pair differ in length.
pub(super) fn as_long(base: &[Row<'_>], target: &[Row<'_>]) -> Result<()> {
    if base.len() != target.len() {
        return Err(Error::input(format!("{} rows of base but {} of target", base.len(), target.len())));
    }
    match base.iter().zip(target).find(|(base, target)| base.ids.len() != target.ids.len()) {
        None => Ok(()),
        Some((base, target)) => Err(Error::input(format!(
            "row {}: the base has {} tokens and the target {}",
            target.number,
            base.ids.len(),
            target.ids.len()
        ))
        .hint("each position is put in the place of the same position: give prompts of one length")),
    }
}

/// Number of scores per vector of a point; the vector's width if nothing is summed.
fn parts(model: &Model, point: Point, width: usize) -> usize {
    let heads = model.arch().heads(point.layer().unwrap_or(0));
    match point.site() {
        Site::Queries | Site::Keys => width / heads.d_head,
        Site::Values | Site::Z => width / heads.d_value,
        Site::MlpHidden | Site::Pattern | Site::Scores => width,
        _ => 1,
    }
}

fn scored(model: &Model, point: Point, base: &Kept, target: &Kept, gradient: &Kept) -> Kept {
    let mut values = Vec::new();
    let mut shapes = Vec::new();
    let rows = base.rows().zip(target.rows()).zip(gradient.rows()).zip(&base.row_shapes);
    for (((base, target), gradient), shape) in rows {
        let width = shape[1];
        let n = parts(model, point, width);
        let size = (width / n.max(1)).max(1);
        let cells = base.chunks_exact(size).zip(target.chunks_exact(size)).zip(gradient.chunks_exact(size));
        values.extend(
            cells.map(|((base, target), slope)| difference(base.iter().copied(), target, slope) as f32),
        );
        shapes.push(if n == 1 && point.site() != Site::Pattern && point.site() != Site::Scores {
            vec![shape[0]]
        } else {
            vec![shape[0], n]
        });
    }
    Kept::f32(values, shapes)
}

/// The scores of a row with their columns, each token once however often it was named: for patterns and scores a
/// query's and a key's, else a token's and its part.
pub(super) fn cells_of<'k>(
    kept: &'k Kept,
    row: usize,
    distinct: &'k [usize],
    is_pairwise: bool,
) -> impl Iterator<Item = (usize, Option<usize>, f32)> + 'k {
    let n = kept.row_shapes[row].get(1).copied();
    let parts: Vec<Option<usize>> = match n {
        None => vec![None],
        Some(_) if is_pairwise => distinct.iter().copied().map(Some).collect(),
        Some(n) => (0..n).map(Some).collect(),
    };
    let cell =
        move |t: usize, part: Option<usize>| (t, part, kept.row(row)[t * n.unwrap_or(1) + part.unwrap_or(0)]);
    distinct.iter().flat_map(move |t| parts.clone().into_iter().map(move |part| cell(*t, part)))
}

impl Attribution {
    /// The largest absolute scores of a row, largest first. A token that several positions name counts once.
    pub fn largest(&self, row: usize, most: usize) -> Vec<Cell> {
        let mut cells = Vec::new();
        let (positions, distinct) = (&self.selection.rows[row].indices, self.selection.rows[row].distinct());
        for (point, kept) in &self.scores {
            let is_pairwise = point.site().is_pairwise();
            for (t, part, value) in cells_of(kept, row, &distinct, is_pairwise) {
                let part = part.map(|part| if is_pairwise { positions[part] } else { part });
                let (position, value) = (positions[t], f64::from(value));
                if value != 0.0 {
                    cells.push(Cell { row, point: *point, position, part, value });
                }
            }
        }
        let values: Vec<f64> = cells.iter().map(|cell| cell.value).collect();
        largest(&values, most).into_iter().map(|i| cells[i].clone()).collect()
    }
}

/// Runs the largest cells of a row exactly: the target with one activation replaced at a time. `progress` gets the
/// number of cells done and in total.
///
/// # Errors
/// If no cells are requested, an activation can only be read, the metric is not read at the last token, or `progress`
/// fails.
pub fn check_largest(
    model: &Model,
    target: &Row<'_>,
    attribution: &Attribution,
    row: usize,
    most: usize,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Check> {
    Check::refuse_none(most)?;
    let metric = attribution.metrics[row];
    if metric == Metric::CrossEntropy {
        return Err(Error::input("a check compares logits at the last token, and `ce` is a sum over all")
            .hint("check an estimate of `logit_diff`, `logit`, `logprob`, `p` or `kl`"));
    }
    let cells = attribution.largest(row, most);
    for cell in &cells {
        if !cell.point.site().is_pairwise() {
            check_access(cell.point.site())?;
        }
    }
    let own = Row { number: 0, ..*target };
    let present = attribution.target_logits[row].as_deref().unwrap_or_default();
    let measured = metric.against(present, Some(&attribution.base_logits[row]))?;
    progress(0, cells.len())?;
    let mut checked = Vec::with_capacity(cells.len());
    for (done, cell) in cells.iter().enumerate() {
        let edit = exact(model, attribution, cell)?;
        let edits = Edits::new(&[edit], model.arch(), &[own], Context::default())?;
        let logits = last_logits(model, &[own], edits)?.pop().unwrap_or_default();
        checked.push(CheckedCell {
            activation: cell.point.to_string(),
            column: cell.position,
            part: cell.part,
            estimate: cell.value,
            exact: measured.of(&logits) - measured.of(present),
        });
        progress(done + 1, cells.len())?;
    }
    Ok(Check::of(checked))
}

/// The intervention of a cell.
fn exact(model: &Model, attribution: &Attribution, cell: &Cell) -> Result<Intervention> {
    let at = |position: usize| vec![Specifier::At(position as i64)];
    let positions = &attribution.selection.rows[cell.row].indices;
    let t = positions.iter().position(|p| *p == cell.position).unwrap_or(0);
    let vector = |cache: &ActivationCache| -> Vec<f32> {
        let Some(kept) = cache.get(cell.point) else { return Vec::new() };
        let width = kept.row_shapes[cell.row][1];
        kept.row(cell.row)[t * width..(t + 1) * width].to_vec()
    };
    let (base, mut put) = (vector(&attribution.base_values), vector(&attribution.target_values));
    let activation = cell.point.to_string().parse()?;
    if cell.point.site().is_pairwise() {
        let key = cell.part.unwrap_or(0);
        let column = positions.iter().position(|p| *p == key).unwrap_or(0);
        let softmax = if cell.point.site() == Site::Scores { Softmax::Before } else { Softmax::After };
        let values = Tensor::new(cell.point.to_string(), &[1, 1], vec![base[column]])?;
        return Ok(Intervention {
            activation,
            part: Part::Grid { rows: at(cell.position), columns: at(key), softmax },
            operation: Operation::Replace(values),
            entries: Vec::new(),
        });
    }
    let size = base.len() / parts(model, cell.point, base.len()).max(1);
    let changed = cell.part.map_or(0..base.len(), |part| part * size..(part + 1) * size);
    put[changed.clone()].copy_from_slice(&base[changed]);
    let values = Tensor::new(cell.point.to_string(), &[1, put.len()], put)?;
    let (part, operation) = (Part::Full(at(cell.position)), Operation::Replace(values));
    Ok(Intervention { activation, part, operation, entries: Vec::new() })
}
