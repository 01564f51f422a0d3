//! config.json: unknown, unsupported and nonsensical settings.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use easyroutine::load::{LoadOptions, open};
use easyroutine::{Batch, ErrorKind};
use serde_json::{Value, json};

use super::refused;
use crate::common::draft::Draft;
use crate::common::taps::capture;
use crate::common::{assert_same_bits, cases, extract, folder, tiny};

fn llama_with(change: Value) -> Draft {
    let mut draft = Draft::of("llama");
    for (key, value) in change.as_object().unwrap() {
        draft.set(key, value.clone());
    }
    draft
}

#[test]
fn a_model_that_is_not_built_is_refused_by_its_type() {
    for (model_type, why) in [
        ("zebra", "is not supported"),
        ("gemma3n", "several residual streams"),
        ("mllama", "vision or audio tower"),
        ("t5", "has an encoder"),
        ("rwkv", "something other than attention"),
    ] {
        let draft = llama_with(json!({"model_type": model_type}));
        refused(draft.open(), ErrorKind::Unsupported, &[model_type, why, "supported: gpt2"]);
    }
    let mut draft = Draft::of("llama");
    draft.config.remove("model_type");
    refused(draft.open(), ErrorKind::Config, &["`model_type` is missing"]);
    refused(llama_with(json!({"model_type": 5})).open(), ErrorKind::Config, &["`model_type` is 5"]);
}

#[test]
fn a_rope_that_is_not_computed_is_refused_by_its_type() {
    let parameters = json!({"rope_parameters": {"rope_type": "spiral", "rope_theta": 10000.0}});
    refused(llama_with(parameters).open(), ErrorKind::Unsupported, &["rope_type", "spiral"]);
    let scaling = json!({"rope_scaling": {"type": "spiral", "factor": 2.0}});
    let mut draft = llama_with(scaling);
    draft.config.remove("rope_parameters");
    refused(draft.open(), ErrorKind::Unsupported, &["type", "spiral"]);
}

#[test]
fn an_unknown_key_is_refused_until_it_is_let_through() {
    let draft = llama_with(json!({"attention_twist": 3}));
    refused(
        draft.open(),
        ErrorKind::Unsupported,
        &["`attention_twist`", "--allow-config-key attention_twist"],
    );
    let written = draft.write();
    let allowed_keys = vec!["attention_twist".to_owned()];
    let options = LoadOptions { allowed_keys: allowed_keys.clone(), ..LoadOptions::default() };
    let opened = open(&folder(written.path()), &options).unwrap();
    assert_eq!(opened.reading.let_through, allowed_keys);
    let model = opened.build(&options).unwrap();
    assert!(model.warnings()[0].contains("`attention_twist` was let through"));
    let rows = [vec![1, 2, 3]];
    let logits = |model| extract(model, &rows, "logits", "all").get("logits").unwrap().values().to_vec();
    assert_same_bits("let through", &logits(&model), &logits(&tiny("llama")));
}

#[test]
fn an_allowed_key_that_is_not_there_is_named() {
    let written = llama_with(json!({"attention_twist": 3})).write();
    // `hidden_size` is read whether allowed or not.
    let allowed_keys = ["attention_twist", "atention_twist", "hidden_size"].map(str::to_owned).to_vec();
    let options = LoadOptions { allowed_keys, ..LoadOptions::default() };
    let warnings = open(&folder(written.path()), &options).unwrap().warnings;
    let [known, idle] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(known.contains("`attention_twist` was let through"), "{known}");
    assert!(idle.contains("no unknown config key is called `atention_twist`, `hidden_size`"), "{idle}");
}

#[test]
fn quantised_weights_are_refused_by_the_name_of_their_method() {
    for (quantization, name) in [
        (json!({"quant_method": "gptq", "bits": 4}), "gptq"),
        (json!({"quant_method": "awq", "bits": 4}), "awq"),
        (json!({"quant_method": "bitsandbytes", "load_in_4bit": true}), "bitsandbytes"),
        (json!({"load_in_8bit": true}), "bitsandbytes"),
    ] {
        let draft = llama_with(json!({"quantization_config": quantization}));
        refused(draft.open(), ErrorKind::Unsupported, &["quantization_config", name, "GGUF"]);
    }
}

