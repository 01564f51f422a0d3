//! Attention.

use std::ops::Range;

use easyroutine_kernels::Attention;

use super::Exact;
use super::formulas::{norm, softmax};
use super::matrix::{Matrix, dot};
use super::value::query;
use crate::arch::Heads;
use crate::error::Result;
use crate::model::embed::round_to_bf16;
use crate::pass::{At, KeyHeads, NormAt, Reg};

impl<'a> Exact<'a> {
    pub(super) fn heads(&self, at: At) -> Heads {
        self.model.arch().heads(at.layer().unwrap_or(0))
    }

    /// What attention computes on keys of this kind.
    fn spec(&self, at: At, keys: KeyHeads) -> Result<&'a Attention> {
        let keys = match keys {
            KeyHeads::Lent { layer, reg } => {
                let heads = self.model.arch().heads(layer);
                let is_grouped = self.reg(reg).n_columns() == heads.keys() + heads.values();
                if is_grouped { KeyHeads::Grouped } else { KeyHeads::OfQueryHeads }
            }
            other => other,
        };
        self.model.weights.attention(at, keys)
    }

    /// Where keys and values are, and the first column of each.
    fn keys_and_values(&self, spec: &Attention, keys: KeyHeads) -> (&Matrix, usize, usize) {
        let (reg, start) = match keys {
            KeyHeads::Grouped | KeyHeads::Kept { .. } => (Reg::Qkv, spec.n_heads * spec.d_head),
            KeyHeads::OfQueryHeads => (Reg::HeadKv, 0),
            KeyHeads::Lent { reg, .. } => (reg, 0),
        };
        (self.reg(reg), start, start + spec.n_kv_heads * spec.d_head)
    }

    /// The scores of one head; minus infinity where the key is hidden.
    pub(super) fn scores(&mut self, at: At, head: usize, keys: KeyHeads) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let (of_keys, first, _) = self.keys_and_values(spec, keys);
        let key_head = head / (spec.n_heads / spec.n_kv_heads);
        let q = head * spec.d_head..(head + 1) * spec.d_head;
        let k = first + key_head * spec.d_head..first + (key_head + 1) * spec.d_head;
        let (qkv, batch) = (self.reg(Reg::Qkv), self.batch);
        let mut square = Vec::with_capacity((0..batch.n_rows()).map(|row| batch.length(row).pow(2)).sum());
        for row in 0..batch.n_rows() {
            let span = batch.span(row);
            for (position, token) in span.clone().enumerate() {
                let visible = visible(spec, position);
                square.extend(span.clone().enumerate().map(|(key, of_key)| {
                    if !visible.contains(&key) {
                        return f64::NEG_INFINITY;
                    }
                    let product = dot(&qkv.row(token)[q.clone()], &of_keys.row(of_key)[k.clone()]);
                    score(spec, head, key, product)
                }));
            }
        }
        self.square = square;
        Ok(())
    }

    /// The softmax of one head's scores, in place.
    pub(super) fn softmax(&mut self, at: At, head: usize) -> Result<()> {
        let spec = self.spec(at, KeyHeads::Grouped)?;
        let (batch, mut square) = (self.batch, std::mem::take(&mut self.square));
        let sink = spec.sinks.as_ref().map(|sinks| f64::from(sinks[head]));
        for row in 0..batch.n_rows() {
            for position in 0..batch.length(row) {
                let scores = &mut square[query(batch, row, position)];
                let visible = visible(spec, position);
                softmax(&mut scores[visible.clone()], sink);
                scores[..visible.start].fill(0.0);
                scores[visible.end..].fill(0.0);
            }
        }
        self.square = square;
        Ok(())
    }

    /// One head's columns of z from its pattern.
    pub(super) fn mix(&mut self, at: At, head: usize, keys: KeyHeads) -> Result<()> {
        let (spec, batch) = (self.spec(at, keys)?, self.batch);
        let mut z = match head {
            0 => Matrix::zeros(batch.n_tokens(), spec.n_heads * spec.d_value),
            _ => std::mem::take(self.reg_mut(Reg::Z)),
        };
        let (values, _, first) = self.keys_and_values(spec, keys);
        let key_head = head / (spec.n_heads / spec.n_kv_heads);
        let v = first + key_head * spec.d_value..first + (key_head + 1) * spec.d_value;
        for row in 0..batch.n_rows() {
            for (position, token) in batch.span(row).enumerate() {
                let pattern = &self.square[query(batch, row, position)];
                let out = &mut z.row_mut(token)[head * spec.d_value..(head + 1) * spec.d_value];
                for key in visible(spec, position) {
                    let value = &values.row(batch.span(row).start + key)[v.clone()];
                    out.iter_mut().zip(value).for_each(|(out, x)| *out += pattern[key] * x);
                }
            }
        }
        *self.reg_mut(Reg::Z) = z;
        Ok(())
    }

    /// All of these for some heads; the pattern of each is kept where somebody looks at it.
    pub(super) fn attend(&mut self, at: At, heads: Range<usize>, keys: KeyHeads) -> Result<Vec<Vec<f64>>> {
        let mut patterns = Vec::new();
        for head in heads {
            self.scores(at, head, keys)?;
            self.softmax(at, head)?;
            self.mix(at, head, keys)?;
            patterns.push(std::mem::take(&mut self.square));
        }
        Ok(patterns)
    }

    /// Copies keys and values out, one a query head.
    pub(super) fn spread(&mut self, at: At) {
        let heads = self.heads(at);
        let own = heads.spread();
        let mut out = Matrix::zeros(self.batch.n_tokens(), own.keys() + own.values());
        for token in 0..out.n_rows() {
            let (keys, values) = self.reg(Reg::Qkv).row(token)[heads.queries()..].split_at(heads.keys());
            let (own_keys, own_values) = out.row_mut(token).split_at_mut(own.keys());
            for head in 0..heads.n {
                let shared = head / heads.group();
                own_keys[heads.of_query(head)].copy_from_slice(&keys[heads.of_query(shared)]);
                own_values[heads.of_value(head)].copy_from_slice(&values[heads.of_value(shared)]);
            }
        }
        *self.reg_mut(Reg::HeadKv) = out;
    }

    /// Keys and values are put where later layers read them.
    pub(super) fn lend(&mut self, at: At, keys: KeyHeads, to: Reg) -> Result<()> {
        let spec = self.spec(at, keys)?;
        let (from, first, middle) = self.keys_and_values(spec, keys);
        let lent = from.columns(first..middle + spec.n_kv_heads * spec.d_value);
        *self.reg_mut(to) = lent;
        Ok(())
    }

    /// values = keys, of each head.
    pub(super) fn keys_to_values(&mut self, at: At) {
        let heads = self.heads(at);
        let (keys, values) = (heads.queries(), heads.queries() + heads.keys());
        self.reg_mut(Reg::Qkv).rows_mut().for_each(|row| row.copy_within(keys..values, values));
    }

    /// Queries, keys and values side by side; a key is its own part, then the columns that all heads share.
    pub(super) fn join_heads(&mut self, at: At, shared: usize) {
        let heads = self.heads(at);
        let [queries, own, compressed] =
            [Reg::OwnQueries, Reg::OwnKv, Reg::CompressedKv].map(|reg| self.reg(reg));
        let mut out = Matrix::zeros(queries.n_rows(), heads.queries() + heads.keys() + heads.values());
        let (own_part, first) = (heads.d_head - shared, compressed.n_columns() - shared);
        for token in 0..queries.n_rows() {
            let (q, kv) = out.row_mut(token).split_at_mut(heads.queries());
            let (k, v) = kv.split_at_mut(heads.keys());
            q.copy_from_slice(queries.row(token));
            for (head, own) in own.row(token).chunks_exact(own_part + heads.d_value).enumerate() {
                let key = &mut k[heads.of_query(head)];
                key[..own_part].copy_from_slice(&own[..own_part]);
                key[own_part..].copy_from_slice(&compressed.row(token)[first..]);
                v[heads.of_value(head)].copy_from_slice(&own[own_part..]);
            }
        }
        *self.reg_mut(Reg::Qkv) = out;
    }

    /// Norms each query head's own key as if it stood among the shared keys.
    pub(super) fn norm_head_keys(&mut self, at: At, group: usize) -> Result<()> {
        let heads = self.heads(at);
        let of_keys = self.model.weights.norm(at, NormAt::Keys)?;
        let shared = self.reg(Reg::Qkv).columns(heads.queries()..heads.queries() + heads.keys());
        let own = self.reg_mut(Reg::HeadKv);
        for head in 0..heads.n {
            let (among, columns) = (heads.of_query(head / heads.group()), heads.of_query(head));
            for token in 0..shared.n_rows() {
                let mut whole = shared.row(token).to_vec();
                whole[among.clone()].copy_from_slice(&own.row(token)[columns.clone()]);
                norm(of_keys, &mut whole, group);
                own.row_mut(token)[columns.clone()].copy_from_slice(&whole[among.clone()]);
            }
        }
        Ok(())
    }
}

/// The keys that a query may see.
fn visible(spec: &Attention, position: usize) -> Range<usize> {
    let end = position + 1;
    spec.window.map_or(0, |window| end.saturating_sub(window))..end
}

/// A score from query · key: scaled, capped, with the bias of the key's position.
fn score(spec: &Attention, head: usize, key: usize, product: f64) -> f64 {
    let mut score = product * f64::from(spec.scale);
    if let Some(cap) = spec.softcap.map(f64::from) {
        score = cap * (score / cap).tanh();
    }
    match &spec.alibi {
        None => score,
        Some(alibi) => {
            let slope = alibi.slopes[head];
            score
                + match alibi.rounded {
                    None => f64::from(slope) * key as f64,
                    Some(by) => f64::from(round_to_bf16(slope * key as f32)) * f64::from(by),
                }
        }
    }
}
