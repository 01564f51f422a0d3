//! Query criteria, and whether a run meets them.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use crate::condition::{Condition, number_order};
use crate::error::Result;
use crate::metadata::Metadata;
use crate::value::Value;

/// Criteria, all of which must hold. An absent criterion holds for every run.
#[derive(Debug, Clone, Default)]
pub struct Query<'a> {
    /// An experiment other than the loader's; `*` means all.
    pub experiment_name: Option<String>,
    /// The model's full name.
    pub model_name: Option<String>,
    /// An alternative name, if `model_name` is one under which the model can be opened.
    pub or_model_name: Option<String>,
    /// Specifiers in order; a single one equals a list of it.
    pub target_token_positions: Option<Json>,
    /// The starts of groups of positions.
    pub pivot_positions: Option<Json>,
    /// `2026-11-23 06:50:00`
    pub save_time: Option<String>,
    /// User keys, by value.
    pub custom_keys: Map<String, Json>,
    /// What was extracted.
    pub extraction_config: Option<Json>,
    /// How to compare `extraction_config`.
    pub matching: Matching,
    /// Interventions by value, their tensors by checksum.
    pub interventions: Option<Value<'a>>,
    /// The same in the spelling of older versions: a run may match either.
    pub or_interventions: Option<Value<'a>>,
    /// Tags that a run must all have, whether given on saving or later.
    pub tags: Vec<String>,
    /// Any other condition.
    pub condition: Option<Condition>,
}

impl Query<'_> {
    /// The accepted model names; empty if any model will do.
    pub(crate) fn model_names(&self) -> Vec<&str> {
        let other = self.model_name.as_ref().and(self.or_model_name.as_ref());
        self.model_name.iter().chain(other).map(String::as_str).collect()
    }
}

/// How a query's extraction config is compared with a run's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Matching {
    /// Flags that the query sets must be set; heads that it names must be covered; other fields that it sets to a
    /// non-default value must be equal.
    #[default]
    Subset,
    /// Everything must be equal.
    Exact,
}

/// Extraction config fields with a string default. Flags are off by default, except `save_logits`.
const TEXT_DEFAULTS: &[(&str, &str)] = &[("attn_heads", "all"), ("attn_pattern_avg", "none")];

/// A query with its values as JSON, ready to be compared with many runs.
#[derive(Debug, Clone)]
pub(crate) struct Criteria<'a> {
    query: &'a Query<'a>,
    interventions: Vec<Json>,
    extraction_config: Option<BTreeMap<&'a str, &'a Json>>,
}

impl<'a> Criteria<'a> {
    pub(crate) fn new(query: &'a Query<'a>) -> Result<Self> {
        let spellings = query.interventions.iter().chain(&query.or_interventions);
        let interventions = spellings.map(|value| value.to_json("interventions")).collect::<Result<_>>()?;
        let config = query.extraction_config.as_ref().and_then(Json::as_object);
        let extraction_config =
            config.map(|map| map.iter().map(|(key, value)| (key.as_str(), value)).collect());
        Ok(Criteria { query, interventions, extraction_config })
    }

    pub(crate) fn query(&self) -> &Query<'a> {
        self.query
    }

    /// Whether a run meets all criteria, as far as its record says. The experiment is not checked: it follows from the
    /// run's place.
    pub(crate) fn hold(&self, metadata: &Metadata) -> bool {
        let Query { save_time, tags, custom_keys, condition, .. } = self.query;
        let is = |asked: &Option<String>, found: &str| asked.as_ref().is_none_or(|asked| asked == found);
        let names = self.query.model_names();
        (names.is_empty() || names.contains(&metadata.model_name()))
            && is(save_time, metadata.save_time())
            && tags.iter().all(|tag| metadata.tags().contains(&tag.as_str()))
            && self.positions_hold(metadata.get("target_token_positions"))
            && self
                .query
                .pivot_positions
                .as_ref()
                .is_none_or(|asked| is_same(metadata.get("pivot_positions"), asked))
            && custom_keys.iter().all(|(key, value)| is_same(metadata.get(key), value))
            && self.config_holds(metadata.get("extraction_config"))
            && self.interventions_hold(metadata.get("interventions"))
            && condition.as_ref().is_none_or(|condition| condition.may_hold(metadata))
    }

    pub(crate) fn positions_hold(&self, found: Option<&Json>) -> bool {
        let Some(asked) = &self.query.target_token_positions else { return true };
        let listed =
            |value: &Json| if value.is_array() { value.clone() } else { Json::Array(vec![value.clone()]) };
        found.is_some_and(|found| same(&listed(found), &listed(asked)))
    }

    pub(crate) fn interventions_hold(&self, found: Option<&Json>) -> bool {
        let found = found.unwrap_or(&Json::Null);
        self.interventions.is_empty() || self.interventions.iter().any(|asked| same(found, asked))
    }

    pub(crate) fn config_holds(&self, found: Option<&Json>) -> bool {
        let Some(asked) = &self.query.extraction_config else { return true };
        let found = found.unwrap_or(&Json::Null);
        let (Some(fields), Matching::Subset) = (&self.extraction_config, self.query.matching) else {
            return same(found, asked);
        };
        fields.iter().all(|(key, asked)| field_holds(key, asked, found.get(key)))
    }
}

fn field_holds(key: &str, asked: &Json, found: Option<&Json>) -> bool {
    let text = TEXT_DEFAULTS.iter().find(|(name, _)| *name == key).map(|(_, default)| *default);
    let is_default = |value: &Json| match value {
        Json::Null => true,
        Json::Bool(on) => *on == (key == "save_logits"),
        Json::String(value) => Some(value.as_str()) == text,
        _ => false,
    };
    if is_default(asked) {
        return true;
    }
    match found {
        None => false,
        Some(found) if key == "attn_heads" => heads_covered(asked, found),
        Some(found) => same(found, asked),
    }
}

/// Whether every requested head was kept.
fn heads_covered(asked: &Json, found: &Json) -> bool {
    if found == "all" || found.is_null() {
        return true;
    }
    match (asked.as_array(), found.as_array()) {
        (Some(asked), Some(found)) => asked.iter().all(|head| found.iter().any(|kept| same(kept, head))),
        _ => same(found, asked),
    }
}

fn is_same(found: Option<&Json>, asked: &Json) -> bool {
    found.is_some_and(|found| same(found, asked))
}

/// Whether two values are equal: numbers by value (`1` is `1.0`), maps in any order, tensors by checksum wherever they
/// are stored.
pub(crate) fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Number(a), Json::Number(b)) => number_order(a, b).is_some_and(|order| order.is_eq()),
        (Json::Array(a), Json::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Json::Object(a), Json::Object(b)) => {
            let place = |key: &&String| key.as_str() != "_tensor";
            a.contains_key("_tensor") == b.contains_key("_tensor")
                && a.keys().filter(place).count() == b.keys().filter(place).count()
                && a.iter().filter(|(key, _)| place(key)).all(|(key, value)| is_same(b.get(key), value))
        }
        _ => a == b,
    }
}
