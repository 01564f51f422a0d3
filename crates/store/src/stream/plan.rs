//! The plan of a run being written.

use std::ops::Range;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::clock::Claim;
use crate::error::{Error, ErrorKind, Result};
use crate::metadata::{RESERVED, VERSION};
use crate::record_sum::{self, is_right};
use crate::save::Fields;

/// The prefix of the plan file of an open run, next to the folders of runs.
pub(crate) const OPEN_BEGINS: &str = ".open-";
/// The key of its checksum.
const SUM: &str = "plan_xxh3";
/// Limit on units per plan: as many as five digits can name.
const MOST_UNITS: u64 = 100_000;

/// The key, in plans and in a record's `_store`, of the model's identity by content.
pub const MODEL_DIGEST: &str = "model_digest";

/// How the examples are divided, and everything that determines the result.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Number of examples.
    pub n_examples: u64,
    /// Examples per unit; the last may have fewer.
    pub unit: u64,
    /// Model, activations, positions, data, instructions, dtype: a process that joins must request the same.
    pub spec: Map<String, Value>,
}

impl Plan {
    /// Number of units.
    pub fn n_units(&self) -> usize {
        usize::try_from(self.n_examples.div_ceil(self.unit.max(1))).unwrap_or(usize::MAX)
    }

    /// The examples of a unit.
    pub fn examples(&self, unit: usize) -> Range<u64> {
        let start = (unit as u64).saturating_mul(self.unit).min(self.n_examples);
        start..start.saturating_add(self.unit).min(self.n_examples)
    }

    /// The same, with the tags and the user keys of the run: those of a process that joins would otherwise be dropped
    /// silently.
    pub(super) fn with_words(&self, fields: &Fields<'_>) -> Self {
        let mut plan = self.clone();
        let tag = fields.json.get("tag").filter(|tag| !tag.is_null());
        let user = fields.json.iter().filter(|(key, _)| !RESERVED.contains(&key.as_str()));
        let user: Map<String, Value> = user.map(|(key, value)| (key.clone(), value.clone())).collect();
        plan.spec.extend(tag.map(|tag| ("tag".to_owned(), tag.clone())));
        let more = fields.json.get("_store").and_then(|store| store.get("tags"));
        plan.spec.extend(more.map(|tags| ("tags".to_owned(), tags.clone())));
        plan.spec.extend((!user.is_empty()).then(|| ("other_metadata".to_owned(), user.into())));
        plan
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.n_examples == 0 || self.unit == 0 {
            return Err(Error::input("a plan has at least one example, and units of at least one"));
        }
        if self.n_examples.div_ceil(self.unit) > MOST_UNITS {
            return Err(Error::input(format!("a plan has at most {MOST_UNITS} units"))
                .hint("let a unit have more examples"));
        }
        Ok(())
    }

    fn to_json(&self) -> Value {
        json!({"n_examples": self.n_examples, "unit": self.unit, "spec": self.spec})
    }

    pub(super) fn from_json(plan: &Value) -> Result<Self> {
        let lacks = |key: &str| Error::damaged(format!("`{key}` is missing"));
        let number = |key: &str| plan.get(key).and_then(Value::as_u64).ok_or_else(|| lacks(key));
        let spec = plan.get("spec").and_then(Value::as_object).ok_or_else(|| lacks("spec"))?.clone();
        let plan = Plan { n_examples: number("n_examples")?, unit: number("unit")?, spec };
        plan.check()?;
        Ok(plan)
    }

    /// Refuses a model other than the one that began the run, whatever their names. If the plan does not identify the
    /// model, the units written may be another model's.
    fn check_same_model(&self, now: &Plan) -> Result<()> {
        let digest = |plan: &Plan| plan.spec.get(MODEL_DIGEST).and_then(Value::as_str).map(str::to_owned);
        let (Some(ours), theirs) = (digest(now), digest(self)) else { return Ok(()) };
        let Some(theirs) = theirs else {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "was begun by an easyroutine that did not keep which model it was, so {} ({ours}) cannot be told from \
                     another of its name",
                    name_of(&now.spec)
                ),
            )
            .hint("begin another under another name; a run that is whole stays readable"));
        };
        if ours == theirs {
            return Ok(());
        }
        let (was, is) = (name_of(&self.spec), name_of(&now.spec));
        Err(Error::new(
            ErrorKind::Conflict,
            format!("was begun with another model: {was} was {theirs}, now {is} is {ours}"),
        )
        .hint("take the model that it was begun with (`easyroutine model info` prints its digest), or begin another under another name"))
    }

    /// Refuses a plan that differs from the one that began the run, and names the first difference.
    pub(super) fn check_same(&self, now: &Plan) -> Result<()> {
        if self == now {
            return Ok(());
        }
        self.check_same_model(now)?;
        let keys = self.spec.keys().chain(now.spec.keys());
        let differing = keys.filter(|key| self.spec.get(*key) != now.spec.get(*key)).min();
        let what = match differing {
            Some(key) => {
                let shown = |spec: &Map<String, Value>| {
                    spec.get(key).map_or("nothing".to_owned(), |value| short(&value.to_string()))
                };
                format!("`{key}` was {}, now it is {}", shown(&self.spec), shown(&now.spec))
            }
            None => format!(
                "{} examples in units of {} were planned, now {} in units of {}",
                self.n_examples, self.unit, now.n_examples, now.unit
            ),
        };
        Err(Error::new(ErrorKind::Conflict, format!("was begun by another plan: {what}"))
            .hint("repeat it as it was begun, or begin another under another name"))
    }
}

