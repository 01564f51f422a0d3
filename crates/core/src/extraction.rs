//! What to extract, as a configuration with the original's field names.

use std::collections::BTreeSet;

use easyroutine_sites::{Selector, Site, nearest};
use serde_json::{Map, Value, json};

use crate::cache::{Axis, Examples, PatternAverage, Reduction};
use crate::error::{Error, Result};
use crate::positions::Specifier;
use crate::request::Request;

/// Which activations are kept, and how they are reduced.
///
/// In JSON, every site has the flag from the table of sites (`extract_resid_out`), and the other fields are named as in
/// parentheses below. An absent field has its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtractionConfig {
    /// The sites whose flags are on; `save_logits` is on by default.
    pub sites: BTreeSet<Site>,
    /// The heads to which activations with heads are limited (`attn_heads`).
    pub heads: Heads,
    /// Means over positions (`avg`), blocks of patterns (`attn_pattern_avg`, `attn_pattern_row_positions`), means over
    /// examples (`avg_over_example`).
    pub reduction: Reduction,
}

/// Heads of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heads {
    /// All of them.
    All,
    /// Single heads: layer and query head.
    Of(Vec<(usize, usize)>),
}

impl Default for ExtractionConfig {
    fn default() -> Self {
        ExtractionConfig {
            sites: BTreeSet::from([Site::Logits]),
            heads: Heads::All,
            reduction: Reduction::default(),
        }
    }
}

impl ExtractionConfig {
    /// The configuration as a request at these positions.
    ///
    /// # Errors
    /// If nothing is requested, or `attn_heads` lists no head.
    pub fn request(&self, positions: &[Specifier]) -> Result<Request> {
        if self.sites.is_empty() {
            return Err(Error::input("the extraction config asks for nothing: every flag is off"));
        }
        if self.heads == Heads::Of(Vec::new()) {
            return Err(Error::input("`attn_heads` names no head").hint("\"all\" is for every head"));
        }
        let mut activations = Vec::new();
        for site in &self.sites {
            match &self.heads {
                Heads::Of(heads) if site.template().contains("{head}") => {
                    let of_head = |(layer, head): &(usize, usize)| {
                        format!("{}_L{layer}H{head}", site.name()).parse::<Selector>()
                    };
                    activations.extend(heads.iter().map(of_head).collect::<Result<Vec<_>, _>>()?);
                }
                _ => activations.push(Selector::all(*site)),
            }
        }
        Ok(Request { activations, positions: positions.to_vec(), reduction: self.reduction.clone() })
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// If a field does not exist (the error gives the nearest name) or has the wrong type; also for `keep_gradient`,
    /// which [`crate::gradients`] replaces.
    pub fn from_json(fields: &Map<String, Value>) -> Result<Self> {
        let mut config = ExtractionConfig::default();
        for (name, value) in fields {
            config.set(name, value)?;
        }
        Ok(config)
    }

    /// Sets one field.
    ///
    /// # Errors
    /// As [`ExtractionConfig::from_json`].
    pub fn set(&mut self, name: &str, value: &Value) -> Result<()> {
        let flag = || {
            let wrong = || Error::input(format!("extraction config: `{name}` is true or false, not {value}"));
            value.as_bool().ok_or_else(wrong)
        };
        if let Some(site) = Site::ALL.iter().find(|site| site.flag() == name) {
            if flag()? {
                self.sites.insert(*site);
            } else {
                self.sites.remove(site);
            }
            return Ok(());
        }
        match name {
            "avg" => self.reduction.positions = if flag()? { Axis::Groups } else { Axis::Tokens },
            "avg_over_example" => {
                self.reduction.examples = if flag()? { Examples::Mean } else { Examples::Each };
            }
            "attn_heads" => self.heads = heads(value)?,
            "attn_pattern_avg" => self.reduction.pattern = pattern_average(value)?,
            "attn_pattern_row_positions" => self.reduction.pattern_rows = row_positions(value)?,
            "keep_gradient" if flag()? => {
                return Err(Error::input(
                    "extraction config: `keep_gradient` is of one token's logit, which a data set does not name",
                )
                .hint("`gradients` differentiates any metric; in Python `forward(…, vocabulary_index=…)` too"));
            }
            "keep_gradient" => {}
            _ => {
                let error = Error::input(format!("extraction config: there is no field `{name}`"));
                return Err(match nearest(name, Self::fields()) {
                    Some(near) => error.hint(format!("did you mean `{near}`?")),
                    None => error.hint("flags are such as `extract_resid_out` and `save_logits`"),
                });
            }
        }
        Ok(())
    }

    /// Writes every field; reads back the same.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut fields: Map<String, Value> = (Site::ALL.iter())
            .map(|site| (site.flag().to_owned(), json!(self.sites.contains(site))))
            .collect();
        let heads = match &self.heads {
            Heads::All => json!("all"),
            Heads::Of(list) => {
                list.iter().map(|(layer, head)| json!({"layer": layer, "head": head})).collect()
            }
        };
        let rows = self.reduction.pattern_rows.as_ref();
        let rest = [
            ("avg", json!(self.reduction.positions == Axis::Groups)),
            ("avg_over_example", json!(self.reduction.examples == Examples::Mean)),
            ("attn_heads", heads),
            ("attn_pattern_avg", json!(self.reduction.pattern.name())),
            (
                "attn_pattern_row_positions",
                json!(rows.map(|r| r.iter().map(Specifier::to_json).collect::<Vec<_>>())),
            ),
            ("keep_gradient", json!(false)),
        ];
        fields.extend(rest.map(|(name, value)| (name.to_owned(), value)));
        fields
    }

    /// The names of all fields.
    pub fn fields() -> impl Iterator<Item = &'static str> {
        Site::ALL.iter().map(|site| site.flag()).chain([
            "avg",
            "avg_over_example",
            "attn_heads",
            "attn_pattern_avg",
            "attn_pattern_row_positions",
            "keep_gradient",
        ])
    }
}

fn heads(value: &Value) -> Result<Heads> {
    let wrong = || {
        Error::input(format!("extraction config: `attn_heads` is {value}"))
            .hint("it is \"all\", or a list such as [{\"layer\": 5, \"head\": 3}]")
    };
    if value == "all" {
        return Ok(Heads::All);
    }
    let number = |value: &Value| value.as_u64().filter(|n| *n < 1_000_000).map(|n| n as usize);
    let head = |entry: &Value| {
        let fields = entry.as_object().filter(|fields| fields.len() == 2)?;
        Some((number(fields.get("layer")?)?, number(fields.get("head")?)?))
    };
    let list = value.as_array().ok_or_else(wrong)?;
    Ok(Heads::Of(list.iter().map(head).collect::<Option<_>>().ok_or_else(wrong)?))
}

fn pattern_average(value: &Value) -> Result<PatternAverage> {
    let found = PatternAverage::ALL.into_iter().find(|(_, name)| value == name);
    found.map(|(average, _)| average).ok_or_else(|| {
        let names = PatternAverage::ALL.map(|(_, name)| name).join(", ");
        Error::input(format!("extraction config: `attn_pattern_avg` is {value}"))
            .hint(format!("it is one of {names}"))
    })
}

fn row_positions(value: &Value) -> Result<Option<Vec<Specifier>>> {
    match value {
        Value::Null => Ok(None),
        Value::Array(list) if !list.is_empty() => {
            list.iter().map(Specifier::from_json).collect::<Result<_>>().map(Some)
        }
        _ => Err(Error::input(format!("extraction config: `attn_pattern_row_positions` is {value}"))
            .hint("it is a list of positions, such as [\"last\", -2, [0, 4]]")),
    }
}
