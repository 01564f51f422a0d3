//! Gradients of recurrences against central differences of their formulas in f64, over rows that are longer than the distance
//! of noted states, and the same bits in any batch and on any number of threads.

use super::*;
use crate::testing::{bits, cpus, values};
use crate::{Activation, Convolution, GatedDelta, RgLru, SelectiveScan, StateSpace};

/// Two sequences, one of them longer than two distances of noted states.
const SEQUENCES: [Range<usize>; 2] = [0..70, 70..75];
const ROWS: usize = 75;

/// Each input: its columns and its values.
type Inputs = Vec<(usize, Vec<f32>)>;

fn inputs(widths: &[usize]) -> Inputs {
    let of = |(seed, width): (usize, &usize)| (*width, values(seed as u64 + 1, ROWS * width));
    widths.iter().enumerate().map(of).collect()
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn wide_sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Negative logarithms of decays.
fn decays(seed: u64, count: usize) -> Vec<f32> {
    values(seed, count).iter().map(|x| -x.abs() - 0.05).collect()
}

/// The formula of one sequence: rows of inputs and their number to rows of outputs.
type Formula<'a> = dyn Fn(&[Vec<f64>], usize) -> Vec<f64> + 'a;

/// The gradients of all inputs, from that of the outputs.
type Back<'a> = dyn Fn(&Cpu, &[Range<usize>], Rows<'_>) -> Vec<Vec<f32>> + 'a;

/// Checks gradients of Σ g · out against differences of a formula with `width` outputs.
fn check(name: &str, width: usize, inputs: &Inputs, forward: &Formula<'_>, back: &Back<'_>) {
    let g = values(77, ROWS * width);
    let rows = Rows::dense(&g, ROWS, width);
    let number = |inputs: &[Vec<f64>], sequence: Range<usize>| -> f64 {
        let cut = inputs.iter().map(|values| {
            let columns = values.len() / ROWS;
            values[sequence.start * columns..sequence.end * columns].to_vec()
        });
        let out = forward(&cut.collect::<Vec<_>>(), sequence.len());
        out.iter().zip(&g[sequence.start * width..]).map(|(x, g)| x * f64::from(*g)).sum()
    };
    let mut first: Option<Vec<Vec<f32>>> = None;
    for cpu in cpus() {
        let found = back(&cpu, &SEQUENCES, rows);
        // A sequence alone has the same bits.
        let [long, short] = SEQUENCES.map(|sequence| back(&cpu, std::slice::from_ref(&sequence), rows));
        for (input, (columns, _)) in inputs.iter().enumerate() {
            let end = SEQUENCES[0].end * columns;
            assert_eq!(bits(&found[input][..end]), bits(&long[input][..end]), "{name} on {}", cpu.simd());
            assert_eq!(bits(&found[input][end..]), bits(&short[input][end..]), "{name} on {}", cpu.simd());
        }
        first.get_or_insert_with(|| found.clone());
        let wide: Vec<Vec<f64>> =
            inputs.iter().map(|(_, values)| values.iter().map(|x| f64::from(*x)).collect()).collect();
        // Differences are of one path alone; the others are compared with it.
        for (input, (columns, _)) in inputs.iter().enumerate() {
            let most = found[input].iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
            let others = first.iter().flat_map(|first| &first[input]);
            let apart =
                found[input].iter().zip(others).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
            assert!(apart < 2e-5 * most, "{name}, input {input} on {}: {apart}", cpu.simd());
            if cpu.threads() > 1 {
                continue;
            }
            // A few places of each sequence.
            for place in (0..ROWS * columns).step_by((ROWS * columns / 23).max(1)) {
                let row = place / columns;
                let sequence = SEQUENCES.into_iter().find(|rows| rows.contains(&row)).unwrap_or(0..0);
                let moved = |by: f64| {
                    let mut inputs = wide.clone();
                    inputs[input][place] += by;
                    number(&inputs, sequence.clone())
                };
                let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                let error = (f64::from(found[input][place]) - slope).abs();
                assert!(
                    error < 2e-5 * f64::from(most),
                    "{name}, input {input}, {place} on {}: {} where differences say {slope}",
                    cpu.simd(),
                    found[input][place],
                );
            }
        }
    }
}

fn zeros(inputs: &Inputs) -> Vec<Vec<f32>> {
    inputs.iter().map(|(_, values)| vec![0.0; values.len()]).collect()
}

fn views<'a, const N: usize>(inputs: &'a Inputs, which: [usize; N]) -> [Rows<'a>; N] {
    which.map(|i| Rows::dense(&inputs[i].1, ROWS, inputs[i].0))
}

