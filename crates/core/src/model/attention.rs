//! The steps of attention.

use std::ops::Range;

use easyroutine_kernels::{Rows, RowsMut};
use easyroutine_sites::Point;

use super::registers::Registers;
use super::run::Run;
use crate::arch::{Heads, QueryGrowth};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::pass::{At, Form, KeyHeads, Reg};
use crate::tap::Value;
use crate::weights::Norm;

impl<'m> Run<'m> {
    /// Copies keys and values, one per query head.
    pub(super) fn spread(&mut self, at: At) {
        let heads = self.heads(at);
        let (qkv, head_kv) = self.registers.pair(Reg::Qkv, Reg::HeadKv);
        let qkv = qkv.rows();
        let (own, group) = (heads.spread(), heads.group());
        let mut head_kv = head_kv.resize(qkv.n_rows(), own.keys() + own.values());
        for token in 0..qkv.n_rows() {
            let (keys, values) = qkv.row(token)[heads.queries()..].split_at(heads.keys());
            let (own_keys, own_values) = head_kv.row_mut(token).split_at_mut(own.keys());
            for head in 0..heads.n {
                own_keys[heads.of_query(head)].copy_from_slice(&keys[heads.of_query(head / group)]);
                own_values[heads.of_value(head)].copy_from_slice(&values[heads.of_value(head / group)]);
            }
        }
    }

    /// values = keys, of each head.
    pub(super) fn keys_to_values(&mut self, at: At) {
        let heads = self.heads(at);
        let (keys, values) = (heads.queries(), heads.queries() + heads.keys());
        let mut qkv = self.registers.get_mut(Reg::Qkv).rows_mut();
        (0..qkv.n_rows()).for_each(|token| qkv.row_mut(token).copy_within(keys..values, values));
    }

