//! A layer as a linear map, given its active features: for attribution graphs.

use easyroutine::{Error, ErrorKind, Result};

use crate::activation::Activation;
use crate::layer::Layer;
use crate::norm::Norm;

impl Layer {
    /// Checks that an active feature is linear in the layer's input, and the output is linear in the features.
    ///
    /// # Errors
    /// If the norm uses each vector's own statistics.
    pub fn check_linear(&self) -> Result<()> {
        match self.norm {
            Norm::None | Norm::Scale { .. } => Ok(()),
            Norm::ConstantNorm | Norm::LayerNorm => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the dictionary at `{}` divides each vector by its own norm (`{}`), so its features are not linear in \
                     what it reads",
                    self.reads.text(),
                    self.norm.name()
                ),
            )),
        }
    }

    /// The linear form of an active feature: its value is this vector times the layer's input x, plus a constant.
    ///
    /// # Shapes
    /// `[D_in]`
    ///
    /// # Errors
    /// As [`Layer::encoder_row`] and [`Layer::check_linear`].
    pub fn reading(&self, feature: usize) -> Result<Vec<f32>> {
        self.check_linear()?;
        let mut row = self.encoder_row(feature)?;
        let mut factor = match self.norm {
            Norm::Scale { factor, .. } => factor,
            _ => 1.0,
        };
        if let Activation::Gated { scale, .. } = &self.activation {
            factor *= f64::from(scale[feature]);
        }
        if self.rescales {
            factor *= f64::from(self.row_norms()?[feature]);
        }
        if factor != 1.0 {
            row.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
        }
        Ok(row)
    }

    /// The contribution of a feature with this value to the output of a layer of the set; `None` if it does not write
    /// there.
    ///
    /// # Shapes
    /// `[D_out]`
    ///
    /// # Errors
    /// If there is no such feature or weights are not finite; as [`Layer::check_linear`].
    pub fn writing(&self, feature: usize, value: f32, target: usize) -> Result<Option<Vec<f32>>> {
        self.check_linear()?;
        if !self.parts.contains(&target) {
            return Ok(None);
        }
        crate::features::check_feature(feature, self.n_features())?;
        let mut sum = vec![0.0; self.d_out()];
        self.add_decoded(target, [(feature as u32, f64::from(value))].into_iter(), &mut sum)?;
        let undo = self.undo_factor();
        Ok(Some(sum.into_iter().map(|x| (x * undo) as f32).collect()))
    }

    /// The output without any features: the decoder's bias.
    ///
    /// # Shapes
    /// `[D_out]`
    pub fn constant(&self) -> Vec<f32> {
        let undo = self.undo_factor();
        self.decoder_bias.iter().map(|x| (f64::from(*x) * undo) as f32).collect()
    }

    /// The matrix of the skip connection from input to output, if there is one.
    ///
    /// # Shapes
    /// `[D_out, D_in]`
    ///
    /// # Errors
    /// If weights are not finite.
    pub fn skip_rows(&self) -> Result<Option<Vec<f32>>> {
        let Some(matrix) = &self.skip else { return Ok(None) };
        let mut rows = vec![0.0; matrix.features() * matrix.width()];
        matrix.read_block(0..matrix.features(), &mut rows)?;
        let undo = self.undo_factor();
        if undo != 1.0 {
            rows.iter_mut().for_each(|x| *x = (f64::from(*x) * undo) as f32);
        }
        Ok(Some(rows))
    }

    fn undo_factor(&self) -> f64 {
        match self.norm {
            Norm::Scale { undo, .. } if self.undoes_norm => 1.0 / undo,
            _ => 1.0,
        }
    }
}
