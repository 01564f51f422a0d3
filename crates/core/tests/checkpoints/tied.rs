//! A model that ties its unembedding to its embedding computes the same as one with a copy.

use easyroutine::load::{LoadOptions, load};

use super::{assert_agree, expected, says};
use crate::common::draft::Draft;
use crate::common::{assert_same_bits, cases, extract, fixtures, folder, references, unembedding_of};

const EMBEDDINGS: &[&str] =
    &["embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "embeddings.weight"];
const UNEMBEDDINGS: &[&str] = &["lm_head.weight", "embed_out.weight", "output_projection.weight"];

#[test]
fn a_tied_model_is_the_model_with_a_copy_of_its_embedding() {
    for case in cases("tiny") {
        let mut copied = Draft::of(&case);
        let named = |ends: &[&str]| {
            copied.tensors.keys().find(|name| ends.iter().any(|end| name.ends_with(end))).cloned()
        };
        let own = named(UNEMBEDDINGS);
        let embedding = copied.tensors[&named(EMBEDDINGS).unwrap()].clone();
        copied.set("tie_word_embeddings", false);
        copied.tensors.insert(own.unwrap_or_else(|| unembedding_of(&case).to_owned()), embedding);
        let mut tied = copied.clone();
        tied.set("tie_word_embeddings", true);
        tied.tensors.retain(|name, _| !UNEMBEDDINGS.contains(&name.as_str()));
        assert_ne!(tied.tensors.len(), copied.tensors.len(), "{case}");

        let rows = references(&case)["full.input_ids"].integers();
        let logits = |draft: &Draft| {
            let model = draft.load().unwrap_or_else(|e| panic!("{case}: {e}"));
            extract(&model, &rows, "logits", "all").get("logits").unwrap().values().to_vec()
        };
        let bits = logits(&tied);
        assert_same_bits(&case, &bits, &logits(&copied));

        // safetensors keeps one of two tensors that share memory: the first alphabetically.
        let mut head_only = copied.clone();
        head_only.set("tie_word_embeddings", true);
        head_only.tensors.retain(|name, _| !EMBEDDINGS.iter().any(|end| name.ends_with(end)));
        assert_same_bits(format!("{case}, head alone"), &logits(&head_only), &bits);
    }
}

#[test]
fn the_unembedding_alone_serves_as_both_as_in_transformers() {
    let path = fixtures().join("checkpoints/tied-head-only");
    let model = load(&folder(path), &LoadOptions::default()).unwrap();
    let expected = expected("tied-head-only");
    let rows = expected["input_ids"].integers();
    assert_agree(&extract(&model, &rows, "resid_out_0,logits", "all"), &expected, &["resid_out_0", "logits"]);
}

#[test]
fn two_different_matrices_of_a_tied_model_both_count_and_are_spoken_of() {
    let mut draft = Draft::of("llama");
    draft.set("tie_word_embeddings", true);
    let model = draft.load().unwrap();
    let [warning] = model.warnings() else { panic!("{:?}", model.warnings()) };
    assert!(warning.contains("ties `lm_head`") && warning.contains("different matrix"), "{warning}");
    let mut untied = draft.clone();
    untied.set("tie_word_embeddings", false);
    let rows = [vec![1, 2, 3]];
    let logits = |model| extract(model, &rows, "logits", "all").get("logits").unwrap().values().to_vec();
    assert_same_bits("logits", &logits(&model), &logits(&untied.load().unwrap()));
}

#[test]
fn a_missing_unembedding_of_an_untied_model_is_an_error_that_says_what_would_do() {
    let mut draft = Draft::of("llama");
    draft.set("tie_word_embeddings", false);
    draft.tensors.remove("lm_head.weight").unwrap();
    says(draft.load(), &["`lm_head.weight`", "tie_word_embeddings", "architectures"]);
}
