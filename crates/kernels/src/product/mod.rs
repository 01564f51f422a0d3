//! Products of activations with packed weights: x Wᵀ + bias, fused with what follows.

mod block;
mod finish;
mod inputs;
mod tasks;

use crate::operand::SharedOut;
use crate::shared::SharedRows;
use crate::vector::{Element, PANEL};
use crate::{Activation, Cpu, Left, Out, PackedMatrix, RowsMut, scratch};
use block::Block;
use finish::Target;
pub use finish::{Finish, Terms};
use tasks::Tasks;

/// The tiles in which a product is visited.
#[derive(Debug, Clone, Copy)]
pub struct TileShape {
    /// Rows that stay together: tiles have a multiple of them.
    pub rows: usize,
    /// Columns of a tile.
    pub columns: usize,
}

impl Cpu {
    /// out = x Wᵀ + bias.
    ///
    /// Each output is summed over the inputs in ascending order, so its bits depend neither on the other rows nor on
    /// the number of threads. For bf16 weights, x is rounded to bf16 first.
    ///
    /// # Shapes
    /// x: `[rows, inputs]`; w: `[outputs, inputs]`; bias: `[outputs]`; out: `[rows, outputs]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul<'a>(
        &self,
        x: impl Into<Left<'a>>,
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        out: RowsMut<'_>,
    ) {
        self.multiply(x.into(), w, Terms { bias, addend: None }, Finish::Store, out.into());
    }

    /// out += x Wᵀ + bias, with the bits of computing the product first and adding it after.
    ///
    /// # Shapes
    /// As for [`Cpu::matmul`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul_add<'a>(
        &self,
        x: impl Into<Left<'a>>,
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        out: RowsMut<'_>,
    ) {
        self.multiply(x.into(), w, Terms { bias, addend: None }, Finish::Add, out.into());
    }

    /// out = activation(x Wᵀ + bias).
    ///
    /// # Shapes
    /// As for [`Cpu::matmul`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn matmul_activated<'a>(
        &self,
        x: impl Into<Left<'a>>,
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        activation: Activation,
        out: impl Into<Out<'a>>,
    ) {
        self.multiply(x.into(), w, Terms { bias, addend: None }, Finish::Activate(activation), out.into());
    }

    /// out = activation(gate) · up, with gate and up the two halves of x Wᵀ + bias.
    ///
    /// # Shapes
    /// x: `[rows, inputs]`; w: `[2 * neurons, inputs]` of [`PackedMatrix::pack_gated`]; bias: `[2 * neurons]`, the
    /// gate's first; out: `[rows, neurons]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or the matrix is not gated.
    pub fn matmul_gated<'a>(
        &self,
        x: impl Into<Left<'a>>,
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        activation: Activation,
        out: impl Into<Out<'a>>,
    ) {
        assert!(w.is_gated(), "a gated product needs a matrix of `pack_gated`");
        self.multiply(x.into(), w, Terms { bias, addend: None }, Finish::Gate(activation), out.into());
    }

    /// out = finish(x Wᵀ + bias + addend), with the bits of the other products if there is no addend.
    ///
    /// # Shapes
    /// As for [`Cpu::matmul`]; out: `[rows, outputs]`, or `[rows, outputs / 2]` for [`Finish::Gate`]. For the terms see
    /// [`Terms`].
    ///
    /// # Panics
    /// If the shapes do not fit, or the matrix of [`Finish::Gate`] is not gated.
    pub fn matmul_then<'a>(
        &self,
        x: impl Into<Left<'a>>,
        w: &PackedMatrix,
        terms: Terms<'_>,
        finish: Finish,
        out: impl Into<Out<'a>>,
    ) {
        let needs_gate = matches!(finish, Finish::Gate(_));
        assert!(!needs_gate || w.is_gated(), "a gated product needs a matrix of `pack_gated`");
        self.multiply(x.into(), w, terms, finish, out.into());
    }

    /// Computes x Wᵀ + bias without storing it: calls `visit`, from any thread, with each tile's first column, first
    /// row and values. Tiles cover every element once, each with the bits of [`Cpu::matmul`]. A tile has `tile.columns`
    /// columns rounded up to a multiple of 32, or the remaining ones; its first row and its number of rows are
    /// multiples of `tile.rows`.
    ///
    /// # Shapes
    /// As for [`Cpu::matmul`]; a tile: `[its rows, its columns]`.
    ///
    /// # Panics
    /// If the shapes do not fit, the rows of x are not a multiple of the tile's, or the matrix is gated.
    pub fn matmul_tiles<'a>(
        &self,
        x: impl Into<Left<'a>>,
        w: &PackedMatrix,
        bias: Option<&[f32]>,
        tile: TileShape,
        visit: impl Fn(usize, usize, RowsMut<'_>) + Sync,
    ) {
        assert!(!w.is_gated(), "tiles of a gated matrix would have no first column");
        let x = x.into();
        let terms = Terms { bias, addend: None };
        check(&x, w, terms);
        let together = tile.rows.max(1);
        assert!(x.n_rows().is_multiple_of(together), "tiles of {together} rows for {} rows", x.n_rows());
        inputs::with(self, &x, w, |inputs| {
            let tasks = Tasks::new(self, inputs, w, Some(tile));
            let panels = w.panels(self, tasks.use_panels_once());
            self.for_each(tasks.count(), |task| {
                let part = tasks.part(task);
                let rows = part.rows.clone();
                let columns = part.panels.start * PANEL..w.outputs().min(part.panels.end * PANEL);
                // Not a power of two: rows at such a stride would compete for few cache sets.
                let stride = columns.len().next_multiple_of(PANEL) + PANEL / 2;
                scratch::with(rows.len() * stride, |tile: &mut [f32]| {
                    let (first_row, first_column) = (rows.start, columns.start);
                    let mut tile = RowsMut::new(tile, rows.len(), columns.len(), stride);
                    let out = SharedRows::new(tile.reborrow());
                    let origin = (first_row, first_column);
                    let target = Target { out: &out, origin, terms, finish: Finish::Store };
                    // SAFETY: the tile is this task's own.
                    unsafe {
                        block::run(Block { cpu: self, inputs, w, panels: &panels, part, target: &target })
                    };
                    visit(first_column, first_row, tile);
                });
            });
        });
    }

    fn multiply(&self, x: Left<'_>, w: &PackedMatrix, terms: Terms<'_>, finish: Finish, out: Out<'_>) {
        check(&x, w, terms);
        let columns = finish.columns(w.outputs());
        assert_eq!(out.shape(), (x.n_rows(), columns), "rows and columns of a product");
        match out.share() {
            SharedOut::F32(out) => {
                self.multiply_into(x, w, Target { out: &out, origin: (0, 0), terms, finish })
            }
            SharedOut::Bf16(out) => {
                self.multiply_into(x, w, Target { out: &out, origin: (0, 0), terms, finish });
            }
        }
    }

    fn multiply_into<O: Element>(&self, x: Left<'_>, w: &PackedMatrix, target: Target<'_, O>) {
        inputs::with(self, &x, w, |inputs| {
            let tasks = Tasks::new(self, inputs, w, None);
            let panels = w.panels(self, tasks.use_panels_once());
            self.for_each(tasks.count(), |task| {
                let part = tasks.part(task);
                // SAFETY: tasks have different rows or different panels, and these have different outputs.
                unsafe { block::run(Block { cpu: self, inputs, w, panels: &panels, part, target: &target }) };
            });
        });
    }
}

fn check(x: &Left<'_>, w: &PackedMatrix, terms: Terms<'_>) {
    assert_eq!(x.n_columns(), w.inputs(), "inputs of a product");
    assert!(
        terms.bias.is_none_or(|bias| bias.len() == w.outputs()),
        "biases of a product with {} outputs",
        w.outputs()
    );
    assert!(
        terms.addend.is_none_or(|a| (a.n_rows(), a.n_columns()) == (x.n_rows(), w.outputs())),
        "addend of a product of {} rows with {} outputs",
        x.n_rows(),
        w.outputs()
    );
}

#[cfg(test)]
mod tests;
