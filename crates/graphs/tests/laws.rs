//! Laws, on every architecture in the fixtures with random transcoders.

use std::collections::BTreeMap;
use std::path::Path;

use easyroutine::{ErrorKind, Model, Stop};
use easyroutine_dictionaries::{Dictionary, Options as DictionaryOptions};
use easyroutine_files::{HeaderEntry, safetensors_head};
use easyroutine_graphs::{Graph, Options};
use proptest::prelude::*;
use serde_json::Map;
use tempfile::TempDir;

use crate::common::{dictionary, fixtures, graph, tiny, tiny_with};

/// Features of each layer.
const FEATURES: usize = 24;

/// Repeatable values between -1 and 1.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// A set of transcoders in circuit-tracer's format.
struct Set {
    reads: &'static str,
    is_cross_layer: bool,
    skips: bool,
    seed: u64,
}

impl Set {
    fn write(&self, folder: &Path, n_layers: usize, width: usize) {
        let kind = if self.is_cross_layer { "cross_layer_transcoder" } else { "transcoder_set" };
        let mut config = format!(
            "model_name: random\nmodel_kind: {kind}\nfeature_input_hook: {}\nfeature_output_hook: hook_mlp_out\nscan: \
             random\n",
            self.reads
        );
        if !self.is_cross_layer {
            config.push_str("transcoders:\n");
        }
        for layer in 0..n_layers {
            let seed = |n: u64| self.seed.wrapping_mul(31).wrapping_add(layer as u64 * 7 + n);
            let mut encoder = vec![
                ("W_enc", vec![FEATURES, width], values(seed(0), FEATURES * width)),
                ("b_enc", vec![FEATURES], values(seed(1), FEATURES)),
                ("b_dec", vec![width], values(seed(2), width)),
            ];
            if self.is_cross_layer {
                let parts = n_layers - layer;
                let decoder =
                    ("W_dec", vec![FEATURES, parts, width], values(seed(3), FEATURES * parts * width));
                let named =
                    |tensors: Vec<(&str, Vec<usize>, Vec<f32>)>| -> Vec<(String, Vec<usize>, Vec<f32>)> {
                        tensors
                            .into_iter()
                            .map(|(name, shape, x)| (format!("{name}_{layer}"), shape, x))
                            .collect()
                    };
                save(&folder.join(format!("W_enc_{layer}.safetensors")), &named(encoder));
                save(&folder.join(format!("W_dec_{layer}.safetensors")), &named(vec![decoder]));
            } else {
                encoder.push(("W_dec", vec![FEATURES, width], values(seed(3), FEATURES * width)));
                if self.skips {
                    let skip = values(seed(4), width * width).iter().map(|x| x * 0.1).collect();
                    encoder.push(("W_skip", vec![width, width], skip));
                }
                let named: Vec<_> =
                    encoder.into_iter().map(|(name, shape, x)| (name.to_owned(), shape, x)).collect();
                save(&folder.join(format!("layer_{layer}.safetensors")), &named);
                config.push_str(&format!("  - layer_{layer}.safetensors\n"));
            }
        }
        std::fs::write(folder.join("config.yaml"), config).unwrap();
    }
}

fn save(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let entries = tensors.iter().map(|(name, shape, values)| HeaderEntry {
        name,
        dtype: "F32".to_owned(),
        shape,
        bytes: values.len() * 4,
    });
    let mut bytes = safetensors_head(Map::new(), entries, 8);
    tensors.iter().flat_map(|(_, _, x)| x).for_each(|x| bytes.extend(x.to_le_bytes()));
    std::fs::write(path, bytes).unwrap();
}

fn set(model: &Model, set: &Set) -> (TempDir, Dictionary) {
    let folder = tempfile::tempdir().unwrap();
    set.write(folder.path(), model.arch().layers.len(), model.arch().d_model);
    let opened = Dictionary::open(folder.path(), &DictionaryOptions::default()).unwrap();
    (folder, opened)
}

/// Rows add up to their targets' values, and removing a source changes every target by its edge.
fn check(what: &str, graph: &Graph) {
    let certificate = &graph.certificate;
    assert!(certificate.row_error < 2e-5, "{what}: rows miss {:e}", certificate.row_error);
    let error = certificate.largest_error().unwrap();
    assert!(error < 2e-5, "{what}: interventions miss {error:e}");
}