    /// Stores keys and values where later layers read them.
    pub(super) fn lend(&mut self, at: At, keys: KeyHeads, to: Reg) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let mut lent = self.registers.take(to);
        let [k, v] = fresh_keys(self.registers, spec, keys);
        let mut out = lent.resize(k.n_rows(), k.n_columns() + v.n_columns());
        for token in 0..k.n_rows() {
            let (of_keys, of_values) = out.row_mut(token).split_at_mut(k.n_columns());
            of_keys.copy_from_slice(k.row(token));
            of_values.copy_from_slice(v.row(token));
        }
        self.registers.put(to, lent);
        Ok(())
    }

    /// The attention parameters for this kind of keys; keys of an earlier layer are used as that layer left them.
    pub(super) fn spec(&self, at: At, keys: KeyHeads) -> Result<&'m easyroutine_kernels::Attention> {
        let weights = &self.model.weights;
        let of = |layer: usize| self.model.arch.heads(layer);
        let are_spread = match keys {
            KeyHeads::Grouped => false,
            KeyHeads::OfQueryHeads => true,
            KeyHeads::Lent { layer, reg } => {
                self.registers.get(reg).n_columns() != of(layer).keys() + of(layer).values()
            }
            KeyHeads::Kept { layer } => self.past.is_of_query_heads(layer, of(layer).n_kv),
        };
        weights.attention(at, if are_spread { KeyHeads::OfQueryHeads } else { KeyHeads::Grouped })
    }

    /// The heads of a section.
    pub(super) fn heads(&self, at: At) -> Heads {
        self.model.arch.heads(at.layer().unwrap_or(0))
    }

    /// kv_latent = norm of the first columns of compressed_kv.
    pub(super) fn norm_latent(&mut self, norm: &Norm, width: usize) {
        let (compressed, latent) = self.registers.pair(Reg::CompressedKv, Reg::KvLatent);
        let compressed = compressed.rows().columns(0..width);
        let out = latent.resize(compressed.n_rows(), width);
        norm.apply(&self.model.cpu, compressed, out);
    }

    /// Joins queries, keys and values; a key is its own part, then the columns shared by all heads.
    pub(super) fn join_heads(&mut self, at: At, shared: usize) {
        let heads = self.heads(at);
        let mut qkv = self.registers.take(Reg::Qkv);
        let [queries, own, compressed] =
            [Reg::OwnQueries, Reg::OwnKv, Reg::CompressedKv].map(|reg| self.registers.get(reg).rows());
        let mut out = qkv.resize(queries.n_rows(), heads.queries() + heads.keys() + heads.values());
        let (own_part, first) = (heads.d_head - shared, compressed.n_columns() - shared);
        for token in 0..queries.n_rows() {
            let (q, kv) = out.row_mut(token).split_at_mut(heads.queries());
            let (k, v) = kv.split_at_mut(heads.keys());
            q.copy_from_slice(queries.row(token));
            let shared = &compressed.row(token)[first..];
            let own = own.row(token).chunks_exact(own_part + heads.d_value);
            let rows = k.chunks_exact_mut(heads.d_head).zip(v.chunks_exact_mut(heads.d_value));
            for (own, (key, value)) in own.zip(rows) {
                key[..own_part].copy_from_slice(&own[..own_part]);
                key[own_part..].copy_from_slice(shared);
                value.copy_from_slice(&own[own_part..]);
            }
        }
        self.registers.put(Reg::Qkv, qkv);
    }

    /// Norms each query head's own key as if it were among the shared keys.
    pub(super) fn norm_head_keys(&mut self, at: At, norm: &Norm, group: usize) {
        let (heads, cpu) = (self.heads(at), &self.model.cpu);
        let k = heads.queries()..heads.queries() + heads.keys();
        let mut whole = std::mem::take(&mut self.registers.work);
        let (qkv, head_kv) = self.registers.pair(Reg::Qkv, Reg::HeadKv);
        let qkv = qkv.rows();
        for head in 0..heads.n {
            let (shared, own) = (heads.of_query(head / heads.group()), heads.of_query(head));
            whole.resize(qkv.n_rows(), k.len());
            let mut rows = whole.rows_mut();
            for token in 0..rows.n_rows() {
                rows.row_mut(token).copy_from_slice(&qkv.row(token)[k.clone()]);
                rows.row_mut(token)[shared.clone()].copy_from_slice(&head_kv.rows().row(token)[own.clone()]);
            }
            norm.apply_in_place(cpu, rows.reborrow(), group);
            for token in 0..rows.n_rows() {
                let normed = &rows.row(token)[shared.clone()];
                head_kv.rows_mut().row_mut(token)[own.clone()].copy_from_slice(normed);
            }
        }
        self.registers.work = whole;
    }

    /// Scales queries by a factor that grows with position.
    pub(super) fn grow(&mut self, columns: Range<usize>, growth: QueryGrowth) {
        grow(self.batch, self.registers.get_mut(Reg::Qkv).rows_mut().columns(columns), growth);
    }

    /// Shows the key of each group's first query head. If a tap changes it, all query heads of the group get the new
    /// key.
    ///
    /// # Errors
    /// If a tap changes a key while another query head of the group has its own key, which the change cannot apply to.
    pub(super) fn visit_shared_keys(&mut self, point: Point, width: usize) -> Result<()> {
        let heads = self.model.arch.heads(point.layer().unwrap_or(0));
        let (d_head, group) = (heads.d_head, heads.group());
        let own = |head: usize| heads.of_query(head);
        let mut shared = std::mem::take(&mut self.registers.work);
        let keys = self.registers.get(Reg::HeadKv).rows();
        shared.resize(keys.n_rows(), width);
        for token in 0..keys.n_rows() {
            for (number, to) in shared.rows_mut().row_mut(token).chunks_exact_mut(d_head).enumerate() {
                to.copy_from_slice(&keys.row(token)[own(number * group)]);
            }
        }
        self.tap.at(point, &mut Value::of_tokens(shared.rows_mut(), self.batch))?;
        let mut keys = self.registers.get_mut(Reg::HeadKv).rows_mut();
        for token in 0..keys.n_rows() {
            let keys = keys.row_mut(token);
            for (number, new) in shared.rows().row(token).chunks_exact(d_head).enumerate() {
                let bits = |head: usize| keys[own(head)].iter().map(|x| x.to_bits());
                let first = number * group;
                if bits(first).eq(new.iter().map(|x| x.to_bits())) {
                    continue;
                }
                if let Some(other) = (first..first + group).find(|head| !bits(*head).eq(bits(first))) {
                    let layer = point.layer().unwrap_or(0);
                    return Err(Error::input(format!(
                        "`{point}` is changed where `head_keys_L{layer}H{other}` is, which it cannot change"
                    ))
                    .hint("change the one or the other"));
                }
                (first..first + group).for_each(|head| keys[own(head)].copy_from_slice(new));
            }
        }
        self.registers.work = shared;
        Ok(())
    }

    /// Appends keys and values to those of earlier tokens.
    pub(super) fn keep(&mut self, at: At, keys: KeyHeads) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let fresh = fresh_keys(self.registers, spec, keys);
        self.past.keep(at.layer().unwrap_or(0), self.batch, spec.n_kv_heads, fresh);
        Ok(())
    }

    /// `z = softmax(scores) v` of all heads.
    pub(super) fn attend(&mut self, at: At, keys: KeyHeads, form: Form) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let (mut z, tokens) = (self.registers.take(Reg::Z), self.batch.n_tokens());
        let out = z.resize_as(form, self.model.dtype, tokens, spec.n_heads * spec.d_value);
        let [q, k, v] = self.inputs(at, spec, keys);
        self.model.cpu.attention(spec, q, k, v, &self.sequences, out);
        self.registers.put(Reg::Z, z);
        Ok(())
    }

    /// The same for a range of heads, keeping their patterns. The first heads allocate room for all.
    pub(super) fn patterns(&mut self, at: At, heads: Range<usize>, keys: KeyHeads, form: Form) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let mut pairs = std::mem::take(&mut self.registers.pairs);
        pairs.resize_with(pairs.len().max(heads.len()), Vec::new);
        let (mut z, tokens) = (self.registers.take(Reg::Z), self.batch.n_tokens());
        let out = match heads.start {
            0 => z.resize_as(form, self.model.dtype, tokens, spec.n_heads * spec.d_value),
            _ => z.out(),
        };
        let [q, k, v] = self.inputs(at, spec, keys);
        let kept = &mut pairs[..heads.len()];
        self.model.cpu.attention_keeping(spec, heads, q, k, v, &self.sequences, kept, out);
        self.registers.put(Reg::Z, z);
        self.registers.pairs = pairs;
        Ok(())
    }

    /// The scores of one head.
    pub(super) fn scores(&mut self, at: At, head: usize, keys: KeyHeads) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let mut square = self.take_square();
        let size = self.sequences.iter().map(|s| s.queries.len() * s.keys.len()).sum();
        square.resize(size, 0.0);
        let [q, k, _] = self.inputs(at, spec, keys);
        self.model.cpu.attention_scores(spec, head, q, k, &self.sequences, &mut square);
        self.put_square(square);
        Ok(())
    }

    /// The softmax of one head's scores, in place.
    pub(super) fn softmax(&mut self, at: At, head: usize) -> Result<()> {
        let spec = self.model.weights.attention(at, KeyHeads::Grouped)?;
        let mut square = self.take_square();
        self.model.cpu.attention_softmax(spec, head, &self.sequences, &mut square);
        self.put_square(square);
        Ok(())
    }

    /// Mixes one head's columns of z from its pattern. The first head allocates room for all.
    pub(super) fn mix(&mut self, at: At, head: usize, keys: KeyHeads) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let (mut z, tokens) = (self.registers.take(Reg::Z), self.batch.n_tokens());
        let out = if head == 0 { z.resize(tokens, spec.n_heads * spec.d_value) } else { z.rows_mut() };
        let square = self.take_square();
        let [_, _, v] = self.inputs(at, spec, keys);
        self.model.cpu.attention_mix(spec, head, &square, v, &self.sequences, out);
        self.put_square(square);
        self.registers.put(Reg::Z, z);
        Ok(())
    }

    /// Queries, keys and values, including those of earlier tokens.
    pub(super) fn inputs(
        &self,
        at: At,
        spec: &easyroutine_kernels::Attention,
        keys: KeyHeads,
    ) -> [Rows<'_>; 3] {
        let q = self.registers.get(Reg::Qkv).rows().columns(0..spec.n_heads * spec.d_head);
        let layer = match keys {
            KeyHeads::Kept { layer } => Some(layer),
            KeyHeads::Grouped | KeyHeads::OfQueryHeads => at.layer(),
            KeyHeads::Lent { .. } => None,
        };
        let all = layer.and_then(|layer| self.past.keys(layer, spec));
        let [k, v] = all.unwrap_or_else(|| fresh_keys(self.registers, spec, keys));
        [q, k, v]
    }

    fn take_square(&mut self) -> Vec<f32> {
        self.registers.pairs.first_mut().map(std::mem::take).unwrap_or_default()
    }

    fn put_square(&mut self, square: Vec<f32>) {
        match self.registers.pairs.first_mut() {
            Some(first) => *first = square,
            None => self.registers.pairs.push(square),
        }
    }
}

