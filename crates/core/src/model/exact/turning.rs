//! Positions: rotations and growth of queries.

use std::ops::Range;

use super::Exact;
use crate::arch::{Pairing, QueryGrowth, Turn};
use crate::model::rope::frequencies;
use crate::pass::{At, Reg};

impl Exact<'_> {
    /// Turns pairs of columns of each head. Frequencies and angles are rounded to f32, as in transformers in any precision:
    /// they are part of what the model is. Their cosines are not.
    pub(super) fn rotate(&mut self, at: At, reg: Reg, columns: Range<usize>, rope: usize) {
        let table = &self.model.arch().ropes[rope];
        let (d_head, batch) = (self.heads(at).d_head, self.batch);
        let x = self.reg_mut(reg);
        for row in 0..batch.n_rows() {
            let (frequencies, factor) = frequencies(table, batch.length(row));
            let (pairs, factor) = (frequencies.len(), f64::from(factor));
            for (position, token) in batch.span(row).enumerate() {
                let angle = |frequency: &f32| f64::from(position as f32 * frequency);
                for head in x.row_mut(token)[columns.clone()].chunks_exact_mut(d_head) {
                    let head = &mut head[table.first..];
                    for (i, frequency) in frequencies.iter().enumerate() {
                        let (a, b) = match table.pairing {
                            Pairing::Halves => (i, i + pairs),
                            Pairing::Adjacent => (2 * i, 2 * i + 1),
                        };
                        let (cos, sin) = (angle(frequency).cos() * factor, angle(frequency).sin() * factor);
                        let sin = if table.turn == Turn::Backward { -sin } else { sin };
                        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[b] * cos + head[a] * sin);
                    }
                }
            }
        }
    }

    /// Queries times `1 + beta ln(1 + floor(position / original))`.
    pub(super) fn grow(&mut self, columns: Range<usize>, growth: QueryGrowth) {
        let batch = self.batch;
        let x = self.reg_mut(Reg::Qkv);
        for row in 0..batch.n_rows() {
            for (position, token) in batch.span(row).enumerate() {
                let steps = (position / growth.original) as f64;
                let factor = 1.0 + f64::from(growth.beta) * steps.ln_1p();
                x.row_mut(token)[columns.clone()].iter_mut().for_each(|x| *x *= factor);
            }
        }
    }
}
