//! What a run is, and how it came about.

use easyroutine::edit::{Intervention, Operation};
use easyroutine::sites::Site;
use easyroutine_store::{Model, Story, checksum};
use serde_json::{Map, Value, json};

use super::Job;
use crate::commands::dtype_name;
use crate::commands::runs::{pairs, position};
use crate::failure::Failure;
use crate::filling::spec_of_model;
use crate::filling::summary;
use crate::session::Session;

/// All that makes the run what it is, beside its rows: whoever joins must want the same.
pub(super) fn spec(job: &Job<'_>) -> Result<Map<String, Value>, Failure> {
    let Session { files, model, identity, .. } = job.session;
    let mut spec = spec_of_model(files, identity.digest()?, model);
    let entries = [
        ("activations", json!(job.extract.activations.join(","))),
        ("positions", json!(job.extract.positions)),
        ("interventions", json!(interventions(job))),
    ];
    spec.extend(entries.map(|(key, value)| (key.to_owned(), value)));
    Ok(spec)
}

/// How the run came about.
pub(super) fn of(job: &Job<'_>) -> Result<Story<'static>, Failure> {
    let extract = job.extract;
    let points = job.request.points(job.session.model.arch())?;
    // As the original's config: a flag for each site; logits are on unless it says otherwise.
    let mut config = Map::from_iter([(Site::Logits.flag().to_owned(), Value::Bool(false))]);
    config.extend(points.iter().map(|point| (point.site().flag().to_owned(), Value::Bool(true))));
    config.insert("activations".to_owned(), json!(extract.activations.join(",")));
    // What else the numbers hang on, where it is not as ever.
    if let Some(count) = extract.generate {
        config.insert("generate".to_owned(), json!(count));
        config.insert("ignore_end".to_owned(), json!(extract.ignore_end));
    }
    if extract.changes.seed != 0 {
        config.insert("seed".to_owned(), json!(extract.changes.seed));
    }
    if let Some(chat) = job.chat {
        config.insert("chat".to_owned(), chat.clone());
    }
    let mut other_metadata = Vec::new();
    if !extract.pivot.is_empty() {
        other_metadata.push(("pivot_positions".to_owned(), json!(extract.pivot).into()));
    }
    other_metadata.extend(pairs(&extract.saving.meta)?.into_iter().map(|(key, value)| (key, value.into())));
    if !job.fields.is_empty() {
        if other_metadata.iter().any(|(key, _)| key == "fields") {
            return Err(Failure::usage(
                "--meta fields=…: `fields` says what --keep-fields keeps of each row",
            )
            .hint("call your key another name"));
        }
        other_metadata.push(("fields".to_owned(), summary(job.fields).into()));
    }
    let positions = job.request.positions.iter().map(position);
    let file = extract.file.as_ref().and_then(|file| file.file_name()).map(|name| name.to_string_lossy());
    Ok(Story {
        model: Model {
            name: job.session.files.name.clone(),
            revision: job.session.files.commit.clone(),
            dtype: Some(dtype_name(job.session.model.dtype()).to_owned()),
            digest: Some(job.session.identity.digest()?.to_owned()),
        },
        target_token_positions: positions.collect(),
        interventions: interventions(job).map(Into::into),
        extraction_config: Value::Object(config),
        other_metadata,
        tag: extract.saving.tag.clone(),
        dataset: file.map(|name| json!({"file": name})),
        types: Map::new(),
    })
}

/// The interventions as they were written, with the digest of the values that they name.
fn interventions(job: &Job<'_>) -> Option<Value> {
    let written = job.extract.changes.intervene.iter().zip(job.interventions);
    let one = |(text, intervention): (&String, &Intervention)| match &intervention.operation {
        Operation::Replace(values) | Operation::Mean(values) | Operation::Add { values, .. } => {
            let bytes: Vec<u8> = values.values().iter().flat_map(|x| x.to_le_bytes()).collect();
            json!({"intervene": text, "values": checksum(&bytes), "shape": values.shape()})
        }
        Operation::Scale(_) | Operation::Set(_) | Operation::Resample { .. } => json!({"intervene": text}),
    };
    (!job.interventions.is_empty()).then(|| written.map(one).collect())
}