fn out<'a, const N: usize>(found: &'a mut [Vec<f32>], inputs: &Inputs) -> [RowsMut<'a>; N] {
    let mut rows = found.iter_mut().zip(inputs).map(|(g, (columns, _))| RowsMut::dense(g, ROWS, *columns));
    std::array::from_fn(|_| rows.next().unwrap_or_else(|| unreachable!("an output for each input")))
}

/// Rates that are steps: positive.
fn positive(mut inputs: Inputs, which: usize) -> Inputs {
    inputs[which].1.iter_mut().for_each(|x| *x = x.abs() + 0.05);
    inputs
}

#[test]
fn the_selective_scan_has_its_gradients() {
    for channels in [3, 70] {
        let size = 5;
        let inputs = positive(inputs(&[channels, channels, size, size]), 1);
        let (decay, skip) = (decays(5, size * channels), values(6, channels));
        let forward = |x: &[Vec<f64>], tokens: usize| {
            let (mut h, mut out) = (vec![0.0; size * channels], Vec::new());
            for t in 0..tokens {
                for c in 0..channels {
                    let (value, step) = (x[0][t * channels + c], x[1][t * channels + c]);
                    let mut sum = f64::from(skip[c]) * value;
                    for n in 0..size {
                        let h = &mut h[n * channels + c];
                        let kept = (step * f64::from(decay[n * channels + c])).exp();
                        *h = kept * *h + step * value * x[2][t * size + n];
                        sum += *h * x[3][t * size + n];
                    }
                    out.push(sum);
                }
            }
            out
        };
        let back = |cpu: &Cpu, sequences: &[Range<usize>], g: Rows<'_>| {
            let mut found = zeros(&inputs);
            let ([x, steps], [b, c]) = (views(&inputs, [0, 1]), views(&inputs, [2, 3]));
            let scan = SelectiveScan { decay: &decay, skip: &skip };
            cpu.selective_scan_back(scan, x, steps, [b, c], sequences, g, out(&mut found, &inputs));
            found
        };
        check("selective scan", channels, &inputs, &forward, &back);
    }
}

#[test]
fn the_state_space_has_its_gradients() {
    // Heads that are shared out evenly and not.
    for (heads, groups, d_head) in [(4, 2, 5), (18, 2, 9)] {
        let (d_state, width) = (6, heads * d_head);
        let inputs = positive(inputs(&[width, heads, groups * d_state, groups * d_state]), 1);
        let (decay, skip) = (decays(5, heads), values(6, heads));
        let heads_per_group = heads / groups;
        let forward = |x: &[Vec<f64>], tokens: usize| {
            let (mut s, mut out) = (vec![0.0; width * d_state], Vec::new());
            for t in 0..tokens {
                for column in 0..width {
                    let head = column / d_head;
                    let (value, step) = (x[0][t * width + column], x[1][t * heads + head]);
                    let first = t * groups * d_state + head / heads_per_group * d_state;
                    let mut sum = f64::from(skip[head]) * value;
                    for n in 0..d_state {
                        let s = &mut s[column * d_state + n];
                        *s = (step * f64::from(decay[head])).exp() * *s + step * value * x[2][first + n];
                        sum += *s * x[3][first + n];
                    }
                    out.push(sum);
                }
            }
            out
        };
        let back = |cpu: &Cpu, sequences: &[Range<usize>], g: Rows<'_>| {
            let mut found = zeros(&inputs);
            let ([x, steps], [b, c]) = (views(&inputs, [0, 1]), views(&inputs, [2, 3]));
            let space = StateSpace { d_head, heads_per_group, d_state, decay: &decay, skip: &skip };
            cpu.state_space_back(space, x, steps, [b, c], sequences, g, out(&mut found, &inputs));
            found
        };
        check("state space", width, &inputs, &forward, &back);
    }
}

