//! `model info`: what a model is, and what it requires.

use std::collections::BTreeMap;
use std::path::Path;

use easyroutine::arch::{Head, Mlp, UnembedMatrix, Window, Wiring};
use easyroutine::cache::readable;
use easyroutine::expected::ExpectedTensor;
use easyroutine::export::InMemory;
use easyroutine::families::Reading;
use easyroutine::{Dtype, source};
use serde_json::{Map, Value, json};

use crate::args::{Args, Finding, ModelArgs};
use crate::failure::{Failure, one_line};
use crate::memory::packed_bytes;
use crate::output::{self, Cell, Destination, PLAIN};
use crate::session;

pub(crate) fn run(args: &Args, model: &ModelArgs) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let reference = model.reference()?;
    if let Some(folder) = source::config_alone(&reference)? {
        return config_alone(&targets, &folder, &model.loading.finding);
    }
    let files = session::find(&reference, &model.loading.finding)?;
    let opened = session::open(&files, &model.loading.finding)?;
    let parameters = opened.parameters()?;
    let mut facts = vec![
        ("name", json!(files.name)),
        ("commit", json!(files.commit)),
        ("model_digest", json!(opened.identity.digest()?)),
        ("path", json!(files.path().display().to_string())),
    ];
    facts.extend(facts_of(&opened.reading, parameters));
    facts.push(("encodings", json!(opened.encodings()?)));
    if opened.reading.wrapper.is_some() {
        let parts = opened.left_out().into_iter().map(|(part, count)| (format!("{part}*"), json!(count)));
        facts.push(("left_out_tensors", Value::Object(parts.collect())));
    }
    if let Some(adapter) = opened.adapter() {
        let changes: Map<String, Value> =
            adapter.changes().into_iter().map(|(name, count)| (name, json!(count))).collect();
        facts.extend([
            ("adapter", json!(adapter.folder().display().to_string())),
            ("adapter_base", json!(adapter.base())),
            ("adapter_parameters", json!(adapter.parameters())),
            ("adapter_ranks", json!(adapter.ranks())),
            ("adapter_changes", Value::Object(changes)),
        ]);
    }
    for (key, dtype) in [("weights_f32_bytes", Dtype::F32), ("weights_bf16_bytes", Dtype::Bf16)] {
        facts.push((key, json!(opened.weight_bytes(dtype)?)));
    }
    let tensors = match opened.in_memory(&model.loading.options()) {
        Ok(tensors) => tensors,
        Err(error) => {
            output::note("note", &format!("the model cannot be loaded: {}", one_line(&error.to_string())));
            Vec::new()
        }
    };
    if !tensors.is_empty() {
        facts.extend([("kept_as_stored", kept(&tensors)), ("widened_to_f32", widened(&tensors))]);
    }
    let rows = facts
        .iter()
        .map(|(key, value)| vec![(*key).to_owned().into(), shown(key, value)])
        .collect::<Vec<_>>();
    let in_json = |tensor: &InMemory| {
        let InMemory { name, shape, encoding, widened } = tensor;
        let in_memory = if widened.is_some() { "F32" } else { encoding };
        json!({"name": name, "shape": shape, "encoding": encoding, "in_memory": in_memory, "why": widened})
    };
    facts.push(("tensors", tensors.iter().map(in_json).collect()));
    write(&targets, facts, &rows)
}

/// How many tensors stay as they are stored, for products in f32, by their encodings.
fn kept(tensors: &[InMemory]) -> Value {
    counted(tensors.iter().filter(|tensor| tensor.widened.is_none()).map(|tensor| tensor.encoding.as_str()))
}

/// How many tensors are widened to f32, by why.
fn widened(tensors: &[InMemory]) -> Value {
    counted(tensors.iter().filter_map(|tensor| tensor.widened))
}

fn counted<'a>(words: impl Iterator<Item = &'a str>) -> Value {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    words.for_each(|word| *counts.entry(word).or_default() += 1);
    json!(counts)
}

/// A config.json without weights: the same facts, and the tensors that it requires.
fn config_alone(targets: &[Destination], folder: &Path, finding: &Finding) -> Result<(), Failure> {
    let expected = session::expected(folder, finding)?;
    let parameters = usize::try_from(expected.parameters()).unwrap_or(usize::MAX);
    let name = folder.canonicalize().ok();
    let name =
        name.as_deref().unwrap_or(folder).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut facts = vec![("name", json!(name)), ("path", json!(folder.display().to_string()))];
    facts.extend(facts_of(&expected.reading, parameters));
    facts.extend([
        ("stored_as", json!(expected.dtype)),
        ("expected_tensors", json!(expected.tensors.len())),
        ("expected_bytes", json!(expected.bytes().and_then(|bytes| u64::try_from(bytes).ok()))),
    ]);
    facts.extend(packed(parameters));
    let mut rows = facts
        .iter()
        .map(|(key, value)| vec![(*key).to_owned().into(), shown(key, value)])
        .collect::<Vec<_>>();
    let groups = groups(&expected.tensors);
    for ((name, shape), count) in &groups {
        let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
        rows.push(vec![name.clone().into(), format!("{count} of [{}]", shape.join(", ")).into()]);
    }
    let groups = groups
        .into_iter()
        .map(|((name, shape), count)| json!({"name": name, "shape": shape, "count": count}));
    facts.push(("tensors", groups.collect()));
    output::note("note", "the folder has no weights: what is shown is what its config.json asks for");
    write(targets, facts, &rows)
}

