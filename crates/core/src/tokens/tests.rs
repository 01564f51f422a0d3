use std::path::{Path, PathBuf};

use easyroutine_files::gguf::{Array, Gguf, Value};
use easyroutine_files::{GgufFile, MappedFile};
use proptest::prelude::*;
use serde_json::json;

use super::{Bos, TokenContent, Tokenizer};
use crate::error::ErrorKind;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers");

pub(super) fn gguf(name: &str) -> Gguf {
    let map = MappedFile::open(format!("{FIXTURES}/{name}.gguf")).unwrap();
    Gguf::parse(map.bytes()).unwrap()
}

fn bytes() -> Tokenizer {
    Tokenizer::from_gguf(&gguf("bytes")).unwrap()
}

pub(super) fn pieces() -> Tokenizer {
    Tokenizer::from_gguf(&gguf("pieces")).unwrap()
}

pub(super) fn set(gguf: &mut Gguf, key: &str, value: Value) {
    gguf.metadata.insert(key.to_owned(), value);
}

pub(super) fn texts() -> Vec<String> {
    serde_json::from_slice(&std::fs::read(format!("{FIXTURES}/texts.json")).unwrap()).unwrap()
}

pub(super) fn expected(file: &str, variant: &str) -> Vec<Vec<u32>> {
    let parsed: serde_json::Value =
        serde_json::from_slice(&std::fs::read(format!("{FIXTURES}/{file}.json")).unwrap()).unwrap();
    serde_json::from_value(parsed["ids"][variant].clone()).unwrap()
}

pub(super) fn check(tokenizer: &Tokenizer, expected: &[Vec<u32>], variant: &str) {
    let texts = texts();
    assert_eq!(texts.len(), expected.len());
    for (text, ids) in texts.iter().zip(expected) {
        let encoded = tokenizer.encode(text, Bos::No).unwrap();
        assert_eq!(&encoded.ids, ids, "{variant}: {text:?}");
        assert_eq!(encoded.ids.len(), encoded.offsets.len());
        assert!(encoded.offsets.iter().all(|&(start, end)| text.get(start..end).is_some()), "{text:?}");
    }
}

#[test]
fn byte_level_ids_follow_the_rule_that_pre_names() {
    let mut gguf = gguf("bytes");
    let variants = [
        "gpt-2",
        "smollm",
        "llama-bpe",
        "qwen2",
        "command-r",
        "gpt-4o",
        "seed-coder",
        "falcon",
        "deepseek-coder",
        "deepseek-v3",
        "viking",
        "tiny_aya",
        "superbpe",
        "minicpm5",
        "kimi-k2",
    ];
    for variant in variants {
        set(&mut gguf, "tokenizer.ggml.pre", Value::Str(variant.to_owned()));
        check(&Tokenizer::from_gguf(&gguf).unwrap(), &expected("bytes", variant), variant);
    }
    // The texts must distinguish all rules, or the test above would show nothing.
    for (i, one) in variants.iter().enumerate() {
        assert!(
            variants[..i].iter().all(|other| expected("bytes", one) != expected("bytes", other)),
            "{one}"
        );
    }
    for name in variants {
        let named = Tokenizer::from_gguf_cut_as(&gguf, Some(name)).unwrap();
        check(&named, &expected("bytes", name), name);
        assert!(named.warnings().is_empty());
    }
    assert!(Tokenizer::from_gguf_cut_as(&self::gguf("pieces"), Some("gpt-2")).is_err());
}

