//! Jacobian lenses: fitted, read and merged, compared with references computed in f64.

use easyroutine::edit::{Edits, Tensor};
use easyroutine::gradients::{Output, Rule, Seed, gradients};
use easyroutine::jacobian::{FitOptions, JacobianFile, JacobianSums};
use easyroutine::lens::{LensNorm, LensOptions, LogitLens};
use easyroutine::positions::{Context, Row, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Site};
use easyroutine::{Model, Stop};

use crate::common::{Reference, extract, fixtures, relative_error, tensors_of, tiny};

const AGREEMENT: f64 = 1e-5;
const OPTIONS: FitOptions = FitOptions { skip_first: 2, skip_last: 1 };

fn references(case: &str) -> std::collections::BTreeMap<String, Reference> {
    tensors_of(&fixtures().join("tiny").join(case).join("jacobian_lens.safetensors"))
}

fn own() -> LensOptions {
    LensOptions { norm: LensNorm::Own, ..LensOptions::default() }
}

fn fit(model: &Model, prompts: &[Vec<u32>]) -> JacobianSums {
    let mut sums = JacobianSums::new(model.arch(), OPTIONS).unwrap();
    for ids in prompts {
        sums.add(model, ids, Stop::Never, |_, _| Ok(())).unwrap();
    }
    sums
}

fn matrices(sums: &JacobianSums) -> Vec<f32> {
    (0..sums.n_layers()).flat_map(|layer| sums.matrix(layer)).collect()
}

#[test]
fn a_fit_gives_the_matrices_of_the_references() {
    for case in ["gpt2", "llama"] {
        let (references, model) = (references(case), tiny(case));
        let prompts = references["prompts"].integers();
        let per_prompt = &references["per_prompt"];
        let size = per_prompt.values.len() / prompts.len();
        for (ids, reference) in prompts.iter().zip(per_prompt.values.chunks(size)) {
            let error = relative_error(&matrices(&fit(&model, std::slice::from_ref(ids))), reference);
            assert!(error < AGREEMENT, "{case}: a prompt differs by {error:.1e}");
        }
        let all = fit(&model, &prompts);
        let error = relative_error(&matrices(&all), &references["J"].values);
        assert!(error < AGREEMENT, "{case}: J differs by {error:.1e}");
        // The standard error of the mean over prompts, from the references.
        let d2 = size / all.n_layers();
        for (layer, ours) in all.uncertainty().unwrap().into_iter().enumerate() {
            let of = |prompt: usize| {
                &per_prompt.values[prompt * size + layer * d2..prompt * size + (layer + 1) * d2]
            };
            let n = prompts.len() as f64;
            let mean: Vec<f64> =
                (0..d2).map(|i| (0..prompts.len()).map(|p| f64::from(of(p)[i])).sum::<f64>() / n).collect();
            let norm: f64 = mean.iter().map(|x| x * x).sum();
            let spread: f64 = (0..prompts.len())
                .map(|p| of(p).iter().zip(&mean).map(|(x, m)| (f64::from(*x) - m).powi(2)).sum::<f64>())
                .sum();
            let expected = (spread / (n - 1.0) / n / norm).sqrt();
            assert!((ours - expected).abs() < 1e-3 * expected, "{case}: {ours} {expected}");
        }
    }
}

