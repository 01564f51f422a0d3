//! A graph, as plain data.

use easyroutine::{Error, Model, Result, Stop};
use easyroutine_dictionaries::Dictionary;

use crate::certificate::{Certificate, certify};
use crate::options::Options;
use crate::rows::{Rows, attribute};
use crate::sources::Sources;

/// A feature that is active.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feature {
    /// Layer of the model whose MLP it reads for.
    pub layer: usize,
    /// Position in the prompt.
    pub position: usize,
    /// Number in the dictionary.
    pub number: usize,
    /// How strong it is.
    pub value: f32,
}

/// A logit that is explained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Logit {
    /// The token.
    pub id: u32,
    /// Its probability.
    pub probability: f64,
}

/// What a node is.
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
    /// A logit at the last position, less the mean of all.
    Logit(Logit),
}

/// An attribution graph: nodes are the features that have a row, by layer, position and number, then errors by layer and
/// position, tokens, and logits by falling probability.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// The prompt.
    pub ids: Vec<u32>,
    /// Layers of the model.
    pub n_layers: usize,
    /// The features that have a row.
    pub features: Vec<Feature>,
    /// How many features are active, those without a row included.
    pub n_active: usize,
    /// The logits.
    pub logits: Vec<Logit>,
    /// Direct effects: a row for each feature and then each logit; a column for each node that is no logit.
    pub(crate) edges: Vec<f32>,
    /// How good it is.
    pub certificate: Certificate,
}

impl Graph {
    /// Makes the graph of a prompt. `progress` is told how many rows of how many are there.
    ///
    /// # Errors
    /// A dictionary that is no set of transcoders or does not fit, one whose features are not linear; a model as of
    /// [`Model::freeze`]; options that make no graph; a graph beyond 8 GiB; a run that was stopped.
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
            Some(node) => Err(Error::input(format!("the row of {node:?} is not finite"))
                .hint("weights, the dictionary or the prompt overflow f32 in this run")),
        }
    }

    /// How many nodes there are.
    pub fn n_nodes(&self) -> usize {
        self.n_sources() + self.logits.len()
    }

    /// How many of them are sources: all but the logits.
    pub fn n_sources(&self) -> usize {
        self.features.len() + (self.n_layers + 1) * self.ids.len()
    }

    /// What a node is.
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

    /// The nodes that have a row, in its order: features, then logits.
    pub fn targets(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.features.len()).chain(self.n_sources()..self.n_nodes())
    }

    /// The direct effects on one target: one number for each source, none where the node is no target.
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
