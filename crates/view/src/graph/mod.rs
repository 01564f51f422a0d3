//! An attribution graph: which features, errors and tokens of a prompt made which others, and the logits.

mod html;
mod tables;

pub use html::html;
pub use tables::{csv, markdown, terminal, tsv};

/// Everything that a picture of a graph shows.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphReport {
    /// `Attribution graph`.
    pub title: String,
    /// The model, the dictionary, scores, how good the graph is: one line each, its parts joined by ` · `.
    pub lines: Vec<String>,
    /// The tokens of the prompt.
    pub tokens: Vec<String>,
    /// Layers of the model.
    pub n_layers: usize,
    /// The nodes that are kept.
    pub nodes: Vec<GraphNode>,
    /// The edges that are kept.
    pub edges: Vec<GraphEdge>,
}

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub struct GraphNode {
    /// What it is.
    pub kind: NodeKind,
    /// Layer of the model, for features and errors.
    pub layer: usize,
    /// Position in the prompt.
    pub position: usize,
    /// A feature's number, a token's or a logit's text; nothing for an error.
    pub name: String,
    /// How strong a feature is, or the probability of a logit.
    pub value: Option<f64>,
    /// Its influence on the logits.
    pub influence: f64,
    /// The share of all influence that is gathered with it and the nodes of more influence.
    pub cumulative: f64,
}

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// A token of the prompt.
    Token,
    /// A feature.
    Feature,
    /// What the transcoder of a layer misses.
    Error,
    /// A logit.
    Logit,
}

/// One edge.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GraphEdge {
    /// The number of the node that it comes from.
    pub from: usize,
    /// The number of the node that it leads to.
    pub to: usize,
    /// How much of the second comes from the first.
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
    /// The edges, the largest absolute weight first.
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

    /// The largest absolute weight; 1 where all are 0.
    pub(crate) fn reach(&self) -> f64 {
        let largest =
            self.edges.iter().map(|edge| edge.weight.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max);
        if largest > 0.0 { largest } else { 1.0 }
    }

    /// The lines, ready to be shown.
    pub(crate) fn shown_lines(&self) -> impl Iterator<Item = String> {
        self.lines.iter().map(|line| crate::text::facts(line))
    }
}
