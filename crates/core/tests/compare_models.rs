//! Two checkpoints of one architecture: where they part, and which tensors cause it.

use std::fs::OpenOptions;
use std::path::Path;

use easyroutine::ErrorKind;
use easyroutine::compare::models::{Differences, Direction, Options, Pair, Side, Summary, sample};
use easyroutine::extract::Example;
use easyroutine::load::{LoadOptions, Opened, open};
use safetensors::tensor::Dtype;

use crate::common::draft::Draft;
use crate::common::{assert_same_bits, cases, extract, fixtures, folder, unembedding_of};

fn opened(path: impl AsRef<Path>) -> Opened {
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    open(&folder(path.as_ref()), &options).unwrap()
}

fn pair(a: impl AsRef<Path>, b: impl AsRef<Path>) -> easyroutine::Result<Pair> {
    let options = LoadOptions { threads: Some(2), ..LoadOptions::default() };
    Pair::new(opened(a), opened(b), [&options, &options])
}

fn tiny(case: &str) -> std::path::PathBuf {
    fixtures().join("tiny").join(case)
}

fn examples(pair: &Pair) -> Vec<Example> {
    let vocabulary = pair.model(Side::A).arch().vocabulary;
    let id = |number: usize, i: usize| ((number * 31 + i * 17) % vocabulary) as u32;
    let ids = |number: usize| (0..3 + number * 7 % 5).map(|i| id(number, i)).collect();
    (0..5).map(|number| Example { number, ids: ids(number), ..Example::default() }).collect()
}

fn rows(pair: &Pair) -> Vec<Vec<u32>> {
    examples(pair).into_iter().map(|example| example.ids).collect()
}

/// A copy with small changes of some tensors.
fn changed(case: &str, is_changed: impl Fn(&str) -> Option<f32>) -> Draft {
    let mut draft = Draft::of(case);
    for (name, tensor) in &mut draft.tensors {
        let Some(by) = is_changed(name).filter(|_| tensor.dtype == Dtype::F32) else { continue };
        let values = tensor.values();
        let noise = |i: usize| 1.0 + by * ((i * 7919 % 101) as f32 / 50.0 - 1.0);
        for (i, value) in values.iter().enumerate() {
            tensor.set(i, value * noise(i));
        }
    }
    draft
}

