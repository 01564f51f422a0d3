//! What features do over a data set: how often, how strongly, and where most.
//!
//! Everything here is a sum of whole numbers, a maximum, or the best of a total order. So parts of a data set that were
//! collected apart, in any order and any split, merge to the same bytes.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use easyroutine::{Error, Result};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keeping {
    /// Strongest tokens of each feature.
    pub top: usize,
    /// Tokens per feature drawn at random from all on which it is active.
    pub drawn: usize,
    /// Context tokens kept before each.
    pub before: usize,
    /// Context tokens kept after each.
    pub after: usize,
}

impl Default for Keeping {
    fn default() -> Self {
        Keeping { top: 20, drawn: 10, before: 16, after: 8 }
    }
}

/// One token on which a feature is active, with its context.
#[derive(Debug, Clone, PartialEq)]
pub struct Occurrence {
    /// The feature's value.
    pub value: f32,
    /// The number of the prompt in the data set.
    pub prompt: u32,
    /// The position in the prompt.
    pub position: u32,
    /// The position of the first token in `ids`.
    pub start: u32,
    /// The token and its context.
    pub ids: Vec<u32>,
    /// The feature's value at each of them.
    pub values: Vec<f32>,
}

/// Statistics of one feature.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeatureStatistics {
    /// Tokens on which it is active.
    pub count: u64,
    /// The sum of its values, in units of 2^-60: integers add up the same in any order.
    pub(crate) sum: u128,
    /// Its largest value.
    pub max: f32,
    /// Number of values in each bin of [`bin`].
    pub(crate) histogram: BTreeMap<u16, u64>,
    /// The strongest: by value, then lower prompt, then lower position.
    pub(crate) top: Vec<Occurrence>,
    /// Random ones, with their draws.
    pub(crate) drawn: Vec<(u64, Occurrence)>,
}

/// Statistics of all features of a layer over a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    keeping: Keeping,
    tokens: u64,
    prompts: u64,
    features: Vec<FeatureStatistics>,
}

/// A prompt's tokens, as far as features were computed for them.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// The number of the prompt.
    pub prompt: u32,
    /// All of its ids.
    pub ids: &'a [u32],
    /// The counted positions, ascending.
    pub positions: &'a [usize],
    /// Their features; token `first + i` is `positions[i]`.
    pub features: &'a crate::Features,
    /// The index in `features` of the prompt's first token.
    pub first: usize,
}

impl Statistics {
    /// Empty statistics.
    pub fn new(n_features: usize, keeping: Keeping) -> Statistics {
        Statistics {
            keeping,
            tokens: 0,
            prompts: 0,
            features: vec![FeatureStatistics::default(); n_features],
        }
    }

    /// How much is kept.
    pub fn keeping(&self) -> Keeping {
        self.keeping
    }

    /// Tokens counted.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Prompts counted.
    pub fn prompts(&self) -> u64 {
        self.prompts
    }

    /// All features.
    pub fn features(&self) -> &[FeatureStatistics] {
        &self.features
    }

    /// Mean number of active features per token, L0.
    pub fn l0(&self) -> f64 {
        let active: u64 = self.features.iter().map(|feature| feature.count).sum();
        if self.tokens == 0 { 0.0 } else { active as f64 / self.tokens as f64 }
    }

    /// Adds one prompt.
    pub fn add(&mut self, seen: Observed<'_>) {
        self.prompts += 1;
        self.tokens += seen.positions.len() as u64;
        let keeping = self.keeping;
        for (i, position) in seen.positions.iter().enumerate() {
            let (numbers, values) = seen.features.token(seen.first + i);
            for (number, value) in numbers.iter().zip(values) {
                let feature = &mut self.features[*number as usize];
                let place = (seen.prompt, *position as u32);
                feature.count += 1;
                feature.sum += fixed(*value);
                feature.max = feature.max.max(*value);
                *feature.histogram.entry(bin(*value)).or_default() += 1;
                let draw = draw(*number, place);
                let is_top = feature.has_room(keeping.top, *value, place);
                let is_drawn = keeping.drawn > feature.drawn.len()
                    || feature
                        .drawn
                        .last()
                        .is_some_and(|(last, worst)| (draw, place) < (*last, worst.place()));
                if !is_top && !is_drawn {
                    continue;
                }
                let occurrence = seen.occurrence(*number, *position, *value, keeping);
                if is_drawn {
                    feature.keep_drawn(keeping.drawn, draw, occurrence.clone());
                }
                if is_top {
                    feature.keep_top(keeping.top, occurrence);
                }
            }
        }
    }

    /// Adds the statistics of other prompts.
    ///
    /// # Errors
    /// If the numbers of features or the amounts kept differ.
    pub fn merge(&mut self, other: Statistics) -> Result<()> {
        if self.features.len() != other.features.len() || self.keeping != other.keeping {
            return Err(Error::input(
                "these statistics are of another dictionary, or keep another number of examples",
            ));
        }
        self.tokens += other.tokens;
        self.prompts += other.prompts;
        for (ours, theirs) in self.features.iter_mut().zip(other.features) {
            ours.count += theirs.count;
            ours.sum += theirs.sum;
            ours.max = ours.max.max(theirs.max);
            for (bin, count) in theirs.histogram {
                *ours.histogram.entry(bin).or_default() += count;
            }
            for occurrence in theirs.top {
                if ours.has_room(self.keeping.top, occurrence.value, occurrence.place()) {
                    ours.keep_top(self.keeping.top, occurrence);
                }
            }
            for (draw, occurrence) in theirs.drawn {
                ours.keep_drawn(self.keeping.drawn, draw, occurrence);
            }
        }
        Ok(())
    }

