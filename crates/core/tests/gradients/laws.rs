//! Laws of gradients on every fixture: they match finite differences of runs in f64, and keep their bits in any batch.

use easyroutine::edit::{Edits, Intervention, Operation, Part, Tensor};
use easyroutine::gradients::{Gradients, Output, Rule, Seed, gradients};
use easyroutine::load::LoadOptions;
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::{Access, Point, Site};
use easyroutine::{Batch, Error, ExactTap, ExactValue, Model, Stop, Want};

use crate::common::{assert_same_bits, cases, extract, has, tiny, tiny_with};

/// Rows of different length that every fixture can run.
fn rows() -> Vec<Vec<u32>> {
    vec![vec![5, 90, 17, 200, 31, 8, 64], vec![44, 3, 121, 9], (0..14).map(|i| (i * 37 + 11) % 250).collect()]
}

const DIFF: Metric = Metric::LogitDiff { answer: 7, against: 100 };

fn of(
    model: &Model,
    rows: &[Vec<u32>],
    activations: &str,
    output: Output<'_>,
    edits: &[Intervention],
) -> Result<Gradients, Error> {
    let rows: Vec<Row<'_>> = rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect();
    let mut edits = Edits::new(edits, model.arch(), &rows, Context::default())?;
    let request = Request::parse(activations, "all")?;
    gradients(model, &rows, &request, output, Rule::Gradient, &mut edits, Context::default(), Stop::Never)
}

fn metric(metrics: &[Metric]) -> Output<'_> {
    Output::Metric { metrics, target: None }
}

/// Places with one vector per token that edits can change and the logits depend on.
fn places(model: &Model) -> Vec<Point> {
    let arch = model.arch();
    let vectors = |point: &Point| {
        point.site().access() == Access::Changes
            && !point.site().is_pairwise()
            && arch.width(*point).is_some()
    };
    let last = arch.layers.len() - 1;
    let near = |point: &Point| point.layer().is_none_or(|layer| layer == 0 || layer == last);
    let one_head = |point: &Point| point.head().is_none_or(|head| head == 1);
    arch.points().filter(|point| vectors(point) && near(point) && one_head(point)).collect()
}

/// Repeatable numbers around zero.
fn direction(seed: usize, len: usize) -> Vec<f32> {
    let mut state = seed as u64 * 2_654_435_761 + 12345;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

/// What a run in f64 gives if a vector is added somewhere.
struct Moved<'a> {
    point: Point,
    direction: &'a [f32],
    step: f64,
    found: f64,
}

impl ExactTap for Moved<'_> {
    fn wants(&self, point: Point) -> Want {
        match point.site() {
            Site::Logits => Want::Read,
            _ if point == self.point => Want::Edit,
            _ => Want::Nothing,
        }
    }

    fn at(&mut self, point: Point, value: &mut ExactValue<'_>) -> Result<(), Error> {
        let length = value.batch().length(0);
        if point.site() == Site::Logits {
            let logits = value.vector(0, length - 1).unwrap();
            self.found = logits[7] - logits[100];
            return Ok(());
        }
        let width = self.direction.len() / length;
        for (position, direction) in self.direction.chunks_exact(width).enumerate() {
            let vector = value.vector_mut(0, position).unwrap();
            vector.iter_mut().zip(direction).for_each(|(x, d)| *x += self.step * f64::from(*d));
        }
        Ok(())
    }
}

