//! Bad input: one line that names the culprit, a hint, an exit status.

use crate::common;

use common::{copy, easyroutine, fails, path, succeeds, tiny, with_config, with_tensors};
use serde_json::json;

/// Runs a model that cannot be loaded, and checks its message for `parts`.
#[track_caller]
fn refuses(folder: &tempfile::TempDir, code: i32, parts: &[&str]) {
    let message = fails(code, &["run", "the cat", "-m", path(folder)]);
    assert!(message.starts_with("error: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

#[test]
fn weights_that_are_wrong_are_refused_by_name() {
    refuses(
        &with_tensors("llama", |t| t.retain(|t| t.0 != "model.norm.weight")),
        1,
        &["`model.norm.weight`"],
    );
    let surplus = with_tensors("llama", |t| {
        let mut extra = t[0].clone();
        extra.0 = "model.layers.0.surprise.weight".to_owned();
        t.push(extra);
    });
    refuses(&surplus, 1, &["`model.layers.0.surprise.weight`", "no place"]);
    let shape = with_tensors("llama", |t| {
        let norm = t.iter_mut().find(|t| t.0 == "model.norm.weight").unwrap();
        norm.2 = vec![24];
        norm.3.truncate(96);
    });
    refuses(&shape, 1, &["`model.norm.weight`", "[24]", "[48]"]);
    let integers = with_tensors("llama", |t| {
        let norm = t.iter_mut().find(|t| t.0 == "model.norm.weight").unwrap();
        norm.1 = safetensors::Dtype::I32;
    });
    refuses(&integers, 1, &["`model.norm.weight`", "not floating point"]);
}

#[test]
fn damaged_files_are_refused() {
    let folder = copy("llama");
    let file = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for length in [0, 7, 8, 100, bytes.len() - 1] {
        std::fs::write(&file, &bytes[..length]).unwrap();
        refuses(&folder, 1, &["model.safetensors"]);
    }
    let mut bomb = (1u64 << 60).to_le_bytes().to_vec();
    bomb.extend(b"{}");
    std::fs::write(&file, bomb).unwrap();
    refuses(&folder, 1, &["model.safetensors"]);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), b"\x80\x02}q\x00.").unwrap();
    let message = fails(4, &["run", "the cat", "-m", path(&folder)]);
    assert!(message.contains("pickle") && message.contains("safetensors"), "{message}");
    let gguf = folder.path().join("x.gguf");
    for bytes in [
        &b"GGUF"[..],
        b"GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"no",
    ] {
        std::fs::write(&gguf, bytes).unwrap();
        let message = fails(1, &["run", "the cat", "-m", gguf.to_str().unwrap()]);
        assert!(message.contains("x.gguf"), "{message}");
    }
}

#[test]
fn configs_that_are_not_understood_are_refused_by_key() {
    let changed = |key: &'static str, value: serde_json::Value| {
        with_config("llama", move |c| {
            c.insert(key.to_owned(), value);
        })
    };
    refuses(&changed("model_type", json!("llamas")), 4, &["llamas", "hint:"]);
    refuses(&changed("rope_parameters", json!({"rope_type": "spiral", "rope_theta": 1e4})), 4, &["spiral"]);
    refuses(&changed("quantization_config", json!({"quant_method": "gptq"})), 4, &["gptq"]);
    refuses(&changed("quantization_config", json!({"quant_method": "bitsandbytes"})), 4, &["bitsandbytes"]);
    refuses(&changed("num_attention_heads", json!(5)), 1, &["num_key_value_heads", "5 query heads"]);
    refuses(&changed("hidden_size", json!("many")), 1, &["hidden_size"]);
    let unknown = changed("secret_sauce", json!(3));
    refuses(&unknown, 4, &["`secret_sauce`", "--allow-config-key secret_sauce"]);
    let mut allowed =
        easyroutine(&["run", "the cat", "-m", path(&unknown), "--allow-config-key", "secret_sauce"]);
    let assert = allowed.assert().success();
    let warning = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
    assert!(warning.contains("warning:") && warning.contains("secret_sauce"), "{warning}");
}

