//! Functions of numbers and of vectors, each from its formula.

use easyroutine_kernels::{Activation, NormKind};

use crate::weights::Norm;

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`
pub(super) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// As [`Activation`] has the formulas.
pub(super) fn activation(act: Activation, x: f64) -> f64 {
    match act {
        Activation::Relu => positive(x),
        Activation::Gelu => x / 2.0 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / 2.0 * (1.0 + inner.tanh())
        }
        Activation::Silu => x * sigmoid(x),
        Activation::QuickGelu => x * sigmoid(1.702 * x),
        Activation::SquaredRelu => positive(x) * positive(x),
        Activation::Tanh => x.tanh(),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// A comparison, not `max`: a NaN stays one.
fn positive(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// Norms every `group` values of a vector.
pub(super) fn norm(norm: &Norm, x: &mut [f64], group: usize) {
    let eps = f64::from(norm.eps);
    // Weights of one group serve all; those of the whole row have a part for each.
    let of = |weights: &[f32], index: usize| if weights.len() == group { 0 } else { index * group };
    for (index, x) in x.chunks_exact_mut(group.max(1)).enumerate() {
        let [mean, variance, second] = moments(x);
        let (mean, square) = match norm.kind {
            NormKind::Layer => (mean, variance),
            NormKind::Rms => (0.0, second),
        };
        let factor = 1.0 / (square + eps).sqrt();
        x.iter_mut().for_each(|x| *x = (*x - mean) * factor);
        if let Some(weight) = &norm.weight {
            let weight = &weight[of(weight, index)..];
            x.iter_mut().zip(weight).for_each(|(x, w)| *x *= f64::from(*w));
        }
        if let Some(bias) = &norm.bias {
            let bias = &bias[of(bias, index)..];
            x.iter_mut().zip(bias).for_each(|(x, b)| *x += f64::from(*b));
        }
    }
}

/// Mean, variance and second moment of a vector, without eps.
pub(super) fn moments(x: &[f64]) -> [f64; 3] {
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let second = x.iter().map(|x| x * x).sum::<f64>() / n;
    [mean, variance, second]
}

/// e^x over the sum of all and, where there is one, of a further number that gets no share.
pub(super) fn softmax(x: &mut [f64], sink: Option<f64>) {
    let most = x.iter().copied().chain(sink).fold(f64::NEG_INFINITY, f64::max);
    if most == f64::NEG_INFINITY {
        return x.fill(0.0);
    }
    x.iter_mut().for_each(|x| *x = (*x - most).exp());
    let sum = x.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - most).exp());
    x.iter_mut().for_each(|x| *x /= sum);
}
