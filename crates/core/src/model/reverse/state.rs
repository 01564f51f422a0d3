//! State of a backward pass.

use std::cell::RefCell;
use std::ops::Range;

use easyroutine_kernels::{Rows, RowsMut};

use super::Rule;
use super::gradients::Gradients;
use crate::model::buffer::Buffer;
use crate::model::run::Run;
use crate::pass::{Matrix, Reg};
use crate::tap::Reversible;
use crate::weights::Transposed;

/// What one step's rule needs besides the registers' contents at the end of a block.
#[derive(Debug)]
pub(super) enum Saved {
    Nothing,
    /// The input of a norm, or the output of a product before its activation.
    Rows(Buffer),
    /// Two of them: shared keys, and keys of the query heads.
    Keys(Buffer, Buffer),
    /// A head's pattern, or its scores or pattern before an edit.
    Square(Vec<f32>),
}

/// State of a backward pass.
pub(super) struct Walk<'a> {
    pub(super) run: Run<'a>,
    pub(super) edits: &'a RefCell<&'a mut dyn Reversible>,
    pub(super) rule: Rule,
    pub(super) gradients: Gradients,
    /// Logits after their softcap.
    pub(super) capped: Vec<f32>,
    /// Their gradient.
    pub(super) logits: Vec<f32>,
    /// The gradient of one head's scores or pattern.
    pub(super) square: Option<Vec<f32>>,
    /// The tokens that are walked, ascending, if not all. Gradients are of these alone.
    pub(super) tokens: Option<Vec<usize>>,
    /// Matrices for the way back, kept while the same section is walked many times.
    pub(super) transposed: Option<Vec<(Matrix, Transposed)>>,
    /// Gradients of each query head's query, key and value.
    pub(super) heads: Option<[Buffer; 3]>,
    /// The gradient that edits of single heads' outputs add to that of `z`. It joins at the source of `z`: an edit of a
    /// head's output counts as an edit of its mixed values, so their gradient is the one after the edit.
    pub(super) of_edited: Option<Buffer>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(run: Run<'a>, edits: &'a RefCell<&'a mut dyn Reversible>, rule: Rule) -> Self {
        Walk {
            run,
            edits,
            rule,
            gradients: Gradients::default(),
            capped: Vec::new(),
            logits: Vec::new(),
            square: None,
            tokens: None,
            transposed: None,
            heads: None,
            of_edited: None,
        }
    }

    /// Puts a stream in its register.
    pub(super) fn load(&mut self, stream: Option<Buffer>) {
        if let Some(stream) = stream {
            let rows = stream.rows();
            let mut to = self.run.registers.get_mut(Reg::Stream).resize(rows.n_rows(), rows.n_columns());
            (0..rows.n_rows()).for_each(|row| to.row_mut(row).copy_from_slice(rows.row(row)));
        }
    }

    /// Adds a buffer to the gradient of a register, or stores it there.
    pub(super) fn add(&mut self, reg: Reg, g: Buffer) {
        match self.gradients.get_mut(reg) {
            Some(sum) => {
                self.run.model.cpu.add(g.rows(), sum);
                self.gradients.free(g);
            }
            None => self.gradients.put(reg, g),
        }
    }
}

/// to += from
pub(super) fn add_row(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// Copies rows.
pub(super) fn put_columns(from: Rows<'_>, mut to: RowsMut<'_>) {
    (0..from.n_rows()).for_each(|row| to.row_mut(row).copy_from_slice(from.row(row)));
}

/// Adds rows to a range of columns.
pub(super) fn add_columns(from: Rows<'_>, mut to: RowsMut<'_>, columns: Range<usize>) {
    (0..from.n_rows()).for_each(|row| add_row(from.row(row), &mut to.row_mut(row)[columns.clone()]));
}
