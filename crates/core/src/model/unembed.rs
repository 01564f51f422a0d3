//! From the last residual stream to logits.

use std::convert::Infallible;
use std::sync::Arc;

use easyroutine_kernels::{Cpu, Dtype, NormKind, PackedMatrix, Rows, RowsMut};

use super::buffer::Buffer;
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::weights::{Files, Norm, Projection};

/// Final norm and unembedding: all that a lens needs of a model.
#[derive(Debug)]
pub struct Unembedding {
    pub(crate) norm: Option<Norm>,
    /// From the stream's width to the embedding's, if they differ.
    pub(crate) project: Option<Projection>,
    pub(crate) matrix: Arc<Projection>,
    pub(crate) divisor: Option<f32>,
    pub(crate) softcap: Option<f32>,
    /// The model's files, as long as any weight is still read from them.
    pub(crate) files: Files,
}

/// A final norm, as plain data.
#[derive(Debug, Clone, PartialEq)]
pub struct FinalNorm {
    /// The divisor.
    pub kind: NormKind,
    /// Added below the root.
    pub eps: f32,
    /// Factors, including any offset that the family adds to them.
    pub weight: Option<Vec<f32>>,
    /// Added at the end.
    pub bias: Option<Vec<f32>>,
}

/// What follows the unembedding matrix, as plain data, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LogitRules {
    /// Added to the logits, one per id.
    pub bias: Option<Vec<f32>>,
    /// Divides the logits.
    pub divisor: Option<f32>,
    /// Maps each logit to `c * tanh(logit / c)`.
    pub softcap: Option<f32>,
}

impl Unembedding {
    /// An unembedding from plain numbers.
    ///
    /// # Shapes
    /// `matrix`: V by D, row-major; the norm's weight and bias: D; the bias of the logits: V.
    ///
    /// # Errors
    /// If the numbers do not have these shapes.
    pub fn from_rows(
        cpu: &Cpu,
        matrix: &[f32],
        d_model: usize,
        norm: Option<FinalNorm>,
        rules: LogitRules,
    ) -> Result<Self> {
        if matrix.is_empty() || d_model == 0 || !matrix.len().is_multiple_of(d_model) {
            return Err(Error::input(format!(
                "an unembedding matrix of {} numbers has no rows of width {d_model}",
                matrix.len()
            )));
        }
        let vocabulary = matrix.len() / d_model;
        let parts =
            norm.iter().flat_map(|n| [("weight of the final norm", &n.weight), ("its bias", &n.bias)]);
        let mut sized: Vec<_> = parts.map(|(name, values)| (name, values, d_model)).collect();
        sized.push(("bias of the logits", &rules.bias, vocabulary));
        for (name, values, expected) in sized {
            if let Some(values) = values.as_ref().filter(|values| values.len() != expected) {
                return Err(Error::input(format!(
                    "{name}: {} numbers where the matrix of {vocabulary} by {d_model} needs {expected}",
                    values.len()
                )));
            }
        }
        let Ok(matrix) = PackedMatrix::pack(cpu, Dtype::F32, vocabulary, d_model, |n, row| {
            row.copy_from_slice(&matrix[n * d_model..(n + 1) * d_model]);
            Ok::<(), Infallible>(())
        });
        let LogitRules { bias, divisor, softcap } = rules;
        Ok(Unembedding {
            norm: norm.map(|FinalNorm { kind, eps, weight, bias }| Norm { kind, eps, weight, bias }),
            project: None,
            matrix: Arc::new(Projection::new(matrix, bias)),
            divisor,
            softcap,
            files: Files::default(),
        })
    }

    /// The matrix as the model uses it, in f32, multiplied by the map to the embedding's width if there is one.
    ///
    /// # Shapes
    /// V by D, row-major.
    ///
    /// # Errors
    /// If a file of the model was written to before all its weights were packed.
    pub fn rows(&self) -> Result<Vec<f32>> {
        self.files.during(|| Ok(self.read_rows()))
    }

    fn read_rows(&self) -> Vec<f32> {
        let inner = &self.matrix.matrix;
        let mut rows = vec![0.0; inner.outputs() * inner.inputs()];
        rows.chunks_exact_mut(inner.inputs()).enumerate().for_each(|(n, row)| inner.read_row(n, row));
        let Some(project) = &self.project else { return rows };
        let d_model = project.matrix.inputs();
        let mut whole = vec![0.0; inner.outputs() * d_model];
        let mut through = vec![0.0; d_model];
        for (out, row) in whole.chunks_exact_mut(d_model).zip(rows.chunks_exact(inner.inputs())) {
            for (n, factor) in row.iter().enumerate() {
                project.matrix.read_row(n, &mut through);
                out.iter_mut().zip(&through).for_each(|(o, x)| *o += factor * x);
            }
        }
        whole
    }

    /// One row of [`Unembedding::rows`].
    ///
    /// # Shapes
    /// D.
    ///
    /// # Errors
    /// If an adapter changes the unembedding, or a file of the model was written to before all its weights were packed.
    pub(crate) fn row(&self, id: usize) -> Result<Vec<f32>> {
        if self.matrix.is_updated() {
            return Err(Error::input("an adapter changes the unembedding: merge it into the model first"));
        }
        self.files.during(|| {
            let mut row = vec![0.0; self.matrix.matrix.inputs()];
            self.matrix.matrix.read_row(id, &mut row);
            let Some(project) = &self.project else { return Ok(row) };
            let (mut whole, mut through) =
                (vec![0.0; project.matrix.inputs()], vec![0.0; project.matrix.inputs()]);
            for (n, factor) in row.iter().enumerate() {
                project.matrix.read_row(n, &mut through);
                whole.iter_mut().zip(&through).for_each(|(o, x)| *o += factor * x);
            }
            Ok(whole)
        })
    }

