//! A lens of the tuned-lens package compared with its formula, in f64. `fixtures/torch/make.py` wrote the lens.

use std::path::{Path, PathBuf};

use easyroutine::cache::Numbers;
use easyroutine::lens::TunedLens;
use easyroutine::load::LoadOptions;
use easyroutine::{ErrorKind, LogitRules, Unembedding};
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

/// The matrix and the hash of a line of `fixtures/unembed/matrices.txt`.
fn unembedding(line: &str) -> (Unembedding, &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let [rows, columns]: [usize; 2] = [words[0].parse().unwrap(), words[1].parse().unwrap()];
    let is_shown = |n: usize, len: usize| rows * columns <= 1000 || len <= 6 || n < 3 || n + 3 >= len;
    let mut numbers = words[3..].iter().map(|word| word.parse::<f32>().unwrap());
    let places = (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column)));
    let matrix: Vec<f32> = places
        .map(|(row, column)| match is_shown(row, rows) && is_shown(column, columns) {
            true => numbers.next().unwrap(),
            false => 7.0,
        })
        .collect();
    assert!(numbers.next().is_none());
    let cpu = LoadOptions::default().cpu().unwrap();
    (Unembedding::from_rows(&cpu, &matrix, columns, None, LogitRules::default()).unwrap(), words[2])
}

#[test]
fn the_hash_of_an_unembedding_is_that_of_the_tuned_lens_package() {
    let text = std::fs::read_to_string(folder().join("../../unembed/matrices.txt")).unwrap();
    let mut n = 0;
    for (number, line) in text.lines().enumerate() {
        let (unembedding, hash) = unembedding(line);
        assert_eq!(unembedding.tuned_lens_hash().unwrap(), hash, "line {}", number + 1);
        n += 1;
    }
    assert!(n >= 40, "{n} lines");
    // As transformers loads them; one has a map to the stream's width, which is no part of the matrix.
    for (case, hash) in [
        ("llama", "d6c5cfc6a94c476eba7fe388c2811e0636ba32d91c5448a1d7b25850faea5bd6"),
        ("gpt2", "7655da0d5f74eedb6d6dd83fc00129275b4a959543eee8b984c08e9c6c45734f"),
        ("opt", "a8f12bb5d459d55d1b1242b76ac5dc47e8e6f941477a31d8def755951448284d"),
    ] {
        let lens = LogitLens::from_model(&tiny(case)).unwrap();
        assert_eq!(lens.unembedding().tuned_lens_hash().unwrap(), hash, "{case}");
    }
}

#[test]
fn a_tuned_lens_of_another_model_warns_by_hash_or_else_by_name() {
    let lens = |base: Option<&str>, hash: Option<&str>| TunedLens {
        name: "lens".to_owned(),
        base_model: base.map(str::to_owned),
        base_revision: None,
        unembed_hash: hash.map(str::to_owned),
    };
    let warned = |base, hash, model: &str| lens(base, hash).warning(model, "aa").unwrap_or_default();
    assert_eq!(warned(Some("org/a"), Some("aa"), "b"), "");
    let of_other = warned(Some("org/a"), Some("bb"), "a");
    assert!(
        of_other.contains("with another unembedding") && of_other.contains("it names org/a"),
        "{of_other}"
    );
    for (base, model) in [
        ("EleutherAI/pythia-70m", "pythia-70M"),
        ("/home/me/Pythia-70m/", "org/pythia-70m"),
        ("org/pythia-70m", "pythia-70m.Q4_K_M"),
        ("org/pythia-70m", "pythia-70m-bf16"),
        // A model without a name.
        ("org/pythia-70m", ""),
    ] {
        assert_eq!(warned(Some(base), None, model), "", "{base}, {model}");
    }
    for model in ["pythia-70m-deduped", "pythia-70m-v0", "pythia", "gpt2"] {
        let told = warned(Some("org/pythia-70m"), None, model);
        assert!(told.contains("trained on org/pythia-70m") && told.contains(model), "{told}");
    }
    assert!(warned(None, None, "a").contains("does not say which model"));
}
