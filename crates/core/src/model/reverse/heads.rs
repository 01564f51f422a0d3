//! Backward rules of attention.

use easyroutine_kernels::{Rows, Sequence, give_back, large_values};
use easyroutine_sites::Point;

use super::state::{Saved, Walk, add_columns, add_row};
use super::{Rule, copy};
use crate::arch::Heads;
use crate::error::Result;
use crate::model::buffer::Buffer;
use crate::pass::{At, KeyHeads, Reg};
use crate::tap::Value;
use crate::weights::Norm;

/// Entries of a head's pattern held at a time: 16 MiB, or one query's.
const LARGEST_SQUARES: usize = 4 << 20;

impl Walk<'_> {
    /// Attention in one step: each head's pattern is recomputed, a few queries at a time.
    pub(super) fn attend_back(&mut self, at: At, keys: KeyHeads) -> Result<()> {
        if let Some(of_edited) = self.of_edited.take() {
            self.add(Reg::Z, of_edited);
        }
        let Some(mut dz) = self.gradients.take(Reg::Z) else { return Ok(()) };
        let model = self.run.model;
        let (cpu, spec) = (&model.cpu, self.run.spec(at, keys)?);
        let tokens = self.run.batch.n_tokens();
        // Every query and key takes part, those of tokens that are not walked with gradient 0.
        if let Some(some) = &self.tokens {
            let mut all = self.gradients.zeros(tokens, dz.rows().n_columns());
            let mut rows = all.rows_mut();
            for (i, token) in some.iter().enumerate() {
                rows.row_mut(*token).copy_from_slice(dz.rows().row(i));
            }
            self.gradients.free(std::mem::replace(&mut dz, all));
        }
        let [mut dq, mut dk, mut dv] = self.room_of_heads(at, tokens);
        let [q, k, v] = self.run.inputs(at, spec, keys);
        for part in parts(&self.run.sequences, LARGEST_SQUARES) {
            let size = part.iter().map(|s| s.queries.len() * s.keys.len()).sum();
            let (mut pattern, mut square) = (large_values(size), large_values(size));
            for head in 0..spec.n_heads {
                cpu.attention_scores(spec, head, q, k, &part, &mut pattern);
                cpu.attention_softmax(spec, head, &part, &mut pattern);
                cpu.attention_mix_keys(spec, head, &pattern, dz.rows(), &part, dv.rows_mut());
                if self.rule == Rule::Gradient {
                    cpu.attention_pattern_back(spec, head, dz.rows(), v, &part, &mut square);
                    cpu.attention_softmax_back(spec, &part, &pattern, &mut square);
                    let (dq, dk) = (dq.rows_mut(), dk.rows_mut());
                    cpu.attention_scores_back(spec, head, q, k, &part, &mut square, dq, dk);
                }
            }
            give_back(pattern);
            give_back(square);
        }
        if let Some(some) = &self.tokens {
            [&mut dq, &mut dk, &mut dv].into_iter().for_each(|rows| rows.keep(some.iter().copied()));
        }
        self.heads = Some([dq, dk, dv]);
        self.gradients.free(dz);
        self.join_gradients(at, keys);
        Ok(())
    }

    /// One head's mixed values from its pattern.
    pub(super) fn mix_back(&mut self, at: At, head: usize, keys: KeyHeads, saved: &Saved) -> Result<()> {
        let model = self.run.model;
        let (cpu, spec) = (&model.cpu, self.run.spec(at, keys)?);
        if let Some(of_edited) = self.of_edited.take() {
            self.add(Reg::Z, of_edited);
        }
        let mut heads = match self.heads.take() {
            Some(heads) => heads,
            None => self.room_of_heads(at, self.run.batch.n_tokens()),
        };
        self.square = None;
        if let (Some(dz), Saved::Square(pattern)) = (self.gradients.get(Reg::Z), saved) {
            let [_, _, v] = self.run.inputs(at, spec, keys);
            let sequences = &self.run.sequences;
            cpu.attention_mix_keys(spec, head, pattern, dz, sequences, heads[2].rows_mut());
            let mut square = vec![0.0; pattern.len()];
            cpu.attention_pattern_back(spec, head, dz, v, sequences, &mut square);
            self.square = Some(square);
        }
        self.heads = Some(heads);
        // The first head allocated room for all.
        if head == 0
            && let Some(dz) = self.gradients.take(Reg::Z)
        {
            self.gradients.free(dz);
        }
        Ok(())
    }

    /// One head's softmax.
    pub(super) fn softmax_back(&mut self, at: At, saved: &Saved) -> Result<()> {
        let model = self.run.model;
        let spec = model.weights.attention(at, KeyHeads::Grouped)?;
        match (&mut self.square, saved) {
            (square, _) if self.rule != Rule::Gradient => *square = None,
            (Some(square), Saved::Square(pattern)) => {
                model.cpu.attention_softmax_back(spec, &self.run.sequences, pattern, square);
            }
            _ => {}
        }
        Ok(())
    }

    /// One head's scores.
    pub(super) fn scores_back(&mut self, at: At, head: usize, keys: KeyHeads) -> Result<()> {
        let model = self.run.model;
        let spec = self.run.spec(at, keys)?;
        if let (Some(mut square), Some([dq, dk, _])) = (self.square.take(), &mut self.heads) {
            let [q, k, _] = self.run.inputs(at, spec, keys);
            let (sequences, dq, dk) = (&self.run.sequences, dq.rows_mut(), dk.rows_mut());
            model.cpu.attention_scores_back(spec, head, q, k, sequences, &mut square, dq, dk);
        }
        if head == 0 {
            self.join_gradients(at, keys);
        }
        Ok(())
    }

    /// Zeros for the gradients of each head's query, key and value.
    fn room_of_heads(&mut self, at: At, tokens: usize) -> [Buffer; 3] {
        let heads = self.run.heads(at);
        [heads.queries(), heads.queries(), heads.mixed()].map(|width| self.gradients.zeros(tokens, width))
    }

    /// Adds the gradients of each head's query, key and value to their sources.
    fn join_gradients(&mut self, at: At, keys: KeyHeads) {
        let Some([dq, dk, dv]) = self.heads.take() else { return };
        let (heads, cpu) = (self.run.heads(at), &self.run.model.cpu);
        let (tokens, width) = (dq.rows().n_rows(), self.run.registers.get(Reg::Qkv).n_columns());
        cpu.add(dq.rows(), self.gradients.sum(Reg::Qkv, tokens, width).columns(0..heads.queries()));
        match keys {
            KeyHeads::OfQueryHeads => {
                let (middle, width) = (heads.queries(), heads.queries() + heads.mixed());
                let mut own = self.gradients.sum(Reg::HeadKv, tokens, width);
                cpu.add(dk.rows(), own.reborrow().columns(0..middle));
                cpu.add(dv.rows(), own.columns(middle..width));
            }
            // What an earlier layer lent has its gradient there, until the walk comes to that layer.
            KeyHeads::Lent { layer, reg } => {
                let (lent, width) =
                    (self.run.model.arch.heads(layer), self.run.registers.get(reg).n_columns());
                let is_grouped = width == lent.keys() + lent.values();
                let lent = if is_grouped { lent } else { lent.spread() };
                self.fold_to((reg, width, 0), lent, dk.rows(), dv.rows());
            }
            // Only a run with a past keeps keys, and none is differentiated.
            KeyHeads::Grouped | KeyHeads::Kept { .. } => self.fold(at, dk.rows(), dv.rows()),
        }
        [dq, dk, dv].into_iter().for_each(|buffer| self.gradients.free(buffer));
    }

    /// Adds the gradients of query heads' keys and values to the shared ones.
    fn fold(&mut self, at: At, keys: Rows<'_>, values: Rows<'_>) {
        let (heads, width) = (self.run.heads(at), self.run.registers.get(Reg::Qkv).n_columns());
        self.fold_to((Reg::Qkv, width, heads.queries()), heads, keys, values);
    }

    /// The same where these stand in some register of so many columns, from one of them on.
    fn fold_to(
        &mut self,
        (reg, width, k): (Reg, usize, usize),
        heads: Heads,
        keys: Rows<'_>,
        values: Rows<'_>,
    ) {
        let (cpu, v) = (&self.run.model.cpu, k + heads.keys());
        let mut sums = self.gradients.sum(reg, keys.n_rows(), width);
        for head in 0..heads.n {
            let shared = head / heads.group();
            let (of_key, of_value) = (heads.of_query(shared), heads.of_value(shared));
            let to = sums.reborrow().columns(k + of_key.start..k + of_key.end);
            cpu.add(keys.columns(heads.of_query(head)), to);
            let to = sums.reborrow().columns(v + of_value.start..v + of_value.end);
            cpu.add(values.columns(heads.of_value(head)), to);
        }
    }

    /// The gradient of keys that a group's query heads share.
    pub(super) fn gradient_of_shared_keys(&mut self, at: At, width: usize) -> Buffer {
        let group = self.run.heads(at).group();
        let mut sum = self.gradients.zeros(self.run.batch.n_tokens(), width);
        for member in 0..group {
            if let Some(g) = self.of_member(at, member, width) {
                self.run.model.cpu.add(g.rows(), sum.rows_mut());
                self.gradients.free(g);
            }
        }
        sum
    }

    /// Adds to that gradient.
    pub(super) fn add_to_shared_keys(&mut self, at: At, added: Rows<'_>) {
        let heads = self.run.heads(at);
        let (d_head, group) = (heads.d_head, heads.group());
        let mut g = self.gradients.sum(Reg::HeadKv, added.n_rows(), heads.queries() + heads.mixed());
        for token in 0..added.n_rows() {
            for (number, added) in added.row(token).chunks_exact(d_head).enumerate() {
                let start = number * group * d_head;
                add_row(added, &mut g.row_mut(token)[start..start + d_head]);
            }
        }
    }

    /// A change to shared keys changes the keys of every query head that shares them.
    pub(super) fn shared_keys_back(&mut self, at: At, point: Point, width: usize) -> Result<()> {
        let heads = self.run.heads(at);
        let (d_head, group) = (heads.d_head, heads.group());
        for member in 0..group {
            let Some(mut g) = self.of_member(at, member, width) else { return Ok(()) };
            let mut value = Value::of_tokens(g.rows_mut(), self.run.batch);
            self.edits.borrow_mut().back(point, None, &mut value)?;
            let mut of_heads =
                self.gradients.sum(Reg::HeadKv, g.rows().n_rows(), heads.queries() + heads.mixed());
            for token in 0..g.rows().n_rows() {
                for (number, g) in g.rows().row(token).chunks_exact(d_head).enumerate() {
                    let start = (number * group + member) * d_head;
                    of_heads.row_mut(token)[start..start + d_head].copy_from_slice(g);
                }
            }
            self.gradients.free(g);
        }
        Ok(())
    }

    /// The gradient of the keys of one query head of each group.
    fn of_member(&mut self, at: At, member: usize, width: usize) -> Option<Buffer> {
        let heads = self.run.heads(at);
        let (d_head, group) = (heads.d_head, heads.group());
        let mut of_member = self.gradients.room(self.run.batch.n_tokens(), width);
        let g = self.gradients.get(Reg::HeadKv)?;
        for token in 0..g.n_rows() {
            for (number, to) in of_member.rows_mut().row_mut(token).chunks_exact_mut(d_head).enumerate() {
                let start = (number * group + member) * d_head;
                to.copy_from_slice(&g.row(token)[start..start + d_head]);
            }
        }
        Some(of_member)
    }

    /// Keys and values that later layers read.
    pub(super) fn lend_back(&mut self, at: At, keys: KeyHeads, from: Reg) {
        let Some(g) = self.gradients.take(from) else { return };
        let (reg, first) = match keys {
            KeyHeads::OfQueryHeads => (Reg::HeadKv, 0),
            _ => (Reg::Qkv, self.run.heads(at).queries()),
        };
        let (tokens, width) = (g.rows().n_rows(), g.rows().n_columns());
        let all = self.run.registers.get(reg).n_columns();
        add_columns(g.rows(), self.gradients.sum(reg, tokens, all), first..first + width);
        self.gradients.free(g);
    }

    /// Keys and values copied per query head.
    pub(super) fn spread_back(&mut self, at: At) {
        let Some(g) = self.gradients.take(Reg::HeadKv) else { return };
        let (middle, width) = (self.run.heads(at).queries(), g.rows().n_columns());
        self.fold(at, g.rows().columns(0..middle), g.rows().columns(middle..width));
        self.gradients.free(g);
    }

    /// Each query head's key normed as if it were among the shared keys, on which the norm then depends too.
    pub(super) fn head_keys_back(&mut self, at: At, norm: &Norm, group: usize, saved: &Saved) {
        let (Some(mut g), Saved::Keys(qkv, own)) = (self.gradients.take(Reg::HeadKv), saved) else { return };
        let (heads, tokens) = (self.run.heads(at), g.rows().n_rows());
        let k = heads.queries()..heads.queries() + heads.keys();
        for head in 0..heads.n {
            let (shared, columns) = (heads.of_query(head / heads.group()), heads.of_query(head));
            let mut whole = copy(qkv.rows().columns(k.clone()));
            let mut of_whole = self.gradients.zeros(tokens, k.len());
            let mut out = self.gradients.zeros(tokens, k.len());
            for token in 0..tokens {
                let key = &own.rows().row(token)[columns.clone()];
                whole.rows_mut().row_mut(token)[shared.clone()].copy_from_slice(key);
                let g = &g.rows().row(token)[columns.clone()];
                of_whole.rows_mut().row_mut(token)[shared.clone()].copy_from_slice(g);
            }
            let scale = self.rule.scale();
            norm.back(&self.run.model.cpu, scale, whole.rows(), group, of_whole.rows(), out.rows_mut());
            let mut sum = self.gradients.sum(Reg::Qkv, tokens, qkv.rows().n_columns());
            for token in 0..tokens {
                let out = out.rows();
                let own = &out.row(token)[shared.clone()];
                g.rows_mut().row_mut(token)[columns.clone()].copy_from_slice(own);
                let sum = &mut sum.row_mut(token)[k.clone()];
                add_row(&out.row(token)[..shared.start], &mut sum[..shared.start]);
                add_row(&out.row(token)[shared.end..], &mut sum[shared.end..]);
            }
            self.gradients.free(of_whole);
            self.gradients.free(out);
        }
        self.gradients.put(Reg::HeadKv, g);
    }
}

/// Divides sequences into parts whose patterns have at most `most` entries. The cuts in a sequence depend on its own
/// length alone, and no part holds two pieces of one sequence.
fn parts(sequences: &[Sequence], most: usize) -> Vec<Vec<Sequence>> {
    let mut parts: Vec<Vec<Sequence>> = Vec::new();
    let mut room = 0;
    for sequence in sequences.iter().filter(|sequence| !sequence.queries.is_empty()) {
        let length = sequence.queries.len();
        let at_once = (most / length).max(1);
        for first in (0..length).step_by(at_once) {
            let end = length.min(first + at_once);
            let piece = Sequence {
                queries: sequence.queries.start + first..sequence.queries.start + end,
                keys: sequence.keys.start..sequence.keys.start + end,
            };
            let size = piece.queries.len() * piece.keys.len();
            if parts.is_empty() || size > room || first > 0 {
                parts.push(Vec::new());
                room = most;
            }
            room = room.saturating_sub(size);
            parts.last_mut().into_iter().for_each(|part| part.push(piece.clone()));
        }
    }
    parts
}
