//! The lens over a cache: every key that a pattern matches.

use std::collections::BTreeMap;

use easyroutine_kernels::Rows;
use easyroutine_sites::{Extent, Point, Selector};

use super::{CachedStatistics, Direction, LensNorm, LogitLens, Metric, directions};
use crate::cache::{ActivationCache, Axis, Kept, Key, Numbers, Statistic};
use crate::error::{Error, Result};

/// Options of a lens over a cache.
#[derive(Debug, Clone)]
pub struct LensOptions {
    /// Directions instead of the whole vocabulary: one for all rows, or one per row.
    pub directions: Option<Vec<Direction>>,
    /// The statistics that the final norm uses.
    pub norm: LensNorm,
    /// Probabilities instead of logits.
    pub softmax: bool,
    /// The metric along directions.
    pub metric: Metric,
}

impl Default for LensOptions {
    fn default() -> Self {
        LensOptions { directions: None, norm: LensNorm::Cached, softmax: false, metric: Metric::LogitDiff }
    }
}

/// The result for one key: its name `logit_lens_{key}` and its values.
pub type LensValue = (String, Kept);

impl LogitLens {
    /// The lens of every key that `target_key` matches, in numerical order.
    ///
    /// # Shapes
    /// Without directions `[B, T, V]`; `logit_diff` `[B, T]`; `accuracy` `[T]`.
    ///
    /// # Errors
    /// If the pattern matches no activation, the cache lacks a key or it is not in the residual stream's basis, a
    /// cached norm has no `last_layernorm` or meets averages, there is neither one direction nor one per row, an id is
    /// beyond the vocabulary, `accuracy` has no pairs or rows of different T, or a file of the model was written to
    /// before all its weights were packed.
    pub fn compute(
        &self,
        cache: &ActivationCache,
        target_key: &str,
        options: &LensOptions,
    ) -> Result<Vec<LensValue>> {
        self.unembedding.files.during(|| self.computed(cache, target_key, options))
    }

    fn computed(
        &self,
        cache: &ActivationCache,
        target_key: &str,
        options: &LensOptions,
    ) -> Result<Vec<LensValue>> {
        let pairs_alone = options.metric == Metric::Accuracy;
        match &options.directions {
            Some(directions) => {
                directions.iter().try_for_each(|d| d.check(self.vocabulary(), pairs_alone))?
            }
            None if pairs_alone => return Err(directions::without_pairs()),
            None => {}
        }
        if options.norm == LensNorm::Cached && cache.axis == Axis::Groups {
            return Err(Error::input(
                "averaged activations have no cached norm: a mean of tokens is not a token",
            )
            .hint("take the norm of each mean itself, norm \"own\", or extract without `avg`"));
        }
        let mut results = Vec::new();
        for point in matching(cache, target_key)? {
            let Some(kept) = cache.get(point) else { continue };
            let values = self.of_key(point, kept, cache, options)?;
            results.push((format!("logit_lens_{point}"), values));
        }
        Ok(results)
    }

