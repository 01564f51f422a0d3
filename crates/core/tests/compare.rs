//! Compares other programs' activations with ours: names, axes, padding, and the report on differences.

use std::path::PathBuf;

use easyroutine::compare::{Comparison, Verdict, Wrong, compare, compare_exact};
use easyroutine::families::Reading;
use easyroutine::load::{LoadOptions, open};
use easyroutine::{Error, Model, Stop};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use tempfile::TempDir;

use crate::common::{Reference, fixtures, folder, references, tiny};

/// A file of tensors.
struct File {
    folder: TempDir,
    tensors: Vec<(String, Vec<usize>, Dtype, Vec<u8>)>,
}

impl File {
    fn new() -> Self {
        File { folder: tempfile::tempdir().unwrap(), tensors: Vec::new() }
    }

    fn floats(mut self, name: &str, reference: &Reference, change: impl Fn(usize, f32) -> f32) -> Self {
        let values = reference.values.iter().enumerate().flat_map(|(i, x)| change(i, *x).to_le_bytes());
        self.tensors.push((name.to_owned(), reference.shape.clone(), Dtype::F32, values.collect()));
        self
    }

    fn whole(mut self, name: &str, reference: &Reference) -> Self {
        let values = reference.values.iter().flat_map(|x| (*x as i64).to_le_bytes());
        self.tensors.push((name.to_owned(), reference.shape.clone(), Dtype::I64, values.collect()));
        self
    }

