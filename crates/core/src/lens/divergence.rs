//! The predictions of two lenses at the same positions.

use std::sync::{Mutex, PoisonError};

use easyroutine_kernels::{Cpu, Rows};

use super::{LensNorm, LogitLens, Role};
use crate::error::{Error, Result};
use crate::stop::Stop;

/// Logits of each lens held at a time: 32 MiB, or one position's.
const LARGEST_LOGITS: usize = 8 << 20;

/// How two predictions at one position differ.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Divergence {
    /// KL(first ‖ second) in nats; NaN where a logit is.
    pub(crate) kl: f64,
    /// The most likely token of each, ties to the lower id.
    pub(crate) top: [u32; 2],
    /// The probability that each gives to its own.
    pub(crate) p: [f64; 2],
}

impl LogitLens {
    /// Reads streams of two models through a lens of each, and compares the predictions. Each vector is normed with its own
    /// statistics.
    ///
    /// # Shapes
    /// `streams`: N by D each, which may differ; result: N.
    ///
    /// # Errors
    /// If the vocabularies differ; `Interrupted` if it was stopped.
    pub(crate) fn divergences(
        lenses: [&LogitLens; 2],
        streams: [Rows<'_>; 2],
        stop: Stop<'_>,
    ) -> Result<Vec<Divergence>> {
        let [first, second] = lenses;
        let width = first.vocabulary();
        if second.vocabulary() != width {
            let message = format!("vocabularies of {width} and {} ids", second.vocabulary());
            return Err(Error::input(message));
        }
        let n = streams[0].n_rows();
        let at_once = (LARGEST_LOGITS / width.max(1)).clamp(1, 256);
        let mut found = Vec::with_capacity(n);
        for start in (0..n).step_by(at_once) {
            stop.check()?;
            let rows = start..n.min(start + at_once);
            let [ours, theirs] = [first.read_streams(streams[0].rows(rows.clone()))?, {
                second.read_streams(streams[1].rows(rows.clone()))?
            }];
            let pairs: Vec<Mutex<Pair<'_>>> = {
                let (ours, theirs) = (ours.chunks_exact(width), theirs.chunks_exact(width));
                ours.zip(theirs).map(|both| Mutex::new(Pair { both, found: None })).collect()
            };
            first.cpu.for_each(pairs.len(), |number| {
                let mut pair = pairs[number].lock().unwrap_or_else(PoisonError::into_inner);
                pair.found = Some(divergence(&first.cpu, pair.both));
            });
            let done =
                pairs.into_iter().map(|pair| pair.into_inner().unwrap_or_else(PoisonError::into_inner));
            found.extend(done.filter_map(|pair| pair.found));
        }
        Ok(found)
    }

    /// Logits of streams.
    ///
    /// # Shapes
    /// `streams`: N by D; result: N by V.
    fn read_streams(&self, streams: Rows<'_>) -> Result<Vec<f32>> {
        self.unembedding.files.during(|| {
            let normed = self.normed(streams, Role::Stream, LensNorm::Own, None)?;
            Ok(self.logits(normed, Role::Stream.takes_bias(LensNorm::Own), true))
        })
    }
}

/// The logits of one position, and what was found.
struct Pair<'a> {
    both: (&'a [f32], &'a [f32]),
    found: Option<Divergence>,
}

/// Both predictions of one position. From the differences of logits, so that small divergences do not drown in the
/// rounding of large sums: KL = E(a - b) - (lse(a) - lse(b)), the mean being that under a. Equal logits give 0.
fn divergence(cpu: &Cpu, (a, b): (&[f32], &[f32])) -> Divergence {
    let largest = |logits: &[f32]| cpu.largest(logits, 1).first().copied().unwrap_or((0, f32::NAN));
    let (tops, shifts) = ([largest(a), largest(b)], [cpu.max(a), cpu.max(b)]);
    let sums = [cpu.exp_sums(a, shifts[0])[0], cpu.exp_sums(b, shifts[1])[0]];
    let [log_a, log_b] = [0, 1].map(|of| f64::from(shifts[of]) + sums[of].ln());
    let mut weights = a.to_vec();
    cpu.exp(&mut weights, shifts[0]);
    let apart = |(weight, (a, b)): (&f32, (&f32, &f32))| match *weight {
        // What has no probability adds nothing, however far apart it is.
        0.0 => 0.0,
        _ if a == b => 0.0,
        _ => a - b,
    };
    let differences: Vec<f32> = weights.iter().zip(a.iter().zip(b)).map(apart).collect();
    let mean = cpu.dot(&weights, &differences) / sums[0];
    let kl = mean - (log_a - log_b);
    let p = [(tops[0].1, log_a), (tops[1].1, log_b)].map(|(logit, log)| (f64::from(logit) - log).exp());
    Divergence {
        // Never negative; a value below zero is rounding error. NaN stays NaN.
        kl: if kl < 0.0 { 0.0 } else { kl },
        top: tops.map(|(id, _)| id as u32),
        p,
    }
}

#[cfg(test)]
mod tests {
    use easyroutine_kernels::Simd;

    use super::*;

    fn cpu() -> Cpu {
        Cpu::new(Simd::Portable, 1)
    }

    fn logits(seed: u64) -> Vec<f32> {
        let number = |i: u64| (i.wrapping_mul(6364136223846793005).wrapping_add(seed * 97) >> 40) as f32;
        (1..500).map(|i| number(i) / 1e6 - 8.0).collect()
    }

    #[test]
    fn it_is_that_of_the_formula_and_zero_for_equal_logits() {
        let (a, b) = (logits(1), logits(2));
        let log_softmax = |x: &[f32]| -> Vec<f64> {
            let log = x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            x.iter().map(|x| f64::from(*x) - log).collect()
        };
        let (la, lb) = (log_softmax(&a), log_softmax(&b));
        let exact: f64 = la.iter().zip(&lb).map(|(a, b)| a.exp() * (a - b)).sum();
        let found = divergence(&cpu(), (&a, &b));
        assert!((found.kl - exact).abs() < 1e-5 * exact.max(1.0), "{} for {exact}", found.kl);
        assert_eq!(divergence(&cpu(), (&a, &a)).kl, 0.0);
        // A constant changes no probability.
        let shifted: Vec<f32> = a.iter().map(|x| x + 4.0).collect();
        assert!(divergence(&cpu(), (&a, &shifted)).kl < 1e-6);
    }

    #[test]
    fn an_excluded_token_adds_nothing_and_nan_is_not_lost() {
        let (mut a, b) = (logits(1), logits(2));
        a[3] = f32::NEG_INFINITY;
        assert!(divergence(&cpu(), (&a, &b)).kl.is_finite());
        a[3] = f32::NAN;
        assert!(divergence(&cpu(), (&a, &b)).kl.is_nan());
        assert!(divergence(&cpu(), (&b, &a)).kl.is_nan());
    }
}
