//! Causal attention with grouped heads (arXiv 1706.03762, 2305.13245), in blocks of query rows. The pattern exists one
//! block at a time unless the caller asks to keep it.
//!
//! Keys that a query may not see are skipped, never multiplied by zero, so their contents, even NaN, have no effect.

mod block;
mod keys;
mod mix;
mod mix_keys;
mod plan;
mod scores;
mod softmax;

use crate::operand::SharedOut;
use crate::shared::SharedRows;
use crate::vector::{Element, Vector, Work};
use crate::{Cpu, Out, Rows, RowsMut, large_vec, scratch};
use block::{Call, HeadBlock, Inputs, Kept};
use keys::Keys;
use plan::{Block, Plan};
use std::ops::Range;

/// The parameters of an attention layer.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; each serves `n_heads / n_kv_heads` consecutive query heads.
    pub n_kv_heads: usize,
    /// Columns of a query or key head.
    pub d_head: usize,
    /// Columns of a value head.
    pub d_value: usize,
    /// Factor on query · key, usually 1 / √d_head.
    pub scale: f32,
    /// With c, a score s becomes c · tanh(s / c) (Gemma 2, arXiv 2408.00118).
    pub softcap: Option<f32>,
    /// With w, the query at position i sees key j only if i - j < w (Mistral, arXiv 2310.06825).
    pub window: Option<usize>,
    /// A bias by key position (ALiBi, arXiv 2108.12409).
    pub alibi: Option<Alibi>,
    /// An extra logit per head in the softmax's denominator (gpt-oss).
    pub sinks: Option<Vec<f32>>,
}

/// Linear position biases.
#[derive(Clone, Debug)]
pub struct Alibi {
    /// One per head; scores gain slope · key position.
    pub slopes: Vec<f32>,
    /// With r, slope · position is first rounded to bf16, then multiplied by r (Falcon).
    pub rounded: Option<f32>,
}

/// One sequence of a batch: its rows among the queries, and among keys and values. The queries are the last positions:
/// query i is at position `keys.len() - queries.len() + i` and sees the keys up to its own position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Rows of the queries, and of the output.
    pub queries: Range<usize>,
    /// Rows of the keys and values.
    pub keys: Range<usize>,
}

impl Attention {
    /// The key head that a query head uses.
    fn kv_head(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_kv_heads)
    }

    /// A head's columns among the values.
    fn value_columns(&self, head: usize) -> Range<usize> {
        head * self.d_value..(head + 1) * self.d_value
    }

    /// The keys that a query of the sequence may see.
    pub(crate) fn visible(&self, sequence: &Sequence, query: usize) -> Range<usize> {
        let end = sequence.keys.len() - sequence.queries.len() + query + 1;
        self.window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// # Panics
    /// If the numbers of heads do not match.
    fn check(&self) {
        let Attention { n_heads, n_kv_heads, d_head, d_value, .. } = *self;
        assert!(
            n_kv_heads > 0 && n_heads.is_multiple_of(n_kv_heads),
            "{n_heads} heads on {n_kv_heads} key heads"
        );
        assert!(d_head > 0 && d_value > 0, "heads without values");
        let slopes = self.alibi.as_ref().map(|alibi| &alibi.slopes);
        for values in [slopes, self.sinks.as_ref()].into_iter().flatten() {
            assert_eq!(values.len(), n_heads, "a value for each head");
        }
    }
}

