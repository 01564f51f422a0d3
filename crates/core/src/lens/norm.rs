//! The final norm as a lens applies it.

use easyroutine_kernels::{Rows, RowsMut};
use easyroutine_sites::{Basis, Site};

use super::{LogitLens, copied};
use crate::error::{Error, Result};
use crate::model::{Buffer, moments};

/// The statistics that the final norm uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LensNorm {
    /// Each vector's own: the classic lens.
    Own,
    /// Those of the final norm's input in the same run, which make the norm linear.
    Cached,
    /// No norm at all.
    None,
}

/// A vector's relation to the residual stream, which decides how a cached norm treats means and biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The stream itself.
    Stream,
    /// A term added to it.
    Part,
}

impl Role {
    /// The role of a site's values; `None` if they are not in the residual stream's basis.
    pub fn of(site: Site) -> Option<Role> {
        match site.basis() {
            Basis::Stream => Some(Role::Stream),
            Basis::Addition => Some(Role::Part),
            _ => None,
        }
    }
}

impl Role {
    /// Whether the unembedding's bias is added for this role. With its own statistics, a part is read as if it were the
    /// whole stream, biases included.
    pub(super) fn takes_bias(self, norm: LensNorm) -> bool {
        self == Role::Stream || norm != LensNorm::Cached
    }
}

/// Statistics of the final norm's input, one of each per vector.
#[derive(Debug, Clone, Copy)]
pub struct CachedStatistics<'a> {
    /// Means over D.
    pub mean: &'a [f32],
    /// Variances over D, divided by D, without eps.
    pub variance: &'a [f32],
    /// Second moments over D.
    pub second_moment: &'a [f32],
}

impl LogitLens {
    /// Vectors after the final norm.
    ///
    /// # Shapes
    /// `vectors`: N by D; `cached`: N each; result: N by D.
    ///
    /// # Errors
    /// If a cached norm has no statistics, or statistics for another number of vectors.
    pub(super) fn normed(
        &self,
        vectors: Rows<'_>,
        role: Role,
        norm: LensNorm,
        cached: Option<CachedStatistics<'_>>,
    ) -> Result<Buffer> {
        let mut out = copied(vectors);
        self.norm_in_place(out.rows_mut(), role, norm, cached)?;
        Ok(out)
    }

    /// The same, in place.
    ///
    /// # Errors
    /// As [`LogitLens::normed`].
    pub(super) fn norm_in_place(
        &self,
        mut vectors: RowsMut<'_>,
        role: Role,
        norm: LensNorm,
        cached: Option<CachedStatistics<'_>>,
    ) -> Result<()> {
        let Some(weights) = self.unembedding.norm.as_ref() else { return Ok(()) };
        let width = vectors.n_columns();
        match norm {
            LensNorm::None => {}
            LensNorm::Own => weights.apply_in_place(&self.cpu, vectors, width),
            LensNorm::Cached => {
                let cached = cached.ok_or_else(|| {
                    Error::input("a lens with the cached norm needs `last_layernorm` at the same positions")
                        .hint("extract `last_layernorm` as well, or use the norm of each vector's own statistics")
                })?;
                if cached.mean.len() != vectors.n_rows() {
                    return Err(Error::input(format!(
                        "`last_layernorm` holds {} positions but there are {} vectors; extract both at the same \
                         positions",
                        cached.mean.len(),
                        vectors.n_rows()
                    )));
                }
                for i in 0..vectors.n_rows() {
                    let vector = vectors.row_mut(i);
                    let (mean, spread) = match (weights.removes_mean(), role) {
                        (false, _) => (0.0, cached.second_moment[i]),
                        (true, Role::Stream) => (cached.mean[i], cached.variance[i]),
                        (true, Role::Part) => (moments(vector)[0], cached.variance[i]),
                    };
                    let scale = 1.0 / (f64::from(spread) + f64::from(weights.eps)).sqrt();
                    for (column, x) in vector.iter_mut().enumerate() {
                        let normed = ((f64::from(*x) - f64::from(mean)) * scale) as f32;
                        let bias = match (role, &weights.bias) {
                            (Role::Stream, Some(bias)) => bias[column],
                            _ => 0.0,
                        };
                        *x = normed * weights.weight.as_ref().map_or(1.0, |w| w[column]) + bias;
                    }
                }
            }
        }
        Ok(())
    }
}
