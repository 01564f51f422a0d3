//! Sums, factors and activations, value by value.

use crate::activation::Apply;
use crate::vector::{Vector, Work};
use crate::{Activation, Cpu, Rows, RowsMut};

impl Cpu {
    /// to += x.
    ///
    /// # Shapes
    /// x, to: `[rows, cols]`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn add(&self, x: Rows<'_>, to: RowsMut<'_>) {
        assert_eq!((x.n_rows(), x.n_columns()), (to.n_rows(), to.n_columns()), "both sides of a sum");
        self.for_each_row(to, |row, to| self.run(Add { x: x.row(row), to }));
    }

    /// x *= factor.
    ///
    /// # Shapes
    /// x: `[rows, cols]`.
    pub fn scale(&self, x: RowsMut<'_>, factor: f32) {
        self.for_each_row(x, |_, x| self.run(Scale { x, factor }));
    }

    /// x = activation(x), the same bits as the fused products give.
    ///
    /// # Shapes
    /// x: `[rows, cols]`.
    pub fn activate(&self, activation: Activation, x: RowsMut<'_>) {
        self.for_each_row(x, |_, values| self.run(Apply { activation, values }));
    }
}

struct Add<'a> {
    x: &'a [f32],
    to: &'a mut [f32],
}

impl Work for Add<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        for (to, x) in self.to.iter_mut().zip(self.x) {
            *to += x;
        }
    }
}

struct Scale<'a> {
    x: &'a mut [f32],
    factor: f32,
}

impl Work for Scale<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        for x in self.x {
            *x *= self.factor;
        }
    }
}
