//! Keys without a reference tensor of their own, checked from the written file.

use crate::common;

use common::{fixtures, succeeds, tiny};
use easyroutine_files::{Encoding, ShardedSafeTensors};

const IDS: &str = "[[5,6,7,8,9,10,11,12],[21,22,23,24,25,26,27,28]]";

struct Written {
    file: ShardedSafeTensors,
    _folder: tempfile::TempDir,
}

impl Written {
    #[track_caller]
    fn shape(&self, name: &str) -> Vec<usize> {
        self.file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}")).shape().to_vec()
    }

    #[track_caller]
    fn values(&self, name: &str) -> Vec<f32> {
        values(&self.file, name)
    }
}

#[track_caller]
fn values(file: &ShardedSafeTensors, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    if tensor.encoding() != Encoding::I64 {
        return tensor.read_all().unwrap();
    }
    tensor.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
}

#[track_caller]
fn extract(case: &str, arguments: &[&str]) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.safetensors");
    let model = tiny(case);
    succeeds(&[&["extract", "-m", &model, "-o", target.to_str().unwrap()], arguments].concat());
    Written { file: ShardedSafeTensors::open(target).unwrap(), _folder: folder }
}

#[track_caller]
fn assert_close(name: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let largest = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = ours.iter().zip(theirs).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    assert!(error < tolerance, "{name} differs by {error:.1e}");
}

fn reference(case: &str) -> (ShardedSafeTensors, String) {
    let path = fixtures().join("tiny").join(case).join("reference.safetensors");
    let file = ShardedSafeTensors::open(path).unwrap();
    let rows: Vec<Vec<u32>> =
        values(&file, "full.input_ids").chunks(16).map(|r| r.iter().map(|x| *x as u32).collect()).collect();
    (file, format!("{rows:?}"))
}

#[test]
fn neurons_embeddings_and_statistics_are_those_of_the_reference() {
    for case in ["llama", "gpt2", "gemma3_text"] {
        let (reference, ids) = reference(case);
        let ours =
            extract(case, &["--token-ids", &ids, "-a", "mlp_hidden_*,input_embeddings,last_layernorm"]);
        for layer in 0..3 {
            let (key, theirs) = (format!("mlp_hidden_{layer}"), format!("full.mlp_hidden_{layer}"));
            assert_close(&format!("{case} {key}"), &ours.values(&key), &values(&reference, &theirs), 1e-5);
        }
        let embeddings = ours.values("input_embeddings");
        assert_close(case, &embeddings, &values(&reference, "full.resid_in_0"), 1e-5);
        let stream = values(&reference, "full.final_norm_in");
        let d_model = stream.len() / 32;
        let mean_of = |of: &dyn Fn(f64, f64) -> f64| -> Vec<f32> {
            let token = |x: &[f32]| {
                let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / x.len() as f64;
                (x.iter().map(|x| of(f64::from(*x), mean)).sum::<f64>() / x.len() as f64) as f32
            };
            stream.chunks(d_model).map(token).collect()
        };
        for (name, expected) in [
            ("mean", mean_of(&|x, _| x)),
            ("variance", mean_of(&|x, mean| (x - mean) * (x - mean))),
            ("second_moment", mean_of(&|x, _| x * x)),
        ] {
            let key = format!("last_layernorm.{name}");
            assert_eq!(ours.shape(&key), [2, 16], "{case} {key}");
            // A mean of values that cancel, and a square: one digit more than the stream's own 1e-5.
            assert_close(&format!("{case} {key}"), &ours.values(&key), &expected, 1e-4);
        }
    }
}

#[test]
fn a_grouped_head_sees_the_keys_and_values_of_its_group() {
    // Four query heads of 12 share two heads of keys and values.
    let ours = extract(
        "llama",
        &[
            "--token-ids",
            IDS,
            "-a",
            "queries_L1,keys_L1,values_L1,head_queries_L1H*,head_keys_L1H*,head_values_L1H*",
        ],
    );
    for head in 0..4 {
        for (whole, part, width, of_head) in [
            ("queries_L1", "head_queries", 48, head),
            ("keys_L1", "head_keys", 24, head / 2),
            ("values_L1", "head_values", 24, head / 2),
        ] {
            let sliced: Vec<f32> =
                ours.values(whole).chunks(width).flat_map(|t| t[of_head * 12..][..12].to_vec()).collect();
            let key = format!("{part}_L1H{head}");
            assert_eq!(ours.shape(&key), [2, 8, 12]);
            assert_eq!(ours.values(&key), sliced, "{key}");
        }
    }
}

