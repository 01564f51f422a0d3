//! Experts of a sweep: the tokens that go through them, and what they give in other rows.
//!
//! An expert's output exists where a token goes through it. So means are over those tokens, and where the token of another
//! row goes through other experts, the expert gave nothing: zeros are put.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::{Point, Site};

use super::By;
use super::values::Values;
use crate::batch::Batch;
use crate::edit::Tensor;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::tap::{Tap, Value, Want};

/// How many experts an error names.
const NAMED: usize = 12;

/// The positions of a row whose tokens go through each expert of these layers, ascending. Experts that no token goes
/// through are left out.
pub(super) fn routes(model: &Model, row: &[u32], layers: &[usize]) -> Result<BTreeMap<Point, Vec<usize>>> {
    let mut routes = Routes::of(layers.iter().copied());
    model.forward(&Batch::new(&[row])?, &mut routes)?;
    let positions = |tokens: Vec<(usize, usize)>| tokens.into_iter().map(|(_, position)| position).collect();
    Ok(routes.tokens.into_iter().map(|(expert, tokens)| (expert, positions(tokens))).collect())
}

/// What is put at these positions of experts; `None` for zeros.
///
/// # Errors
/// If no token that a mean is over goes through one of them.
pub(super) fn values(model: &Model, by: &By, wanted: BTreeMap<Point, &[usize]>) -> Result<Option<Values>> {
    let (rows, by_position) = match by {
        By::Zero => return Ok(None),
        By::Mean(rows) => (rows.as_slice(), false),
        By::MeanOfRows(rows) => (rows.as_slice(), true),
        By::Resample(other) | By::Patch(other) => (std::slice::from_ref(other), true),
    };
    if wanted.is_empty() {
        return Ok(Some(Values::Listed(BTreeMap::new())));
    }
    let routes = Routes::of(wanted.keys().filter_map(|point| point.layer()));
    let mut given = Given { routes, wanted, by_position, sums: BTreeMap::new() };
    model.forward(&Batch::new(rows)?, &mut given)?;
    let Given { wanted, sums, .. } = given;
    let means = sums.into_iter().map(|(at, (sum, count))| {
        let mean: Vec<f32> = sum.into_iter().map(|x| (x / count as f64) as f32).collect();
        (at, mean)
    });
    let mut means: BTreeMap<(Point, usize), Vec<f32>> = means.collect();
    match by {
        By::Mean(_) => {
            let without = wanted.keys().filter(|point| !means.contains_key(&(**point, 0)));
            refuse_without(without.map(|point| format!("`{point}`")).collect(), by)?;
            let mean = |((point, _), mean): ((Point, usize), Vec<f32>)| {
                Ok((point, Tensor::new(point.to_string(), &[mean.len()], mean)?))
            };
            Ok(Some(Values::Means(means.into_iter().map(mean).collect::<Result<_>>()?)))
        }
        _ => {
            let all = wanted.iter().flat_map(|(point, positions)| positions.iter().map(|p| (*point, *p)));
            let without: Vec<(Point, usize)> = all.filter(|at| !means.contains_key(at)).collect();
            if matches!(by, By::MeanOfRows(_)) {
                let named =
                    without.iter().map(|(point, position)| format!("`{point}` at position {position}"));
                refuse_without(named.collect(), by)?;
            }
            let zeros = |point| vec![0.0; model.arch().width(point).unwrap_or(0)];
            means.extend(without.into_iter().map(|at| (at, zeros(at.0))));
            Ok(Some(Values::Listed(means)))
        }
    }
}

/// Refuses experts that have no mean, by their names.
fn refuse_without(experts: Vec<String>, by: &By) -> Result<()> {
    if experts.is_empty() {
        return Ok(());
    }
    let more = match experts.len().saturating_sub(NAMED) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let names = experts[..experts.len().min(NAMED)].join(", ");
    let what = "no token of the rows that the mean is over goes through";
    let hint = match by {
        By::MeanOfRows(_) => "take the mean over all tokens, or over more rows",
        _ => "take the mean over more rows, or choose other experts",
    };
    Err(Error::input(format!("{what} {names}{more}")).hint(hint))
}

/// Finds the tokens that go through each expert.
struct Routes {
    layers: BTreeSet<usize>,
    /// Row and position of each, ascending.
    tokens: BTreeMap<Point, Vec<(usize, usize)>>,
}

impl Routes {
    fn of(layers: impl Iterator<Item = usize>) -> Self {
        Routes { layers: layers.collect(), tokens: BTreeMap::new() }
    }
}

impl Tap for Routes {
    fn wants(&self, point: Point) -> Want {
        let is_of_these = point.layer().is_some_and(|layer| self.layers.contains(&layer));
        if point.site() == Site::RouterIndex && is_of_these { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let layer = point.layer().unwrap_or(0);
        for row in 0..value.batch().n_rows() {
            for position in 0..value.batch().length(row) {
                let chosen = value.vector(row, position).unwrap_or_default();
                for expert in chosen.iter().filter(|expert| **expert >= 0.0) {
                    let expert = Point::expert_of(Site::ExpertOut, layer, *expert as usize);
                    self.tokens.entry(expert).or_default().push((row, position));
                }
            }
        }
        Ok(())
    }
}

/// Sums what experts give.
struct Given<'a> {
    routes: Routes,
    /// The positions of each expert.
    wanted: BTreeMap<Point, &'a [usize]>,
    /// Whether each position has a sum of its own, else that of all is at 0.
    by_position: bool,
    /// Sums with the number of their terms.
    sums: BTreeMap<(Point, usize), (Vec<f64>, usize)>,
}

impl Tap for Given<'_> {
    fn wants(&self, point: Point) -> Want {
        if self.wanted.contains_key(&point) { Want::Read } else { self.routes.wants(point) }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let Some(positions) = self.wanted.get(&point) else { return self.routes.at(point, value) };
        for (row, position) in self.routes.tokens.get(&point).into_iter().flatten() {
            if self.by_position && positions.binary_search(position).is_err() {
                continue;
            }
            let vector = value.vector(*row, *position).unwrap_or_default();
            let at = (point, if self.by_position { *position } else { 0 });
            let terms = vector.iter().map(|x| f64::from(*x));
            match self.sums.get_mut(&at) {
                // A single term keeps the sign of its zeros.
                None => {
                    self.sums.insert(at, (terms.collect(), 1));
                }
                Some((sum, count)) => {
                    sum.iter_mut().zip(terms).for_each(|(sum, x)| *sum += x);
                    *count += 1;
                }
            }
        }
        Ok(())
    }
}
