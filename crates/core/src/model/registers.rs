//! The buffers of a run.

use easyroutine_kernels::{Dtype, Left, Operand, Out, Rows, RowsMut};

use super::buffer::Buffer;
use crate::pass::{Form, MATRICES, Reg};

/// Buffers of a run, by their contents.
#[derive(Debug)]
pub(crate) struct Registers {
    matrices: [Register; MATRICES],
    /// Scores or patterns of a range of heads, each with every row's square, back to back.
    pub(super) pairs: Vec<Vec<f32>>,
    /// The tokens whose logits are wanted.
    pub(super) chosen: Vec<usize>,
    /// Their logits.
    pub(super) logits: Vec<f32>,
    /// The state of a recurrence after each row's last token: the last inputs of its convolution, and its state.
    pub(super) states: [Vec<f32>; 2],
    /// Scratch for a single step.
    pub(super) work: Buffer,
}

impl Default for Registers {
    fn default() -> Self {
        Registers {
            matrices: std::array::from_fn(|_| Register::default()),
            pairs: Vec::new(),
            chosen: Vec::new(),
            logits: Vec::new(),
            states: Default::default(),
            work: Buffer::default(),
        }
    }
}

/// A matrix of activations: rows of f32, or already the operand of the next product.
#[derive(Debug, Default)]
pub(crate) struct Register {
    rows: Buffer,
    operand: Operand,
    form: Form,
}

impl Registers {
    pub(crate) fn get(&self, reg: Reg) -> &Register {
        &self.matrices[reg as usize]
    }

    pub(crate) fn get_mut(&mut self, reg: Reg) -> &mut Register {
        &mut self.matrices[reg as usize]
    }

    /// Takes a register out, to write it while others are read; put it back afterwards.
    pub(super) fn take(&mut self, reg: Reg) -> Register {
        std::mem::take(&mut self.matrices[reg as usize])
    }

    /// Puts a register back.
    pub(super) fn put(&mut self, reg: Reg, register: Register) {
        self.matrices[reg as usize] = register;
    }

    /// As [`Registers::take`], by its number.
    pub(super) fn take_numbered(&mut self, number: usize) -> Register {
        std::mem::take(&mut self.matrices[number])
    }

    /// Puts a register back by its number.
    pub(super) fn put_numbered(&mut self, number: usize, register: Register) {
        self.matrices[number] = register;
    }

    /// A register by its number, as listed in [`crate::pass::Step::Narrow`].
    pub(super) fn numbered(&mut self, number: usize) -> &mut Register {
        &mut self.matrices[number]
    }

    /// One to read and another to write.
    pub(crate) fn pair(&mut self, from: Reg, to: Reg) -> (&Register, &mut Register) {
        let (from, to) = (from as usize, to as usize);
        assert_ne!(from, to, "a step reads one register and writes another");
        if from < to {
            let (low, high) = self.matrices.split_at_mut(to);
            (&low[from], &mut high[0])
        } else {
            let (low, high) = self.matrices.split_at_mut(from);
            (&high[0], &mut low[to])
        }
    }
}

impl Register {
    /// Resizes to rows of f32; the contents are lost.
    pub(crate) fn resize(&mut self, tokens: usize, columns: usize) -> RowsMut<'_> {
        self.form = Form::Rows;
        self.rows.resize(tokens, columns);
        self.rows.rows_mut()
    }

    /// Resizes to results in the given form; the contents are lost.
    pub(crate) fn resize_as(&mut self, form: Form, dtype: Dtype, tokens: usize, columns: usize) -> Out<'_> {
        self.form = form;
        match form {
            Form::Operand => self.operand.resize(dtype, tokens, columns),
            Form::Rows => self.rows.resize(tokens, columns),
        }
        self.out()
    }

    /// The target for further results, in its present form.
    pub(crate) fn out(&mut self) -> Out<'_> {
        match self.form {
            Form::Operand => Out::from(&mut self.operand),
            Form::Rows => Out::from(self.rows.rows_mut()),
        }
    }

    /// The left side of a product.
    pub(crate) fn left(&self) -> Left<'_> {
        match self.form {
            Form::Operand => Left::from(&self.operand),
            Form::Rows => Left::from(self.rows.rows()),
        }
    }

    /// Number of tokens.
    pub(crate) fn n_rows(&self) -> usize {
        match self.form {
            Form::Operand => self.operand.n_rows(),
            Form::Rows => self.rows.rows().n_rows(),
        }
    }

    /// Number of columns.
    pub(crate) fn n_columns(&self) -> usize {
        match self.form {
            Form::Operand => self.operand.n_columns(),
            Form::Rows => self.rows.rows().n_columns(),
        }
    }

    /// Whether it holds rows of f32.
    pub(super) fn has_rows(&self) -> bool {
        self.form == Form::Rows
    }

    /// Bytes of what it holds.
    pub(super) fn bytes(&self) -> u64 {
        (size_of::<f32>() * self.n_rows() * self.n_columns()) as u64
    }

    /// Rows of f32.
    pub(crate) fn rows(&self) -> Rows<'_> {
        debug_assert_eq!(self.form, Form::Rows, "a step reads rows of what was written for products alone");
        self.rows.rows()
    }

    /// Rows of f32, mutable.
    pub(crate) fn rows_mut(&mut self) -> RowsMut<'_> {
        debug_assert_eq!(self.form, Form::Rows, "a step reads rows of what was written for products alone");
        self.rows.rows_mut()
    }

    /// Keeps only these rows, given in ascending order.
    pub(super) fn keep(&mut self, rows: impl Iterator<Item = usize>) {
        self.rows.keep(rows);
    }

    /// The underlying buffer, to be lent out and put back.
    pub(super) fn buffer_mut(&mut self) -> &mut Buffer {
        &mut self.rows
    }
}
