//! Imports runs of the original easyroutine: `tensor.pt` and `metadata.json`. The originals stay unchanged.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use easyroutine_files::Encoding;
use easyroutine_files::torch::{self, Item, TorchTensor};
use serde_json::{Map, Value as Json, json};

use crate::error::{Error, ErrorKind, Result};
use crate::fs::{EntryKind, FileSystem, OsFiles, link_of};
use crate::metadata::RESERVED;
use crate::names::{METADATA, ORIGINALS};
use crate::read;
use crate::save::{ActivationSaver, Contents, Model, Provenance};
use crate::store::Store;
use crate::tensor::{Dtype, Tensor};

/// Classes of the original, read as the dictionaries that they are.
const CACHE: &str = "easyroutine.interpretability.activation_cache.ActivationCache";
const VALUE: &str = "easyroutine.interpretability.activation_cache.ValueWithInfo";

/// The import of one original run.
#[derive(Debug)]
pub struct Imported {
    /// Its folder.
    pub from: PathBuf,
    /// Its new path, or why it could not be read.
    pub to: Result<String>,
}

impl Store {
    /// Imports every original run below a folder, oldest first. Runs imported before from the same folder are skipped.
    ///
    /// # Errors
    /// If the folder or the store can't be read. The error of a single run is in its result.
    pub fn import(&self, from: &Path) -> Result<Vec<Imported>> {
        let known: Vec<Json> = self
            .scan(None)?
            .runs
            .iter()
            .filter_map(|run| run.metadata.store()?.get("dataset")?.get("imported").cloned())
            .collect();
        let said = |e| Error::io("list the folder", from.display(), e);
        // By handle, so that no link in it is followed: a link's target is not in the folder.
        let files = OsFiles::open(from).map_err(said)?;
        let below = below(&files).map_err(said)?;
        let links = below
            .links
            .into_iter()
            .map(|link| Imported { from: from.join(link), to: Err(Error::link_here()) });
        let mut imported: Vec<Imported> = links.collect();
        for run in below.runs {
            if !known.contains(&json!(run)) {
                let folder = from.join(&run);
                let to = self.import_run(&files, &run).map_err(|e| e.at(folder.display()));
                imported.push(Imported { from: folder, to });
            }
        }
        Ok(imported)
    }

    fn import_run(&self, files: &OsFiles, name: &str) -> Result<String> {
        let open = |file: &str| files.open(&format!("{name}/{file}")).map_err(|e| Error::io("read", file, e));
        let text = read::whole(&*open(METADATA)?, METADATA)?;
        let metadata: Json =
            serde_json::from_slice(&text).map_err(|e| Error::damaged(format!("metadata.json: {e}")))?;
        let Json::Object(fields) = metadata else {
            return Err(Error::damaged("metadata.json: is not an object"));
        };
        let source = open(ORIGINALS)?;
        let tensors = match source.mapped() {
            Some(bytes) => Cow::Borrowed(bytes),
            None => {
                let mut bytes = vec![0; usize::try_from(source.size()).unwrap_or(0)];
                source.read_at(0, &mut bytes).map_err(|e| Error::io("read", ORIGINALS, e))?;
                Cow::Owned(bytes)
            }
        };
        let read = torch::read(&tensors, &[CACHE, VALUE]).map_err(|e| of_files(e.within(ORIGINALS)))?;
        let contents = contents(read)?;
        let text = |key: &str| fields.get(key).and_then(Json::as_str).map(str::to_owned);
        let value = |key: &str| fields.get(key).cloned().unwrap_or_default();
        let user = fields.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
        let mut other_metadata: Vec<_> =
            user.map(|(key, value)| (key.clone(), value.clone().into())).collect();
        other_metadata.push(("original_save_time".to_owned(), value("save_time").into()));
        let provenance = Provenance {
            model: Model {
                name: text("model_name").unwrap_or_else(|| "unknown".to_owned()),
                ..Model::default()
            },
            target_token_positions: value("target_token_positions"),
            interventions: Some(value("interventions").into()).filter(|_| !value("interventions").is_null()),
            extraction_config: value("extraction_config"),
            other_metadata,
            tags: text("tag").filter(|tag| !tag.is_empty()).into_iter().collect(),
            dataset: Some(json!({"imported": name})),
            types: Map::new(),
        };
        let experiment = text("experiment_name").unwrap_or_else(|| "default".to_owned());
        ActivationSaver::of(self.clone(), &experiment)?.save(&contents, &provenance)
    }
}

/// The contents of an original folder, by paths below it.
#[derive(Default)]
struct Below {
    /// Folders with a `tensor.pt`: experiment, model, time.
    runs: Vec<String>,
    /// Links where such a folder could be.
    links: Vec<String>,
}

fn below(files: &OsFiles) -> io::Result<Below> {
    let mut found = Below::default();
    let mut folders = |above: &str| -> io::Result<Vec<String>> {
        let mut folders = Vec::new();
        for entry in files.list(above)? {
            let path = if above.is_empty() { entry.name } else { format!("{above}/{}", entry.name) };
            match entry.kind {
                EntryKind::Folder => folders.push(path),
                EntryKind::Link if !path.starts_with('.') => found.links.push(path),
                _ => {}
            }
        }
        Ok(folders)
    };
    let mut runs = Vec::new();
    for experiment in folders("")? {
        for model in folders(&experiment)? {
            // A folder with either file is a run, even if broken.
            let is_run =
                |run: &String| files.entry(&format!("{run}/{ORIGINALS}")).is_ok() || is_original(files, run);
            runs.extend(folders(&model)?.into_iter().filter(is_run));
        }
    }
    runs.sort_by_key(|run| (run.rsplit('/').next().map(str::to_owned), run.clone()));
    Ok(Below { runs, ..found })
}

