//! Features chosen with the help of a product in bf16: the same bits as without it.
//!
//! Few vectors at a time go by the whole product in f32, and many by the sieve, on processors that have bf16 instructions.

use std::path::Path;

use easyroutine_dictionaries::{Dictionary, Features, Options};
use easyroutine_kernels::Rows;
use serde_json::{Value, json};

use crate::common::cpu;

const WIDTH: usize = 48;
const FEATURES: usize = 4_500;
const ROWS: usize = 70;

/// Repeatable numbers, nearly normal.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| 2.0 * (uniform() + uniform() + uniform())).collect()
}

/// Writes a dictionary of SAELens.
fn written(folder: &Path, settings: &Value, tensors: &[(&str, &[usize], &[f32])]) {
    let mut header = serde_json::Map::new();
    let mut bytes = Vec::new();
    for (name, shape, values) in tensors {
        let start = bytes.len();
        values.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
        let entry = json!({"dtype": "F32", "shape": shape, "data_offsets": [start, bytes.len()]});
        header.insert((*name).to_owned(), entry);
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &bytes].concat();
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("sae_weights.safetensors"), file).unwrap();
    let mut whole = json!({
        "d_in": WIDTH, "d_sae": FEATURES, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": true,
        "normalize_activations": "none", "reshape_activations": "none",
        "metadata": {"sae_lens_version": "6.22.2", "hook_name": "blocks.0.hook_resid_post"},
    });
    whole.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    std::fs::write(folder.join("cfg.json"), whole.to_string()).unwrap();
}

/// The features of each vector by itself, and of all together.
fn both_ways(folder: &Path, x: &[f32]) -> (Features, Features) {
    let dictionary = Dictionary::open(folder, &Options::default()).unwrap();
    let layer = dictionary.layer(0).unwrap();
    let all = layer.encode(&cpu(), Rows::dense(x, x.len() / WIDTH, WIDTH)).unwrap();
    let mut alone = Features::new(FEATURES);
    for vector in x.chunks_exact(WIDTH) {
        let one = layer.encode(&cpu(), Rows::dense(vector, 1, WIDTH)).unwrap();
        let (numbers, values) = one.token(0);
        alone.push(numbers.iter().copied().zip(values.iter().copied()));
    }
    (alone, all)
}

#[track_caller]
fn same(what: &str, (alone, all): &(Features, Features)) {
    for token in 0..alone.len() {
        assert_eq!(alone.token(token).0, all.token(token).0, "{what}, vector {token}");
        let bits =
            |features: &Features| features.token(token).1.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(alone), bits(all), "{what}, vector {token}");
    }
    assert!(all.n_active() > 0, "{what}: nothing is active");
}

#[test]
fn a_sieved_vector_has_the_bits_of_the_whole_product() {
    let root = tempfile::tempdir().unwrap();
    let mut encoder = numbers(1, WIDTH * FEATURES);
    // Equal features tie; others differ by less than bf16 can tell.
    for row in encoder.chunks_exact_mut(FEATURES) {
        let first = row[7];
        row[4_400..4_410].fill(first);
        (20..30).for_each(|i| row[i] = first * (1.0 + (i as f32 - 25.0) * 1e-7));
    }
    let decoder = numbers(2, FEATURES * WIDTH);
    let (bias, origin) = (numbers(3, FEATURES), numbers(4, WIDTH));
    let shape: [(&str, &[usize], &[f32]); 4] = [
        ("W_enc", &[WIDTH, FEATURES], &encoder),
        ("W_dec", &[FEATURES, WIDTH], &decoder),
        ("b_enc", &[FEATURES], &bias),
        ("b_dec", &[WIDTH], &origin),
    ];
    let mut x = numbers(5, ROWS * WIDTH);
    for (row, vector) in x.chunks_exact_mut(WIDTH).enumerate() {
        match row % 7 {
            // As the first tokens of language models are.
            1 => vector[3] = 3_000.0,
            2 => vector.fill(0.0),
            3 => vector.iter_mut().for_each(|x| *x *= 1e-39),
            4 => vector.iter_mut().for_each(|x| *x *= 1e30),
            5 => vector.iter_mut().zip(&origin).for_each(|(x, origin)| *x = origin + *x * 1e-4),
            _ => {}
        }
    }
    // The wide bound of large first tokens lets so much pass that the whole product is taken.
    let calm: Vec<f32> = x
        .chunks_exact(WIDTH)
        .enumerate()
        .filter(|(row, _)| row % 7 != 1)
        .flat_map(|(_, x)| x)
        .copied()
        .collect();
    for (k, rescales) in [(1, false), (8, false), (8, true), (140, true), (2_000, false)] {
        let folder = root.path().join(format!("topk-{k}-{rescales}"));
        let settings = json!({"architecture": "topk", "k": k, "rescale_acts_by_decoder_norm": rescales});
        written(&folder, &settings, &shape);
        same(&format!("top {k}"), &both_ways(&folder, &x));
        same(&format!("top {k}, calm"), &both_ways(&folder, &calm));
    }
    let folder = root.path().join("standard");
    written(&folder, &json!({"architecture": "standard", "apply_b_dec_to_input": true}), &shape);
    let plain = both_ways(&folder, &x);
    same("relu", &plain);
    // Thresholds that some vectors meet exactly: a feature at its threshold is not active.
    for (name, rows) in [("few", 6..7), ("met", 0..ROWS)] {
        let mut thresholds = vec![4.0f32; FEATURES];
        for token in rows {
            let (numbers, values) = plain.0.token(token);
            for (number, value) in numbers.iter().zip(values).filter(|(_, value)| (2.5..1e3).contains(*value))
            {
                thresholds[*number as usize] = *value;
            }
        }
        let folder = root.path().join(name);
        let tensors = [&shape[..], &[("threshold", &[FEATURES][..], &thresholds[..])]].concat();
        written(&folder, &json!({"architecture": "jumprelu"}), &tensors);
        same(name, &both_ways(&folder, &x));
        same(name, &both_ways(&folder, &calm));
    }
}