#[test]
fn every_known_rule_cuts_text() {
    let names = "gpt-2 phi-2 mpt olmo smollm starcoder refact llama-bpe llama3 llama-v3 falcon3 dbrx smaug-bpe \
                 qwen2 deepseek-r1-qwen megrez tekken bloom qwen35 gpt-4o command-r falcon deepseek-llm \
                 deepseek-coder deepseek-v3 hunyuan-dense joyai-llm glm4 chatglm-bpe minimax-m2 seed-coder poro-chat \
                 stablelm2 exaone4 viking tiny_aya superbpe minicpm5 kimi-k2";
    let mut gguf = gguf("bytes");
    for name in names.split_whitespace() {
        set(&mut gguf, "tokenizer.ggml.pre", Value::Str(name.to_owned()));
        let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
        for text in texts() {
            let encoded = tokenizer.encode(&text, Bos::No).unwrap();
            let decoded = tokenizer.decode(&encoded.ids, false).unwrap();
            // Some compose accents first, so the text changes; the others preserve every byte.
            let composes = matches!(
                name,
                "olmo"
                    | "mpt"
                    | "command-r"
                    | "qwen2"
                    | "qwen35"
                    | "deepseek-r1-qwen"
                    | "megrez"
                    | "stablelm2"
            );
            assert!(decoded == text || composes, "{name}: {text:?} became {decoded:?}");
        }
    }
}

#[test]
fn a_rule_known_but_for_composition_is_doubted_where_that_matters() {
    let cut_as = |name: &str| Tokenizer::from_gguf_cut_as(&gguf("bytes"), Some(name)).unwrap();
    for name in ["exaone4", "viking", "tiny_aya"] {
        let tokenizer = cut_as(name);
        assert!(tokenizer.warning_for("caf\u{65}\u{301}\nx").unwrap().contains("NFC"), "{name}");
        assert_eq!(tokenizer.warning_for("caf\u{e9} \u{ac00}\nx"), None, "{name}");
    }
    for name in ["gpt-2", "stablelm2", "superbpe", "kimi-k2"] {
        assert_eq!(cut_as(name).warning_for("caf\u{65}\u{301}"), None, "{name}");
    }
    for (one, other) in [("exaone4", "gpt-2"), ("stablelm2", "qwen2")] {
        for text in texts() {
            assert_eq!(
                cut_as(one).encode(&text, Bos::No).unwrap(),
                cut_as(other).encode(&text, Bos::No).unwrap()
            );
        }
    }
}