/// Tensors grouped by name without layer and expert numbers, with counts.
fn groups(tensors: &[ExpectedTensor]) -> BTreeMap<(String, Vec<usize>), usize> {
    let mut groups = BTreeMap::new();
    for ExpectedTensor { name, shape, .. } in tensors {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> =
            name.split('.').map(|part| if is_number(part) { "{}" } else { part }).collect();
        *groups.entry((parts.join("."), shape.clone())).or_default() += 1;
    }
    groups
}

/// The facts in a config.
fn facts_of(reading: &Reading, parameters: usize) -> Vec<(&'static str, Value)> {
    let arch = &reading.arch;
    let first = &arch.layers[0];
    let attention = || arch.layers.iter().filter_map(|layer| layer.attention.as_ref());
    let windowed = attention().filter(|attention| attention.window != Window::Full).count();
    let recurrent = arch.layers.iter().filter(|layer| layer.recurrence.is_some()).count();
    let wiring = match first.wiring {
        _ if arch.layers.iter().all(|layer| layer.mlp.is_none()) => "a recurrence alone",
        _ if arch.layers.iter().any(|layer| !layer.mixes() || layer.mlp.is_none()) => {
            "one part: a recurrence, attention or an MLP"
        }
        Wiring::Sequential { .. }
            if arch.layers.iter().any(|l| l.attention.is_some() && l.recurrence.is_some()) =>
        {
            "attention and a recurrence, then MLP"
        }
        Wiring::Sequential { .. } if recurrent > 0 => "attention or a recurrence, then MLP",
        Wiring::Sequential { .. } => "attention, then MLP",
        Wiring::Parallel { .. } => "attention and MLP in parallel",
        Wiring::NormOnStream { .. } => "attention, then MLP, norms on the stream",
    };
    let (mlp, d_mlp) = match arch.layers.iter().find_map(|layer| layer.mlp) {
        None => ("none".to_owned(), 0),
        Some(Mlp::Plain { d_mlp, .. }) => ("plain".to_owned(), d_mlp),
        Some(Mlp::Xielu { d_mlp }) => ("plain, xielu".to_owned(), d_mlp),
        Some(Mlp::Gated { d_mlp, .. }) => ("gated".to_owned(), d_mlp),
        Some(Mlp::Experts { count, top_k, d_mlp, .. }) => {
            (format!("{count} experts, {top_k} a token"), d_mlp)
        }
    };
    vec![
        ("model_type", json!(reading.wrapper.unwrap_or(reading.family.model_type))),
        ("decoder", json!(reading.family.model_type)),
        ("parameters", json!(parameters)),
        ("n_layers", json!(arch.layers.len())),
        ("d_model", json!(arch.d_model)),
        ("n_heads", json!(arch.n_heads)),
        ("n_kv_heads", json!(arch.n_kv_heads)),
        ("d_head", json!(arch.d_head)),
        ("d_mlp", json!(d_mlp)),
        ("mlp", json!(mlp)),
        ("block", json!(wiring)),
        ("vocabulary", json!(arch.vocabulary)),
        ("context", json!(arch.context)),
        ("sliding_window_layers", json!(windowed)),
        ("recurrent_layers", json!(recurrent)),
        ("head", json!(head(&arch.head))),
        (
            "tied_unembedding",
            json!(arch.unembed.matrix == UnembedMatrix::Tied && arch.head == Head::Unembedding),
        ),
    ]
}

/// Bytes of the packed weights, if the checkpoint has the type of the products.
fn packed(parameters: usize) -> [(&'static str, Value); 2] {
    [("weights_f32_bytes", Dtype::F32), ("weights_bf16_bytes", Dtype::Bf16)]
        .map(|(key, dtype)| (key, json!(packed_bytes(parameters, dtype))))
}

fn write(targets: &[Destination], facts: Vec<(&str, Value)>, rows: &[Vec<Cell>]) -> Result<(), Failure> {
    let mut json = Map::from_iter([("schema".to_owned(), json!("easyroutine.model/1"))]);
    json.extend(facts.into_iter().map(|(key, value)| (key.to_owned(), value)));
    output::tables(targets, &["property", "value"], rows, &Value::Object(json.clone()))
}

/// The head, in words.
fn head(head: &Head) -> String {
    match head {
        Head::Unembedding => "unembedding".to_owned(),
        Head::Score(score) => format!("score, {} labels ({})", score.labels, one_line(&score.class)),
        Head::Nothing { class } => format!("none ({})", one_line(class)),
    }
}

fn shown(key: &str, value: &Value) -> Cell {
    match value {
        Value::Null => Cell::new("-", ""),
        Value::String(text) => Cell::new(one_line(text), text),
        Value::Bool(flag) => Cell::new(if *flag { "yes" } else { "no" }, flag),
        Value::Number(number) if key.ends_with("_bytes") => {
            Cell::new(readable(number.as_u64().unwrap_or(0)), number)
        }
        // `q_proj 30, v_proj 30`
        Value::Object(counts) => {
            let text: Vec<String> =
                counts.iter().map(|(name, count)| format!("{} {count}", one_line(name))).collect();
            text.join(", ").into()
        }
        other => other.to_string().into(),
    }
}
