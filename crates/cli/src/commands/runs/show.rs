//! `runs show`: one run's metadata and tensors.

use serde_json::{Value, json};

use crate::args::Args;
use crate::args::runs::{RunArg, Runs};
use crate::failure::Failure;
use crate::output::{self, PLAIN};

pub(super) fn run(args: &Args, runs: &Runs, which: &RunArg) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let run = runs.find(&which.run)?;
    let mut rows = vec![vec!["path".to_owned(), run.path().to_owned()]];
    let mut add = |key: &str, value: &Value| {
        let shown = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        rows.push(vec![key.to_owned(), shown]);
    };
    for (key, value) in
        run.metadata().fields().iter().filter(|(key, _)| !["_store", "tag"].contains(&key.as_str()))
    {
        add(key, value);
    }
    let tags = run.metadata().tags().join(", ");
    if !tags.is_empty() {
        add("tags", &tags.into());
    }
    let kept = [
        "run_id",
        "name",
        "created_at",
        "committed_at",
        "revision",
        "writer",
        "durability",
        "model",
        "model_digest",
        "dataset",
        "n_examples",
        "n_rows",
        "n_bytes",
        "digest",
    ];
    for key in kept {
        add(key, run.metadata().store().and_then(|store| store.get(key)).unwrap_or(&Value::Null));
    }
    let mut tensors = Vec::new();
    for entry in &run.manifest().tensors {
        let shape = run.manifest().shape(entry);
        rows.push(vec![
            entry.name.clone(),
            format!("{} {} {shape:?}", json!(entry.kind).as_str().unwrap_or_default(), entry.dtype),
        ]);
        tensors.push(json!({"name": entry.name, "dtype": entry.dtype, "kind": entry.kind, "shape": shape, "axes": entry.axes}));
    }
    for (name, values) in run.fields() {
        rows.push(vec![name.to_owned(), format!("field [{}]", values.len())]);
    }
    let json = json!({
        "schema": "easyroutine.run_shown/1",
        "path": run.path(),
        "metadata": run.metadata().fields(),
        "tensors": tensors,
        "values": run.manifest().values,
    });
    output::tables(&targets, &["property", "value"], &rows, &json)
}
