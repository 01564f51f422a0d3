//! Bad files are refused with all their problems named, and nothing panics.

use std::path::Path;

use easyroutine::positions::{Context, Row};
use easyroutine::{Batch, Error};
use easyroutine_dictionaries::{Dictionaries, Dictionary, FeatureCapture, FeatureEdits, Options};
use easyroutine_kernels::Rows;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::{Case, cases, cpu, tiny};

/// A copy of a case's files for a test to spoil.
fn copy(name: &str) -> (TempDir, Case) {
    let case = Case::named(name);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join(&case.name);
    copy_folder(&case.folder, &root);
    (folder, Case { folder: root, ..case })
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[track_caller]
fn refused(path: &Path, options: &Options, words: &[&str]) -> Error {
    let error = Dictionary::open(path, options).expect_err("it should be refused");
    let text = format!("{error} {}", error.hint_text().unwrap_or_default());
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    error
}

/// Changes a JSON file of a case.
fn change(case: &Case, file: &str, change: impl Fn(&mut Value)) {
    let path = case.folder.join(file);
    let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// Replaces bytes of a file by others of the same length.
fn replace(path: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the text is in the file");
    bytes[at..at + to.len()].copy_from_slice(to);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn all_that_is_wrong_with_a_configuration_is_told_at_once() {
    let (_kept, case) = copy("saelens_standard");
    change(&case, "cfg.json", |cfg| {
        cfg["temperature"] = 2.into();
        cfg["another_key"] = 1.into();
        cfg["normalize_activations"] = "whitening".into();
        cfg["metadata"]["hook_head_index"] = 3.into();
    });
    refused(
        &case.folder,
        &Options::default(),
        &["unknown keys `temperature`, `another_key`", "\"whitening\"", "`hook_head_index` is 3"],
    );
}

#[test]
fn a_norm_without_its_factor_is_refused_and_a_factor_without_use_too() {
    let case = Case::named("saelens_expected_average");
    refused(&case.folder, &Options::default(), &["expected_average_only_in", "--norm-factor"]);
    let options = Options { norm_factor: Some(-1.0), ..Options::default() };
    refused(&case.folder, &options, &["--norm-factor -1"]);
    let options = Options { norm_factor: Some(0.5), ..Options::default() };
    refused(&Case::named("saelens_standard").folder, &options, &["--norm-factor"]);
    refused(&Case::named("llama_scope_res").folder, &options, &["--norm-factor"]);
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    for (name, file) in [
        ("saelens_topk_rescaled", "sae_weights.safetensors"),
        ("gemma_scope_res", "layer_1/width_64/average_l0_8/params.npz"),
        ("dictionary_learning_gated", "ae.pt"),
        ("saelens_standard", "cfg.json"),
    ] {
        let (_kept, case) = copy(name);
        let path = case.folder.join(file);
        let whole = std::fs::read(&path).unwrap();
        for length in (0..whole.len()).step_by(whole.len() / 40 + 1).chain([whole.len() - 1]) {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(Dictionary::open(&case.folder, &case.options()).is_err(), "{name} {length}");
        }
    }
}

#[test]
fn tensors_of_other_names_shapes_and_numbers_are_refused_by_name() {
    let (_kept, case) = copy("saelens_jumprelu_layer_norm");
    let weights = case.folder.join("sae_weights.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    replace(&weights, b"\"threshold\"", b"\"thresholt\"");
    refused(&case.folder, &Options::default(), &["no tensor `threshold`", "unknown tensor `thresholt`"]);
    std::fs::write(&weights, &whole).unwrap();
    change(&case, "cfg.json", |cfg| cfg["d_sae"] = 63.into());
    refused(
        &case.folder,
        &Options::default(),
        &["`threshold` has shape [64], not [63]", "`W_enc` has shape [48, 64]"],
    );
    change(&case, "cfg.json", |cfg| cfg["d_sae"] = 64.into());
    let threshold = case.reference_of("sae_weights.safetensors", "threshold");
    let nan = [&f32::NAN.to_le_bytes()[..], &threshold[4..]].concat();
    replace(&weights, &threshold, &nan);
    refused(&case.folder, &Options::default(), &["`threshold` holds NaN at 0"]);
}

#[test]
fn a_wrong_value_is_not_missing_too() {
    let (_kept, case) = copy("saelens_v5_topk");
    change(&case, "cfg.json", |cfg| cfg["activation_fn_kwargs"]["k"] = 0.into());
    let error = refused(&case.folder, &Options::default(), &["`k` is 0; expected a whole number"]);
    assert!(!error.to_string().contains("missing"), "{error}");
}

#[test]
fn a_transcoder_that_subtracts_the_bias_of_its_output_is_refused() {
    let (_kept, case) = copy("saelens_transcoder");
    change(&case, "cfg.json", |cfg| cfg["apply_b_dec_to_input"] = true.into());
    refused(&case.folder, &case.options(), &["`apply_b_dec_to_input` is true", "false for a transcoder"]);
}

#[test]
fn a_scale_beyond_f32_is_refused() {
    let (_kept, case) = copy("saelens_gated_constant_norm");
    let scale = case.reference_of("sae_weights.safetensors", "r_mag");
    let large = [&500f32.to_le_bytes()[..], &scale[4..]].concat();
    replace(&case.folder.join("sae_weights.safetensors"), &scale, &large);
    refused(&case.folder, &case.options(), &["`r_mag` holds 500 at 0, whose exponential is infinite"]);
}

#[test]
fn weights_that_are_not_finite_never_give_numbers() {
    let (_kept, case) = copy("saelens_standard");
    let row = case.reference_of("sae_weights.safetensors", "W_enc");
    let spoilt = [&row[..16], &f32::NAN.to_le_bytes(), &row[20..]].concat();
    replace(&case.folder.join("sae_weights.safetensors"), &row, &spoilt);
    let dictionary = case.dictionary();
    let error = dictionary.check_numbers().unwrap_err().to_string();
    assert!(error.contains("feature 4"), "{error}");
    let x = vec![1.0; 48];
    let error = dictionary.layer(0).unwrap().encode(&cpu(), Rows::dense(&x, 1, 48)).unwrap_err().to_string();
    assert!(error.contains("feature 4"), "{error}");
    let sound = Case::named("saelens_standard").dictionary();
    let x = vec![f32::NAN; 48];
    let error = sound.layer(0).unwrap().encode(&cpu(), Rows::dense(&x, 1, 48)).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
    let error = sound.layer(0).unwrap().encode(&cpu(), Rows::dense(&x[..47], 1, 47)).unwrap_err().to_string();
    assert!(error.contains("48") && error.contains("47"), "{error}");
}

#[test]
fn weights_that_change_while_a_model_runs_end_the_run_and_have_another_digest() {
    let (_folder, case) = copy("saelens_standard");
    let model = tiny("gpt2");
    let mut dictionaries = Dictionaries::default();
    dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
    let digest = |case: &Case| case.dictionary().digest().unwrap();
    let before = digest(&case);
    assert_eq!(before, digest(&Case::named("saelens_standard")), "whatever the path");
    let ids = [1u32, 2, 3];
    let (keys, batch) = (["features_d".to_owned()], Batch::new(&[&ids]).unwrap());
    let run = || {
        let capture = FeatureCapture::new(&keys, &dictionaries, model.cpu(), vec![vec![0, 2]]).unwrap();
        let change = "features_d:7@all=40".parse().unwrap();
        let row = Row::of(0, &ids);
        let edits =
            FeatureEdits::new(&[change], &dictionaries, model.cpu(), &[row], Context::default()).unwrap();
        [model.forward(&batch, &mut { capture }).map(drop), model.forward(&batch, &mut { edits }).map(drop)]
    };
    assert!(run().iter().all(Result::is_ok));
    let weights = case.folder.join("sae_weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x80;
    std::fs::write(&weights, bytes).unwrap();
    for outcome in run() {
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("sae_weights.safetensors"), "{error}");
    }
    assert_ne!(digest(&case), before);
}

#[test]
fn two_layers_of_a_set_at_one_place_are_refused() {
    let (_folder, case) = copy("circuit_tracer_plt");
    let path = case.folder.join("config.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let keyed = |keys: [&str; 3]| {
        let files = (0..3).map(|i| format!("  {}: layer_{i}.safetensors\n", keys[i])).collect::<String>();
        std::fs::write(&path, format!("{}transcoders:\n{files}", text.split_once("transcoders:").unwrap().0))
            .unwrap();
    };
    keyed(["0", "1", "\"01\""]);
    refused(&case.folder, &case.options(), &["one layer of a model after another"]);
    keyed(["0", "1", "2"]);
    Dictionary::open(&case.folder, &case.options()).unwrap();
}

#[test]
fn another_format_under_a_known_name_is_refused() {
    let (_kept, case) = copy("saelens_standard");
    let weights = case.folder.join("sae_weights.safetensors");
    let pickle = Case::named("dictionary_learning_gated").folder.join("ae.pt");
    std::fs::copy(pickle, &weights).unwrap();
    assert!(Dictionary::open(&case.folder, &Options::default()).is_err());
    // The weights of sparsify next to the configuration of SAELens.
    let other = Case::named("sparsify_sae").folder.join("layers.1/sae.safetensors");
    std::fs::copy(other, &weights).unwrap();
    refused(&case.folder, &Options::default(), &["no tensor `W_enc`", "unknown tensors `encoder.bias`"]);
    std::fs::write(case.folder.join("sae.safetensors"), "x").unwrap();
    refused(&case.folder, &Options::default(), &["several formats", "saelens", "sparsify"]);
    let empty = tempfile::tempdir().unwrap();
    refused(empty.path(), &Options::default(), &["holds no dictionary", "cfg.json"]);
    refused(&empty.path().join("nowhere"), &Options::default(), &["nowhere"]);
    refused(
        &crate::common::fixtures().join("dictionaries"),
        &Options::default(),
        &["dictionaries", "name one"],
    );
}

#[test]
fn a_place_that_the_model_lacks_and_a_width_that_does_not_fit_are_refused_by_name() {
    let (_kept, case) = copy("saelens_standard");
    change(&case, "cfg.json", |cfg| cfg["metadata"]["hook_name"] = "blocks.7.hook_resid_post".into());
    let error = case.dictionary().fit(tiny("gpt2").arch()).unwrap_err().to_string();
    assert!(error.contains("blocks.7.hook_resid_post") && error.contains("3 layers"), "{error}");
    let parallel = Case::named("saelens_expected_average").dictionary();
    let error = parallel.fit(tiny("gpt_neox").arch()).unwrap_err().to_string();
    assert!(error.contains("parallel"), "{error}");
    let wide = Case::named("saelens_hook_z").dictionary();
    let error = wide.fit(tiny("gemma3_text").arch()).unwrap_err().to_string();
    assert!(error.contains("48") && error.contains("64"), "{error}");
    change(&case, "cfg.json", |cfg| cfg["metadata"]["hook_name"] = "blocks.1.ln2.hook_normalized".into());
    let error = case.dictionary().fit(tiny("gpt2").arch()).unwrap_err();
    assert!(error.hint_text().unwrap_or_default().contains("--place"), "{error}");
    let options = Options { place: Some("mlp_in_1".to_owned()), ..Options::default() };
    let fits = Dictionary::open(&case.folder, &options).unwrap().fit(tiny("gpt2").arch()).unwrap();
    assert_eq!(fits[0].reads.to_string(), "mlp_in_1");
    let options = Options { place: Some("pattern_L1H1".to_owned()), ..Options::default() };
    refused(&case.folder, &options, &["pattern_L1H1"]);
}

#[test]
fn a_layer_that_is_missing_in_the_middle_is_not_dropped() {
    let (_kept, case) = copy("circuit_tracer_clt");
    std::fs::remove_file(case.folder.join("W_enc_1.safetensors")).unwrap();
    refused(&case.folder, &Options::default(), &["W_enc_N.safetensors"]);
    let (_kept, case) = copy("circuit_tracer_plt");
    std::fs::remove_file(case.folder.join("layer_1.safetensors")).unwrap();
    refused(&case.folder, &Options::default(), &["layer_1.safetensors"]);
    let yaml = case.folder.join("config.yaml");
    let text =
        std::fs::read_to_string(&yaml).unwrap().replace("layer_1.safetensors", "../layer_1.safetensors");
    std::fs::write(&yaml, text).unwrap();
    refused(&case.folder, &Options::default(), &["../layer_1.safetensors"]);
}

/// Writes other numbers over a tensor of f32 in a file of safetensors.
fn overwrite(case: &Case, file: &str, tensor: &str, numbers: &[f32]) {
    let path = case.folder.join(file);
    let old = {
        let opened = easyroutine_files::ShardedSafeTensors::open(&path).unwrap();
        opened.tensor(tensor).unwrap().bytes().to_vec()
    };
    let mut new = old.clone();
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    new[..bytes.len()].copy_from_slice(&bytes);
    replace(&path, &old, &new);
}

#[test]
fn a_threshold_that_would_let_features_below_0_through_is_refused() {
    let (_kept, case) = copy("circuit_tracer_plt_jumprelu_skip");
    overwrite(&case, "layer_1.safetensors", "activation_function.threshold", &[0.5, -0.25]);
    refused(&case.folder, &Options::default(), &["activation_function.threshold", "-0.25 at 1"]);
}

#[test]
fn more_active_features_than_there_are_is_refused() {
    let (_kept, case) = copy("saelens_topk_rescaled");
    change(&case, "cfg.json", |cfg| cfg["k"] = 65.into());
    refused(&case.folder, &Options::default(), &["k is 65", "64 features"]);
    change(&case, "cfg.json", |cfg| cfg["k"] = 64.into());
    Dictionary::open(&case.folder, &Options::default()).unwrap();
}

#[test]
fn a_dictionary_that_reads_after_it_writes_is_refused() {
    let case = Case::named("saelens_standard");
    let fit = |place: &str| {
        let options = Options { place: Some(place.to_owned()), ..Options::default() };
        Dictionary::open(&case.folder, &options).unwrap().fit(tiny("gpt2").arch())
    };
    for place in ["mlp_out_1,z_L1", "resid_in_2,resid_out_1", "resid_in_0,input_embeddings"] {
        let error = fit(place).expect_err(place).to_string();
        let (reads, writes) = place.split_once(',').unwrap();
        assert!(
            error.contains(&format!("`{reads}`, which")) && error.contains(&format!("`{writes}`")),
            "{error}"
        );
    }
    for place in
        ["mlp_in_1,mlp_out_1", "resid_out_1", "input_embeddings,resid_out_2", "resid_out_0,resid_in_1"]
    {
        fit(place).unwrap_or_else(|e| panic!("{place}: {e}"));
    }
}

/// The vectors of the first row that a layer encodes in a case, and what it makes of them.
fn encoded(case: &Case, dictionary: &Dictionary) -> Vec<f32> {
    let (_, x) = case.tensor("x");
    let layer = dictionary.layer(0).unwrap();
    layer.encode(&cpu(), Rows::dense(&x[..layer.d_in()], 1, layer.d_in())).unwrap().dense()
}

#[test]
fn an_early_transcoder_of_sparsify_is_known_by_its_run_or_its_places() {
    let (_kept, case) = copy("sparsify_skip_transcoder");
    let mlp = case.folder.join("layers.1.mlp");
    let whole = encoded(&case, &case.dictionary());
    change(&case, "layers.1.mlp/cfg.json", |cfg| drop(cfg.as_object_mut().unwrap().remove("transcode")));
    std::fs::remove_file(case.folder.join("config.json")).unwrap();
    refused(
        &mlp,
        &Options::default(),
        &["`skip_connection` but no `transcode`", "--place mlp_in_5,mlp_out_5"],
    );
    let placed = Options { place: Some("mlp_in_1,mlp_out_1".to_owned()), ..Options::default() };
    let by_place = Dictionary::open(&mlp, &placed).unwrap();
    assert!(by_place.layer(0).unwrap().is_transcoder());
    std::fs::write(case.folder.join("config.json"), r#"{"model": "tiny", "transcode": true}"#).unwrap();
    let by_run = Dictionary::open(&mlp, &Options::default()).unwrap();
    assert!(by_run.layer(0).unwrap().is_transcoder());
    assert_eq!(by_run.certificate().architecture, "topk transcoder");
    // Those versions subtracted the decoder's bias in transcoders too.
    assert_eq!(encoded(&case, &by_run), encoded(&case, &by_place));
    assert_ne!(encoded(&case, &by_run), whole);
    std::fs::write(case.folder.join("config.json"), r#"{"model": "tiny", "transcode": false}"#).unwrap();
    let autoencoder = Dictionary::open(&mlp, &Options::default()).unwrap();
    assert!(!autoencoder.layer(0).unwrap().is_transcoder());
}

#[test]
fn transcoders_that_a_set_does_not_list_are_its_files_by_number() {
    let (_kept, case) = copy("circuit_tracer_plt");
    let path = case.folder.join("config.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.split_once("transcoders:").unwrap().0).unwrap();
    let found = case.dictionary();
    assert_eq!(encoded(&case, &found), encoded(&case, &Case::named("circuit_tracer_plt").dictionary()));
    assert_eq!(found.layers().len(), 3);
    std::fs::remove_file(case.folder.join("layer_1.safetensors")).unwrap();
    refused(&case.folder, &case.options(), &["layer_N.safetensors", "every layer from 0 on"]);
}

#[test]
fn a_set_reads_transcoders_of_gemma_scope_2_as_they_are_alone() {
    let alone = Case::named("gemma_scope_2_transcoder");
    let (_kept, case) = copy("circuit_tracer_plt");
    let file = files(&alone.folder).into_iter().find(|file| file.ends_with("params.safetensors")).unwrap();
    for i in 0..3 {
        std::fs::copy(&file, case.folder.join(format!("layer_{i}.safetensors"))).unwrap();
    }
    assert_eq!(encoded(&alone, &case.dictionary()), encoded(&alone, &alone.dictionary()));
    let (_, x) = alone.tensor("x");
    let x = Rows::dense(&x[..48], 1, 48);
    let decoded = |dictionary: &Dictionary| {
        let features = dictionary.layer(0).unwrap().encode(&cpu(), x).unwrap();
        dictionary.decode(&cpu(), 0, &[&features], x).unwrap()
    };
    assert_eq!(decoded(&case.dictionary()), decoded(&alone.dictionary()));
}

#[test]
fn decoder_rows_that_would_choose_other_features_in_llama_scope_are_told() {
    let (_kept, case) = copy("llama_scope_res");
    let file = "tiny-llama-L1R-1x/hyperparams.json";
    let warnings = |case: &Case| case.dictionary().certificate().warnings.join(" ");
    assert!(warnings(&case).contains("sparsity_include_decoder_norm"), "{}", warnings(&case));
    change(&case, file, |settings| settings["act_fn"] = "topk".into());
    refused(&case.folder, &Options::default(), &["sparsity_include_decoder_norm", "length 1"]);
    change(&case, file, |settings| settings["sparsity_include_decoder_norm"] = false.into());
    assert_eq!(warnings(&case), "");
}

#[test]
fn flipped_bits_are_refused_or_read_and_never_panic() {
    for case in cases() {
        let files = files(&case.folder);
        for file in files
            .iter()
            .filter(|file| !file.ends_with("expect.json") && !file.ends_with("reference.safetensors"))
        {
            let (_kept, spoilt) = copy(&case.name);
            let path = spoilt.folder.join(file.strip_prefix(&case.folder).unwrap());
            let whole = std::fs::read(&path).unwrap();
            for bit in (0..whole.len().min(1500) * 8).step_by(991) {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                std::fs::write(&path, bytes).unwrap();
                if let Ok(dictionary) = Dictionary::open(&spoilt.folder, &spoilt.options()) {
                    drop(dictionary.check_numbers());
                }
            }
        }
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

impl Case {
    /// The bytes of a tensor of one of its files.
    fn reference_of(&self, file: &str, name: &str) -> Vec<u8> {
        let file = easyroutine_files::ShardedSafeTensors::open(self.folder.join(file)).unwrap();
        file.tensor(name).unwrap().bytes().to_vec()
    }
}

#[test]
fn of_a_configuration_that_cannot_be_read_nothing_else_is_said() {
    for (at, file) in [
        ("saelens_jumprelu_layer_norm", "cfg.json"),
        ("saelens_topk_rescaled", "cfg.json"),
        ("sparsify_skip_transcoder/layers.1.mlp", "cfg.json"),
        ("dictionary_learning_batchtopk", "config.json"),
        ("gemma_scope_2_transcoder/transcoder/layer_1_width_64_l0_small_affine", "config.json"),
        ("llama_scope_res/tiny-llama-L1R-1x", "hyperparams.json"),
    ] {
        let (name, inner) = at.split_once('/').unwrap_or((at, ""));
        let (_kept, case) = copy(name);
        let path = case.folder.join(inner).join(file);
        let whole = std::fs::read(&path).unwrap();
        for (bytes, words) in [(&whole[..whole.len() / 2], "not valid JSON"), (b"[3]", "holds no object")] {
            std::fs::write(&path, bytes).unwrap();
            let text = refused(&case.folder, &Options::default(), &[file, words]).to_string();
            assert!(!text.contains("tensor") && !text.contains(';'), "{name}: {text}");
        }
    }
    let (_kept, case) = copy("saelens_jumprelu_layer_norm");
    change(&case, "cfg.json", |cfg| cfg["architecture"] = 5.into());
    let text = refused(&case.folder, &Options::default(), &["`architecture` is 5"]).to_string();
    assert!(!text.contains("tensor"), "{text}");
}
