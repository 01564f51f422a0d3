//! Tensors that are missing, surplus, of the wrong shape or type, or not finite.

use std::collections::BTreeMap;

use easyroutine::lens::{LensOptions, LogitLens};
use easyroutine::load::{LoadOptions, load};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::{Batch, Dtype, ErrorKind, Model, Stop};
use safetensors::tensor::Dtype as Stored;

use super::refused;
use crate::common::draft::{self, Draft};
use crate::common::{assert_same_bits, cases, extract, folder, tiny};

fn logits(model: &Model) -> Vec<f32> {
    extract(model, &[vec![1, 2, 3]], "logits", "all").get("logits").unwrap().values().to_vec()
}

/// Applies `change` to every tensor of every tiny model in turn. A model that still loads must not have needed the
/// tensor.
fn every_tensor(change: impl Fn(&mut BTreeMap<String, draft::Stored>, &str)) {
    let (mut errors, mut copies) = (0, 0);
    for case in cases("tiny") {
        let whole = Draft::of(&case);
        let expected = logits(&tiny(&case));
        for name in whole.tensors.keys() {
            let mut draft = whole.clone();
            change(&mut draft.tensors, name);
            match draft.load() {
                Ok(model) => {
                    copies += 1;
                    assert_same_bits(format_args!("{case} without {name}"), &logits(&model), &expected);
                }
                Err(error) => {
                    errors += 1;
                    assert_eq!(error.kind(), ErrorKind::Weights, "{case}, {name}: {error}");
                    assert!(
                        error.to_string().contains(&format!("`{name}`")),
                        "{case}: {error} does not name {name}"
                    );
                }
            }
        }
    }
    assert!(errors > 500 && copies * 50 < errors, "{errors} errors, {copies} not needed");
}

#[test]
fn a_missing_tensor_is_named() {
    every_tensor(|tensors, name| _ = tensors.remove(name));
}

#[test]
fn all_that_is_wrong_with_the_tensors_is_named_at_once() {
    for case in ["llama", "gpt2", "mixtral"] {
        let mut draft = Draft::of(case);
        // For each layer, whatever its family's names, a matrix and a vector; one tensor under another name; one of
        // another shape.
        let layer = |name: &&String| name.contains(".1.");
        let names: Vec<String> = draft.tensors.keys().filter(layer).cloned().collect();
        let [first, .., other, last] = names.as_slice() else { panic!("{case} has few tensors") };
        let renamed = draft.tensors.remove(first).unwrap();
        draft.tensors.insert("by.another.name".to_owned(), renamed);
        draft.tensors.remove(last);
        draft.tensor(other).shape.insert(0, 1);
        let words = [first, last, other].map(|name| format!("`{name}`"));
        let words: Vec<&str> =
            words.iter().map(String::as_str).chain(["have no tensors", "`by.another.name`"]).collect();
        refused(draft.load(), ErrorKind::Weights, &words);
    }
    let mut draft = Draft::of("llama3");
    draft.config["tie_word_embeddings"] = false.into();
    draft.tensors.remove("lm_head.weight");
    draft.tensors.remove("model.norm.weight");
    refused(
        draft.load(),
        ErrorKind::Weights,
        &["`lm_head.weight`", "`model.norm.weight`", "tie_word_embeddings"],
    );
    let lens = draft.open().unwrap().lens(&LoadOptions::default());
    refused(lens, ErrorKind::Weights, &["`lm_head.weight`", "`model.norm.weight`"]);
}

#[test]
fn a_tensor_of_another_shape_is_named() {
    every_tensor(|tensors, name| {
        let tensor = tensors.get_mut(name).unwrap();
        tensor.shape.insert(0, 1);
    });
    let mut draft = Draft::of("llama");
    draft.tensor("model.layers.1.self_attn.k_proj.weight").shape = vec![48, 24];
    let words = ["model.layers.1.self_attn.k_proj.weight", "[48, 24]", "[24, 48]"];
    refused(draft.load(), ErrorKind::Weights, &words);
}

#[test]
fn a_tensor_that_is_not_floating_point_is_named_with_its_type() {
    every_tensor(|tensors, name| {
        let tensor = tensors.get_mut(name).unwrap();
        tensor.dtype = Stored::I64;
        tensor.bytes.extend_from_within(..);
    });
    for (dtype, word, width) in [(Stored::I64, "I64", 8), (Stored::I32, "I32", 4), (Stored::U8, "U8", 1)] {
        let mut draft = Draft::of("llama");
        let tensor = draft.tensor("model.norm.weight");
        (tensor.dtype, tensor.bytes) = (dtype, vec![1; 48 * width]);
        refused(draft.load(), ErrorKind::Weights, &["model.norm.weight", word, "not floating point"]);
    }
}

