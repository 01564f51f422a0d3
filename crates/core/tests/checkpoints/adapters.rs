//! LoRA adapters: the numbers of peft, and of the model with the adapter merged in.

use std::path::Path;

use easyroutine::load::{LoadOptions, load, open};
use easyroutine::source::{AdapterChoice, FilesKind, ModelFiles, ResolveOptions, resolve};
use easyroutine::{Dtype, Error, Model, Stop};
use serde_json::json;
use tempfile::TempDir;

use super::{assert_agree, expected, says};
use crate::common::draft::{Draft, Stored};
use crate::common::lora::{Lora, is_embedding};
use crate::common::{
    assert_same_bits, cases, extract, fixtures, folder, relative_error, tensors_of, those_of, unembedding_of,
};

const LLAMA: &[&str] = &["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"];

/// A model and an adapter in one folder, as training tools leave them.
fn beside(draft: &Draft, lora: &Lora) -> (TempDir, ModelFiles) {
    let written = draft.write();
    lora.write_into(written.path());
    let path = written.path().to_owned();
    (written, ModelFiles { adapter: Some(path.clone()), ..folder(path) })
}

fn adapted(draft: &Draft, lora: &Lora) -> Result<Model, Error> {
    let (_written, files) = beside(draft, lora);
    load(&files, &LoadOptions { threads: Some(2), ..LoadOptions::default() })
}

fn logits(model: &Model) -> Vec<f32> {
    extract(model, &[vec![1, 2, 3, 9, 4]], "logits", "all").get("logits").unwrap().values().to_vec()
}

/// Every matrix of a model except its learned positions.
fn matrices(draft: &Draft) -> Vec<&str> {
    let is_matrix = |(name, stored): &(&String, &Stored)| {
        let is_other =
            ["position", "wpe", "_norm.", "shared_expert_gate"].iter().any(|part| name.contains(part));
        stored.shape.len() == 2 && !is_other
    };
    draft.tensors.iter().filter(is_matrix).filter_map(|(name, _)| name.strip_suffix(".weight")).collect()
}

/// Whether a model stores its projections as inputs by outputs.
fn in_out(case: &str) -> bool {
    case == "gpt2"
}

#[test]
fn adapters_that_peft_wrote_have_its_numbers() {
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures().join("adapters")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        seen += 1;
        // Each is a folder of its own, with a base that it names.
        let files = resolve(path.to_str().unwrap(), &ResolveOptions::default()).unwrap();
        let model =
            load(&files, &LoadOptions::default()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let expected = tensors_of(&path.join("expected.safetensors"));
        let cache = extract(&model, &expected["input_ids"].integers(), "logits", "last");
        let error = relative_error(cache.get("logits").unwrap().values(), &expected["logits"].values);
        assert!(error < 1e-5, "{}: {error:.1e}", path.display());
    }
    assert!(seen >= 7, "{seen} adapters");
}

#[test]
fn an_adapter_beside_the_weights_has_the_numbers_of_peft() {
    let path = fixtures().join("checkpoints/adapter-beside");
    let reference = path.display().to_string();
    let expected = expected("adapter-beside");
    let rows = expected["input_ids"].integers();
    let files = resolve(&reference, &ResolveOptions::default()).unwrap();
    assert_eq!(files.adapter.as_deref(), Some(path.as_path()));
    let model = load(&files, &LoadOptions::default()).unwrap();
    assert!(model.warnings()[0].contains("is applied"), "{:?}", model.warnings());
    assert_agree(&extract(&model, &rows, "resid_out_0,logits", "all"), &expected, &["resid_out_0", "logits"]);

    let options = ResolveOptions { adapter: AdapterChoice::Without, ..ResolveOptions::default() };
    let bare = load(&resolve(&reference, &options).unwrap(), &LoadOptions::default()).unwrap();
    assert!(bare.warnings().is_empty());
    let cache = extract(&bare, &rows, "logits", "all");
    let error =
        relative_error(cache.get("logits").unwrap().values(), &expected["logits_without_adapter"].values);
    assert!(error < 1e-5, "{error:.1e}");
}