#[test]
fn a_rule_that_is_not_known_names_the_one_that_llama_cpp_cuts_alike() {
    let refused = |name: &str| {
        let error = Tokenizer::from_gguf_cut_as(&gguf("bytes"), Some(name)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        format!("{error:?}")
    };
    assert!(refused("gigachat").contains("`--pre gpt-2`"), "{}", refused("gigachat"));
    assert!(refused("solar-open").contains("`--pre qwen2`"));
    assert!(!refused("made-up").contains("llama.cpp"));
}

#[test]
fn sentence_piece_ids_follow_the_scores_and_the_architecture() {
    let mut gguf = gguf("pieces");
    for architecture in ["llama", "phi3"] {
        set(&mut gguf, "general.architecture", Value::Str(architecture.to_owned()));
        check(&Tokenizer::from_gguf(&gguf).unwrap(), &expected("pieces", architecture), architecture);
    }
    let gemma = Tokenizer::from_gguf(&self::gguf("gemma")).unwrap();
    check(&gemma, &expected("gemma", "gemma3"), "gemma3");
}

#[test]
fn a_token_that_is_asked_for_and_not_named_is_warned_of() {
    let mut gguf = gguf("pieces");
    let is_said = |gguf: &Gguf, key: &str| {
        Tokenizer::from_gguf(gguf).unwrap().warnings().iter().any(|warning| warning.contains(key))
    };
    let [bos, eos] = ["bos", "eos"].map(|role| format!("tokenizer.ggml.{role}_token_id"));
    set(&mut gguf, "tokenizer.ggml.add_eos_token", Value::Bool(true));
    assert!(!is_said(&gguf, &bos) && !is_said(&gguf, &eos));
    gguf.metadata.remove(&eos);
    assert!(!is_said(&gguf, &bos) && is_said(&gguf, &eos));
    gguf.metadata.remove(&bos);
    assert!(is_said(&gguf, &bos));
    set(&mut gguf, "tokenizer.ggml.add_bos_token", Value::Bool(false));
    assert!(!is_said(&gguf, &bos));
}

#[test]
fn a_saved_tokenizer_reads_to_the_same_ids() {
    for name in ["bytes", "pieces", "gemma"] {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = Tokenizer::from_gguf(&gguf(name)).unwrap();
        tokenizer.save(folder.path()).unwrap();
        let again = Tokenizer::from_folder(folder.path()).unwrap();
        for text in texts() {
            for bos in [Bos::Auto, Bos::Yes, Bos::No] {
                assert_eq!(
                    again.encode(&text, bos).unwrap(),
                    tokenizer.encode(&text, bos).unwrap(),
                    "{name}: {text:?}"
                );
            }
        }
        assert_eq!(again.special_ids(), tokenizer.special_ids());
        assert_eq!(
            (again.bos_id(), again.eos_id(), again.pad_id()),
            (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id())
        );
        assert_eq!(again.chat_template(), tokenizer.chat_template());
        assert_eq!(again.vocab_size(), tokenizer.vocab_size());
    }
}

#[test]
fn vocab_and_merges_files_build_the_same_byte_level_tokenizer() {
    let gguf = gguf("bytes");
    let tokens = gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap();
    let vocab: serde_json::Map<_, _> = tokens.iter().cloned().zip((0..).map(|id: u32| json!(id))).collect();
    let merges = gguf.strings("tokenizer.ggml.merges").unwrap().unwrap().join("\n");
    let added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        .map(|token| json!({"content": token, "special": true}));
    let think = json!({"content": "<think>", "special": false, "normalized": false});
    let config = json!({"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder":
        {"0": added[0], "1": added[1], "2": added[2], (tokens.len() - 1).to_string(): think}});
    let folder = folder_with(&[
        ("vocab.json", &serde_json::Value::Object(vocab).to_string()),
        ("merges.txt", &format!("#version: 0.2\n{merges}\n")),
        ("tokenizer_config.json", &config.to_string()),
    ]);
    let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
    check(&tokenizer, &expected("bytes", "gpt-2"), "vocab.json");
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.pad_id()), (Some(0), Some(0), None));
}

#[test]
fn the_beginning_is_added_as_asked() {
    let llama = pieces();
    assert_eq!(llama.bos_id(), Some(1));
    let ids = |tokenizer: &Tokenizer, bos| tokenizer.encode("The cat", bos).unwrap();
    let (auto, yes, no) = (ids(&llama, Bos::Auto), ids(&llama, Bos::Yes), ids(&llama, Bos::No));
    assert_eq!((auto.ids[0], auto.offsets[0], auto.starts_with_bos), (1, (0, 0), true));
    assert_eq!(auto, yes);
    assert_eq!((&auto.ids[1..], no.starts_with_bos), (&no.ids[..], false));
    // The file says `add_bos_token: false`; on request it is added anyway.
    let smollm = bytes();
    assert_eq!(ids(&smollm, Bos::Auto), ids(&smollm, Bos::No));
    assert_eq!(ids(&smollm, Bos::Yes).ids[0], 1);
    assert_eq!(ids(&smollm, Bos::Yes).offsets[0], (0, 0));
    // A text that spells it out begins with it.
    assert!(smollm.encode("<|im_start|>x", Bos::No).unwrap().starts_with_bos);

    let mut without = gguf("bytes");
    without.metadata.remove("tokenizer.ggml.bos_token_id");
    set(&mut without, "tokenizer.ggml.add_bos_token", Value::Bool(true));
    set(&mut without, "tokenizer.ggml.add_eos_token", Value::Bool(true));
    let without = Tokenizer::from_gguf(&without).unwrap();
    assert_eq!(ids(&without, Bos::Auto).ids.last(), Some(&2));
    assert_eq!(without.encode("x", Bos::Yes).unwrap_err().kind(), ErrorKind::Tokenizer);
}

