//! Directions in activations: probes that separate two classes, and steering vectors.
//!
//! All sums are in f64 and in the order of the rows, so that the same rows give the same bits.

use easyroutine::{Error, Result};

/// Rows of activations, `[n, width]`.
#[derive(Debug, Clone, Copy)]
pub struct Vectors<'a> {
    values: &'a [f32],
    width: usize,
}

impl<'a> Vectors<'a> {
    /// Contiguous rows of one width.
    ///
    /// # Errors
    /// If the width is 0, the values are not whole rows, or one is NaN or infinite.
    pub fn new(values: &'a [f32], width: usize) -> Result<Vectors<'a>> {
        if width == 0 || !values.len().is_multiple_of(width) {
            return Err(Error::input(format!("{} numbers are not rows of {width}", values.len())));
        }
        match values.iter().position(|x| !x.is_finite()) {
            Some(at) => Err(Error::input(format!("row {} holds {}", at / width, values[at]))),
            None => Ok(Vectors { values, width }),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Numbers per row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The numbers of the chosen rows, in order.
    pub(crate) fn chosen(&self, is_in: impl Fn(usize) -> bool) -> Vec<f32> {
        let rows = self.rows().enumerate().filter(|(row, _)| is_in(*row));
        rows.flat_map(|(_, row)| row.iter().copied()).collect()
    }

    fn row(&self, i: usize) -> &'a [f32] {
        &self.values[i * self.width..][..self.width]
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        self.values.chunks_exact(self.width)
    }
}

/// A probe: positive where weight · x + bias is above 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// `[width]`
    pub weight: Vec<f64>,
    /// Added.
    pub bias: f64,
}

/// How a logistic probe is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logistic {
    /// The weight of the data against the penalty on the weights' norm: scikit-learn's C.
    pub c: f64,
    /// Whether coordinates are first standardised to mean 0 and deviation 1 (of n) over the rows; the resulting probe
    /// reads unstandardised vectors.
    pub standardise: bool,
}

impl Probe {
    /// Fits ½‖w‖² + C Σ log(1 + exp(−y(w·x + b))) with b free, by Newton's method until the gradient is below 1e-8:
    /// scikit-learn's `LogisticRegression`.
    ///
    /// # Shapes
    /// rows: `[n, width]`; labels: `[n]`.
    ///
    /// # Errors
    /// If the numbers of labels and rows differ, there is only one class, C is not positive, or the fit does not
    /// converge.
    pub fn logistic(rows: Vectors<'_>, labels: &[bool], how: Logistic) -> Result<Probe> {
        check_classes(rows, labels)?;
        if !(how.c.is_finite() && how.c > 0.0) {
            return Err(Error::input(format!("C is {}; a number above 0 is expected", how.c)));
        }
        let (n, width) = (rows.len(), rows.width);
        let (means, deviations) =
            if how.standardise { moments(rows)? } else { (vec![0.0; width], vec![1.0; width]) };
        let x: Vec<f64> = rows
            .rows()
            .flat_map(|row| {
                let numbered = row.iter().enumerate();
                numbered.map(|(j, x)| (f64::from(*x) - means[j]) / deviations[j]).collect::<Vec<f64>>()
            })
            .collect();
        let side = |label: bool| if label { 1.0 } else { -1.0 };
        // The last parameter is the bias.
        let margin = |p: &[f64], i: usize| -> f64 {
            let row = &x[i * width..][..width];
            row.iter().zip(p).map(|(x, w)| x * w).sum::<f64>() + p[width]
        };
        let loss = |p: &[f64]| -> f64 {
            let data: f64 = (0..n).map(|i| softplus(-side(labels[i]) * margin(p, i))).sum();
            p[..width].iter().map(|w| w * w).sum::<f64>() / 2.0 + how.c * data
        };
        let mut p = vec![0.0; width + 1];
        let mut now = loss(&p);
        for _ in 0..200 {
            let mut gradient: Vec<f64> = p[..width].iter().copied().chain([0.0]).collect();
            let mut hessian = vec![0.0; (width + 1) * (width + 1)];
            (0..width).for_each(|j| hessian[j * (width + 1) + j] = 1.0);
            for i in 0..n {
                let probability = 1.0 / (1.0 + (-margin(&p, i)).exp());
                let error = how.c * (probability - if labels[i] { 1.0 } else { 0.0 });
                let curve = how.c * probability * (1.0 - probability);
                let row: Vec<f64> = x[i * width..][..width].iter().copied().chain([1.0]).collect();
                for (j, xj) in row.iter().enumerate() {
                    gradient[j] += error * xj;
                    let line = &mut hessian[j * (width + 1)..][..j + 1];
                    line.iter_mut().zip(&row).for_each(|(h, xk)| *h += curve * xj * xk);
                }
            }
            if gradient.iter().map(|g| g * g).sum::<f64>().sqrt() < 1e-8 {
                let mut weight = p[..width].to_vec();
                weight.iter_mut().zip(&deviations).for_each(|(w, deviation)| *w /= deviation);
                let bias = p[width] - weight.iter().zip(&means).map(|(w, mean)| w * mean).sum::<f64>();
                return Ok(Probe { weight, bias });
            }
            let step = solved(hessian, &gradient)?;
            let mut length = 1.0;
            loop {
                let next: Vec<f64> = p.iter().zip(&step).map(|(p, s)| p - length * s).collect();
                let then = loss(&next);
                // Near convergence, rounding decides which is larger.
                if then <= now + 1e-12 * now.abs() || length < 1e-10 {
                    (p, now) = (next, then);
                    break;
                }
                length /= 2.0;
            }
        }
        Err(Error::input("the probe does not converge: try a smaller C, or standardise"))
    }

