//! Attention heads and their columns.

use std::ops::Range;

use super::Arch;

/// Heads of one layer. All queries are side by side, then all keys, then all values.
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
    /// Query heads per key.
    pub fn group(self) -> usize {
        self.n / self.n_kv.max(1)
    }

    /// The same heads, with one key and value per query.
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

    /// Columns of one query among the queries, or of one key among the keys.
    pub fn of_query(self, number: usize) -> Range<usize> {
        number * self.d_head..(number + 1) * self.d_head
    }

    /// Columns of one value among the values, or of one head among the mixed values.
    pub fn of_value(self, number: usize) -> Range<usize> {
        number * self.d_value..(number + 1) * self.d_value
    }
}

impl Arch {
    /// What this model's blocks read from earlier sections besides the stream, if anything.
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

    /// Whether later layers read this layer's keys and values.
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

/// Queries, keys and values made from compressed vectors (multi-head latent attention, arXiv:2405.04434). A key is its
/// own part, made from the compressed vector, then a rotary part that all heads share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latent {
    /// Width of the compressed queries; `None`: queries are projected directly.
    pub queries: Option<usize>,
    /// Width of the compressed keys and values.
    pub keys_values: usize,
    /// Columns of the shared part of a key.
    pub shared: usize,
    /// Norm of compressed vectors.
    pub norm: super::Norm,
}
