//! Recurrences against f64; identical bits in one piece and in several, on any number of threads.

use super::*;
use crate::testing::{Matrix, bits, cpus, error, values};
use crate::{Activation, Cpu, Rows, RowsMut};

/// The tests' rows: two sequences.
const SEQUENCES: [Range<usize>; 2] = [0..7, 7..12];
const ROWS: usize = 12;

/// Sequences, whether each begins a row, states, outputs.
type Run<'a> = dyn Fn(&Cpu, &[(Range<usize>, bool)], RowsMut<'_>, RowsMut<'_>) + 'a;

/// Checks a recurrence that leaves `width` outputs a row and `size` numbers of state a sequence.
fn check(name: &str, [width, size]: [usize; 2], run: &Run<'_>, expected: &[f64], allowed: f64) {
    for cpu in cpus() {
        let whole = |pieces: &[Vec<(Range<usize>, bool)>]| {
            let mut states = vec![0.0; 2 * size];
            let mut out = vec![0.0; ROWS * width];
            for piece in pieces {
                let states = RowsMut::dense(&mut states, 2, size);
                run(&cpu, piece, states, RowsMut::dense(&mut out, ROWS, width));
            }
            (out, states)
        };
        let all = SEQUENCES.map(|sequence| (sequence, true)).to_vec();
        let (out, states) = whole(&[all]);
        let found = error(&out, expected);
        assert!(found < allowed, "{name} on {}: {found:.1e}", cpu.simd());
        // The first sequence in three pieces, the second in two and an empty one.
        let pieces = [
            vec![(0..1, true), (7..7, true)],
            vec![(1..4, false), (7..10, true)],
            vec![(4..7, false), (10..12, false)],
        ];
        let (again, states_again) = whole(&pieces);
        assert_eq!(bits(&out), bits(&again), "{name} in pieces on {}", cpu.simd());
        assert_eq!(bits(&states), bits(&states_again), "{name}: states on {}", cpu.simd());
    }
}

fn ranges(sequences: &[(Range<usize>, bool)]) -> Vec<Range<usize>> {
    sequences.iter().map(|(sequence, _)| sequence.clone()).collect()
}

