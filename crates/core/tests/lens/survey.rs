//! A whole prompt read layer by layer, streaming over the vocabulary, compared with plain sums over full logits.

use easyroutine::lens::{Component, LensNorm, LensOptions, LogitLens, Reading, SurveyOptions, survey};
use easyroutine::sites::{Point, Site};
use easyroutine::{Batch, Model, Value};

use super::{captured, for_every_model, read};
use crate::common::draft::Draft;
use crate::common::taps::{Edit, capture_after};
use crate::common::{cases, tiny};

const VOCABULARY: usize = 2500;

/// A tiny model whose vocabulary fills several tiles. Rows of the unembedding repeat, so that most logits tie.
fn wide(case: &str) -> Model {
    let mut draft = Draft::of(case);
    for key in ["vocab_size", "vocab_size_per_layer_input"] {
        if key == "vocab_size" || draft.config.get(key).is_some() {
            draft.set(key, VOCABULARY);
        }
    }
    for tensor in draft.tensors.values_mut().filter(|t| t.shape.first() == Some(&320)) {
        let row = tensor.bytes.len() / 320;
        tensor.bytes =
            (0..VOCABULARY).flat_map(|id| &tensor.bytes[id % 40 * row..][..row]).copied().collect();
        tensor.shape[0] = VOCABULARY;
    }
    draft.load().unwrap_or_else(|e| panic!("{case}: {e}"))
}

fn options(component: &str, norm: LensNorm) -> SurveyOptions {
    SurveyOptions {
        component: Component::from_name(component).unwrap(),
        norm,
        top_k: 50,
        positions: (0..40).chain([3, 3, 0]).collect(),
        layers: vec![1, -1, 0],
        tracked: vec![0, 1999, 7],
    }
}

/// A row longer than the positions that are processed together.
fn row(model: &Model) -> Vec<u32> {
    (0..40.min(model.arch().context as u32))
        .map(|i| (i * 997 + 41) % model.arch().vocabulary as u32)
        .collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    logits.iter().map(|x| f64::from(x - most) - sum.ln()).collect()
}

/// The expected reading, from all logits.
fn expected(logits: &[f32], finals: &[f32], target: Option<u32>, options: &SurveyOptions) -> Reading {
    let (ours, last) = (log_softmax(logits), log_softmax(finals));
    let before = |a: usize, b: usize| logits[b].total_cmp(&logits[a]).then(a.cmp(&b));
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| before(*a, *b));
    let rank = |id: u32| 1 + order.iter().position(|other| *other == id as usize).unwrap() as u64;
    let final_top =
        (0..finals.len()).max_by(|a, b| finals[*a].total_cmp(&finals[*b]).then(b.cmp(a))).unwrap();
    Reading {
        top: order.iter().take(options.top_k).map(|id| (*id as u32, ours[*id])).collect(),
        entropy: -ours.iter().map(|p| p.exp() * p).sum::<f64>(),
        kl_to_final: last.iter().zip(&ours).map(|(p, q)| p.exp() * (p - q)).sum(),
        logprob_of_final_top: ours[final_top],
        target: target.map(|id| easyroutine::lens::Target { rank: rank(id), logprob: ours[id as usize] }),
        tracked: options.tracked.iter().map(|id| ours[*id as usize]).collect(),
    }
}

fn assert_close(place: &str, what: &str, ours: f64, expected: f64) {
    // Logits and exponentials are f32; sums are f64.
    assert!(
        (ours - expected).abs() < 3e-6 * expected.abs().max(10.0),
        "{place}: {what} is {ours}, not {expected}"
    );
}

