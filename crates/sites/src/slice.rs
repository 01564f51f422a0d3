//! One grammar for ranges of anything counted from 0: layers, heads, positions.

use std::fmt;
use std::iter::StepBy;
use std::ops::Range;
use std::str::FromStr;

use crate::error::NameError;

/// A range as Python writes it: `4:9` (4 to 8), `4:`, `:9`, `-3:` (the last three), `0:30:5` (every fifth).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slice {
    /// The first index; negative from the end. `None` is 0.
    pub start: Option<i64>,
    /// The index after the last; negative from the end. `None` is the count.
    pub end: Option<i64>,
    /// The distance between indices, at least 1.
    pub step: usize,
}

/// Why a slice selects nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceError {
    /// It reaches past the first or the last index.
    Outside,
    /// It ends before it starts.
    Empty,
}

impl Slice {
    /// `start:end`
    pub fn new(start: i64, end: i64) -> Self {
        Slice { start: Some(start), end: Some(end), step: 1 }
    }

    /// One index, negative from the end.
    pub fn one(number: i64) -> Self {
        Slice { start: Some(number), end: Some(number + 1).filter(|end| *end != 0), step: 1 }
    }

    /// The index, if this is a range of one as [`Slice::one`] makes it.
    pub fn single(&self) -> Option<i64> {
        self.start.filter(|number| *self == Slice::one(*number))
    }

    /// The selected indices below `count`, ascending; at least one.
    ///
    /// # Errors
    /// If it reaches outside `0..count`, or is empty.
    pub fn of(&self, count: usize) -> Result<StepBy<Range<usize>>, SliceError> {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let from_end = |n: i64| if n < 0 { n + count } else { n };
        let (start, end) = (self.start.map_or(0, from_end), self.end.map_or(count, from_end));
        if start < 0 || end > count {
            return Err(SliceError::Outside);
        }
        if start >= end {
            return Err(SliceError::Empty);
        }
        Ok((start as usize..end as usize).step_by(self.step.max(1)))
    }
}

impl FromStr for Slice {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        parse(text).ok_or_else(|| {
            let shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
            NameError::new(format!(
                "`{shown}` is not a range; ranges are 4:9 (4 to 8), 4:, :9, -3: (the last three), 0:30:5 (every fifth)"
            ))
        })
    }
}

fn parse(text: &str) -> Option<Slice> {
    let mut parts = text.split(':');
    let bound = |part: Option<&str>| match part? {
        "" => Some(None),
        number => integer(number).map(Some),
    };
    let (start, end) = (bound(parts.next())?, bound(parts.next())?);
    let step = match parts.next() {
        None | Some("") => 1,
        Some(step) => integer(step).filter(|step| *step > 0)? as usize,
    };
    parts.next().is_none().then_some(Slice { start, end, step })
}

impl fmt::Display for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |n: Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
        write!(f, "{}:{}", bound(self.start), bound(self.end))?;
        if self.step == 1 { Ok(()) } else { write!(f, ":{}", self.step) }
    }
}

/// An index as users write it, negative from the end: at most nine digits, so that sums cannot overflow.
pub fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let number: i64 = is_plain.then(|| text.parse().ok()).flatten()?;
    (number != 0 || !text.starts_with('-')).then_some(number)
}

/// Parses a list of layers such as `emb,0:30:5,-1`: each layer once, in model order. In the result, -1 is the
/// embedding.
///
/// # Errors
/// If a word names no layer, or the model lacks the layer.
pub fn layers(text: &str, n_layers: usize) -> Result<Vec<i64>, NameError> {
    let mut layers = Vec::new();
    for word in text.split(',').map(str::trim) {
        match word {
            "emb" | "embedding" => layers.push(-1),
            "all" | "*" => layers.extend(-1..n_layers as i64),
            _ => layers.extend(layers_of(word, n_layers)?),
        }
    }
    layers.sort_unstable();
    layers.dedup();
    Ok(layers)
}

fn layers_of(word: &str, n_layers: usize) -> Result<Vec<i64>, NameError> {
    let slice = integer(word).map(Slice::one).or_else(|| parse(word)).ok_or_else(|| {
        let shown: String = word.chars().take(60).flat_map(char::escape_debug).collect();
        NameError::new(format!("`{shown}`: is neither a layer nor a range start:end:step of layers"))
    })?;
    match slice.of(n_layers) {
        Ok(layers) => Ok(layers.map(|layer| layer as i64).collect()),
        Err(SliceError::Empty) => {
            Err(NameError::new(format!("`{word}`: the range is empty: it ends before its second number")))
        }
        Err(SliceError::Outside) => Err(NameError::new(format!(
            "`{word}`: the model has {n_layers} layers, 0 to {}",
            n_layers.saturating_sub(1)
        ))),
    }
}