#[test]
fn gradients_are_the_differences_of_runs_in_f64_in_every_fixture() {
    let ids = rows().remove(0);
    let mut failures = Vec::new();
    for case in cases("tiny") {
        let model = tiny(&case);
        let rows = vec![ids.clone()];
        let batch = Batch::new(&rows).unwrap();
        let points = places(&model);
        let keys: Vec<String> = points.iter().map(ToString::to_string).collect();
        let found = of(&model, &rows, &keys.join(","), metric(&[DIFF]), &[]).unwrap();
        for (seed, point) in points.iter().enumerate() {
            let gradient = found.cache.get(format!("{point}_gradients")).unwrap().values();
            let value = extract(&model, &rows, &point.to_string(), "all");
            let size = value.get(point.to_string()).unwrap().values();
            let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            // No token is routed to this expert.
            if norm(size) == 0.0 {
                assert!(point.expert().is_some() && norm(gradient) == 0.0, "{case}: {point}");
                continue;
            }
            let direction = direction(seed, gradient.len());
            let whole = norm(size) / norm(&direction);
            let moved = |step: f64| {
                let mut moved = Moved { point: *point, direction: &direction, step, found: f64::NAN };
                model.forward_exact(&batch, &mut moved, Stop::Never).unwrap();
                moved.found
            };
            let along: f64 =
                gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
            let scale = norm(gradient) * norm(&direction) / (gradient.len() as f64).sqrt();
            // A step that crosses a kink says nothing, so the gradient must be right by one of them.
            let error = |share: f64| {
                let step = whole * share;
                (along - (moved(step) - moved(-step)) / (2.0 * step)).abs() / (scale + 1e-6)
            };
            // Gradients are sums in f32 through all layers; of parts that cancel each other the rounding stays.
            if ![1e-4, 1e-6].into_iter().any(|share| error(share) < 1e-3) {
                failures.push(format!("{case}: {point}: gradient {along:.6}, error {:.1e}", error(1e-6)));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

/// Keys of every kind.
const SOME: &str = "input_embeddings,resid_mid_*,queries_*,keys_*,values_*,head_keys_L0H*,z_*,pattern_L1H*,scores_L0H1,\
                    mlp_hidden_*,mlp_in_*,final_norm_out,logits";

/// The keys in [`SOME`] that a model has.
fn some(model: &Model) -> String {
    let has = |pattern: &&str| model.arch().named(&pattern.parse().unwrap()).is_ok();
    SOME.split(',').map(str::trim).filter(has).collect::<Vec<_>>().join(",")
}

#[test]
fn a_row_has_the_same_gradients_alone_in_a_batch_and_with_any_threads() {
    for case in cases("tiny") {
        let rows = rows();
        for metrics in [[DIFF], [Metric::CrossEntropy]] {
            let of_threads = |threads, rows: &[Vec<u32>]| {
                let options = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
                let model = tiny_with(&case, &options);
                of(&model, rows, &some(&model), metric(&metrics), &[]).unwrap()
            };
            let together = of_threads(1, &rows);
            let threads = of_threads(3, &rows);
            assert_eq!(together.values, threads.values);
            for (key, kept) in together.cache.iter() {
                assert_same_bits(
                    format!("{case}: {key}"),
                    kept.values(),
                    threads.cache.get(key).unwrap().values(),
                );
            }
            for (number, row) in rows.iter().enumerate() {
                let alone = of_threads(2, std::slice::from_ref(row));
                assert_eq!(alone.values[0], together.values[number]);
                for (key, kept) in alone.cache.iter() {
                    let of_batch = together.cache.get(key).unwrap().row(number);
                    assert_same_bits(format!("{case}, row {number}: {key}"), kept.values(), of_batch);
                }
            }
        }
    }
}

#[test]
fn what_is_asked_for_beside_a_gradient_changes_none_of_its_bits() {
    for case in cases("tiny") {
        let (model, rows) = (tiny(&case), rows());
        let all = of(&model, &rows, &some(&model), metric(&[DIFF]), &[]).unwrap();
        let alone = of(&model, &rows, "input_embeddings", metric(&[DIFF]), &[]).unwrap();
        let key = "input_embeddings_gradients";
        let (all, alone) = (all.cache.get(key).unwrap().values(), alone.cache.get(key).unwrap().values());
        // Attention in one step and attention head by head with copied keys sum in different orders.
        let most = alone.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        let worst = all.iter().zip(alone).fold(0.0_f32, |worst, (a, b)| worst.max((a - b).abs()));
        assert!(worst <= 1e-5 * most, "{case}: {worst} of {most}");
    }
}

#[test]
fn vectors_carry_a_metric_s_gradient_on_to_earlier_places() {
    for case in cases("tiny") {
        let (model, rows) = (tiny(&case), vec![rows().remove(0)]);
        let last = model.arch().layers.len() - 1;
        let whole = of(&model, &rows, "input_embeddings,resid_out_*", metric(&[DIFF]), &[]).unwrap();
        // What reads across blocks has ways from the embedding that pass by the first block's stream.
        let layers = if model.arch().reads_across_blocks().is_some() { vec![last] } else { vec![0, last] };
        for layer in layers {
            let kept = whole.cache.get(format!("resid_out_{layer}_gradients")).unwrap();
            let shape = [&[1], kept.row_shapes[0].as_slice()].concat();
            let seed = Seed {
                point: Point::layer_of(Site::ResidOut, layer),
                positions: vec![Specifier::All],
                values: Tensor::new("gradient", &shape, kept.values().to_vec()).unwrap(),
            };
            let found = of(&model, &rows, "input_embeddings", Output::Vectors(&[seed]), &[]).unwrap();
            let key = "input_embeddings_gradients";
            let (ours, expected) = (found.cache.get(key).unwrap(), whole.cache.get(key).unwrap());
            assert_same_bits(format!("{case}, layer {layer}"), ours.values(), expected.values());
            assert!(found.values.iter().all(|value| *value == 0.0));
        }
    }
}

#[test]
fn a_grouped_key_s_gradient_is_the_sum_over_its_query_heads() {
    for case in cases("tiny") {
        let (model, rows) = (tiny(&case), rows());
        let has_values = |layer: &usize| has(&model, &format!("values_L{layer}"));
        let Some(layer) = [1, 0, 2].into_iter().find(has_values) else { continue };
        let heads = model.arch().heads(layer);
        let keys = format!("values_L{layer},head_values_L{layer}H*");
        let found = of(&model, &rows, &keys, metric(&[DIFF]), &[]).unwrap();
        let of_shared = found.cache.get(format!("values_L{layer}_gradients")).unwrap();
        for row in 0..rows.len() {
            for (token, sum) in of_shared.row(row).chunks_exact(heads.values()).enumerate() {
                let mut expected = vec![0.0_f32; heads.values()];
                for head in 0..heads.n {
                    let kept = found.cache.get(format!("head_values_L{layer}H{head}_gradients")).unwrap();
                    let start = heads.of_value(head / heads.group()).start;
                    for i in 0..heads.d_value {
                        expected[start + i] += kept.row(row)[token * heads.d_value + i];
                    }
                }
                let most = expected.iter().fold(1e-6_f32, |most, x| most.max(x.abs()));
                assert!(sum.iter().zip(&expected).all(|(a, b)| (a - b).abs() <= 1e-5 * most), "{case}");
            }
        }
    }
}

#[test]
fn edits_change_the_gradient_before_them_and_not_the_one_behind() {
    let (model, rows) = (tiny("llama"), vec![rows().remove(0)]);
    let edit =
        |text: &str| text.parse::<Intervention<easyroutine::edit::Reference>>().unwrap().load().unwrap();
    let gradient = |edits: &[&str]| {
        let edits: Vec<Intervention> = edits.iter().map(|text| edit(text)).collect();
        of(&model, &rows, "resid_in_1,resid_out_0,resid_mid_0", metric(&[DIFF]), &edits).unwrap()
    };
    let get =
        |found: &Gradients, key: &str| found.cache.get(format!("{key}_gradients")).unwrap().values().to_vec();
    // A replaced stream does not depend on its old value.
    let replaced = gradient(&["resid_in_1@all=0.25"]);
    assert!(get(&replaced, "resid_in_1").iter().any(|g| *g != 0.0));
    assert!(get(&replaced, "resid_out_0").iter().all(|g| *g == 0.0));
    // A shift passes the gradient on, a factor multiplies it.
    let shifted = gradient(&["resid_in_1@all*2", "resid_in_1@1:3=0"]);
    let width = model.arch().d_model;
    let (behind, before) = (get(&shifted, "resid_in_1"), get(&shifted, "resid_out_0"));
    for (token, (behind, before)) in behind.chunks(width).zip(before.chunks(width)).enumerate() {
        let factor = if (1..3).contains(&token) { 0.0 } else { 2.0 };
        assert!(behind.iter().zip(before).all(|(behind, before)| behind * factor == *before));
    }
    // Another row's values: their gradient goes to that row.
    let rows = vec![rows[0].clone(), rows[0].iter().rev().copied().collect()];
    let found = of(&model, &rows, "resid_in_1,resid_out_0", metric(&[DIFF]), &[edit("resid_in_1@0:3=row:1")])
        .unwrap();
    let kept = |key: &str, row: usize| {
        found.cache.get(format!("{key}_gradients")).unwrap().row(row)[..3 * width].to_vec()
    };
    assert!(kept("resid_out_0", 0).iter().all(|g| *g == 0.0));
    let (behind, before) = ([kept("resid_in_1", 0), kept("resid_in_1", 1)], kept("resid_out_0", 1));
    for (i, before) in before.iter().enumerate() {
        assert!((behind[0][i] + behind[1][i] - before).abs() <= 1e-6 * (1.0 + before.abs()));
    }
}

#[test]
fn gradients_under_edits_of_patterns_foretell_small_changes() {
    let ids = rows().remove(0);
    let rows = vec![ids.clone()];
    let edits = [
        "pattern_L1H0@rescaled:columns:1,3*0.3",
        "pattern_L1H2@grid:5,6x2=0.4",
        "pattern_L1H1@keep-self:2,6=0",
        "scores_L1H3@pre:rows:6*0.5",
        "pattern_L1H2@pre:columns:4=-inf",
    ];
    let edit =
        |text: &str| text.parse::<Intervention<easyroutine::edit::Reference>>().unwrap().load().unwrap();
    let edits: Vec<Intervention> = edits.iter().map(|text| edit(text)).collect();
    for case in ["llama", "gemma2", "bloom"] {
        let model = tiny(case);
        let found = of(&model, &rows, "resid_in_1", metric(&[DIFF]), &edits).unwrap();
        let gradient = found.cache.get("resid_in_1_gradients").unwrap().values();
        let direction = direction(3, gradient.len());
        let moved = |factor: f32| {
            let shape = [1, ids.len(), model.arch().d_model];
            let values = Tensor::new("direction", &shape, direction.clone()).unwrap();
            let mut all = vec![Intervention {
                activation: "resid_in_1".parse().unwrap(),
                entries: Vec::new(),
                part: Part::Full(vec![Specifier::All]),
                operation: Operation::Add { factor, values },
            }];
            all.extend(edits.iter().cloned());
            of(&model, &rows, "logits", metric(&[DIFF]), &all).unwrap().values[0]
        };
        let slope = |step: f32| (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        let expected = (4.0 * slope(0.01) - slope(0.02)) / 3.0;
        let along: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        assert!((along - expected).abs() < 1e-2 * expected.abs().max(0.1), "{case}: {along} {expected}");
    }
}

#[test]
fn gradients_of_recurrences_and_of_keys_that_are_lent_are_right_under_edits() {
    // A factor on the keys of one head of the layer that lends them, on a gate, on what a recurrence gives.
    let edit =
        |text: &str| text.parse::<Intervention<easyroutine::edit::Reference>>().unwrap().load().unwrap();
    let ids = rows().remove(0);
    for (case, edits) in [
        ("gemma4_text", vec!["head_keys_L2H1@all*0.5", "per_layer_out_1@all*2"]),
        ("qwen3_next", vec!["attn_gate_3@1:4*0.5", "mixer_z_0@all*1.5", "head_out_L3H1@all*0.5"]),
        ("mamba2", vec!["mixer_out_1@2:5*0.25"]),
        ("recurrent_gemma", vec!["mixer_in_0@all*1.25"]),
    ] {
        let (model, rows) = (tiny(case), vec![ids.clone()]);
        let edits: Vec<Intervention> = edits.into_iter().map(edit).collect();
        let found = of(&model, &rows, "input_embeddings", metric(&[DIFF]), &edits).unwrap();
        let gradient = found.cache.get("input_embeddings_gradients").unwrap().values();
        let direction = direction(5, gradient.len());
        let moved = |factor: f32| {
            let shape = [1, ids.len(), model.arch().d_model];
            let values = Tensor::new("direction", &shape, direction.clone()).unwrap();
            let mut all = vec![Intervention {
                activation: "input_embeddings".parse().unwrap(),
                entries: Vec::new(),
                part: Part::Full(vec![Specifier::All]),
                operation: Operation::Add { factor, values },
            }];
            all.extend(edits.iter().cloned());
            of(&model, &rows, "logits", metric(&[DIFF]), &all).unwrap().values[0]
        };
        let norm = |x: &[f32]| x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        let value = extract(&model, &rows, "input_embeddings", "all");
        let whole = norm(value.get("input_embeddings").unwrap().values()) / norm(&direction);
        let along: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let scale = norm(gradient) * norm(&direction) / (gradient.len() as f64).sqrt();
        let slope = |step: f32| (moved(step) - moved(-step)) / (2.0 * f64::from(step));
        let errors = [1e-2, 1e-3].map(|share| {
            let step = (whole * share) as f32;
            ((4.0 * slope(step / 2.0) - slope(step)) / 3.0 - along).abs() / scale
        });
        assert!(errors.iter().any(|error| *error < 2e-2), "{case}: {along} {errors:?}");
    }
}
