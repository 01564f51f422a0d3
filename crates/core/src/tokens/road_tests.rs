//! Files that do not state their rules, and the same vocabulary read in two ways.

use easyroutine_files::gguf::Value;
use serde_json::json;

use super::pre_tokenizers::PreTokenizer;
use super::tests::{check, expected, gguf, pieces, set, texts};
use super::{Bos, Tokenizer};

#[test]
fn a_file_that_names_no_rule_is_cut_by_the_likeliest_and_says_so() {
    let mut gguf = gguf("bytes");
    for missing in [false, true] {
        set(&mut gguf, "tokenizer.ggml.pre", Value::Str("default".to_owned()));
        if missing {
            gguf.metadata.remove("tokenizer.ggml.pre");
        }
        for (architecture, rule) in [("llama", "gpt-2"), ("qwen2", "qwen2"), ("qwen3", "qwen2")] {
            set(&mut gguf, "general.architecture", Value::Str(architecture.to_owned()));
            let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
            check(&tokenizer, &expected("bytes", rule), architecture);
            let [warning] = tokenizer.warnings() else { panic!("{:?}", tokenizer.warnings()) };
            assert!(
                warning.contains("`tokenizer.ggml.pre`") && warning.contains(&format!("`{rule}`")),
                "{warning}"
            );
        }
    }
    let guessed = |tokens: &[&str]| {
        let tokens: Vec<String> = tokens.iter().map(|token| (*token).to_owned()).collect();
        PreTokenizer::guessed("llama", &tokens).0
    };
    assert_eq!(guessed(&["a", "12", "<|begin_of_text|>"]), "llama-bpe");
    assert_eq!(guessed(&["1", "123", ".\u{10A}"]), "llama-bpe");
    assert_eq!(guessed(&["1", "2", ".\u{10A}\u{10A}"]), "qwen2");
    assert_eq!(guessed(&["1", "2024", ".\u{10A}"]), "gpt-2");
}

#[test]
fn a_word_with_its_blank_is_found_whatever_is_put_in_front_of_texts() {
    let folder = tempfile::tempdir().unwrap();
    let from_gguf = pieces();
    from_gguf.save(folder.path()).unwrap();
    let path = folder.path().join("tokenizer.json");
    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // As in many such models' files: a space before every text, even one that begins with a space.
    file["pre_tokenizer"] = json!(null);
    file["normalizer"] = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "\u{2581}"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}]});
    std::fs::write(&path, file.to_string()).unwrap();
    let from_folder = Tokenizer::from_folder(folder.path()).unwrap();
    let cat = from_gguf.id_of_token("\u{2581}cat").or(from_gguf.id_of_token("\u{2581}the")).unwrap();
    let text = from_gguf.token_text(cat).to_string();
    assert!(text.starts_with(' '), "{text:?}");
    assert_eq!(from_gguf.single_token(&text), Some(cat));
    assert!(from_folder.encode(&text, Bos::No).unwrap().ids.len() > 1);
    assert_eq!(from_folder.single_token(&text), Some(cat));
    assert!(from_gguf.warning_for(&text).unwrap().contains("llama.cpp"));
    assert!(from_gguf.warning_for("<s> the").is_some() && from_gguf.warning_for("the").is_none());
    // Read with the class that such models name, both ways give the same.
    std::fs::write(folder.path().join("tokenizer_config.json"), r#"{"tokenizer_class": "LlamaTokenizer"}"#)
        .unwrap();
    let by_class = Tokenizer::from_folder(folder.path()).unwrap();
    for text in texts() {
        assert_eq!(
            by_class.encode(&text, Bos::No).unwrap().ids,
            from_gguf.encode(&text, Bos::No).unwrap().ids,
            "{text:?}"
        );
    }
    assert!(by_class.warning_for(&text).unwrap().contains("its tokenizer.json"));
}
