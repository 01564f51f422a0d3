//! Influence on the logits, and pruning of nodes and edges with little of it (circuit-tracer, `graph.py`).

use easyroutine::{Error, Result};

use crate::graph::{Graph, Logit};

/// How much of a graph is explained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// The tokens' share of the influence of tokens and errors on the logits: what reaches them from the prompt through
    /// features.
    pub replacement: f64,
    /// The share of all nodes' inputs, weighted by the nodes' influence, that does not come from errors.
    pub completeness: f64,
}

/// A graph without nodes and edges of little influence.
#[derive(Debug, Clone, PartialEq)]
pub struct Pruned {
    /// Which nodes remain.
    pub nodes: Vec<bool>,
    /// The remaining edges, as target and source, in the order of the rows.
    pub edges: Vec<(usize, usize)>,
    /// For each node, the share of all influence held by it and by nodes of greater influence.
    pub cumulative: Vec<f64>,
}

/// The influence of all sources, as far as rows are known: those of the logits and of these features.
pub(crate) fn reached(rows: &[f32], columns: usize, logits: &[Logit], order: &[usize]) -> Vec<f64> {
    let mut influence = vec![0.0; columns];
    let pass = |influence: &mut [f64], row: usize, weight: f64| {
        pass_on(&rows[row * columns..(row + 1) * columns], weight, 1e-8, influence);
    };
    for (row, logit) in logits.iter().enumerate() {
        pass(&mut influence, row, logit.probability);
    }
    // Edges lead from earlier to later layers, and features are numbered by layer, so start with the last.
    let mut by_feature: Vec<(usize, usize)> =
        order.iter().enumerate().map(|(row, at)| (*at, logits.len() + row)).collect();
    by_feature.sort_unstable();
    for (at, row) in by_feature.into_iter().rev() {
        let weight = influence[at];
        pass(&mut influence, row, weight);
    }
    influence
}

/// Distributes a weight over sources in proportion to the absolute values of their edges.
fn pass_on(row: &[f32], weight: f64, least: f64, influence: &mut [f64]) {
    if weight == 0.0 {
        return;
    }
    let sum = row.iter().map(|x| f64::from(x.abs())).sum::<f64>().max(least);
    for (influence, edge) in influence.iter_mut().zip(row) {
        *influence += weight * f64::from(edge.abs()) / sum;
    }
}

impl Graph {
    /// The influence of each node on the logits: w (Â + Â² + …), with w the logits' probabilities and Â the absolute
    /// values of the edges divided by their row's sum.
    ///
    /// # Shapes
    /// `[n_nodes]`
    pub fn influence(&self) -> Vec<f64> {
        self.influence_of(&|_, _| true)
    }

    /// The same with only the kept edges.
    fn influence_of(&self, keeps: &dyn Fn(usize, usize) -> bool) -> Vec<f64> {
        let mut influence = vec![0.0; self.n_nodes()];
        // Logits are last, and each feature comes after everything that it is made of.
        let targets: Vec<usize> = self.targets().collect();
        for target in targets.into_iter().rev() {
            let weight = influence[target] + self.weight(target);
            let Some(row) = self.row(target) else { continue };
            let row: Vec<f32> = row
                .iter()
                .enumerate()
                .map(|(source, x)| if keeps(target, source) { *x } else { 0.0 })
                .collect();
            pass_on(&row, weight, 1e-10, &mut influence);
        }
        influence
    }

    /// The probability of a logit; 0 for other nodes.
    fn weight(&self, node: usize) -> f64 {
        let logit = node.checked_sub(self.n_sources()).and_then(|at| self.logits.get(at));
        logit.map_or(0.0, |logit| logit.probability)
    }