/// Multiplies each token's row by a factor that depends on its position.
pub(super) fn grow(batch: &Batch, mut rows: RowsMut<'_>, growth: QueryGrowth) {
    for row in 0..batch.n_rows() {
        let first = batch.first(row);
        for (i, token) in batch.span(row).enumerate() {
            let steps = ((first + i) / growth.original) as f32;
            let factor = 1.0 + growth.beta * f64::from(1.0 + steps).ln() as f32;
            rows.row_mut(token).iter_mut().for_each(|x| *x *= factor);
        }
    }
}

/// Keys and values of the batch's own tokens.
fn fresh_keys<'r>(
    registers: &'r Registers,
    spec: &easyroutine_kernels::Attention,
    keys: KeyHeads,
) -> [Rows<'r>; 2] {
    let (rows, start) = match keys {
        KeyHeads::Grouped | KeyHeads::Kept { .. } => {
            (registers.get(Reg::Qkv).rows(), spec.n_heads * spec.d_head)
        }
        KeyHeads::OfQueryHeads => (registers.get(Reg::HeadKv).rows(), 0),
        KeyHeads::Lent { reg, .. } => (registers.get(reg).rows(), 0),
    };
    let middle = start + spec.n_kv_heads * spec.d_head;
    [rows.columns(start..middle), rows.columns(middle..middle + spec.n_kv_heads * spec.d_value)]
}
