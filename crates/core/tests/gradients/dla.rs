//! Direct logit attribution compared with references computed in f64, and its laws.

use easyroutine::Model;
use easyroutine::dla::{By, Direct, Direction, accumulated, direct_attribution};
use easyroutine::lens::LensNorm;
use easyroutine::positions::{Context, Row, Specifier};

use crate::common::{Reference, cases, fixtures, tensors_of, tiny};

fn run(
    model: &Model,
    ids: &[Vec<u32>],
    directions: &[Direction],
    by: By,
) -> Result<Direct, easyroutine::Error> {
    let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    direct_attribution(model, &rows, directions, &[Specifier::All], by, Context::default(), ())
}

fn directions(pairs: &Reference) -> Vec<Direction> {
    let direction = |pair: &Vec<u32>| Direction { answer: pair[0], against: Some(pair[1]) };
    pairs.integers().iter().map(direction).collect()
}

/// The largest difference relative to the reference's largest value.
fn difference(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let most = reference.iter().fold(1e-12_f64, |most, x| most.max(f64::from(x.abs())));
    let errors = ours.iter().zip(reference).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs() / most);
    errors.fold(0.0, |worst, e| if e > worst || e.is_nan() { e } else { worst })
}

fn values<'a>(found: &'a Direct, name: &str) -> &'a [f32] {
    found.contributions.iter().find(|(key, _)| key == name).unwrap_or_else(|| panic!("no {name}")).1.values()
}

