//! Gradients of registers.

use easyroutine_kernels::{Rows, RowsMut};

use crate::model::buffer::Buffer;
use crate::pass::{MATRICES, Reg};

/// The gradient with respect to each register; `None` if it is zero.
#[derive(Debug)]
pub(super) struct Gradients {
    of: [Option<Buffer>; MATRICES],
    /// Free buffers: fresh pages cost more than clearing old ones.
    spare: Vec<Buffer>,
}

impl Default for Gradients {
    fn default() -> Self {
        Gradients { of: std::array::from_fn(|_| None), spare: Vec::new() }
    }
}

impl Gradients {
    pub(super) fn get(&self, reg: Reg) -> Option<Rows<'_>> {
        self.of[reg as usize].as_ref().map(Buffer::rows)
    }

    pub(super) fn get_mut(&mut self, reg: Reg) -> Option<RowsMut<'_>> {
        self.of[reg as usize].as_mut().map(Buffer::rows_mut)
    }

    /// Takes a gradient out: the step wrote the register, so its earlier contents have no gradient yet.
    pub(super) fn take(&mut self, reg: Reg) -> Option<Buffer> {
        self.of[reg as usize].take()
    }

    pub(super) fn put(&mut self, reg: Reg, buffer: Buffer) {
        self.of[reg as usize] = Some(buffer);
    }

    /// A buffer of unspecified values.
    pub(super) fn room(&mut self, tokens: usize, columns: usize) -> Buffer {
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.resize(tokens, columns);
        buffer
    }

    /// A buffer of zeros.
    pub(super) fn zeros(&mut self, tokens: usize, columns: usize) -> Buffer {
        let mut buffer = self.room(tokens, columns);
        buffer.rows_mut().data_mut().fill(0.0);
        buffer
    }

    /// Gives a buffer back.
    pub(super) fn free(&mut self, buffer: Buffer) {
        self.spare.push(buffer);
    }

    /// The gradient of a register to add to; zeros if it has none yet.
    pub(super) fn sum(&mut self, reg: Reg, tokens: usize, columns: usize) -> RowsMut<'_> {
        if self.of[reg as usize].is_none() {
            let zeros = self.zeros(tokens, columns);
            self.of[reg as usize] = Some(zeros);
        }
        match &mut self.of[reg as usize] {
            Some(buffer) => buffer.rows_mut(),
            None => unreachable!("a buffer was put there"),
        }
    }
}
