//! `extract` against the reference tensors, and the layout of its output.

use crate::common;

use common::{fails, fixtures, succeeds, tiny};
use easyroutine_files::{Encoding, ShardedSafeTensors};

/// Shape and values of a stored tensor.
fn read(file: &ShardedSafeTensors, name: &str) -> (Vec<usize>, Vec<f32>) {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let values = match tensor.encoding() {
        Encoding::I64 => {
            tensor.bytes().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32).collect()
        }
        _ => tensor.read_all().unwrap(),
    };
    (tensor.shape().to_vec(), values)
}

fn reference(case: &str) -> ShardedSafeTensors {
    ShardedSafeTensors::open(fixtures().join("tiny").join(case).join("reference.safetensors")).unwrap()
}

fn as_json((shape, values): (Vec<usize>, Vec<f32>)) -> String {
    let rows: Vec<Vec<u32>> =
        values.chunks(shape[1]).map(|r| r.iter().map(|x| *x as u32).collect()).collect();
    format!("{rows:?}")
}

struct Extracted {
    file: ShardedSafeTensors,
    _folder: tempfile::TempDir,
}

fn extract(case: &str, arguments: &[&str]) -> Extracted {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("out.safetensors");
    let model = tiny(case);
    succeeds(&[&["extract", "-m", &model, "-o", target.to_str().unwrap()], arguments].concat());
    Extracted { file: ShardedSafeTensors::open(target).unwrap(), _folder: folder }
}

#[track_caller]
fn assert_close(name: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let largest = theirs.iter().fold(0f32, |m, x| m.max(x.abs()));
    let error = ours.iter().zip(theirs).fold(0f32, |m, (a, b)| m.max((a - b).abs())) / largest;
    // The tolerance stated by the references for f32 with blocked sums.
    assert!(error < 1e-5, "{name} differs by {error:.1e}");
}

#[test]
fn every_key_is_the_reference_tensor() {
    for case in ["llama", "gpt2", "gemma3_text", "mixtral"] {
        let reference = reference(case);
        let ids = as_json(read(&reference, "full.input_ids"));
        let keys = "resid_*,attn_*,x".replace(",x", "");
        assert!(
            fails(
                2,
                &["extract", "--token-ids", &ids, "-m", &tiny(case), "-a", &keys, "-o", "x.safetensors"]
            )
            .contains("no activation")
        );
        let all = "input_ids,resid_in_*,attn_in_*,queries_*,keys_*,values_*,attn_out_*,resid_mid_*,mlp_in_*,mlp_out_*,resid_out_*,pattern_*,logits";
        let ours = extract(case, &["--token-ids", &ids, "-a", all]);
        assert_eq!(read(&ours.file, "input_ids"), read(&reference, "full.input_ids"));
        assert_eq!(ours.file.tensor("input_ids").unwrap().encoding(), Encoding::I64);
        for layer in 0..3 {
            for (theirs, key) in [
                ("resid_in", format!("resid_in_{layer}")),
                ("attn_in", format!("attn_in_{layer}")),
                ("queries", format!("queries_L{layer}")),
                ("keys", format!("keys_L{layer}")),
                ("values", format!("values_L{layer}")),
                ("attn_out", format!("attn_out_{layer}")),
                ("resid_mid", format!("resid_mid_{layer}")),
                ("mlp_in", format!("mlp_in_{layer}")),
                ("mlp_out", format!("mlp_out_{layer}")),
                ("resid_out", format!("resid_out_{layer}")),
            ] {
                let ((shape, values), (their_shape, expected)) =
                    (read(&ours.file, &key), read(&reference, &format!("full.{theirs}_{layer}")));
                assert_eq!(shape, their_shape, "{case}: {key}");
                assert_close(&format!("{case}: {key}"), &values, &expected);
            }
            let (shape, patterns) = read(&reference, &format!("full.pattern_{layer}"));
            let (heads, square) = (shape[1], shape[2] * shape[3]);
            for head in 0..heads {
                let (shape, values) = read(&ours.file, &format!("pattern_L{layer}H{head}"));
                assert_eq!(shape, [2, 16, 16]);
                let expected: Vec<f32> = (0..2)
                    .flat_map(|row| patterns[(row * heads + head) * square..][..square].to_vec())
                    .collect();
                assert_close(&format!("{case}: pattern {layer} {head}"), &values, &expected);
            }
        }
        assert_close("logits", &read(&ours.file, "logits").1, &read(&reference, "full.logits").1);
    }
}