#[test]
fn contributions_are_those_of_the_references() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in cases("tiny") {
        let path = fixtures().join("tiny").join(&case).join("dla.safetensors");
        if !path.exists() {
            continue;
        }
        let references = tensors_of(&path);
        let model = tiny(&case);
        let ids = references["input_ids"].integers();
        let directions = directions(&references["pairs"]);
        let mut expect = |name: &str, ours: &[f32], reference: &[f32]| {
            let error = difference(ours, reference);
            compared += 1;
            if error.is_nan() || error > 2e-5 {
                failures.push(format!("{case}: {name} differs by {error:.1e}"));
            }
        };
        let layers = model.arch().layers.len();
        let parts = run(&model, &ids, &directions, By::Part).unwrap();
        let names = std::iter::once("input_embeddings".to_owned())
            .chain((0..layers).flat_map(|l| [format!("attn_out_{l}"), format!("mlp_out_{l}")]));
        let all: Vec<f32> = names.flat_map(|name| values(&parts, &name).to_vec()).collect();
        expect("components", &all, &references["components"].values);
        let bias: Vec<f32> = parts.bias.iter().map(|x| *x as f32).collect();
        let reference: &Reference = &references["bias"];
        // A zero bias has no scale of its own.
        let size = references["logit_diff"].values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(
            bias.iter().zip(&reference.values).all(|(a, b)| (a - b).abs() <= 2e-5 * size),
            "{case}: bias"
        );
        expect("logit_diff", parts.logit_diff.values(), &references["logit_diff"].values);
        if let Some(reference) = references.get("heads") {
            let heads = run(&model, &ids, &directions, By::Head).unwrap();
            let of = |l: usize, h: usize| values(&heads, &format!("head_out_L{l}H{h}")).to_vec();
            let n_heads = model.arch().n_heads;
            let all: Vec<f32> = (0..layers)
                .flat_map(|l| (0..n_heads).flat_map(move |h| of(l, h)).collect::<Vec<_>>())
                .collect();
            expect("heads", &all, &reference.values);
        }
        if let Some(reference) = references.get("neurons_last") {
            let neurons = run(&model, &ids, &directions, By::Neuron).unwrap();
            let mut all = Vec::new();
            for layer in 0..layers {
                let name = format!("mlp_hidden_{layer}");
                let (_, kept) = neurons.contributions.iter().find(|(key, _)| *key == name).unwrap();
                for (row, shape) in kept.row_shapes.iter().enumerate() {
                    all.extend_from_slice(&kept.row(row)[(shape[0] - 1) * shape[1]..]);
                }
            }
            expect("neurons", &all, &reference.values);
        }
    }
    assert!(compared > 20, "{compared}");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn heads_and_neurons_with_their_biases_sum_to_their_parts_in_every_fixture() {
    let ids = vec![vec![5, 90, 17, 200, 31, 8, 64], vec![44, 3, 121]];
    let directions = [Direction { answer: 7, against: Some(100) }];
    let mut seen = 0;
    for case in cases("tiny") {
        let model = tiny(&case);
        let Ok(parts) = run(&model, &ids, &directions, By::Part) else { continue };
        for (by, part, prefix, bias) in [
            (By::Head, "attn_out", "head_out_L", "attn_bias"),
            (By::Neuron, "mlp_out", "mlp_hidden", "mlp_bias"),
        ] {
            let Ok(found) = run(&model, &ids, &directions, by) else { continue };
            seen += 1;
            let has =
                |layer: &usize| parts.contributions.iter().any(|(key, _)| *key == format!("{part}_{layer}"));
            for layer in (0..model.arch().layers.len()).filter(has) {
                let mut sums: Vec<f64> =
                    values(&found, &format!("{bias}_{layer}")).iter().map(|x| f64::from(*x)).collect();
                let name =
                    if by == By::Head { format!("{prefix}{layer}H") } else { format!("{prefix}_{layer}") };
                for (key, kept) in found
                    .contributions
                    .iter()
                    .filter(|(key, _)| if by == By::Head { key.starts_with(&name) } else { *key == name })
                {
                    let width = kept.values().len() / sums.len();
                    assert!(width > 0, "{key}");
                    for (sum, values) in sums.iter_mut().zip(kept.values().chunks(width)) {
                        *sum += values.iter().map(|x| f64::from(*x)).sum::<f64>();
                    }
                }
                let whole = values(&parts, &format!("{part}_{layer}"));
                let sums: Vec<f32> = sums.iter().map(|x| *x as f32).collect();
                assert!(difference(&sums, whole) < 5e-5, "{case}, layer {layer}: {by:?}");
            }
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn what_does_not_add_up_is_refused_by_name() {
    let ids = vec![vec![1, 2, 3]];
    let direction = [Direction { answer: 7, against: Some(100) }];
    let refused = |case: &str, directions: &[Direction], by| {
        run(&tiny(case), &ids, directions, by).unwrap_err().to_string()
    };
    assert!(refused("opt_postnorm", &direction, By::Part).contains("residual stream itself"));
    assert!(refused("gemma2", &direction, By::Head).contains("sum of its heads"));
    assert!(refused("gemma2", &direction, By::Neuron).contains("neurons"));
    assert!(refused("mixtral", &direction, By::Neuron).contains("experts"));
    let same = [Direction { answer: 7, against: Some(7) }];
    assert!(refused("llama", &same, By::Part).contains("both tokens are 7"));
    let beyond = [Direction { answer: 320, against: None }];
    assert!(refused("llama", &beyond, By::Part).contains("vocabulary of 320"));
}

/// With their own statistics, streams give the lens along a direction; with the last one's they give running sums.
#[test]
fn accumulated_streams_are_those_of_the_references() {
    let mut compared = 0;
    for case in cases("tiny") {
        let path = fixtures().join("tiny").join(&case).join("dla.safetensors");
        if !path.exists() {
            continue;
        }
        let references = tensors_of(&path);
        let model = tiny(&case);
        let ids = references["input_ids"].integers();
        let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
        let directions = directions(&references["pairs"]);
        for (norm, key) in [(LensNorm::Own, "accumulated_own"), (LensNorm::Cached, "accumulated_cached")] {
            let found =
                accumulated(&model, &rows, &directions, &[Specifier::All], norm, Context::default(), ())
                    .unwrap();
            let ours: Vec<f32> =
                found.contributions.iter().flat_map(|(_, kept)| kept.values().to_vec()).collect();
            let error = difference(&ours, &references[key].values);
            assert!(error < 2e-5, "{case}: {key} differs by {error:.1e}");
            let (last, whole) = (&found.contributions.last().unwrap().1, &found.logit_diff);
            assert!(difference(last.values(), whole.values()) < 1e-5, "{case}: {key}");
            compared += 1;
        }
    }
    assert!(compared >= 24, "{compared}");
}