fn assert_same_reading(place: &str, ours: &Reading, expected: &Reading) {
    let ids = |reading: &Reading| reading.top.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    assert_eq!(ids(ours), ids(expected), "{place}");
    for ((id, ours), (_, expected)) in ours.top.iter().zip(&expected.top) {
        assert_close(place, &format!("log-probability of {id}"), *ours, *expected);
    }
    assert_close(place, "entropy", ours.entropy, expected.entropy);
    assert_close(place, "KL", ours.kl_to_final, expected.kl_to_final);
    assert_close(place, "the final top", ours.logprob_of_final_top, expected.logprob_of_final_top);
    assert_eq!(ours.tracked.len(), expected.tracked.len(), "{place}");
    for (ours, expected) in ours.tracked.iter().zip(&expected.tracked) {
        assert_close(place, "a tracked id", *ours, *expected);
    }
    assert_eq!(ours.target.is_some(), expected.target.is_some(), "{place}");
    if let (Some(ours), Some(expected)) = (ours.target, expected.target) {
        assert_eq!(ours.rank, expected.rank, "{place}");
        assert_close(place, "the target", ours.logprob, expected.logprob);
    }
}

#[test]
fn every_reading_is_that_of_the_full_logits() {
    for case in cases("tiny") {
        let model = wide(&case);
        let row = row(&model);
        let cache = captured(&model, std::slice::from_ref(&row));
        let lens = LogitLens::from_model(&model).unwrap();
        let finals = cache.get("logits").unwrap().values();
        let components = ["resid_out", "attn_out", "mixer_out", "head_out", "expert_out"];
        let is_there = |component: &&str| {
            let (arch, width) = (model.arch(), Some(model.arch().d_model));
            arch.points().any(|point| point.site().name() == *component && arch.width(point) == width)
        };
        for component in components.into_iter().filter(is_there) {
            for norm in [LensNorm::Own, LensNorm::Cached] {
                if norm == LensNorm::Cached && model.arch().final_norm.is_none() {
                    continue;
                }
                let mut options = options(component, norm);
                options.positions.retain(|position| *position < row.len());
                // Some layers have attention, others a recurrence.
                let has = |layer: usize| model.arch().points_of(options.component.site(), layer).is_ok();
                options.layers =
                    options.layers.iter().copied().filter(|l| *l < 0 || has(*l as usize)).collect();
                let batch = Batch::new(&[&row]).unwrap();
                let survey = survey(&model, &batch, &options).unwrap_or_else(|e| panic!("{case}: {e}"));
                assert_eq!(survey.positions, options.positions);
                let layers: Vec<i64> = survey.rows.iter().map(|row| row.layer).collect();
                assert!(layers.is_sorted() && layers[0] == -1, "{layers:?}");
                assert_eq!(survey.rows[0].name, "input_embeddings");
                for of_key in &survey.rows {
                    let full = LensOptions { norm, ..LensOptions::default() };
                    let full = read(&lens, &cache, &of_key.name, &full);
                    for (n, position) in options.positions.iter().enumerate() {
                        let at = |all: &[f32]| all[position * VOCABULARY..][..VOCABULARY].to_vec();
                        let target = row.get(position + 1).copied();
                        let expected = expected(&at(full.values()), &at(finals), target, &options);
                        let place = format!("{case}, {norm:?}, {} at {position}", of_key.name);
                        assert_same_reading(&place, &of_key.readings[n], &expected);
                        let (final_top, _) = expected_top(&at(finals));
                        assert_eq!(survey.final_top[n], final_top, "{place}");
                    }
                }
            }
        }
    }
}

/// The most likely id; ties go to the lower one.
fn expected_top(logits: &[f32]) -> (u32, f32) {
    let better = |best: (u32, f32), (id, x): (usize, &f32)| if *x > best.1 { (id as u32, *x) } else { best };
    logits.iter().enumerate().fold((0, f32::NEG_INFINITY), better)
}

#[test]
fn the_last_layer_agrees_with_itself() {
    for_every_model(|name, model| {
        let row = row(model);
        let last = model.arch().layers.len() as i64 - 1;
        let options = SurveyOptions {
            positions: (0..row.len()).collect(),
            layers: vec![last],
            tracked: vec![],
            ..options("resid_out", LensNorm::Own)
        };
        let survey = survey(model, &Batch::new(&[&row]).unwrap(), &options).unwrap();
        for (reading, top) in survey.rows[0].readings.iter().zip(&survey.final_top) {
            assert!(reading.kl_to_final.abs() < 1e-6, "{name}: KL {}", reading.kl_to_final);
            assert_eq!(reading.top[0].0, *top, "{name}");
        }
    });
}

