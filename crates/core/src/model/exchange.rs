//! The weights of one place exchanged for those of another checkpoint.

use std::sync::Arc;

use super::Model;
use super::build::{block, embedding, head};
use super::build_tables::tables;
use super::embed::{Embedding, Table};
use super::unembed::Unembedding;
use super::weights::Block;
use crate::error::{Error, Result};
use crate::names::Names;
use crate::weights::{Checkpoint, Loader};

/// Weights that were taken out of a model.
#[derive(Debug)]
pub(crate) enum Held {
    /// Those of a layer.
    Layer(usize, Box<Block>),
    /// Those of no layer: embedding and unembedding, with their norms.
    Ends(Box<Embedding>, Arc<Unembedding>),
}

impl Model {
    /// Builds the weights of a layer (`None`: those of no layer) from another checkpoint of the same architecture, and
    /// puts them in the place of its own, which it returns. Matrices are read on demand, as in a load: the rest of the
    /// model is not touched.
    ///
    /// # Errors
    /// If there is no such layer, or a tensor is missing or does not fit.
    pub(crate) fn exchange(
        &mut self,
        names: &Names,
        checkpoint: &Arc<Checkpoint>,
        layer: Option<usize>,
    ) -> Result<Held> {
        let Model { arch, cpu, dtype, by_layer, weights, .. } = self;
        let by_layer = by_layer.is_some();
        let loader = Loader { checkpoint, names, base: names.prefix, cpu, dtype: *dtype, by_layer };
        match layer {
            Some(layer) => {
                let Some(place) = weights.blocks.get_mut(layer) else {
                    return Err(Error::input(format!("no layer {layer}")));
                };
                let new = block(&loader, arch, layer)?;
                checkpoint.check_found()?;
                if by_layer {
                    place.projections().into_iter().for_each(|projection| projection.release());
                }
                Ok(Held::Layer(layer, Box::new(std::mem::replace(place, new))))
            }
            None => {
                let tables = tables(&loader, arch)?;
                let head = head(&loader, arch, &tables)?;
                let embedding = embedding(&loader, arch, &tables, &head, checkpoint)?;
                checkpoint.check_found()?;
                let embedding = std::mem::replace(&mut weights.embedding, embedding);
                Ok(Held::Ends(Box::new(embedding), std::mem::replace(&mut weights.unembedding, head)))
            }
        }
    }

    /// Whether one matrix serves as embedding and unembedding.
    pub(crate) fn is_tied(&self) -> bool {
        matches!(self.weights.embedding.table, Table::Packed { .. })
    }

    /// Puts weights back, and drops those that took their place.
    pub(crate) fn put_back(&mut self, held: Held) {
        match held {
            Held::Layer(layer, block) => {
                if let Some(place) = self.weights.blocks.get_mut(layer) {
                    *place = *block;
                }
            }
            Held::Ends(embedding, unembedding) => {
                self.weights.embedding = *embedding;
                self.weights.unembedding = unembedding;
            }
        }
    }
}