/// Whether a folder has a record that is not ours, even if torn.
fn is_original(files: &OsFiles, run: &str) -> bool {
    let ours =
        |text: &[u8]| serde_json::from_slice::<Json>(text).is_ok_and(|value| value.get("_store").is_some());
    match files.open(&format!("{run}/{METADATA}")) {
        Ok(source) => read::whole(&*source, METADATA).is_ok_and(|text| !ours(&text)),
        Err(error) => link_of(&error).is_some(),
    }
}

fn of_files(error: easyroutine_files::Error) -> Error {
    let kind = match error.kind() {
        easyroutine_files::ErrorKind::Io => ErrorKind::Io,
        easyroutine_files::ErrorKind::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Damaged,
    };
    Error::new(kind, error.to_string())
}

/// Tensors by key, those within lists and dictionaries as `key.place`; everything else as values.
fn contents(read: Item) -> Result<Contents<'static>> {
    let mut contents = Contents::default();
    let top = match read {
        Item::Object { class, state } if class == CACHE => {
            state.take("cache").ok_or_else(|| Error::damaged("tensor.pt: a cache without its values"))?
        }
        other => other,
    };
    match top {
        Item::Map(entries) => {
            for (key, item) in entries {
                let key = name(&key)?;
                if let Some(value) = put(&key, item, &mut contents)? {
                    contents.values.insert(key, value);
                }
            }
        }
        other => {
            if let Some(value) = put("activations", other, &mut contents)? {
                contents.values.insert("activations".to_owned(), value);
            }
        }
    }
    Ok(contents)
}

/// Adds a value. What is not a tensor is returned, with tensors replaced by their names.
fn put(key: &str, item: Item, contents: &mut Contents<'static>) -> Result<Option<Json>> {
    Ok(Some(match item {
        Item::Tensor(tensor) => {
            contents.tensors.push(tensor_of(key, tensor)?);
            return Ok(None);
        }
        Item::Object { class, state } if class == VALUE => {
            let Item::Map(entries) = *state else {
                return Err(Error::damaged(format!("tensor.pt: `{key}` is not a value")));
            };
            let mut kept = None;
            for (field, item) in entries {
                match (name(&field)?.as_str(), item) {
                    ("_value", item) => kept = put(key, item, contents)?,
                    ("_info", Item::Text(text)) => {
                        let info = contents.values.entry("info").or_insert_with(|| json!({}));
                        info[key] = json!(text);
                    }
                    _ => {}
                }
            }
            return Ok(kept);
        }
        Item::Object { class, .. } => {
            return Err(Error::new(ErrorKind::Unsupported, format!("tensor.pt: `{key}` is a {class}")));
        }
        Item::List(items) => {
            let mut values = Vec::with_capacity(items.len());
            for (place, item) in items.into_iter().enumerate() {
                let name = format!("{key}.{place}");
                values.push(put(&name, item, contents)?.unwrap_or_else(|| json!({"_tensor": name})));
            }
            Json::Array(values)
        }
        Item::Map(entries) => {
            let mut values = Map::new();
            for (field, item) in entries {
                let field = name(&field)?;
                let name = format!("{key}.{field}");
                values.insert(field, put(&name, item, contents)?.unwrap_or_else(|| json!({"_tensor": name})));
            }
            Json::Object(values)
        }
        Item::None => Json::Null,
        Item::Bool(value) => json!(value),
        Item::Int(value) => json!(value),
        // JSON has no infinities and no NaN, so these become strings.
        Item::Float(value) if value.is_finite() => json!(value),
        Item::Float(value) => json!(value.to_string()),
        Item::Text(text) => json!(text),
    }))
}

fn tensor_of(key: &str, tensor: TorchTensor) -> Result<Tensor<'static>> {
    let dtype = match tensor.encoding {
        Encoding::F64 => Dtype::F64,
        Encoding::F32 => Dtype::F32,
        Encoding::F16 => Dtype::F16,
        Encoding::Bf16 => Dtype::Bf16,
        Encoding::I64 => Dtype::I64,
        Encoding::I32 => Dtype::I32,
        Encoding::I16 => Dtype::I16,
        Encoding::I8 => Dtype::I8,
        Encoding::U8 => Dtype::U8,
        Encoding::Bool => Dtype::Bool,
        Encoding::Complex64 => Dtype::C64,
        other => return Err(Error::new(ErrorKind::Unsupported, format!("tensor.pt: `{key}` is of {other}"))),
    };
    Ok(Tensor::new(key, dtype, &tensor.shape, tensor.bytes))
}

/// A key as a string: positions may be numbers or pairs.
fn name(key: &Item) -> Result<String> {
    Ok(match key {
        Item::Text(text) => text.clone(),
        Item::Int(number) => number.to_string(),
        Item::Bool(value) => value.to_string(),
        Item::None => "None".to_owned(),
        Item::List(items) => format!("[{}]", items.iter().map(name).collect::<Result<Vec<_>>>()?.join(",")),
        _ => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "tensor.pt: a key that is neither text nor number",
            ));
        }
    })
}
