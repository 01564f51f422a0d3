//! Wrong interventions fail before the run, and the error names what is wrong.

use easyroutine::Model;
use easyroutine::edit::{Intervention, Operation};

use super::{edits, tensor, with, written};
use crate::common::tiny;

fn rows() -> Vec<Vec<u32>> {
    vec![(1..10).collect(), (1..6).collect()]
}

#[track_caller]
fn refused(model: &Model, intervention: Intervention, parts: &[&str]) {
    let error = match edits(model, &rows(), std::slice::from_ref(&intervention)) {
        Ok(_) => panic!("{intervention} was taken"),
        Err(e) => format!("{e} | {}", e.hint_text().unwrap_or_default()),
    };
    for part in parts {
        assert!(error.contains(part), "{intervention}: {error} does not say `{part}`");
    }
}

#[test]
fn what_the_model_or_the_rows_do_not_have_is_named() {
    let model = tiny("llama");
    for (spec, parts) in [
        ("resid_out_99@last=0", &["resid_out_99", "layers"][..]),
        ("head_out_L1H99@last=0", &["head_out_L1H99", "heads"]),
        ("resid_out_1@7=0", &["row 1", "`7`", "5 tokens"]),
        ("resid_out_1@-9=0", &["row 1", "`-9`", "5 tokens"]),
        ("resid_out_1@special=0", &["no token is selected by special"]),
        ("logits@last=0", &["`logits` can be read, not changed", "resid_out"]),
        ("input_ids@last=0", &["can be read, not changed"]),
        ("projected_value_L1H1@last=0", &["can be read, not changed"]),
        ("pattern_L1H1@last=0", &["columns, rows or a grid"]),
        ("resid_out_1@columns:3=0", &["`columns` speaks of attention patterns"]),
        ("pattern_L1H1@columns:3=-inf", &["before the softmax", "pre:"]),
        ("resid_out_1@3=-inf", &["before the softmax"]),
        ("scores_L1H1@columns:3=0", &["before the softmax"]),
        ("pattern_L1H1@grid:2x4=0", &["changes nothing", "earlier"]),
        ("pattern_L1H1@keep-self:2*0.5", &["takes away the other keys"]),
        ("resid_out_1@0=row:2", &["no row 2", "2 rows, 0 to 1"]),
        ("resid_out_1@all=row:1", &["row 0 has 9 tokens and row 1 has 5"]),
    ] {
        refused(&model, written(spec).unwrap(), parts);
    }
    refused(&tiny("gpt_neox"), written("resid_mid_1@0=0").unwrap(), &["resid_mid_1", "parallel"]);
    refused(&tiny("mixtral"), written("mlp_hidden_1@0=0").unwrap(), &["mlp_hidden_1", "experts"]);
}

#[test]
fn values_that_do_not_fit_are_named_with_both_shapes() {
    let model = tiny("llama");
    let d_model = model.arch().d_model;
    let replace = |shape: &[usize]| {
        let size = shape.iter().product();
        Operation::Replace(tensor(shape, std::iter::repeat_n(1.0, size)))
    };
    let short = d_model - 1;
    let parts = [format!("[{short}]"), format!("[2, 1, {d_model}]")];
    refused(&model, with("resid_out_1@last=0", replace(&[short])), &[&parts[0], &parts[1], "values"]);
    refused(&model, with("resid_out_1@0:3=0", replace(&[2, d_model])), &["[2, 3, "]);
    refused(&model, with("head_values_L1H0@last=0", replace(&[d_model])), &["row 0"]);
    refused(&model, with("pattern_L1H1@grid:4x0:2=0", replace(&[3])), &["[3]", "[2, 1, 2]", "queries, keys"]);
    refused(&model, with("resid_out_1@last=0", Operation::Mean(tensor(&[0, 4], []))), &["has no mean"]);
    refused(&model, with("resid_out_1@last=0", Operation::Scale(f32::NAN)), &["not a factor"]);
    refused(&model, with("resid_out_1@last=0", Operation::Set(f32::INFINITY)), &["not a value"]);
}

#[test]
fn what_is_only_odd_is_a_warning() {
    let model = tiny("mistral");
    let d_model = model.arch().d_model;
    let nan = tensor(&[d_model], std::iter::repeat_n(f32::NAN, d_model));
    let warned = |intervention: Intervention| {
        edits(&model, &rows()[..1], &[intervention]).unwrap().warnings().join(" ")
    };
    assert!(warned(with("resid_out_1@last=0", Operation::Replace(nan))).contains("NaN"));
    assert!(warned(written("pattern_L1H1@grid:8x0=0").unwrap()).contains("beyond the window"));
    assert_eq!(warned(written("pattern_L1H1@grid:8x7=0").unwrap()), "");
}

#[test]
fn a_file_or_tensor_that_is_not_there_is_an_error() {
    let message = written("resid_out_1@last=nowhere.safetensors::v").unwrap_err().to_string();
    assert!(message.contains("nowhere.safetensors"), "{message}");
    let file = crate::common::fixtures().join("tiny/llama/reference.safetensors");
    let spec = |tensor| format!("resid_out_1@last=\"{}::{tensor}\"", file.display());
    let error = written(&spec("full.resid")).unwrap_err();
    assert!(error.to_string().contains("no tensor `full.resid`") && error.hint_text().is_some(), "{error}");
    assert!(written(&spec("full.input_ids")).unwrap_err().to_string().contains("floating-point"));
    assert!(written(&spec("full.resid_in_0")).is_ok());
}
