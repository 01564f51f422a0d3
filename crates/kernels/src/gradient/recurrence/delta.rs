//! The gradients of the gated delta rule.

use std::ops::Range;

use super::{Part, Token, collect, dot, exponential, sigmoid, walk_back};
use crate::recurrence::to_length_one;
use crate::vector::Vector;
use crate::{Cpu, GatedDelta, Rows, RowsMut, give_back, large_values};

impl Cpu {
    /// Adds the gradients of what [`Cpu::gated_delta`] reads, from that of its output `g`, for sequences that begin without
    /// a state. With α = e^(step · A), u = v - α kᵀ S, S' = α S + β k uᵀ and Γ the gradient of S': of v it is δ = β Γᵀ k,
    /// of β uᵀ Γᵀ k, of k β Γ u - α S δ, and of α S it is Γ - k δᵀ.
    ///
    /// # Shapes
    /// As of [`Cpu::gated_delta`]; out: of q, of k, of values; of steps, of strengths.
    ///
    /// # Panics
    /// If the shapes do not fit, or sequences overlap or do not ascend.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn gated_delta_back(
        &self,
        rule: GatedDelta<'_>,
        [q, k, values]: [Rows<'_>; 3],
        [steps, strengths]: [Rows<'_>; 2],
        sequences: &[Range<usize>],
        g: Rows<'_>,
        [mut of_q, mut of_k, mut of_values]: [RowsMut<'_>; 3],
        [mut of_steps, mut of_strengths]: [RowsMut<'_>; 2],
    ) {
        let GatedDelta { d_key, d_value, values_per_key, .. } = rule;
        // A task has the heads of values that share a key.
        let (rows, tasks) = (q.n_rows(), q.n_columns() / d_key);
        let width = 2 * d_key + values_per_key * (d_value + 2);
        let heads = |task: usize| task * values_per_key..(task + 1) * values_per_key;
        let mut all = large_values(rows * tasks * width);
        all.fill(0.0);
        let part = |head: usize| Head {
            rule,
            head,
            q,
            k,
            values,
            steps,
            strengths,
            g,
            query: vec![0.0; d_key],
            key: vec![0.0; d_key],
            of_query: vec![0.0; d_key],
            of_key: vec![0.0; d_key],
            missing: vec![0.0; d_value],
            of_missing: vec![0.0; d_value],
        };
        let out = RowsMut::dense(&mut all, rows, tasks * width);
        walk_back(self, sequences, (tasks, width), heads, part, out);
        let all_rows = Rows::dense(&all, rows, tasks * width);
        for task in 0..tasks {
            let first = task * width;
            collect(all_rows, first, of_q.reborrow(), task * d_key, d_key);
            collect(all_rows, first + d_key, of_k.reborrow(), task * d_key, d_key);
            for (place, head) in heads(task).enumerate() {
                let first = first + 2 * d_key + place * (d_value + 2);
                collect(all_rows, first, of_values.reborrow(), head * d_value, d_value);
                collect(all_rows, first + d_value, of_steps.reborrow(), head, 1);
                collect(all_rows, first + d_value + 1, of_strengths.reborrow(), head, 1);
            }
        }
        give_back(all);
    }
}

/// One head of values.
struct Head<'a> {
    rule: GatedDelta<'a>,
    head: usize,
    q: Rows<'a>,
    k: Rows<'a>,
    values: Rows<'a>,
    steps: Rows<'a>,
    strengths: Rows<'a>,
    g: Rows<'a>,
    /// Room for a token's query and key of length 1, what its value lacks, and gradients of these.
    query: Vec<f32>,
    key: Vec<f32>,
    of_query: Vec<f32>,
    of_key: Vec<f32>,
    missing: Vec<f32>,
    of_missing: Vec<f32>,
}

impl Head<'_> {
    #[inline(always)]
    fn shared(&self) -> Range<usize> {
        let first = self.head / self.rule.values_per_key * self.rule.d_key;
        first..first + self.rule.d_key
    }

    #[inline(always)]
    fn own(&self) -> Range<usize> {
        self.head * self.rule.d_value..(self.head + 1) * self.rule.d_value
    }

    fn scale(&self) -> f32 {
        (self.rule.d_key as f64).powf(-0.5) as f32
    }

    /// The key of length 1, and v - α kᵀ S; says α and β.
    #[inline(always)]
    fn look<V: Vector>(&mut self, v: V, row: usize, before: &[f32]) -> [f32; 2] {
        let (shared, own) = (self.shared(), self.own());
        to_length_one(&self.k.row(row)[shared], self.rule.eps, 1.0, &mut self.key);
        let factor = exponential(v, self.steps.row(row)[self.head] * self.rule.decay[self.head]);
        self.missing.copy_from_slice(&self.values.row(row)[own]);
        for (state, key) in before.chunks_exact(self.rule.d_value).zip(&self.key) {
            let by = factor * key;
            for (missing, state) in self.missing.iter_mut().zip(state) {
                *missing -= by * state;
            }
        }
        [factor, sigmoid(v, self.strengths.row(row)[self.head])]
    }
}

impl Part for Head<'_> {
    fn size(&self) -> usize {
        self.rule.d_key * self.rule.d_value
    }