#[test]
fn every_projection_and_table_of_every_family_can_be_adapted() {
    const SITES: &str =
        "input_embeddings,resid_out_*,queries_L*,values_L*,head_out_L*H*,projected_value_L*H*,logits";
    for case in cases("tiny") {
        let draft = Draft::of(&case);
        let lora = Lora::on(&draft, &matrices(&draft), in_out(&case));
        let model = adapted(&draft, &lora).unwrap_or_else(|e| panic!("{case}: {e}"));
        // Updating one table of a tied pair leaves the other unchanged.
        let mut apart = draft.clone();
        let tables: Vec<String> = apart
            .tensors
            .keys()
            .filter(|name| is_embedding(name.trim_end_matches(".weight")))
            .cloned()
            .collect();
        if !apart.tensors.contains_key(unembedding_of(&case)) {
            apart.tensors.insert(unembedding_of(&case).to_owned(), apart.tensors[&tables[0]].clone());
            apart.set("tie_word_embeddings", false);
        }
        let merged = lora.merged(&apart, 2.0, in_out(&case)).load().unwrap_or_else(|e| panic!("{case}: {e}"));
        let rows = [vec![1, 2, 3, 9, 4, 17, 30], vec![5, 6]];
        let sites = &those_of(&model, SITES);
        let (ours, theirs) = (extract(&model, &rows, sites, "all"), extract(&merged, &rows, sites, "all"));
        for (key, kept) in theirs.iter() {
            let error = relative_error(ours.get(key).unwrap().values(), kept.values());
            // A gated delta rule normalises queries and keys to length 1, which amplifies the rounding of small ones.
            let allowed = if matches!(case.as_str(), "qwen3_next" | "qwen3_5_text" | "qwen3_5_moe_text") {
                1e-4
            } else {
                3e-5
            };
            assert!(error < allowed, "{case}, {key}: {error:.1e}");
        }
        let plain = draft.load().unwrap();
        assert!(
            relative_error(&logits(&plain), &logits(&model)) > 1e-3,
            "{case}: the adapter changes nothing"
        );

        // The laws about bits hold with an adapter too.
        let together = ours.get("logits").unwrap();
        let watched_less = extract(&model, &rows[1..], "logits", "all");
        assert_same_bits(&case, watched_less.get("logits").unwrap().row(0), together.row(1));
        let (_written, files) = beside(&draft, &lora);
        let one = load(&files, &LoadOptions { threads: Some(1), ..LoadOptions::default() }).unwrap();
        for kept in [&extract(&one, &rows, "logits", "all"), &extract(&one, &rows, sites, "all")] {
            assert_same_bits(&case, kept.get("logits").unwrap().values(), together.values());
        }
        let bf16 = LoadOptions { dtype: Dtype::Bf16, ..LoadOptions::default() };
        let error = relative_error(&logits(&load(&files, &bf16).unwrap()), &logits(&model));
        let allowed = if case.starts_with("qwen3_5") { 0.2 } else { 0.1 };
        assert!(error < allowed, "{case}, bf16: {error:.1e}");
    }
}

#[test]
fn scale_and_rank_follow_the_config() {
    let draft = Draft::of("llama");
    let plain = Lora::on(&draft, LLAMA, false);
    let reference = |scale: f64| logits(&plain.merged(&draft, scale, false).load().unwrap());
    let assert_scale = |lora: &Lora, scale: f64| {
        let error = relative_error(&logits(&adapted(&draft, lora).unwrap()), &reference(scale));
        assert!(error < 1e-5, "{:?}: {error:.1e}", lora.config);
    };
    assert_scale(&plain, 2.0);
    let with = |key: &str, value: serde_json::Value| {
        let mut lora = plain.clone();
        lora.set(key, value);
        lora
    };
    assert_scale(&with("use_rslora", json!(true)), 6.0 / 3f64.sqrt());
    assert_scale(&with("lora_alpha", json!(1.5)), 0.5);
    assert_scale(&with("alpha_pattern", json!({"q_proj|down_proj": 3})), 1.0);
    let mut patterned = with("rank_pattern", json!({"q_proj": 3, "mlp.down_proj": 3}));
    patterned.set("r", 64).set("alpha_pattern", json!({"layers.[01].*": 9}));
    assert_scale(&patterned, 3.0);
    for targets in [
        json!("all-linear"),
        json!(r".*\.(q_proj|down_proj)"),
        json!(["q_proj", "down_proj"]),
        serde_json::Value::Null,
    ] {
        assert_scale(&with("target_modules", targets), 2.0);
    }
    says(adapted(&draft, &with("r", json!(4))), &["lora_A.weight", "has shape [3, ", "`r`"]);
    says(
        adapted(&draft, &with("target_modules", json!(["q_proj"]))),
        &["updates `model.layers.1.mlp.down_proj`", "leave out"],
    );
    says(adapted(&draft, &with("layers_to_transform", json!([0]))), &["layers.1.mlp.down_proj"]);
    says(adapted(&draft, &with("exclude_modules", json!(["q_proj"]))), &["layers.0.self_attn.q_proj"]);
    says(
        adapted(&draft, &with("target_modules", json!(r"(?!x)q_proj"))),
        &["target_modules", "cannot be followed"],
    );
}

