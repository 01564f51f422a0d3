//! Saving: a run is written completely, then published by one rename.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::backend::{Backend, Durability, MaybeHeld};
use crate::clock::{Claim, utc};
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Hold;
use crate::hash;
use crate::manifest::{Manifest, Shard, TensorEntry};
use crate::metadata::{Metadata, SCHEMA, VERSION, check_tag, check_user_key};
use crate::names::{MANIFEST, METADATA, check_experiment, model_folder};
use crate::record_sum;
use crate::shard::{self, Label, SHARD_BYTES};
use crate::store::Store;
use crate::tensor::Tensor;
use crate::value::Value;

/// Longest manifest kept in the record itself, in bytes.
const INLINE: usize = 64 << 10;

/// Saves runs of one experiment.
#[derive(Debug, Clone)]
pub struct ActivationSaver {
    store: Store,
    experiment: String,
    shard_bytes: u64,
}

/// What to save: tensors, and values besides them (`mapping_index`, `token_dict`).
#[derive(Debug, Clone, Default)]
pub struct Contents<'a> {
    /// Tensors with distinct names.
    pub tensors: Vec<Tensor<'a>>,
    /// Values that readers get back unchanged.
    pub values: Map<String, Json>,
}

/// How the activations came about.
#[derive(Debug, Clone, Default)]
pub struct Provenance<'a> {
    /// The hub's name of the model, else the stem of its folder or file.
    pub model: Model,
    /// The specifiers, in the order requested.
    pub target_token_positions: Json,
    /// Interventions, `None` if there were none.
    pub interventions: Option<Value<'a>>,
    /// What was extracted: flags and their modifiers.
    pub extraction_config: Json,
    /// Any other metadata.
    pub other_metadata: Vec<(String, Value<'a>)>,
    /// Types of these values that JSON lacks, for the writer's use: keyed by JSON pointers into the record
    /// (`/window/0`), in the writer's own terms. Queries do not see them.
    pub types: Map<String, Json>,
    /// Tags to find it by.
    pub tags: Vec<String>,
    /// The source of the rows, if known.
    pub dataset: Option<Json>,
}

/// The model that was run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    /// `org/name`.
    pub name: String,
    /// The commit on the hub.
    pub revision: Option<String>,
    /// Its identity by content, whatever its name: the engine's digest of its files.
    pub digest: Option<String>,
    /// The dtype in which it computed.
    pub dtype: Option<String>,
    /// The name of the adapter applied to it.
    pub adapter: Option<String>,
}

impl ActivationSaver {
    /// A saver of an experiment in a folder, created if missing.
    ///
    /// # Errors
    /// If the name is bad, or the folder can't be created.
    pub fn new(base: impl AsRef<Path>, experiment: &str) -> Result<Self> {
        check_experiment(experiment)?;
        ActivationSaver::of(Store::create(base)?, experiment)
    }

    /// A saver in the folder that `ACTIVATION_BASE_DIR` names, in the environment or a `.env` file.
    ///
    /// # Errors
    /// If no folder is named, and as [`ActivationSaver::new`].
    pub fn from_env(experiment: &str) -> Result<Self> {
        ActivationSaver::new(Store::base_from_env()?, experiment)
    }

    /// A saver of an experiment in a store.
    ///
    /// # Errors
    /// If the name is bad, or the store can't be written to.
    pub fn of(store: Store, experiment: &str) -> Result<Self> {
        check_experiment(experiment)?;
        Ok(ActivationSaver {
            store: store.made()?,
            experiment: experiment.to_owned(),
            shard_bytes: SHARD_BYTES,
        })
    }

    /// The same with another shard size.
    #[must_use]
    pub fn with_shard_bytes(self, shard_bytes: u64) -> Self {
        ActivationSaver { shard_bytes: shard_bytes.max(1), ..self }
    }

