//! Gates and step sizes, value by value.

use crate::activation::Apply;
use crate::math;
use crate::vector::{Vector, Work};
use crate::{Activation, Cpu, Rows, RowsMut};

/// Gate values held at a time.
const HELD: usize = 256;

impl Cpu {
    /// x *= act(gate).
    ///
    /// # Shapes
    /// gate, x: `[rows, cols]`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn gate(&self, act: Option<Activation>, gate: Rows<'_>, x: RowsMut<'_>) {
        assert_eq!(
            (gate.n_rows(), gate.n_columns()),
            (x.n_rows(), x.n_columns()),
            "a gate and what it lets through"
        );
        self.for_each_row(x, |row, x| {
            let mut held = [0.0; HELD];
            for (x, gate) in x.chunks_mut(HELD).zip(gate.row(row).chunks(HELD)) {
                let held = &mut held[..gate.len()];
                held.copy_from_slice(gate);
                if let Some(activation) = act {
                    self.run(Apply { activation, values: held });
                }
                x.iter_mut().zip(&*held).for_each(|(x, gate)| *x *= gate);
            }
        });
    }

    /// x = ln(1 + e^(x + bias)), clamped to `least` and `most`.
    ///
    /// # Shapes
    /// x: `[rows, cols]`; bias: `[cols]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn softplus(&self, x: RowsMut<'_>, bias: &[f32], [least, most]: [f32; 2]) {
        assert_eq!(x.n_columns(), bias.len(), "a bias for each column");
        self.for_each_row(x, |_, x| self.run(Softplus { x, bias, least, most }));
    }
}

struct Softplus<'a> {
    x: &'a mut [f32],
    bias: &'a [f32],
    least: f32,
    most: f32,
}

impl Work for Softplus<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (least, most) = (v.splat(self.least), v.splat(self.most));
        for (x, bias) in self.x.chunks_mut(V::LANES).zip(self.bias.chunks(V::LANES)) {
            let sum = v.add(v.load_or(x, 0.0), v.load_or(bias, 0.0));
            v.store_some(v.min(most, v.max(least, math::softplus(v, sum))), x);
        }
    }
}
