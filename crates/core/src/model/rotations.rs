//! Cosines and sines of one rotary table for every token of a batch.

use std::collections::BTreeMap;
use std::ops::Range;

use easyroutine_kernels::{Rows, Turning};

use super::rope::{frequencies, length_class};
use crate::arch::{Heads, Rope, Turn};
use crate::batch::Batch;

/// Angles of one rotary table, token by token.
#[derive(Debug)]
pub(crate) struct Rotations {
    cos: Vec<f32>,
    sin: Vec<f32>,
    tokens: usize,
    pairs: usize,
}

/// Which columns of heads a table rotates.
pub(crate) fn turning(rope: &Rope, heads: Heads) -> Turning {
    Turning { d_head: heads.d_head, first: rope.first, pairing: rope.pairing }
}

impl Rotations {
    /// Angles for all tokens; frequencies that depend on length use each row's own length.
    pub(crate) fn new(rope: &Rope, batch: &Batch) -> Self {
        let pairs = rope.pairs();
        // Rows with the same frequencies share their angles: each position is computed once.
        let mut classes: BTreeMap<usize, (usize, Range<usize>)> = BTreeMap::new();
        for row in (0..batch.n_rows()).filter(|row| !batch.span(*row).is_empty()) {
            let (first, length) = (batch.first(row), batch.length(row));
            let class = classes.entry(length_class(rope, length));
            let (_, range) = class.or_insert((length, first..length));
            *range = range.start.min(first)..range.end.max(length);
        }
        let tables: BTreeMap<usize, Table> = (classes.into_iter())
            .map(|(class, (length, range))| (class, Table::new(rope, length, range)))
            .collect();
        let tokens = batch.n_tokens();
        let (mut cos, mut sin) = (Vec::with_capacity(tokens * pairs), Vec::with_capacity(tokens * pairs));
        for row in 0..batch.n_rows() {
            let (span, length) = (batch.span(row), batch.length(row));
            let Some(table) = tables.get(&length_class(rope, length)).filter(|_| !span.is_empty()) else {
                continue;
            };
            let at = (batch.first(row) - table.first) * pairs..(length - table.first) * pairs;
            cos.extend_from_slice(&table.cos[at.clone()]);
            sin.extend_from_slice(&table.sin[at]);
        }
        Rotations { cos, sin, tokens, pairs }
    }

    /// # Shapes
    /// Tokens by pairs.
    pub(crate) fn cos(&self) -> Rows<'_> {
        Rows::dense(&self.cos, self.tokens, self.pairs)
    }

    /// # Shapes
    /// Tokens by pairs.
    pub(crate) fn sin(&self) -> Rows<'_> {
        Rows::dense(&self.sin, self.tokens, self.pairs)
    }

    /// Sines of the negated angles, which rotate gradients back.
    ///
    /// # Shapes
    /// As [`Rotations::sin`], dense.
    pub(crate) fn opposite(&self) -> Vec<f32> {
        self.sin.iter().map(|sin| -sin).collect()
    }
}

/// Angles of the positions from `first` on.
struct Table {
    first: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Table {
    fn new(rope: &Rope, length: usize, positions: Range<usize>) -> Self {
        let (frequencies, factor) = frequencies(rope, length);
        let first = positions.start;
        let sense = if rope.turn == Turn::Backward { -factor } else { factor };
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &frequencies {
                // The angle is rounded to f32 as in transformers; its cosine is then computed exactly.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32 * factor);
                sin.push(angle.sin() as f32 * sense);
            }
        }
        Table { first, cos, sin }
    }
}
