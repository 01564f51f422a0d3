//! The contents of a run: its tensors, their shards, and values.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use twox_hash::XxHash3_128;

use crate::error::{Error, Result};
use crate::hash::{self, DIGITS};
use crate::names::check_file;
use crate::tensor::{Dtype, Kind, offsets_of};

/// The contents of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Tensors, in the order in which they were saved.
    pub tensors: Vec<TensorEntry>,
    /// Values besides the tensors: `mapping_index`, `token_dict`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub values: Map<String, Value>,
    /// Files, in the order of the examples they hold.
    pub shards: Vec<Shard>,
}

/// A tensor. Its rows are in the shards that have a part of it, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TensorEntry {
    /// Its key.
    pub name: String,
    /// The type of its numbers.
    pub dtype: Dtype,
    /// What its rows stand for.
    pub kind: Kind,
    /// Sizes of all axes except the first.
    pub row_shape: Vec<usize>,
    /// Names of all axes, or none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub axes: Vec<String>,
}

/// One file of tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shard {
    /// Its path in the run's folder: `data/00000-7f3a.safetensors`.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Checksum of the whole file (XXH3, 64 bits).
    pub xxh3: String,
    /// Checksum of its header, everything before the numbers; `None` if it was written before headers had their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_xxh3: Option<String>,
    /// The examples of the data set in it, `[first, end]`, if it holds whole examples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examples: Option<[u64; 2]>,
    /// The worker that wrote it, if several share a run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Its contents, in file order.
    pub tensors: Vec<Part>,
}

/// The part of a tensor in one shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The tensor's key.
    pub name: String,
    /// Sizes of the part's axes; none for a scalar.
    pub shape: Vec<usize>,
    /// Its offset in the file.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its checksum (XXH3, 64 bits).
    pub xxh3: String,
    /// Checksums of its pieces, so that rows can be checked without reading the whole part; `None` if it is one piece,
    /// or was written before pieces existed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Pieces>,
}

/// Checksums of a part's pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// Bytes per piece; the last may be shorter.
    pub bytes: u64,
    /// The checksums (XXH3, 64 bits), concatenated, 16 hexadecimal digits each.
    pub xxh3: String,
}

impl Part {
    /// Bytes per piece; the whole length if the part is one piece.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.pieces.as_ref().map_or(self.len, |pieces| pieces.bytes).max(1)
    }

    /// The checksum of a piece.
    pub(crate) fn sum_of_piece(&self, piece: u64) -> &str {
        let Some(pieces) = &self.pieces else { return &self.xxh3 };
        let start = usize::try_from(piece).unwrap_or(usize::MAX).saturating_mul(DIGITS);
        pieces.xxh3.get(start..start.saturating_add(DIGITS)).unwrap_or_default()
    }
}

