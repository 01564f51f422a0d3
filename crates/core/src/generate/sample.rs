//! Chooses the next token.

use crate::error::{Error, Result};
use crate::logits::log_sum_exp;
use crate::positions::uniform;

/// How a token is chosen from its logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most likely one; ties go to the lower id.
    Greedy,
    /// Sampled: logits are divided by the temperature, limited to the `top_k` largest, then to the fewest whose
    /// probabilities reach `top_p` (arXiv 1904.09751), in this order.
    Random {
        /// Above 1 flattens the distribution, below 1 sharpens it.
        temperature: f32,
        /// Limit on the number of candidate tokens.
        top_k: Option<usize>,
        /// The total probability that the candidates must reach.
        top_p: Option<f32>,
    },
}

impl Sampling {
    /// # Errors
    /// If a parameter is out of range.
    pub(super) fn check(&self) -> Result<()> {
        let Sampling::Random { temperature, top_k, top_p } = *self else { return Ok(()) };
        if !(temperature.is_finite() && temperature > 0.0) {
            return Err(Error::input(format!("temperature {temperature}: a number above 0 draws"))
                .hint("the limit of 0 is greedy"));
        }
        if top_k == Some(0) {
            return Err(Error::input("top-k 0 leaves no token to draw"));
        }
        match top_p {
            Some(p) if !(p > 0.0 && p <= 1.0) => {
                Err(Error::input(format!("top-p {p} is not a probability above 0, up to 1")))
            }
            _ => Ok(()),
        }
    }

    /// Chooses a token; returns it with its log-probability before any temperature or cut.
    ///
    /// # Errors
    /// If logits are NaN.
    pub(super) fn choose(&self, logits: &[f32], seed: u64, row: usize, step: usize) -> Result<(u32, f64)> {
        if logits.iter().any(|x| x.is_nan()) {
            return Err(Error::input("the logits are NaN: no token is more likely than another")
                .hint("a value that was put in or added may be NaN or too large"));
        }
        let id = match *self {
            Sampling::Greedy => largest(logits),
            Sampling::Random { temperature, top_k, top_p } => {
                draw(&allowed(logits, temperature, top_k, top_p), uniform(seed, row, step))
            }
        };
        Ok((id as u32, f64::from(logits[id]) - log_sum_exp(logits)))
    }
}

fn largest(logits: &[f32]) -> usize {
    let better = |best: usize, id: usize| if logits[id] > logits[best] { id } else { best };
    (0..logits.len()).reduce(better).unwrap_or(0)
}

/// The candidate tokens, with weights proportional to their probabilities.
fn allowed(logits: &[f32], temperature: f32, top_k: Option<usize>, top_p: Option<f32>) -> Vec<(usize, f64)> {
    let most = f64::from(logits[largest(logits)]);
    let mut order: Vec<usize> = (0..logits.len()).collect();
    let by_logit = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    if let Some(k) = top_k.filter(|k| *k < order.len()) {
        order.select_nth_unstable_by(k - 1, by_logit);
        order.truncate(k);
    }
    if top_k.is_some() || top_p.is_some() {
        order.sort_unstable_by(by_logit);
    }
    let weight = |id: usize| ((f64::from(logits[id]) - most) / f64::from(temperature)).exp();
    let mut weights: Vec<(usize, f64)> = order.into_iter().map(|id| (id, weight(id))).collect();
    if let Some(p) = top_p {
        let wanted = f64::from(p) * weights.iter().map(|(_, w)| w).sum::<f64>();
        let mut reached = 0.0;
        // A token is a candidate if those before it have not reached the share yet, so there is at least one.
        let needed = |(_, w): &&(usize, f64)| {
            let before = reached;
            reached += w;
            before < wanted
        };
        let count = weights.iter().take_while(needed).count();
        weights.truncate(count.max(1));
    }
    weights
}

fn draw(weights: &[(usize, f64)], at: f64) -> usize {
    let mut left = at * weights.iter().map(|(_, w)| w).sum::<f64>();
    for (id, weight) in weights {
        left -= weight;
        if left < 0.0 {
            return *id;
        }
    }
    // A rounding remainder falls to the last token that can be drawn at all.
    weights.iter().rev().find(|(_, w)| *w > 0.0).or(weights.last()).map_or(0, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY];

    fn ids(top_k: Option<usize>, top_p: Option<f32>) -> Vec<usize> {
        allowed(&LOGITS, 1.0, top_k, top_p).into_iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn the_cuts_keep_the_most_likely_tokens_ties_to_the_lower_id() {
        assert_eq!(largest(&LOGITS), 1);
        assert_eq!(ids(Some(2), None), [1, 3]);
        assert_eq!(ids(Some(1), None), [1]);
        assert_eq!(ids(Some(99), None), [1, 3, 2, 0, 4]);
        // Probabilities are 0.399, 0.399, 0.147, 0.054.
        assert_eq!(ids(None, Some(0.3)), [1]);
        assert_eq!(ids(None, Some(0.79)), [1, 3]);
        assert_eq!(ids(None, Some(0.8)), [1, 3, 2]);
        assert_eq!(ids(None, Some(1e-9)), [1]);
        // After limiting to two, each has one half.
        assert_eq!(ids(Some(2), Some(0.5)), [1]);
    }

    #[test]
    fn draws_follow_the_probabilities_and_only_the_seed_row_and_step() {
        let sampling = Sampling::Random { temperature: 1.0, top_k: None, top_p: None };
        let drawn = |seed, row, step| sampling.choose(&LOGITS, seed, row, step).unwrap().0;
        let mut counts = [0f64; 5];
        (0..20_000).for_each(|step| counts[drawn(7, 0, step) as usize] += 1.0 / 20_000.0);
        for (count, expected) in counts.iter().zip([0.054, 0.3993, 0.1469, 0.3993, 0.0]) {
            // Four standard deviations of 20,000 draws are 0.014.
            assert!((count - expected).abs() < 0.014, "{counts:?}");
        }
        assert_eq!(counts[4], 0.0);
        let series = |seed, row| (0..40).map(|step| drawn(seed, row, step)).collect::<Vec<_>>();
        assert_eq!(series(1, 2), series(1, 2));
        assert_ne!(series(1, 2), series(2, 2));
        assert_ne!(series(1, 2), series(1, 3));
    }

    #[test]
    fn a_low_temperature_is_nearly_greedy_and_the_logprob_is_the_models() {
        let sampling = Sampling::Random { temperature: 0.01, top_k: None, top_p: None };
        let logits = [0.0, 1.0, 0.5];
        for step in 0..100 {
            let (id, logprob) = sampling.choose(&logits, 0, 0, step).unwrap();
            assert_eq!(id, 1);
            assert!((logprob - -0.680_269).abs() < 1e-5, "{logprob}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        let random = |temperature, top_k, top_p| Sampling::Random { temperature, top_k, top_p };
        for wrong in [
            random(0.0, None, None),
            random(-1.0, None, None),
            random(f32::NAN, None, None),
            random(1.0, Some(0), None),
            random(1.0, None, Some(0.0)),
            random(1.0, None, Some(1.5)),
            random(1.0, None, Some(f32::NAN)),
        ] {
            assert!(wrong.check().is_err(), "{wrong:?}");
        }
        assert!(Sampling::Greedy.choose(&[0.0, f32::NAN], 0, 0, 0).is_err());
        assert!(random(0.7, Some(40), Some(1.0)).check().is_ok());
    }
}
