//! Options of a graph.

use easyroutine::{Error, Result};

/// Options of a graph. The defaults are circuit-tracer's.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The tokens whose logits are explained; `None` means the most probable ones.
    pub targets: Option<Vec<u32>>,
    /// Limit on the logits, if `targets` is `None`.
    pub max_logits: usize,
    /// The total probability that the logits must reach, if `targets` is `None`.
    pub probability: f64,
    /// Limit on features with a row: those with the greatest influence.
    pub max_features: usize,
    /// Number of rows after which the influence of the remaining features is computed again.
    pub rank_every: usize,
    /// The number of first positions whose features and errors are left out: a model's computation at its first token
    /// is unlike any other.
    pub zeroed: usize,
    /// Number of sources removed, one at a time, to compare the resulting changes with their edges.
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
    /// If the options make no graph.
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
