//! Gradients of one head's attention, operation by operation.

use crate::attention::{Attention, Sequence};
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut, large_values};

impl Cpu {
    /// The gradient of a head's pattern from that of its mixed values z = pattern · v; zero where the key is hidden.
    ///
    /// # Shapes
    /// dz: `[queries, n_heads * d_value]`; v: `[keys, n_kv_heads * d_value]`; out: as of [`Cpu::attention_scores`].
    ///
    /// # Panics
    /// As for [`Cpu::attention_scores`].
    pub fn attention_pattern_back(
        &self,
        spec: &Attention,
        head: usize,
        dz: Rows<'_>,
        v: Rows<'_>,
        sequences: &[Sequence],
        out: &mut [f32],
    ) {
        // Gradients times values are computed as scores are: query times key.
        let plain =
            Attention { d_head: spec.d_value, scale: 1.0, softcap: None, alibi: None, ..spec.clone() };
        self.attention_scores(&plain, head, dz, v, sequences, out);
        self.for_squares(sequences, out, |sequence, query, row| {
            let visible = spec.visible(sequence, query);
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
        });
    }

    /// The gradient of a head's scores from that of its pattern, in place: p · (g - Σ p g). Where the pattern is zero so is
    /// the gradient, whatever `g` holds there.
    ///
    /// # Shapes
    /// pattern, g: as of [`Cpu::attention_softmax`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn attention_softmax_back(
        &self,
        spec: &Attention,
        sequences: &[Sequence],
        pattern: &[f32],
        g: &mut [f32],
    ) {
        assert_eq!(pattern.len(), g.len(), "a pattern and its gradient");
        let mut start = 0;
        for sequence in sequences {
            let (width, size) = (sequence.keys.len(), sequence.queries.len() * sequence.keys.len());
            let rows = RowsMut::dense(&mut g[start..start + size], sequence.queries.len(), width);
            let pattern = &pattern[start..start + size];
            self.for_each_row(rows, |query, g| {
                let visible = spec.visible(sequence, query);
                let pattern = &pattern[query * width..][visible.clone()];
                g[..visible.start].fill(0.0);
                g[visible.end..].fill(0.0);
                self.run(SoftmaxBack { pattern, g: &mut g[visible] });
            });
            start += size;
        }
    }

    /// The gradients of a head's queries and keys from that of its scores, which is scaled in place. The head's columns
    /// of `dq` are written and those of `dk` added to; others stay unchanged.
    ///
    /// # Shapes
    /// q: `[queries, n_heads * d_head]`; k: `[keys, n_kv_heads * d_head]`; g: as of [`Cpu::attention_scores`]; dq:
    /// `[queries, n_heads * d_head]`; dk: `[keys, n_heads * d_head]`, one copy of the keys per query head.
    ///
    /// # Panics
    /// As for [`Cpu::attention_scores`].
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn attention_scores_back(
        &self,
        spec: &Attention,
        head: usize,
        q: Rows<'_>,
        k: Rows<'_>,
        sequences: &[Sequence],
        g: &mut [f32],
        dq: RowsMut<'_>,
        dk: RowsMut<'_>,
    ) {
        match spec.softcap {
            None => g.iter_mut().for_each(|g| *g *= spec.scale),
            Some(cap) => {
                // The capped scores before ALiBi: c · tanh, with slope 1 - tanh².
                let capped = Attention { alibi: None, ..spec.clone() };
                let mut scores = large_values(g.len());
                self.attention_scores(&capped, head, q, k, sequences, &mut scores);
                for (g, score) in g.iter_mut().zip(&scores) {
                    let t = score / cap;
                    // A hidden score is minus infinity, and its gradient is zero.
                    *g = if *g == 0.0 { 0.0 } else { *g * (1.0 - t * t) * spec.scale };
                }
                crate::give_back(scores);
            }
        }
        // Mix keys and queries the way values are mixed elsewhere.
        let mixed = Attention { d_value: spec.d_head, ..spec.clone() };
        self.attention_mix(&mixed, head, g, k, sequences, dq);
        self.attention_mix_keys(&mixed, head, g, q, sequences, dk);
    }

    /// Calls `f` with each sequence, query and row of a pattern-shaped array.
    fn for_squares(
        &self,
        sequences: &[Sequence],
        square: &mut [f32],
        f: impl Fn(&Sequence, usize, &mut [f32]) + Sync,
    ) {
        let mut start = 0;
        for sequence in sequences {
            let (rows, width) = (sequence.queries.len(), sequence.keys.len());
            let part = RowsMut::dense(&mut square[start..start + rows * width], rows, width);
            self.for_each_row(part, |query, row| f(sequence, query, row));
            start += rows * width;
        }
    }
}

/// The softmax backward of one row.
struct SoftmaxBack<'a> {
    pattern: &'a [f32],
    g: &'a mut [f32],
}