#[test]
fn the_parts_of_attention_add_up() {
    let keys = "head_out_L1H*,projected_value_L1H*,pattern_L1H*,attn_raw_1,attn_out_1";
    let ours = extract("llama", &["--token-ids", IDS, "-a", keys]);
    let mut sum = vec![0f32; 2 * 8 * 48];
    for head in 0..4 {
        let out = ours.values(&format!("head_out_L1H{head}"));
        let projected = ours.values(&format!("projected_value_L1H{head}"));
        let pattern = ours.values(&format!("pattern_L1H{head}"));
        let mut mixed = vec![0f32; out.len()];
        for (at, weight) in pattern.iter().enumerate() {
            let (row, query, key) = (at / 64, at / 8 % 8, at % 8);
            assert!(key <= query || *weight == 0.0, "above the diagonal");
            for d in 0..48 {
                mixed[(row * 8 + query) * 48 + d] += weight * projected[(row * 8 + key) * 48 + d];
            }
        }
        // Two orders of the same sums.
        assert_close(&format!("head {head}"), &mixed, &out, 2e-5);
        sum.iter_mut().zip(&out).for_each(|(s, x)| *s += x);
    }
    assert_close("sum of heads", &sum, &ours.values("attn_raw_1"), 2e-5);
    assert_eq!(ours.values("attn_raw_1"), ours.values("attn_out_1"), "llama has no norm behind attention");
}

#[test]
fn other_names_of_a_point_are_read() {
    let theirs = extract("llama", &["--token-ids", IDS, "-a", "blocks.1.hook_resid_post"]);
    let ours = extract("llama", &["--token-ids", IDS, "-a", "resid_out_1"]);
    assert_eq!(theirs.values("resid_out_1"), ours.values("resid_out_1"));
}

#[test]
fn a_mask_of_ones_changes_nothing() {
    let mask = "[[1,1,1,1,1,1,1,1],[1,1,1,1,1,1,1,1]]";
    let masked = extract("llama", &["--token-ids", IDS, "--attention-mask", mask, "-a", "logits"]);
    let plain = extract("llama", &["--token-ids", IDS, "-a", "logits"]);
    assert_eq!(masked.shape("logits"), [2, 8, 320]);
    assert_eq!(masked.values("logits"), plain.values("logits"));
}

#[test]
fn groups_are_cut_at_the_pivots() {
    let positions = ["--positions", "inputs-partition-0", "--positions", "inputs-partition-2"];
    let pivots = ["--pivot", "3", "--pivot", "-2"];
    let args = [&["--token-ids", IDS, "-a", "input_ids"], &positions[..], &pivots[..]].concat();
    let ours = extract("llama", &args);
    assert_eq!(ours.values("input_ids"), [5.0, 6.0, 7.0, 11.0, 12.0, 21.0, 22.0, 23.0, 27.0, 28.0]);
}

#[test]
fn the_metadata_says_what_was_run() {
    let ours = extract("gpt2", &["the cat", "-a", "input_ids", "--positions", "last-2,first"]);
    let metadata = ours.file.metadata();
    let expected = [
        ("schema", "easyroutine.extract/1"),
        ("model", "gpt2"),
        ("model_type", "gpt2"),
        ("commit", ""),
        ("dtype", "f32"),
        ("mapping_index", r#"{"last-2":[0],"first":[1]}"#),
        ("token_dict", r#"{"last-2":[[1]],"first":[[0]]}"#),
    ];
    for (key, value) in expected {
        assert_eq!(metadata[key], value, "{key}");
    }
    assert!(metadata["model_digest"].contains(':'), "{}", metadata["model_digest"]);
    assert_eq!(metadata.len(), expected.len() + 1);
}

#[test]
fn rows_of_different_length_are_flat_in_every_key() {
    let ids = "[[5,6,7,8],[9,10]]";
    let ours = extract("llama", &["--token-ids", ids, "-a", "input_ids,logits,pattern_L2H3,last_layernorm"]);
    assert_eq!(ours.values("input_ids"), [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
    for key in ["input_ids", "logits", "last_layernorm.mean"] {
        assert_eq!(ours.values(&format!("{key}.offsets")), [0.0, 4.0, 6.0], "{key}");
    }
    assert_eq!(ours.shape("pattern_L2H3"), [20]);
    assert_eq!(ours.values("pattern_L2H3.offsets"), [0.0, 16.0, 20.0]);
    let alone = extract("llama", &["--token-ids", "[[9,10]]", "-a", "pattern_L2H3"]);
    assert_eq!(ours.values("pattern_L2H3")[16..], alone.values("pattern_L2H3"));
}

#[test]
fn random_positions_are_drawn_without_replacement_and_not_from_special_tokens() {
    for seed in 0..10 {
        let ids = "[[1,5,6,7,8,2]]";
        let seed = seed.to_string();
        let args = ["--token-ids", ids, "-a", "input_ids", "--positions", "random-text-4", "--seed", &seed];
        let mut drawn = extract("llama", &args).values("input_ids");
        drawn.sort_by(f32::total_cmp);
        assert_eq!(drawn, [5.0, 6.0, 7.0, 8.0], "seed {seed}");
    }
}