#[test]
fn replaced_tensors_and_biases_count() {
    let draft = Draft::of("gpt2");
    let (attn, out) = ("transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_fc");
    let mut lora = Lora::on(&draft, &[attn], true);
    let width = draft.tensors[&format!("{attn}.bias")].shape[0];
    lora.set("bias", "all").set("modules_to_save", json!(["ln_f"])).set("fan_in_fan_out", true);
    lora.add(&format!("{attn}.base_layer.bias"), &[width]).add(&format!("{attn}.lora_B.bias"), &[width]);
    lora.add(&format!("{out}.bias"), &draft.tensors[&format!("{out}.bias")].shape.clone());
    let norm = draft.tensors["transformer.ln_f.weight"].shape.clone();
    lora.add("transformer.ln_f.weight", &norm).add("transformer.ln_f.bias", &norm);

    let mut merged = lora.merged(&draft, 2.0, true);
    let own = |name: &str| lora.tensors[&format!("base_model.model.{name}")].clone();
    for name in ["transformer.ln_f.weight", "transformer.ln_f.bias", &format!("{out}.bias")] {
        merged.tensors.insert(name.to_owned(), own(name));
    }
    let [stored, added] =
        ["base_layer.bias", "lora_B.bias"].map(|end| own(&format!("{attn}.{end}")).values());
    let bias = stored.iter().zip(added).map(|(b, u)| b + 2.0 * u);
    merged.tensors.insert(format!("{attn}.bias"), Stored::f32(&[width], bias));
    let error = relative_error(&logits(&adapted(&draft, &lora).unwrap()), &logits(&merged.load().unwrap()));
    assert!(error < 1e-5, "{error:.1e}");
    lora.set("modules_to_save", json!(["ln_f", "lm_head"]));
    says(adapted(&draft, &lora), &["`lm_head`", "modules_to_save"]);
}

#[test]
fn what_is_not_applied_is_refused_by_name_all_at_once() {
    let draft = Draft::of("llama");
    let plain = Lora::on(&draft, LLAMA, false);
    let with = |changes: serde_json::Value| {
        let mut lora = plain.clone();
        lora.config.extend(changes.as_object().unwrap().clone());
        adapted(&draft, &lora)
    };
    for kind in ["IA3", "ADALORA", "LOHA", "PROMPT_TUNING", "SOMETHING"] {
        says(with(json!({"peft_type": kind})), &[kind, "supported: LORA", "merge_and_unload"]);
    }
    says(
        with(json!({"use_dora": true, "layer_replication": [[0, 1]]})),
        &["use_dora", "DoRA", "layer_replication"],
    );
    says(with(json!({"init_lora_weights": "pissa"})), &["init_lora_weights", "pissa"]);
    says(with(json!({"task_type": "SEQ_2_SEQ_LM"})), &["task_type", "SEQ_2_SEQ_LM"]);
    says(
        with(json!({"twist": 1, "turn": 2})),
        &["`twist`", "`turn`", "adapter_config.json", "--allow-config-key"],
    );
    says(with(json!({"peft_type": null})), &["peft_type"]);

    let tensors = |change: &dyn Fn(&mut Lora)| {
        let mut lora = plain.clone();
        change(&mut lora);
        adapted(&draft, &lora)
    };
    let first = LLAMA[0];
    says(
        tensors(&|l| {
            l.add(&format!("{first}.lora_magnitude_vector"), &[2]);
        }),
        &["DoRA"],
    );
    says(tensors(&|l| drop(l.tensors.insert("odd".into(), Stored::f32(&[1], [1.0])))), &["`odd`"]);
    says(
        tensors(&|l| drop(l.tensors.remove(&format!("base_model.model.{first}.lora_B.weight")))),
        &["one half", first],
    );
    let absent = ["model.layers.7.self_attn.q_proj", "model.layers.8.self_attn.q_proj"];
    let elsewhere = tensors(&|l| {
        l.set("target_modules", json!(["q_proj", "down_proj"]));
        for module in absent {
            l.add(&format!("{module}.lora_A.weight"), &[3, 4])
                .add(&format!("{module}.lora_B.weight"), &[4, 3]);
        }
    });
    says(elsewhere, &["no place", absent[0], absent[1]]);

    let (written, files) = beside(&draft, &plain);
    std::fs::rename(
        written.path().join("adapter_model.safetensors"),
        written.path().join("adapter_model.bin"),
    )
    .unwrap();
    says(load(&files, &LoadOptions::default()), &["adapter_model.bin", "pickle", "--no-adapter"]);
}

