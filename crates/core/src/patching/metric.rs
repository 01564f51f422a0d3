//! The effect of a change on the prediction, as one number.

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::logits::log_sum_exp;

/// A number computed from a row's logits: at the last token, except for [`Metric::CrossEntropy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// logit(answer) - logit(against).
    LogitDiff {
        /// The token that raises the metric.
        answer: u32,
        /// The token that lowers it.
        against: u32,
    },
    /// The logit difference, rescaled to 0 for the run without a change and 1 for the base run.
    NormalisedLogitDiff {
        /// As of [`Metric::LogitDiff`].
        answer: u32,
        /// As of [`Metric::LogitDiff`].
        against: u32,
    },
    /// The logit of a token.
    Logit {
        /// The token.
        token: u32,
    },
    /// The logarithm of the probability of a token.
    LogProbability {
        /// The token.
        token: u32,
    },
    /// The probability of a token.
    Probability {
        /// The token.
        token: u32,
    },
    /// KL(reference ‖ changed) in nats; the reference is the base run if there is one, else the run without a change.
    Kl,
    /// The rank of a token, from 1; ties go to the lower id.
    Rank {
        /// The token.
        token: u32,
    },
    /// -Σ log p(next token) over all tokens of the row except the last, in nats; for gradients only.
    CrossEntropy,
}

/// The runs that a metric is compared with.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    metric: Metric,
    unchanged: &'a [f32],
    base: Option<&'a [f32]>,
}

impl Metric {
    /// The tokens that it uses.
    pub fn tokens(self) -> Vec<u32> {
        match self {
            Metric::LogitDiff { answer, against } | Metric::NormalisedLogitDiff { answer, against } => {
                vec![answer, against]
            }
            Metric::Logit { token }
            | Metric::LogProbability { token }
            | Metric::Probability { token }
            | Metric::Rank { token } => vec![token],
            Metric::Kl | Metric::CrossEntropy => Vec::new(),
        }
    }

    /// The metric as JSON: `{"name": "logit_diff", "answer": 7, "against": 9}`.
    pub fn to_json(self) -> Value {
        match self {
            Metric::LogitDiff { answer, against } => {
                json!({"name": "logit_diff", "answer": answer, "against": against})
            }
            Metric::NormalisedLogitDiff { answer, against } => {
                json!({"name": "normalised_logit_diff", "answer": answer, "against": against})
            }
            Metric::Logit { token } => json!({"name": "logit", "token": token}),
            Metric::LogProbability { token } => json!({"name": "logprob", "token": token}),
            Metric::CrossEntropy => json!({"name": "ce"}),
            Metric::Probability { token } => json!({"name": "probability", "token": token}),
            Metric::Kl => json!({"name": "kl"}),
            Metric::Rank { token } => json!({"name": "rank", "token": token}),
        }
    }

    /// The metric of a run, from its last token's logits and those of the run without a change.
    ///
    /// # Errors
    /// If a token is beyond the vocabulary, or a normalised difference has no base run, or one with the same difference
    /// as the unchanged run.
    pub fn of(self, logits: &[f32], unchanged: &[f32], base: Option<&[f32]>) -> Result<f64> {
        Ok(self.against(unchanged, base)?.of(logits))
    }

    /// The metric with the runs that it is compared with.
    ///
    /// # Errors
    /// If a token is beyond the vocabulary, or a normalised difference has no base run, or one with the same difference
    /// as the unchanged run.
    pub(crate) fn against<'a>(self, unchanged: &'a [f32], base: Option<&'a [f32]>) -> Result<Measured<'a>> {
        if let Some(id) = self.tokens().into_iter().find(|id| *id as usize >= unchanged.len()) {
            let vocabulary = unchanged.len();
            return Err(Error::input(format!("token id {id} is beyond the vocabulary of {vocabulary}")));
        }
        if self == Metric::CrossEntropy {
            return Err(Error::input(
                "the cross-entropy is a sum over all tokens of a row, and here the logits at the last are compared",
            )
            .hint("measure `logit_diff`, `p`, `kl` or `rank`"));
        }
        if let Metric::NormalisedLogitDiff { answer, against } = self {
            let base = base.ok_or_else(|| {
                Error::input("a normalised logit difference needs a base run, whose value is 1")
            })?;
            if diff(base, answer, against) == diff(unchanged, answer, against) {
                return Err(Error::input(
                    "both runs have the same logit difference: nothing can be normalised",
                )
                .hint("choose tokens whose logits differ between the runs"));
            }
        }
        Ok(Measured { metric: self, unchanged, base })
    }
}