    /// μ₊ − μ₋, with the threshold halfway between the two means.
    ///
    /// # Errors
    /// If the numbers of labels and rows differ, there is only one class, or the means are equal.
    pub fn mean_difference(rows: Vectors<'_>, labels: &[bool]) -> Result<Probe> {
        check_classes(rows, labels)?;
        let [negative, positive] = [false, true].map(|class| {
            let of_class: Vec<&[f32]> =
                rows.rows().zip(labels).filter(|(_, l)| **l == class).map(|(r, _)| r).collect();
            mean(&of_class, rows.width)
        });
        let weight: Vec<f64> = positive.iter().zip(&negative).map(|(p, n)| p - n).collect();
        if weight.iter().all(|w| *w == 0.0) {
            return Err(Error::input("both classes have the same mean, so no direction tells them apart"));
        }
        let middle =
            positive.iter().zip(&negative).zip(&weight).map(|((p, n), w)| (p + n) / 2.0 * w).sum::<f64>();
        Ok(Probe { weight, bias: -middle })
    }

    /// weight · x + bias of each row.
    pub fn scores(&self, rows: Vectors<'_>) -> Vec<f64> {
        let score = |row: &[f32]| {
            row.iter().zip(&self.weight).map(|(x, w)| f64::from(*x) * w).sum::<f64>() + self.bias
        };
        rows.rows().map(score).collect()
    }

    /// The share of rows on the side of their label.
    pub fn accuracy(&self, rows: Vectors<'_>, labels: &[bool]) -> f64 {
        let right = self
            .scores(rows)
            .into_iter()
            .zip(labels)
            .filter(|(score, label)| (*score > 0.0) == **label)
            .count();
        right as f64 / labels.len().max(1) as f64
    }
}

/// How a steering vector is computed from pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering {
    /// The mean of positive − negative (contrastive activation addition, arXiv 2312.06681).
    Caa,
    /// The first principal component of the differences (repeng, `extract.py`: `pca_diff`).
    PcaDiff,
    /// The first principal component of both sides, each minus its pair's midpoint (repeng: `pca_center`).
    PcaCenter,
}

impl Steering {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Steering::Caa => "caa",
            Steering::PcaDiff => "pca_diff",
            Steering::PcaCenter => "pca_center",
        }
    }

    /// The steering vector of pairs: row i of both sides belongs together. Components have length 1, and the sign for
    /// which more pairs have their positive side further along; in a tie the largest coordinate is positive.
    ///
    /// # Shapes
    /// positive, negative: `[n, width]`; result: `[width]`.
    ///
    /// # Errors
    /// If the sides do not match, there are no pairs, or the differences have no direction.
    pub fn vector(self, positive: Vectors<'_>, negative: Vectors<'_>) -> Result<Vec<f64>> {
        let width = positive.width;
        if positive.len() != negative.len() || width != negative.width || positive.is_empty() {
            return Err(Error::input(format!(
                "{} positive and {} negative rows are not pairs",
                positive.len(),
                negative.len()
            )));
        }
        let differences: Vec<f64> =
            positive.values.iter().zip(negative.values).map(|(p, n)| f64::from(*p) - f64::from(*n)).collect();
        let n = positive.len();
        let mut mean = vec![0.0; width];
        for row in differences.chunks_exact(width) {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x / n as f64);
        }
        let rows: Vec<f64> = match self {
            Steering::Caa if mean.iter().all(|x| *x == 0.0) => return Err(no_direction()),
            Steering::Caa => return Ok(mean),
            Steering::PcaDiff => differences.iter().enumerate().map(|(i, x)| x - mean[i % width]).collect(),
            // Both halves of a pair lie on the same line through the midpoint.
            Steering::PcaCenter => differences,
        };
        let mut vector = first_component(&rows, width)?;
        let along = |row: &[f32]| row.iter().zip(&vector).map(|(x, v)| f64::from(*x) * v).sum::<f64>();
        let (mut larger, mut smaller) = (0, 0);
        for i in 0..n {
            let (p, n) = (along(positive.row(i)), along(negative.row(i)));
            larger += usize::from(p > n);
            smaller += usize::from(p < n);
        }
        let largest =
            vector.iter().copied().fold(0f64, |most, x| if x.abs() > most.abs() { x } else { most });
        if larger < smaller || larger == smaller && largest < 0.0 {
            vector.iter_mut().for_each(|x| *x = -*x);
        }
        Ok(vector)
    }
}