    fn written(&self) -> PathBuf {
        let views = self.tensors.iter().map(|(name, shape, dtype, bytes)| {
            (name.clone(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let path = self.folder.path().join("dump.safetensors");
        safetensors::serialize_to_file(views, None, &path).unwrap();
        path
    }

    fn compared(&self, case: &str) -> Result<Comparison, Error> {
        let (model, reading) = model(case);
        compare(&model, &reading.names, &self.written(), 1e-4)
    }
}

fn model(case: &str) -> (Model, Reading) {
    let opened = open(&folder(fixtures().join("tiny").join(case)), &LoadOptions::default()).unwrap();
    (tiny(case), opened.reading)
}

fn same(_: usize, x: f32) -> f32 {
    x
}

/// The references of a case under the names of three programs.
fn dump(case: &str) -> File {
    let of = references(case);
    let of = |name: &str| of.get(&format!("full.{name}")).unwrap_or_else(|| panic!("no {name}"));
    File::new()
        .whole("input_ids", of("input_ids"))
        .floats("resid_in_0", of("resid_in_0"), same)
        .floats("blocks.1.attn.hook_pattern", of("pattern_1"), same)
        .floats("blocks.0.hook_resid_post", of("resid_out_0"), same)
        .floats("model.layers.1", of("resid_out_1"), same)
        .floats("model.layers.1.self_attn.k_proj.output", of("keys_1"), same)
        .floats("model.layers.1.mlp.down_proj", of("mlp_out_1"), same)
        .floats("lm_head", of("logits"), same)
}

#[test]
fn places_are_found_by_the_names_of_three_programs() {
    let found = dump("llama").compared("llama").unwrap();
    assert_eq!(found.first_wrong(), None, "{found:?}");
    let names: Vec<&str> = found.places.iter().map(|place| place.activation.as_str()).collect();
    let expected = [
        "resid_in_0",
        "resid_out_0",
        "keys_L1",
        "pattern_L1H0",
        "pattern_L1H1",
        "pattern_L1H2",
        "pattern_L1H3",
        "mlp_out_1",
        "resid_out_1",
        "logits",
    ];
    assert_eq!(names, expected, "in the order of the pass");
    assert!(found.passed_over.is_empty(), "{:?}", found.passed_over);
}

#[test]
fn the_first_place_that_differs_is_named_with_how_it_differs() {
    let of = references("llama");
    let of = |name: &str| &of[&format!("full.{name}")];
    let file = dump("llama");
    let twice = |file: File, name: &str, reference: &Reference, change: &dyn Fn(usize, f32) -> f32| {
        let tensors = file.tensors.into_iter().filter(|(other, ..)| other != name).collect();
        File { tensors, ..file }.floats(name, reference, change)
    };
    let file = twice(file, "lm_head", of("logits"), &|i, x| if i == 700 { x + 1.0 } else { x });
    let file = twice(file, "model.layers.1", of("resid_out_1"), &|_, x| x * 2.0);
    let found = file.compared("llama").unwrap();
    let first = found.first_wrong().unwrap();
    assert_eq!((first.activation.as_str(), first.verdict), ("resid_out_1", Verdict::Magnitude));
    assert!((first.factor - 2.0).abs() < 1e-5 && first.rest < 1e-4, "{first:?}");
    let last = found.places.last().unwrap();
    let (length, vocabulary) = (of("logits").shape[1], of("logits").shape[2]);
    let at = [700 / (length * vocabulary), 700 / vocabulary % length, 700 % vocabulary];
    assert_eq!((last.activation.as_str(), last.verdict, last.at), ("logits", Verdict::Direction, at));
}

#[test]
fn what_is_not_a_number_differs() {
    let of = references("llama");
    let file = File::new().whole("input_ids", &of["full.input_ids"]);
    let file = file.floats("resid_out_0", &of["full.resid_out_0"], |i, x| if i == 3 { f32::NAN } else { x });
    let found = file.compared("llama").unwrap();
    let place = found.first_wrong().unwrap();
    assert_eq!((place.verdict, place.at), (Verdict::Nan, [0, 0, 3]));
    assert!(place.error.is_nan() && place.factor.is_nan() && place.rest.is_nan(), "{place:?}");
    let all = File::new().whole("input_ids", &of["full.input_ids"]);
    let all = all.floats("resid_out_0", &of["full.resid_out_0"], |_, _| f32::NAN).compared("llama").unwrap();
    assert_eq!(all.first_wrong().unwrap().verdict, Verdict::Nan);
}

#[test]
fn padding_is_not_compared() {
    let of = references("llama");
    for side in ["left", "right"] {
        let mask = &of[&format!("{side}.attention_mask")];
        let (length, vocabulary) = (mask.shape[1], of[&format!("{side}.logits")].shape[2]);
        let file = File::new()
            .whole("input_ids", &of[&format!("{side}.input_ids")])
            .whole("attention_mask", mask)
            .floats("logits", &of[&format!("{side}.logits")], |i, x| {
                let (row, position) = (i / vocabulary / length, i / vocabulary % length);
                if mask.values[row * length + position] == 0.0 { 1e9 } else { x }
            });
        let found = file.compared("llama").unwrap();
        assert_eq!(found.first_wrong(), None, "{side}: {found:?}");
    }
}

#[test]
fn what_cannot_be_compared_is_said_by_name() {
    let of = references("llama");
    let ids = &of["full.input_ids"];
    let reference = &of["full.resid_out_0"];
    let file = dump("llama").floats("unknown", reference, same).floats("logits", reference, same);
    let found = file.whole("resid_out_0", ids).compared("llama").unwrap();
    let named: Vec<&str> = found.passed_over.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(named, ["resid_out_0", "unknown", "logits"]);
    let refused = |file: File, words: &str| {
        let error = file.compared("llama").unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    refused(File::new().floats("resid_out_0", reference, same), "no `input_ids`");
    refused(File::new().floats("input_ids", ids, same), "no whole numbers");
    refused(File::new().whole("input_ids", ids), "nothing of it can be compared");
    let far = Reference { shape: vec![1, 2], values: vec![5.0, 1e6] };
    refused(File::new().whole("input_ids", &far).floats("logits", reference, same), "1000000");
    let negative = Reference { shape: vec![1, 2], values: vec![5.0, -1.0] };
    refused(File::new().whole("input_ids", &negative).floats("logits", reference, same), "-1");
}

#[test]
fn every_family_agrees_with_its_references() {
    for case in crate::common::cases("tiny") {
        let references = references(&case);
        let mut file = File::new().whole("input_ids", &references["full.input_ids"]);
        for (name, reference) in &references {
            let Some(name) = name.strip_prefix("full.resid_out_") else { continue };
            file = file.floats(&format!("resid_out_{name}"), reference, same);
        }
        let found = file.compared(&case).unwrap();
        assert_eq!(found.first_wrong(), None, "{case}");
    }
}

#[test]
fn a_run_in_f64_says_who_is_wrong() {
    let of = references("llama");
    let of = |name: &str| &of[&format!("full.{name}")];
    let (model, reading) = model("llama");
    let with = |file: &File, model: &Model, exact: &Model| {
        compare_exact(model, exact, &reading.names, &file.written(), 1e-4, Stop::Never).unwrap()
    };
    // Nobody.
    let file = dump("llama");
    let found = with(&file, &model, &model);
    assert_eq!(found.first_wrong(), None, "{found:?}");
    for place in &found.places {
        let exact = place.exact.as_ref().unwrap();
        assert!(exact.ours.error < 1e-5 && exact.ours.cosine > 1.0 - 1e-9, "{place:?}");
    }
    // The file, by a factor.
    let tensors = file.tensors.into_iter().filter(|(name, ..)| name != "model.layers.1").collect();
    let file = File { tensors, ..file };
    let file = file.floats("model.layers.1", of("resid_out_1"), |_, x| x * 2.0);
    let found = with(&file, &model, &model);
    let first = found.first_wrong().unwrap();
    let exact = first.exact.as_ref().unwrap();
    assert_eq!((first.activation.as_str(), exact.wrong), ("resid_out_1", Wrong::File));
    assert!((exact.file.magnitude - 2.0).abs() < 1e-5 && exact.file.cosine > 1.0 - 1e-9, "{exact:?}");
    assert!(exact.ours.error < 1e-5, "{exact:?}");
    // We, whose model is another one than that of the file; then both.
    let other = tiny("llama_linear");
    let wrong = |file: &File| {
        let found = with(file, &other, &model);
        let of = |name: &str| found.places.iter().find(|place| place.activation == name).cloned().unwrap();
        [of("resid_out_0"), of("resid_out_1")].map(|place| place.exact.unwrap().wrong)
    };
    assert_eq!(wrong(&file), [Wrong::Ours, Wrong::Both]);
}

#[test]
fn what_is_not_a_number_is_wrong_beside_the_exact_run() {
    let of = references("llama");
    let file = File::new().whole("input_ids", &of["full.input_ids"]);
    let file = file.floats("resid_out_0", &of["full.resid_out_0"], |i, x| if i == 3 { f32::NAN } else { x });
    let (model, reading) = model("llama");
    let found = compare_exact(&model, &model, &reading.names, &file.written(), 1e-4, Stop::Never).unwrap();
    let exact = found.first_wrong().unwrap().exact.clone().unwrap();
    assert_eq!((exact.wrong, exact.file.error, exact.file.at), (Wrong::File, f64::INFINITY, [0, 0, 3]));
}