impl Manifest {
    /// The entry of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorEntry> {
        self.tensors.iter().find(|entry| entry.name == name)
    }

    /// The parts of a tensor, or of its offsets, in order, each with its shard number.
    pub fn parts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (usize, &'a Part)> + 'a {
        let of_shard = move |(number, shard): (usize, &'a Shard)| {
            shard.tensors.iter().filter(move |part| part.name == name).map(move |part| (number, part))
        };
        self.shards.iter().enumerate().flat_map(of_shard)
    }

    /// Sizes of all axes of a tensor.
    pub fn shape(&self, entry: &TensorEntry) -> Vec<usize> {
        let parts = || self.parts(&entry.name);
        if parts().any(|(_, part)| part.shape.is_empty()) {
            return Vec::new();
        }
        let rows = parts().map(|(_, part)| part.shape[0]).sum();
        [&[rows], &entry.row_shape[..]].concat()
    }

    /// Bytes of all shards.
    pub fn n_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes).fold(0, u64::saturating_add)
    }

    /// The same for two runs with the same tensors: a digest of names, types, rows and bytes in order, and of the
    /// values. File names, writers and times do not matter.
    pub fn digest(&self) -> String {
        let mut hasher = XxHash3_128::new();
        let parts = self.parts_by_name();
        for entry in &self.tensors {
            hasher.write(
                format!("{:?}\n", (&entry.name, entry.dtype, entry.kind, &entry.row_shape)).as_bytes(),
            );
            for name in [&entry.name, &offsets_of(&entry.name)] {
                for part in parts.get(name.as_str()).into_iter().flatten() {
                    hasher.write(format!("{:?}\n", (&part.shape, &part.xxh3)).as_bytes());
                }
            }
        }
        hasher.write(Value::Object(self.values.clone()).to_string().as_bytes());
        format!("xxh3-128:{:032x}", hasher.finish_128())
    }

    /// Parses a manifest and checks its consistency.
    ///
    /// # Errors
    /// If the form is wrong, shapes and lengths do not match, a part belongs to no tensor, or a path leads out of the
    /// run.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let manifest: Manifest =
            serde_json::from_slice(text).map_err(|e| Error::damaged(format!("manifest: {e}")))?;
        manifest.check().map_err(|e| e.at("manifest"))?;
        Ok(manifest)
    }

    pub(crate) fn from_value(value: &Value) -> Result<Self> {
        let manifest = Manifest::deserialize(value).map_err(|e| Error::damaged(format!("manifest: {e}")))?;
        manifest.check().map_err(|e| e.at("manifest"))?;
        Ok(manifest)
    }

    fn parts_by_name(&self) -> BTreeMap<&str, Vec<&Part>> {
        let mut found: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
        for part in self.shards.iter().flat_map(|shard| &shard.tensors) {
            found.entry(&part.name).or_default().push(part);
        }
        found
    }

    fn check(&self) -> Result<()> {
        let mut rows: BTreeMap<String, (Dtype, &[usize])> = BTreeMap::new();
        for entry in &self.tensors {
            let offsets = entry.kind.is_ragged().then(|| (offsets_of(&entry.name), (Dtype::I64, &[][..])));
            let own = (entry.name.clone(), (entry.dtype, &entry.row_shape[..]));
            for (name, about) in [Some(own), offsets].into_iter().flatten() {
                if rows.insert(name, about).is_some() {
                    return Err(Error::damaged(format!("two tensors are called `{}`", entry.name)));
                }
            }
        }
        for shard in &self.shards {
            check_file(&shard.file)?;
            let mut parts = BTreeSet::new();
            for part in &shard.tensors {
                let place = |e: Error| e.at(&part.name).at(&shard.file);
                let about = rows
                    .get(&part.name)
                    .ok_or_else(|| place(Error::damaged("is not a tensor of the run")))?;
                check_part(shard, part, *about).map_err(place)?;
                if !parts.insert(part.name.as_str()) {
                    return Err(Error::damaged(format!("{}: two parts of `{}`", shard.file, part.name)));
                }
            }
            for entry in self.tensors.iter().filter(|entry| entry.kind.is_ragged()) {
                if parts.contains(entry.name.as_str()) != parts.contains(offsets_of(&entry.name).as_str()) {
                    return Err(Error::damaged(format!(
                        "{}: `{}` without its offsets",
                        shard.file, entry.name
                    )));
                }
            }
        }
        let parts = self.parts_by_name();
        for entry in &self.tensors {
            match parts.get(entry.name.as_str()).map(Vec::as_slice) {
                None => return Err(Error::damaged(format!("no shard has `{}`", entry.name))),
                Some([_]) => {}
                Some(parts) if parts.iter().all(|part| !part.shape.is_empty()) => {}
                Some(_) => {
                    return Err(Error::damaged(format!("`{}` is a scalar in several parts", entry.name)));
                }
            }
        }
        Ok(())
    }

    /// The text, and its checksum.
    pub(crate) fn to_value(&self) -> Result<(Value, String)> {
        let value = serde_json::to_value(self).map_err(|e| Error::input(format!("manifest: {e}")))?;
        let checksum = hash::of(value.to_string().as_bytes());
        Ok((value, checksum))
    }
}

fn check_part(shard: &Shard, part: &Part, (dtype, row_shape): (Dtype, &[usize])) -> Result<()> {
    if part.shape.get(1..).unwrap_or(&[]) != row_shape {
        return Err(Error::damaged(format!("shape {:?}, but rows are {row_shape:?}", part.shape)));
    }
    let elements = part.shape.iter().try_fold(1u64, |n, axis| n.checked_mul(*axis as u64));
    let bytes = elements.and_then(|n| n.checked_mul(dtype.size() as u64));
    let end = part.offset.checked_add(part.len);
    if bytes != Some(part.len) || end.is_none_or(|end| end > shard.bytes) {
        return Err(Error::damaged("its length fits neither its shape nor the file"));
    }
    let Some(Pieces { bytes, xxh3 }) = &part.pieces else { return Ok(()) };
    let digits =
        part.len.checked_div(*bytes).map(|_| part.len.div_ceil(*bytes).saturating_mul(DIGITS as u64));
    if digits != Some(xxh3.len() as u64) || !xxh3.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Err(Error::damaged("the checksums of its pieces do not fit its length"));
    }
    Ok(())
}
