//! A layer's derivatives: what a gradient of features is of the vector that they are read from.

use easyroutine::Result;

use crate::activation::Activation;
use crate::layer::Layer;

impl Layer {
    /// The gradient by the normalised vector of Σ a·feature, for features that are active: which they are is constant.
    ///
    /// # Shapes
    /// result: `[D_in]`.
    pub(crate) fn by_normalised(&self, features: &[(u32, f64)]) -> Result<Vec<f64>> {
        let norms = if self.rescales { self.row_norms()? } else { &[] };
        let (mut sum, mut row) = (vec![0.0; self.d_in()], vec![0.0; self.d_in()]);
        for (number, by_feature) in features {
            let feature = *number as usize;
            let mut slope = *by_feature;
            if let Activation::Gated { scale, .. } = &self.activation {
                slope *= f64::from(scale[feature]);
            }
            if let Some(norm) = norms.get(feature) {
                slope *= f64::from(*norm);
            }
            if slope == 0.0 {
                continue;
            }
            self.encoder.read(feature, 0..row.len(), &mut row)?;
            sum.iter_mut().zip(&row).for_each(|(sum, weight)| *sum += slope * f64::from(*weight));
        }
        Ok(sum)
    }

    /// The gradient by each of some features of what has the gradient `g` by what is decoded, before a norm is undone.
    ///
    /// # Shapes
    /// g: `[D_out]`; result: one number a feature.
    pub(crate) fn by_features(&self, target: usize, features: &[u32], g: &[f32]) -> Result<Vec<f64>> {
        let mut written = vec![0.0; self.d_out()];
        let one = |number: &u32| {
            written.fill(0.0);
            self.add_decoded(target, std::iter::once((*number, 1.0)), &mut written)?;
            Ok(written.iter().zip(g).map(|(w, g)| w * f64::from(*g)).sum())
        };
        features.iter().map(one).collect()
    }

    /// The gradient by x of what the skip connection adds, before a norm is undone.
    ///
    /// # Shapes
    /// g: `[D_out]`; sum: `[D_in]`.
    pub(crate) fn add_skip_back(&self, g: &[f32], factor: f64, sum: &mut [f64]) -> Result<()> {
        let Some(matrix) = &self.skip else { return Ok(()) };
        let mut row = vec![0.0; matrix.width()];
        for (output, g) in g.iter().enumerate() {
            matrix.read(output, 0..row.len(), &mut row)?;
            let g = factor * f64::from(*g);
            sum.iter_mut().zip(&row).for_each(|(sum, weight)| *sum += g * f64::from(*weight));
        }
        Ok(())
    }
}
