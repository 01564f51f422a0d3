//! Attention against f64; identical bits; hidden keys without effect.

use super::*;
use crate::bf16;
use crate::testing::{Matrix, bits, cpus, error, single_cpus};
use proptest::prelude::*;

/// A batch with an attention layer.
#[derive(Clone, Debug)]
struct Case {
    spec: Attention,
    /// Queries and keys of each sequence.
    lengths: Vec<(usize, usize)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let width = || prop_oneof![Just(4), Just(20), Just(32), Just(40), Just(64)];
    let heads = (1_usize..4, 1_usize..3, width(), prop::option::of(width()));
    let lengths = prop::collection::vec((0_usize..40, prop_oneof![2 => Just(0), 1 => 0_usize..70]), 0..4);
    let lengths = lengths.prop_map(|all| all.into_iter().map(|(n, before)| (n, n + before)).collect());
    let extras =
        (prop::option::of(0_usize..50), prop::option::of(2.0_f32..20.0), any::<bool>(), any::<bool>());
    (heads, lengths, extras).prop_map(
        |((shared, n_kv_heads, d_head, d_value), lengths, (window, softcap, alibi, sinks))| {
            let n_heads = shared * n_kv_heads;
            let per_head =
                |on: bool, factor: f32| on.then(|| (0..n_heads).map(|head| factor * head as f32).collect());
            let scale = 1.0 / (d_head as f32).sqrt();
            let (alibi, sinks) = (per_head(alibi, -0.1), per_head(sinks, 0.5));
            let alibi = alibi.map(|slopes| Alibi { slopes, rounded: window.map(|_| 0.75) });
            let d_value = d_value.unwrap_or(d_head);
            let spec =
                Attention { n_heads, n_kv_heads, d_head, d_value, scale, softcap, window, alibi, sinks };
            Case { spec, lengths }
        },
    )
}

struct Inputs {
    q: Matrix,
    k: Matrix,
    v: Matrix,
    sequences: Vec<Sequence>,
}

impl Case {
    /// Sequences with a gap of one row between them.
    fn inputs(&self) -> Inputs {
        let (mut queries, mut keys) = (0, 0);
        let mut sequences = Vec::new();
        for (n_queries, n_keys) in &self.lengths {
            sequences.push(Sequence { queries: queries..queries + n_queries, keys: keys..keys + n_keys });
            (queries, keys) = (queries + n_queries + 1, keys + n_keys + 1);
        }
        let Attention { n_heads, n_kv_heads, d_head, d_value, .. } = self.spec;
        let (wide, narrow, values) = (n_heads * d_head, n_kv_heads * d_head, n_kv_heads * d_value);
        Inputs {
            q: Matrix::random(5, queries, wide, wide + 3),
            k: Matrix::random(6, keys, narrow, narrow + 1),
            v: Matrix::random(7, keys, values, values),
            sequences,
        }
    }
}

fn attend(cpu: &Cpu, spec: &Attention, inputs: &Inputs) -> Matrix {
    let columns = spec.n_heads * spec.d_value;
    let mut z = Matrix::untouched(inputs.q.rows, columns, columns + 2);
    let Inputs { q, k, v, sequences } = inputs;
    cpu.attention(spec, q.view(), k.view(), v.view(), sequences, z.view_mut());
    z
}

fn pattern_size(sequences: &[Sequence]) -> usize {
    sequences.iter().map(|sequence| sequence.queries.len() * sequence.keys.len()).sum()
}

/// One head's pattern.
fn pattern(cpu: &Cpu, spec: &Attention, head: usize, inputs: &Inputs) -> Vec<f32> {
    let mut pattern = vec![0.0; pattern_size(&inputs.sequences)];
    cpu.attention_scores(spec, head, inputs.q.view(), inputs.k.view(), &inputs.sequences, &mut pattern);
    cpu.attention_softmax(spec, head, &inputs.sequences, &mut pattern);
    pattern
}

