//! Vectors that gradients start from.

use std::collections::BTreeMap;

use easyroutine_sites::{Point, Site};

use crate::arch::Arch;
use crate::edit::Tensor;
use crate::error::{Error, Result};
use crate::positions::{Context, Row, Specifier, select};
use crate::tap::{Tap, Value, Want};

/// Vectors at the positions of one place.
#[derive(Debug, Clone)]
pub struct Seed {
    /// The place, which must hold one vector per token.
    pub point: Point,
    /// The positions in each row.
    pub positions: Vec<Specifier>,
    /// The vectors.
    ///
    /// # Shapes
    /// `[B, T, width]`, `[T, width]` or `[width]`.
    pub values: Tensor,
}

/// Checked vectors for every row.
#[derive(Debug)]
pub(super) struct Seeds {
    /// By place: row, position, vector.
    at: BTreeMap<Point, Vec<(usize, usize, Vec<f32>)>>,
}

impl Seeds {
    pub(super) fn new(arch: &Arch, seeds: &[Seed], rows: &[Row<'_>], context: Context<'_>) -> Result<Seeds> {
        let mut at: BTreeMap<Point, Vec<(usize, usize, Vec<f32>)>> = BTreeMap::new();
        for Seed { point, positions, values } in seeds {
            if let Some(reason) = arch.lacks(*point) {
                return Err(Error::input(format!("no activation `{point}`: {reason}")));
            }
            let width = arch.width(*point).filter(|_| !is_beside(point.site())).ok_or_else(|| {
                Error::input(format!("`{point}` takes no vectors to start from")).hint(
                    "name a place with one vector a token that the pass goes on from, such as `resid_out_5`",
                )
            })?;
            for (number, row) in rows.iter().enumerate() {
                let selected = select(positions, *row, context)?.indices;
                for (i, position) in selected.iter().enumerate() {
                    let vector =
                        vector(values, [rows.len(), selected.len(), width], number, i).ok_or_else(|| {
                            Error::input(format!(
                                "`{}` has shape {:?}; vectors at `{point}` are [{}, {}, {width}]",
                                values.name(),
                                values.shape(),
                                rows.len(),
                                selected.len()
                            ))
                        })?;
                    at.entry(point.canonical()).or_default().push((number, *position, vector.to_vec()));
                }
            }
        }
        Ok(Seeds { at })
    }
}

/// Whether the pass computes nothing from it, or it comes after the stream.
fn is_beside(site: Site) -> bool {
    matches!(
        site,
        Site::InputIds
            | Site::RouterIndex
            | Site::LastLayernorm
            | Site::FinalNormOut
            | Site::Logits
            | Site::Score
            | Site::ProjectedValue
            | Site::ProjectedKey
            | Site::ProjectedQuery
    )
}

/// One vector of `[B, T, width]`, `[T, width]` or `[width]`.
fn vector(values: &Tensor, [b, t, width]: [usize; 3], row: usize, token: usize) -> Option<&[f32]> {
    let at = match *values.shape() {
        [w] if w == width => 0,
        [n, w] if (n, w) == (t, width) => token,
        [m, n, w] if (m, n, w) == (b, t, width) => row * t + token,
        _ => return None,
    };
    values.values().get(at * width..(at + 1) * width)
}

impl Tap for Seeds {
    fn wants(&self, point: Point) -> Want {
        if self.at.contains_key(&point) { Want::Edit } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        for (row, position, vector) in self.at.get(&point).into_iter().flatten() {
            let Some(sum) = value.vector_mut(*row, *position) else { continue };
            sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
        }
        Ok(())
    }
}
