//! An attribution graph: which features, errors and tokens of a prompt led to which others, and to the logits.

mod html;
mod json;
mod tables;

pub use html::{html, page_data};
pub use tables::{markdown, table, terminal};

/// The contents of a picture of a graph.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphReport {
    /// `Attribution graph`.
    pub title: String,
    /// The model, the dictionary, scores, the graph's quality: one line each, with parts joined by ` · `.
    pub lines: Vec<String>,
    /// The tokens of the prompt.
    pub tokens: Vec<String>,
    /// Layers of the model.
    pub n_layers: usize,
    /// The kept nodes.
    pub nodes: Vec<GraphNode>,
    /// The kept edges.
    pub edges: Vec<GraphEdge>,
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphNode {
    /// Its kind.
    pub kind: NodeKind,
    /// Layer of the model, for features and errors.
    pub layer: usize,
    /// Position in the prompt.
    pub position: usize,
    /// A feature's number, or the text of a token or logit; empty for an error.
    pub name: String,
    /// A feature's value, or the probability of a logit.
    pub value: Option<f64>,
    /// Its influence on the logits, if known.
    pub influence: Option<f64>,
    /// The share of all influence held by it and by nodes of greater influence.
    pub cumulative: f64,
}

/// The kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A token of the prompt.
    Token,
    /// A feature.
    Feature,
    /// What a layer's transcoder misses.
    Error,
    /// A logit.
    Logit,
}

/// One edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphEdge {
    /// The number of the source node.
    pub from: usize,
    /// The number of the target node.
    pub to: usize,
    /// The contribution of the source to the target.
    pub weight: f64,
}

impl NodeKind {
    /// Its name in tables and data.
    pub fn name(self) -> &'static str {
        match self {
            NodeKind::Token => "token",
            NodeKind::Feature => "feature",
            NodeKind::Error => "error",
            NodeKind::Logit => "logit",
        }
    }
}

impl GraphNode {
    /// `feature 22 in layer 1 at 8`
    pub fn title(&self) -> String {
        let Self { layer, position, name, .. } = self;
        match self.kind {
            NodeKind::Token => format!("token {position} \"{name}\""),
            NodeKind::Feature => format!("feature {name} in layer {layer} at {position}"),
            NodeKind::Error => format!("error of layer {layer} at {position}"),
            NodeKind::Logit => format!("logit \"{name}\""),
        }
    }

    /// Its row from below: tokens, layers, logits.
    pub(crate) fn row(&self, n_layers: usize) -> usize {
        match self.kind {
            NodeKind::Token => 0,
            NodeKind::Feature | NodeKind::Error => self.layer + 1,
            NodeKind::Logit => n_layers + 1,
        }
    }
}

impl GraphReport {
    /// The edges, largest absolute weight first.
    pub(crate) fn by_size(&self) -> Vec<&GraphEdge> {
        let mut edges: Vec<&GraphEdge> = self
            .edges
            .iter()
            .filter(|edge| edge.from < self.nodes.len() && edge.to < self.nodes.len())
            .collect();
        edges.sort_by(|a, b| {
            b.weight.abs().total_cmp(&a.weight.abs()).then((a.to, a.from).cmp(&(b.to, b.from)))
        });
        edges
    }

    /// The largest absolute weight; 1 if all are 0.
    pub(crate) fn reach(&self) -> f64 {
        let largest =
            self.edges.iter().map(|edge| edge.weight.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max);
        if largest > 0.0 { largest } else { 1.0 }
    }

    /// The lines, ready for display.
    pub(crate) fn shown_lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| crate::text::facts(line))
    }
}
