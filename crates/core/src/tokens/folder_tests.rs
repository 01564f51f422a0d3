//! Folders whose files disagree, compared with AutoTokenizer's results.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Bos, Tokenizer};

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers/folders.json");
    // A larger file, made by fixtures/tokenizers/folders.py, can replace it.
    let path = std::env::var("EASYROUTINE_TOKENIZER_FOLDERS").unwrap_or_else(|_| path.to_owned());
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn write(folder: &Path, name: &str, content: &Value) {
    std::fs::write(folder.join(name), content.to_string()).unwrap();
}

/// The folder of one case.
fn folder(bases: &Value, case: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut described = bases[case["base"].as_str().unwrap()].clone();
    for (key, value) in case["patch"].as_object().unwrap() {
        match key.strip_prefix("model.") {
            Some(key) => described["model"][key] = value.clone(),
            None => described[key] = value.clone(),
        }
    }
    write(folder.path(), "tokenizer.json", &described);
    for (name, content) in case["files"].as_object().unwrap() {
        write(folder.path(), name, content);
    }
    folder
}

fn found(tokenizer: &Tokenizer, texts: &[&str]) -> Value {
    let encode = |bos| -> Vec<Vec<u32>> {
        texts.iter().map(|text| tokenizer.encode(text, bos).map_or(Vec::new(), |e| e.ids)).collect()
    };
    let ids = encode(Bos::Auto);
    let decode =
        |skip| -> Vec<String> { ids.iter().map(|ids| tokenizer.decode(ids, skip).unwrap()).collect() };
    let roles: Map<String, Value> =
        tokenizer.roles().map(|(role, token)| (role.to_owned(), json!(token))).collect();
    json!({
        "ids": ids,
        "bare": encode(Bos::No),
        "shown": decode(false),
        "without_special": decode(true),
        "roles": roles,
        "sides": [tokenizer.padding_side().name(), tokenizer.truncation_side().name()],
        "length": tokenizer.max_length(),
        "size": tokenizer.vocab_size(),
    })
}