/// Checks a run's name, which becomes part of a file name.
pub(super) fn check_name(name: &str) -> Result<()> {
    let fine = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 100 || !name.chars().all(fine) || name.starts_with('.') {
        return Err(Error::input(format!("`{}` is not a name for a run", name.escape_debug()))
            .hint("letters, digits, `-`, `_` and `.`, at most 100"));
    }
    Ok(())
}

/// The file that marks a run of this name as open.
pub(super) fn file(folder: &str, name: &str) -> String {
    format!("{folder}/{OPEN_BEGINS}{name}.json")
}

/// The contents of that file.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    content: Map<String, Value>,
    plan: Plan,
}

impl Opened {
    pub(super) fn new(name: &str, plan: &Plan, claim: &Claim, fields: &Fields<'_>) -> Self {
        let content = json!({
            "schema": "easyroutine.open",
            "version": VERSION,
            "name": name,
            "run_id": claim.run_id.to_string(),
            "folder": claim.folder,
            "save_time": claim.save_time,
            "created_at": claim.created_at,
            "plan": plan.to_json(),
            "fields": fields.json,
            "has_aux": !fields.aux.is_empty(),
        });
        Opened { content: content.as_object().cloned().unwrap_or_default(), plan: plan.clone() }
    }

    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        let value: Value = serde_json::from_slice(text).map_err(|e| Error::damaged(e.to_string()))?;
        let Value::Object(content) = value else { return Err(Error::damaged("is not an object")) };
        let lacks = |key: &str| Error::damaged(format!("`{key}` is missing"));
        if content.get("version").and_then(Value::as_u64).is_none_or(|version| version > VERSION) {
            return Err(Error::new(ErrorKind::Unsupported, "was begun by a newer easyroutine"));
        }
        for key in ["name", "run_id", "folder", "save_time", "created_at"] {
            content.get(key).and_then(Value::as_str).ok_or_else(|| lacks(key))?;
        }
        content.get("fields").and_then(Value::as_object).ok_or_else(|| lacks("fields"))?;
        let plan = content.get("plan").ok_or_else(|| lacks("plan"))?;
        let plan = Plan::from_json(plan)?;
        let opened = Opened { content, plan };
        crate::names::check_run_path(&format!("experiment/model/{}", opened.folder()))?;
        // Older plans have none.
        if opened.content.get(SUM).is_some_and(|sum| !is_right(text, sum.as_str().unwrap_or_default())) {
            return Err(Error::damaged(
                "the plan's checksum does not fit: it was edited by hand, or is damaged",
            )
            .hint("begin another run under another name"));
        }
        Ok(opened)
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let mut content = self.content.clone();
        let placeholder = record_sum::placeholder();
        content.insert(SUM.to_owned(), json!(placeholder));
        let text = serde_json::to_string_pretty(&content).unwrap_or_default();
        record_sum::filled(text, &placeholder).into_bytes()
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn name(&self) -> &str {
        self.text("name")
    }

    pub(super) fn run_id(&self) -> &str {
        self.text("run_id")
    }

    pub(crate) fn folder(&self) -> &str {
        self.text("folder")
    }

    pub(super) fn save_time(&self) -> &str {
        self.text("save_time")
    }

    /// Whether the metadata has tensors, which are kept in a part of their own.
    pub(super) fn has_aux(&self) -> bool {
        self.content.get("has_aux").and_then(Value::as_bool).unwrap_or(false)
    }

    /// Top-level keys of the record, with the run's name and its plan.
    pub(super) fn fields(&self) -> Map<String, Value> {
        let mut fields = self.content.get("fields").and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some(store) = fields.get_mut("_store").and_then(Value::as_object_mut) {
            store.insert("name".to_owned(), json!(self.name()));
            store.insert("plan".to_owned(), self.plan.to_json());
        }
        fields
    }

    pub(super) fn claim(&self) -> Result<Claim> {
        let run_id = Uuid::parse_str(self.run_id()).map_err(|_| Error::damaged("`run_id` is not an id"))?;
        let text = |key: &str| self.text(key).to_owned();
        Ok(Claim {
            run_id,
            folder: text("folder"),
            save_time: text("save_time"),
            created_at: text("created_at"),
        })
    }

    fn text(&self, key: &str) -> &str {
        self.content.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}

fn name_of(spec: &Map<String, Value>) -> String {
    spec.get("model").and_then(Value::as_str).map_or_else(|| "a model".to_owned(), |name| format!("`{name}`"))
}

fn short(text: &str) -> String {
    if text.chars().count() > 60 { text.chars().take(59).chain(['…']).collect() } else { text.to_owned() }
}
