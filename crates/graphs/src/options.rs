//! What a graph is made of.

use easyroutine::{Error, Result};

/// What a graph is made of. The defaults are circuit-tracer's.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The tokens whose logits are explained; the most probable ones unless they are given.
    pub targets: Option<Vec<u32>>,
    /// Most logits, where they are not given.
    pub max_logits: usize,
    /// The probability that the logits reach together, where they are not given.
    pub probability: f64,
    /// Most features that get a row: those with the largest influence.
    pub max_features: usize,
    /// After so many rows the influence of the features that are left is asked for again.
    pub rank_every: usize,
    /// The first positions of which features and errors are left out: what a model computes at its first token is unlike
    /// everything else.
    pub zeroed: usize,
    /// Sources that are taken away, one at a time, to compare what changes with their edges.
    pub checks: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            targets: None,
            max_logits: 10,
            probability: 0.95,
            max_features: 7500,
            rank_every: 1024,
            zeroed: 1,
            checks: 8,
        }
    }
}

impl Options {
    /// # Errors
    /// What makes no graph.
    pub(crate) fn check(&self, n_tokens: usize) -> Result<()> {
        let wrong = |what: &str| Err(Error::input(what.to_owned()));
        if self.targets.as_ref().is_some_and(Vec::is_empty) || self.max_logits == 0 {
            return wrong("a graph explains one logit at least");
        }
        if let Some(targets) = &self.targets {
            let twice = targets.iter().enumerate().find(|(i, id)| targets[..*i].contains(id));
            if let Some((_, id)) = twice {
                return wrong(&format!("token id {id} is named twice among the logits"));
            }
        }
        if !(self.probability > 0.0 && self.probability <= 1.0) {
            return wrong(&format!(
                "a probability of {}: it lies above 0 and is at most 1",
                self.probability
            ));
        }
        if self.max_features == 0 || self.rank_every == 0 {
            return wrong("0 features at a time make no graph");
        }
        if self.zeroed >= n_tokens {
            return Err(Error::input(format!(
                "the prompt has {n_tokens} tokens, and features of the first {} are left out",
                self.zeroed
            ))
            .hint("a longer prompt leaves something to explain"));
        }
        Ok(())
    }
}
