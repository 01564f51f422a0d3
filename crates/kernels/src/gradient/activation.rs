//! Slopes of activations.

use crate::vector::{Vector, Work};
use crate::{Activation, Cpu, Rows, RowsMut, math};

/// What replaces the derivative of an activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slope {
    /// The derivative; at a kink the left one, as in torch.
    Derivative,
    /// f(x) / x, as if it were a constant factor of x; 1/2 at 0 (RelP, arXiv 2508.21258). With `halves`, each side of a
    /// gate gets half of the gradient.
    Ratio {
        /// Whether each side of a gate gets half.
        halves: bool,
    },
}

impl Slope {
    /// The share of each side of a gate.
    fn share(self) -> f32 {
        if self == (Slope::Ratio { halves: true }) { 0.5 } else { 1.0 }
    }
}

impl Cpu {
    /// The gradient of x from that of y = activation(x): g becomes g · slope(x).
    ///
    /// # Shapes
    /// x, g: `[rows, cols]`.
    ///
    /// # Panics
    /// If the shapes differ.
    pub fn activate_back(&self, activation: Activation, slope: Slope, x: Rows<'_>, g: RowsMut<'_>) {
        assert_eq!((x.n_rows(), x.n_columns()), (g.n_rows(), g.n_columns()), "values and their gradients");
        self.for_each_row(g, |row, g| {
            let mut factors = x.row(row).to_vec();
            self.run(Slopes { activation, slope, values: &mut factors });
            g.iter_mut().zip(&factors).for_each(|(g, factor)| *g *= factor);
        });
    }

    /// The gradients of gate and up from that of y = activation(gate) · up.
    ///
    /// # Shapes
    /// x, out: `[rows, 2 * neurons]`, the gate's columns first; g: `[rows, neurons]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn gate_back(
        &self,
        activation: Activation,
        slope: Slope,
        x: Rows<'_>,
        g: Rows<'_>,
        out: RowsMut<'_>,
    ) {
        let neurons = g.n_columns();
        assert_eq!((x.n_rows(), x.n_columns()), (g.n_rows(), 2 * neurons), "gate and up beside gradients");
        assert_eq!((out.n_rows(), out.n_columns()), (g.n_rows(), 2 * neurons), "gradients of gate and up");
        let share = slope.share();
        self.for_each_row(out, |row, out| {
            let (gate, up) = x.row(row).split_at(neurons);
            let (of_gate, of_up) = out.split_at_mut(neurons);
            of_gate.copy_from_slice(gate);
            self.run(Slopes { activation, slope, values: of_gate });
            of_up.copy_from_slice(gate);
            self.run(crate::activation::Apply { activation, values: of_up });
            let g = g.row(row);
            for i in 0..neurons {
                let g = g[i] * share;
                of_gate[i] *= g * up[i];
                of_up[i] *= g;
            }
        });
    }
}

/// The work of replacing values by the slopes at them.
struct Slopes<'a> {
    activation: Activation,
    slope: Slope,
    values: &'a mut [f32],
}

impl Work for Slopes<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Slopes { activation, slope, values } = self;
        let mut start = 0;
        while start < values.len() {
            let end = values.len().min(start + V::LANES);
            let chunk = &mut values[start..end];
            let x = v.load_or(chunk, 0.0);
            match slope {
                Slope::Derivative => v.store_some(derivative(v, activation, x), chunk),
                Slope::Ratio { .. } => {
                    activation.replace(v, chunk);
                    for (y, x) in chunk.iter_mut().zip(v.lanes(x)) {
                        *y = if x == 0.0 { 0.5 } else { *y / x };
                    }
                }
            }
            start = end;
        }
    }
}

/// x clamped to ± `bound`.
#[inline(always)]
fn clamped<V: Vector>(v: V, bound: f32, x: V::F) -> V::F {
    v.max(v.splat(-bound), v.min(v.splat(bound), x))
}

/// The derivative of x σ(a x).
#[inline(always)]
fn of_gated<V: Vector>(v: V, a: f32, x: V::F) -> V::F {
    let one = v.splat(1.0);
    let t = v.mul(v.splat(a), x);
    let s = math::sigmoid(v, t);
    v.mul(s, v.mul_add(t, v.sub(one, s), one))
}