#[test]
fn a_surplus_tensor_is_named() {
    for case in cases("tiny") {
        let mut draft = Draft::of(&case);
        draft.tensors.insert("extra.twist.weight".to_owned(), draft::Stored::f32(&[2], [1.0, 2.0]));
        refused(draft.load(), ErrorKind::Weights, &["`extra.twist.weight`", "no place"]);
        draft.tensors.insert("extra.turn.weight".to_owned(), draft::Stored::f32(&[1], [1.0]));
        refused(draft.load(), ErrorKind::Weights, &["extra.twist.weight"]);
    }
}

#[test]
fn a_biased_linear_without_its_bias_in_the_config_is_no_silent_loss() {
    let mut draft = Draft::of("llama");
    let bias = draft::Stored::f32(&[48], vec![1.0; 48]);
    draft.tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    refused(draft.load(), ErrorKind::Weights, &["model.layers.0.self_attn.q_proj.bias"]);
}

#[test]
fn weights_that_are_no_numbers_are_found_with_their_places() {
    for case in cases("tiny") {
        let mut draft = Draft::of(&case);
        assert_eq!(draft.open().unwrap().non_finite().unwrap(), [], "{case}");
        let layer = |name: &str| name.split('.').find_map(|part| part.parse::<usize>().ok());
        let is_weight = |name: &&String| layer(name) == Some(1) && name.ends_with("weight");
        let name = draft.tensors.keys().find(is_weight).unwrap().clone();
        let tensor = draft.tensor(&name);
        tensor.set(5, f32::NAN);
        tensor.set(9, f32::NEG_INFINITY);
        assert_eq!(draft.open().unwrap().non_finite().unwrap(), [(name, 2, 5)], "{case}");
        // The model runs all the same; this shows how far the damage reaches.
        let first = extract(&draft.load().unwrap(), &[vec![1, 2]], "resid_out_0", "all");
        assert!(first.get("resid_out_0").unwrap().values().iter().all(|x| x.is_finite()), "{case}");
    }
}

#[test]
fn a_folder_with_a_model_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new");
    let opened = Draft::of("llama").open().unwrap();
    opened.export(&target, Dtype::F32, Stop::Never).unwrap();
    let before = std::fs::read(target.join("model.safetensors")).unwrap();
    let other = Draft::of("gpt2").open().unwrap();
    refused(
        other.export(&target, Dtype::F32, Stop::Never),
        ErrorKind::Io,
        &["config.json", "exists already", "empty folder"],
    );
    assert_eq!(std::fs::read(target.join("model.safetensors")).unwrap(), before);
    // Weights alone are somebody's work too.
    std::fs::remove_file(target.join("config.json")).unwrap();
    refused(
        other.export(&target, Dtype::F32, Stop::Never),
        ErrorKind::Io,
        &["model.safetensors", "exists already"],
    );
    assert_eq!(std::fs::read(target.join("model.safetensors")).unwrap(), before);
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    refused(opened.export(&file, Dtype::F32, Stop::Never), ErrorKind::Io, &["file"]);
}

#[test]
fn a_file_that_was_written_to_before_it_was_read_is_refused() {
    for case in ["llama", "llama3"] {
        let written = Draft::of(case).write();
        let load = || {
            load(&folder(written.path()), &LoadOptions { threads: Some(2), ..LoadOptions::default() })
                .unwrap()
        };
        let run = |model: &Model| {
            let rows = [vec![1, 2, 3]];
            Request::parse("logits", "all").unwrap().run(
                model,
                &Batch::new(&rows).unwrap(),
                &[Row::of(0, &rows[0])],
                Context::default(),
            )
        };
        let (model, packed) = (load(), load());
        let lens = LogitLens::from_model(&load()).unwrap();
        let cache = run(&model).unwrap();
        let before = logits(&packed);
        (0..3).for_each(|_| drop(logits(&packed)));

        std::fs::write(written.path().join("model.safetensors"), Draft::of("gpt2").weights()).unwrap();
        let words = ["model.safetensors", "was written to", "Load it again"];
        refused(run(&model), ErrorKind::Format, &words);
        refused(lens.unembedding().rows(), ErrorKind::Format, &words);
        refused(lens.compute(&cache, "resid_out_*", &LensOptions::default()), ErrorKind::Format, &words);
        // Its embedding is read from the file unless it is also the unembedding.
        if case == "llama" {
            refused(run(&packed), ErrorKind::Format, &words);
        } else {
            assert_same_bits(case, &logits(&packed), &before);
        }
    }
}
