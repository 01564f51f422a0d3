//! What every change of a sweep does.

use serde_json::{Value, json};

use super::Metric;

/// A number for every change of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// The layer of each row.
    pub layers: Vec<usize>,
    /// What each column changes: `position 3`, `head 2`, `mlp_out`.
    pub columns: Vec<String>,
    /// The activation of each cell, row after row.
    pub activations: Vec<Vec<String>>,
    /// The metric under each change.
    ///
    /// # Shapes
    /// layers by columns.
    pub values: Vec<Vec<f64>>,
    /// The metric without any change.
    pub unchanged: f64,
    /// The metric of the base run, where there is one.
    pub base: Option<f64>,
    /// What the numbers are.
    pub metric: Metric,
}

impl Grid {
    /// What each change does: the metric under it less the metric without it.
    ///
    /// # Shapes
    /// layers by columns.
    pub fn effects(&self) -> Vec<Vec<f64>> {
        self.values.iter().map(|row| row.iter().map(|value| value - self.unchanged).collect()).collect()
    }

    /// The grid as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "schema": "easyroutine.grid/1",
            "metric": self.metric.to_json(),
            "layers": self.layers,
            "columns": self.columns,
            "activations": self.activations,
            "values": self.values,
            "unchanged": self.unchanged,
            "base": self.base,
        })
    }
}