impl Work for SoftmaxBack<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let SoftmaxBack { pattern, g } = self;
        for (g, p) in g.iter_mut().zip(pattern) {
            if *p == 0.0 {
                *g = 0.0;
            }
        }
        let mut sums = v.splat(0.0);
        let mut start = 0;
        while start < g.len() {
            let end = g.len().min(start + V::LANES);
            sums = v.mul_add(v.load_or(&pattern[start..end], 0.0), v.load_or(&g[start..end], 0.0), sums);
            start = end;
        }
        let sum = v.sum(sums);
        for (g, p) in g.iter_mut().zip(pattern) {
            *g = p * (*g - sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Alibi;
    use crate::testing::{Matrix, bits, cpus};
    use proptest::prelude::*;

    /// Σ g · z of one head in f64, for central differences.
    fn objective(
        spec: &Attention,
        head: usize,
        [q, k, v, g]: [&[f64]; 4],
        sequences: &[Sequence],
        [wq, wk, wv, wz]: [usize; 4],
    ) -> f64 {
        let (d, kv) = (spec.d_head, head / (spec.n_heads / spec.n_kv_heads));
        let dv = spec.d_value;
        let mut total = 0.0;
        for sequence in sequences {
            for query in 0..sequence.queries.len() {
                let row = sequence.queries.start + query;
                let visible = spec.visible(sequence, query);
                let scores: Vec<f64> = visible
                    .clone()
                    .map(|key| {
                        let at = sequence.keys.start + key;
                        let dot: f64 =
                            (0..d).map(|i| q[row * wq + head * d + i] * k[at * wk + kv * d + i]).sum();
                        let mut score = dot * f64::from(spec.scale);
                        if let Some(cap) = spec.softcap {
                            score = f64::from(cap) * (score / f64::from(cap)).tanh();
                        }
                        score + spec.alibi.as_ref().map_or(0.0, |a| f64::from(a.slopes[head]) * key as f64)
                    })
                    .collect();
                let sink = spec.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
                let sum: f64 = scores.iter().map(|s| s.exp()).sum::<f64>() + sink;
                for (score, key) in scores.iter().zip(visible) {
                    let at = sequence.keys.start + key;
                    let p = score.exp() / sum;
                    total += (0..dv)
                        .map(|i| p * v[at * wv + kv * dv + i] * g[row * wz + head * dv + i])
                        .sum::<f64>();
                }
            }
        }
        total
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn gradients_of_attention_are_central_differences_and_the_same_alone(
            d_head in 1_usize..40, d_value in 1_usize..40, lengths in proptest::collection::vec(1_usize..30, 1..3),
            window in proptest::option::of(1_usize..20), softcap in any::<bool>(), alibi in any::<bool>(), sinks in any::<bool>(),
        ) {
            let spec = Attention {
                n_heads: 4, n_kv_heads: 2, d_head, d_value, scale: 0.4, softcap: softcap.then_some(1.5), window,
                alibi: alibi.then(|| Alibi { slopes: vec![0.1, 0.2, 0.3, 0.4], rounded: None }), sinks: sinks.then(|| vec![0.3; 4]),
            };
            let head = 2;
            let tokens: usize = lengths.iter().sum();
            let mut sequences = Vec::new();
            let mut start = 0;
            for length in &lengths {
                sequences.push(Sequence { queries: start..start + length, keys: start..start + length });
                start += length;
            }
            let widths = [4 * d_head, 2 * d_head, 2 * d_value, 4 * d_value];
            let [q, k, v, g]: [Matrix; 4] =
                std::array::from_fn(|i| Matrix::random(i as u64 + 1, tokens, widths[i], widths[i]));
            let wide = |m: &Matrix| m.values.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            let inputs = [&q, &k, &v, &g].map(wide);
            let mut first: Option<Vec<u32>> = None;
            for cpu in cpus() {
                let zeros = |width: usize| Matrix { values: vec![0.0; tokens * width], rows: tokens, cols: width, stride: width };
                let back = |sequences: &[Sequence]| {
                    let size = sequences.iter().map(|s| s.keys.len() * s.queries.len()).sum();
                    let (mut pattern, mut d) = (vec![0.0; size], vec![0.0; size]);
                    cpu.attention_scores(&spec, head, q.view(), k.view(), sequences, &mut pattern);
                    cpu.attention_softmax(&spec, head, sequences, &mut pattern);
                    let [mut dq, mut dk, mut dv] = [4 * d_head, 4 * d_head, 4 * d_value].map(zeros);
                    cpu.attention_mix_keys(&spec, head, &pattern, g.view(), sequences, dv.view_mut());
                    cpu.attention_pattern_back(&spec, head, g.view(), v.view(), sequences, &mut d);
                    cpu.attention_softmax_back(&spec, sequences, &pattern, &mut d);
                    cpu.attention_scores_back(
                        &spec, head, q.view(), k.view(), sequences, &mut d, dq.view_mut(), dk.view_mut(),
                    );
                    [dq, dk, dv]
                };
                let all = back(&sequences);
                // The last sequence alone, with its queries in two parts.
                let alone = back(&sequences[sequences.len() - 1..]);
                let last = sequences[sequences.len() - 1].queries.clone();
                for (all, alone) in all.iter().zip(&alone) {
                    prop_assert_eq!(
                        bits(all.view().rows(last.clone()).data()), bits(alone.view().rows(last.clone()).data())
                    );
                }
                if cpu.simd() == crate::Simd::Portable {
                    let found = bits(&all[1].values);
                    prop_assert_eq!(first.get_or_insert_with(|| found.clone()), &found);
                }
                for (which, (found, width)) in all.iter().zip(widths).enumerate() {
                    let d_head = if which == 2 { d_value } else { d_head };
                    let own = if which == 0 { head } else { head / 2 } * d_head;
                    for token in 0..tokens {
                        for i in 0..d_head.min(3) {
                            let moved = |by: f64| {
                                let mut inputs = inputs.clone();
                                inputs[which][token * width + own + i] += by;
                                let [q, k, v, g] = &inputs;
                                objective(&spec, head, [q, k, v, g], &sequences, widths)
                            };
                            let expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                            let found = f64::from(found.view().row(token)[head * d_head + i]);
                            prop_assert!((found - expected).abs() < 1e-3 * (1.0 + expected.abs()), "{which} {token}: {found} {expected}");
                        }
                    }
                }
            }
        }
    }
}