    fn of_key(
        &self,
        point: Point,
        kept: &Kept,
        cache: &ActivationCache,
        options: &LensOptions,
    ) -> Result<Kept> {
        let role = self.role(point.site())?;
        let d_model = self.unembedding.d_model();
        let mut lengths = Vec::with_capacity(kept.row_shapes.len());
        for (row, shape) in kept.row_shapes.iter().enumerate() {
            match shape.as_slice() {
                &[length, width] if width == d_model => lengths.push(length),
                _ => {
                    return Err(Error::input(format!(
                        "`{point}`: row {row} has shape {shape:?}; this lens reads [T, {d_model}]"
                    )));
                }
            }
        }
        if lengths.is_empty() {
            return Err(Error::input(format!("`{point}` has no rows")));
        }
        let vectors = Rows::dense(kept.values(), lengths.iter().sum(), d_model);
        let translated = self.translated(point, vectors)?;
        let vectors = translated.as_ref().map_or(vectors, |buffer| buffer.rows());
        let statistics = Statistic::ALL.map(|part| cache.get(Key::Statistic(part)).map(Kept::values));
        let cached = match statistics {
            [Some(mean), Some(variance), Some(second_moment)] => {
                Some(CachedStatistics { mean, variance, second_moment })
            }
            _ => None,
        };
        let normed = self.normed(vectors, role, options.norm, cached)?;
        let with_bias = role.takes_bias(options.norm);
        let Some(directions) = &options.directions else {
            let values = if options.softmax {
                self.probabilities(normed, with_bias)
            } else {
                self.logits(normed, with_bias, true)
            };
            let row_shapes = lengths.iter().map(|t| vec![*t, self.vocabulary()]).collect();
            return Ok(Kept { data: Numbers::F32(values), row_shapes });
        };
        let of_vectors = spread(directions, &lengths)?;
        let values = self.along(normed, with_bias, options.softmax, &of_vectors);
        match options.metric {
            Metric::LogitDiff => {
                let row_shapes = lengths.iter().map(|t| vec![*t]).collect();
                Ok(Kept { data: Numbers::F32(values), row_shapes })
            }
            Metric::Accuracy => accuracy(&values, &lengths),
        }
    }
}

/// The points of a cache that a pattern matches, layers and heads in numerical order.
fn matching(cache: &ActivationCache, target_key: &str) -> Result<Vec<Point>> {
    let selector: Selector = target_key.parse()?;
    let held: Vec<Point> = cache.iter().filter_map(|(key, _)| key.point()).collect();
    let of_site = || held.iter().filter(|p| p.site() == selector.site());
    let extent = Extent {
        n_layers: of_site().filter_map(|p| p.layer()).max().map_or(0, |l| l + 1),
        n_heads: of_site().filter_map(|p| p.head()).max().map_or(0, |h| h + 1),
        n_experts: of_site().filter_map(|p| p.expert()).max().map_or(0, |e| e + 1),
    };
    let missing = || {
        let keys: Vec<String> = cache.iter().map(|(key, _)| key.to_string()).take(8).collect();
        Error::input(format!("the cache holds no `{target_key}`; it holds {}", keys.join(", ")))
    };
    if of_site().next().is_none() {
        return Err(missing());
    }
    let wanted = selector.points(extent).map_err(|_| missing())?;
    let found: Vec<Point> = wanted.into_iter().filter(|p| held.contains(p)).collect();
    if found.is_empty() { Err(missing()) } else { Ok(found) }
}

/// One direction per vector.
fn spread(directions: &[Direction], lengths: &[usize]) -> Result<Vec<Direction>> {
    let of_row = |row: usize| match directions {
        [one] => Ok(*one),
        many if many.len() == lengths.len() => Ok(many[row]),
        many => Err(Error::input(format!(
            "{} directions for {} rows; give one for all rows or one a row",
            many.len(),
            lengths.len()
        ))),
    };
    let mut spread = Vec::new();
    for (row, length) in lengths.iter().enumerate() {
        spread.extend(std::iter::repeat_n(of_row(row)?, *length));
    }
    Ok(spread)
}

/// The share of rows above zero, at each of the T positions.
fn accuracy(values: &[f32], lengths: &[usize]) -> Result<Kept> {
    let t = lengths.first().copied().unwrap_or(0);
    if lengths.iter().any(|length| *length != t) {
        return Err(Error::input("accuracy needs the same number of positions in every row"));
    }
    let mut won: BTreeMap<usize, usize> = BTreeMap::new();
    for (i, value) in values.iter().enumerate() {
        *won.entry(i % t).or_default() += usize::from(*value > 0.0);
    }
    let shares = won.into_values().map(|n| n as f32 / lengths.len() as f32).collect();
    Ok(Kept { data: Numbers::F32(shares), row_shapes: vec![vec![]; t] })
}
