//! Configurations of dictionaries beside sound weights: refused, or read with numbers that are all finite. The first byte says which.
#![no_main]

use std::path::Path;

use easyroutine_dictionaries::{Dictionary, Options};
use libfuzzer_sys::fuzz_target;

const CASES: [(&str, &str, &[&str]); 5] = [
    ("saelens_jumprelu_layer_norm", "cfg.json", &["sae_weights.safetensors"]),
    ("sparsify_sae/layers.1", "cfg.json", &["sae.safetensors"]),
    (
        "gemma_scope_2_transcoder/transcoder/layer_1_width_64_l0_small_affine",
        "config.json",
        &["params.safetensors"],
    ),
    ("dictionary_learning_batchtopk", "config.json", &["ae.pt"]),
    (
        "circuit_tracer_plt",
        "config.yaml",
        &["layer_0.safetensors", "layer_1.safetensors", "layer_2.safetensors"],
    ),
];

fuzz_target!(|data: &[u8]| {
    let Some((which, config)) = data.split_first() else { return };
    let (case, name, weights) = CASES[usize::from(*which) % CASES.len()];
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/dictionaries").join(case);
    let folder = tempfile::tempdir().expect("a folder");
    // sparsify's place is the name of its folder.
    let folder = folder.path().join("layers.1");
    std::fs::create_dir(&folder).expect("a folder");
    for file in weights {
        std::fs::hard_link(fixtures.join(file), folder.join(file))
            .or_else(|_| std::fs::copy(fixtures.join(file), folder.join(file)).map(drop))
            .expect("the weights");
    }
    std::fs::write(folder.join(name), config).expect("the configuration");
    if let Ok(dictionary) = Dictionary::open(&folder, &Options::default()) {
        dictionary.check_numbers().expect("the weights are sound");
    }
});