#[test]
fn rows_add_up_and_edges_foretell_interventions_in_every_architecture() {
    let mut refused: BTreeMap<String, String> = BTreeMap::new();
    let mut n_checked = 0;
    let mut folders: Vec<_> =
        std::fs::read_dir(fixtures().join("tiny")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let model = tiny(&name);
        if model.unembedding().is_err() {
            continue;
        }
        let described = Set {
            reads: "mlp.hook_in",
            is_cross_layer: false,
            skips: n_checked % 2 == 0,
            seed: n_checked as u64,
        };
        let (_kept, dictionary) = set(&model, &described);
        let options = Options { max_logits: 3, checks: 12, ..Options::default() };
        let ids = [1, 7, 3, 9, 12, 5];
        match Graph::new(&model, &dictionary, &ids, &options, Stop::Never, &mut |_, _| {}) {
            Ok(graph) => {
                check(&name, &graph);
                n_checked += 1;
            }
            Err(e) if matches!(e.kind(), ErrorKind::Unsupported | ErrorKind::Input) => {
                refused.insert(name, e.to_string());
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
    assert!(n_checked >= 45, "{n_checked} architectures; refused: {refused:#?}");
    for (name, reason) in &refused {
        assert!(reason.contains("not linear") || reason.contains("mlp_"), "{name}: {reason}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_laws_hold_for_any_set_and_prompt(
        name in prop::sample::select(vec!["gpt2", "llama", "gemma2", "gpt_neox", "qwen3", "bloom"]),
        reads in prop::sample::select(vec!["mlp.hook_in", "hook_resid_mid", "hook_resid_pre"]),
        is_cross_layer in any::<bool>(),
        skips in any::<bool>(),
        seed in any::<u64>(),
        ids in prop::collection::vec(1u32..60, 2..14),
    ) {
        let model = tiny(name);
        // A parallel block has no stream between attention and MLP.
        prop_assume!(!(name == "gpt_neox" && reads == "hook_resid_mid"));
        let (_kept, dictionary) = set(&model, &Set { reads, is_cross_layer, skips, seed });
        let options = Options { max_logits: 4, checks: 6, ..Options::default() };
        let made = graph(&model, &dictionary, &ids, &options);
        check(name, &made);
        // No edge comes from a later position, or from the same layer or a later one.
        for target in 0..made.features.len() {
            let own = made.features[target];
            for (source, edge) in made.row(target).unwrap().iter().enumerate() {
                let earlier = match made.node(source).unwrap() {
                    easyroutine_graphs::Node::Feature(other) => other.layer < own.layer && other.position <= own.position,
                    easyroutine_graphs::Node::Error { layer, position } => layer < own.layer && position <= own.position,
                    easyroutine_graphs::Node::Token { position } => position <= own.position,
                    easyroutine_graphs::Node::Logit(_) => false,
                };
                prop_assert!(earlier || *edge == 0.0, "{source} to {target}: {edge}");
            }
        }
        let influence = made.influence();
        prop_assert!(influence.iter().all(|x| x.is_finite() && *x >= 0.0));
    }
}

#[test]
fn a_row_has_the_same_bits_whatever_is_computed_beside_it() {
    for (name, of) in [("circuit_tracer_plt_jumprelu_skip", "llama"), ("circuit_tracer_clt", "gpt2")] {
        let dictionary = dictionary(name);
        let ids = [1, 123, 66, 12, 97, 100, 34, 8, 17];
        let all = graph(&tiny(of), &dictionary, &ids, &Options::default());
        let threads = graph(&tiny_with(of, 1), &dictionary, &ids, &Options::default());
        assert!(all == threads, "{name}: another number of threads");
        let some = Options { max_features: 20, rank_every: 3, ..Options::default() };
        let some = graph(&tiny(of), &dictionary, &ids, &some);
        for (number, feature) in some.features.iter().enumerate() {
            let at = all.features.iter().position(|other| other == feature).unwrap();
            let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            let (whole, part) = (all.row(at).unwrap(), some.row(number).unwrap());
            assert_eq!(bits(&whole[all.features.len()..]), bits(&part[some.features.len()..]), "{name}");
        }
    }
}