#[test]
fn a_reading_is_the_same_on_any_number_of_threads_and_whatever_else_is_read() {
    let mut model = wide("gemma2");
    let row = row(&model);
    let batch = Batch::new(&[&row]).unwrap();
    let all = survey(&model, &batch, &options("resid_out", LensNorm::Own)).unwrap();
    model.set_threads(1);
    let one = SurveyOptions { positions: vec![38], layers: vec![0], ..options("resid_out", LensNorm::Own) };
    let alone = survey(&model, &batch, &one).unwrap();
    assert_eq!(alone.rows[0].readings[0], all.rows[1].readings[38]);
}

#[test]
fn experts_that_write_compressed_vectors_are_not_surveyed() {
    let model = tiny("nemotron_h_latent");
    let layers = vec![-1, 1];
    let options =
        SurveyOptions { layers, positions: vec![0], tracked: vec![], ..options("expert_out", LensNorm::Own) };
    let error = survey(&model, &Batch::new(&[&[5, 9]]).unwrap(), &options).unwrap_err().to_string();
    assert!(error.contains("this model's experts write compressed vectors"), "{error}");
}

#[test]
fn what_a_survey_cannot_read_is_an_error() {
    let model = tiny("gpt_neox");
    let two = Batch::new(&[[1, 2], [3, 4]]).unwrap();
    let one = Batch::new(&[[1, 2]]).unwrap();
    let plain =
        || SurveyOptions { positions: vec![0, 1], tracked: vec![], ..options("resid_out", LensNorm::Own) };
    let refused = |batch, options: SurveyOptions, part: &str| {
        let error = survey(&model, batch, &options).err().unwrap_or_else(|| panic!("no error of {part}"));
        assert!(error.to_string().contains(part), "{error}");
    };
    assert!(survey(&model, &one, &plain()).is_ok());
    refused(&two, plain(), "one prompt");
    refused(&one, SurveyOptions { layers: vec![3], ..plain() }, "no layer 3; the model has 0 to 2");
    refused(&one, SurveyOptions { layers: vec![-2], ..plain() }, "no layer -2");
    let parallel = SurveyOptions { component: Component::from_name("resid_mid").unwrap(), ..plain() };
    refused(&one, parallel, "in parallel");
    refused(&one, SurveyOptions { positions: vec![0, 2], ..plain() }, "position 2");
    refused(&one, SurveyOptions { tracked: vec![320], ..plain() }, "320");
    let mlp_hidden = Component::from_name("mlp_hidden").unwrap_err();
    assert!(mlp_hidden.to_string().contains("mlp_hidden"), "{mlp_hidden}");
}

#[test]
fn numbers_that_are_none_are_read_without_a_panic() {
    let model = wide("llama");
    let poison = |_: Point, value: &mut Value<'_>| value.vector_mut(0, 1).unwrap().fill(f32::NAN);
    let edit = Edit { at: [Point::layer_of(Site::ResidOut, 0)].into(), change: poison };
    let rows = [vec![1, 2, 3]];
    let cache = capture_after(&model, &rows, ["resid_out_0".parse().unwrap()], edit);
    let read = read(&LogitLens::from_model(&model).unwrap(), &cache, "resid_out_0", &super::own());
    assert!(read.values()[VOCABULARY..2 * VOCABULARY].iter().all(|x| x.is_nan()));
    let mut draft = Draft::of("llama");
    draft.tensor("model.layers.1.mlp.down_proj.weight").set(0, f32::NAN);
    let model = draft.load().unwrap();
    let options =
        SurveyOptions { positions: vec![0, 1], tracked: vec![5], ..options("resid_out", LensNorm::Own) };
    let survey = survey(&model, &Batch::new(&[[1, 2]]).unwrap(), &options).unwrap();
    for row in &survey.rows {
        for reading in &row.readings {
            assert!(reading.kl_to_final.is_nan(), "the model's own prediction is not a number");
            assert_eq!(reading.entropy.is_nan(), row.layer == 1, "layer {}", row.layer);
            assert_eq!(reading.top.len(), 50);
        }
    }
}