    pub(crate) fn restored(
        keeping: Keeping,
        tokens: u64,
        prompts: u64,
        features: Vec<FeatureStatistics>,
    ) -> Self {
        Statistics { keeping, tokens, prompts, features }
    }
}

impl FeatureStatistics {
    /// The mean of its values where it is active; 0 if it never is.
    pub fn mean(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.total() / self.count as f64 }
    }

    /// The sum of its values.
    pub fn total(&self) -> f64 {
        self.sum as f64 / 2f64.powi(60)
    }

    /// Number of values between consecutive edges: eight bins per octave.
    pub fn histogram(&self) -> impl Iterator<Item = (f32, f32, u64)> + '_ {
        self.histogram.iter().map(|(bin, count)| (edge(*bin), edge(bin + 1), *count))
    }

    /// The value below which a share of its active tokens lies, rounded up to the edge of a bin, at most an eighth too
    /// high.
    pub fn quantile(&self, share: f64) -> f32 {
        let wanted = (share.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (bin, count) in &self.histogram {
            seen += count;
            if seen >= wanted {
                return edge(bin + 1).min(self.max);
            }
        }
        0.0
    }

    /// The strongest occurrences, strongest first; ties to the lower prompt, then the lower position.
    pub fn top(&self) -> &[Occurrence] {
        &self.top
    }

    /// Occurrences drawn uniformly from all; strongest first.
    pub fn drawn(&self) -> Vec<&Occurrence> {
        let mut drawn: Vec<&Occurrence> = self.drawn.iter().map(|(_, occurrence)| occurrence).collect();
        drawn.sort_by(|a, b| a.order(b));
        drawn
    }

    fn has_room(&self, most: usize, value: f32, place: (u32, u32)) -> bool {
        self.top.len() < most
            || self
                .top
                .last()
                .is_some_and(|worst| worst.value < value || worst.value == value && place < worst.place())
    }

    fn keep_top(&mut self, most: usize, occurrence: Occurrence) {
        let at = self.top.partition_point(|kept| kept.order(&occurrence) == Ordering::Less);
        self.top.insert(at, occurrence);
        self.top.truncate(most);
    }

    fn keep_drawn(&mut self, most: usize, draw: u64, occurrence: Occurrence) {
        let key = (draw, occurrence.place());
        let at = self.drawn.partition_point(|(draw, kept)| (*draw, kept.place()) < key);
        self.drawn.insert(at, (draw, occurrence));
        self.drawn.truncate(most);
    }

    pub(crate) fn set(&mut self, count: u64, sum: u128, max: f32) {
        (self.count, self.sum, self.max) = (count, sum, max);
    }

    /// Restores a bin; returns false if no positive number lies in it.
    #[must_use]
    pub(crate) fn set_bin(&mut self, bin: u16, count: u64) -> bool {
        let exists = bin < self::bin(f32::INFINITY);
        if exists {
            self.histogram.insert(bin, count);
        }
        exists
    }

    /// Restores a kept occurrence, in its original order.
    pub(crate) fn put(&mut self, number: u32, occurrence: Occurrence, is_top: bool) {
        if is_top {
            self.top.push(occurrence);
        } else {
            self.drawn.push((draw(number, occurrence.place()), occurrence));
        }
    }
}

impl Occurrence {
    fn place(&self) -> (u32, u32) {
        (self.prompt, self.position)
    }

    fn order(&self, other: &Occurrence) -> Ordering {
        other.value.total_cmp(&self.value).then(self.place().cmp(&other.place()))
    }
}

impl Observed<'_> {
    fn occurrence(&self, feature: u32, position: usize, value: f32, keeping: Keeping) -> Occurrence {
        let start = position.saturating_sub(keeping.before);
        let end = (position + keeping.after + 1).min(self.ids.len());
        let values = (start..end).map(|at| {
            let token = self.positions.binary_search(&at).ok();
            token.map_or(0.0, |i| self.features.value(self.first + i, feature as usize))
        });
        Occurrence {
            value,
            prompt: self.prompt,
            position: position as u32,
            start: start as u32,
            ids: self.ids[start..end].to_vec(),
            values: values.collect(),
        }
    }
}

/// A positive value in units of 2^-60, truncated.
fn fixed(value: f32) -> u128 {
    (f64::from(value.min(1e15)) * 2f64.powi(60)) as u128
}

/// The bin of a positive value: its exponent and the first three fraction bits.
fn bin(value: f32) -> u16 {
    (value.to_bits() >> 20) as u16
}

/// The lower edge of a bin.
fn edge(bin: u16) -> f32 {
    f32::from_bits(u32::from(bin) << 20)
}

/// A number that depends only on feature, prompt and position (Steele et al. 2014, SplitMix64).
fn draw(feature: u32, (prompt, position): (u32, u32)) -> u64 {
    let mix = |mut x: u64| {
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        x ^ (x >> 31)
    };
    let place = u64::from(prompt) << 32 | u64::from(position);
    mix(mix(place.wrapping_add(0x9E37_79B9_7F4A_7C15))
        ^ u64::from(feature).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}
