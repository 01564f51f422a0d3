//! A model whose unembedding is its embedding computes what the same model with a copy of it computes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::draft::Draft;
use common::{assert_same_bits, cases, extract, references};

const EMBEDDINGS: &[&str] =
    &["embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight"];
const UNEMBEDDINGS: &[&str] = &["lm_head.weight", "embed_out.weight"];

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
        copied.tensors.insert(own.unwrap_or_else(|| "lm_head.weight".to_owned()), embedding);
        let mut tied = copied.clone();
        tied.set("tie_word_embeddings", true);
        tied.tensors.retain(|name, _| !UNEMBEDDINGS.contains(&name.as_str()));
        assert_ne!(tied.tensors.len(), copied.tensors.len(), "{case}");

        let rows = references(&case)["full.input_ids"].integers();
        let logits = |draft: &Draft| {
            let model = draft.load().unwrap_or_else(|e| panic!("{case}: {e}"));
            extract(&model, &rows, "logits", "all").get("logits").unwrap().values().to_vec()
        };
        assert_same_bits(&case, &logits(&tied), &logits(&copied));
    }
}
