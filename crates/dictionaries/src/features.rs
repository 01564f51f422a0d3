//! Sparse features of a list of tokens.

use easyroutine::{Error, Result};

/// The non-zero features, token by token.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    n_features: usize,
    /// The start of each token's features, and the end of the last.
    starts: Vec<usize>,
    numbers: Vec<u32>,
    values: Vec<f32>,
}

impl Features {
    /// An empty list for a dictionary with `n_features` features.
    pub fn new(n_features: usize) -> Features {
        Features { n_features, starts: vec![0], numbers: Vec::new(), values: Vec::new() }
    }

    /// Number of features in the dictionary.
    pub fn n_features(&self) -> usize {
        self.n_features
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of non-zero features over all tokens.
    pub fn n_active(&self) -> usize {
        self.numbers.len()
    }

    /// The non-zero features of a token, in ascending order, and their values.
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

    /// Adds a token with its features in ascending order. Zeros are left out.
    pub fn push(&mut self, features: impl IntoIterator<Item = (u32, f32)>) {
        for (number, value) in features {
            if value != 0.0 {
                self.numbers.push(number);
                self.values.push(value);
            }
        }
        self.starts.push(self.numbers.len());
    }

    /// Sets one feature of every token. Zero removes it.
    ///
    /// # Errors
    /// If the dictionary has no such feature, or the value is not finite.
    pub fn set(&self, feature: usize, value: f32) -> Result<Features> {
        self.changed(feature, |_| value)
    }

    /// Changes one feature of every token.
    ///
    /// # Errors
    /// If the dictionary has no such feature, or a value is not finite.
    pub fn changed(&self, feature: usize, change: impl Fn(f32) -> f32) -> Result<Features> {
        let number = self.check(feature)?;
        let mut changed = Features::new(self.n_features);
        for token in 0..self.len() {
            let (numbers, values) = self.token(token);
            let value = change(self.value(token, feature));
            if !value.is_finite() {
                return Err(Error::input(format!("{value} is not a value of a feature")));
            }
            let others = numbers.iter().copied().zip(values.iter().copied());
            let at = numbers.partition_point(|n| *n < number);
            let before = others.clone().take(at);
            let after = others.skip(at).filter(|(n, _)| *n != number);
            changed.push(before.chain([(number, value)]).chain(after));
        }
        Ok(changed)
    }

    /// A single token.
    ///
    /// # Panics
    /// If there is no such token.
    pub fn only(&self, token: usize) -> Features {
        let (numbers, values) = self.token(token);
        let mut one = Features::new(self.n_features);
        one.push(numbers.iter().copied().zip(values.iter().copied()));
        one
    }

    /// These features, but for the tokens chosen by `takes` those of `other`.
    pub(crate) fn merged(&self, other: &Features, takes: impl Fn(usize) -> bool) -> Features {
        let mut merged = Features::new(self.n_features);
        for token in 0..self.len() {
            let (numbers, values) = if takes(token) { other.token(token) } else { self.token(token) };
            merged.push(numbers.iter().copied().zip(values.iter().copied()));
        }
        merged
    }

    /// Checks a feature's number.
    ///
    /// # Errors
    /// If the dictionary has no such feature.
    pub fn check(&self, feature: usize) -> Result<u32> {
        check_feature(feature, self.n_features)
    }

    /// All features of all tokens, including zeros.
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

/// Refuses a feature beyond a dictionary's `n_features`.
pub(crate) fn check_feature(feature: usize, n_features: usize) -> Result<u32> {
    match u32::try_from(feature) {
        Ok(number) if feature < n_features => Ok(number),
        _ => Err(Error::input(format!(
            "no feature {feature}: the dictionary has {n_features}, 0 to {}",
            n_features.saturating_sub(1)
        ))),
    }
}
