//! The commit record: the original's keys at the top, ours under `_store`.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Manifest;
use crate::record_sum::{self, RecordSum};

/// The layout version written.
pub const VERSION: u64 = 1;
/// The schema name in `_store`.
pub(crate) const SCHEMA: &str = "easyroutine.run";
/// Keys reserved from users.
pub const RESERVED: &[&str] = &[
    "_store",
    "tag",
    "save_time",
    "experiment_name",
    "model_name",
    "target_token_positions",
    "interventions",
    "extraction_config",
];

/// The warning about a record whose checksum is wrong.
pub(crate) const EDITED: &str = "was changed by something other than easyroutine, or is damaged: its checksum differs, so what it says of the run (seed, \
     interventions, tag) may not be what was saved";

/// The metadata of a run. Keys unknown to this version are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    fields: Map<String, Value>,
    checksum: RecordSum,
}

impl Metadata {
    /// Parses a record.
    ///
    /// # Errors
    /// If it is not JSON, not one of our records, or of a newer version.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(text).map_err(|e| Error::damaged(e.to_string()))?;
        let Value::Object(mut fields) = value else { return Err(Error::damaged("is not an object")) };
        let checksum = record_sum::of(text, fields.get("_store"));
        if let Some(store) = fields.get_mut("_store").and_then(Value::as_object_mut) {
            store.shift_remove(record_sum::KEY);
        }
        let metadata = Metadata { fields, checksum };
        metadata.check()?;
        Ok(metadata)
    }

    pub(crate) fn new(fields: Map<String, Value>) -> Self {
        Metadata { fields, checksum: RecordSum::Right }
    }

    fn check(&self) -> Result<()> {
        let Some(store) = self.fields.get("_store") else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "has no `_store`: a run of the original easyroutine?",
            )
            .hint("easyroutine runs import BASE reads such runs"));
        };
        if store.get("schema").and_then(Value::as_str) != Some(SCHEMA) {
            return Err(Error::damaged(format!("`_store.schema` is not \"{SCHEMA}\"")));
        }
        let number = |key: &str| store.get(key).and_then(Value::as_u64);
        let Some(least) = number("min_reader") else {
            return Err(Error::damaged("`_store.min_reader` is not a number"));
        };
        if least > VERSION {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("needs a reader of version {least}; this one has {VERSION}"),
            )
            .hint("a newer easyroutine reads it"));
        }
        for key in ["run_id", "state", "created_at"] {
            if self.store_text(key).is_none() {
                return Err(Error::damaged(format!("`_store.{key}` is not text")));
            }
        }
        if number("revision").is_none() {
            return Err(Error::damaged("`_store.revision` is not a number"));
        }
        if self.store_text("state") != Some("committed") {
            return Err(Error::damaged("is not committed"));
        }
        for key in ["save_time", "experiment_name", "model_name"] {
            if !self.fields.get(key).is_some_and(Value::is_string) {
                return Err(Error::damaged(format!("`{key}` is not text")));
            }
        }
        Ok(())
    }

    /// All keys, ours and the user's.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// The model's true name.
    pub fn model_name(&self) -> &str {
        self.text("model_name")
    }

    /// When the run was claimed, in the original's format, local time.
    pub fn save_time(&self) -> &str {
        self.text("save_time")
    }

    /// The id. Ids are ordered as the claims.
    pub fn run_id(&self) -> &str {
        self.store_text("run_id").unwrap_or_default()
    }

    /// The name under which the run was begun, if it was written unit by unit.
    pub fn name(&self) -> Option<&str> {
        self.store_text("name")
    }

    /// The revision of the record, from 1.
    pub fn revision(&self) -> u64 {
        self.store().and_then(|store| store.get("revision")).and_then(Value::as_u64).unwrap_or(0)
    }

    /// The tag given on saving, then later ones.
    pub fn tags(&self) -> Vec<&str> {
        let later = self.store().and_then(|store| store.get("tags")).and_then(Value::as_array);
        let first = self.fields.get("tag").and_then(Value::as_str);
        first.into_iter().chain(later.into_iter().flatten().filter_map(Value::as_str)).collect()
    }

    /// The keys that the user added.
    pub fn user(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.fields.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()))
    }

    /// A digest that is the same for two runs with the same tensors.
    pub fn digest(&self) -> &str {
        self.store_text("digest").unwrap_or_default()
    }

    /// A number in `_store`: `n_examples`, `n_bytes`, `tensors`.
    pub fn count(&self, key: &str) -> Option<u64> {
        self.store()?.get(key)?.as_u64()
    }

    /// The contents of `_store`.
    pub fn store(&self) -> Option<&Map<String, Value>> {
        self.fields.get("_store")?.as_object()
    }

    pub(crate) fn store_mut(&mut self) -> Option<&mut Map<String, Value>> {
        self.fields.get_mut("_store")?.as_object_mut()
    }

    pub(crate) fn fields_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.fields
    }

    /// The folder is the experiment: its name overrides the copy in the file.
    pub(crate) fn in_experiment(mut self, name: &str) -> Self {
        self.fields.insert("experiment_name".to_owned(), name.into());
        self
    }

    /// The manifest, if it is in the record, else the checksum of its file.
    pub(crate) fn manifest(&self) -> Result<ManifestPlace> {
        let place = self.store().and_then(|store| store.get("manifest"));
        let text = |key: &str| place.and_then(|place| place.get(key)).and_then(Value::as_str);
        let Some(checksum) = text("xxh3") else {
            return Err(Error::damaged("`_store.manifest` has no checksum"));
        };
        let Some(inline) = place.and_then(|place| place.get("inline")) else {
            return Ok(ManifestPlace::File { checksum: checksum.to_owned() });
        };
        if crate::hash::of(inline.to_string().as_bytes()) != checksum {
            return Err(Error::damaged("the manifest is not the one that was committed"));
        }
        Ok(ManifestPlace::Inline(Manifest::from_value(inline)?))
    }

    /// Whether the record is as easyroutine wrote it.
    pub fn checksum(&self) -> RecordSum {
        self.checksum
    }

    /// A warning about the record for readers of the run, if there is one.
    pub fn warning(&self) -> Option<&'static str> {
        (self.checksum == RecordSum::Wrong).then_some(EDITED)
    }

    /// Accepts the record as it is, whichever program wrote it.
    pub(crate) fn accept(&mut self) {
        self.checksum = RecordSum::Right;
    }

    /// The file's content, with its checksum. A record changed by another program keeps a wrong one: an edit does not
    /// vouch for others' changes.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut fields = self.fields.clone();
        let placeholder = record_sum::placeholder();
        if let Some(store) = fields.get_mut("_store").and_then(Value::as_object_mut) {
            store.insert("version".to_owned(), record_sum::SINCE_VERSION.into());
            store.insert(record_sum::KEY.to_owned(), placeholder.as_str().into());
        }
        let mut text = serde_json::to_string_pretty(&fields).unwrap_or_default();
        text.push('\n');
        if self.checksum != RecordSum::Wrong {
            text = record_sum::filled(text, &placeholder);
        }
        text.into_bytes()
    }

    fn text(&self, key: &str) -> &str {
        self.fields.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn store_text(&self, key: &str) -> Option<&str> {
        self.store()?.get(key)?.as_str()
    }
}

/// The location of a manifest.
#[derive(Debug)]
pub(crate) enum ManifestPlace {
    Inline(Manifest),
    File { checksum: String },
}

/// Refuses tags that no query could find.
pub(crate) fn check_tag(tag: &str) -> Result<()> {
    if tag.is_empty() || tag.chars().any(char::is_control) {
        return Err(Error::input(format!("`{}` is not a tag", tag.escape_debug())));
    }
    Ok(())
}

/// Refuses reserved keys.
pub(crate) fn check_user_key(key: &str) -> Result<()> {
    if RESERVED.contains(&key) {
        return Err(Error::input(format!("`{key}` is not a key of yours: the store writes it itself"))
            .hint(format!("reserved keys are {}", RESERVED.join(", "))));
    }
    Ok(())
}
