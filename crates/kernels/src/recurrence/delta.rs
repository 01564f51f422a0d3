//! The gated delta rule (arXiv 2412.06464): a state that decays and is corrected towards each key's value.

use std::ops::Range;

use super::{Columns, each_columns, each_token, load, store};
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut, math, scratch};

/// Sizes and weights of a gated delta rule.
#[derive(Debug, Clone, Copy)]
pub struct GatedDelta<'a> {
    /// Width of a query and of a key.
    pub d_key: usize,
    /// Width of a value.
    pub d_value: usize,
    /// Value heads that share a query and a key.
    pub values_per_key: usize,
    /// A, the logarithm of the state's decay per unit step: `[value heads]`.
    pub decay: &'a [f32],
    /// Added to the sum of squares when queries and keys are normalised to length 1.
    pub eps: f32,
}

impl Cpu {
    /// For each value head, with q and k of length 1: S = e^(step · A) S, S += k (β (v - kᵀ S)), out = qᵀ S / √d_key, β
    /// = sigmoid(strength). Each of `sequences` is a range of consecutive rows, with a state that is carried along.
    ///
    /// # Shapes
    /// q, k: `[rows, key heads * d_key]`; values, out: `[rows, value heads * d_value]`; steps, strengths: `[rows, value
    /// heads]`; states: `[sequences, value heads * d_key * d_value]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    pub fn gated_delta(
        &self,
        rule: GatedDelta<'_>,
        [q, k, values]: [Rows<'_>; 3],
        [steps, strengths]: [Rows<'_>; 2],
        sequences: &[Range<usize>],
        states: RowsMut<'_>,
        out: RowsMut<'_>,
    ) {
        let (heads, size) = (rule.decay.len(), rule.d_key * rule.d_value);
        assert_eq!(values.n_columns(), heads * rule.d_value, "heads of values");
        assert_eq!(
            (states.n_rows(), states.n_columns()),
            (sequences.len(), heads * size),
            "states of its heads"
        );
        let scale = (rule.d_key as f64).powf(-0.5) as f32;
        each_token(self, sequences, (states, out), [size, rule.d_value], |[_, head], row, state, out| {
            let first = head / rule.values_per_key * rule.d_key;
            let shared = first..first + rule.d_key;
            scratch::with(2 * rule.d_key, |unit| {
                let (query, key) = unit.split_at_mut(rule.d_key);
                to_length_one(&q.row(row)[shared.clone()], rule.eps, scale, query);
                to_length_one(&k.row(row)[shared], rule.eps, 1.0, key);
                self.run(Token {
                    decay: steps.row(row)[head] * rule.decay[head],
                    strength: strengths.row(row)[head],
                    query,
                    key,
                    value: &values.row(row)[head * rule.d_value..(head + 1) * rule.d_value],
                    state,
                    out,
                });
            });
        });
    }
}

/// out = x / √(sum of squares + eps) · scale
pub(crate) fn to_length_one(x: &[f32], eps: f32, scale: f32, out: &mut [f32]) {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let factor = ((squares + f64::from(eps)).sqrt().recip()) as f32;
    out.iter_mut().zip(x).for_each(|(out, x)| *out = x * factor * scale);
}

/// One token of one value head.
struct Token<'a> {
    decay: f32,
    strength: f32,
    query: &'a [f32],
    key: &'a [f32],
    value: &'a [f32],
    /// `[d_key, d_value]`
    state: &'a mut [f32],
    out: &'a mut [f32],
}

impl Work for Token<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        // From here on the factors themselves, not their logarithms.
        self.decay = v.lanes(math::exp(v, v.splat(self.decay)))[0];
        self.strength = v.lanes(math::sigmoid(v, v.splat(self.strength)))[0];
        each_columns(v, self.value.len(), &mut self);
    }
}

impl Columns for Token<'_> {
    #[inline(always)]
    fn run<V: Vector, const N: usize>(&mut self, v: V, at: usize) {
        let (decay, strength) = (v.splat(self.decay), v.splat(self.strength));
        let mut found = [v.splat(0.0); N];
        for (row, key) in self.state.chunks_exact_mut(self.value.len()).zip(self.key) {
            let key = v.splat(*key);
            let mut kept = load::<V, N>(v, row, at);
            for i in 0..N {
                kept[i] = v.mul(decay, kept[i]);
                found[i] = v.mul_add(kept[i], key, found[i]);
            }
            store::<V, N>(v, kept, row, at);
        }
        let value = load::<V, N>(v, self.value, at);
        let (mut missing, mut sum) = (value, value);
        for i in 0..N {
            (missing[i], sum[i]) = (v.mul(strength, v.sub(value[i], found[i])), v.splat(0.0));
        }
        let rows = self.state.chunks_exact_mut(self.value.len());
        for ((row, key), query) in rows.zip(self.key).zip(self.query) {
            let (key, query) = (v.splat(*key), v.splat(*query));
            let mut kept = load::<V, N>(v, row, at);
            for i in 0..N {
                kept[i] = v.mul_add(missing[i], key, kept[i]);
                sum[i] = v.mul_add(kept[i], query, sum[i]);
            }
            store::<V, N>(v, kept, row, at);
        }
        store::<V, N>(v, sum, self.out, at);
    }
}