#[test]
fn a_folder_reads_as_auto_tokenizer_reads_it() {
    let fixture = fixture();
    let texts: Vec<&str> = fixture["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let mut wrong = Vec::new();
    for (number, case) in fixture["folders"].as_array().unwrap().iter().enumerate() {
        let (expected, folder) = (&case["expected"], folder(&fixture["bases"], case));
        let tokenizer = Tokenizer::from_folder(folder.path());
        // If transformers fails on a folder, both reading and refusing it are fair.
        if let Some(error) = expected.get("error").and_then(Value::as_str) {
            // Except where reading would give tokens that nobody meant.
            if error.contains("out of vocabulary") {
                let refused = tokenizer.map(|_| ()).unwrap_err().to_string();
                assert!(refused.contains("`continuing_subword_prefix` of the model is \"##\""), "{refused}");
            }
            continue;
        }
        let tokenizer = match tokenizer {
            Ok(tokenizer) => tokenizer,
            Err(error) => {
                wrong.push(format!("{number}: {error}\n  {}", case["files"]));
                continue;
            }
        };
        let found = found(&tokenizer, &texts);
        if tokenizer.warnings().iter().any(|warning| warning.contains("not known here")) {
            continue;
        }
        for (key, value) in found.as_object().unwrap() {
            if *value != expected[key] {
                wrong.push(format!(
                    "{number} as {}: {key} is\n  {value}, not\n  {}\n  {}\n  {}",
                    expected["class"], expected[key], case["files"], case["patch"]
                ));
                break;
            }
        }
        // What is saved reads back the same, whatever else is in the folder.
        let saved = tempfile::tempdir().unwrap();
        tokenizer.save(saved.path()).unwrap();
        let again = self::found(&Tokenizer::from_folder(saved.path()).unwrap(), &texts);
        for (key, value) in found.as_object().unwrap() {
            // A token added twice, once normalised, is decoded in a form that no file can hold.
            let may_be_twice = case["patch"].get("added_tokens").is_some()
                || case["files"].to_string().contains("\"normalized\":true");
            let holds = !may_be_twice || !matches!(key.as_str(), "shown" | "without_special");
            if holds && again[key] != *value {
                wrong.push(format!(
                    "{number}: {key}, saved, is\n  {}, not\n  {value}\n  {}",
                    again[key], case["files"]
                ));
            }
        }
    }
    let total = wrong.len();
    if std::env::var_os("EASYROUTINE_TOKENIZER_FOLDERS").is_none() {
        wrong.truncate(6);
    }
    assert!(wrong.is_empty(), "{total} folders read otherwise:\n{}", wrong.join("\n"));
}

#[test]
fn a_tokenizer_of_another_version_is_not_passed_over() {
    let fixture = fixture();
    let read = |files: Value| {
        let config = json!({"fast_tokenizer_files": files});
        let case = json!({"base": "bytes", "patch": {}, "files": {"tokenizer_config.json": config}});
        Tokenizer::from_folder(folder(&fixture["bases"], &case).path()).map(|_| ()).map_err(|e| e.to_string())
    };
    // transformers 5.24 reads those up to its own version.
    for file in ["tokenizer.4.0.0.json", "tokenizer.5.24.0.json", "tokenizer.5.json", "tokenizer.new.json"] {
        let error = read(json!([file, "tokenizer.json"])).unwrap_err();
        assert!(error.contains(&format!("`fast_tokenizer_files` names `{file}`")), "{error}");
    }
    for file in ["tokenizer.json", "tokenizer.5.25.0.json", "tokenizer.6.json", "tokenizer_config.json"] {
        read(json!([file])).unwrap();
    }
    read(Value::Null).unwrap();
}

#[test]
fn an_empty_beginning_has_the_id_of_the_unknown_token() {
    let vocab = json!({"h": 0, "e": 1, "he": 2, "<|endoftext|>": 3, "<s>": 4});
    // With what transformers 5.24 gives for "he".
    for (settings, map, expected) in [
        (json!({}), Value::Null, &[2][..]),
        (json!({"add_bos_token": true}), Value::Null, &[3, 2]),
        (json!({"bos_token": ""}), Value::Null, &[2]),
        (json!({"bos_token": "", "add_bos_token": true}), Value::Null, &[3, 2]),
        (json!({"bos_token": {"content": ""}, "add_bos_token": true}), Value::Null, &[3, 2]),
        (json!({"add_bos_token": true}), json!({"bos_token": ""}), &[3, 2]),
        (json!({"bos_token": null, "add_bos_token": true}), Value::Null, &[2]),
        (json!({"bos_token": "<s>", "add_bos_token": true}), Value::Null, &[4, 2]),
        (json!({"bos_token": "", "unk_token": "<s>", "add_bos_token": true}), Value::Null, &[4, 2]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut config = json!({"tokenizer_class": "GPT2Tokenizer"});
        config.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        write(folder.path(), "vocab.json", &vocab);
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\nh e\n").unwrap();
        write(folder.path(), "config.json", &json!({"model_type": "gpt2"}));
        write(folder.path(), "tokenizer_config.json", &config);
        if !map.is_null() {
            write(folder.path(), "special_tokens_map.json", &map);
        }
        let tokenizer = Tokenizer::from_folder(folder.path()).unwrap();
        assert_eq!(tokenizer.encode("he", Bos::Auto).unwrap().ids, expected, "{settings} {map}");
    }
}

#[test]
fn an_object_among_special_tokens_is_special_only_if_it_says_so() {
    let token = |content: &str| json!({"__type": "AddedToken", "content": content});
    let mut special = token("<more>");
    special["special"] = true.into();
    let config = json!({"tokenizer_class": "PreTrainedTokenizerFast",
        "extra_special_tokens": [token("<new>"), special, "<img>"]});
    let case = json!({"base": "bytes", "patch": {}, "files": {"tokenizer_config.json": config}});
    let tokenizer = Tokenizer::from_folder(folder(&fixture()["bases"], &case).path()).unwrap();
    let ids = tokenizer.encode("<new>a<more>b<img>", Bos::No).unwrap().ids;
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<new>ab", "as in transformers 5.24");
}

#[test]
fn an_option_that_is_not_in_effect_is_warned_of() {
    let warning = |files: Value| {
        let case = json!({"base": "bytes", "patch": {}, "files": files});
        let tokenizer = Tokenizer::from_folder(folder(&fixture()["bases"], &case).path()).unwrap();
        let says = "do not agree on the options";
        let warnings: Vec<String> =
            tokenizer.warnings().iter().filter(|warning| warning.contains(says)).cloned().collect();
        assert!(warnings.len() < 2, "{warnings:?}");
        warnings.into_iter().next()
    };
    let token = |special: bool| json!({"__type": "AddedToken", "content": "<new>", "lstrip": true, "special": special});
    let class = |key: &str, value: Value| json!({"tokenizer_class": "PreTrainedTokenizerFast", key: value});
    let listed = class("extra_special_tokens", json!([token(true)]));
    // By its object alone it is what that says; added_tokens.json makes it plain, since only texts count there.
    assert_eq!(warning(json!({"tokenizer_config.json": listed})), None);
    let said =
        warning(json!({"tokenizer_config.json": listed, "added_tokens.json": {"<new>": 300}})).unwrap();
    assert!(
        said.contains("`special` of `<new>` is false") && said.contains("`lstrip` of `<new>` is false"),
        "{said}"
    );
    let text = class("extra_special_tokens", json!(["<new>"]));
    assert_eq!(warning(json!({"tokenizer_config.json": text, "added_tokens.json": {"<new>": 300}})), None);
    // A token with a role is special, whatever its object says: that is no surprise.
    assert_eq!(warning(json!({"tokenizer_config.json": class("pad_token", token(false))})), None);
    let unlisted = json!([{"__type": "AddedToken", "content": "<new>"}]);
    let said = warning(json!({"tokenizer_config.json": class("extra_special_tokens", unlisted)})).unwrap();
    assert!(said.contains("`special` of `<new>` is false"), "{said}");
}
