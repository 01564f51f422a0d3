//! A reusable matrix of activations.

use easyroutine_kernels::{Dtype, Left, Operand, Out, Rows, RowsMut};

/// Tokens by columns, with a stride that keeps rows from falling on the same cache sets.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    values: Vec<f32>,
    tokens: usize,
    columns: usize,
    stride: usize,
}

impl Buffer {
    /// Makes room; what it held is lost.
    pub(crate) fn resize(&mut self, tokens: usize, columns: usize) {
        // Rows of a multiple of 4 KiB all start on one cache set; 16 floats more spread them (measured 10-20 %).
        let stride = columns.next_multiple_of(16) + if columns.is_multiple_of(1024) { 16 } else { 0 };
        (self.tokens, self.columns, self.stride) = (tokens, columns, stride);
        let needed = tokens * stride;
        if self.values.len() < needed {
            // Growing a vector would copy what nobody reads.
            self.values = vec![0.0; needed];
        }
    }

    /// Keeps these rows alone, which ascend, and moves them together.
    pub(crate) fn keep(&mut self, rows: impl Iterator<Item = usize>) {
        self.tokens = 0;
        for row in rows {
            let start = row * self.stride;
            self.values.copy_within(start..start + self.stride, self.tokens * self.stride);
            self.tokens += 1;
        }
    }

    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows::new(&self.values[..self.tokens * self.stride], self.tokens, self.columns, self.stride)
    }

    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        RowsMut::new(&mut self.values[..self.tokens * self.stride], self.tokens, self.columns, self.stride)
    }
}

/// What a product reads: rows of f32 if somebody looks at them first, else at once what the product multiplies.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    rows: Buffer,
    operand: Operand,
    seen: Seen,
}

/// Whether anybody looks at a buffer between the step that writes it and the product that reads it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    #[default]
    ByNobody,
    ByTap,
}

impl Reading {
    /// Makes room for results; what it held is lost.
    pub(crate) fn resize(&mut self, seen: Seen, dtype: Dtype, tokens: usize, columns: usize) -> Out<'_> {
        self.seen = seen;
        match seen {
            Seen::ByNobody => {
                self.operand.resize(dtype, tokens, columns);
                Out::from(&mut self.operand)
            }
            Seen::ByTap => {
                self.rows.resize(tokens, columns);
                Out::from(self.rows.rows_mut())
            }
        }
    }

    /// What the product reads.
    pub(crate) fn left(&self) -> Left<'_> {
        match self.seen {
            Seen::ByNobody => Left::from(&self.operand),
            Seen::ByTap => Left::from(self.rows.rows()),
        }
    }

    /// The rows, of a buffer that is seen.
    pub(crate) fn rows(&self) -> Rows<'_> {
        self.rows.rows()
    }

    /// The rows, of a buffer that is seen.
    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        self.rows.rows_mut()
    }
}

impl Seen {
    pub(crate) fn by_tap_if(seen: bool) -> Seen {
        if seen { Seen::ByTap } else { Seen::ByNobody }
    }
}