#[test]
fn settings_of_a_folder_beat_its_tokenizer_file() {
    let tokenizer = {
        let folder = tempfile::tempdir().unwrap();
        bytes().save(folder.path()).unwrap();
        std::fs::read_to_string(folder.path().join("tokenizer.json")).unwrap()
    };
    let open = |config: &str, map: &str| {
        let files = [
            ("tokenizer.json", tokenizer.as_str()),
            ("tokenizer_config.json", config),
            ("special_tokens_map.json", map),
        ];
        Tokenizer::from_folder(folder_with(&files).path()).unwrap()
    };
    let bare = open("{}", "{}");
    assert_eq!((bare.bos_id(), bare.chat_template()), (None, None));
    let named = open(
        r#"{"bos_token": {"content": "<|im_start|>"}, "add_bos_token": true}"#,
        r#"{"eos_token": "<|im_end|>"}"#,
    );
    assert_eq!((named.bos_id(), named.eos_id()), (Some(1), Some(2)));
    // The flag is ignored: transformers 5 uses only the post-processor of tokenizer.json.
    assert!(!named.encode("x", Bos::Auto).unwrap().starts_with_bos);
    assert!(named.warnings()[0].starts_with("`add_bos_token` of tokenizer_config.json is true"));
    let added = open(
        r#"{"added_tokens_decoder": {"900": {"content": "<new>", "special": true}}, "extra_special_tokens": ["<more>"]}"#,
        "{}",
    );
    let first = added.vocab_size() as u32 - 2;
    assert_eq!(added.encode("<new><more>", Bos::No).unwrap().ids, [first, first + 1]);
    assert!(added.is_special(first) && added.is_special(first + 1) && !bare.is_special(first));
    let templates = open(
        r#"{"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#,
        "{}",
    );
    assert_eq!(templates.chat_template(), Some("d"));
}

#[test]
fn a_folder_that_cannot_be_read_says_why() {
    type Files = &'static [(&'static str, &'static str)];
    let cases: [(Files, ErrorKind, &str); 9] = [
        (&[], ErrorKind::NotFound, "has no `tokenizer.json`"),
        (&[("tokenizer.model", "\n")], ErrorKind::Unsupported, "`tokenizer.model`"),
        (&[("tokenizer.json", "{}")], ErrorKind::Tokenizer, "tokenizer.json: cannot read it"),
        (&[("tokenizer.json", "")], ErrorKind::Tokenizer, "tokenizer.json: cannot read it"),
        (
            &[("tokenizer.json", "{}"), ("tokenizer_config.json", "[]")],
            ErrorKind::Format,
            "tokenizer_config.json: is not",
        ),
        (&[("vocab.json", "{}")], ErrorKind::NotFound, "nor `vocab.json` with `merges.txt`"),
        (&[("vocab.json", "[]"), ("merges.txt", "")], ErrorKind::Format, "`vocab.json`: "),
        (&[("vocab.json", "{\"a\":0}"), ("merges.txt", "a a a")], ErrorKind::Format, "`merges.txt` line 1"),
        (&[("vocab.json", "{\"a\":0}"), ("merges.txt", "a b")], ErrorKind::Tokenizer, "out of vocabulary"),
    ];
    for (files, kind, says) in cases {
        let error = Tokenizer::from_folder(folder_with(files).path()).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(says), "{error:?} does not say {says:?}");
    }
}