/// A value as f64.
fn at(rows: Rows<'_>, row: usize, column: usize) -> f64 {
    f64::from(rows.row(row)[column])
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Positive step sizes.
fn steps(seed: u64, columns: usize) -> Matrix {
    let mut steps = Matrix::random(seed, ROWS, columns, columns + 1);
    steps.values.iter_mut().for_each(|x| *x = x.abs() + 0.05);
    steps
}

/// Negative logarithms of decays.
fn decays(seed: u64, count: usize) -> Vec<f32> {
    values(seed, count).iter().map(|x| -x.abs() - 0.1).collect()
}

#[test]
fn the_selective_scan_is_its_recurrence() {
    for channels in [3, 70] {
        let size = 5;
        let (x, step) = (Matrix::random(1, ROWS, channels, channels + 3), steps(2, channels));
        let [b, c] = [3, 4].map(|seed| Matrix::random(seed, ROWS, size, size));
        let (decay, skip) = (decays(5, size * channels), values(6, channels));
        let mut expected = vec![0.0; ROWS * channels];
        for sequence in SEQUENCES {
            let mut h = vec![0.0_f64; size * channels];
            for row in sequence {
                for channel in 0..channels {
                    let (dt, x) = (at(step.view(), row, channel), at(x.view(), row, channel));
                    let mut sum = f64::from(skip[channel]) * x;
                    for n in 0..size {
                        let i = n * channels + channel;
                        h[i] = (dt * f64::from(decay[i])).exp() * h[i] + dt * x * at(b.view(), row, n);
                        sum += h[i] * at(c.view(), row, n);
                    }
                    expected[row * channels + channel] = sum;
                }
            }
        }
        let scan = SelectiveScan { decay: &decay, skip: &skip };
        let run = |cpu: &Cpu, sequences: &[(Range<usize>, bool)], states: RowsMut<'_>, out: RowsMut<'_>| {
            let sequences = ranges(sequences);
            cpu.selective_scan(scan, x.view(), step.view(), [b.view(), c.view()], &sequences, states, out);
        };
        check("selective scan", [channels, size * channels], &run, &expected, 2e-6);
    }
}

#[test]
fn the_state_space_is_its_recurrence() {
    for (heads, d_head) in [(4, 5), (2, 100)] {
        let (d_state, width) = (6, heads * d_head);
        let (x, step) = (Matrix::random(1, ROWS, width, width + 3), steps(2, heads));
        let [b, c] = [3, 4].map(|seed| Matrix::random(seed, ROWS, 2 * d_state, 2 * d_state));
        let (decay, skip) = (decays(5, heads), values(6, heads));
        let mut expected = vec![0.0; ROWS * width];
        for sequence in SEQUENCES {
            let mut s = vec![0.0_f64; width * d_state];
            for row in sequence {
                for column in 0..width {
                    let head = column / d_head;
                    let group = head / (heads / 2) * d_state;
                    let (dt, x) = (at(step.view(), row, head), at(x.view(), row, column));
                    let mut sum = f64::from(skip[head]) * x;
                    for n in 0..d_state {
                        let s = &mut s[column * d_state + n];
                        *s = (dt * f64::from(decay[head])).exp() * *s + dt * x * at(b.view(), row, group + n);
                        sum += *s * at(c.view(), row, group + n);
                    }
                    expected[row * width + column] = sum;
                }
            }
        }
        let space = StateSpace { d_head, heads_per_group: heads / 2, d_state, decay: &decay, skip: &skip };
        let run = |cpu: &Cpu, sequences: &[(Range<usize>, bool)], states: RowsMut<'_>, out: RowsMut<'_>| {
            let sequences = ranges(sequences);
            cpu.state_space(space, x.view(), step.view(), [b.view(), c.view()], &sequences, states, out);
        };
        check("state space", [width, width * d_state], &run, &expected, 2e-6);
    }
}

#[test]
fn the_gated_delta_rule_is_its_recurrence() {
    for d_value in [5, 100] {
        let (heads, d_key) = (4, 6);
        let [q, k] = [1, 2].map(|seed| Matrix::random(seed, ROWS, 2 * d_key, 2 * d_key));
        let v = Matrix::random(3, ROWS, heads * d_value, heads * d_value + 2);
        let (step, strength) = (steps(4, heads), Matrix::random(5, ROWS, heads, heads));
        let decay = decays(6, heads);
        let eps = 1e-6_f32;
        let unit = |rows: Rows<'_>, row: usize, first: usize| -> Vec<f64> {
            let x: Vec<f64> = (first..first + d_key).map(|i| at(rows, row, i)).collect();
            let length = (x.iter().map(|x| x * x).sum::<f64>() + f64::from(eps)).sqrt();
            x.iter().map(|x| x / length).collect()
        };
        let mut expected = vec![0.0; ROWS * heads * d_value];
        for sequence in SEQUENCES {
            let mut s = vec![vec![0.0_f64; d_key * d_value]; heads];
            for row in sequence {
                for (head, s) in s.iter_mut().enumerate() {
                    let first = head / 2 * d_key;
                    let (q, k) = (unit(q.view(), row, first), unit(k.view(), row, first));
                    let decay = (at(step.view(), row, head) * f64::from(decay[head])).exp();
                    let beta = sigmoid(at(strength.view(), row, head));
                    s.iter_mut().for_each(|s| *s *= decay);
                    for j in 0..d_value {
                        let found: f64 = (0..d_key).map(|i| k[i] * s[i * d_value + j]).sum();
                        let missing = beta * (at(v.view(), row, head * d_value + j) - found);
                        (0..d_key).for_each(|i| s[i * d_value + j] += k[i] * missing);
                        let sum: f64 = (0..d_key).map(|i| q[i] * s[i * d_value + j]).sum();
                        expected[(row * heads + head) * d_value + j] = sum / (d_key as f64).sqrt();
                    }
                }
            }
        }
        let rule = GatedDelta { d_key, d_value, values_per_key: 2, decay: &decay, eps };
        let run = |cpu: &Cpu, sequences: &[(Range<usize>, bool)], states: RowsMut<'_>, out: RowsMut<'_>| {
            let rates = [step.view(), strength.view()];
            let sequences = ranges(sequences);
            cpu.gated_delta(rule, [q.view(), k.view(), v.view()], rates, &sequences, states, out);
        };
        check("gated delta", [heads * d_value, heads * d_key * d_value], &run, &expected, 2e-6);
    }
}

#[test]
fn the_linear_recurrent_unit_is_its_recurrence() {
    for channels in [3, 70] {
        let [x, i, r] = [1, 2, 3].map(|seed| Matrix::random(seed, ROWS, channels, channels + 2));
        let decay = decays(4, channels);
        let mut expected = vec![0.0; ROWS * channels];
        for sequence in SEQUENCES {
            for channel in 0..channels {
                let mut h = 0.0;
                for row in sequence.clone() {
                    let a = (sigmoid(at(r.view(), row, channel)) * f64::from(decay[channel])).exp();
                    let input = sigmoid(at(i.view(), row, channel)) * at(x.view(), row, channel);
                    let begins = row == sequence.start;
                    h = if begins { input } else { a * h + (1.0 - a * a).sqrt() * input };
                    expected[row * channels + channel] = h;
                }
            }
        }
        let run = |cpu: &Cpu, sequences: &[(Range<usize>, bool)], states: RowsMut<'_>, out: RowsMut<'_>| {
            cpu.rg_lru(RgLru { decay: &decay }, [x.view(), i.view(), r.view()], sequences, states, out);
        };
        check("recurrent unit", [channels, channels], &run, &expected, 2e-6);
    }
}