#[test]
fn the_gated_delta_rule_has_its_gradients() {
    for d_value in [5, 19] {
        let (heads, values_per_key, d_key, eps) = (4, 2, 6, 1e-6_f32);
        let keys = heads / values_per_key * d_key;
        let inputs = positive(inputs(&[keys, keys, heads * d_value, heads, heads]), 3);
        let decay = decays(6, heads);
        let unit = |x: &[f64]| -> Vec<f64> {
            let length = (x.iter().map(|x| x * x).sum::<f64>() + f64::from(eps)).sqrt();
            x.iter().map(|x| x / length).collect()
        };
        let forward = |x: &[Vec<f64>], tokens: usize| {
            let (mut s, mut out) = (vec![vec![0.0; d_key * d_value]; heads], Vec::new());
            for t in 0..tokens {
                for (head, s) in s.iter_mut().enumerate() {
                    let first = t * keys + head / values_per_key * d_key;
                    let (q, k) = (unit(&x[0][first..first + d_key]), unit(&x[1][first..first + d_key]));
                    let kept = (x[3][t * heads + head] * f64::from(decay[head])).exp();
                    let beta = wide_sigmoid(x[4][t * heads + head]);
                    s.iter_mut().for_each(|s| *s *= kept);
                    for j in 0..d_value {
                        let found: f64 = (0..d_key).map(|i| k[i] * s[i * d_value + j]).sum();
                        let missing = beta * (x[2][(t * heads + head) * d_value + j] - found);
                        (0..d_key).for_each(|i| s[i * d_value + j] += k[i] * missing);
                        let sum: f64 = (0..d_key).map(|i| q[i] * s[i * d_value + j]).sum();
                        out.push(sum / (d_key as f64).sqrt());
                    }
                }
            }
            out
        };
        let back = |cpu: &Cpu, sequences: &[Range<usize>], g: Rows<'_>| {
            let mut found = zeros(&inputs);
            let [q, k, v, steps, strengths] = views(&inputs, [0, 1, 2, 3, 4]);
            let rule = GatedDelta { d_key, d_value, values_per_key, decay: &decay, eps };
            let [of_q, of_k, of_v, of_steps, of_strengths] = out(&mut found, &inputs);
            let (of, of_rates) = ([of_q, of_k, of_v], [of_steps, of_strengths]);
            cpu.gated_delta_back(rule, [q, k, v], [steps, strengths], sequences, g, of, of_rates);
            found
        };
        check("gated delta", heads * d_value, &inputs, &forward, &back);
    }
}

#[test]
fn the_linear_recurrent_unit_has_its_gradients() {
    for channels in [3, 70] {
        let inputs = inputs(&[channels, channels, channels]);
        let decay = decays(4, channels);
        let forward = |x: &[Vec<f64>], tokens: usize| {
            let (mut h, mut out) = (vec![0.0; channels], Vec::new());
            for t in 0..tokens {
                for (c, h) in h.iter_mut().enumerate() {
                    let at = t * channels + c;
                    let a = (wide_sigmoid(x[2][at]) * f64::from(decay[c])).exp();
                    let input = wide_sigmoid(x[1][at]) * x[0][at];
                    *h = if t == 0 { input } else { a * *h + (1.0 - a * a).sqrt() * input };
                    out.push(*h);
                }
            }
            out
        };
        let back = |cpu: &Cpu, sequences: &[Range<usize>], g: Rows<'_>| {
            let mut found = zeros(&inputs);
            let unit = RgLru { decay: &decay };
            cpu.rg_lru_back(unit, views(&inputs, [0, 1, 2]), sequences, g, out(&mut found, &inputs));
            found
        };
        check("recurrent unit", channels, &inputs, &forward, &back);
    }
}

#[test]
fn a_convolution_has_its_gradient() {
    let (kernel, channels) = (4, 37);
    let inputs = inputs(&[channels]);
    let weight = values(3, kernel * channels);
    let forward = |x: &[Vec<f64>], tokens: usize| {
        let mut out = vec![0.0; tokens * channels];
        for t in 0..tokens {
            for c in 0..channels {
                for tap in (0..kernel).filter(|tap| t + tap + 1 >= kernel) {
                    let x = x[0][(t + tap + 1 - kernel) * channels + c];
                    out[t * channels + c] += f64::from(weight[tap * channels + c]) * x;
                }
            }
        }
        out
    };
    let convolution =
        Convolution { kernel, weight: weight.clone(), bias: Vec::new(), act: Some(Activation::Silu) };
    let back = |cpu: &Cpu, sequences: &[Range<usize>], g: Rows<'_>| {
        let mut found = zeros(&inputs);
        let [out] = out(&mut found, &inputs);
        cpu.convolve_back(&convolution, sequences, g, out);
        found
    };
    check("convolution", channels, &inputs, &forward, &back);
}

#[test]
fn steps_that_are_held_have_no_gradient() {
    let x = [-3.0, -0.5, 0.1, 0.7, 5.0];
    let bias = [0.25; 5];
    for cpu in cpus() {
        let mut g = [2.0; 5];
        cpu.softplus_back(Rows::dense(&x, 1, 5), &bias, [0.3, 2.0], RowsMut::dense(&mut g, 1, 5));
        for (g, x) in g.iter().zip(x) {
            let x = f64::from(x) + 0.25;
            let held = softplus(x) < 0.3 || softplus(x) > 2.0;
            let slope = if held { 0.0 } else { 2.0 * wide_sigmoid(x) };
            assert!((f64::from(*g) - slope).abs() < 1e-6, "{g} {slope}");
        }
        assert_eq!((g[0], g[4]), (0.0, 0.0));
    }
}
