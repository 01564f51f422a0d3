//! Features of some tokens, of which nearly all are zero.

use easyroutine::{Error, Result};

/// The features that are not zero, token by token.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    n_features: usize,
    /// Where each token's features begin, and at last where they all end.
    starts: Vec<usize>,
    numbers: Vec<u32>,
    values: Vec<f32>,
}

impl Features {
    /// No tokens yet, of a dictionary with so many features.
    pub fn new(n_features: usize) -> Features {
        Features { n_features, starts: vec![0], numbers: Vec::new(), values: Vec::new() }
    }

    /// How many features the dictionary has.
    pub fn n_features(&self) -> usize {
        self.n_features
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many features are not zero, of all tokens together.
    pub fn n_active(&self) -> usize {
        self.numbers.len()
    }

    /// The features of a token that are not zero, in ascending order, and their values.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn token(&self, token: usize) -> (&[u32], &[f32]) {
        let range = self.starts[token]..self.starts[token + 1];
        (&self.numbers[range.clone()], &self.values[range])
    }

    /// The value of one feature of a token.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn value(&self, token: usize, feature: usize) -> f32 {
        let (numbers, values) = self.token(token);
        let found = u32::try_from(feature).ok().and_then(|feature| numbers.binary_search(&feature).ok());
        found.map_or(0.0, |at| values[at])
    }

    /// Adds a token: its features in ascending order. Zeros are left out.
    pub fn push(&mut self, features: impl IntoIterator<Item = (u32, f32)>) {
        for (number, value) in features {
            if value != 0.0 {
                self.numbers.push(number);
                self.values.push(value);
            }
        }
        self.starts.push(self.numbers.len());
    }

    /// Sets one feature of every token. Zero takes it away.
    ///
    /// # Errors
    /// The dictionary has no such feature, or the value is not finite.
    pub fn set(&self, feature: usize, value: f32) -> Result<Features> {
        self.changed(feature, |_| value)
    }

    /// Changes one feature of every token.
    ///
    /// # Errors
    /// The dictionary has no such feature, or a value that is not finite.
    pub fn changed(&self, feature: usize, change: impl Fn(f32) -> f32) -> Result<Features> {
        let number = self.check(feature)?;
        let mut changed = Features::new(self.n_features);
        for token in 0..self.len() {
            let (numbers, values) = self.token(token);
            let value = change(self.value(token, feature));
            if !value.is_finite() {
                return Err(Error::input(format!("{value} is no value of a feature")));
            }
            let others = numbers.iter().copied().zip(values.iter().copied());
            let at = numbers.partition_point(|n| *n < number);
            let before = others.clone().take(at);
            let after = others.skip(at).filter(|(n, _)| *n != number);
            changed.push(before.chain([(number, value)]).chain(after));
        }
        Ok(changed)
    }

    /// One token alone.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn only(&self, token: usize) -> Features {
        let (numbers, values) = self.token(token);
        let mut one = Features::new(self.n_features);
        one.push(numbers.iter().copied().zip(values.iter().copied()));
        one
    }

    /// These features, and for the tokens that `takes` says those of `other`.
    pub(crate) fn merged(&self, other: &Features, takes: impl Fn(usize) -> bool) -> Features {
        let mut merged = Features::new(self.n_features);
        for token in 0..self.len() {
            let (numbers, values) = if takes(token) { other.token(token) } else { self.token(token) };
            merged.push(numbers.iter().copied().zip(values.iter().copied()));
        }
        merged
    }

    /// A feature's number, checked.
    ///
    /// # Errors
    /// The dictionary has no such feature.
    pub fn check(&self, feature: usize) -> Result<u32> {
        check_feature(feature, self.n_features)
    }

    /// All features of all tokens, zeros included.
    ///
    /// # Shapes
    /// `[tokens, n_features]`.
    pub fn dense(&self) -> Vec<f32> {
        let mut all = vec![0.0; self.len() * self.n_features];
        for token in 0..self.len() {
            let (numbers, values) = self.token(token);
            for (number, value) in numbers.iter().zip(values) {
                all[token * self.n_features + *number as usize] = *value;
            }
        }
        all
    }
}

/// Refuses a feature that a dictionary of so many lacks.
pub(crate) fn check_feature(feature: usize, n_features: usize) -> Result<u32> {
    match u32::try_from(feature) {
        Ok(number) if feature < n_features => Ok(number),
        _ => Err(Error::input(format!(
            "no feature {feature}: the dictionary has {n_features}, 0 to {}",
            n_features.saturating_sub(1)
        ))),
    }
}
