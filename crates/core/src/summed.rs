//! The items of a data set that are in some sums, so that a run which is resumed adds only the others.

use std::path::Path;

use easyroutine_files::{HeaderEntry, ShardedSafeTensors, safetensors_head};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};

/// The first items of a data set, by number and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summed {
    /// What the items are, in the plural.
    items: &'static str,
    n: usize,
    /// The digest that a file states of these items, until all of them have passed and agree.
    stated: Option<String>,
    /// The number of items that have passed, and their digest.
    seen: usize,
    digest: [u8; 32],
}

/// A kind of file with sums.
pub(crate) struct SumsFile {
    /// The key of its description among the file's metadata.
    pub(crate) key: &'static str,
    pub(crate) schema: &'static str,
    /// Sums of what.
    pub(crate) of: &'static str,
    /// What the items are, in the plural.
    pub(crate) items: &'static str,
}

impl SumsFile {
    /// The head of a file. `told` describes the origin of the sums; [`Self::open`] compares it.
    pub(crate) fn head<'e>(
        &self,
        summed: &Summed,
        told: &Value,
        entries: impl IntoIterator<Item = HeaderEntry<'e>>,
    ) -> Vec<u8> {
        let state = json!({"schema": self.schema, "summed": summed.to_json(), "told": told});
        let metadata = Map::from_iter([(self.key.to_owned(), json!(state.to_string()))]);
        safetensors_head(metadata, entries, 8)
    }

    /// Opens a file, with the items that its sums include.
    ///
    /// # Errors
    /// If it is missing or damaged, or its sums do not have the origin `told`.
    pub(crate) fn open(&self, file: &Path, told: &Value) -> Result<(ShardedSafeTensors, Summed)> {
        let at = |e: Error| e.at(file.display());
        let opened = ShardedSafeTensors::open(file)?;
        let state: Value = opened
            .metadata()
            .get(self.key)
            .and_then(|text| serde_json::from_str(text).ok())
            .filter(|state: &Value| state["schema"] == self.schema)
            .ok_or_else(|| at(Error::new(ErrorKind::Format, format!("holds no sums of {}", self.of))))?;
        check_origin(&state["told"], told).map_err(at)?;
        let summed = Summed::from_json(self.items, &state["summed"]).map_err(at)?;
        Ok((opened, summed))
    }
}

/// Checks that a run continues what was begun in the same way.
///
/// # Errors
/// If the descriptions differ: all keys that do are named, short values with them.
pub(crate) fn check_origin(begun: &Value, here: &Value) -> Result<()> {
    const SHORT: usize = 48;
    let keys = |value: &Value| value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default();
    let mut all: Vec<String> = keys(here);
    all.extend(keys(begun).into_iter().filter(|key| here.get(key).is_none()));
    let differ = all.iter().filter(|key| begun[key.as_str()] != here[key.as_str()]).map(|key| {
        let [begun, here] = [begun, here].map(|value| value[key.as_str()].to_string());
        match begun.len().max(here.len()) <= SHORT {
            true => format!("`{key}` ({begun}, here {here})"),
            false => format!("`{key}`"),
        }
    });
    let differ: Vec<String> = differ.collect();
    if differ.is_empty() && begun == here {
        return Ok(());
    }
    let differ = if differ.is_empty() { "origin".to_owned() } else { differ.join(", ") };
    Err(Error::input(format!("was begun with another {differ}"))
        .hint("name another file, or delete this one to begin anew"))
}

impl Summed {
    /// No items yet; `items` says in the plural what they are.
    pub fn of(items: &'static str) -> Self {
        Summed { items, n: 0, stated: None, seen: 0, digest: [0; 32] }
    }

    /// The first `n` items, whatever they are: the program that summed them did not record it.
    pub(crate) fn unknown(items: &'static str, n: usize) -> Self {
        Summed { n, ..Summed::of(items) }
    }

    /// The number of items in the sums.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Passes the next item of the data set, and says whether the sums include it: they include the first ones. An item
    /// is rows of ids, and what else it consists of.
    ///
    /// # Errors
    /// At the last item included, if the items that passed are not those summed.
    pub fn has(&mut self, rows: &[&[u32]], more: &str) -> Result<bool> {
        if self.seen < self.n {
            self.pass(rows, more);
            if self.seen == self.n && self.stated.as_ref().is_some_and(|stated| *stated == self.shown()) {
                self.stated = None;
            }
            if self.seen < self.n || self.stated.is_none() {
                return Ok(true);
            }
        }
        match self.stated {
            None => Ok(false),
            Some(_) => Err(Error::input(format!(
                "the sums hold {} {}, which are not the first of these",
                self.n, self.items
            ))
            .hint("read the same file in the same way, or begin anew with another file of sums")),
        }
    }