impl Cpu {
    /// z = softmax(scores) v for every head, with the bits that [`Cpu::attention_scores`], [`Cpu::attention_softmax`]
    /// and [`Cpu::attention_mix`] give head by head, but without storing the pattern. Rows of no sequence stay
    /// unchanged.
    ///
    /// # Shapes
    /// q: `[queries, n_heads * d_head]`; k: `[keys, n_kv_heads * d_head]`; v: `[keys, n_kv_heads * d_value]`; z:
    /// `[queries, n_heads * d_value]`.
    ///
    /// # Panics
    /// If the shapes do not fit, a sequence reaches beyond the rows or has more queries than keys, or two share a
    /// query.
    pub fn attention<'a>(
        &self,
        spec: &Attention,
        q: Rows<'_>,
        k: Rows<'_>,
        v: Rows<'_>,
        sequences: &[Sequence],
        z: impl Into<Out<'a>>,
    ) {
        self.attend(spec, 0..spec.n_heads, q, k, v, sequences, None, z.into());
    }

    /// As [`Cpu::attention`] for a range of heads, keeping their patterns. Only their columns of z are written, with
    /// the same bits.
    ///
    /// # Shapes
    /// patterns: one per head, its contents replaced by each sequence's `[queries, keys]` in turn.
    ///
    /// # Panics
    /// As for [`Cpu::attention`], and if a head does not exist or `patterns` has another length.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn attention_keeping<'a>(
        &self,
        spec: &Attention,
        heads: Range<usize>,
        q: Rows<'_>,
        k: Rows<'_>,
        v: Rows<'_>,
        sequences: &[Sequence],
        patterns: &mut [Vec<f32>],
        z: impl Into<Out<'a>>,
    ) {
        self.attend(spec, heads, q, k, v, sequences, Some(patterns), z.into());
    }

    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    fn attend(
        &self,
        spec: &Attention,
        heads: Range<usize>,
        q: Rows<'_>,
        k: Rows<'_>,
        v: Rows<'_>,
        sequences: &[Sequence],
        mut patterns: Option<&mut [Vec<f32>]>,
        z: Out<'_>,
    ) {
        spec.check();
        assert!(heads.start < heads.end && heads.end <= spec.n_heads, "heads {heads:?} of {}", spec.n_heads);
        let Attention { n_heads, n_kv_heads, d_head, d_value, .. } = *spec;
        let widths = [n_heads * d_head, n_kv_heads * d_head, n_kv_heads * d_value, n_heads * d_value];
        let columns = [q.n_columns(), k.n_columns(), v.n_columns(), z.shape().1];
        assert_eq!(columns, widths, "columns of q, k, v and z");
        let plan = Plan::new(spec, sequences);
        plan.check_rows(q.n_rows().min(z.shape().0), k.n_rows().min(v.n_rows()));
        let kept = patterns.as_deref_mut().map(|patterns| {
            assert_eq!(patterns.len(), heads.len(), "patterns of the heads");
            // Tasks touch fresh memory first: faulting in a page is work that should be shared.
            let room = |pattern: &'_ mut Vec<f32>| {
                pattern.clear();
                if pattern.capacity() < plan.entries() {
                    *pattern = large_vec(plan.entries());
                }
            };
            patterns.iter_mut().for_each(room);
            let shared = |pattern| SharedRows::dense(pattern, 1, plan.entries());
            let patterns = patterns.iter_mut().map(Vec::spare_capacity_mut).map(shared).collect();
            Kept { patterns, heads: heads.clone() }
        });
        let kv_heads = spec.kv_head(heads.start)..spec.kv_head(heads.end - 1) + 1;
        Keys::with(self, spec, k, kv_heads, sequences, |keys| {
            let inputs = Inputs { spec, q, keys, v, sequences, kept: kept.as_ref() };
            match z.share() {
                SharedOut::F32(z) => self.attend_to(&plan, heads.clone(), &Call { inputs, z: &z }),
                SharedOut::Bf16(z) => self.attend_to(&plan, heads, &Call { inputs, z: &z }),
            }
        });
        for pattern in patterns.into_iter().flatten() {
            // SAFETY: capacity was reserved, and the tasks have written every entry, since each is in some block.
            unsafe { pattern.set_len(plan.entries()) };
        }
    }

    fn attend_to<O: Element>(&self, plan: &Plan<'_>, heads: Range<usize>, call: &Call<'_, O>) {
        let tasks = plan.with_heads(self.threads(), heads.clone());
        plan.for_each(self, heads.len(), tasks.len(), |task| {
            let (block, heads) = &tasks[task];
            HeadBlock { call, block, heads: heads.clone() }.run_on(self);
        });
    }

    /// The scores of one head: scaled, capped, with the ALiBi bias; minus infinity where the key is hidden.
    ///
    /// # Shapes
    /// q: `[queries, n_heads * d_head]`; k: `[keys, n_kv_heads * d_head]`; out: each sequence's `[queries, keys]` in
    /// turn.
    ///
    /// # Panics
    /// As for [`Cpu::attention`], and if there is no such head.
    pub fn attention_scores(
        &self,
        spec: &Attention,
        head: usize,
        q: Rows<'_>,
        k: Rows<'_>,
        sequences: &[Sequence],
        out: &mut [f32],
    ) {
        let plan = self.plan(spec, head, sequences, out.len());
        assert_eq!(q.n_columns(), spec.n_heads * spec.d_head, "columns of q");
        assert_eq!(k.n_columns(), spec.n_kv_heads * spec.d_head, "columns of k");
        plan.check_rows(q.n_rows(), k.n_rows());
        let kv_head = spec.kv_head(head);
        let out = SharedRows::dense(out, 1, plan.entries());
        Keys::with(self, spec, k, kv_head..kv_head + 1, sequences, |keys| {
            plan.for_each(self, 1, plan.blocks().len(), |task| {
                let block = &plan.blocks()[task];
                // SAFETY: blocks are different rows of the pattern.
                let out = unsafe { out.part(0, block.entries(sequences)) };
                scores::HeadScores { spec, head, q, keys, sequences, block, out }.run_on(self);
            });
        });
    }

    /// The softmax of one head's scores, in place, over the keys that each query may see. Hidden keys get zero, and so
    /// does a whole row whose scores are all minus infinity.
    ///
    /// # Shapes
    /// scores: as [`Cpu::attention_scores`] writes them.
    ///
    /// # Panics
    /// If the shapes do not fit, or there is no such head.
    pub fn attention_softmax(
        &self,
        spec: &Attention,
        head: usize,
        sequences: &[Sequence],
        scores: &mut [f32],
    ) {
        let plan = self.plan(spec, head, sequences, scores.len());
        let scores = SharedRows::dense(scores, 1, plan.entries());
        let sink = spec.sinks.as_ref().map(|sinks| sinks[head]);
        plan.for_each(self, 1, plan.blocks().len(), |task| {
            let block = &plan.blocks()[task];
            // SAFETY: blocks are different rows of the pattern.
            let rows = unsafe { scores.part(0, block.entries(sequences)) };
            self.run(softmax::SoftmaxRows { spec, sink, sequences, block, rows });
        });
    }

    /// Mixes the values of one head: writes pattern · v into the head's columns of z. Hidden keys are skipped, whatever
    /// the pattern holds there; other columns of z stay unchanged.
    ///
    /// # Shapes
    /// pattern: as [`Cpu::attention_softmax`] leaves it; v: `[keys, n_kv_heads * d_value]`; z: `[queries, n_heads *
    /// d_value]`.
    ///
    /// # Panics
    /// As for [`Cpu::attention`], and if there is no such head.
    pub fn attention_mix(
        &self,
        spec: &Attention,
        head: usize,
        pattern: &[f32],
        v: Rows<'_>,
        sequences: &[Sequence],
        z: RowsMut<'_>,
    ) {
        let plan = self.plan(spec, head, sequences, pattern.len());
        assert_eq!(v.n_columns(), spec.n_kv_heads * spec.d_value, "columns of v");
        assert_eq!(z.n_columns(), spec.n_heads * spec.d_value, "columns of z");
        plan.check_rows(z.n_rows(), v.n_rows());
        let z = SharedRows::new(z);
        plan.for_each(self, 1, plan.blocks().len(), |task| {
            let block = &plan.blocks()[task];
            let pattern = &pattern[block.entries(sequences)];
            scratch::with(pattern.len(), |visible: &mut [f32]| {
                visible.copy_from_slice(pattern);
                self.run(Mixed { spec, head, pattern: visible, v, sequences, block, z: &z });
            });
        });
    }

    fn plan<'a>(&self, spec: &Attention, head: usize, sequences: &'a [Sequence], entries: usize) -> Plan<'a> {
        spec.check();
        assert!(head < spec.n_heads, "head {head} of {}", spec.n_heads);
        let plan = Plan::new(spec, sequences);
        assert_eq!(plan.entries(), entries, "entries of the pattern");
        plan
    }
}

struct Mixed<'a> {
    spec: &'a Attention,
    head: usize,
    /// A copy in which hidden keys become zero.
    pattern: &'a mut [f32],
    v: Rows<'a>,
    sequences: &'a [Sequence],
    block: &'a Block,
    z: &'a SharedRows<'a>,
}

impl Work for Mixed<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Mixed { spec, head, pattern, sequences, block, .. } = self;
        let sequence = &sequences[block.sequence];
        let stride = sequence.keys.len();
        for (row, visible) in pattern.chunks_exact_mut(stride).zip(block.visible(spec, sequence)) {
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
        }
        let pattern = mix::Pattern { values: pattern, first_key: 0, stride };
        mix::mix(v, spec, head, sequence, block, &pattern, self.v, self.z);
    }
}

#[cfg(test)]
mod tests;
