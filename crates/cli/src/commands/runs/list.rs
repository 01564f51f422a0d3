//! `runs ls` and `runs query`.

use std::collections::BTreeSet;

use easyroutine_store::{Condition, Found, Matching, Metadata, Path, Query, QueryResult, Unfinished};
use serde_json::{Map, Value, json};

use super::{pairs, position, warn_of_record};
use crate::args::Args;
use crate::args::runs::{self, MatchArg, Runs};
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, PLAIN};
use easyroutine::cache::readable;
use easyroutine::positions::Specifier;
use easyroutine::source::name_in_runs;

pub(super) fn ls(args: &Args, runs: &Runs) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let (unfinished, problems) = runs.store()?.unfinished(runs.experiment.as_deref())?;
    let found = runs.query(&Query::default())?;
    for run in &unfinished {
        let Unfinished { name, path, written, units, .. } = run;
        let text = format!("unfinished: {path}, begun as `{name}`, has {written} of {units} units");
        output::note("note", &text);
    }
    problems
        .iter()
        .for_each(|problem| output::note("warning", &format!("{}: {}", problem.path, problem.error)));
    if !unfinished.is_empty() {
        output::note("hint", "the command that began a run continues it with --run NAME --resume");
    }
    print(&targets, &found, Some(&unfinished))
}

pub(super) fn query(args: &Args, runs: &Runs, asked: &runs::Query) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let config = asked.config.as_ref().map(|text| {
        let value: Value =
            serde_json::from_str(text).map_err(|e| Failure::usage(format!("--config: {e}")))?;
        if value.is_object() { Ok(value) } else { Err(Failure::usage("--config: is not a JSON object")) }
    });
    let listed = Specifier::parse_lists(&asked.positions)?;
    let positions = (!listed.is_empty()).then(|| listed.iter().map(position).collect());
    let query = Query {
        model_name: asked.model.clone(),
        or_model_name: asked.model.as_deref().and_then(name_in_runs),
        tags: asked.tag.clone(),
        target_token_positions: positions,
        save_time: asked.save_time.clone(),
        custom_keys: pairs(&asked.meta)?.into_iter().collect(),
        extraction_config: config.transpose()?,
        matching: if asked.matching == MatchArg::Exact { Matching::Exact } else { Matching::Subset },
        condition: asked.condition.as_deref().map(str::parse).transpose()?,
        ..Query::default()
    };
    let found = runs.query(&query)?;
    if let (true, Some(condition)) = (found.runs().is_empty(), &query.condition) {
        let all = runs.query(&Query::default())?;
        let nowhere = |path: &&Path| !all.runs().iter().any(|run| path.is_in(&run.metadata));
        let unknown: BTreeSet<String> =
            condition.paths().into_iter().filter(nowhere).map(ToString::to_string).collect();
        for path in unknown {
            output::note("note", &format!("no run has a key `{}`", shortened(&path)));
        }
        let all: Vec<&Metadata> = all.runs().iter().map(|run| &run.metadata).collect();
        unlike(condition, &all).iter().for_each(|text| output::note("note", text));
    }
    print(&targets, &found, None)
}

/// Paths that a condition compares with values of another type, in every run that has any.
fn unlike(condition: &Condition, runs: &[&Metadata]) -> BTreeSet<String> {
    let kinds_of = |value: &Value| match value {
        Value::Array(values) => values.iter().map(kind).collect(),
        // Row values that the record only counts.
        Value::Object(_) => BTreeSet::new(),
        value => BTreeSet::from([kind(value)]),
    };
    let mut said = BTreeSet::new();
    for (path, value) in condition.comparisons() {
        let found: BTreeSet<&str> =
            runs.iter().filter_map(|run| path.find(run)).flat_map(|value| kinds_of(&value)).collect();
        if !found.is_empty() && !found.contains(kind(value)) {
            let found: Vec<&str> = found.into_iter().collect();
            let (path, kind, value) =
                (shortened(&path.to_string()), kind(value), shortened(&value.to_string()));
            said.insert(format!(
                "{value} is {kind}; `{path}` is {} in every run that has it",
                found.join(" or ")
            ));
        }
    }
    said
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A text shortened to one line of a note.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn print(
    targets: &[output::Destination],
    found: &QueryResult,
    unfinished: Option<&[Unfinished]>,
) -> Result<(), Failure> {
    found.runs().iter().for_each(|run| warn_of_record(&run.path, &run.metadata));
    let rows: Vec<Vec<String>> = found.runs().iter().map(row).collect();
    let mut json = json!({
        "schema": "easyroutine.runs/1",
        "runs": found.runs().iter().map(if hosted::is_page() { shown } else { about }).collect::<Vec<_>>(),
        "problems": found.problems().iter().map(|p| json!({"path": p.path, "error": p.error.to_string()})).collect::<Vec<_>>(),
    });
    if let Some(unfinished) = unfinished {
        let about = |run: &Unfinished| {
            let Unfinished { name, path, begun, written, units } = run;
            json!({"path": path, "name": name, "begun": begun, "written": written, "units": units})
        };
        json["unfinished"] = unfinished.iter().map(about).collect();
    }
    output::tables(
        targets,
        &["run", "name", "experiment", "model", "tags", "examples", "tensors", "size"],
        &rows,
        &json,
    )
}

fn row(found: &Found) -> Vec<String> {
    let (metadata, path) = (&found.metadata, &found.path);
    let count = |key: &str| metadata.count(key).map(|n| n.to_string()).unwrap_or_default();
    vec![
        path.rsplit('/').next().unwrap_or_default().to_owned(),
        metadata.name().unwrap_or_default().to_owned(),
        path.split('/').next().unwrap_or_default().to_owned(),
        metadata.model_name().to_owned(),
        metadata.tags().join(", "),
        count("n_examples"),
        count("tensors"),
        readable(metadata.count("n_bytes").unwrap_or(0)),
    ]
}

/// What a list on a page shows of a run: thousands of whole records take seconds on their way.
fn shown(found: &Found) -> Value {
    let pick = |fields: Option<&Map<String, Value>>, keys: &[&str]| -> Map<String, Value> {
        let value = |key: &&str| {
            fields.and_then(|fields| fields.get(*key)).map(|value| ((*key).to_owned(), value.clone()))
        };
        keys.iter().filter_map(value).collect()
    };
    let fields = found.metadata.fields();
    let mut metadata = pick(Some(fields), &["save_time", "experiment_name", "model_name", "tag"]);
    let store = fields.get("_store").and_then(Value::as_object);
    metadata.insert("_store".to_owned(), pick(store, &["name", "tags", "n_examples", "n_bytes"]).into());
    json!({"path": found.path, "metadata": metadata})
}

/// A run as shown in lists: everything except its manifest.
pub(super) fn about(found: &Found) -> Value {
    let mut fields = found.metadata.fields().clone();
    if let Some(store) = fields.get_mut("_store").and_then(Value::as_object_mut) {
        store.shift_remove("manifest");
    }
    json!({"path": found.path, "metadata": fields})
}