#[test]
fn text_that_is_no_config_is_refused() {
    let written = Draft::of("llama").write();
    let path = written.path().join("config.json");
    for text in ["", "{", "[]", "3", "{\"model_type\": \"llama\"", "\u{0}", "{\"a\": 1e999}"] {
        std::fs::write(&path, text).unwrap();
        refused(open(&folder(written.path()), &LoadOptions::default()), ErrorKind::Config, &["config.json"]);
    }
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    refused(open(&folder(written.path()), &LoadOptions::default()), ErrorKind::Config, &["config.json"]);
    std::fs::write(&path, "[".repeat(200_000)).unwrap();
    refused(open(&folder(written.path()), &LoadOptions::default()), ErrorKind::Config, &["config.json"]);
    std::fs::write(&path, vec![b' '; (16 << 20) + 1]).unwrap();
    refused(
        open(&folder(written.path()), &LoadOptions::default()),
        ErrorKind::Format,
        &["config.json", "too many"],
    );
}

/// Values that no key of a config should have, most of them too large, too small or of another type.
fn strange() -> Vec<Value> {
    vec![
        Value::Null,
        json!(0),
        json!(1),
        json!(3),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(268_435_456),
        json!(u64::MAX),
        json!(true),
        json!(false),
        json!(""),
        json!("relu"),
        json!([]),
        json!([3, "a", null]),
        json!({}),
    ]
}

/// Whether a key is given a strange value in the `nth` case that has it. Each key meets every value in its first cases;
/// further ones, which share the code that reads it, take turns at the values unless `EASYROUTINE_TEST_VALUES` is `all`,
/// as `make torture` sets it.
fn is_due(nth: usize, value: usize) -> bool {
    const WHOLE: usize = 2;
    const TURNS: usize = 16;
    let all = std::env::var("EASYROUTINE_TEST_VALUES").is_ok_and(|which| which == "all");
    all || nth < WHOLE || (nth + value).is_multiple_of(TURNS)
}

/// Gives every key of every config strange values; a changed model that still loads must also run.
#[test]
fn no_value_of_any_key_makes_loading_or_running_panic() {
    let mut panicked = Vec::new();
    let (mut refused, mut ran) = (0, 0);
    let mut met: HashMap<String, usize> = HashMap::new();
    for case in cases("tiny") {
        let draft = Draft::of(&case);
        let written = draft.write();
        let own = draft.open().unwrap().reading.arch;
        let inner: Vec<String> = draft
            .config
            .iter()
            .filter_map(|(key, value)| {
                Some(value.as_object()?.keys().map(move |inner| format!("{key}.{inner}")))
            })
            .flatten()
            .collect();
        for key in draft.config.keys().cloned().chain(inner) {
            let nth = met.entry(key.clone()).or_default();
            *nth += 1;
            let due = strange().into_iter().enumerate().filter(|(value, _)| is_due(*nth - 1, *value));
            for (_, value) in due {
                let mut config = draft.config.clone();
                match key.split_once('.') {
                    Some((outer, inner)) => config[outer][inner] = value.clone(),
                    None => _ = config.insert(key.clone(), value.clone()),
                }
                std::fs::write(written.path().join("config.json"), Value::Object(config).to_string())
                    .unwrap();
                let run = || {
                    let opened = open(&folder(written.path()), &LoadOptions::default())?;
                    if *opened.arch() == own {
                        return Ok(false);
                    }
                    let model = opened.build(&LoadOptions { threads: Some(1), ..LoadOptions::default() })?;
                    model.forward(&Batch::new(&[[1, 2, 3], [4, 5, 6]])?, &mut ())?;
                    if model.arch().context >= 3 && model.arch().vocabulary > 6 {
                        capture(&model, &[vec![1, 2, 3]], model.arch().points());
                    }
                    Ok::<bool, easyroutine::Error>(true)
                };
                match catch_unwind(AssertUnwindSafe(run)) {
                    Err(_) => panicked.push(format!("{case}: {key} = {value}")),
                    Ok(Err(_)) => refused += 1,
                    Ok(Ok(changed)) => ran += usize::from(changed),
                }
            }
        }
    }
    assert!(panicked.is_empty(), "{panicked:#?}");
    assert!(refused > 1000 && ran > 300, "{refused} refused, {ran} ran");
}