    /// The same with another durability: [`Durability::Fast`] does not wait for the disk.
    #[must_use]
    pub fn with_durability(self, durability: Durability) -> Self {
        ActivationSaver { store: self.store.with_durability(durability), ..self }
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The experiment.
    pub fn experiment(&self) -> &str {
        &self.experiment
    }

    /// Renames the experiment, and saves to it under the new name from now on.
    ///
    /// # Errors
    /// As [`Store::rename_experiment`].
    pub fn rename_experiment(&mut self, name: &str) -> Result<()> {
        self.store.rename_experiment(&self.experiment, name)?;
        self.experiment = name.to_owned();
        Ok(())
    }

    /// Saves one run and returns its path below the store: `experiment/model/time`.
    ///
    /// # Errors
    /// If contents or metadata can't be kept, in which case nothing is written; or if the system refuses, in which case
    /// nothing is visible.
    pub fn save(&self, contents: &Contents<'_>, provenance: &Provenance<'_>) -> Result<String> {
        let fields = Fields::new(provenance)?;
        let tensors: Vec<Tensor<'_>> = contents
            .tensors
            .iter()
            .map(Tensor::borrowed)
            .chain(fields.aux.iter().map(Tensor::borrowed))
            .collect();
        check_tensors(&tensors)?;
        let backend = self.store.backend();
        let (path, claim, _held) = claim(backend, &self.experiment, &provenance.model.name)?;
        let label =
            Label { run: &path, run_id: &claim.run_id.to_string(), number: 0, examples: None, worker: None };
        let write = || -> Result<()> {
            let shards = shard::write_all(backend, &label, shard::plan(&tensors, self.shard_bytes))?;
            let manifest = manifest(&tensors, contents.values.clone(), shards);
            let size = Size { n_examples: n_examples(&contents.tensors), n_rows: n_rows(&contents.tensors) };
            publish(backend, &path, &claim, fields.json.clone(), manifest, size)
        };
        write().inspect_err(|_| {
            // Invisible at once, should the record exist already; `gc` finds whatever can't be deleted now.
            let _ = backend.retire(&path);
        })?;
        Ok(path)
    }
}

/// Top-level keys of the record, and the tensors found in them.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) json: Map<String, Json>,
    pub(crate) aux: Vec<Tensor<'a>>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(provenance: &'a Provenance<'_>) -> Result<Self> {
        if provenance.model.name.is_empty() {
            return Err(
                Error::input("the model has no name").hint("its name on the hub, or the stem of its folder")
            );
        }
        let tags = distinct(&provenance.tags)?;
        let (interventions, mut aux) = match &provenance.interventions {
            Some(value) => value.split("interventions")?,
            None => (Json::Null, Vec::new()),
        };
        let mut json = Map::new();
        // The original has one; the others stand where later ones do.
        json.insert("tag".to_owned(), json!(tags.first()));
        // In the original's order; the three are known once the run is claimed.
        for key in ["save_time", "experiment_name"] {
            json.insert(key.to_owned(), Json::Null);
        }
        json.insert("model_name".to_owned(), json!(provenance.model.name));
        json.insert("target_token_positions".to_owned(), provenance.target_token_positions.clone());
        json.insert("interventions".to_owned(), interventions);
        json.insert("extraction_config".to_owned(), provenance.extraction_config.clone());
        for (key, value) in &provenance.other_metadata {
            check_user_key(key)?;
            let (value, tensors) = value.split(key)?;
            aux.extend(tensors);
            if json.insert(key.clone(), value).is_some() {
                return Err(Error::input(format!("two values for the key `{key}`")));
            }
        }
        let Model { name, revision, digest, dtype, adapter } = &provenance.model;
        let mut model = json!({"id": name, "revision": revision, "dtype": dtype});
        if let Some(adapter) = adapter {
            model["adapter"] = json!(adapter);
        }
        let mut store = json!({"model": model, "model_digest": digest, "dataset": provenance.dataset});
        if !provenance.types.is_empty() {
            store["types"] = provenance.types.clone().into();
        }
        if tags.len() > 1 {
            store["tags"] = json!(tags[1..]);
        }
        json.insert("_store".to_owned(), store);
        Ok(Fields { json, aux })
    }
}

/// Tags without duplicates.
fn distinct(tags: &[String]) -> Result<Vec<&str>> {
    let mut found = Vec::new();
    for tag in tags {
        check_tag(tag)?;
        if !found.contains(&tag.as_str()) {
            found.push(tag.as_str());
        }
    }
    Ok(found)
}

/// The size of a run, as far as known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Size {
    pub(crate) n_examples: Option<u64>,
    pub(crate) n_rows: Option<u64>,
}

