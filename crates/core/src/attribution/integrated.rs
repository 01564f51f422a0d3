//! Integrated gradients: how much of a metric each token's embedding carries along the path from a baseline.
//!
//! (x - x') ⊙ ∫ ∂metric(x' + α (x - x')) dα (Sundararajan et al. 2017, arXiv 1703.01365), summed as in Captum's
//! `LayerIntegratedGradients`: over N points whose weights sum to 1.

use easyroutine_sites::{Point, Site};

use super::scores::as_long;
use crate::cache::{Kept, Key};
use crate::edit::{Edits, Intervention, Operation, Part, Tensor};
use crate::error::{Error, Result};
use crate::gradients::{Output, Rule, gradients};
use crate::model::Model;
use crate::patching::Metric;
use crate::positions::{Context, Row, Specifier};
use crate::request::Request;
use crate::stop::Stop;

/// Tokens run at a time.
const TOKENS: usize = 2048;

/// The start of the path.
#[derive(Debug, Clone, Copy)]
pub enum Baseline<'a> {
    /// Embeddings of zeros. A norm is singular there, so few points are not enough.
    Zero,
    /// Other prompts, each as long as its row.
    Rows(&'a [Row<'a>]),
}

/// The points of the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Quadrature {
    /// α = k/N from 0.
    Left,
    /// α = (k+1)/N.
    Right,
    /// α = (k+½)/N.
    Midpoint,
    /// Gauss-Legendre points: exact for polynomials of degree 2N - 1.
    #[default]
    GaussLegendre,
}

impl Quadrature {
    /// The rule with a name: `left`, `right`, `midpoint`, `gausslegendre`.
    ///
    /// # Errors
    /// If there is no such rule.
    pub fn from_name(name: &str) -> Result<Self> {
        Ok(match name {
            "left" => Quadrature::Left,
            "right" => Quadrature::Right,
            "midpoint" => Quadrature::Midpoint,
            "gausslegendre" => Quadrature::GaussLegendre,
            _ => {
                return Err(Error::input(format!("no rule `{name}` of integration"))
                    .hint("rules are left, right, midpoint, gausslegendre"));
            }
        })
    }

    /// Points in [0, 1] and their weights, which sum to 1.
    pub fn points(self, steps: usize) -> Vec<(f64, f64)> {
        let n = steps as f64;
        let even = |shift: f64| (0..steps).map(|k| ((k as f64 + shift) / n, 1.0 / n)).collect();
        match self {
            Quadrature::Left => even(0.0),
            Quadrature::Right => even(1.0),
            Quadrature::Midpoint => even(0.5),
            Quadrature::GaussLegendre => gauss_legendre(steps),
        }
    }
}

/// Roots of the Legendre polynomial by Newton's method, from Tricomi's estimate.
fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    let root = |i: usize| {
        let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
        let mut slope = 1.0;
        for _ in 0..100 {
            let (mut last, mut p) = (1.0, x);
            for k in 2..=n {
                let k = k as f64;
                (last, p) = (p, ((2.0 * k - 1.0) * x * p - (k - 1.0) * last) / k);
            }
            slope = n as f64 * (x * p - last) / (x * x - 1.0);
            let step = p / slope;
            x -= step;
            if step.abs() < 1e-16 {
                break;
            }
        }
        ((1.0 - x) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope))
    };
    (0..n).map(root).collect()
}

/// Integrated gradients of a batch.
#[derive(Debug, Clone)]
pub struct Integrated {
    /// The attribution of each number of the embeddings.
    ///
    /// # Shapes
    /// `[T, D]` per row, for all tokens.
    pub attributions: Kept,
    /// The metric of each row.
    pub values: Vec<f64>,
    /// The metric of each baseline.
    pub baselines: Vec<f64>,
    /// What is missing in each row: the metric minus the baseline's metric minus the sum of all attributions. With
    /// exact integrals it is 0.
    pub missing: Vec<f64>,
}