impl Measured<'_> {
    pub(crate) fn of(&self, logits: &[f32]) -> f64 {
        match self.metric {
            Metric::LogitDiff { answer, against } => diff(logits, answer, against),
            Metric::NormalisedLogitDiff { answer, against } => {
                let from = diff(self.unchanged, answer, against);
                let to = diff(self.base.unwrap_or(self.unchanged), answer, against);
                (diff(logits, answer, against) - from) / (to - from)
            }
            Metric::Logit { token } => f64::from(logits[token as usize]),
            Metric::LogProbability { token } => f64::from(logits[token as usize]) - log_sum_exp(logits),
            // Refused before any measurement.
            Metric::CrossEntropy => f64::NAN,
            Metric::Probability { token } => (f64::from(logits[token as usize]) - log_sum_exp(logits)).exp(),
            Metric::Kl => kl_divergence(self.base.unwrap_or(self.unchanged), logits),
            Metric::Rank { token } => {
                let own = logits[token as usize];
                let before = |(id, x): (usize, &f32)| *x > own || (*x == own && id < token as usize);
                1.0 + logits.iter().enumerate().filter(|entry| before(*entry)).count() as f64
            }
        }
    }
}

fn diff(logits: &[f32], answer: u32, against: u32) -> f64 {
    f64::from(logits[answer as usize]) - f64::from(logits[against as usize])
}

/// KL(p ‖ q) of two vectors of logits, in nats.
pub(super) fn kl_divergence(p: &[f32], q: &[f32]) -> f64 {
    let (of_p, of_q) = (log_sum_exp(p), log_sum_exp(q));
    let term = |(a, b): (&f32, &f32)| {
        let (a, b) = (f64::from(*a) - of_p, f64::from(*b) - of_q);
        if a == f64::NEG_INFINITY { 0.0 } else { a.exp() * (a - b) }
    };
    // Rounding can leave equal distributions slightly below zero.
    let sum: f64 = p.iter().zip(q).map(term).sum();
    if sum < 0.0 { 0.0 } else { sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_two_runs_by_hand() {
        let (unchanged, base, patched) = ([0.0f32, 1.0, 2.0], [3.0f32, 1.0, 0.0], [1.0f32, 1.0, 1.0]);
        let of = |metric: Metric| metric.against(&unchanged, Some(&base)).unwrap().of(&patched);
        assert_eq!(of(Metric::LogitDiff { answer: 0, against: 2 }), 0.0);
        // From -2 to 3, with 0 in between.
        assert!((of(Metric::NormalisedLogitDiff { answer: 0, against: 2 }) - 0.4).abs() < 1e-12);
        assert!((of(Metric::Probability { token: 1 }) - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(of(Metric::Rank { token: 1 }), 2.0);
        let p = [3f64, 1.0, 0.0].map(|x| x.exp() / (3f64.exp() + 1f64.exp() + 1.0));
        let expected: f64 = p.iter().map(|p| p * (p.ln() + 3f64.ln())).sum();
        assert!((of(Metric::Kl) - expected).abs() < 1e-12);
        assert_eq!(kl_divergence(&base, &base), 0.0);
        let without = Metric::Kl.against(&unchanged, None).unwrap();
        assert_eq!(without.of(&unchanged), 0.0);
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let logits = [0.0f32, 1.0];
        let refused = |metric: Metric, base| metric.against(&logits, base).unwrap_err().to_string();
        assert!(refused(Metric::Rank { token: 2 }, None).contains("vocabulary of 2"));
        let normalised = Metric::NormalisedLogitDiff { answer: 0, against: 1 };
        assert!(refused(normalised, None).contains("base run"));
        assert!(refused(normalised, Some(&logits)).contains("same logit difference"));
    }
}