#[test]
fn rows_that_make_no_sense_are_refused() {
    let model = tiny("llama");
    let extract = |arguments: &[&str], parts: &[&str]| {
        let message = fails(
            2,
            &[&["extract", "-m", &model, "-a", "logits", "-o", "never.safetensors"], arguments].concat(),
        );
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in: {message}");
        }
        assert!(!std::path::Path::new("never.safetensors").exists());
    };
    extract(&["--token-ids", "[[1,320]]"], &["320", "beyond the vocabulary of 320"]);
    extract(&["--token-ids", "[[]]"], &["row 0 is empty"]);
    extract(&["--token-ids", "[]"], &["no prompt"]);
    extract(&["--token-ids", "[[1,-2]]"], &["--token-ids", "row 0"]);
    extract(&["--token-ids", "nonsense"], &["--token-ids", "not JSON"]);
    extract(&["--token-ids", "[[1,2,3]]", "--attention-mask", "[[1,0,1]]"], &["hole at 1"]);
    extract(&["--token-ids", "[[1,2]]", "--attention-mask", "[[0,0]]"], &["row 0 is empty"]);
    extract(&["--token-ids", "[[1,2]]", "--attention-mask", "[[1]]"], &["2 token ids but 1"]);
    extract(&["--token-ids", "[[1,2]]", "--positions", "7"], &["row 0", "`7`", "2 tokens"]);
    extract(&["--token-ids", "[[1,2]]", "--positions", "lasst"], &["`lasst`", "hint:"]);
    extract(&["", "--positions", "last"], &["empty"]);
    let long = format!("{:?}", [vec![3; 65]]);
    extract(&["--token-ids", &long], &["65 tokens", "64"]);
}

#[test]
fn a_prompt_beyond_the_context_is_refused_unless_it_may_be_cut() {
    let long = "the cat sat on the mat ".repeat(40);
    let message = fails(2, &["run", &long, "-m", &tiny("llama")]);
    assert!(message.contains("64 at most") && message.contains("--truncate"), "{message}");
    succeeds(&["run", &long, "-m", &tiny("llama"), "--truncate"]);
}

#[test]
fn a_negative_number_is_a_wrong_value_and_no_flag() {
    let model = tiny("gpt2");
    for (args, words) in [
        (
            &["model", "check", &*model, "--compare", "x", "--tolerance", "-1"][..],
            "a difference is a number from 0 on",
        ),
        (&["lens", "the cat", "-m", &model, "-k", "-1"], "-1 is not in"),
        (&["dict", "active", "the cat", "-m", &model, "-k", "-2"], "-2 is not in"),
    ] {
        let said = fails(2, args);
        assert!(said.contains(words) && !said.contains("unexpected argument"), "{said}");
    }
}

#[test]
fn names_that_do_not_exist_name_the_nearest() {
    let model = tiny("gpt_neox");
    let extract =
        |name: &str| fails(2, &["extract", "the cat", "-m", &model, "-a", name, "-o", "never.safetensors"]);
    assert!(extract("resid_outt_1").contains("did you mean `resid_out_1`?"));
    assert!(extract("resid_out_3").contains("3 layers, 0 to 2"));
    assert!(extract("pattern_L0H4").contains("4 heads, 0 to 3"));
    assert!(extract("resid_mid_0").contains("parallel"));
    assert!(fails(2, &["lens", "the cat", "-m", &model, "--component", "sauce"]).contains("hint:"));
    assert!(fails(2, &["lens", "the cat", "-m", &model, "--layers", "9"]).contains("--layers"));
    assert!(fails(2, &["lens", "the cat", "-m", &model, "--formatt", "json"]).contains("--format"));
    assert!(fails(2, &["lens", "the cat", "-m", &model, "-o", "a.docx"]).contains("hint:"));
    assert!(
        fails(1, &["run", "the cat", "-m", &model, "-o", "/nonexistent/a.json"]).contains("/nonexistent")
    );
}