impl Integrated {
    /// Warnings about rows that miss more than a tenth.
    pub fn warnings(&self) -> Vec<String> {
        let of = |row: usize| {
            let whole = self.values[row] - self.baselines[row];
            let missing = self.missing[row];
            (missing.abs() > 0.1 * whole.abs()).then(|| {
                format!(
                    "row {row}: the attributions sum to {:.4} where the metric changes by {whole:.4}: more steps, or a \
                     baseline that is a prompt, bring them nearer",
                    whole - missing
                )
            })
        };
        (0..self.values.len()).filter_map(of).collect()
    }

    /// The attribution of each token: the sum over its embedding.
    pub fn by_token(&self) -> Vec<Vec<f64>> {
        let of = |(values, shape): (&[f32], &Vec<usize>)| -> Vec<f64> {
            let width = shape[1].max(1);
            values.chunks_exact(width).map(|token| token.iter().map(|x| f64::from(*x)).sum()).collect()
        };
        self.attributions.rows().zip(&self.attributions.row_shapes).map(of).collect()
    }
}

/// Integrated gradients of a metric over the embeddings of each row, one row at a time. `progress` gets the number of
/// runs done and in total.
///
/// # Errors
/// As [`gradients`]. Also if there are no steps, baselines differ from the rows in length or number, the left rule
/// starts from zero (its first point, where a norm is singular), or `progress` fails.
#[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
pub fn integrated_gradients(
    model: &Model,
    rows: &[Row<'_>],
    baseline: Baseline<'_>,
    metrics: &[Metric],
    target: Option<&[Vec<f32>]>,
    quadrature: Quadrature,
    steps: usize,
    stop: Stop<'_>,
    mut progress: impl FnMut(usize, usize) -> Result<()>,
) -> Result<Integrated> {
    const MOST: usize = 100_000;
    if !(1..=MOST).contains(&steps) {
        return Err(Error::input(format!("{steps} steps: an integral takes 1 to {MOST}")));
    }
    if matches!(baseline, Baseline::Zero) && quadrature == Quadrature::Left {
        return Err(Error::input(
            "the rule `left` begins at the baseline, and at zero embeddings a norm is singular",
        )
        .hint("take gausslegendre, midpoint or right, or a prompt as the baseline"));
    }
    if let Baseline::Rows(others) = baseline {
        as_long(others, rows)?;
    }
    if metrics.len() != 1 && metrics.len() != rows.len() {
        return Err(Error::input(format!("{} metrics for {} rows", metrics.len(), rows.len()))
            .hint("give one for all rows, or one for each"));
    }
    let points = quadrature.points(steps);
    let mut found = Integrated {
        attributions: Kept::f32(Vec::new(), Vec::new()),
        values: Vec::new(),
        baselines: Vec::new(),
        missing: Vec::new(),
    };
    let total = rows.len() * steps;
    progress(0, total)?;
    for (number, row) in rows.iter().enumerate() {
        let ids = row.ids;
        let metric = metrics[if metrics.len() == 1 { 0 } else { number }];
        let target = target.map(|target| vec![target[number].clone()]);
        let path = Path { model, ids, metric, target, stop };
        let embedded = path.embedded(ids)?;
        let start = match baseline {
            Baseline::Zero => vec![0.0; embedded.len()],
            Baseline::Rows(others) => path.embedded(others[number].ids)?,
        };
        let mut sums = vec![0f64; embedded.len()];
        let at_once = (TOKENS / ids.len().max(1)).max(1);
        for (group, some) in points.chunks(at_once).enumerate() {
            let gradients = path.gradients(&start, &embedded, some)?;
            for (gradient, (_, weight)) in gradients.iter().zip(some) {
                sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += weight * f64::from(*g));
            }
            progress(number * steps + (group * at_once + some.len()), total)?;
        }
        let moved = sums.iter().zip(&start).zip(&embedded);
        let exact: Vec<f64> = moved.map(|((sum, x0), x)| sum * (f64::from(*x) - f64::from(*x0))).collect();
        let (value, of_baseline) = (path.value(&embedded)?, path.value(&start)?);
        found.missing.push(value - of_baseline - exact.iter().sum::<f64>());
        found.values.push(value);
        found.baselines.push(of_baseline);
        let shape = vec![ids.len(), model.arch().d_model];
        found.attributions.append(Kept::f32(exact.iter().map(|x| *x as f32).collect(), vec![shape]))?;
    }
    Ok(found)
}