#[test]
#[should_panic = "sequences that ascend and do not overlap"]
fn a_row_is_of_one_sequence() {
    let (mut states, mut out) = (vec![0.0; 2], vec![0.0; 2]);
    let x = [1.0, 2.0];
    let rows = || Rows::dense(&x, 2, 1);
    let unit = RgLru { decay: &[-1.0] };
    let (states, out) = (RowsMut::dense(&mut states, 2, 1), RowsMut::dense(&mut out, 2, 1));
    let sequences = [(0..2, true), (1..2, true)];
    Cpu::new(crate::Simd::Portable, 2).rg_lru(unit, [rows(), rows(), rows()], &sequences, states, out);
}

#[test]
fn a_convolution_reads_what_stands_before() {
    let (kernel, channels) = (3, 37);
    let x = Matrix::random(1, ROWS, channels, channels + 4);
    let before = values(2, 2 * (kernel - 1) * channels);
    let weight = values(3, kernel * channels);
    for (bias, act) in [(values(4, channels), Some(Activation::Silu)), (Vec::new(), None)] {
        let mut expected = vec![0.0; ROWS * channels];
        for (number, sequence) in SEQUENCES.into_iter().enumerate() {
            let before = &before[number * (kernel - 1) * channels..][..(kernel - 1) * channels];
            for row in sequence.clone() {
                for channel in 0..channels {
                    let value = |tap: usize| match (row + tap + 1).checked_sub(kernel + sequence.start) {
                        Some(i) => at(x.view(), sequence.start + i, channel),
                        None => f64::from(before[(row - sequence.start + tap) * channels + channel]),
                    };
                    let sum: f64 =
                        (0..kernel).map(|tap| f64::from(weight[tap * channels + channel]) * value(tap)).sum();
                    let sum = sum + bias.get(channel).map_or(0.0, |b| f64::from(*b));
                    expected[row * channels + channel] = if act.is_some() { sum * sigmoid(sum) } else { sum };
                }
            }
        }
        let convolution = Convolution { kernel, weight: weight.clone(), bias, act };
        for cpu in cpus() {
            let mut out = vec![0.0; ROWS * channels];
            let before = Rows::dense(&before, 2, (kernel - 1) * channels);
            let to = RowsMut::dense(&mut out, ROWS, channels);
            cpu.convolve(&convolution, x.view(), &SEQUENCES, before, to);
            assert!(error(&out, &expected) < 1e-6, "on {}", cpu.simd());
        }
    }
}

#[test]
fn steps_and_gates_are_their_formulas() {
    let columns = 300;
    let (x, gate) = (Matrix::random(1, 3, columns, columns), Matrix::random(2, 3, columns, columns + 1));
    let mut bias = values(3, columns);
    (bias[0], bias[1]) = (30.0, -30.0);
    for cpu in cpus() {
        let mut steps = x.clone();
        cpu.softplus(steps.view_mut(), &bias, [0.3, 2.0]);
        let mut gated = x.clone();
        cpu.gate(Some(Activation::Sigmoid), gate.view(), gated.view_mut());
        for row in 0..3 {
            for (column, bias) in bias.iter().enumerate() {
                let value = at(x.view(), row, column);
                let step = softplus(value + f64::from(*bias)).clamp(0.3, 2.0);
                assert!((at(steps.view(), row, column) - step).abs() < 1e-6 * step, "on {}", cpu.simd());
                let expected = value * sigmoid(at(gate.view(), row, column));
                assert!((at(gated.view(), row, column) - expected).abs() < 1e-6, "on {}", cpu.simd());
            }
        }
    }
    let mut wide = vec![-90.0, -20.0, -1.0, 0.0, 1.0, 20.0, 1e5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    let (expected, count) = (wide.clone(), wide.len());
    Cpu::new(crate::Simd::Portable, 1).softplus(
        RowsMut::dense(&mut wide, 1, count),
        &vec![0.0; count],
        [f32::NEG_INFINITY, f32::INFINITY],
    );
    for (found, x) in wide.iter().zip(expected) {
        let right = softplus(f64::from(x));
        let is_it = f64::from(*found) == right || (f64::from(*found) - right).abs() < 3e-7 * right + 1e-44;
        assert!(is_it || x.is_nan() && found.is_nan(), "{found} for {right}");
    }
}