/// Claims a folder for a new run, and holds it.
pub(crate) fn claim(
    backend: &dyn Backend,
    experiment: &str,
    model: &str,
) -> Result<(String, Claim, MaybeHeld)> {
    loop {
        let claim = Claim::new(backend)?;
        let path = format!("{experiment}/{}/{}", model_folder(model), claim.folder);
        match backend.claim(&path).and_then(|()| backend.hold(&path, Hold::Together)) {
            Ok(held) => return Ok((path, claim, held)),
            // Another run of this very second has the same six letters, so try the next id. Or the folder was cleared
            // away before it was held.
            Err(error) if matches!(error.kind(), ErrorKind::Exists | ErrorKind::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes manifest and record; then the run exists.
pub(crate) fn publish(
    backend: &dyn Backend,
    path: &str,
    claim: &Claim,
    mut fields: Map<String, Json>,
    manifest: Manifest,
    size: Size,
) -> Result<()> {
    let (inline, checksum) = manifest.to_value()?;
    let text = inline.to_string();
    let place = if text.len() > INLINE {
        put_manifest(backend, path, text.as_bytes())?;
        json!({"file": MANIFEST, "bytes": text.len(), "xxh3": checksum})
    } else {
        json!({"inline": inline, "xxh3": checksum})
    };
    // Nothing that the record refers to may be lost while the record is kept.
    backend.settle(path)?;
    let experiment = path.split('/').next().unwrap_or_default();
    fields.insert("save_time".to_owned(), json!(claim.save_time));
    fields.insert("experiment_name".to_owned(), json!(experiment));
    let about = fields.remove("_store").unwrap_or_default();
    let committed_at = utc()?;
    let mut store = Map::new();
    let mut put = |key: &str, value: Json| store.insert(key.to_owned(), value);
    put("schema", json!(SCHEMA));
    put("version", json!(record_sum::SINCE_VERSION));
    put("min_reader", json!(VERSION));
    put("run_id", json!(claim.run_id.to_string()));
    put("state", json!("committed"));
    put("tags", about.get("tags").cloned().unwrap_or_else(|| json!([])));
    put("created_at", json!(claim.created_at));
    put("committed_at", json!(committed_at));
    put("revision", json!(1));
    put("writer", json!(concat!("easyroutine ", env!("CARGO_PKG_VERSION"))));
    put("durability", json!(if backend.durability() == Durability::Full { "full" } else { "fast" }));
    for of_model in ["model", "model_digest"] {
        put(of_model, about.get(of_model).cloned().unwrap_or_default());
    }
    for where_there_is_one in ["name", "plan", "types"] {
        if let Some(value) = about.get(where_there_is_one) {
            put(where_there_is_one, value.clone());
        }
    }
    put("dataset", about.get("dataset").cloned().unwrap_or_default());
    put("n_examples", json!(size.n_examples));
    put("n_rows", json!(size.n_rows));
    put("n_bytes", json!(manifest.n_bytes()));
    put("tensors", json!(manifest.tensors.len()));
    put("digest", json!(manifest.digest()));
    put("manifest", place);
    fields.insert("_store".to_owned(), Json::Object(store));
    let record = Metadata::new(fields);
    backend.publish(&format!("{path}/{METADATA}"), &record.to_bytes())
}

/// A commit that died before its record leaves a manifest that the next one may find.
fn put_manifest(backend: &dyn Backend, path: &str, text: &[u8]) -> Result<()> {
    let file = format!("{path}/{MANIFEST}");
    let put = || -> Result<()> {
        let mut upload = backend.upload(&file)?;
        upload.write_all(text).map_err(|e| Error::io("write", &file, e))?;
        upload.finish()
    };
    match put() {
        Err(error) if error.kind() == ErrorKind::Exists => {
            let found = crate::read::whole(&*backend.open(&file)?, &file)?;
            if hash::of(&found) == hash::of(text) { Ok(()) } else { Err(error) }
        }
        done => done,
    }
}

pub(crate) fn manifest(tensors: &[Tensor<'_>], values: Map<String, Json>, shards: Vec<Shard>) -> Manifest {
    let entry = |tensor: &Tensor<'_>| TensorEntry {
        name: tensor.name.clone(),
        dtype: tensor.dtype,
        kind: tensor.kind,
        row_shape: tensor.shape.iter().skip(1).copied().collect(),
        axes: tensor.axes.clone(),
    };
    Manifest { tensors: tensors.iter().map(entry).collect(), values, shards }
}

/// Finds colliding names and inconsistent shapes before a byte is written.
pub(crate) fn check_tensors(tensors: &[Tensor<'_>]) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    for tensor in tensors {
        tensor.check()?;
        let offsets = tensor.kind.is_ragged().then(|| crate::tensor::offsets_of(&tensor.name));
        for name in [Some(tensor.name.clone()), offsets].into_iter().flatten() {
            if !names.insert(name.clone()) {
                return Err(Error::input(format!("two tensors are called `{name}`")));
            }
        }
    }
    Ok(())
}

/// Number of examples, if all tensors of examples agree.
pub(crate) fn n_examples(tensors: &[Tensor<'_>]) -> Option<u64> {
    same(tensors.iter().filter(|t| t.kind != crate::Kind::Object).map(|t| t.examples().map(|n| n as u64)))
}

/// Token rows of all examples, if all tensors agree.
pub(crate) fn n_rows(tensors: &[Tensor<'_>]) -> Option<u64> {
    let rows = |tensor: &Tensor<'_>| match tensor.kind {
        crate::Kind::Dense => Some(tensor.shape.iter().take(2).product::<usize>() as u64),
        crate::Kind::Rows => tensor.shape.first().map(|n| *n as u64),
        _ => None,
    };
    same(tensors.iter().filter_map(|t| rows(t).map(Some)))
}

fn same(mut counts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let first = counts.next()??;
    counts.all(|count| count == Some(first)).then_some(first)
}
