//! The logit lens: applies the final norm and the unembedding to any activation, as if it were the last stream.

mod compute;
mod directions;
mod divergence;
mod jacobian;
mod norm;
mod reading;
mod summary;
mod survey;
mod sweep;
mod through;
mod tuned;

use std::sync::Arc;

use easyroutine_kernels::{Cpu, Rows, RowsMut};

use crate::arch::Arch;
use crate::error::Result;
use crate::model::{Buffer, Model, Unembedding};
pub use compute::{LensOptions, LensValue};
pub use directions::{Direction, Metric};
pub use jacobian::JacobianLens;
pub use norm::{CachedStatistics, LensNorm, Role};
pub use reading::{Reading, Target};
pub use survey::{Component, Survey, SurveyOptions, SurveyRow, survey, survey_through, survey_under};
use through::Through;
pub use tuned::TunedLens;

/// A model's final norm and unembedding, applied to its activations.
#[derive(Debug, Clone)]
pub struct LogitLens {
    cpu: Cpu,
    unembedding: Arc<Unembedding>,
    /// The first transformation of streams, in a tuned lens or a Jacobian lens.
    through: Option<Arc<Through>>,
    /// Whether single experts write compressed vectors, which are not in the stream's basis.
    compressed_experts: bool,
}

impl LogitLens {
    /// The lens of a model, sharing its weights.
    ///
    /// # Errors
    /// If the model has no unembedding.
    pub fn from_model(model: &Model) -> Result<Self> {
        let unembedding = Arc::clone(model.unembedding()?);
        Ok(LogitLens::of_arch(unembedding, model.cpu().clone(), model.arch()))
    }

    /// A lens from a final norm and unembedding of plain numbers.
    pub fn from_unembedding(unembedding: Unembedding, cpu: Cpu) -> Self {
        LogitLens { cpu, unembedding: Arc::new(unembedding), through: None, compressed_experts: false }
    }

    /// The lens of an architecture's unembedding.
    pub(crate) fn of_arch(unembedding: Arc<Unembedding>, cpu: Cpu, arch: &Arch) -> Self {
        let compressed_experts = arch.layers.iter().any(|layer| layer.experts_latent().is_some());
        LogitLens { cpu, unembedding, through: None, compressed_experts }
    }

    /// The final norm and the unembedding that it applies.
    pub fn unembedding(&self) -> &Unembedding {
        &self.unembedding
    }

    /// Number of ids that can be predicted.
    pub fn vocabulary(&self) -> usize {
        self.unembedding.vocabulary()
    }

    /// Logits of normed vectors, as in the model: projection, bias, divisor, softcap.
    ///
    /// # Shapes
    /// `normed`: vectors by `d_model`; result: vectors by V.
    fn logits(&self, normed: Buffer, with_bias: bool, capped: bool) -> Vec<f32> {
        let entering = self.unembedding.projected(&self.cpu, normed);
        let (vectors, width) = (entering.rows().n_rows(), self.vocabulary());
        let mut logits = vec![0.0; vectors * width];
        let matrix = &self.unembedding.matrix;
        let bias = if with_bias { matrix.bias.as_deref() } else { None };
        self.cpu.matmul(entering.rows(), &matrix.matrix, bias, RowsMut::dense(&mut logits, vectors, width));
        for row in logits.chunks_exact_mut(width) {
            self.unembedding.scale(row);
            if capped {
                self.unembedding.cap(row);
            }
        }
        logits
    }
}

/// A copy of rows, ready to be normed.
fn copied(rows: Rows<'_>) -> Buffer {
    let mut buffer = Buffer::default();
    buffer.resize(rows.n_rows(), rows.n_columns());
    let mut out = buffer.rows_mut();
    (0..rows.n_rows()).for_each(|i| out.row_mut(i).copy_from_slice(rows.row(i)));
    buffer
}