    /// The mean of all rows of the matrix, summed in f64. A row minus this mean gives a logit minus the mean of all
    /// logits.
    ///
    /// # Shapes
    /// D.
    ///
    /// # Errors
    /// As [`Unembedding::row`].
    pub(crate) fn mean_row(&self) -> Result<Vec<f64>> {
        if self.matrix.is_updated() {
            return Err(Error::input("an adapter changes the unembedding: merge it into the model first"));
        }
        self.files.during(|| {
            let matrix = &self.matrix.matrix;
            let (mut sum, mut row) = (vec![0.0; matrix.inputs()], vec![0.0; matrix.inputs()]);
            for id in 0..matrix.outputs() {
                matrix.read_row(id, &mut row);
                sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
            sum.iter_mut().for_each(|sum| *sum /= matrix.outputs() as f64);
            let Some(project) = &self.project else { return Ok(sum) };
            let (mut whole, mut through) =
                (vec![0.0; project.matrix.inputs()], vec![0.0; project.matrix.inputs()]);
            for (n, factor) in sum.iter().enumerate() {
                project.matrix.read_row(n, &mut through);
                whole.iter_mut().zip(&through).for_each(|(o, x)| *o += factor * f64::from(*x));
            }
            Ok(whole)
        })
    }

    /// Multiplies vectors by the matrix alone: no norm, bias, divisor or softcap.
    ///
    /// # Shapes
    /// `vectors`: N by D; result: N by V, row-major.
    ///
    /// # Errors
    /// If vectors have another width, or a file of the model was written to before all its weights were packed.
    pub fn multiply(&self, cpu: &Cpu, vectors: Rows<'_>) -> Result<Vec<f32>> {
        if vectors.n_columns() != self.d_model() {
            let (found, expected) = (vectors.n_columns(), self.d_model());
            return Err(Error::input(format!("the unembedding reads vectors of {expected}, not of {found}")));
        }
        self.files.during(|| {
            let mut copy = Buffer::default();
            copy.resize(vectors.n_rows(), vectors.n_columns());
            for i in 0..vectors.n_rows() {
                copy.rows_mut().row_mut(i).copy_from_slice(vectors.row(i));
            }
            let through = self.projected(cpu, copy);
            let mut out = vec![0.0; vectors.n_rows() * self.vocabulary()];
            let rows = RowsMut::dense(&mut out, vectors.n_rows(), self.vocabulary());
            self.matrix.apply_unbiased(cpu, through.rows(), rows);
            Ok(out)
        })
    }

    /// Width of its input stream, D.
    pub fn d_model(&self) -> usize {
        self.project.as_ref().map_or(self.matrix.matrix.inputs(), |p| p.matrix.inputs())
    }

    /// The final norm.
    pub fn final_norm(&self) -> Option<FinalNorm> {
        let Norm { kind, eps, weight, bias } = self.norm.as_ref()?;
        Some(FinalNorm { kind: *kind, eps: *eps, weight: weight.clone(), bias: bias.clone() })
    }

    /// What follows the matrix.
    pub fn rules(&self) -> LogitRules {
        LogitRules { bias: self.matrix.bias.clone(), divisor: self.divisor, softcap: self.softcap }
    }

    /// Number of ids that can be predicted.
    pub fn vocabulary(&self) -> usize {
        self.matrix.matrix.outputs()
    }

    /// Divides and caps logits as the model does.
    pub(crate) fn finish(&self, logits: &mut [f32]) {
        self.scale(logits);
        self.cap(logits);
    }

    /// The divisor of the logits.
    pub(crate) fn scale(&self, logits: &mut [f32]) {
        if let Some(divisor) = self.divisor {
            logits.iter_mut().for_each(|x| *x /= divisor);
        }
    }

    /// The softcap of the logits.
    pub(crate) fn cap(&self, logits: &mut [f32]) {
        if let Some(cap) = self.softcap {
            logits.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        }
    }

    /// The input of the unembedding matrix, from a normed stream.
    ///
    /// # Shapes
    /// `normed`: vectors by `d_model`; result: vectors by the matrix's inputs.
    pub(crate) fn projected(&self, cpu: &Cpu, normed: Buffer) -> Buffer {
        let Some(project) = &self.project else { return normed };
        let mut out = Buffer::default();
        out.resize(normed.rows().n_rows(), project.matrix.outputs());
        project.apply(cpu, normed.rows(), out.rows_mut());
        out
    }
}

/// The token of each row that a pooled score reads: the last one that is not padding, or the first if all are padding.
pub(super) fn pooled(batch: &Batch, padding: Option<u32>) -> Vec<usize> {
    let of_row = |span: std::ops::Range<usize>| {
        let first = span.clone().next()?;
        let last = span.rev().find(|token| Some(batch.ids()[*token]) != padding);
        Some(last.unwrap_or(first))
    };
    batch.spans().filter_map(of_row).collect()
}

/// Mean, variance (over D, divided by D, without eps) and second moment of a vector, summed in f64.
pub(crate) fn moments(vector: &[f32]) -> [f32; 3] {
    let n = vector.len() as f64;
    let mean = vector.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = vector.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let second = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n;
    [mean as f32, variance as f32, second as f32]
}
