//! xIELU, a non-linearity with learned parameters (arXiv:2411.13010; transformers, `activations.py`, `XIELUActivation`).

use easyroutine_kernels::{Rows, RowsMut};

/// Its parameters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Xielu {
    /// Factor of `x²` above zero.
    positive: f32,
    /// Factor of the exponential part below.
    negative: f32,
    /// Slope at zero.
    beta: f32,
    /// Upper bound, below zero, of the exponential's argument.
    eps: f32,
}

impl Xielu {
    /// From the stored parameters.
    pub(crate) fn new(alpha_p: f32, alpha_n: f32, beta: f32, eps: f32) -> Self {
        Xielu { positive: softplus(alpha_p), negative: beta + softplus(alpha_n), beta, eps }
    }

    /// Replaces each value.
    pub(crate) fn apply(&self, mut rows: RowsMut<'_>) {
        for row in 0..rows.n_rows() {
            rows.row_mut(row).iter_mut().for_each(|x| *x = self.of(*x));
        }
    }

    /// Multiplies each gradient by the slope at `x`, or, unless `by_slope`, by f(x) / x, which is 1/2 at 0.
    pub(crate) fn back(&self, x: Rows<'_>, mut g: RowsMut<'_>, by_slope: bool) {
        for row in 0..g.n_rows() {
            for (g, x) in g.row_mut(row).iter_mut().zip(x.row(row)) {
                *g *= match by_slope {
                    true => self.slope(*x),
                    false if *x == 0.0 => 0.5,
                    false => self.of(*x) / x,
                };
            }
        }
    }

    /// The function in f64.
    pub(crate) fn exact(&self, x: f64) -> f64 {
        let [positive, negative, beta, eps] =
            [self.positive, self.negative, self.beta, self.eps].map(f64::from);
        if x > 0.0 { positive * x * x + beta * x } else { (x.min(eps).exp_m1() - x) * negative + beta * x }
    }

    fn slope(&self, x: f32) -> f32 {
        if x > 0.0 {
            2.0 * self.positive * x + self.beta
        } else {
            let of_power = if x < self.eps { x.exp() } else { 0.0 };
            (of_power - 1.0) * self.negative + self.beta
        }
    }

    fn of(&self, x: f32) -> f32 {
        if x > 0.0 {
            self.positive * x * x + self.beta * x
        } else {
            (x.min(self.eps).exp_m1() - x) * self.negative + self.beta * x
        }
    }
}

/// `ln(1 + e^x)`
fn softplus(x: f32) -> f32 {
    // Above 20 torch returns x itself.
    if x > 20.0 { x } else { f64::from(x).exp().ln_1p() as f32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `XIELUActivation` of transformers 5.24 with its default parameters.
    #[test]
    fn both_sides_of_zero() {
        let ln = |x: f32| x.exp_m1().ln();
        let xielu = Xielu::new(ln(0.8), ln(0.8 - 0.5), 0.5, -1e-6);
        for (x, expected) in [(2.0, 4.2), (0.5, 0.45), (0.0, 0.0), (-1.0, -0.205_696_44), (-8.0, 1.600_268_4)]
        {
            let got = xielu.of(x);
            assert!((got - expected).abs() < 2e-6, "{x}: {got} against {expected}");
        }
    }
}