#[test]
fn a_model_that_is_not_there_is_status_three() {
    assert!(fails(3, &["run", "the cat", "-m", "./nowhere"]).contains("nowhere"));
    assert!(fails(3, &["run", "the cat", "-m", "some/model", "--offline"]).contains("some/model"));
}

#[test]
fn a_nan_among_the_weights_is_found_by_the_check() {
    let folder = with_tensors("llama", |tensors| {
        let up = tensors.iter_mut().find(|t| t.0 == "model.layers.1.mlp.up_proj.weight").unwrap();
        up.3[40..44].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let output = easyroutine(&["model", "check", path(&folder)]).assert().code(1);
    let table = String::from_utf8(output.get_output().stdout.clone()).unwrap();
    assert!(
        table.contains("BROKEN") && table.contains("model.layers.1.mlp.up_proj.weight, first at 10"),
        "{table}"
    );
    let picture = succeeds(&["lens", "the cat", "-m", path(&folder), "--format", "json"]);
    assert!(serde_json::from_str::<serde_json::Value>(&picture).is_ok());
}

#[test]
fn control_characters_never_reach_a_terminal_raw() {
    let prompt = "a\u{1b}[31mb\u{202e}c\u{7}\u{200b}d";
    for command in ["lens", "run", "tokens"] {
        for format in ["table", "tsv"] {
            let text =
                succeeds(&[command, prompt, "-m", &tiny("llama"), "--format", format, "--color", "never"]);
            let raw = text
                .chars()
                .find(|c| (c.is_control() && !"\n\t".contains(*c)) || "\u{202e}\u{200b}".contains(*c));
            assert_eq!(raw, None, "{command} {format}");
        }
    }
}

#[test]
fn numbers_that_are_none_are_not_passed_over() {
    let folder = with_tensors("llama", |tensors| {
        // The first norm: everything after it becomes NaN.
        let first = "model.layers.0.input_layernorm.weight";
        let norm = tensors.iter_mut().find(|(name, ..)| name == first).unwrap();
        norm.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let out = tempfile::tempdir().unwrap();
    let (file, store) = (out.path().join("a.safetensors"), out.path().join("runs"));
    std::fs::create_dir(&store).unwrap();
    let one = ["--positions", "last", "-a", "resid_out_*"];
    let commands: [&[&str]; 5] = [
        &["run"],
        &["lens"],
        &["attn"],
        &["extract", "-o", file.to_str().unwrap()],
        &["extract", "--unit", "1", "-o", store.to_str().unwrap()],
    ];
    for command in commands {
        let of_extract = if command[0] == "extract" { &one[..] } else { &[] };
        let prompt = ["the cat", "-m", path(&folder)];
        let assert =
            easyroutine(&[&command[..1], &prompt, &command[1..], of_extract].concat()).assert().success();
        let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
        assert!(said.contains("warning: ") && said.contains("model check"), "{command:?}: {said}");
        assert_eq!(said.matches("warning: ").count(), 1, "{command:?}: {said}");
    }
}

#[test]
fn a_law_that_speaks_of_nothing_in_a_model_is_not_said_to_hold() {
    let laws = common::json(&["model", "check", &tiny("gpt_neox"), "--format", "json"])["laws"].clone();
    let law = laws.as_array().unwrap().iter().find(|law| law["law"].as_str().unwrap().contains("resid_mid"));
    assert!(law.unwrap()["holds"].is_null() && law.unwrap()["deviation"].is_null(), "{law:?}");
    let others = laws.as_array().unwrap().iter().filter(|law| law["holds"] == true).count();
    assert!(others > 8, "{laws}");
}
