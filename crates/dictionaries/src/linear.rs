//! A layer as a linear map, as far as the features that are active make it one: for attribution graphs.

use easyroutine::{Error, ErrorKind, Result};

use crate::activation::Activation;
use crate::layer::Layer;
use crate::norm::Norm;

impl Layer {
    /// Whether a feature that is active is linear in what the layer reads, and what is decoded in the features.
    ///
    /// # Errors
    /// A norm by each vector's own statistics.
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

    /// What an active feature is of the vector that the layer reads: its value is this vector times x, and a constant.
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

    /// What a feature of this value adds to what a layer of the set decodes; nothing where it does not write.
    ///
    /// # Shapes
    /// `[D_out]`
    ///
    /// # Errors
    /// No such feature, weights that are not finite, [`Layer::check_linear`].
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

    /// What is decoded of no features at all: the decoder's bias.
    ///
    /// # Shapes
    /// `[D_out]`
    pub fn constant(&self) -> Vec<f32> {
        let undo = self.undo_factor();
        self.decoder_bias.iter().map(|x| (f64::from(*x) * undo) as f32).collect()
    }

    /// The matrix of the skip connection, where there is one: what is read adds to what is decoded.
    ///
    /// # Shapes
    /// `[D_out, D_in]`
    ///
    /// # Errors
    /// Weights that are not finite.
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