fn only<'a>(names: &'a [(&'a str, f32)]) -> impl Fn(&str) -> Option<f32> + 'a {
    move |name| names.iter().find(|(wanted, _)| *wanted == name).map(|(_, by)| *by)
}

fn all(pair: &Pair) -> Vec<usize> {
    (0..pair.tensors().count()).collect()
}

#[track_caller]
fn assert_equal(place: &str, summary: &Summary) {
    assert_eq!(summary.nan, 0, "{place}");
    assert_eq!((summary.error.mean(), summary.error.most()), (0.0, 0.0), "{place}");
    assert_eq!((summary.cosine(), summary.least_cosine()), (1.0, 1.0), "{place}");
    assert_eq!((summary.kl.mean(), summary.kl.most(), summary.top_changed), (0.0, 0.0, 0), "{place}");
}

#[test]
fn a_model_is_equal_to_itself() {
    for case in cases("tiny") {
        let pair = pair(tiny(&case), tiny(&case)).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(pair.warnings().is_empty(), "{case}: {:?}", pair.warnings());
        let found = pair.differences(&examples(&pair), Options::default()).unwrap();
        assert_eq!(found.layers.len(), pair.model(Side::A).arch().layers.len() + 1, "{case}");
        found.layers.iter().for_each(|of| assert_equal(&case, &of.summary));
        found.heads.iter().for_each(|of| assert_equal(&case, &of.summary));
        found.positions.iter().for_each(|of| assert_equal(&case, &of.summary));
        assert!(found.worst.iter().all(|place| place.parts_at().is_none()), "{case}");
        let weights = pair.weights(easyroutine::Stop::Never, &mut |_, _| ()).unwrap();
        assert!(weights.iter().all(|of| of.is_equal && of.error == 0.0), "{case}");
        assert!(!weights.is_empty(), "{case}");
    }
}

/// The numbers of A in the place of all of B's give A's results, and B gets its own back.
#[test]
fn a_model_with_all_tensors_of_another_has_its_bits() {
    for case in cases("tiny") {
        let draft = changed(&case, |_| Some(0.05));
        let other = draft.write();
        let mut pair = pair(tiny(&case), other.path()).unwrap_or_else(|e| panic!("{case}: {e}"));
        let (rows, tensors) = (rows(&pair), all(&pair));
        let keys = "input_embeddings,resid_out_*";
        let a = extract(pair.model(Side::A), &rows, keys, "all");
        let b = extract(pair.model(Side::B), &rows, keys, "all");
        let patched = pair.patched(Side::B, &tensors).unwrap();
        let with_all = extract(&patched, &rows, keys, "all");
        drop(patched);
        let again = extract(pair.model(Side::B), &rows, keys, "all");
        let mut differ = false;
        for (key, kept) in a.iter() {
            let values =
                |cache: &easyroutine::cache::ActivationCache| cache.get(key).unwrap().values().to_vec();
            assert_same_bits(format!("{case}: {key}"), kept.values(), &values(&with_all));
            assert_same_bits(format!("{case}: {key} of B again"), &values(&b), &values(&again));
            differ |= kept.values() != values(&b);
        }
        assert!(differ, "{case}: the change shows nowhere");
    }
}

#[test]
fn the_tensor_that_was_changed_is_named() {
    let name = "model.layers.1.mlp.down_proj.weight";
    let other = changed("llama", only(&[(name, 0.05)])).write();
    let mut pair = pair(tiny("llama"), other.path()).unwrap();
    let examples = examples(&pair);
    let weights = pair.weights(easyroutine::Stop::Never, &mut |_, _| ()).unwrap();
    let differing: Vec<usize> = all(&pair).into_iter().filter(|tensor| !weights[*tensor].is_equal).collect();
    assert_eq!(differing.len(), 1);
    let of = &weights[differing[0]];
    assert_eq!((of.name.as_str(), of.layer), (name, Some(1)));
    assert!(of.error > 0.001 && of.error < 0.05, "{}", of.error);
    let found = pair.differences(&examples, Options::default()).unwrap();
    for of in &found.layers {
        match of.layer {
            None | Some(0) => assert_equal("below the change", &of.summary),
            Some(_) => assert!(of.summary.error.mean() > 0.0 && of.summary.kl.mean() > 0.0, "{of:?}"),
        }
    }
    for of in &found.heads {
        assert_eq!(of.summary.error.mean() > 0.0, of.layer > 1, "{of:?}");
    }
    let causes = pair.causes(&examples, &differing, Direction::Both, Options::default()).unwrap();
    let cause = &causes.causes[0];
    let (without, alone) = (cause.without.unwrap(), cause.alone.unwrap());
    assert_eq!((without.error, without.kl), (0.0, Some(0.0)));
    assert_eq!(alone, causes.whole);
    assert_eq!((causes.removed(cause), causes.added(cause)), (Some(1.0), Some(1.0)));
    assert_eq!(causes.whole.kl, Some(found.layers.last().unwrap().summary.kl.mean()));
}

#[test]
fn the_larger_cause_comes_first_whatever_the_family() {
    for case in ["llama", "gpt2", "mixtral", "gemma3_text", "mamba", "gemma4_text"] {
        let pair_of = |other: &Draft| {
            let written = other.write();
            (pair(tiny(case), written.path()).unwrap(), written)
        };
        let (itself, _written) = pair_of(&Draft::of(case));
        let layers = itself.model(Side::A).arch().layers.len();
        // A matrix of the first and one of the last layer, by size.
        let matrix = |layer: usize| {
            let weights = itself.weights(easyroutine::Stop::Never, &mut |_, _| ()).unwrap();
            let of_layer = weights.into_iter().filter(|of| of.layer == Some(layer) && of.shape.len() == 2);
            of_layer.max_by_key(|of| of.shape.iter().product::<usize>()).unwrap().name
        };
        let [first, last] = [matrix(0), matrix(layers - 1)].map(|name| name.replace('*', "0"));
        let (mut pair, _written) = pair_of(&changed(case, only(&[(&first, 0.3), (&last, 0.001)])));
        let examples = examples(&pair);
        let tensors = all(&pair);
        let causes = pair.causes(&examples, &tensors, Direction::Both, Options::default()).unwrap();
        let names: Vec<String> = pair.tensors().map(str::to_owned).collect();
        let name = |place: usize| names[causes.causes[place].tensor].replace('*', "0");
        assert_eq!(name(0), first, "{case}");
        assert!(causes.removed(&causes.causes[0]).unwrap() > 0.9, "{case}: {:?}", causes.causes[0]);
        // What is equal removes nothing and adds nothing, to the bit.
        for cause in causes
            .causes
            .iter()
            .filter(|cause| ![&first, &last].contains(&&names[cause.tensor].replace('*', "0")))
        {
            assert_eq!(cause.without, Some(causes.whole), "{case}: {}", names[cause.tensor]);
            assert_eq!(cause.alone.unwrap().error, 0.0, "{case}: {}", names[cause.tensor]);
        }
    }
}

/// Run from the tensor's layer on, as by a run of the whole model.
#[test]
fn a_patched_run_is_that_of_the_whole_model() {
    for case in ["llama", "gpt_neox", "falcon_h1", "gemma4_text"] {
        let other = changed(case, |_| Some(0.02)).write();
        let mut pair = pair(tiny(case), other.path()).unwrap();
        let (examples, rows) = (examples(&pair), rows(&pair));
        let last = format!("resid_out_{}", pair.model(Side::A).arch().layers.len() - 1);
        let tensor = all(&pair).into_iter().rfind(|tensor| pair.layer_of(*tensor).is_some()).unwrap();
        let causes = pair.causes(&examples, &[tensor], Direction::Removes, Options::default()).unwrap();
        let a = extract(pair.model(Side::A), &rows, &last, "all");
        let patched = pair.patched(Side::B, &[tensor]).unwrap();
        let b = extract(&patched, &rows, &last, "all");
        let width = patched.arch().d_model;
        let (a, b) = (a.get(&last).unwrap().values(), b.get(&last).unwrap().values());
        let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
        let error = |(a, b): (&[f32], &[f32])| {
            let apart = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*b) - f64::from(*a)));
            apart / norm(&mut a.iter().map(|a| f64::from(*a)))
        };
        let errors: Vec<f64> = a.chunks(width).zip(b.chunks(width)).map(error).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let found = causes.causes[0].without.unwrap().error;
        assert!((found - mean).abs() < 1e-12, "{case}: {found} and {mean}");
    }
}