    #[inline(always)]
    fn forward<V: Vector>(&mut self, v: V, row: usize, _: bool, state: &mut [f32]) {
        let [factor, strength] = self.look(v, row, state);
        for (state, key) in state.chunks_exact_mut(self.rule.d_value).zip(&self.key) {
            let by = strength * key;
            for (state, missing) in state.iter_mut().zip(&self.missing) {
                *state = factor * *state + by * missing;
            }
        }
    }

    #[inline(always)]
    fn back<V: Vector>(&mut self, v: V, token: Token<'_>, g: &mut [f32], out: &mut [f32]) {
        let Token { row, before, after, .. } = token;
        let [factor, strength] = self.look(v, row, before);
        let (shared, scale, d_value) = (self.shared(), self.scale(), self.rule.d_value);
        to_length_one(&self.q.row(row)[shared.clone()], self.rule.eps, scale, &mut self.query);
        let of_out = &self.g.row(row)[self.own()];
        self.of_missing.fill(0.0);
        for (i, g) in g.chunks_exact_mut(d_value).enumerate() {
            let (query, key) = (self.query[i], self.key[i]);
            self.of_query[i] = dot(&after[i * d_value..(i + 1) * d_value], of_out);
            for ((g, of_out), of_missing) in g.iter_mut().zip(of_out).zip(&mut self.of_missing) {
                *g += query * of_out;
                *of_missing += key * *g;
            }
            self.of_key[i] = strength * dot(g, &self.missing);
        }
        let of_strength = dot(&self.of_missing, &self.missing);
        // From here on the gradient of the value.
        for of_missing in &mut self.of_missing {
            *of_missing *= strength;
        }
        let mut of_factor = 0.0;
        for (i, g) in g.chunks_exact_mut(d_value).enumerate() {
            let (before, key) = (&before[i * d_value..(i + 1) * d_value], self.key[i]);
            self.of_key[i] -= factor * dot(before, &self.of_missing);
            for (g, of_value) in g.iter_mut().zip(&self.of_missing) {
                *g -= key * of_value;
            }
            of_factor += dot(g, before);
            for g in g.iter_mut() {
                *g *= factor;
            }
        }
        let (of_q, out) = out.split_at_mut(self.rule.d_key);
        let (of_k, out) = out.split_at_mut(self.rule.d_key);
        of_length_one(&self.q.row(row)[shared.clone()], self.rule.eps, scale, &self.of_query, of_q);
        of_length_one(&self.k.row(row)[shared], self.rule.eps, 1.0, &self.of_key, of_k);
        let place = self.head % self.rule.values_per_key * (d_value + 2);
        let (of_value, rates) = out[place..place + d_value + 2].split_at_mut(d_value);
        of_value.iter_mut().zip(&self.of_missing).for_each(|(sum, g)| *sum += g);
        rates[0] += self.rule.decay[self.head] * factor * of_factor;
        rates[1] += of_strength * strength * (1.0 - strength);
    }
}

/// Adds the gradient of x from that of y = x · r · scale, r = 1 / √(sum of squares + eps): r · scale (g - x r² (x · g)).
fn of_length_one(x: &[f32], eps: f32, scale: f32, g: &[f32], out: &mut [f32]) {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let factor = (squares + f64::from(eps)).sqrt().recip();
    let along: f64 = x.iter().zip(g).map(|(x, g)| f64::from(*x) * f64::from(*g)).sum();
    let (by, along) = (factor * f64::from(scale), factor * factor * along);
    for ((out, x), g) in out.iter_mut().zip(x).zip(g) {
        *out += (by * (f64::from(*g) - f64::from(*x) * along)) as f32;
    }
}