#[test]
fn metadata_that_contradicts_itself_is_an_error() {
    let strings =
        |texts: &[&str]| Value::Array(Array::Str(texts.iter().map(|&text| text.to_owned()).collect()));
    let (text, long) = (|text: &str| Value::Str(text.to_owned()), "x".repeat(5000));
    let cases = [
        ("bytes", "tokenizer.ggml.pre", text("made-up"), "tokenizer.ggml.pre: `made-up` names no"),
        ("bytes", "tokenizer.ggml.model", text("t5"), "kind `t5`"),
        (
            "bytes",
            "tokenizer.ggml.model",
            Value::Bool(true),
            "`tokenizer.ggml.model` is a boolean, not a string",
        ),
        ("bytes", "tokenizer.ggml.tokens", strings(&[]), "has 0 tokens"),
        ("bytes", "tokenizer.ggml.tokens", strings(&["a"]), "`tokenizer.ggml.token_type` has"),
        ("bytes", "tokenizer.ggml.tokens", strings(&[long.as_str()]), "token 0 is 5000 bytes long"),
        ("bytes", "tokenizer.ggml.merges", strings(&["ab"]), "`ab` is not two tokens"),
        ("bytes", "tokenizer.ggml.merges", strings(&["nowhere a"]), "out of vocabulary"),
        (
            "bytes",
            "tokenizer.ggml.bos_token_id",
            Value::Unsigned(1 << 40),
            "`tokenizer.ggml.bos_token_id` is 1099511627776",
        ),
        (
            "pieces",
            "tokenizer.ggml.scores",
            Value::Array(Array::Float(vec![0.0])),
            "`tokenizer.ggml.scores` has 1 entries",
        ),
    ];
    for (file, key, value, says) in cases {
        let mut gguf = gguf(file);
        set(&mut gguf, key, value);
        let error = Tokenizer::from_gguf(&gguf).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    let mut not_a_number = gguf("pieces");
    if let Some(Value::Array(Array::Float(scores))) = not_a_number.metadata.get_mut("tokenizer.ggml.scores") {
        scores[7] = f64::NAN;
    }
    assert!(Tokenizer::from_gguf(&not_a_number).unwrap_err().to_string().contains("token 7 is not a number"));
    for key in ["tokenizer.ggml.model", "tokenizer.ggml.merges", "tokenizer.ggml.tokens"] {
        let mut gguf = gguf("bytes");
        gguf.metadata.remove(key);
        assert!(Tokenizer::from_gguf(&gguf).is_err(), "without {key}");
    }
}

#[test]
fn a_single_token_shows_what_it_stands_for() {
    let tokenizer = bytes();
    let show = |id: u32| tokenizer.token_text(id).to_string();
    let the = tokenizer.encode(" ", Bos::No).unwrap().ids[0];
    assert_eq!(tokenizer.token_text(the).content, TokenContent::Text(" ".to_owned()));
    assert!(!tokenizer.token_text(the).special);
    assert_eq!((show(1).as_str(), tokenizer.token_text(1).special), ("<|im_start|>", true));
    let smile = tokenizer.encode("🙂", Bos::No).unwrap();
    assert_eq!(tokenizer.token_text(smile.ids[0]).content, TokenContent::Bytes(vec![0xF0]));
    assert_eq!(show(smile.ids[0]), "<0xF0>");
    assert!(smile.offsets.iter().all(|&span| span == (0, 4)), "{:?}", smile.offsets);
    for beyond in [tokenizer.vocab_size() as u32, 49152, u32::MAX] {
        assert_eq!(tokenizer.token_text(beyond).content, TokenContent::Unnamed(beyond));
        assert_eq!(show(beyond), format!("<id {beyond}>"));
    }
    let llama = pieces();
    let a = llama.encode("a", Bos::No).unwrap().ids;
    assert_eq!(llama.decode(&a, false).unwrap(), "a");
    assert_eq!(llama.token_text(3 + 0x41).content, TokenContent::Text("A".to_owned()));
    assert_eq!(llama.token_text(3 + 0xE2).content, TokenContent::Bytes(vec![0xE2]));
    assert_eq!(llama.token_text(1).content, TokenContent::Text("<s>".to_owned()));
}

#[test]
fn decoding_gives_the_text_back() {
    let tokenizer = bytes();
    for text in texts() {
        let ids = tokenizer.encode(&text, Bos::No).unwrap().ids;
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let beginning = [&[1], ids.as_slice()].concat();
        if !text.contains("<|") {
            assert_eq!(tokenizer.decode(&beginning, true).unwrap(), text);
        }
    }
    let a = tokenizer.single_token("a").unwrap();
    assert_eq!(tokenizer.decode(&[a, 70_000, 70_001, a, a], true).unwrap(), "a<id 70000><id 70001>aa");
    assert_eq!(tokenizer.decode(&[], true).unwrap(), "");
}

#[test]
fn one_token_is_found_only_where_a_text_is_one() {
    let tokenizer = bytes();
    assert_eq!(tokenizer.single_token("<|im_end|>"), Some(2));
    assert_eq!(tokenizer.single_token("🙂"), None);
    assert_eq!(tokenizer.single_token(""), None);
}

#[test]
fn long_runs_without_a_border_are_read_whole() {
    // One million is where the regex engine would give up if it had to backtrack through a run.
    for text in [" ".repeat(1_200_000), "7".repeat(300_000), " \n".repeat(50_000)] {
        for pre in ["gpt-2", "llama-bpe", "qwen2", "smollm"] {
            let mut gguf = gguf("bytes");
            set(&mut gguf, "tokenizer.ggml.pre", Value::Str(pre.to_owned()));
            let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
            let encoded = tokenizer.encode(&text, Bos::No).unwrap();
            assert_eq!(encoded.offsets.last().map(|span| span.1), Some(text.len()), "{pre}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_text_comes_back_from_its_bytes(text in any::<String>()) {
        let tokenizer = bytes();
        let encoded = tokenizer.encode(&text, Bos::No).unwrap();
        prop_assert_eq!(tokenizer.decode(&encoded.ids, false).unwrap(), text);
    }

    #[test]
    fn a_damaged_tokenizer_file_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)
    ) {
        let folder = tempfile::tempdir().unwrap();
        bytes().save(folder.path()).unwrap();
        let path = folder.path().join("tokenizer.json");
        let mut file = std::fs::read(&path).unwrap();
        for (place, byte) in flips {
            let place = place.index(file.len());
            file[place] = byte;
        }
        std::fs::write(&path, file).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) {
            drop(tokenizer.encode("The cat <|im_end|> 12 é", Bos::Auto));
            tokenizer.token_text(300);
        }
    }
}