#[test]
fn the_embedding_differs_where_its_tensor_does() {
    let case = "llama";
    let embedding = changed(case, only(&[("model.embed_tokens.weight", 0.05)])).write();
    let head = changed(case, only(&[(unembedding_of(case), 0.05)])).write();
    let found = |other: &Path| -> Differences {
        let pair = pair(tiny(case), other).unwrap();
        pair.differences(&examples(&pair), Options::default()).unwrap()
    };
    let of_embedding = found(embedding.path());
    assert!(of_embedding.layers.iter().all(|of| of.summary.error.mean() > 0.0));
    // The head changes what the lens says, and no stream.
    let of_head = found(head.path());
    for of in &of_head.layers {
        assert_eq!(of.summary.error.most(), 0.0);
        assert!(of.summary.kl.mean() > 0.0);
    }
}

#[test]
fn batches_and_memory_change_no_number() {
    let other = changed("llama", |_| Some(0.05)).write();
    let in_memory = pair(tiny("llama"), other.path()).unwrap();
    let examples = examples(&in_memory);
    let whole = in_memory.differences(&examples, Options::default()).unwrap();
    let batches = Options { batch_tokens: 4, ..Options::default() };
    assert_eq!(in_memory.differences(&examples, batches).unwrap(), whole);
    let bounded = |path: &Path| {
        let opened = opened(path);
        let memory = Some(opened.weight_bytes(easyroutine::Dtype::F32).unwrap() - 1);
        (opened, LoadOptions { threads: Some(2), memory, ..LoadOptions::default() })
    };
    let ((a, of_a), (b, of_b)) = (bounded(&tiny("llama")), bounded(other.path()));
    let mut by_layer = Pair::new(a, b, [&of_a, &of_b]).unwrap();
    assert!(by_layer.model(Side::B).is_by_layer());
    assert_eq!(by_layer.differences(&examples, Options::default()).unwrap(), whole);
    let tensors = all(&by_layer);
    let mut in_memory = in_memory;
    let causes = in_memory.causes(&examples, &tensors, Direction::Both, Options::default()).unwrap();
    let others = by_layer.causes(&examples, &tensors, Direction::Both, Options::default()).unwrap();
    assert_eq!(causes, others);
}