#[inline(always)]
fn derivative<V: Vector>(v: V, activation: Activation, x: V::F) -> V::F {
    let (zero, one) = (v.splat(0.0), v.splat(1.0));
    let negative = v.sub(zero, x);
    match activation {
        Activation::Relu => v.keep_nan(v.where_negative(negative, one, zero), x),
        Activation::SquaredRelu => v.where_negative(x, zero, v.add(x, x)),
        Activation::Gelu => {
            // Beyond 15 the density is zero in f32.
            let t = clamped(v, 15.0, x);
            let density = v.mul(v.splat(0.398_942_3), math::exp(v, v.mul(v.mul(v.splat(-0.5), t), t)));
            v.mul_add(t, density, math::normal(v, t))
        }
        Activation::GeluTanh => {
            const A: f32 = 1.595_769_2;
            const B: f32 = 1.595_769_2 * 0.044715;
            // Beyond 12 the sigmoid is zero or one anyway.
            let t = clamped(v, 12.0, x);
            let square = v.mul(t, t);
            let s = math::sigmoid(v, v.mul(t, v.mul_add(v.splat(B), square, v.splat(A))));
            let inner = v.mul(t, v.mul_add(v.splat(3.0 * B), square, v.splat(A)));
            v.mul(s, v.mul_add(inner, v.sub(one, s), one))
        }
        Activation::Silu => of_gated(v, 1.0, clamped(v, 100.0, x)),
        Activation::QuickGelu => of_gated(v, 1.702, clamped(v, 60.0, x)),
        Activation::Tanh => {
            let t = math::tanh(v, x);
            v.neg_mul_add(t, t, one)
        }
        Activation::Sigmoid => {
            let s = math::sigmoid(v, x);
            v.mul(s, v.sub(one, s))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{cpus, values};

    /// The function in f64, by definition.
    fn exact(activation: Activation, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Relu => x.max(0.0),
            Activation::SquaredRelu => x.max(0.0).powi(2),
            // The normal distribution as an integral, since std has no error function.
            Activation::Gelu => {
                let (steps, from) = (4000, -12.0);
                let width = (x - from) / f64::from(steps);
                let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
                let sum: f64 = (0..steps)
                    .map(|i| {
                        let a = from + f64::from(i) * width;
                        (density(a) + 4.0 * density(a + width / 2.0) + density(a + width)) * width / 6.0
                    })
                    .sum();
                x * sum
            }
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::Silu => x * sigmoid(x),
            Activation::QuickGelu => x * sigmoid(1.702 * x),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => sigmoid(x),
        }
    }

    #[test]
    fn slopes_are_central_differences() {
        let x: Vec<f32> = values(3, 97).iter().map(|x| x * 2.0).collect();
        for cpu in cpus() {
            for activation in Activation::ALL {
                let mut g = vec![1.0; x.len()];
                let rows = RowsMut::dense(&mut g, 1, x.len());
                cpu.activate_back(activation, Slope::Derivative, Rows::dense(&x, 1, x.len()), rows);
                for (x, g) in x.iter().zip(&g) {
                    let (x, h) = (f64::from(*x), 1e-5);
                    let expected = (exact(activation, x + h) - exact(activation, x - h)) / (2.0 * h);
                    assert!(
                        (f64::from(*g) - expected).abs() < 2e-6,
                        "{activation:?} at {x}: {g}, {expected}"
                    );
                }
            }
        }
    }

    #[test]
    fn slopes_of_extremes_are_finite() {
        let x = [f32::MAX, -f32::MAX, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
        for cpu in cpus() {
            for activation in Activation::ALL.into_iter().filter(|a| *a != Activation::SquaredRelu) {
                let mut g = vec![1.0; x.len()];
                let rows = RowsMut::dense(&mut g, 1, x.len());
                cpu.activate_back(activation, Slope::Derivative, Rows::dense(&x, 1, x.len()), rows);
                assert!(g.iter().all(|g| g.is_finite()), "{activation:?}: {g:?}");
            }
        }
    }

    #[test]
    fn a_gate_passes_its_gradient_to_both_sides() {
        let x = [0.5, -1.0, 3.0, 2.0];
        for cpu in cpus() {
            let mut out = vec![0.0; 4];
            let back = |slope: Slope, out: &mut [f32]| {
                let (x, g) = (Rows::dense(&x, 1, 4), Rows::dense(&[1.0, 10.0], 1, 2));
                cpu.gate_back(Activation::Tanh, slope, x, g, RowsMut::dense(out, 1, 4));
            };
            back(Slope::Derivative, &mut out);
            let tanh = [0.5_f32.tanh(), (-1.0_f32).tanh()];
            let slopes = tanh.map(|t| 1.0 - t * t);
            let expected = [slopes[0] * 3.0, slopes[1] * 20.0, tanh[0], tanh[1] * 10.0];
            assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{out:?}");
            back(Slope::Ratio { halves: true }, &mut out);
            let expected = [tanh[0] / 0.5 * 1.5, -tanh[1] * 10.0, tanh[0] / 2.0, tanh[1] * 5.0];
            assert!(out.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{out:?}");
        }
    }
}