    /// How much of the graph is explained.
    pub fn scores(&self) -> Scores {
        let influence = self.influence();
        let (first, tokens, end) = (self.features.len(), self.n_sources() - self.ids.len(), self.n_sources());
        let of_tokens: f64 = influence[tokens..end].iter().sum();
        let of_errors: f64 = influence[first..tokens].iter().sum();
        let (mut explained, mut all) = (0.0, 0.0);
        for (node, influence) in influence.iter().enumerate() {
            let output = influence + self.weight(node);
            let errors = self.row(node).map_or(0.0, |row| {
                let size = |row: &[f32]| row.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                size(&row[first..tokens]) / size(row).max(1e-10)
            });
            explained += (1.0 - errors) * output;
            all += output;
        }
        Scores { replacement: of_tokens / (of_tokens + of_errors), completeness: explained / all }
    }

    /// Keeps the nodes that hold `node_share` of all influence, then the edges that hold `edge_share` of the rest; then
    /// removes nodes that lead nowhere and features that come from nowhere. Tokens and logits stay.
    ///
    /// # Errors
    /// If a share is outside 0 to 1.
    pub fn prune(&self, node_share: f64, edge_share: f64) -> Result<Pruned> {
        for (name, share) in [("nodes", node_share), ("edges", edge_share)] {
            if !(0.0..=1.0).contains(&share) {
                return Err(Error::input(format!(
                    "a share of {share} for {name}: shares lie between 0 and 1"
                )));
            }
        }
        let influence = self.influence();
        let (least, cumulative) = gathered(&influence, node_share);
        let fixed = self.n_sources() - self.ids.len();
        let mut nodes: Vec<bool> =
            influence.iter().enumerate().map(|(node, x)| node >= fixed || *x >= least).collect();
        let of_kept = self.influence_of(&|target, source| nodes[target] && nodes[source]);
        let mut edges: Vec<(usize, usize, f64)> = Vec::new();
        for target in self.targets().filter(|target| nodes[*target]) {
            let Some(row) = self.row(target) else { continue };
            let kept = row.iter().enumerate().filter(|(source, x)| nodes[*source] && **x != 0.0);
            let sum = kept.clone().map(|(_, x)| f64::from(x.abs())).sum::<f64>().max(1e-10);
            let weight = of_kept[target] + self.weight(target);
            edges.extend(kept.map(|(source, x)| (target, source, f64::from(x.abs()) / sum * weight)));
        }
        let scores: Vec<f64> = edges.iter().map(|(_, _, score)| *score).collect();
        let (least, _) = gathered(&scores, edge_share);
        let mut edges: Vec<(usize, usize)> = edges
            .into_iter()
            .filter(|(_, _, score)| *score >= least)
            .map(|(target, source, _)| (target, source))
            .collect();
        // Remove nodes that lead nowhere or come from nowhere until none is left.
        loop {
            let (mut has_out, mut has_in) = (vec![false; nodes.len()], vec![false; nodes.len()]);
            for (target, source) in &edges {
                has_out[*source] = true;
                has_in[*target] = true;
            }
            let before = nodes.iter().filter(|kept| **kept).count();
            for node in 0..fixed {
                nodes[node] &= has_out[node] && (node >= self.features.len() || has_in[node]);
            }
            edges.retain(|(target, source)| nodes[*target] && nodes[*source]);
            if nodes.iter().filter(|kept| **kept).count() == before {
                break;
            }
        }
        Ok(Pruned { nodes, edges, cumulative })
    }
}

/// The lowest score needed to reach a share of the total, and for each score the share held by it and those above.
fn gathered(scores: &[f64], share: f64) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b)));
    let all: f64 = scores.iter().sum();
    let mut cumulative = vec![0.0; scores.len()];
    let (mut sum, mut least) = (0.0, None);
    for at in &order {
        sum += scores[*at];
        cumulative[*at] = if all > 0.0 { sum / all } else { 1.0 };
        if least.is_none() && cumulative[*at] >= share {
            least = Some(scores[*at]);
        }
    }
    let last = order.last().map_or(0.0, |at| scores[*at]);
    (least.unwrap_or(last), cumulative)
}