#[test]
fn models_that_are_not_of_one_architecture_are_refused_by_name() {
    let refused = |a: &Path, b: &Path| {
        let error = pair(a, b).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        error.to_string()
    };
    let text = refused(&tiny("llama"), &tiny("gpt2"));
    assert!(text.contains("A is llama, B is gpt2"), "{text}");
    // Another number of ids.
    let mut larger = Draft::of("llama");
    let vocabulary = larger.config["vocab_size"].as_u64().unwrap();
    larger.set("vocab_size", vocabulary - 8);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let tensor = larger.tensor(name);
        let width = tensor.shape[1];
        tensor.shape[0] -= 8;
        let length = tensor.bytes.len() - 8 * width * 4;
        tensor.bytes.truncate(length);
    }
    let text = refused(&tiny("llama"), larger.write().path());
    assert!(
        text.contains(&format!("A has {vocabulary} ids in the vocabulary, B has {}", vocabulary - 8)),
        "{text}"
    );
    // The same sizes, with tensors that the other lacks.
    let text = refused(&tiny("llama"), &tiny("mixtral"));
    assert!(text.contains("not of one architecture"), "{text}");
}

#[test]
fn a_config_that_computes_something_else_is_said() {
    let mut other = Draft::of("llama");
    other.set("rms_norm_eps", 0.5);
    let pair = pair(tiny("llama"), other.write().path()).unwrap();
    let [warning] = pair.warnings() else { panic!("{:?}", pair.warnings()) };
    assert!(warning.contains("rms_norm_eps") && warning.contains("no tensor's"), "{warning}");
}

#[test]
fn nan_is_counted_and_named() {
    let mut other = Draft::of("llama");
    other.tensor("model.layers.1.mlp.down_proj.weight").set(0, f32::NAN);
    let other = other.write();
    let pair = pair(tiny("llama"), other.path()).unwrap();
    let examples = examples(&pair);
    let found = pair.differences(&examples, Options::default()).unwrap();
    assert_equal("layer 0", &found.layers[1].summary);
    assert_eq!(found.layers[2].summary.nan, found.n_tokens);
    assert_eq!(found.layers[2].summary.error.count(), 0);
    assert_eq!(found.first_nan, Some((Some(1), 0, 0)));
    let weights = pair.weights(easyroutine::Stop::Never, &mut |_, _| ()).unwrap();
    assert!(weights.iter().any(|of| of.error.is_nan() && !of.is_equal));
}

#[test]
fn a_file_that_was_changed_meanwhile_is_named() {
    let other = changed("llama", |_| Some(0.05)).write();
    let mut pair = pair(tiny("llama"), other.path()).unwrap();
    let examples = examples(&pair);
    let path = other.path().join("model.safetensors");
    OpenOptions::new().append(true).open(&path).unwrap().set_len(4096).unwrap();
    for error in [
        pair.differences(&examples, Options::default()).err().unwrap(),
        pair.causes(&examples, &[0], Direction::Both, Options::default()).err().unwrap(),
        pair.weights(easyroutine::Stop::Never, &mut |_, _| ()).err().unwrap(),
    ] {
        assert!(error.to_string().contains("model.safetensors"), "{error}");
    }
}

#[test]
fn a_sample_has_whole_prompts() {
    let of = |lengths: &[usize]| -> Vec<Example> {
        let example = |n: &usize| Example { ids: vec![0; *n], ..Example::default() };
        lengths.iter().map(example).collect()
    };
    assert_eq!(sample(&of(&[3, 4, 5]), 7).len(), 2);
    assert_eq!(sample(&of(&[3, 4, 5]), 2).len(), 1);
    assert_eq!(sample(&of(&[3, 4, 5]), 100).len(), 3);
    assert_eq!(sample(&[], 100).len(), 0);
}