fn no_direction() -> Error {
    Error::input("the pairs differ nowhere, or all in the same way, so they have no direction")
}

fn check_classes(rows: Vectors<'_>, labels: &[bool]) -> Result<()> {
    if rows.len() != labels.len() {
        return Err(Error::input(format!("{} labels for {} rows", labels.len(), rows.len())));
    }
    if labels.iter().all(|label| *label) || !labels.contains(&true) {
        return Err(Error::input("all rows have one label: a probe tells two classes apart"));
    }
    Ok(())
}

fn mean(rows: &[&[f32]], width: usize) -> Vec<f64> {
    let mut sum = vec![0.0; width];
    rows.iter().for_each(|row| sum.iter_mut().zip(*row).for_each(|(sum, x)| *sum += f64::from(*x)));
    sum.iter_mut().for_each(|sum| *sum /= rows.len().max(1) as f64);
    sum
}

/// Mean and deviation (of n) of each coordinate; a constant one has deviation 1.
fn moments(rows: Vectors<'_>) -> Result<(Vec<f64>, Vec<f64>)> {
    let all: Vec<&[f32]> = rows.rows().collect();
    let means = mean(&all, rows.width);
    let deviation = |j: usize| {
        let squares = all.iter().map(|row| (f64::from(row[j]) - means[j]).powi(2)).sum::<f64>();
        let deviation = (squares / all.len() as f64).sqrt();
        if deviation == 0.0 { 1.0 } else { deviation }
    };
    let deviations = (0..rows.width).map(deviation).collect();
    Ok((means, deviations))
}

/// log(1 + e^x) without overflow.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A⁻¹ b for a positive definite matrix given by its lower triangle (Cholesky).
fn solved(mut a: Vec<f64>, b: &[f64]) -> Result<Vec<f64>> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum();
            let rest = a[i * n + j] - sum;
            if i == j {
                if rest.is_nan() || rest <= 0.0 {
                    return Err(Error::input(
                        "the probe does not converge: its classes are perfectly separable",
                    ));
                }
                a[i * n + i] = rest.sqrt();
            } else {
                a[i * n + j] = rest / a[j * n + j];
            }
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| a[i * n + k] * x[k]).sum();
        x[i] = (x[i] - sum) / a[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| a[k * n + i] * x[k]).sum();
        x[i] = (x[i] - sum) / a[i * n + i];
    }
    Ok(x)
}

/// The unit direction of largest variation about 0 (power iteration on XᵀX, starting from the longest row).
fn first_component(rows: &[f64], width: usize) -> Result<Vec<f64>> {
    let square = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>();
    let longest = rows
        .chunks_exact(width)
        .map(square)
        .enumerate()
        .fold((0, 0.0), |best, (i, s)| if s > best.1 { (i, s) } else { best });
    let scale: f64 = square(rows);
    if longest.1 <= 1e-24 * (1.0 + scale) {
        return Err(no_direction());
    }
    let mut vector: Vec<f64> = rows[longest.0 * width..][..width].to_vec();
    let norm = square(&vector).sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    for _ in 0..100_000 {
        let mut next = vec![0.0; width];
        for row in rows.chunks_exact(width) {
            let along: f64 = row.iter().zip(&vector).map(|(x, v)| x * v).sum();
            next.iter_mut().zip(row).for_each(|(next, x)| *next += along * x);
        }
        let norm = square(&next).sqrt();
        next.iter_mut().for_each(|x| *x /= norm);
        let change = next.iter().zip(&vector).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        vector = next;
        if change < 1e-13 {
            return Ok(vector);
        }
    }
    Err(Error::input("the pairs vary along two directions equally, so none is the first"))
}
