//! The weights of a recurrence, in any storage layout.

use std::convert::Infallible;

use easyroutine_kernels::{Convolution, Dtype, PackedMatrix};

use super::build_parts::unnamed;
use super::weights::{Recurrence, State};
use crate::arch::{self, Bias, GateNorm};
use crate::error::Result;
use crate::names::{InputPart, RecurrenceInput, RecurrenceNames, StateNames};
use crate::weights::{Loader, Norm, Projection};

/// All weights of a recurrence, and the norm next to its gate.
pub(super) fn build(
    loader: &Loader<'_>,
    prefix: &str,
    described: &arch::Recurrence,
    names: Option<RecurrenceNames>,
    d_model: usize,
) -> Result<(Recurrence, Option<Norm>)> {
    let names = names.ok_or_else(|| unnamed("a recurrence"))?;
    let width = described.width();
    let norm = match (described.gate.norm, names.norm) {
        (GateNorm::None, _) => None,
        (GateNorm::Before(norm, group), Some(name)) => Some((norm, name, group)),
        (GateNorm::BeforeOwnWeights(norm, _) | GateNorm::AfterOwnWeights(norm, _), Some(name)) => {
            Some((norm, name, width))
        }
        (_, None) => return Err(unnamed("the norm of a gate")),
    };
    let norm = norm.map(|(norm, name, width)| loader.norm(&format!("{prefix}{name}"), norm, width));
    let recurrence = Recurrence {
        input: input(loader, prefix, described, names.input, d_model)?,
        convolution: convolution(loader, prefix, described, names.convolution)?,
        state: state(loader, prefix, described, names.state)?,
        out: loader.linear(prefix, names.out, d_model, width)?,
    };
    Ok((recurrence, norm.transpose()?))
}

/// The first projection: the convolved columns, the gate, the rest.
fn input(
    loader: &Loader<'_>,
    prefix: &str,
    described: &arch::Recurrence,
    names: RecurrenceInput,
    d_model: usize,
) -> Result<Projection> {
    let sizes = [described.convolved(), described.width(), described.rest()];
    let outputs = sizes.iter().sum();
    let [convolved, gate, _] = sizes;
    match names {
        RecurrenceInput::Stacked(linear, order) => {
            let mut starts = [0; 3];
            let mut end = 0;
            for part in order {
                starts[part as usize] = end;
                end += sizes[part as usize];
            }
            let [first, second, third] =
                [InputPart::Convolved, InputPart::Gate, InputPart::Rest].map(|part| starts[part as usize]);
            let parts = vec![loader.part(prefix, linear, outputs, d_model)?];
            Ok(loader.fused(parts, d_model, outputs, move |n| match n {
                n if n < convolved => (0, first + n),
                n if n < convolved + gate => (0, second + n - convolved),
                n => (0, third + n - convolved - gate),
            }))
        }
        RecurrenceInput::Split(linears) => {
            let others = linears.len().saturating_sub(2).max(1);
            let size = move |part: usize| if part < 2 { sizes[part] } else { sizes[2] / others };
            let parts: Result<Vec<_>> = linears
                .iter()
                .enumerate()
                .map(|(part, linear)| loader.part(prefix, *linear, size(part), d_model))
                .collect();
            Ok(loader.fused(parts?, d_model, outputs, move |n| match n {
                n if n < convolved => (0, n),
                n if n < convolved + gate => (1, n - convolved),
                n => (2 + (n - convolved - gate) / size(2), (n - convolved - gate) % size(2)),
            }))
        }
        RecurrenceInput::ByKeyHead { mixed, rates } => {
            let arch::State::Delta { key_heads, value_heads, d_key, d_value } = described.state else {
                return Err(unnamed("a projection by key heads"));
            };
            let (group, keys) = (value_heads / key_heads, key_heads * d_key);
            let values = group * d_value;
            let head = 2 * d_key + 2 * values;
            let parts = vec![
                loader.part(prefix, mixed, key_heads * head, d_model)?,
                loader.part(prefix, rates, 2 * value_heads, d_model)?,
            ];
            Ok(loader.fused(parts, d_model, outputs, move |n| match n {
                n if n < keys => (0, n / d_key * head + n % d_key),
                n if n < 2 * keys => (0, (n - keys) / d_key * head + d_key + (n - keys) % d_key),
                n if n < convolved => {
                    let n = n - 2 * keys;
                    (0, n / values * head + 2 * d_key + n % values)
                }
                n if n < convolved + gate => {
                    let n = n - convolved;
                    (0, n / values * head + 2 * d_key + values + n % values)
                }
                n => {
                    // Here strengths of all heads, then steps; in the file both per key head.
                    let n = n - convolved - gate;
                    let (kind, n) = (n / value_heads, n % value_heads);
                    (1, n / group * 2 * group + kind * group + n % group)
                }
            }))
        }
    }
}

