//! Gradients compared with autograd in f64, on two rows of which the second is padded.

use std::collections::BTreeMap;

use easyroutine::edit::{Edits, Intervention};
use easyroutine::gradients::{Gradients, Output, Rule, gradients};
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Site};
use easyroutine::{Model, Stop};

use crate::common::{Reference, cases, fixtures, tensors_of, tiny};

const AGREEMENT: f64 = 1e-4;

fn references(case: &str) -> Option<BTreeMap<String, Reference>> {
    let path = fixtures().join("tiny").join(case).join("grad.safetensors");
    path.exists().then(|| tensors_of(&path))
}

/// The real tokens of each row, and where they begin.
fn real(references: &BTreeMap<String, Reference>) -> (Vec<Vec<u32>>, Vec<usize>) {
    let (ids, mask) = (references["input_ids"].integers(), references["attention_mask"].integers());
    let start = |mask: &Vec<u32>| mask.iter().position(|m| *m == 1).unwrap();
    let starts: Vec<usize> = mask.iter().map(start).collect();
    (ids.iter().zip(&starts).map(|(ids, start)| ids[*start..].to_vec()).collect(), starts)
}

/// Everything that gradients are requested for.
fn everything(model: &Model) -> Request {
    let lacks = [Site::InputIds, Site::RouterIndex, Site::LastLayernorm, Site::Score];
    let projected = [Site::ProjectedKey, Site::ProjectedQuery, Site::ProjectedValue];
    let points: Vec<Point> = model
        .arch()
        .points()
        .filter(|point| !lacks.contains(&point.site()) && !projected.contains(&point.site()))
        .collect();
    let names: Vec<String> = points.iter().map(ToString::to_string).collect();
    Request::parse(&names.join(","), "all").unwrap()
}

fn run(model: &Model, rows: &[Vec<u32>], output: Output<'_>, edits: &[Intervention]) -> Gradients {
    let rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    let mut edits = Edits::new(edits, model.arch(), &rows, Context::default()).unwrap();
    let request = everything(model);
    gradients(model, &rows, &request, output, Rule::Gradient, &mut edits, Context::default(), Stop::Never)
        .unwrap()
}

/// Our gradient of a site, padded and with all heads as in the reference; `None` where we have no such place.
fn ours(model: &Model, found: &Gradients, name: &str, starts: &[usize], length: usize) -> Option<Vec<f32>> {
    let (site, layer) =
        name.rsplit_once('_').filter(|(_, layer)| layer.parse::<usize>().is_ok()).unwrap_or((name, ""));
    let get = |key: String| found.cache.get(format!("{key}_gradients"));
    let heads = model.arch().n_heads;
    let mut out = Vec::new();
    match site {
        "pattern" | "scores" => {
            for (row, start) in starts.iter().enumerate() {
                for head in 0..heads {
                    let square = get(format!("{site}_L{layer}H{head}"))?.row(row);
                    let width = length - start;
                    for query in 0..length {
                        for key in 0..length {
                            let real = query >= *start && key >= *start;
                            out.push(if real { square[(query - start) * width + key - start] } else { 0.0 });
                        }
                    }
                }
            }
        }
        "head_keys" | "head_values" => {
            for (row, start) in starts.iter().enumerate() {
                let heads: Vec<_> =
                    (0..heads).map(|head| get(format!("{site}_L{layer}H{head}"))).collect::<Option<_>>()?;
                let d_head = heads[0].row_shapes[row][1];
                out.extend(vec![0.0; start * heads.len() * d_head]);
                for token in 0..length - start {
                    for kept in &heads {
                        out.extend_from_slice(&kept.row(row)[token * d_head..(token + 1) * d_head]);
                    }
                }
            }
        }
        _ => {
            let key = match site {
                "queries" | "keys" | "values" | "z" => format!("{site}_L{layer}"),
                "final_norm_in" => format!("resid_out_{}", model.arch().layers.len() - 1),
                _ => name.to_owned(),
            };
            let kept = get(key)?;
            for (row, start) in starts.iter().enumerate() {
                let width = kept.row_shapes[row][1];
                out.extend(vec![0.0; start * width]);
                out.extend_from_slice(kept.row(row));
            }
        }
    }
    Some(out)
}

/// The largest difference relative to the reference's largest value.
fn difference(ours: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let most = reference.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
    let errors = ours.iter().zip(reference).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    let worst = errors.fold(0.0, |most, e| if e > most || e.is_nan() { e } else { most });
    if most == 0.0 { worst } else { worst / most }
}

