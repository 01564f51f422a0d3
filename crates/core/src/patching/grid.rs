//! The effect of every change of a sweep.

use serde_json::{Value, json};

use super::Metric;

/// One number per change of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    /// The layer of each row.
    pub layers: Vec<usize>,
    /// The feature of each row, where a dictionary's features are changed; else empty.
    pub features: Vec<u32>,
    /// Along experts the number of changed tokens that go through each, layers by columns: where none does, the effect is
    /// exactly 0. Else empty.
    pub routed: Vec<Vec<usize>>,
    /// What each column changes: `position 3`, `head 2`, `mlp_out`, `expert 5`.
    pub columns: Vec<String>,
    /// The activation of each cell, row by row; empty along sites where the layer lacks one and has another.
    pub activations: Vec<Vec<String>>,
    /// The metric under each change; NaN where there is no activation.
    ///
    /// # Shapes
    /// layers by columns.
    pub values: Vec<Vec<f64>>,
    /// The metric without a change.
    pub unchanged: f64,
    /// The metric of the base run, if there is one.
    pub base: Option<f64>,
    /// The metric.
    pub metric: Metric,
}

impl Grid {
    /// The effect of each change: the metric with it minus the metric without it.
    ///
    /// # Shapes
    /// layers by columns.
    pub fn effects(&self) -> Vec<Vec<f64>> {
        self.values.iter().map(|row| row.iter().map(|value| value - self.unchanged).collect()).collect()
    }

    /// The grid as JSON.
    pub fn to_json(&self) -> Value {
        let mut json = json!({
            "schema": "easyroutine.grid/1",
            "metric": self.metric.to_json(),
            "layers": self.layers,
            "columns": self.columns,
            "activations": self.activations,
            "values": self.values,
            "unchanged": self.unchanged,
            "base": self.base,
        });
        if !self.features.is_empty() {
            json["features"] = json!(self.features);
        }
        if !self.routed.is_empty() {
            json["routed"] = json!(self.routed);
        }
        json
    }
}
