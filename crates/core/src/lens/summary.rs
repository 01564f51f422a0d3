//! Summaries of logits that are not kept: sums of exponentials, and the largest.

use easyroutine_kernels::Cpu;

/// Sums of exponentials relative to the largest logit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    pub(super) max: f32,
    /// Sum of e^(x - max).
    pub(super) sum: f64,
    /// Sum of e^(x - max) x.
    pub(super) dot: f64,
}

impl Sums {
    pub(super) fn new(cpu: &Cpu, logits: &[f32]) -> Self {
        let max = cpu.max(logits);
        let [sum, dot] = cpu.exp_sums(logits, max);
        Sums { max, sum, dot }
    }

    pub(super) fn log_sum_exp(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }
}

/// Merges the sums of tiles, in order, into those of the whole vocabulary.
pub(super) fn merge<'a>(tiles: impl IntoIterator<Item = &'a Sums> + Clone) -> Sums {
    let nan_or_larger = |m: f32, t: &Sums| if m.is_nan() || m > t.max { m } else { t.max };
    let max = tiles.clone().into_iter().fold(f32::NEG_INFINITY, nan_or_larger);
    let (mut sum, mut dot) = (0.0, 0.0);
    for tile in tiles {
        let weight = (f64::from(tile.max) - f64::from(max)).exp();
        sum += tile.sum * weight;
        dot += tile.dot * weight;
    }
    Sums { max, sum, dot }
}

/// The largest logits of a vector, descending, ties to the lower id and NaNs last; added in any order.
pub(super) struct Top {
    /// How many to keep.
    pub(super) k: usize,
    best: Vec<(u32, f32)>,
}

impl Top {
    pub(super) fn of(k: usize) -> Top {
        Top { k, best: Vec::with_capacity(k) }
    }

    pub(super) fn best(&self) -> &[(u32, f32)] {
        &self.best
    }

    /// The id of the largest; 0 before any is added.
    pub(super) fn first(&self) -> u32 {
        self.best.first().map_or(0, |(id, _)| *id)
    }

    /// A bound that `k` logits are known to reach: smaller ones can be skipped.
    pub(super) fn least(&self) -> f32 {
        let last = self.best.last().filter(|(_, x)| self.best.len() == self.k && !x.is_nan());
        last.map_or(f32::NEG_INFINITY, |(_, x)| *x)
    }

    /// Adds a logit, if it is among the largest.
    pub(super) fn take(&mut self, id: u32, x: f32) {
        let comes_before = |(other, y): &(u32, f32)| {
            if x.is_nan() || y.is_nan() {
                !y.is_nan() || x.is_nan() && *other < id
            } else {
                *y > x || *y == x && *other < id
            }
        };
        let at = self.best.partition_point(comes_before);
        if at < self.k {
            self.best.truncate(self.k - 1);
            self.best.insert(at, (id, x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_largest_are_found_in_any_order(
            logits in prop::collection::vec(prop_oneof![Just(f32::NAN), Just(1.0), -2_f32..2.0], 0..40),
            k in 0_usize..8,
            turns in 0_usize..40,
        ) {
            let mut numbered: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
            let mut expected = numbered.clone();
            expected.sort_by(|a, b| a.1.is_nan().cmp(&b.1.is_nan()).then(b.1.partial_cmp(&a.1).unwrap_or(a.0.cmp(&b.0))));
            expected.truncate(k);
            numbered.rotate_left(turns.min(logits.len()));
            let mut top = Top::of(k);
            numbered.iter().for_each(|(id, x)| top.take(*id, *x));
            let ids = |found: &[(u32, f32)]| found.iter().map(|(id, _)| *id).collect::<Vec<_>>();
            prop_assert_eq!(ids(top.best()), ids(&expected));
            let kept = top.best().last().filter(|(_, x)| top.best().len() == k && !x.is_nan());
            prop_assert_eq!(top.least(), kept.map_or(f32::NEG_INFINITY, |(_, x)| *x));
        }
    }
}