    /// Counts an item that was added to the sums.
    pub fn add(&mut self, rows: &[&[u32]], more: &str) {
        self.pass(rows, more);
        self.n += 1;
    }

    /// Checks that all items in the sums have passed.
    ///
    /// # Errors
    /// If the data set has fewer items.
    pub fn finish(&self) -> Result<()> {
        match self.seen < self.n {
            true => Err(Error::input(format!(
                "the sums hold {} {}, and {} are read here",
                self.n, self.items, self.seen
            ))
            .hint(format!("read as many {}, or name another file", self.items))),
            false => Ok(()),
        }
    }

    /// The number of items and their digest, which is null if it is not known.
    pub fn to_json(&self) -> Value {
        let own = || (self.seen == self.n).then(|| self.shown());
        json!({self.items: self.n, "digest": self.stated.clone().or_else(own)})
    }

    /// # Errors
    /// If the number or the digest is missing.
    pub(crate) fn from_json(items: &'static str, json: &Value) -> Result<Self> {
        let n = json[items].as_u64().and_then(|n| usize::try_from(n).ok());
        match (n, &json["digest"]) {
            (Some(0), _) => Ok(Summed::of(items)),
            (Some(n), Value::Null) if json.get("digest").is_some() => Ok(Summed::unknown(items, n)),
            (Some(n), Value::String(digest)) => {
                Ok(Summed { stated: Some(digest.clone()), ..Summed::unknown(items, n) })
            }
            _ => Err(Error::new(ErrorKind::Format, format!("does not say which {items} are summed"))),
        }
    }

    fn pass(&mut self, rows: &[&[u32]], more: &str) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        for ids in rows {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            for id in *ids {
                hasher.update(&id.to_le_bytes());
            }
        }
        hasher.update(more.as_bytes());
        self.digest = hasher.finalize().into();
        self.seen += 1;
    }

    fn shown(&self) -> String {
        blake3::Hash::from_bytes(self.digest).to_hex().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_resumed_with_the_same_items_alone() {
        let pair = |n: u32| ([n, 1], [n, 2]);
        let mut first = Summed::of("pairs");
        for (clean, corrupted) in [1, 2].map(pair) {
            assert!(!first.has(&[&clean, &corrupted], "kl").unwrap());
            first.add(&[&clean, &corrupted], "kl");
        }
        let pass = |pairs: &[u32], metric| {
            let mut again = Summed::from_json("pairs", &first.to_json()).unwrap();
            let has =
                pairs.iter().map(|n| again.has(&[&pair(*n).0, &pair(*n).1], metric)).collect::<Vec<_>>();
            // Neither success nor failure changes what a file says of them.
            assert_eq!(again.to_json(), first.to_json());
            (has.into_iter().map(Result::ok).collect::<Vec<_>>(), again.finish().is_ok())
        };
        assert_eq!(pass(&[1, 2, 3], "kl"), (vec![Some(true), Some(true), Some(false)], true));
        assert_eq!(pass(&[1], "kl"), (vec![Some(true)], false));
        assert_eq!(pass(&[2, 1, 3], "kl"), (vec![Some(true), None, None], true));
        assert_eq!(pass(&[1, 2], "ce"), (vec![Some(true), None], true));
    }

    #[test]
    fn items_that_were_not_recorded_are_counted_and_then_known() {
        let mut summed = Summed::unknown("prompts", 1);
        assert_eq!(summed.to_json(), json!({"prompts": 1, "digest": null}));
        let mut again = Summed::from_json("prompts", &summed.to_json()).unwrap();
        assert!(again.has(&[&[7]], "").unwrap() && !again.has(&[&[8]], "").unwrap());
        assert!(summed.finish().is_err() && summed.has(&[&[7]], "").unwrap() && summed.finish().is_ok());
        let mut known = Summed::of("prompts");
        known.add(&[&[7]], "");
        assert_eq!(summed.to_json(), known.to_json());
    }

    #[test]
    fn every_key_that_differs_is_named() {
        let long = "x".repeat(60);
        let begun = json!({"metric": "kl", "rule": "relp", "seed": 0, "activations": [long], "old": 1});
        let here = json!({"metric": "p", "rule": "relp", "seed": 0, "activations": ["z_L0"], "new": 2});
        assert!(check_origin(&begun, &begun).is_ok());
        assert_eq!(
            check_origin(&begun, &here).unwrap_err().to_string(),
            "was begun with another `metric` (\"kl\", here \"p\"), `activations`, `new` (null, here 2), `old` (1, here null)"
        );
        assert!(check_origin(&Value::Null, &here).is_err() && check_origin(&here, &Value::Null).is_err());
    }
}