#[test]
fn a_panic_of_the_library_is_an_error() {
    let error = super::guard::guarded::<()>("encode the text", || panic!("on purpose")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Tokenizer);
    assert!(error.to_string().starts_with("cannot encode the text"), "{error}");
}

#[test]
#[ignore = "needs SmolLM2-135M-Instruct.Q4_1.gguf, its path in EASYROUTINE_SMOLLM2"]
fn smollm2_gives_the_ids_of_its_own_tokenizer() {
    check(&released("EASYROUTINE_SMOLLM2"), &expected("smollm2", "smollm2"), "smollm2");
}

#[test]
#[ignore = "needs gemma-3-270m-q4_k_m.gguf, its path in EASYROUTINE_GEMMA3"]
fn gemma3_gives_the_ids_of_its_own_tokenizer() {
    let tokenizer = released("EASYROUTINE_GEMMA3");
    check(&tokenizer, &expected("gemma3", "gemma3"), "gemma3");
    assert!(tokenizer.encode("x", Bos::Auto).unwrap().starts_with_bos);
}

fn released(variable: &str) -> Tokenizer {
    let path = PathBuf::from(std::env::var_os(variable).unwrap());
    Tokenizer::from_gguf(GgufFile::open(path).unwrap().gguf()).unwrap()
}

pub(super) fn folder_with(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(Path::join(folder.path(), name), text).unwrap();
    }
    folder
}