/// The convolution, with taps before channels.
fn convolution(
    loader: &Loader<'_>,
    prefix: &str,
    described: &arch::Recurrence,
    name: &str,
) -> Result<Convolution> {
    let (channels, kernel) = (described.convolved(), described.kernel);
    let name = |end: &str| format!("{prefix}{name}.{end}");
    let stored = loader.checkpoint.values(loader.base, &name("weight"), &[channels, 1, kernel])?;
    let bias = match described.bias {
        Bias::Stored => loader.vector(&name("bias"), channels)?,
        Bias::Absent => Vec::new(),
    };
    Ok(Convolution { kernel, weight: transposed(&stored, kernel), bias, act: described.act })
}

/// Transposes rows of `columns` values.
fn transposed(rows: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| rows.iter().skip(column).step_by(columns)).copied().collect()
}

fn state(
    loader: &Loader<'_>,
    prefix: &str,
    described: &arch::Recurrence,
    names: StateNames,
) -> Result<State> {
    let values = |name: &str, shape: &[usize]| {
        loader.checkpoint.values(loader.base, &format!("{prefix}{name}"), shape)
    };
    let decays = |logarithms: Vec<f32>| logarithms.iter().map(|x| -x.exp()).collect::<Vec<f32>>();
    Ok(match (described.state, names) {
        (arch::State::None { .. }, StateNames::None) => State::None,
        (
            arch::State::Selective { width, size, rank, .. },
            StateNames::Selective { select, steps, decay, skip },
        ) => {
            // The bias belongs to the steps, before their softplus.
            let bias = loader.vector(&format!("{prefix}{}.bias", steps.name), width)?;
            State::Selective {
                select: Box::new(loader.linear(prefix, select, described.selected(), width)?),
                steps: Box::new(loader.linear(prefix, steps, width, rank)?),
                bias,
                decay: decays(transposed(&values(decay, &[width, size])?, size)),
                skip: values(skip, &[width])?,
            }
        }
        (
            arch::State::Space { heads, .. } | arch::State::Delta { value_heads: heads, .. },
            StateNames::Heads { steps, decay, skip },
        ) => State::Heads {
            bias: values(steps, &[heads])?,
            decay: decays(values(decay, &[heads])?),
            skip: skip.map_or_else(|| Ok(Vec::new()), |name| values(name, &[heads]))?,
        },
        (arch::State::Unit { width, blocks }, StateNames::Unit { input, forget, decay }) => {
            let block = width / blocks;
            let mut gates = Vec::with_capacity(2);
            for name in [input, forget] {
                let weight = values(&format!("{name}_weight"), &[blocks, block, block])?;
                gates.push((weight, values(&format!("{name}_bias"), &[blocks, block])?));
            }
            let is_whole = gates.iter().all(|(weight, bias)| !weight.is_empty() && !bias.is_empty());
            let one = |number: usize| {
                // Stored as inputs by outputs.
                let Ok(matrix) = PackedMatrix::pack(loader.cpu, Dtype::F32, 2 * block, block, |n, row| {
                    let (weight, from) = (&gates[n / block].0, number * block * block + n % block);
                    row.iter_mut().enumerate().for_each(|(i, x)| *x = weight[from + i * block]);
                    Ok::<(), Infallible>(())
                });
                let bias = gates.iter().flat_map(|(_, bias)| &bias[number * block..(number + 1) * block]);
                Projection::new(matrix, Some(bias.copied().collect()))
            };
            let softplus = |x: &f32| f64::from(*x).max(0.0) + (-f64::from(x.abs())).exp().ln_1p();
            State::Unit {
                gates: (0..if is_whole { blocks } else { 0 }).map(one).collect(),
                decay: values(decay, &[width])?.iter().map(|x| (-8.0 * softplus(x)) as f32).collect(),
            }
        }
        _ => return Err(unnamed("the state of a recurrence")),
    })
}
