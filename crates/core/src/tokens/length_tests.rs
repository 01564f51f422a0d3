//! Long texts, and files that expand a little into a lot.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::segments::Stretches;
use super::tests::{folder_with, gguf};
use super::{Bos, Tokenizer};

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tiny/llama/tokenizer.json");

fn described() -> Value {
    serde_json::from_slice(&std::fs::read(TINY).unwrap()).unwrap()
}

fn opened(file: &Value) -> crate::error::Result<Tokenizer> {
    Tokenizer::from_folder(folder_with(&[("tokenizer.json", &file.to_string())]).path())
}

/// One tokenizer of each kind that divides text into stretches.
fn tokenizers() -> Vec<(String, Tokenizer)> {
    let mut found = Vec::new();
    for pre in ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "qwen35", "gpt-4o", "olmo"] {
        let tokenizer = Tokenizer::from_gguf_cut_as(&gguf("bytes"), Some(pre)).unwrap();
        found.push((pre.to_owned(), tokenizer));
    }
    for name in ["pieces", "gemma"] {
        found.push((name.to_owned(), Tokenizer::from_gguf(&gguf(name)).unwrap()));
    }
    // As in the folders of Llama 2 and Llama 3.
    let saved = tempfile::tempdir().unwrap();
    found[8].1.save(saved.path()).unwrap();
    let mut file: Value =
        serde_json::from_slice(&std::fs::read(saved.path().join("tokenizer.json")).unwrap()).unwrap();
    file["pre_tokenizer"] = json!(null);
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]});
    found.push(("prepended".to_owned(), opened(&file).unwrap()));
    let mut file = described();
    file["post_processor"] = json!({"type": "Sequence", "processors": [
        {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        {"type": "TemplateProcessing", "special_tokens": {"<bos>": {"id": "<bos>", "ids": [1], "tokens": ["<bos>"]}},
         "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
         "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]}]});
    found.push(("trimmed".to_owned(), opened(&file).unwrap()));
    let mut file = described();
    let token = json!({"id": 320, "content": "東\n", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    file["added_tokens"].as_array_mut().unwrap().push(token);
    found.push(("lines".to_owned(), opened(&file).unwrap()));
    let mut file = described();
    file["normalizer"] = json!({"type": "NFKD"});
    found.push(("decomposed".to_owned(), opened(&file).unwrap()));
    found
}

#[test]
fn a_text_in_stretches_has_the_tokens_of_the_whole_text() {
    let words = "the cat  sat on\n a mat, it's 12345 caf\u{e9} cafe\u{301} x y <|im_end|> end</s> the<s> the  \t z \u{6771}\u{4eac} Don't a b\nc が\n東京は、東\nd 日本の首都です。서울\n\nか\u{3099}。だ！\n a。b<s>。 c ж да и\u{306} ёлка ж é à\u{301} ό ς λ א ב ش ي क ख ก ข\nи да\n";
    for (name, tokenizer) in tokenizers() {
        let stretches = Stretches::of(&tokenizer.backend).unwrap_or_else(|| panic!("{name} is not cut"));
        for text in [words, &words.repeat(3), "a b", "a", "", " a b c d"] {
            for special in [true, false] {
                let whole = tokenizer.backend.encode(text, special).unwrap();
                for length in [1, 2, 3, 7, 20, 1000] {
                    let found =
                        stretches.encode(&tokenizer.backend, text, special, length, usize::MAX).unwrap();
                    assert_eq!(found.ids, whole.get_ids(), "{name}: {text:?} by {length}");
                    assert_eq!(found.offsets, whole.get_offsets(), "{name}: {text:?} by {length}");
                    assert!(!found.is_cut);
                    for limit in 1..found.ids.len().min(9) {
                        let some =
                            stretches.encode(&tokenizer.backend, text, special, length, limit).unwrap();
                        assert_eq!(
                            some.ids[..limit],
                            found.ids[..limit],
                            "{name}: {text:?}, {limit} by {length}"
                        );
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_text_in_stretches_has_its_tokens(text in "([a-zA-Z]{1,3} |[а-яё]{1,2} [א-ת]|[ a1'\\n.,éж\u{306}東の。、]|<s>|\\PC){0,40}", length in 1usize..30) {
        for (name, tokenizer) in tokenizers() {
            let stretches = Stretches::of(&tokenizer.backend).unwrap();
            let whole = tokenizer.backend.encode(text.as_str(), true).unwrap();
            let found = stretches.encode(&tokenizer.backend, &text, true, length, usize::MAX).unwrap();
            prop_assert_eq!(&found.ids, whole.get_ids(), "{}", name);
            prop_assert_eq!(&found.offsets, whole.get_offsets(), "{}", name);
        }
    }
}

#[test]
fn what_a_cut_might_change_is_not_cut() {
    let mut file = described();
    let cut = |file: &Value| Stretches::of(&opened(file).unwrap().backend).is_some();
    assert!(cut(&file));
    // An unknown expression; a token with a space in it; a rule that looks across spaces.
    file["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "a b"}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]});
    assert!(!cut(&file));
    let mut file = described();
    let token = json!({"id": 320, "content": "New York", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    file["added_tokens"].as_array_mut().unwrap().push(token);
    assert!(!cut(&file));
    // A token that would lose the space that every text gets in front.
    let mut file = described();
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]});
    file["pre_tokenizer"] = json!(null);
    file["model"]["vocab"]["\u{2581}"] = json!(321);
    assert!(cut(&file));
    let token = json!({"id": 322, "content": "hello", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false});
    file["added_tokens"].as_array_mut().unwrap().push(token);
    assert!(!cut(&file));
    let mut file = described();
    file["normalizer"] = json!({"type": "Replace", "pattern": {"Regex": "a +b"}, "content": "c"});
    assert!(!cut(&file));
}

#[test]
fn a_long_text_is_encoded_and_cut_short_where_only_its_beginning_is_wanted() {
    let tokenizer = opened(&described()).unwrap();
    let text = "the cat sat on the mat and said so ".repeat(60_000);
    let whole = tokenizer.encode(&text, Bos::Auto).unwrap();
    assert_eq!(whole.offsets.last().unwrap().1, text.len());
    assert_eq!(tokenizer.decode(&whole.ids, false).unwrap(), text);
    let (some, is_whole) = tokenizer.encode_up_to(&text, Bos::Auto, 10).unwrap();
    assert!(!is_whole && some.ids.len() < whole.ids.len() / 4 && some.ids[..10] == whole.ids[..10]);
    // Tokens added after every text come after the kept beginning.
    let mut ends = described();
    ends["post_processor"] = json!({"type": "TemplateProcessing",
        "special_tokens": {"<eos>": {"id": "<eos>", "ids": [2], "tokens": ["<eos>"]}},
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<eos>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]});
    let (some, is_whole) = opened(&ends).unwrap().encode_up_to(&text, Bos::Auto, 10).unwrap();
    assert!(!is_whole && some.ids.last() == Some(&2) && some.offsets.last() == Some(&(0, 0)));
    let (all, is_whole) = tokenizer.encode_up_to("the cat", Bos::Auto, 1).unwrap();
    assert!(is_whole && all == tokenizer.encode("the cat", Bos::Auto).unwrap());
    // A script without spaces, longer than what is encoded whole.
    let text = "東京は日本の首都です。".repeat(300_000);
    let (some, is_whole) = tokenizer.encode_up_to(&text, Bos::Auto, 10).unwrap();
    assert!(!is_whole && some.ids.len() < 300_000);
    assert_eq!(some.ids[..10], tokenizer.encode(&text[..330], Bos::Auto).unwrap().ids[..10]);
    let mut unknown = described();
    unknown["normalizer"] = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let error = opened(&unknown).unwrap().encode(&"ab ".repeat(4 << 20), Bos::No).unwrap_err().to_string();
    assert!(error.contains("8388608 bytes are the limit"), "{error}");
    let error = tokenizer.encode(&"ab".repeat(1 << 20), Bos::No).unwrap_err().to_string();
    assert!(
        error.contains("1048576 bytes of the text, from byte 262143, have no blank between letters"),
        "{error}"
    );
    // Words of other scripts are as short as English ones.
    let text = "в начале было слово ".repeat(60_000);
    let (some, is_whole) = tokenizer.encode_up_to(&text, Bos::Auto, 10).unwrap();
    assert!(!is_whole && some.offsets.last().unwrap().1 < 300_000);
}

#[test]
fn parts_out_of_all_proportion_are_refused() {
    let doubling = |times: usize, content: usize| {
        let step = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "a".repeat(content)});
        json!({"type": "Sequence", "normalizers": vec![step; times]})
    };
    let bytes =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let split = |pattern: String| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let cases = [
        (
            "normalizer",
            doubling(6, 100),
            "`normalizer` may make 1000000000000 bytes of one; 20000 is the limit",
        ),
        ("normalizer", doubling(101, 1), "more steps than that; 100 is the limit"),
        ("normalizer", json!({"type": "Prepend", "prepend": "a".repeat(20_000)}), "a prefix has 20000 bytes"),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![bytes; 40]}),
            "`pre_tokenizer` may make",
        ),
        ("pre_tokenizer", split("a|".repeat(5 << 20)), "`pre_tokenizer` of a tokenizer.json has"),
        ("pre_tokenizer", split("a|".repeat(10_000)), "a pattern has 20000 bytes; 16384 is the limit"),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": vec![text.clone(); 9], "pair": [], "special_tokens": {}}),
            "a template has the text 9 times; 4 is the limit",
        ),
    ];
    for (part, content, says) in cases {
        let mut file = described();
        file[part] = content;
        let error = opened(&file).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("tokenizer.json"), "{error:?} does not say {says:?}");
    }
    // Allowed, but still bounded for a long text.
    let mut file = described();
    file["normalizer"] = doubling(2, 100);
    let tokenizer = opened(&file).unwrap();
    assert_eq!(tokenizer.encode("a", Bos::No).unwrap().offsets.last(), Some(&(0, 1)));
    let error = tokenizer.encode(&"a".repeat(5_000), Bos::No).unwrap_err().to_string();
    assert!(error.contains("makes more than 33554432 bytes of a text of 5000"), "{error}");
    let twice = std::fs::read_to_string(TINY).unwrap().replacen('{', "{\"normalizer\": null,", 1);
    let error = Tokenizer::from_folder(folder_with(&[("tokenizer.json", &twice)]).path()).unwrap_err();
    assert!(error.to_string().contains("`normalizer` of a tokenizer.json appears twice"), "{error}");
}
