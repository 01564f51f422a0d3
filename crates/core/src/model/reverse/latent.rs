//! Backward rules of compressed keys and values, and of keys used as values.

use super::state::{Walk, add_row};
use crate::model::buffer::Buffer;
use crate::pass::{At, Reg};
use crate::weights::Norm;

impl Walk<'_> {
    /// The norm of compressed keys and values.
    pub(super) fn norm_latent_back(&mut self, norm: &Norm, x: &Buffer, g: &Buffer) {
        let (tokens, group) = (x.rows().n_rows(), x.rows().n_columns());
        let width = self.run.registers.get(Reg::CompressedKv).n_columns();
        let out = self.gradients.sum(Reg::CompressedKv, tokens, width).columns(0..group);
        norm.back(&self.run.model.cpu, self.rule.scale(), x.rows(), group, g.rows(), out);
    }

    /// values = keys, of each head.
    pub(super) fn keys_to_values_back(&mut self, at: At) {
        let heads = self.run.heads(at);
        let (keys, values) = (heads.queries(), heads.queries() + heads.keys());
        let Some(mut g) = self.gradients.get_mut(Reg::Qkv) else { return };
        for token in 0..g.n_rows() {
            let (of_keys, of_values) = g.row_mut(token).split_at_mut(values);
            add_row(of_values, &mut of_keys[keys..]);
            of_values.fill(0.0);
        }
    }

    /// Queries, keys and values joined.
    pub(super) fn join_heads_back(&mut self, at: At, shared: usize) {
        let Some(g) = self.gradients.take(Reg::Qkv) else { return };
        let (heads, tokens) = (self.run.heads(at), g.rows().n_rows());
        let own_part = heads.d_head - shared;
        let compressed = self.run.registers.get(Reg::CompressedKv).n_columns();
        let mut of_queries = self.gradients.room(tokens, heads.queries());
        let mut of_own = self.gradients.room(tokens, heads.n * (own_part + heads.d_value));
        for token in 0..tokens {
            let (q, kv) = g.rows().row(token).split_at(heads.queries());
            let (k, v) = kv.split_at(heads.keys());
            of_queries.rows_mut().row_mut(token).copy_from_slice(q);
            let mut of_shared = self.gradients.sum(Reg::CompressedKv, tokens, compressed);
            let of_shared = &mut of_shared.row_mut(token)[compressed - shared..];
            let mut own = of_own.rows_mut();
            let own = own.row_mut(token).chunks_exact_mut(own_part + heads.d_value);
            for (own, (k, v)) in own.zip(k.chunks_exact(heads.d_head).zip(v.chunks_exact(heads.d_value))) {
                own[..own_part].copy_from_slice(&k[..own_part]);
                own[own_part..].copy_from_slice(v);
                add_row(&k[own_part..], of_shared);
            }
        }
        self.gradients.free(g);
        self.add(Reg::OwnQueries, of_queries);
        self.add(Reg::OwnKv, of_own);
    }
}
