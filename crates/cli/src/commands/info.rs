//! `model info`: what a model is, and what it needs.

use easyroutine::Dtype;
use easyroutine::arch::{Head, Mlp, UnembedMatrix, Window, Wiring};
use easyroutine::cache::readable;
use serde_json::{Map, Value, json};

use crate::args::{Args, ModelArgs};
use crate::failure::{Failure, one_line};
use crate::memory::packed_bytes;
use crate::output::{self, Cell, PLAIN};
use crate::session;

pub(crate) fn run(args: &Args, model: &ModelArgs) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let files = session::find(&model.reference()?, &model.loading.finding)?;
    let opened = session::open(&files, &model.loading.finding)?;
    let parameters = opened.parameters()?;
    let arch = opened.arch();
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
    let mut facts: Vec<(&str, Value)> = vec![
        ("name", json!(files.name)),
        ("commit", json!(files.commit)),
        ("model_digest", json!(opened.identity.digest()?)),
        ("path", json!(files.path().display().to_string())),
        ("model_type", json!(opened.reading.wrapper.unwrap_or(opened.reading.family.model_type))),
        ("decoder", json!(opened.reading.family.model_type)),
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
    ];
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
        facts.push((key, json!(packed_bytes(parameters, dtype))));
    }
    let rows: Vec<Vec<Cell>> =
        facts.iter().map(|(key, value)| vec![(*key).to_owned().into(), shown(key, value)]).collect();
    let mut json = Map::from_iter([("schema".to_owned(), json!("easyroutine.model/1"))]);
    json.extend(facts.into_iter().map(|(key, value)| (key.to_owned(), value)));
    for target in &targets {
        let table =
            output::render(target.format, &["property", "value"], &rows, &Value::Object(json.clone()))?;
        output::write(target, table.as_bytes())?;
    }
    Ok(())
}

/// What reads the last stream, in words.
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
