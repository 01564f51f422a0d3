//! The Jacobian lens: streams carried to the last block by the mean Jacobian of the blocks in between.
//!
//! logits = unembed(norm(h J^T)), J the mean of ∂ last stream / ∂ `resid_out_l` (Gurnee et al. 2026,
//! transformer-circuits.pub/2026/workspace; TransformerLens 4.3, `tools/analysis/jacobian_lens.py`).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use easyroutine_kernels::{Cpu, Dtype, PackedMatrix, Rows};
use easyroutine_sites::{Point, Site};

use super::through::Through;
use super::{LogitLens, copied, tuned};
use crate::error::{Error, ErrorKind, Result};
use crate::jacobian::JacobianFile;
use crate::model::{Buffer, Model};

/// The identity of a Jacobian lens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JacobianLens {
    /// The name of its file.
    pub name: String,
    /// Number of prompts in the mean.
    pub n_prompts: usize,
    /// The identity by content of the model that it was fitted on, if its file says it.
    pub model_digest: Option<String>,
    /// The layers whose `resid_out` it reads, including the model's last.
    pub layers: Vec<usize>,
}

impl JacobianLens {
    /// A warning if it was fitted on another model than that of this digest: where sizes agree, nothing else tells.
    pub fn warning(&self, digest: &str) -> Option<String> {
        let other = self.model_digest.as_deref().filter(|other| *other != digest)?;
        Some(format!(
            "{} was fitted on another model, or on other weights of this one: it says {other}",
            self.name
        ))
    }
}

/// The matrices of a lens.
#[derive(Debug)]
pub(super) struct Matrices {
    of: BTreeMap<usize, PackedMatrix>,
    last: usize,
    pub(super) fitted: JacobianLens,
}

impl LogitLens {
    /// A lens that first carries layers to the last block: from a published file (`.pt`, whose pickle is read and never
    /// run), or one fitted by [`crate::jacobian`] (`.safetensors`).
    ///
    /// # Errors
    /// If the file is missing or wrong, or its matrices are not finite or do not fit the model's width or layers.
    pub fn from_jacobian(file: impl AsRef<Path>, model: &Model) -> Result<Self> {
        let file = file.as_ref();
        let (d_model, last) = (model.arch().d_model, model.arch().layers.len() - 1);
        let place = |e: Error| e.at(file.display());
        let JacobianFile { n_prompts, model_digest, matrices } = JacobianFile::read(file)?;
        let lens = LogitLens::from_model(model)?;
        let mut of = BTreeMap::new();
        for (layer, values) in matrices {
            if layer > last {
                return Err(place(Error::input(format!(
                    "has a matrix of layer {layer}, but the model's last is {last}: a lens fits one model"
                ))));
            }
            if values.len() != d_model * d_model {
                let side = values.len().isqrt();
                return Err(place(Error::input(format!(
                    "its matrices are {side} by {side}, but the model's stream is {d_model} wide: a lens fits one model"
                ))));
            }
            if values.iter().any(|x| !x.is_finite()) {
                return Err(place(Error::new(
                    ErrorKind::Weights,
                    format!("the matrix of layer {layer} is not finite"),
                )));
            }
            let packed = PackedMatrix::pack(&lens.cpu, Dtype::F32, d_model, d_model, |n, row: &mut [f32]| {
                row.copy_from_slice(&values[n * d_model..(n + 1) * d_model]);
                Ok::<(), std::convert::Infallible>(())
            });
            let Ok(packed) = packed;
            of.insert(layer, packed);
        }
        let mut layers: Vec<usize> = of.keys().copied().collect();
        if !layers.contains(&last) {
            layers.push(last);
        }
        let fitted = JacobianLens { name: tuned::name(file), n_prompts, model_digest, layers };
        let matrices = Matrices { of, last, fitted };
        Ok(LogitLens { through: Some(Arc::new(Through::Jacobian(matrices))), ..lens })
    }

    /// The Jacobian lens's identity, if this is one.
    pub fn jacobian(&self) -> Option<&JacobianLens> {
        match self.through.as_deref() {
            Some(Through::Jacobian(matrices)) => Some(&matrices.fitted),
            _ => None,
        }
    }
}

impl Matrices {
    /// The matrix of a point; `None` for the last stream, which is unchanged.
    pub(super) fn of(&self, point: Point) -> Result<Option<&PackedMatrix>> {
        let left = match (point.site().canonical(), point.layer()) {
            (Site::ResidOut, Some(layer)) => Some(layer),
            // The stream that enters a layer left the one before.
            (Site::ResidIn, Some(layer)) => layer.checked_sub(1),
            _ => None,
        };
        match left {
            Some(layer) if layer == self.last && !self.of.contains_key(&layer) => Ok(None),
            Some(layer) if self.of.contains_key(&layer) => Ok(self.of.get(&layer)),
            _ => {
                let layers =
                    self.fitted.layers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(Error::input(format!("this Jacobian lens has no matrix for `{point}`"))
                    .hint(format!("it reads `resid_out` of layers {layers}")))
            }
        }
    }

    /// h J^T
    pub(super) fn transport(&self, cpu: &Cpu, point: Point, vectors: Rows<'_>) -> Result<Option<Buffer>> {
        let Some(matrix) = self.of(point)? else { return Ok(None) };
        let mut out = copied(vectors);
        cpu.matmul(vectors, matrix, None, out.rows_mut());
        Ok(Some(out))
    }
}
