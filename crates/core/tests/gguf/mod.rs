//! GGUF files as llama.cpp's converter writes them, of every tiny model that it reads (`bench/gguf_fixtures.py`): its metadata
//! gives the architecture of config.json, its tensors are the safetensors', to the bit, and the file runs to the same numbers.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use easyroutine::arch::Arch;
use easyroutine::families::gguf::{Division, Header, Tensors, divisions, made, tensor_names};
use easyroutine::load::{LoadOptions, load, open};
use easyroutine::names::{Axes, Stored, StoredValues};
use easyroutine::source::{FilesKind, ModelFiles};
use easyroutine::{Model, sites::Site};
use easyroutine_files::ShardedSafeTensors;
use serde_json::{Map, Value, json};

use crate::common::taps::capture;
use crate::common::{fixtures, relative_error};

/// Tensors by name: shape and numbers.
type Values = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// One case of `fixtures/gguf`.
struct Case {
    name: String,
    json: Value,
}

impl Case {
    fn all() -> Vec<Case> {
        let entries = std::fs::read_dir(fixtures().join("gguf")).unwrap().map(|entry| entry.unwrap().path());
        let mut all: Vec<Case> = entries
            .map(|path| {
                let name = path.file_stem().unwrap().to_string_lossy().into_owned();
                Case { name, json: serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() }
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        assert!(all.len() >= 50, "{} cases", all.len());
        all
    }

    fn metadata(&self) -> &Map<String, Value> {
        self.json["metadata"].as_object().unwrap()
    }

    fn architecture(&self) -> &str {
        self.json["metadata"]["general.architecture"].as_str().unwrap()
    }

    /// Shapes of the converter's tensors.
    fn shapes(&self) -> Tensors {
        let shape = |said: &Value| serde_json::from_value(said[0].clone()).unwrap();
        let tensors = self.json["tensors"].as_object().unwrap();
        tensors.iter().map(|(name, said)| (name.clone(), shape(said))).collect()
    }

    /// Shapes of the tensors that the converter's stand for, and which of its own stand for several.
    fn divided(&self) -> (Tensors, Vec<Division>) {
        let mut shapes = self.shapes();
        let divisions = divisions(self.metadata(), &shapes).unwrap();
        for (fused, among) in &divisions {
            let whole = shapes.remove(fused).unwrap();
            let shape = |rows: usize| [&[rows], &whole[1..]].concat();
            shapes.extend(among.iter().map(|(name, rows)| (name.clone(), shape(*rows))));
        }
        (shapes, divisions)
    }

    /// config.json of the fixture with the case's changes, and the tensors that the converter read.
    fn source(&self) -> (Value, Values) {
        let folder = fixtures().join("tiny").join(self.json["fixture"].as_str().unwrap_or(&self.name));
        let text = std::fs::read(folder.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        let changes = self.json["config"].as_object().cloned().unwrap_or_default();
        config.as_object_mut().unwrap().extend(changes);
        let stored = ShardedSafeTensors::open_folder(&folder).unwrap();
        let removed: BTreeSet<String> = self.json["removed"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|n| n.as_str().unwrap().to_owned())
            .collect();
        let mut tensors = Values::new();
        for name in stored.names().filter(|name| !removed.contains(*name)) {
            let tensor = stored.tensor(name).unwrap();
            tensors.insert(name.to_owned(), (tensor.shape().to_vec(), tensor.read_all().unwrap()));
        }
        if let Some(layers) = self.json["layers"].as_array() {
            tensors = moved(tensors, &layers.iter().map(|l| l.as_u64().unwrap()).collect::<Vec<_>>());
        }
        (config, tensors)
    }
}

/// Tensors of these layers alone, counted anew.
fn moved(tensors: Values, layers: &[u64]) -> Values {
    let of = |name: &str| {
        let (before, rest) = name.split_once("layers.")?;
        let (layer, after) = rest.split_once('.')?;
        Some((before.to_owned(), layer.parse::<u64>().ok()?, after.to_owned()))
    };
    let rename = |(name, values): (String, (Vec<usize>, Vec<f32>))| match of(&name) {
        None => Some((name, values)),
        Some((before, layer, after)) => {
            let at = layers.iter().position(|l| *l == layer)?;
            Some((format!("{before}layers.{at}.{after}"), values))
        }
    };
    tensors.into_iter().filter_map(rename).collect()
}

/// The file's tensors, made of the checkpoint's: what the reader undoes, done.
fn converted(places: &[(String, Stored)], shapes: &Tensors, checkpoint: &Values, case: &str) -> Values {
    let empty = |shape: &Vec<usize>| vec![f32::NAN; shape.iter().product()];
    let mut file: Values =
        shapes.iter().map(|(n, shape)| (n.clone(), (shape.clone(), empty(shape)))).collect();
    for (ours, stored) in places {
        let (shape, values) = checkpoint.get(ours).unwrap_or_else(|| panic!("{case}: no `{ours}`"));
        let expected = stored.shape.as_ref().unwrap_or(&shapes[&stored.tensors[0]]);
        assert_eq!(shape, expected, "{case}: shape of `{ours}`");
        let (values, length) = in_file_axes(stored.axes, shape, values);
        let is_of_numbers = stored.order.is_of_numbers() || shape.len() == 1;
        let length = if is_of_numbers { 1 } else { length };
        for (row, numbers) in values.chunks_exact(length).enumerate() {
            let (tensor, at) = stored.order.place(row, stored.tensors.len());
            let (_, to) = file.get_mut(&stored.tensors[tensor]).unwrap();
            let to = &mut to[at * length..][..length];
            let width = stored.columns.map_or(length, |columns| length / (columns.groups * columns.blocks));
            let column = |i: usize| {
                let block = stored.columns.map_or(i / width, |columns| columns.place(i / width));
                block * width + i % width
            };
            for (i, x) in numbers.iter().enumerate() {
                to[column(i)] = match stored.values {
                    StoredValues::Same => *x,
                    StoredValues::PlusOne => x + 1.0,
                    StoredValues::MinusExp => -x.exp(),
                };
            }
        }
    }
    file
}

/// Numbers with the last two axes in the file's order, and the length of a row there.
fn in_file_axes(axes: Axes, shape: &[usize], values: &[f32]) -> (Vec<f32>, usize) {
    match (axes, shape) {
        (Axes::OutIn, [.., last]) => (values.to_vec(), *last),
        (Axes::InOut, [.., inputs, outputs]) => {
            let transposed = values.chunks_exact(inputs * outputs).flat_map(|matrix| {
                (0..*outputs).flat_map(move |o| matrix.iter().skip(o).step_by(*outputs).copied())
            });
            (transposed.collect(), *inputs)
        }
        _ => (values.to_vec(), 1),
    }
}

fn arch_of(folder: &Path) -> Arch {
    open(&files(folder), &LoadOptions::default()).unwrap().arch().clone()
}

fn files(path: &Path) -> ModelFiles {
    let kind = if path.is_dir() { FilesKind::Folder(path.into()) } else { FilesKind::Gguf(path.into()) };
    ModelFiles { name: "case".into(), kind, commit: None, adapter: None }
}

/// A folder of the checkpoint, and the file of the same model.
fn written(case: &Case, folder: &Path) -> Values {
    let (config, checkpoint) = case.source();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    file::safetensors(&folder.join("model.safetensors"), &checkpoint);
    let arch = arch_of(folder);
    let (shapes, divisions) = case.divided();
    let places = tensor_names(case.architecture(), &arch, &shapes).unwrap();
    assert_eq!(places.left_out, 0, "{}", case.name);
    let header =
        Header { metadata: case.metadata(), tensors: &shapes, rope_divisors: None, rope_factors: None };
    let made = made(&header, arch.layers.len()).unwrap();
    let used: BTreeSet<&String> =
        places.tensors.iter().map(|(ours, _)| ours).chain(made.iter().map(|(ours, ..)| ours)).collect();
    let unused: Vec<&String> = checkpoint.keys().filter(|name| !used.contains(name)).collect();
    assert!(unused.is_empty(), "{}: the file has no {unused:?}", case.name);
    let mut tensors = converted(&places.tensors, &shapes, &checkpoint, &case.name);
    for (fused, among) in divisions {
        let parts = among.iter().flat_map(|(name, _)| tensors.remove(name).unwrap().1).collect();
        let shape = case.shapes()[&fused].clone();
        tensors.insert(fused, (shape, parts));
    }
    // Tables of frequencies are worked out of the config, and are in the case as they are.
    for (name, said) in case.json["tensors"].as_object().unwrap() {
        if let Some(table) = said[1].as_array() {
            let values = table.iter().map(|x| x.as_f64().unwrap() as f32).collect();
            tensors.get_mut(name).unwrap().1 = values;
        }
    }
    let gguf = folder.join("model.gguf");
    file::gguf(&gguf, case.metadata(), &tensors);
    tensors
}

/// Holds every case to a property, and names all that fail.
fn every_case(property: impl Fn(&Case) + std::panic::RefUnwindSafe) {
    let failed: Vec<String> = Case::all()
        .iter()
        .filter(|case| std::panic::catch_unwind(|| property(case)).is_err())
        .map(|case| case.name.clone())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn tensors_are_those_of_the_converter_to_the_bit() {
    every_case(|case| {
        let folder = tempfile::tempdir().unwrap();
        let tensors = written(case, folder.path());
        if case.json["folded"] == true {
            // Factors of the config are in the converter's tensors.
            return;
        }
        for (name, (_, values)) in &tensors {
            let said = &case.json["tensors"][name][1];
            let place = format!("{}: {name}", case.name);
            match said.as_f64() {
                None if said.is_array() => {}
                None => assert_eq!(said, &json!(file::checksum(values)), "{place}"),
                Some(sum) => {
                    let own: f64 = values.iter().zip(1..).map(|(x, i)| f64::from(*x) * f64::from(i)).sum();
                    assert!((own - sum).abs() <= 1e-6 * sum.abs(), "{place}: {own} {sum}");
                }
            }
        }
    });
}

#[test]
fn files_run_as_the_safetensors_do() {
    every_case(|case| {
        let folder = tempfile::tempdir().unwrap();
        written(case, folder.path());
        let gguf = folder.path().join("model.gguf");
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let opened = open(&files(&gguf), &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        if case.json["folded"] == true {
            return;
        }
        let (own, other) = (same_ropes(opened.arch()), same_ropes(&arch_of(folder.path())));
        assert_eq!(own, other, "{}", case.name);
        let load =
            |path: &Path| load(&files(path), &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let [expected, found] = [folder.path(), &gguf].map(|path| numbers(&load(path)));
        for (key, values) in expected {
            let error = relative_error(&found[&key], &values);
            assert!(error <= 2e-6, "{}: {key}: {error}", case.name);
        }
    });
}

#[test]
#[ignore = "needs the converter's own files: bench/gguf_fixtures.py --keep FOLDER, and EASYROUTINE_GGUF=FOLDER"]
fn the_converters_own_files_run_as_the_safetensors_do() {
    let Some(kept) = std::env::var_os("EASYROUTINE_GGUF") else {
        println!("skipped the converter's own files: EASYROUTINE_GGUF names no folder");
        return;
    };
    every_case(|case| {
        if case.json["corrected"] == true {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        written(case, folder.path());
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let load =
            |path: &Path| load(&files(path), &options).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let own = Path::new(&kept).join(format!("{}.gguf", case.name));
        let [expected, found] = [folder.path(), &own].map(|path| numbers(&load(path)));
        for (key, values) in expected {
            let error = relative_error(&found[&key], &values);
            assert!(error <= 1e-5, "{}: {key}: {error}", case.name);
        }
    });
}

/// Architectures are the same but for the way in which frequencies are divided, and for ids that mean nothing here.
fn same_ropes(arch: &Arch) -> Arch {
    let mut arch = arch.clone();
    arch.ropes.iter_mut().for_each(|rope| rope.scaling = easyroutine::arch::RopeScaling::None);
    arch
}

fn numbers(model: &Model) -> BTreeMap<String, Vec<f32>> {
    let rows = [(1..12).map(|i| i * 29 % 320).collect::<Vec<u32>>(), vec![7, 300, 5]];
    let kept = [Site::ResidOut, Site::Logits];
    let points: Vec<_> = model.arch().points().filter(|point| kept.contains(&point.site())).collect();
    let cache = capture(model, &rows, points.iter().copied());
    let values = |key: &str| cache.get(key).unwrap().values().to_vec();
    points.iter().map(|point| (point.to_string(), values(&point.to_string()))).collect()
}