/// The path of one row.
struct Path<'a> {
    model: &'a Model,
    ids: &'a [u32],
    metric: Metric,
    target: Option<Vec<Vec<f32>>>,
    stop: Stop<'a>,
}

impl Path<'_> {
    fn embedded(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let request = Request::parse("input_embeddings", "all")?;
        let batch = crate::batch::Batch::new(&[ids])?;
        let cache = request.run(self.model, &batch, &[Row::of(0, ids)], Context::default())?;
        Ok(cache.get("input_embeddings").map(|kept| kept.values().to_vec()).unwrap_or_default())
    }

    /// The gradients at points of the path, as rows of one batch.
    fn gradients(&self, start: &[f32], end: &[f32], points: &[(f64, f64)]) -> Result<Vec<Vec<f32>>> {
        let at = |alpha: f64| {
            start
                .iter()
                .zip(end)
                .map(move |(x0, x)| (f64::from(*x0) + alpha * (f64::from(*x) - f64::from(*x0))) as f32)
        };
        let values: Vec<f32> = points.iter().flat_map(|(alpha, _)| at(*alpha)).collect();
        let (gradients, _) = self.run("input_embeddings", values, points.len())?;
        Ok(gradients)
    }

    /// The metric at given embeddings.
    fn value(&self, embedded: &[f32]) -> Result<f64> {
        // The closer to the metric, the cheaper the run.
        self.run("logits", embedded.to_vec(), 1).map(|(_, values)| values[0])
    }

    fn run(&self, key: &str, embedded: Vec<f32>, n_rows: usize) -> Result<(Vec<Vec<f32>>, Vec<f64>)> {
        let rows: Vec<Row<'_>> = (0..n_rows).map(|number| Row::of(number, self.ids)).collect();
        let shape = [n_rows, self.ids.len(), self.model.arch().d_model];
        let put = Intervention {
            activation: "input_embeddings".parse()?,
            part: Part::Full(vec![Specifier::All]),
            operation: Operation::Replace(Tensor::new("embeddings", &shape, embedded)?),
            entries: Vec::new(),
        };
        let context = Context::default();
        let mut edits = Edits::new(&[put], self.model.arch(), &rows, context)?;
        let target: Option<Vec<Vec<f32>>> =
            self.target.as_ref().map(|target| (0..n_rows).map(|_| target[0].clone()).collect());
        let output = Output::Metric { metrics: &[self.metric], target: target.as_deref() };
        let request = Request::parse(key, if key == "logits" { "last" } else { "all" })?;
        let found =
            gradients(self.model, &rows, &request, output, Rule::Gradient, &mut edits, context, self.stop)?;
        let kept = found.cache.get(Key::Gradient(Point::model(Site::InputEmbeddings)));
        let rows = kept.map(|kept| kept.rows().map(<[f32]>::to_vec).collect()).unwrap_or_default();
        Ok((rows, found.values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauss_legendre_integrates_polynomials_exactly() {
        for n in [1, 2, 5, 8, 50] {
            let points = Quadrature::GaussLegendre.points(n);
            for degree in 0..2 * n {
                let sum: f64 = points.iter().map(|(x, w)| w * x.powi(degree as i32)).sum();
                assert!(
                    (sum - 1.0 / (degree as f64 + 1.0)).abs() < 1e-13,
                    "{n} points, degree {degree}: {sum}"
                );
            }
        }
    }
}