#[test]
fn padding_on_either_side_is_cut_off() {
    for case in ["llama", "opt", "bloom"] {
        let reference = reference(case);
        for side in ["left", "right"] {
            let ids = as_json(read(&reference, &format!("{side}.input_ids")));
            let mask = as_json(read(&reference, &format!("{side}.attention_mask")));
            let ours = extract(
                case,
                &["--token-ids", &ids, "--attention-mask", &mask, "-a", "logits,pattern_L0H1,resid_out_0"],
            );
            let offsets = read(&ours.file, "logits.offsets").1;
            assert_eq!(offsets, [0.0, 11.0, 16.0]);
            let (shape, logits) = read(&ours.file, "logits");
            assert_eq!(shape[0], 16);
            for (row, offset) in offsets[..2].iter().enumerate() {
                let alone = read(&reference, &format!("{side}.row{row}_alone_logits")).1;
                let from = *offset as usize * shape[1];
                assert_close(&format!("{case} {side} {row}"), &logits[from..from + alone.len()], &alone);
            }
            let (shape, _) = read(&ours.file, "pattern_L0H1");
            assert_eq!(shape, [11 * 11 + 5 * 5]);
            assert_eq!(read(&ours.file, "pattern_L0H1.offsets").1, [0.0, 121.0, 146.0]);
            assert_eq!(read(&ours.file, "resid_out_0").0, [16, 48]);
        }
    }
}