/// One head's output and pattern for one query, by the formulas.
fn expected(
    spec: &Attention,
    head: usize,
    inputs: &Inputs,
    sequence: &Sequence,
    query: usize,
) -> [Vec<f64>; 2] {
    let columns = |head: usize| head * spec.d_head..(head + 1) * spec.d_head;
    let shared = columns(head * spec.n_kv_heads / spec.n_heads);
    let position = sequence.keys.len() - sequence.queries.len() + query;
    let q = &inputs.q.view().row(sequence.queries.start + query)[columns(head)];
    let score = |key: usize| {
        let hidden = key > position || spec.window.is_some_and(|window| position - key >= window);
        if hidden {
            return f64::NEG_INFINITY;
        }
        let k = &inputs.k.view().row(sequence.keys.start + key)[shared.clone()];
        let dot: f64 = q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        let scaled = dot * f64::from(spec.scale);
        let capped = spec.softcap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh());
        capped
            + spec.alibi.as_ref().map_or(0.0, |alibi| match alibi.rounded {
                None => f64::from(alibi.slopes[head]) * key as f64,
                Some(by) => f64::from(bf16::nearest(alibi.slopes[head] * key as f32) * by),
            })
    };
    let scores: Vec<f64> = (0..sequence.keys.len()).map(score).collect();
    let sink = spec.sinks.as_ref().map_or(0.0, |sinks| f64::from(sinks[head]).exp());
    let total = scores.iter().map(|score| score.exp()).sum::<f64>() + sink;
    let weight = |score: &f64| if *score == f64::NEG_INFINITY { 0.0 } else { score.exp() / total };
    let weights: Vec<f64> = scores.iter().map(weight).collect();
    let mut z = vec![0.0; spec.d_value];
    for (key, weight) in weights.iter().enumerate() {
        let values = &inputs.v.view().row(sequence.keys.start + key)[spec.value_columns(spec.kv_head(head))];
        z.iter_mut().zip(values).for_each(|(z, value)| *z += weight * f64::from(*value));
    }
    [z, weights]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn attention_is_right_on_every_path(case in cases()) {
        let (spec, inputs) = (&case.spec, case.inputs());
        for cpu in cpus() {
            let z = attend(&cpu, spec, &inputs);
            prop_assert!(z.gaps_are_untouched());
            for head in 0..spec.n_heads {
                let pattern = pattern(&cpu, spec, head, &inputs);
                let mut start = 0;
                for sequence in &inputs.sequences {
                    for query in 0..sequence.queries.len() {
                        let [expected_z, expected_pattern] = expected(spec, head, &inputs, sequence, query);
                        let found = &pattern[start..][..sequence.keys.len()];
                        start += sequence.keys.len();
                        // Scores are of order 1 to 10, each off by about 1e-7 of that, in the exponent.
                        prop_assert!(error(found, &expected_pattern) < 1e-5);
                        for (found, expected) in found.iter().zip(&expected_pattern) {
                            prop_assert!(*expected != 0.0 || *found == 0.0, "a hidden key has a weight");
                        }
                        let row = z.view().row(sequence.queries.start + query);
                        prop_assert!(error(&row[spec.value_columns(head)], &expected_z) < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn attention_gives_the_bits_of_scores_softmax_and_mix(case in cases()) {
        let (spec, inputs) = (&case.spec, case.inputs());
        for cpu in cpus() {
            let fused = attend(&cpu, spec, &inputs);
            let mut z = Matrix::untouched(fused.rows, fused.cols, fused.stride);
            for head in 0..spec.n_heads {
                let pattern = pattern(&cpu, spec, head, &inputs);
                cpu.attention_mix(spec, head, &pattern, inputs.v.view(), &inputs.sequences, z.view_mut());
            }
            prop_assert_eq!(bits(&z.values), bits(&fused.values));
        }
    }

    #[test]
    fn kept_patterns_are_those_of_scores_and_softmax(case in cases(), cut in 0_usize..4) {
        let (spec, inputs) = (&case.spec, case.inputs());
        let Inputs { q, k, v, sequences } = &inputs;
        for cpu in cpus() {
            let columns = spec.n_heads * spec.d_value;
            let mut z = Matrix::untouched(q.rows, columns, columns + 2);
            let cut = cut.min(spec.n_heads);
            for heads in [0..cut, cut..spec.n_heads] {
                if heads.is_empty() {
                    continue;
                }
                let mut kept = vec![vec![f32::NAN; 3]; heads.len()];
                let (all, z) = (heads.clone(), z.view_mut());
                cpu.attention_keeping(spec, all, q.view(), k.view(), v.view(), sequences, &mut kept, z);
                for (number, head) in heads.enumerate() {
                    prop_assert_eq!(bits(&kept[number]), bits(&pattern(&cpu, spec, head, &inputs)));
                }
            }
            prop_assert_eq!(bits(&z.values), bits(&attend(&cpu, spec, &inputs).values));
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(case in cases()) {
        let inputs = case.inputs();
        for path in crate::vector::Path::all() {
            let one = attend(&Cpu::with_path(path, 1), &case.spec, &inputs);
            let five = attend(&Cpu::with_path(path, 5), &case.spec, &inputs);
            prop_assert_eq!(bits(&one.values), bits(&five.values));
        }
    }

    #[test]
    fn a_query_gives_the_same_bits_alone_in_its_sequence_and_in_a_batch(case in cases()) {
        let (spec, inputs) = (&case.spec, case.inputs());
        for cpu in single_cpus() {
            let together = attend(&cpu, spec, &inputs);
            for Sequence { queries, keys } in &inputs.sequences {
                for (query, row) in queries.clone().enumerate() {
                    // As in decoding: no keys beyond the query's own position.
                    let own = keys.len() - queries.len() + query + 1;
                    let sequences = vec![Sequence { queries: 0..1, keys: 0..own }];
                    let cut = |matrix: &Matrix, rows: Range<usize>| {
                        let values = matrix.values[rows.start * matrix.stride..rows.end * matrix.stride].to_vec();
                        Matrix { values, rows: rows.len(), ..*matrix }
                    };
                    let seen = keys.start..keys.start + own;
                    let (k, v) = (cut(&inputs.k, seen.clone()), cut(&inputs.v, seen));
                    let alone = Inputs { q: cut(&inputs.q, row..row + 1), k, v, sequences };
                    let z = attend(&cpu, spec, &alone);
                    prop_assert_eq!(bits(z.view().row(0)), bits(together.view().row(row)));
                }
            }
        }
    }

    #[test]
    fn what_stands_at_hidden_keys_has_no_effect(case in cases(), bad in 0_usize..40, infinite in any::<bool>()) {
        let (spec, inputs) = (&case.spec, case.inputs());
        let mut spoilt = case.inputs();
        for sequence in &inputs.sequences {
            if bad < sequence.keys.len() {
                let value = if infinite { f32::INFINITY } else { f32::NAN };
                spoilt.k.view_mut().row_mut(sequence.keys.start + bad).fill(value);
                spoilt.v.view_mut().row_mut(sequence.keys.start + bad).fill(value);
            }
        }
        for cpu in single_cpus() {
            let (clean, found) = (attend(&cpu, spec, &inputs), attend(&cpu, spec, &spoilt));
            for sequence in &inputs.sequences {
                for (query, row) in sequence.queries.clone().enumerate() {
                    if spec.visible(sequence, query).contains(&bad) {
                        prop_assert!(found.view().row(row).iter().all(|value| !value.is_finite()));
                    } else {
                        prop_assert_eq!(bits(found.view().row(row)), bits(clean.view().row(row)));
                    }
                }
            }
        }
    }

    #[test]
    fn an_edited_pattern_is_used_as_it_is_where_keys_are_visible(case in cases()) {
        let (spec, inputs) = (&case.spec, case.inputs());
        for cpu in single_cpus() {
            let mut edited = crate::testing::values(11, pattern_size(&inputs.sequences));
            // Neither zero nor a number: position hides a key, not its weight.
            let mut start = 0;
            for sequence in &inputs.sequences {
                for query in 0..sequence.queries.len() {
                    let row = &mut edited[start..start + sequence.keys.len()];
                    start += row.len();
                    let visible = spec.visible(sequence, query);
                    row[..visible.start].fill(f32::NAN);
                    row[visible.end..].fill(f32::NAN);
                }
            }
            for head in 0..spec.n_heads {
                let columns = spec.n_heads * spec.d_value;
                let mut z = Matrix::untouched(inputs.q.rows, columns, columns);
                cpu.attention_mix(spec, head, &edited, inputs.v.view(), &inputs.sequences, z.view_mut());
                let mut start = 0;
                for sequence in &inputs.sequences {
                    for (query, row) in sequence.queries.clone().enumerate() {
                        let weights = &edited[start..][..sequence.keys.len()];
                        start += weights.len();
                        let columns = spec.value_columns(spec.kv_head(head));
                        let mut expected = vec![0.0; spec.d_value];
                        for key in spec.visible(sequence, query) {
                            let values = &inputs.v.view().row(sequence.keys.start + key)[columns.clone()];
                            for (z, value) in expected.iter_mut().zip(values) {
                                *z += f64::from(weights[key]) * f64::from(*value);
                            }
                        }
                        // Sums of up to a hundred products in sequence; some cancel.
                        prop_assert!(error(&z.view().row(row)[spec.value_columns(head)], &expected) < 1e-5);
                    }
                }
            }
        }
    }
}

fn plain(d_head: usize) -> Attention {
    let scale = 1.0;
    Attention {
        n_heads: 1,
        n_kv_heads: 1,
        d_head,
        d_value: d_head,
        scale,
        softcap: None,
        window: None,
        alibi: None,
        sinks: None,
    }
}

#[test]
fn a_row_without_any_key_is_zeros_and_one_with_nan_is_nan() {
    let sequences = [Sequence { queries: 0..3, keys: 0..40 }];
    for cpu in single_cpus() {
        for sinks in [None, Some(vec![0.0]), Some(vec![f32::NEG_INFINITY])] {
            let spec = Attention { sinks, ..plain(4) };
            let mut scores = vec![f32::NEG_INFINITY; 3 * 40];
            scores[40 + 5] = f32::NAN;
            scores[80 + 5] = 0.0;
            cpu.attention_softmax(&spec, 0, &sequences, &mut scores);
            assert_eq!(scores[..40], [0.0; 40]);
            assert!(scores[40..79].iter().all(|weight| weight.is_nan()), "{scores:?}");
            assert_eq!(scores[79], 0.0, "a hidden key");
            let half = spec.sinks.as_ref().is_some_and(|sinks| sinks[0] == 0.0);
            assert_eq!(scores[85], if half { 0.5 } else { 1.0 });
        }
    }
}

#[test]
fn scores_of_hidden_keys_are_minus_infinity() {
    let spec = Attention { window: Some(2), ..plain(4) };
    let sequences = [Sequence { queries: 0..3, keys: 0..4 }];
    let (q, k) = (Matrix::random(1, 3, 4, 4), Matrix::random(2, 4, 4, 4));
    for cpu in single_cpus() {
        let mut scores = vec![0.0; 12];
        cpu.attention_scores(&spec, 0, q.view(), k.view(), &sequences, &mut scores);
        let hidden: Vec<bool> = scores.iter().map(|score| *score == f32::NEG_INFINITY).collect();
        let (o, x) = (false, true);
        assert_eq!(hidden, [o, o, x, x, x, o, o, x, x, x, o, o]);
    }
}

#[test]
#[should_panic(expected = "share a query")]
fn two_sequences_cannot_write_the_same_rows() {
    let both = [Sequence { queries: 0..3, keys: 0..3 }, Sequence { queries: 2..4, keys: 0..4 }];
    let x = Matrix::random(1, 4, 4, 4);
    let mut z = x.clone();
    let cpu = Cpu::new(crate::Simd::best(), 1);
    cpu.attention(&plain(4), x.view(), x.view(), x.view(), &both, z.view_mut());
}
