//! Encodes vectors: the product with the encoder, and the choice of the features that are active.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use easyroutine::{Cpu, Dtype, Error, Result};
use easyroutine_kernels::{PackedMatrix, Rows, RowsMut};

use crate::activation::Choice;
use crate::features::Features;
use crate::layer::{Layer, pack, pieces};
use crate::sieve::Sieve;

/// Features multiplied at a time.
pub(crate) const CHUNK: usize = 4096;
/// Limit on the numbers of the array between product and selection.
pub(crate) const BLOCK: usize = 1 << 22;
/// Limit on the numbers of an encoder kept packed, 1 GiB; each call reads a larger one from its file.
const KEPT: usize = 1 << 28;

/// An encoder in the forms in which products read it, each made when it is first needed.
#[derive(Debug, Default)]
pub(crate) struct PackedEncoder {
    /// In f32, a chunk of features after the other.
    chunks: Mutex<Vec<Option<Arc<PackedMatrix>>>>,
    pub(crate) sieve: Mutex<Option<Arc<Sieve>>>,
}

/// Vectors as the encoder multiplies them.
pub(crate) struct Read<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) width: usize,
    /// The decoder's norms that features are scaled by, or none.
    pub(crate) norms: &'a [f32],
}

impl Read<'_> {
    pub(crate) fn rows(&self, rows: Range<usize>) -> Rows<'_> {
        let values = &self.values[rows.start * self.width..rows.end * self.width];
        Rows::dense(values, rows.len(), self.width)
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }
}

impl Layer {
    /// Encodes vectors. A vector's features have the same bits whatever other vectors come with it.
    ///
    /// # Shapes
    /// x: `[T, D_in]`; result: T tokens of F' features.
    ///
    /// # Errors
    /// If vectors have another width, or vectors or weights are not finite.
    pub fn encode(&self, cpu: &Cpu, x: Rows<'_>) -> Result<Features> {
        let values = self.read(x)?;
        let norms = if self.rescales { self.row_norms()? } else { &[] };
        let read = Read { values: &values, width: self.d_in(), norms };
        let sieve = if Sieve::pays(self, cpu, read.n_rows()) { Some(self.sieve(cpu)?) } else { None };
        let passed = sieve.as_ref().and_then(|sieve| sieve.pass(self, cpu, &read));
        let choices = match (&sieve, passed) {
            (Some(sieve), Some(passed)) => sieve.choices(self, cpu, &read, passed),
            _ => self.choices(cpu, &read)?,
        };
        let mut features = Features::new(self.n_features());
        choices.into_iter().for_each(|choice| features.push(choice.finish()));
        Ok(features)
    }

    /// Vectors with the norm applied and the bias subtracted.
    fn read(&self, x: Rows<'_>) -> Result<Vec<f32>> {
        let width = self.d_in();
        self.check_width(x, width)?;
        let mut read = vec![0.0; x.n_rows() * width];
        for (row, out) in read.chunks_exact_mut(width).enumerate() {
            if x.row(row).iter().any(|x| !x.is_finite()) {
                return Err(Error::input(format!(
                    "vector {row} at `{}` holds NaN or infinity",
                    self.reads.text()
                )));
            }
            self.norm.apply(x.row(row), out)?;
            if self.subtracts_bias {
                out.iter_mut().zip(&self.decoder_bias).for_each(|(x, bias)| *x -= bias);
            }
        }
        Ok(read)
    }

    /// Each vector's choice among all features.
    fn choices(&self, cpu: &Cpu, read: &Read<'_>) -> Result<Vec<Choice>> {
        let n = read.n_rows();
        let choices: Vec<Mutex<Choice>> = (0..n).map(|_| Mutex::default()).collect();
        let together = (BLOCK / CHUNK.min(self.n_features())).clamp(1, n.max(1));
        let mut h = vec![0.0; together * CHUNK.min(self.n_features())];
        for chunk in pieces(self.n_features(), CHUNK) {
            let weights = self.pack(cpu, chunk.clone())?;
            let bias = self.encoder_bias.get(chunk.clone());
            for rows in pieces(n, together) {
                let h = &mut h[..rows.len() * chunk.len()];
                let x = read.rows(rows.clone());
                cpu.matmul(x, &weights, bias, RowsMut::dense(h, rows.len(), chunk.len()));
                let h: &[f32] = h;
                cpu.for_each(rows.len(), |row| {
                    let mut choice = choices[rows.start + row].lock().unwrap_or_else(PoisonError::into_inner);
                    let h = &h[row * chunk.len()..][..chunk.len()];
                    let numbered = h.iter().enumerate().map(|(i, h)| (chunk.start + i, *h));
                    if read.norms.is_empty() {
                        choice.take(&self.activation, self.n_features(), numbered);
                    } else {
                        let scaled = numbered.map(|(i, h)| (i, h * read.norms[i]));
                        choice.take(&self.activation, self.n_features(), scaled);
                    }
                });
            }
        }
        Ok(choices
            .into_iter()
            .map(|choice| choice.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect())
    }

    /// Whether the encoder stays packed between calls.
    pub(crate) fn is_kept(&self) -> bool {
        self.n_features().saturating_mul(self.d_in()) <= KEPT
    }

    /// The encoder of a range of features, packed.
    fn pack(&self, cpu: &Cpu, features: Range<usize>) -> Result<Arc<PackedMatrix>> {
        let pack = |features| pack(cpu, Dtype::F32, &self.encoder, features).map(Arc::new);
        if !self.is_kept() {
            return pack(features);
        }
        let mut kept = self.packed.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = features.start / CHUNK;
        if kept.len() <= at {
            kept.resize(at + 1, None);
        }
        if let Some(packed) = &kept[at] {
            return Ok(Arc::clone(packed));
        }
        let packed = pack(features)?;
        kept[at] = Some(Arc::clone(&packed));
        Ok(packed)
    }

    fn sieve(&self, cpu: &Cpu) -> Result<Arc<Sieve>> {
        let mut kept = self.packed.sieve.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sieve) = &*kept {
            return Ok(Arc::clone(sieve));
        }
        let sieve = Arc::new(Sieve::new(self, cpu)?);
        *kept = Some(Arc::clone(&sieve));
        Ok(sieve)
    }
}
