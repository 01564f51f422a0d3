//! Training tuned lenses, compared with references computed in f64 with torch's optimisers.

use easyroutine::lens::{LensNorm, LensOptions, LogitLens};
use easyroutine::load::LoadOptions;
use easyroutine::tune::{Optimiser, Tuning, save_tuned_lens, tuned_lens_config};
use easyroutine::{Dtype, Model, Stop};

use crate::common::{Reference, extract, fixtures, relative_error, tensors_of, tiny, tiny_with};

const AGREEMENT: f64 = 1e-4;

fn references(case: &str) -> std::collections::BTreeMap<String, Reference> {
    tensors_of(&fixtures().join("tuned_lens").join(case).join("reference.safetensors"))
}

fn step(
    tuning: &mut Tuning,
    model: &Model,
    ids: &[Vec<u32>],
    order: &[u32],
) -> easyroutine::tune::TuningStep {
    let rows: Vec<&[u32]> = order.iter().map(|row| ids[*row as usize].as_slice()).collect();
    tuning.step(model, &rows, Stop::Never).unwrap()
}

#[test]
fn training_follows_the_references() {
    for case in ["gpt2", "llama"] {
        let (references, model) = (references(case), tiny(case));
        let (ids, order) = (references["input_ids"].integers(), references["order"].integers());
        for name in ["sgd", "adam"] {
            let optimiser = Optimiser::from_name(name, None).unwrap();
            let mut tuning = Tuning::new(&model, optimiser, order.len()).unwrap();
            let (mut losses, mut norms, mut rates) = (Vec::new(), Vec::new(), Vec::new());
            for rows in &order {
                let made = step(&mut tuning, &model, &ids, rows);
                losses.extend(made.losses.iter().map(|x| *x as f32));
                norms.push(made.gradient_norm as f32);
                rates.push(made.rate as f32);
            }
            let all: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
            let last: Vec<f32> =
                tuning.losses(&model, &all, Stop::Never).unwrap().iter().map(|x| *x as f32).collect();
            let compare = |key: &str, ours: &[f32]| {
                let error = relative_error(ours, &references[&format!("{name}.{key}")].values);
                assert!(error < AGREEMENT, "{case}: {name}.{key} differs by {error:.1e}");
            };
            compare("lr", &rates);
            compare("loss", &losses);
            compare("grad_norm", &norms);
            compare("final_kl", &last);
            for layer in 0..3 {
                compare(&format!("{layer}.weight"), tuning.weight(layer));
                compare(&format!("{layer}.bias"), tuning.bias(layer));
            }
        }
    }
}

#[test]
fn a_training_goes_on_to_the_bit_with_any_number_of_threads() {
    let (references, mut model) = (references("llama"), tiny("llama"));
    let (ids, order) = (references["input_ids"].integers(), references["order"].integers());
    let folder = tempfile::tempdir().unwrap();
    for name in ["sgd", "adam"] {
        let optimiser = Optimiser::from_name(name, None).unwrap();
        let mut whole = Tuning::new(&model, optimiser, 12).unwrap();
        order[..12].iter().for_each(|rows| drop(step(&mut whole, &model, &ids, rows)));
        model.set_threads(3);
        let mut first = Tuning::new(&model, optimiser, 12).unwrap();
        order[..5].iter().for_each(|rows| drop(step(&mut first, &model, &ids, rows)));
        let file = folder.path().join(name);
        let mut out = Vec::new();
        first.write_state(&serde_json::json!({"rows": 64}), &mut out).unwrap();
        std::fs::write(&file, out).unwrap();
        let settings = serde_json::json!({"rows": 64});
        let resume = |optimiser, steps, settings| Tuning::resume(&model, &file, optimiser, steps, settings);
        let mut second = resume(optimiser, 12, &settings).unwrap();
        assert_eq!(second.done, 5);
        let other = Optimiser::from_name(name, Some(0.5)).unwrap();
        let other = resume(other, 13, &serde_json::json!({"rows": 65})).unwrap_err().to_string();
        assert!(
            other.contains("`rows` (64, here 65), `rate` (") && other.contains("`steps` (12, here 13)"),
            "{other}"
        );
        order[5..12].iter().for_each(|rows| drop(step(&mut second, &model, &ids, rows)));
        assert_eq!(save_tuned_lens(&whole).unwrap(), save_tuned_lens(&second).unwrap());
        assert!(
            Tuning::read_state(&tiny("gemma2"), &file).unwrap_err().to_string().contains("another model")
        );
        assert!(second.step(&model, &[&ids[0]], Stop::Never).unwrap_err().to_string().contains("all 12"));
    }
}

