//! Heads of attention, and which columns are theirs.

use std::ops::Range;

use super::Arch;

/// Heads of one layer. Their queries stand side by side, and so do keys and values; queries, keys and values of all heads
/// follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub n: usize,
    /// Key and value heads; divides `n`.
    pub n_kv: usize,
    /// Columns of a query and of a key.
    pub d_head: usize,
    /// Columns of a value.
    pub d_value: usize,
}

impl Heads {
    /// How many query heads share a key.
    pub fn group(self) -> usize {
        self.n / self.n_kv.max(1)
    }

    /// The same heads with a key and a value for each query.
    #[must_use]
    pub fn spread(self) -> Heads {
        Heads { n_kv: self.n, ..self }
    }

    /// Columns of all queries.
    pub fn queries(self) -> usize {
        self.n * self.d_head
    }

    /// Columns of all keys.
    pub fn keys(self) -> usize {
        self.n_kv * self.d_head
    }

    /// Columns of all values.
    pub fn values(self) -> usize {
        self.n_kv * self.d_value
    }

    /// Columns of the mixed values of all heads.
    pub fn mixed(self) -> usize {
        self.n * self.d_value
    }

    /// Whether a head's slice of the output projection could read queries and keys as it reads values.
    pub fn are_projected_alike(self) -> bool {
        self.d_head == self.d_value
    }

    /// Columns of one query among queries, or of one key among keys.
    pub fn of_query(self, number: usize) -> Range<usize> {
        number * self.d_head..(number + 1) * self.d_head
    }

    /// Columns of one value among values, or of one head among mixed values.
    pub fn of_value(self, number: usize) -> Range<usize> {
        number * self.d_value..(number + 1) * self.d_value
    }
}

impl Arch {
    /// What blocks of this model read of earlier sections beside the stream, if anything.
    pub fn reads_across_blocks(&self) -> Option<&'static str> {
        if self.per_layer.is_some() {
            return Some("each layer of this model has a further input, which the embedding makes");
        }
        let reads = |layer: &super::Layer| layer.keys_of().is_some();
        self.layers
            .iter()
            .any(reads)
            .then_some("later layers of this model read keys and values of earlier ones")
    }

    /// Whether later layers read keys and values of this one.
    pub fn lends_keys(&self, layer: usize) -> bool {
        self.layers.iter().any(|other| other.keys_of() == Some(layer))
    }

    /// Heads of a layer's attention.
    pub fn heads(&self, layer: usize) -> Heads {
        let own = self.layers.get(layer).and_then(|layer| layer.attention.as_ref()?.heads);
        own.unwrap_or(Heads {
            n: self.n_heads,
            n_kv: self.n_kv_heads,
            d_head: self.d_head,
            d_value: self.d_head,
        })
    }
}

/// Queries, keys and values that are made of compressed vectors (multi-head latent attention, arXiv:2405.04434). A key is a
/// part of its own, from the compressed vector, then one that all heads share and that turns.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latent {
    /// Width of the compressed queries; `None`: queries are projected at once.
    pub queries: Option<usize>,
    /// Width of the compressed keys and values.
    pub keys_values: usize,
    /// Columns of the part of a key that all heads share.
    pub shared: usize,
    /// Norm of compressed vectors.
    pub norm: super::Norm,
}
