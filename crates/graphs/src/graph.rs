//! A graph, as plain data.

use std::fmt;

use easyroutine::{Error, Model, Result, Stop};
use easyroutine_dictionaries::Dictionary;

use crate::certificate::{Certificate, certify};
use crate::options::Options;
use crate::rows::{Rows, attribute};
use crate::sources::Sources;

/// An active feature.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feature {
    /// The model layer whose MLP its transcoder replaces.
    pub layer: usize,
    /// Position in the prompt.
    pub position: usize,
    /// Number in the dictionary.
    pub number: usize,
    /// Its value.
    pub value: f32,
}

/// An explained logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logit {
    /// The token.
    pub id: u32,
    /// Its probability.
    pub probability: f64,
}

/// The kinds of nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Node {
    /// A feature.
    Feature(Feature),
    /// What the dictionary misses of an MLP's output.
    Error {
        /// Layer of the model.
        layer: usize,
        /// Position in the prompt.
        position: usize,
    },
    /// The embedding of a token of the prompt.
    Token {
        /// Position in the prompt.
        position: usize,
    },
    /// A logit at the last position, minus the mean of all.
    Logit(Logit),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Feature(Feature { layer, position, number, .. }) => {
                write!(f, "feature {number} of layer {layer} at position {position}")
            }
            Node::Error { layer, position } => write!(f, "the error of layer {layer} at position {position}"),
            Node::Token { position } => write!(f, "the token at position {position}"),
            Node::Logit(Logit { id, .. }) => write!(f, "the logit of token {id}"),
        }
    }
}

/// An attribution graph. Nodes, in order: the features that have a row, by layer, position and number; errors by layer
/// and position; tokens; and logits by falling probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The prompt.
    pub ids: Vec<u32>,
    /// Layers of the model.
    pub n_layers: usize,
    /// The features that have a row.
    pub features: Vec<Feature>,
    /// Number of active features, including those without a row.
    pub n_active: usize,
    /// The logits.
    pub logits: Vec<Logit>,
    /// Direct effects: one row per feature and then per logit, one column per node that is not a logit.
    pub(crate) edges: Vec<f32>,
    /// Its quality.
    pub certificate: Certificate,
}

impl Graph {
    /// Computes the graph of a prompt. `progress` gets the number of rows done and in total.
    ///
    /// # Errors
    /// As [`Model::freeze`]. Also if the dictionary is not a set of transcoders, does not fit or has non-linear
    /// features, the options make no graph, the graph exceeds 8 GiB, or the run was stopped.
    pub fn new(
        model: &Model,
        dictionary: &Dictionary,
        ids: &[u32],
        options: &Options,
        stop: Stop<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Graph> {
        let sources = Sources::new(model, dictionary, ids, options, stop)?;
        let Rows { selected, logits, edges, targets } = attribute(&sources, options, stop, progress)?;
        let columns = sources.n_columns_of(&selected);
        let certificate = certify(&sources, &selected, &edges, &targets, options.checks, stop)?;
        debug_assert_eq!(edges.len(), (selected.len() + logits.len()) * columns);
        dictionary.check_unchanged()?;
        let graph = Graph {
            ids: ids.to_vec(),
            n_layers: model.arch().layers.len(),
            n_active: sources.features.len(),
            features: selected.iter().map(|at| sources.features[*at]).collect(),
            logits,
            edges,
            certificate,
        };
        let is_finite =
            |target: &usize| graph.row(*target).is_none_or(|row| row.iter().all(|x| x.is_finite()));
        let wrong = graph.targets().find(|target| !is_finite(target));
        match wrong.and_then(|target| graph.node(target)) {
            None => Ok(graph),
            Some(node) => Err(Error::input(format!("the row of {node} is not finite"))
                .hint("weights, the dictionary or the prompt overflow f32 in this run")),
        }
    }

    /// Number of nodes.
    pub fn n_nodes(&self) -> usize {
        self.n_sources() + self.logits.len()
    }

    /// Number of sources: all nodes except the logits.
    pub fn n_sources(&self) -> usize {
        self.features.len() + (self.n_layers + 1) * self.ids.len()
    }

    /// The node with a number.
    pub fn node(&self, number: usize) -> Option<Node> {
        let (n_features, n_tokens) = (self.features.len(), self.ids.len());
        let after = number.checked_sub(n_features);
        match after {
            None => self.features.get(number).copied().map(Node::Feature),
            Some(error) if error < self.n_layers * n_tokens => {
                Some(Node::Error { layer: error / n_tokens, position: error % n_tokens })
            }
            Some(rest) if number < self.n_sources() => {
                Some(Node::Token { position: rest - self.n_layers * n_tokens })
            }
            Some(_) => self.logits.get(number - self.n_sources()).copied().map(Node::Logit),
        }
    }

    /// The nodes that have a row, in order: features, then logits.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.features.len()).chain(self.n_sources()..self.n_nodes())
    }

    /// The direct effects on a target, one number per source; `None` if the node is not a target.
    ///
    /// # Shapes
    /// `[n_sources]`
    pub fn row(&self, node: usize) -> Option<&[f32]> {
        let n = self.n_sources();
        let row = match node {
            node if node < self.features.len() => node,
            node if (n..self.n_nodes()).contains(&node) => self.features.len() + node - n,
            _ => return None,
        };
        Some(&self.edges[row * n..(row + 1) * n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_in_words() {
        let feature = Feature { layer: 3, position: 4, number: 12, value: 1.5 };
        let names = [
            Node::Feature(feature),
            Node::Error { layer: 1, position: 2 },
            Node::Token { position: 0 },
            Node::Logit(Logit { id: 7, probability: 0.5 }),
        ]
        .map(|node| node.to_string());
        let expected = [
            "feature 12 of layer 3 at position 4",
            "the error of layer 1 at position 2",
            "the token at position 0",
            "the logit of token 7",
        ];
        assert_eq!(names, expected);
    }
}
