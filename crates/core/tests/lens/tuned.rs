//! A lens of the tuned-lens package compared with its formula, in f64. `fixtures/torch/make.py` wrote the lens.

use std::path::{Path, PathBuf};

use easyroutine::ErrorKind;
use easyroutine::cache::Numbers;
use easyroutine_files::torch::{self, Item};

use super::*;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch/tuned_lens")
}

fn parameter(params: &Item, name: &str) -> Vec<f64> {
    let Some(Item::Tensor(tensor)) = params.get(name) else { panic!("{name}") };
    tensor.bytes.as_chunks::<4>().0.iter().map(|x| f64::from(f32::from_le_bytes(*x))).collect()
}

/// h + W h + b of every vector.
fn translated(params: &Item, layer: usize, kept: &Kept) -> Kept {
    let (weight, bias) =
        (parameter(params, &format!("{layer}.weight")), parameter(params, &format!("{layer}.bias")));
    let d = bias.len();
    let vector = |h: &[f32]| {
        (0..d)
            .map(|i| {
                let product: f64 = (0..d).map(|j| weight[i * d + j] * f64::from(h[j])).sum();
                (f64::from(h[i]) + product + bias[i]) as f32
            })
            .collect::<Vec<f32>>()
    };
    let values = kept.values().chunks(d).flat_map(vector).collect();
    Kept { data: Numbers::F32(values), row_shapes: kept.row_shapes.clone() }
}

#[test]
fn a_tuned_lens_reads_each_stream_through_its_translator() {
    let model = tiny("llama");
    let cache = captured(&model, &rows(&model));
    let params = torch::read(&std::fs::read(folder().join("params.pt")).unwrap(), &[]).unwrap();
    let (tuned, plain) =
        (LogitLens::from_tuned_lens(folder(), &model).unwrap(), LogitLens::from_model(&model).unwrap());
    for layer in 0..3 {
        let key = format!("resid_in_{layer}");
        let expected = translated(&params, layer, cache.get(&key).unwrap());
        let mut by_hand = cache.clone();
        by_hand.insert(key.clone(), expected);
        let (ours, theirs) = (read(&tuned, &cache, &key, &own()), read(&plain, &by_hand, &key, &own()));
        let untuned = read(&plain, &cache, &key, &own());
        // Sums of 48 terms of magnitude one, in f32 here and in f64 there.
        let close = |a: &Kept, b: &Kept| a.values().iter().zip(b.values()).all(|(a, b)| (a - b).abs() < 2e-4);
        assert!(close(&ours, &theirs), "{key}");
        assert!(!close(&ours, &untuned), "{key}: the translator does nothing");
        if layer > 0 {
            assert_eq!(
                read(&tuned, &cache, &format!("resid_out_{}", layer - 1), &own()).values(),
                ours.values()
            );
        }
    }
    // For the final layer it is the model itself.
    let last = last_stream(&model).to_string();
    assert_eq!(read(&tuned, &cache, &last, &own()).values(), read(&plain, &cache, &last, &own()).values());
}

#[test]
fn a_tuned_lens_of_another_model_or_for_another_place_is_refused() {
    let model = tiny("llama");
    let cache = captured(&model, &rows(&model));
    let tuned = LogitLens::from_tuned_lens(folder(), &model).unwrap();
    for key in ["attn_out_1", "resid_mid_1", "mlp_out_0"] {
        let error = tuned.compute(&cache, key, &own()).unwrap_err();
        assert!(error.to_string().contains(&format!("no translator for `{key}`")), "{error}");
    }
    let other = tempfile::tempdir().unwrap();
    let copy = |config: &str, params: &[u8]| {
        std::fs::write(other.path().join("config.json"), config).unwrap();
        std::fs::write(other.path().join("params.pt"), params).unwrap();
        LogitLens::from_tuned_lens(other.path(), &model).unwrap_err()
    };
    let params = std::fs::read(folder().join("params.pt")).unwrap();
    let fits = std::fs::read_to_string(folder().join("config.json")).unwrap();
    let wide = copy(&fits.replace("48", "64"), &params);
    assert!(wide.to_string().contains("`d_model` is 64, but the model's is 48"), "{wide}");
    let hostile = std::fs::read(folder().with_file_name("hostile.pt")).unwrap();
    assert!(copy(&fits, &hostile).to_string().contains("`posix.system`"));
    let values = std::fs::read(folder().with_file_name("values.pt")).unwrap();
    assert_eq!(copy(&fits, &values).kind(), ErrorKind::Weights);
    assert_eq!(LogitLens::from_tuned_lens("nowhere", &model).unwrap_err().kind(), ErrorKind::NotFound);
}
