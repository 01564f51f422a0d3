//! The pairs of a data set that are in some sums, so that a run which is resumed adds only the others.

use std::path::Path;

use easyroutine_files::{HeaderEntry, ShardedSafeTensors, safetensors_head};
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::patching::Metric;

/// The first pairs of a data set, by number and content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summed {
    pairs: usize,
    /// The digest that a file states of these pairs, until all of them have passed and agree.
    stated: Option<String>,
    /// The number of pairs that have passed, and their digest.
    seen: usize,
    digest: [u8; 32],
}

/// A kind of file with sums.
pub(super) struct SumsFile {
    /// The key of its description among the file's metadata.
    pub(super) key: &'static str,
    pub(super) schema: &'static str,
    /// Sums of what.
    pub(super) of: &'static str,
    /// What sums of another origin may be of.
    pub(super) others: &'static str,
}

impl SumsFile {
    /// The head of a file. `told` describes the origin of the sums; [`Self::open`] compares it.
    pub(super) fn head<'e>(
        &self,
        summed: &Summed,
        told: &Value,
        entries: impl IntoIterator<Item = HeaderEntry<'e>>,
    ) -> Vec<u8> {
        let state = json!({"schema": self.schema, "summed": summed.to_json(), "told": told});
        let metadata = Map::from_iter([(self.key.to_owned(), json!(state.to_string()))]);
        safetensors_head(metadata, entries, 8)
    }

    /// Opens a file, with the pairs that its sums include.
    ///
    /// # Errors
    /// If it is missing or damaged, or its sums do not have the origin `told`.
    pub(super) fn open(&self, file: &Path, told: &Value) -> Result<(ShardedSafeTensors, Summed)> {
        let at = |e: Error| e.at(file.display());
        let opened = ShardedSafeTensors::open(file)?;
        let state: Value = opened
            .metadata()
            .get(self.key)
            .and_then(|text| serde_json::from_str(text).ok())
            .filter(|state: &Value| state["schema"] == self.schema)
            .ok_or_else(|| at(Error::new(ErrorKind::Format, format!("holds no sums of {}", self.of))))?;
        if state["told"] != *told {
            return Err(at(Error::input(format!("holds sums of another {}", self.others))
                .hint("name another file, or delete this one to begin anew")));
        }
        let summed = Summed::from_json(&state["summed"]).map_err(at)?;
        Ok((opened, summed))
    }
}

impl Summed {
    /// The number of pairs in the sums.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// Passes the next pair of the data set, and says whether the sums include it: they include the first ones.
    ///
    /// # Errors
    /// At the last pair included, if the pairs that passed are not those summed.
    pub fn has(&mut self, clean: &[u32], corrupted: &[u32], metric: Metric) -> Result<bool> {
        if self.seen < self.pairs {
            self.pass(clean, corrupted, metric);
            if self.seen == self.pairs && self.stated.as_ref().is_some_and(|stated| *stated == self.shown()) {
                self.stated = None;
            }
            if self.seen < self.pairs || self.stated.is_none() {
                return Ok(true);
            }
        }
        match self.stated {
            None => Ok(false),
            Some(_) => Err(Error::input(format!(
                "the sums hold {} pairs, which are not the first of these",
                self.pairs
            ))
            .hint("read the same file in the same way, or begin anew with another file of sums")),
        }
    }

    /// Counts a pair that was added to the sums.
    pub fn add(&mut self, clean: &[u32], corrupted: &[u32], metric: Metric) {
        self.pass(clean, corrupted, metric);
        self.pairs += 1;
    }

    /// Checks that all pairs in the sums have passed.
    ///
    /// # Errors
    /// If the data set has fewer pairs.
    pub fn finish(&self) -> Result<()> {
        match self.seen < self.pairs {
            true => Err(Error::input(format!(
                "the sums hold {} pairs, and {} are read here",
                self.pairs, self.seen
            ))
            .hint("read as many pairs, or name another file")),
            false => Ok(()),
        }
    }

    fn to_json(&self) -> Value {
        let digest = self.stated.clone().unwrap_or_else(|| self.shown());
        json!({"pairs": self.pairs, "digest": digest})
    }

    /// # Errors
    /// If the number or the digest is missing.
    fn from_json(json: &Value) -> Result<Self> {
        let (pairs, digest) = (json["pairs"].as_u64(), json["digest"].as_str());
        let (Some(pairs), Some(digest)) = (pairs.and_then(|n| usize::try_from(n).ok()), digest) else {
            return Err(Error::new(ErrorKind::Format, "does not say which pairs are summed"));
        };
        let stated = (pairs > 0).then(|| digest.to_owned());
        Ok(Summed { pairs, stated, ..Summed::default() })
    }

    fn pass(&mut self, clean: &[u32], corrupted: &[u32], metric: Metric) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.digest);
        for ids in [clean, corrupted] {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            for id in ids {
                hasher.update(&id.to_le_bytes());
            }
        }
        hasher.update(format!("{metric:?}").as_bytes());
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
    fn sums_are_resumed_with_the_same_pairs_alone() {
        let pair = |n: u32| ([n, 1], [n, 2]);
        let mut first = Summed::default();
        for (clean, corrupted) in [1, 2].map(pair) {
            assert!(!first.has(&clean, &corrupted, Metric::Kl).unwrap());
            first.add(&clean, &corrupted, Metric::Kl);
        }
        let pass = |pairs: &[u32], metric| {
            let mut again = Summed::from_json(&first.to_json()).unwrap();
            let has = pairs.iter().map(|n| again.has(&pair(*n).0, &pair(*n).1, metric)).collect::<Vec<_>>();
            // Neither success nor failure changes what a file says of them.
            assert_eq!(again.to_json(), first.to_json());
            (has.into_iter().map(Result::ok).collect::<Vec<_>>(), again.finish().is_ok())
        };
        assert_eq!(pass(&[1, 2, 3], Metric::Kl), (vec![Some(true), Some(true), Some(false)], true));
        assert_eq!(pass(&[1], Metric::Kl), (vec![Some(true)], false));
        assert_eq!(pass(&[2, 1, 3], Metric::Kl), (vec![Some(true), None, None], true));
        assert_eq!(pass(&[1, 2], Metric::CrossEntropy), (vec![Some(true), None], true));
    }
}
