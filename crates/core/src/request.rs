//! What a caller asks for, checked against the model and the rows before anything runs.

use std::collections::BTreeSet;

use easyroutine_sites::{Extent, Point, Selector};

use crate::arch::Arch;
use crate::batch::Batch;
use crate::cache::{ActivationCache, Capture};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::{self, Context, Row, Specifier};

/// Activations at positions.
#[derive(Debug, Clone)]
pub struct Request {
    /// Patterns over activation keys.
    pub activations: Vec<Selector>,
    /// Positions of each row.
    pub positions: Vec<Specifier>,
}

impl Request {
    /// Parses `resid_out_*,logits` and a list of position specifiers.
    ///
    /// # Errors
    /// A name of no activation or position.
    pub fn parse(activations: &str, positions: &str) -> Result<Self> {
        Ok(Request {
            activations: Selector::parse_list(activations)?,
            positions: Specifier::parse_list(positions)?,
        })
    }

    /// The points of a model that the patterns name.
    ///
    /// # Errors
    /// A layer or head that does not exist, a place that this architecture lacks. A pattern over many layers passes
    /// over those that lack the place, unless all do.
    pub fn points(&self, arch: &Arch) -> Result<BTreeSet<Point>> {
        let extent = Extent { n_layers: arch.layers.len(), n_heads: arch.n_heads };
        let mut points = BTreeSet::new();
        for selector in &self.activations {
            let named = selector.points(extent)?;
            let lacking = named.iter().find_map(|p| arch.lacks(*p).map(|reason| (*p, reason)));
            let found: Vec<Point> = named.iter().copied().filter(|p| arch.lacks(*p).is_none()).collect();
            if let Some((point, reason)) = lacking
                && (found.is_empty() || selector.is_exact())
            {
                return Err(Error::input(format!("no activation `{point}`: {reason}")));
            }
            points.extend(found);
        }
        Ok(points)
    }

    /// Runs a batch and keeps what was asked for. `rows` are the batch's rows in the same order.
    ///
    /// # Errors
    /// As [`Request::points`], [`positions::select`] and [`Model::forward`].
    pub fn run(
        &self,
        model: &Model,
        batch: &Batch,
        rows: &[Row<'_>],
        context: Context<'_>,
    ) -> Result<ActivationCache> {
        let points = self.points(model.arch())?;
        let select = |row: &Row<'_>| positions::select(&self.positions, *row, context);
        let selected = rows.iter().map(select).collect::<Result<Vec<_>>>()?;
        let mut capture = Capture::new(points, self.positions.clone(), selected);
        model.forward(batch, &mut capture)?;
        Ok(capture.finish(batch))
    }
}