#[test]
fn parts_in_any_order_merge_to_the_same_bytes_and_a_fit_goes_on_from_its_file() {
    let (references, mut model) = (references("llama"), tiny("llama"));
    let prompts = references["prompts"].integers();
    let whole = fit(&model, &prompts);
    let bytes = |sums: &JacobianSums| {
        let mut out = Vec::new();
        sums.write(&sums.description(), &mut out).unwrap();
        out
    };
    model.set_threads(3);
    let mut merged = fit(&model, &prompts[4..]);
    merged.merge(&fit(&model, &prompts[..1])).unwrap();
    merged.merge(&fit(&model, &prompts[1..4])).unwrap();
    assert!(bytes(&whole) == bytes(&merged));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("j.safetensors");
    std::fs::write(&file, bytes(&fit(&model, &prompts[..3]))).unwrap();
    let (mut going_on, told) = JacobianSums::read(&file).unwrap();
    assert_eq!(told["n_prompts"], 3);
    for ids in &prompts[3..] {
        going_on.add(&model, ids, Stop::Never, |_, _| Ok(())).unwrap();
    }
    assert!(bytes(&whole) == bytes(&going_on));
    let other = JacobianSums::new(tiny("gpt2").arch(), FitOptions::default()).unwrap();
    assert!(going_on.merge(&other).unwrap_err().to_string().contains("other positions"));
}

#[test]
fn a_checkpoint_of_another_program_is_gone_on_with() {
    for case in ["gpt2", "llama"] {
        let (references, model) = (references(case), tiny(case));
        let prompts = references["prompts"].integers();
        let file = fixtures().join("tiny").join(case).join("jacobian_lens_checkpoint.pt");
        let (mut sums, told) = JacobianSums::read(&file).unwrap();
        assert_eq!((sums.n_prompts, told["next"].as_u64(), sums.options), (4, Some(4), OPTIONS));
        for ids in &prompts[4..] {
            sums.add(&model, ids, Stop::Never, |_, _| Ok(())).unwrap();
        }
        let error = relative_error(&matrices(&sums), &references["J"].values);
        assert!(error < AGREEMENT, "{case}: J differs by {error:.1e}");
        // The checkpoint does not record how its prompts differ, so no part reports the error of the mean.
        assert_eq!(sums.uncertainty(), None);
        let mut merged = fit(&model, &prompts[..2]);
        merged.merge(&sums).unwrap();
        assert_eq!(merged.uncertainty(), None);
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("j.safetensors");
        let mut out = Vec::new();
        sums.write(&sums.description(), &mut out).unwrap();
        std::fs::write(&written, out).unwrap();
        assert_eq!(JacobianSums::read(&written).unwrap().0, sums);
        let read = JacobianFile::read(&file).unwrap_err();
        assert!(read.to_string().contains("checkpoint of a fit"));
    }
}

#[test]
fn a_published_file_and_one_of_ours_are_read_through() {
    for case in ["gpt2", "llama"] {
        let (references, model) = (references(case), tiny(case));
        let ids = references["input_ids"].integers();
        let cache = extract(&model, &ids, "resid_out_*", "all");
        let logits = |lens: &LogitLens| lens.compute(&cache, "resid_out_*", &own()).unwrap();
        let published = fixtures().join("tiny").join(case).join("jacobian_lens.pt");
        let lens = LogitLens::from_jacobian(&published, &model).unwrap();
        let found = lens.jacobian().unwrap();
        assert_eq!((found.n_prompts, found.layers.as_slice()), (6, &[0, 1, 2][..]));
        for (layer, (name, kept)) in logits(&lens).iter().enumerate() {
            assert_eq!(*name, format!("logit_lens_resid_out_{layer}"));
            let key = if layer == 2 { "logits.model".to_owned() } else { format!("logits_f16.{layer}") };
            let error = relative_error(kept.values(), &references[&key].values);
            assert!(error < 2.0 * AGREEMENT, "{case}: {key} differs by {error:.1e}");
        }
        let sums = fit(&model, &references["prompts"].integers());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("j.safetensors");
        let mut out = Vec::new();
        sums.write(&sums.description(), &mut out).unwrap();
        std::fs::write(&file, out).unwrap();
        let torch = folder.path().join("j.pt");
        std::fs::write(&torch, sums.to_torch().unwrap()).unwrap();
        let of_file = logits(&LogitLens::from_jacobian(&file, &model).unwrap());
        let of_torch = logits(&LogitLens::from_jacobian(&torch, &model).unwrap());
        for layer in 0..2 {
            let reference = &references[&format!("logits.{layer}")].values;
            let error = relative_error(of_file[layer].1.values(), reference);
            assert!(error < 2.0 * AGREEMENT, "{case}: layer {layer} differs by {error:.1e}");
            assert_eq!(of_file[layer].1.values(), of_torch[layer].1.values());
        }
    }
}

