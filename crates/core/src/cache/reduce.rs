//! Fewer numbers for the same tokens: means over groups of positions, and blocks of patterns.

use std::ops::Range;

use crate::positions::{Selected, Specifier};

/// How values are reduced before they are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reduction {
    /// What T counts.
    pub positions: Axis,
    /// What is kept from a block of a pattern.
    pub pattern: PatternAverage,
    /// Rows of patterns, if these are other tokens than the columns.
    pub pattern_rows: Option<Vec<Specifier>>,
    /// Whether each example's patterns are kept.
    pub examples: Examples,
}

/// What the axis T of an activation counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Axis {
    /// Every selected token.
    #[default]
    Tokens,
    /// Specifiers: the mean over the tokens of each (`avg`).
    Groups,
}

/// What is kept from the block of a pattern with one specifier's tokens as rows and another's as columns
/// (`attn_pattern_avg`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PatternAverage {
    /// Every weight.
    #[default]
    None,
    /// The mean weight.
    Mean,
    /// The sum of the weights.
    Sum,
    /// The mean weight divided by its value if every token attended equally to all tokens up to itself: 1 is no
    /// preference. NaN if no row of the block may see any of its columns.
    BaselineRatio,
}

impl PatternAverage {
    /// All of them, with their names.
    pub const ALL: [(PatternAverage, &str); 4] = [
        (PatternAverage::None, "none"),
        (PatternAverage::Mean, "mean"),
        (PatternAverage::Sum, "sum"),
        (PatternAverage::BaselineRatio, "baseline_ratio"),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        let named = Self::ALL.iter().find(|(average, _)| *average == self);
        named.map_or("none", |(_, name)| name)
    }

    /// The number for one block. Sums are in f64, in the order of the tokens.
    ///
    /// `pattern` gives a query's weights over all keys of the row; `rows` and `columns` are indices in the row, each
    /// counted as often as requested.
    fn of_block<'a>(self, pattern: impl Fn(usize) -> &'a [f32], rows: &[usize], columns: &[usize]) -> f32 {
        let weights = |query: &usize| {
            let weights = pattern(*query);
            columns.iter().map(|key| f64::from(weights[*key])).sum::<f64>()
        };
        let sum: f64 = rows.iter().map(weights).sum();
        match self {
            PatternAverage::Sum => sum as f32,
            PatternAverage::None | PatternAverage::Mean => (sum / (rows.len() * columns.len()) as f64) as f32,
            // The number of cells cancels, so it is omitted.
            PatternAverage::BaselineRatio => {
                let visible = |query: &usize| columns.iter().filter(|key| *key <= query).count();
                let uniform = |query: &usize| visible(query) as f64 / (query + 1) as f64;
                (sum / rows.iter().map(uniform).sum::<f64>()) as f32
            }
        }
    }

    /// All blocks of one row's pattern, row groups first.
    pub(super) fn of_blocks<'a>(
        self,
        pattern: impl Fn(usize) -> &'a [f32] + Copy,
        rows: &Selected,
        columns: &Selected,
        into: &mut Vec<f32>,
    ) {
        for row_group in &rows.groups {
            for column_group in &columns.groups {
                let (rows, columns) =
                    (&rows.indices[row_group.clone()], &columns.indices[column_group.clone()]);
                into.push(self.of_block(pattern, rows, columns));
            }
        }
    }
}

/// Whether each example's patterns are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Examples {
    /// Each example's own.
    #[default]
    Each,
    /// Only the mean over all examples (`avg_over_example`).
    Mean,
}

/// The mean of one group's vectors, summed in f64 in the order of the tokens.
pub(super) fn mean<'a>(
    vector: impl Fn(usize) -> &'a [f32],
    selected: &Selected,
    group: &Range<usize>,
    columns: &Range<usize>,
    into: &mut Vec<f32>,
) {
    let mut sums = vec![0f64; columns.len()];
    for position in &selected.indices[group.clone()] {
        sums.iter_mut().zip(&vector(*position)[columns.clone()]).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    let count = group.len() as f64;
    into.extend(sums.into_iter().map(|sum| (sum / count) as f32));
}
