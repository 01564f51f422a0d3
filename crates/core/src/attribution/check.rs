//! Estimates compared with exact runs.

use serde_json::{Value, json};

use crate::error::{Error, Result};

/// Estimates compared with exact runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// The cells, largest estimate first.
    pub cells: Vec<CheckedCell>,
    /// Pearson's correlation of estimated and exact effects; `None` for fewer than two cells, or if either is constant.
    pub pearson: Option<f64>,
    /// Spearman's correlation: Pearson's of their ranks.
    pub spearman: Option<f64>,
}

/// One cell, both estimated and run.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckedCell {
    /// The changed activation.
    pub activation: String,
    /// The column in a grid, else the position.
    pub column: usize,
    /// The head, neuron or key within the activation, if the cell is one of several.
    pub part: Option<usize>,
    /// The estimated effect.
    pub estimate: f64,
    /// The effect in the exact run.
    pub exact: f64,
}

impl Check {
    pub(super) fn of(cells: Vec<CheckedCell>) -> Self {
        let (estimates, exact): (Vec<f64>, Vec<f64>) = cells.iter().map(|c| (c.estimate, c.exact)).unzip();
        let (pearson, spearman) = (correlation(&estimates, &exact), rank_correlation(&estimates, &exact));
        Check { cells, pearson, spearman }
    }

    /// Refuses a check of no cells.
    pub(super) fn refuse_none(cells: usize) -> Result<()> {
        match cells {
            0 => Err(Error::input("a check of 0 cells checks nothing")
                .hint("check some, such as 20, or leave the check out")),
            _ => Ok(()),
        }
    }

    /// The check as JSON: `cells[]`, `pearson`, `spearman`.
    pub fn to_json(&self) -> Value {
        let cell = |cell: &CheckedCell| {
            let mut json = json!({
                "activation": cell.activation,
                "column": cell.column,
                "estimate": cell.estimate,
                "exact": cell.exact,
            });
            if let Some(part) = cell.part {
                json["part"] = part.into();
            }
            json
        };
        let cells: Vec<Value> = self.cells.iter().map(cell).collect();
        json!({"cells": cells, "pearson": self.pearson, "spearman": self.spearman})
    }
}

/// Pearson's correlation; `None` for fewer than two pairs, or if either side is constant.
pub fn correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    let n = a.len().min(b.len());
    if n < 2 {
        return None;
    }
    let mean = |x: &[f64]| x[..n].iter().sum::<f64>() / n as f64;
    let (of_a, of_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - of_a, b - of_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    (aa > 0.0 && bb > 0.0).then(|| (ab / (aa * bb).sqrt()).clamp(-1.0, 1.0))
}

/// Spearman's correlation: Pearson's of ranks; equal values share their mean rank.
pub fn rank_correlation(a: &[f64], b: &[f64]) -> Option<f64> {
    correlation(&ranks(a), &ranks(b))
}

fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let equal = order[start..].iter().take_while(|i| values[**i] == values[order[start]]).count().max(1);
        let shared = start as f64 + (equal as f64 + 1.0) / 2.0;
        order[start..start + equal].iter().for_each(|i| ranks[*i] = shared);
        start += equal;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_of_small_lists_by_hand() {
        let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]);
        assert!((correlation(&a, &b).unwrap() - 0.984_374_0).abs() < 1e-6);
        assert_eq!(rank_correlation(&a, &b), Some(1.0));
        assert_eq!(rank_correlation(&a, &[4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        // Equal values share their mean rank, as in scipy.stats.spearmanr.
        let tied = rank_correlation(&[1.0, 1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert!((tied - 0.948_683_3).abs() < 1e-6);
        assert_eq!(correlation(&[1.0], &[2.0]), None);
        assert_eq!(correlation(&[1.0, 1.0], &[2.0, 3.0]), None);
    }
}