/// A saved lens loads as a lens and brings each layer closer to the model's own prediction.
#[test]
fn a_saved_lens_is_one_of_the_tuned_lens_package() {
    let (references, model) = (references("gpt2"), tiny("gpt2"));
    let (ids, order) = (references["input_ids"].integers(), references["order"].integers());
    let mut tuning = Tuning::new(&model, Optimiser::from_name("adam", None).unwrap(), 60).unwrap();
    let all: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let before = tuning.losses(&model, &all, Stop::Never).unwrap();
    order[..60].iter().for_each(|rows| drop(step(&mut tuning, &model, &ids, rows)));
    let after = tuning.losses(&model, &all, Stop::Never).unwrap();
    assert!(before.iter().zip(&after).all(|(before, after)| after < before), "{before:?} {after:?}");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("params.pt"), save_tuned_lens(&tuning).unwrap()).unwrap();
    let config = tuned_lens_config(&model, "tiny/gpt2", Some("main")).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let lens = LogitLens::from_tuned_lens(folder.path(), &model).unwrap();
    let trained = lens.tuned().unwrap();
    assert_eq!(trained.base_model.as_deref(), Some("tiny/gpt2"));
    assert_eq!(trained.warning("another name", &lens.unembedding().tuned_lens_hash().unwrap()), None);
    let own = LensOptions { norm: LensNorm::Own, ..LensOptions::default() };
    let cache = extract(&model, &ids[..1], "resid_in_1,logits", "all");
    let found = lens.compute(&cache, "resid_in_1", &own).unwrap();
    let plain = LogitLens::from_model(&model).unwrap().compute(&cache, "resid_in_1", &own).unwrap();
    assert_ne!(found[0].1.values(), plain[0].1.values());
}

#[test]
fn every_head_of_logits_has_a_slope() {
    // Covers a softcap, a divisor, a projection before the unembedding, and a final norm without bias.
    let ids = [vec![5, 90, 17, 200], vec![44, 3, 121, 7]];
    let rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    for case in ["gemma2", "granite", "opt", "bloom"] {
        let model = tiny(case);
        let optimiser = Optimiser::from_name("sgd", Some(0.2)).unwrap();
        let mut tuning = Tuning::new(&model, optimiser, 30).unwrap();
        let first = tuning.step(&model, &rows, Stop::Never).unwrap();
        let mut last = first.clone();
        for _ in 0..20 {
            last = tuning.step(&model, &rows, Stop::Never).unwrap();
        }
        let sum = |step: &easyroutine::tune::TuningStep| step.losses.iter().sum::<f64>();
        assert!(sum(&last) < 0.95 * sum(&first), "{case}: {first:?} {last:?}");
    }
}

#[test]
fn what_cannot_be_trained_is_refused() {
    let bf16 = tiny_with("llama", &LoadOptions { dtype: Dtype::Bf16, ..LoadOptions::default() });
    let sgd = Optimiser::from_name("sgd", None).unwrap();
    assert!(Tuning::new(&bf16, sgd, 5).unwrap_err().to_string().contains("in bf16"));
    assert!(Tuning::new(&tiny("llama"), sgd, 0).unwrap_err().to_string().contains("0 steps"));
    assert!(Optimiser::from_name("lion", None).unwrap_err().hint_text().unwrap().contains("adam"));
    assert!(Optimiser::from_name("sgd", Some(f64::NAN)).unwrap_err().to_string().contains("NaN"));
}