#[test]
fn what_fits_no_model_is_refused_by_name() {
    let model = tiny("llama");
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        LogitLens::from_jacobian(&file, &model).unwrap_err().to_string()
    };
    assert!(refused("a.pt", b"no archive").contains("not a zip archive"));
    let other = fixtures().join("tiny/llama/model.safetensors");
    let message = LogitLens::from_jacobian(&other, &model).unwrap_err().to_string();
    assert!(message.contains("jacobian fit"), "{message}");
    assert!(LogitLens::from_jacobian(folder.path().join("none.pt"), &model).is_err());
    let lens = LogitLens::from_jacobian(fixtures().join("tiny/llama/jacobian_lens.pt"), &model).unwrap();
    let cache = extract(&model, &[vec![1, 2, 3]], "input_embeddings,attn_out_1", "all");
    for key in ["input_embeddings", "attn_out_1"] {
        let error = lens.compute(&cache, key, &own()).unwrap_err();
        assert!(error.to_string().contains("no matrix") && error.hint_text().unwrap().contains("0, 1, 2"));
    }
    let mut sums = JacobianSums::new(model.arch(), OPTIONS).unwrap();
    sums.add(&model, &[1, 2, 3], Stop::Never, |_, _| Ok(())).unwrap();
    assert_eq!((sums.n_prompts, sums.n_short), (0, 1));
}

#[test]
fn a_fit_sums_the_gradients_of_single_vectors() {
    // Keys that are lent across blocks, and states that are walked back; models whose skipped tokens are walked and
    // models where they are not.
    let across = ["gemma4_text", "mamba2", "recurrent_gemma", "qwen3_next"];
    let other = ["gemma2", "qwen3", "deepseek_v3", "bloom", "mpt", "phi", "mixtral", "apertus", "cohere2"];
    for case in across.into_iter().chain(other) {
        let model = tiny(case);
        // So long that its unit vectors need several passes.
        let ids: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 250).collect();
        let sums = fit(&model, std::slice::from_ref(&ids));
        let (width, counted) = (model.arch().d_model, OPTIONS.skip_first..ids.len() - OPTIONS.skip_last);
        let matrix = sums.matrix(0);
        for unit in [0, 1, width - 1] {
            let mut values = vec![0.0; ids.len() * width];
            counted.clone().for_each(|position| values[position * width + unit] = 1.0);
            let seed = Seed {
                point: Point::layer_of(Site::ResidOut, model.arch().layers.len() - 1),
                positions: vec![Specifier::All],
                values: Tensor::new("unit", &[1, ids.len(), width], values).unwrap(),
            };
            let rows = [Row::of(0, &ids)];
            let request = Request::parse("resid_out_0", "all").unwrap();
            let (output, mut edits) = (Output::Vectors(std::slice::from_ref(&seed)), Edits::default());
            let context = Context::default();
            let rule = Rule::Gradient;
            let found =
                gradients(&model, &rows, &request, output, rule, &mut edits, context, Stop::Never).unwrap();
            let kept = found.cache.get("resid_out_0_gradients").unwrap().values();
            let mut expected = vec![0.0_f32; width];
            for position in counted.clone() {
                let vector = &kept[position * width..(position + 1) * width];
                expected.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x / counted.len() as f32);
            }
            let error = relative_error(&matrix[unit * width..(unit + 1) * width], &expected);
            assert!(error < 1e-4, "{case}: row {unit} differs by {error:.1e}");
        }
    }
}