/// Compares every tensor with this prefix; returns their number and the failures.
fn compare(
    case: &str,
    model: &Model,
    references: &BTreeMap<String, Reference>,
    prefix: &str,
    found: &Gradients,
    failures: &mut Vec<String>,
) -> usize {
    let (_, starts) = real(references);
    let length = references["input_ids"].shape[1];
    let mut compared = 0;
    for (name, reference) in references {
        let Some(site) = name.strip_prefix(prefix) else { continue };
        let error = if site == "value" {
            let values: Vec<f32> = found.values.iter().map(|x| *x as f32).collect();
            difference(&values, &reference.values)
        } else {
            let Some(ours) = ours(model, found, site, &starts, length) else {
                failures.push(format!("{case}: no {site}"));
                continue;
            };
            difference(&ours, &reference.values)
        };
        compared += 1;
        if error.is_nan() || error > AGREEMENT {
            failures.push(format!("{case}: {name} differs by {error:.1e}"));
        }
    }
    compared
}

#[test]
fn gradients_of_every_place_are_those_of_autograd() {
    let mut failures = Vec::new();
    let mut compared = BTreeMap::new();
    for case in cases("tiny") {
        let Some(references) = references(&case) else { continue };
        let model = tiny(&case);
        let (rows, _) = real(&references);
        let pairs = references["pairs"].integers();
        let diffs: Vec<Metric> =
            pairs.iter().map(|p| Metric::LogitDiff { answer: p[0], against: p[1] }).collect();
        let target = &references["kl_target"];
        let target: Vec<Vec<f32>> = target.values.chunks(target.shape[1]).map(<[f32]>::to_vec).collect();
        let mut count = 0;
        for (prefix, metrics) in
            [("logit_diff.", &diffs[..]), ("ce.", &[Metric::CrossEntropy]), ("kl.", &[Metric::Kl])]
        {
            let output = Output::Metric { metrics, target: Some(&target) };
            let found = run(&model, &rows, output, &[]);
            count += compare(&case, &model, &references, prefix, &found, &mut failures);
        }
        for spec in ["head_out_L1H2@all=0", "resid_in_1@2:5*0.5", "pattern_L1H1@pre:grid:4:x3=-inf"] {
            let prefix = format!("interv.{spec}.logit_diff.");
            // Positions counted from the end of a row differ between rows.
            let found = rows.iter().zip(&diffs).map(|(ids, diff)| {
                let spec = spec.replace("4:x", &format!("4:{}x", ids.len()));
                let edit =
                    spec.parse::<Intervention<easyroutine::edit::Reference>>().unwrap().load().unwrap();
                let output = Output::Metric { metrics: &[*diff], target: None };
                run(&model, std::slice::from_ref(ids), output, &[edit])
            });
            let found = found.reduce(|mut all, one| {
                all.cache = all.cache.cat(one.cache).unwrap();
                all.values.extend(one.values);
                all
            });
            count += compare(&case, &model, &references, &prefix, &found.unwrap(), &mut failures);
        }
        compared.insert(case, count);
    }
    assert!(compared.len() >= 9 && compared.values().all(|n| *n > 50), "{compared:?}");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn relp_has_the_rules_of_its_reference() {
    let mut failures = Vec::new();
    let mut compared = 0;
    for case in ["gpt2", "llama"] {
        let references = tensors_of(&fixtures().join("tiny").join(case).join("relp.safetensors"));
        let model = tiny(case);
        let ids = references["clean_ids"].integers();
        let pairs = references["pairs"].integers();
        let diffs: Vec<Metric> =
            pairs.iter().map(|p| Metric::LogitDiff { answer: p[0], against: p[1] }).collect();
        for (prefix, halves) in [("relp.gradient.", true), ("frozen.gradient.", false)] {
            let rows: Vec<Row<'_>> =
                ids.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
            let output = Output::Metric { metrics: &diffs, target: None };
            let (request, edits) = (everything(&model), &mut Edits::default());
            let rule = Rule::Relp { halves };
            let found =
                gradients(&model, &rows, &request, output, rule, edits, Context::default(), Stop::Never)
                    .unwrap();
            for (name, reference) in &references {
                let Some(site) = name.strip_prefix(prefix) else { continue };
                let ours = ours(&model, &found, site, &[0, 0], ids[0].len()).unwrap();
                let error = difference(&ours, &reference.values);
                compared += 1;
                if error.is_nan() || error > AGREEMENT {
                    failures.push(format!("{case}: {name} differs by {error:.1e}"));
                }
            }
        }
    }
    assert!(compared > 10, "{compared}");
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}
