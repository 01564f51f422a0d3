//! Normalisation of vectors before encoding, undone after decoding (SAELens, `saes/sae.py`).

use easyroutine::{Error, Result};

/// A normalisation of a dictionary's inputs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// No normalisation.
    None,
    /// x·s, undone by division: one factor for all vectors, from the mean norm of a data set. `undo` is the factor of
    /// the output.
    Scale {
        /// s of the input.
        factor: f64,
        /// s of the output.
        undo: f64,
    },
    /// x·√D/‖x‖ (`constant_norm_rescale`).
    ConstantNorm,
    /// (x − μ)/(σ + 1e-5), σ with D − 1 degrees of freedom, undone by ·σ + μ (`layer_norm`).
    LayerNorm,
}

/// How one vector's normalisation is undone: ·scale + shift.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Undo {
    pub(crate) scale: f64,
    pub(crate) shift: f64,
}

const EPS: f64 = 1e-5;

impl Norm {
    /// Its name in SAELens' configurations, or our own.
    pub fn name(&self) -> &'static str {
        match self {
            Norm::None => "none",
            Norm::Scale { .. } => "scale",
            Norm::ConstantNorm => "constant_norm_rescale",
            Norm::LayerNorm => "layer_norm",
        }
    }

    /// Writes the normalised vector, and returns how to undo it.
    ///
    /// # Shapes
    /// x, out: `[D]`.
    ///
    /// # Errors
    /// If the vector cannot be normalised, because it is zero.
    pub(crate) fn apply(&self, x: &[f32], out: &mut [f32]) -> Result<Undo> {
        let (scale, shift, undo) = match self {
            Norm::None => {
                out.copy_from_slice(x);
                return Ok(Undo { scale: 1.0, shift: 0.0 });
            }
            Norm::Scale { factor, undo } => (*factor, 0.0, 1.0 / undo),
            Norm::ConstantNorm => {
                let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let scale = (x.len() as f64).sqrt() / norm;
                (scale, 0.0, 1.0 / scale)
            }
            Norm::LayerNorm => {
                let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
                let squares = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
                let deviation = (squares / (x.len() as f64 - 1.0)).sqrt();
                (1.0 / (deviation + EPS), mean, deviation)
            }
        };
        if !scale.is_finite() || !undo.is_finite() {
            let name = self.name();
            return Err(Error::input(format!("a vector of zeros, or of one number, has no `{name}`")));
        }
        for (out, x) in out.iter_mut().zip(x) {
            *out = ((f64::from(*x) - shift) * scale) as f32;
        }
        Ok(Undo { scale: undo, shift })
    }

    /// The gradient by x of what has the gradient `g` by the normalised vector, and `by_scale` and `by_shift` by the numbers
    /// that undo it.
    ///
    /// # Shapes
    /// x, g: `[D]`; result: `[D]`.
    pub(crate) fn back(&self, x: &[f32], g: &[f64], by_scale: f64, by_shift: f64) -> Vec<f64> {
        let d = x.len() as f64;
        match self {
            Norm::None => g.to_vec(),
            Norm::Scale { factor, .. } => g.iter().map(|g| g * factor).collect(),
            Norm::ConstantNorm => {
                let norm = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
                let along = x.iter().zip(g).map(|(x, g)| f64::from(*x) * g).sum::<f64>();
                let one = |(x, g): (&f32, &f64)| {
                    let x = f64::from(*x);
                    d.sqrt() / norm * (g - x * along / norm.powi(2)) + by_scale * x / (norm * d.sqrt())
                };
                x.iter().zip(g).map(one).collect()
            }
            Norm::LayerNorm => {
                let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / d;
                let centred = || x.iter().map(|x| f64::from(*x) - mean);
                let deviation = (centred().map(|c| c * c).sum::<f64>() / (d - 1.0)).sqrt();
                let scale = deviation + EPS;
                let along = centred().zip(g).map(|(c, g)| c * g).sum::<f64>();
                let of_mean = g.iter().sum::<f64>() / d;
                // ∂σ/∂x = (x − μ)/((D − 1)σ)
                let by_deviation = (by_scale - along / scale.powi(2)) / ((d - 1.0) * deviation);
                let one = |(c, g): (f64, &f64)| (g - of_mean) / scale + c * by_deviation + by_shift / d;
                centred().zip(g).map(one).collect()
            }
        }
    }
}