#[test]
fn positions_and_groups_are_written_beside_the_values() {
    let ids = "[[5,6,7,8,9,10],[11,12,13,14,15,16]]";
    let ours = extract(
        "llama",
        &[
            "--token-ids",
            ids,
            "-a",
            "resid_out_1,last_layernorm,head_out_L0H*,projected_value_L1H0",
            "--positions",
            "4:6",
            "--positions",
            "last,0",
        ],
    );
    assert_eq!(read(&ours.file, "resid_out_1").0, [2, 4, 48]);
    assert_eq!(read(&ours.file, "last_layernorm.variance").0, [2, 4]);
    assert_eq!(read(&ours.file, "projected_value_L1H0").0, [2, 4, 48]);
    let metadata = ours.file.metadata();
    assert_eq!(metadata["mapping_index"], r#"{"[4,6]":[0,1],"last":[2],"0":[3]}"#);
    assert_eq!(metadata["token_dict"], r#"{"[4,6]":[[4,5],[4,5]],"last":[[5],[5]],"0":[[0],[0]]}"#);
    let info = common::json(&["model", "info", &tiny("llama"), "--format", "json"]);
    assert_eq!(info["model_digest"], metadata["model_digest"].as_str());
    let (_, all) = read(&extract("llama", &["--token-ids", ids, "-a", "resid_out_1"]).file, "resid_out_1");
    let (_, some) = read(&ours.file, "resid_out_1");
    assert_eq!(some[2 * 48..3 * 48], all[5 * 48..6 * 48], "the last token of the first row");
}

#[test]
fn prompts_come_from_the_lines_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("prompts.txt");
    std::fs::write(&prompts, "the cat sat\n\nthe dog\n").unwrap();
    let ours =
        extract("llama", &["--file", prompts.to_str().unwrap(), "-a", "resid_out_0", "--positions", "last"]);
    assert_eq!(read(&ours.file, "resid_out_0").0, [2, 1, 48]);
    let one = extract("llama", &["the dog", "-a", "resid_out_0", "--positions", "last"]);
    let (_, both) = read(&ours.file, "resid_out_0");
    assert_eq!(both[48..], read(&one.file, "resid_out_0").1, "a row alone = the row in a batch, to the bit");
    let covered = extract("llama", &["the cat sat", "-a", "resid_out_0", "--positions", "text:cat"]);
    assert!(read(&covered.file, "resid_out_0").0[1] >= 1);
}

#[test]
fn draws_follow_the_seed() {
    let drawn = |seed: u32| {
        let seed = seed.to_string();
        let ids = "[[5,6,7,8,9,10,11,12]]";
        let args = ["--token-ids", ids, "-a", "input_ids", "--positions", "random-text-3", "--seed", &seed];
        read(&extract("llama", &args).file, "input_ids").1
    };
    assert_eq!(drawn(1), drawn(1));
    assert!((0..20).any(|seed| drawn(seed) != drawn(1)));
}

#[test]
fn a_plan_counts_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Vec<u32>> = (0..300).map(|row| vec![1 + row % 7; 2 + (row % 3) as usize]).collect();
    let rows = format!("{rows:?}");
    let model = tiny("llama");
    let plan = |target: &std::path::Path, more: &[&str]| -> serde_json::Value {
        let fixed = ["extract", "--plan", "--token-ids", &rows, "-m", &model, "-a", "resid_out_*"];
        let target = ["--positions", "last", "--format", "json", "-o", target.to_str().unwrap()];
        serde_json::from_str(&succeeds(&[&fixed[..], &target, more].concat())).unwrap()
    };
    let store = folder.path().join("runs/");
    let found = plan(&store, &[]);
    // Three layers of 48 numbers of four bytes for the last token of each row.
    let bytes = 300 * 3 * 48 * 4;
    for (key, value) in
        [("rows", 300), ("tokens", 900), ("bytes", bytes), ("rows_per_unit", 256), ("units", 2)]
    {
        assert_eq!(found[key], value, "{key} of {found}");
    }
    assert_eq!(found["schema"], "easyroutine.extraction_plan/1");
    assert!(found["seconds"].as_f64().unwrap() > 0.0 && found["tokens_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(plan(&store, &["--unit", "7"])["units"], 43);
    let file = plan(&folder.path().join("x.safetensors"), &[]);
    assert_eq!((&file["bytes"], &file["units"]), (&bytes.into(), &serde_json::Value::Null));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_plan_of_changes_that_name_rows_says_what_the_extraction_would() {
    let folder = tempfile::tempdir().unwrap();
    // More tokens than the plan runs, so row 299 is not among those.
    let rows = format!("{:?}", vec![vec![1; 10]; 300]);
    let model = tiny("llama");
    let change = ["--intervene", "resid_out_1@last=row:299", "--format", "json"];
    let fixed = ["extract", "--plan", "--token-ids", &rows, "-m", &model, "-a", "resid_out_2"];
    let file = folder.path().join("x.safetensors");
    let plan = [&fixed[..], &change, &["-o", file.to_str().unwrap()]].concat();
    let found: serde_json::Value = serde_json::from_str(&succeeds(&plan)).unwrap();
    assert_eq!(found["tokens"], 3000);
    let folder = format!("{}/", folder.path().join("runs").display());
    let store = [&fixed[..], &change, &["-o", &folder]].concat();
    assert!(fails(2, &store).contains("are for files"));
}

#[test]
fn memory_that_does_not_hold_the_weights_changes_no_bit() {
    let (model, folder) = (tiny("llama"), tempfile::tempdir().unwrap());
    let info = common::json(&["model", "info", &model, "--format", "json"]);
    let memory = (info["weights_f32_bytes"].as_u64().unwrap() - 1).to_string();
    let rows = format!("{:?}", (1..40).map(|n| vec![n; 1 + n % 9]).collect::<Vec<_>>());
    let fixed = ["extract", "--token-ids", &rows, "-m", &model, "-a", "resid_out_1,pattern_L0H0"];
    let run = |target: &str, more: &[&str]| {
        let target = folder.path().join(target).display().to_string();
        let output = common::easyroutine(&[&fixed[..], more, &["-o", &target]].concat()).assert().success();
        (target, String::from_utf8(output.get_output().stderr.clone()).unwrap())
    };
    let (whole, _) = run("whole.safetensors", &[]);
    let (bounded, said) = run("bounded.safetensors", &["--memory", &memory]);
    assert_eq!(std::fs::read(whole).unwrap(), std::fs::read(bounded).unwrap());
    assert!(said.contains("warning: the weights need") && said.contains("layer by layer"), "{said}");
    // In a store too, in units that end where they always do.
    let (base, _) = run("runs/", &["--run", "whole", "--unit", "7"]);
    run("runs/", &["--run", "bounded", "--unit", "7", "--memory", &memory]);
    let load = |run: &str| succeeds(&["runs", "-b", &base, "load", run, "resid_out_1", "--format", "tsv"]);
    assert_eq!(load("whole"), load("bounded"));
    let lens =
        |more: &[&str]| succeeds(&[&["lens", "the cat", "-m", &model, "--format", "json"], more].concat());
    assert_eq!(lens(&[]), lens(&["--memory", &memory]));
    let many = [
        "extract",
        "--token-ids",
        &rows,
        "-m",
        &model,
        "-a",
        "resid_in_*,resid_out_*,attn_out_*,mlp_out_*,logits",
    ];
    let said = fails(5, &[&many[..], &["--memory", &memory, "-o", "x.safetensors"]].concat());
    assert!(said.contains("too many for --memory") && said.contains("write into a store"), "{said}");
    // Nothing of what waited is left.
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn memory_is_a_number_of_bytes_that_holds_a_layer() {
    let model = tiny("llama");
    let refused = |code, memory: &str| fails(code, &["run", "the cat", "-m", &model, "--memory", memory]);
    for wrong in ["3X", "0", "much"] {
        assert!(refused(2, wrong).contains("number of bytes"), "{wrong}");
    }
    let said = refused(5, "1kB");
    assert!(said.contains("too little for the model's layers one by one: layer 0 needs"), "{said}");
}

#[test]
fn info_says_which_tensors_stay_as_they_are_stored() {
    for case in ["llama", "gpt2", "gpt_oss"] {
        let info = common::json(&["model", "info", &tiny(case), "--format", "json"]);
        let tensors = info["tensors"].as_array().unwrap();
        let count = |key: &str| -> u64 {
            info[key].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
        };
        assert_eq!(count("kept_as_stored") + count("widened_to_f32"), tensors.len() as u64, "{case}");
        assert_eq!(count("encodings"), tensors.len() as u64, "{case}");
    }
}
