//! Regular expressions of a tokenizer.json, compared with Python's `tokenizers`.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::{
    NormalizedString, Normalizer, NormalizerWrapper, OffsetReferential, OffsetType, PreTokenizedString,
    PreTokenizer, PreTokenizerWrapper,
};

use super::guard::guarded;
use super::{Bos, Tokenizer};

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers/patterns.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn texts(fixture: &Value) -> Vec<&str> {
    fixture["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
}

/// The pieces of each text, or `null` if the pattern is refused.
fn pieces(split: &Value, texts: &[&str]) -> Value {
    let behavior = split["behavior"].as_str().unwrap().split('_').map(|word| {
        let (first, rest) = word.split_at(1);
        first.to_uppercase() + rest
    });
    let described = json!({"type": "Split", "pattern": split["pattern"], "behavior": behavior.collect::<String>(),
        "invert": split["invert"]});
    let built = guarded("read it", || Ok(serde_json::from_value::<PreTokenizerWrapper>(described)?));
    let Ok(split) = built else { return Value::Null };
    let cut = |text: &&str| {
        let mut text = PreTokenizedString::from(*text);
        guarded("cut", || split.pre_tokenize(&mut text))?;
        let splits = text.get_splits(OffsetReferential::Original, OffsetType::Char);
        Ok(splits.into_iter().map(|(_, span, _)| span).collect::<Vec<_>>())
    };
    let cut: crate::error::Result<Vec<_>> = texts.iter().map(cut).collect();
    cut.map_or(Value::Null, |cut| json!(cut))
}

#[test]
fn expressions_match_as_in_python() {
    let fixture = fixture();
    let texts = texts(&fixture);
    let splits = fixture["splits"].as_array().unwrap();
    let wrong: Vec<String> = splits
        .iter()
        .filter_map(|split| {
            let found = pieces(split, &texts);
            (found != split["pieces"])
                .then(|| format!("{} {} {}: {found}", split["pattern"], split["behavior"], split["invert"]))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), splits.len(), wrong.join("\n"));
}

#[test]
fn replacements_are_those_of_python() {
    let fixture = fixture();
    for rule in fixture["replacements"].as_array().unwrap() {
        let described = json!({"type": "Replace", "pattern": rule["pattern"], "content": rule["content"]});
        let replace: NormalizerWrapper = serde_json::from_value(described).unwrap();
        let results: Vec<String> = texts(&fixture)
            .into_iter()
            .map(|text| {
                let mut text = NormalizedString::from(text);
                replace.normalize(&mut text).unwrap();
                text.get().to_owned()
            })
            .collect();
        assert_eq!(json!(results), rule["results"], "{}", rule["pattern"]);
    }
}

/// A byte-level tokenizer that splits by `pattern`.
fn cutting_by(pattern: &str) -> crate::error::Result<Tokenizer> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny/llama/tokenizer.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    Tokenizer::from_folder(folder.path())
}

#[test]
fn numbers_are_cut_as_the_repeats_of_oniguruma_have_it() {
    let digits = |pattern: &str| cutting_by(pattern).unwrap().encode("1234567", Bos::No).unwrap().ids.len();
    // A repeated repeat, not a possessive one: the number is one piece, in which all merges apply.
    assert!(digits(r"\p{N}{1,3}+") <= digits(r"\p{N}{1,3}"));
    let spans = |pattern: &str| {
        pieces(&json!({"pattern": {"Regex": pattern}, "behavior": "isolated", "invert": false}), &["1234567"])
    };
    assert_eq!(spans(r"\p{N}{1,3}+"), json!([[[0, 7]]]));
    assert_eq!(spans(r"\p{N}{1,3}"), json!([[[0, 3], [3, 6], [6, 7]]]));
}

#[test]
fn a_hostile_expression_ends_in_an_error_that_names_the_limit() {
    let begun = Instant::now();
    for (pattern, text, limit) in [
        ("(a|aa)+$", "a".repeat(60) + "b", "10 million steps"),
        ("(?:a|b|ab)*c", "ab".repeat(25) + "dc", "10 million steps"),
    ] {
        let error = cutting_by(pattern).unwrap().encode(&text, Bos::No).unwrap_err();
        assert!(error.to_string().contains(limit), "{pattern}: {error}");
    }
    let deep = "(".repeat(5000) + "a" + &")".repeat(5000);
    assert!(cutting_by(&deep).is_err());
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_expression_cuts_any_text_or_is_an_error(pattern in "[a(){}|*+?\\[\\]^$.\\\\1-3, wdsphLN<>=!:i-]{0,16}", text in "[aA1 \\n.é(]{0,24}") {
        if let Ok(tokenizer) = cutting_by(&pattern) {
            drop(tokenizer.encode(&text, Bos::No));
        }
    }
}