#[test]
fn modules_that_the_config_targets_without_tensors_are_spoken_of() {
    let draft = Draft::of("llama");
    let mut lora = Lora::on(&draft, LLAMA, false);
    lora.set("target_modules", json!(["q_proj", "down_proj"]));
    let model = adapted(&draft, &lora).unwrap();
    let all = model.warnings().join("\n");
    assert!(all.contains("no tensors of") && all.contains("`model.layers.0.mlp.down_proj`"), "{all}");
    assert!(!all.contains("`model.layers.0.self_attn.q_proj`"), "{all}");
}

fn resolved(reference: &Path, adapter: AdapterChoice) -> Result<ModelFiles, Error> {
    let options = ResolveOptions { adapter, offline: true, ..ResolveOptions::default() };
    resolve(&reference.display().to_string(), &options)
}

#[test]
fn a_folder_that_is_only_an_adapter_is_applied_to_the_base_it_names() {
    let draft = Draft::of("llama");
    let mut lora = Lora::on(&draft, LLAMA, false);
    let (base, adapter) = (draft.write(), tempfile::tempdir().unwrap());
    let expected = logits(&adapted(&draft, &lora).unwrap());
    let loaded = |files: ModelFiles| logits(&load(&files, &LoadOptions::default()).unwrap());

    lora.set("base_model_name_or_path", base.path().display().to_string());
    lora.write_into(adapter.path());
    let files = resolved(adapter.path(), AdapterChoice::Beside).unwrap();
    assert_eq!(files.kind, FilesKind::Folder(base.path().to_owned()));
    assert_same_bits("absolute", &loaded(files), &expected);
    says(resolved(adapter.path(), AdapterChoice::Without), &["only an adapter"]);

    let named = AdapterChoice::Named(adapter.path().display().to_string());
    assert_same_bits("named", &loaded(resolved(base.path(), named.clone()).unwrap()), &expected);
    says(resolved(adapter.path(), named), &["second"]);
    says(
        resolved(base.path(), AdapterChoice::Named(base.path().display().to_string())),
        &["adapter_config.json", "not an adapter"],
    );

    // A path relative to the adapter's own folder.
    let inner = adapter.path().join("base-model");
    std::fs::create_dir(&inner).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(base.path().join(name), inner.join(name)).unwrap();
    }
    lora.set("base_model_name_or_path", "base-model").write_into(adapter.path());
    assert_same_bits("beside", &loaded(resolved(adapter.path(), AdapterChoice::Beside).unwrap()), &expected);

    lora.set("base_model_name_or_path", "org/nowhere").write_into(adapter.path());
    says(resolved(adapter.path(), AdapterChoice::Beside), &["only an adapter", "`org/nowhere`", "--adapter"]);
    lora.config.remove("base_model_name_or_path");
    lora.write_into(adapter.path());
    says(resolved(adapter.path(), AdapterChoice::Beside), &["names no base model", "--adapter"]);
    lora.set("base_model_name_or_path", adapter.path().display().to_string()).write_into(adapter.path());
    says(resolved(adapter.path(), AdapterChoice::Beside), &["only an adapter too"]);
}

#[test]
fn an_exported_model_has_the_adapter_merged_in() {
    for case in ["llama", "gpt2", "gpt_neox", "phi3", "mixtral"] {
        let draft = Draft::of(case);
        let inner: Vec<&str> = matrices(&draft).into_iter().filter(|m| m.contains(".0.")).collect();
        let (_written, files) = beside(&draft, &Lora::on(&draft, &inner, in_out(case)));
        let exported = tempfile::tempdir().unwrap();
        open(&files, &LoadOptions::default())
            .unwrap()
            .export(exported.path(), Dtype::F32, Stop::Never)
            .unwrap();
        let plain = resolve(&exported.path().display().to_string(), &ResolveOptions::default()).unwrap();
        assert_eq!(plain.adapter, None);
        let options = LoadOptions::default();
        let [ours, merged] = [&plain, &files].map(|files| logits(&load(files, &options).unwrap()));
        assert!(relative_error(&ours, &merged) < 3e-5, "{case}");
    }
    let draft = Draft::of("gemma");
    let (_written, files) = beside(&draft, &Lora::on(&draft, &["model.embed_tokens"], false));
    let folder = tempfile::tempdir().unwrap();
    let opened = open(&files, &LoadOptions::default()).unwrap();
    says(opened.export(folder.path(), Dtype::F32, Stop::Never), &["tied pair", "--no-adapter"]);
}
