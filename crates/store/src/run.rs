//! A saved run: its record, and its tensors, whole or in part.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use easyroutine_sites::Point;
use serde_json::Value;

use crate::checked::Compared;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::Source;
use crate::hash;
use crate::manifest::{Manifest, Part, TensorEntry};
use crate::metadata::{ManifestPlace, Metadata};
use crate::names::{MANIFEST, check_run_path};
use crate::read;
use crate::store::Store;
use crate::tensor::{Bytes, Kind, Loaded, offsets_of};

/// An opened run. Everything is read on demand.
#[derive(Debug)]
pub struct Run {
    store: Store,
    path: String,
    metadata: Metadata,
    manifest: Manifest,
    /// Shards opened so far.
    sources: Mutex<BTreeMap<usize, Arc<dyn Source>>>,
    /// Whether bytes read are compared with their checksums.
    is_compared: bool,
    compared: Compared,
}

impl Store {
    /// Opens the run at `experiment/model/time`.
    ///
    /// # Errors
    /// If there is no such run, or its record or manifest is damaged.
    pub fn run(&self, path: &str) -> Result<Run> {
        check_run_path(path)?;
        self.stays_inside(path)?;
        let metadata = self.record(path).map_err(|e| e.at(path))?;
        let metadata = metadata.ok_or_else(|| self.no_run(path))?;
        let manifest = self.manifest(path, &metadata).map_err(|e| e.at(path))?;
        Ok(Run {
            store: self.clone(),
            path: path.to_owned(),
            metadata,
            manifest,
            sources: Mutex::default(),
            is_compared: true,
            compared: Compared::default(),
        })
    }

    pub(crate) fn manifest(&self, path: &str, metadata: &Metadata) -> Result<Manifest> {
        match metadata.manifest()? {
            ManifestPlace::Inline(manifest) => Ok(manifest),
            ManifestPlace::File { checksum } => {
                let source = self.backend().open(&format!("{path}/{MANIFEST}"))?;
                let text = read::whole(&*source, MANIFEST)?;
                if hash::of(&text) != checksum {
                    return Err(Error::damaged(format!("{MANIFEST}: is not the one that was committed")));
                }
                Manifest::parse(&text)
            }
        }
    }

    pub(crate) fn no_run(&self, path: &str) -> Error {
        let error = Error::new(ErrorKind::NotFound, format!("there is no run `{path}`"));
        if self.backend().entry(path).is_ok() {
            error.hint("it was begun, but not committed yet")
        } else {
            error
        }
    }

    /// Checks that no folder of a run is a link out of the store.
    fn stays_inside(&self, path: &str) -> Result<()> {
        let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
        for end in ends {
            let entry = match self.backend().entry(&path[..end]) {
                Ok(entry) => entry,
                Err(error) if error.kind() == ErrorKind::NotFound => return Err(self.no_run(path)),
                Err(error) => return Err(error),
            };
            match entry.kind {
                crate::fs::EntryKind::Folder => {}
                crate::fs::EntryKind::Link => return Err(Error::link(&path[..end])),
                _ => return Err(Error::damaged(format!("`{}` is not a folder", &path[..end]))),
            }
        }
        Ok(())
    }
}

impl Run {
    /// The same run without comparing checksums: damaged tensors are read as they are.
    #[must_use]
    pub fn unverified(self) -> Self {
        Run { is_compared: false, ..self }
    }

    /// `experiment/model/time`, below the store.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Its record.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Its contents.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Names of its tensors, in the order in which they were saved.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.manifest.tensors.iter().map(|entry| entry.name.as_str())
    }

    /// Fields kept for each example besides its tensors, such as labels: names, each with one value per example.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[Value])> {
        let names = self.metadata.get("fields").and_then(Value::as_object);
        names.into_iter().flat_map(|names| names.keys()).filter_map(|name| {
            self.manifest
                .values
                .get(name)
                .and_then(Value::as_array)
                .map(|values| (name.as_str(), &values[..]))
        })
    }

    /// Sizes of all axes of a tensor.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn shape(&self, name: &str) -> Result<Vec<usize>> {
        Ok(self.manifest.shape(self.entry(name)?))
    }

    /// Reads a whole tensor, without a copy if it is in one mapped shard.
    ///
    /// # Errors
    /// If there is no such tensor, a shard is missing or too short, or the numbers are not those saved.
    pub fn read(&self, name: &str) -> Result<Loaded> {
        self.read_part(name, None)
    }

    /// Reads a range of examples of a tensor: rows of its first axis, or whole examples of a ragged one.
    ///
    /// # Errors
    /// As [`Run::read`], and if an example does not exist.
    pub fn read_rows(&self, name: &str, examples: Range<usize>) -> Result<Loaded> {
        self.read_part(name, Some(examples))
    }

    /// Reads every tensor of one layer: `resid_out_5`, `pattern_L5H0`.
    ///
    /// # Errors
    /// If the layer has no tensor, and as [`Run::read`].
    pub fn read_layer(&self, layer: usize) -> Result<Vec<(String, Loaded)>> {
        let of_layer = |name: &&str| name.parse::<Point>().is_ok_and(|point| point.layer() == Some(layer));
        let names: Vec<&str> = self.names().filter(of_layer).collect();
        if names.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("run `{}` has no tensor of layer {layer}", self.path),
            ));
        }
        names.into_iter().map(|name| Ok((name.to_owned(), self.read(name)?))).collect()
    }

    /// Reads every tensor, in the order in which they were saved.
    ///
    /// # Errors
    /// As [`Run::read`].
    pub fn read_all(&self) -> Result<Vec<(String, Loaded)>> {
        self.names().map(|name| Ok((name.to_owned(), self.read(name)?))).collect()
    }

    pub(crate) fn is_compared(&self) -> bool {
        self.is_compared
    }

    pub(crate) fn compared(&self) -> &Compared {
        &self.compared
    }

    /// A shard's name in errors.
    pub(crate) fn place(&self, shard: usize) -> String {
        format!("{}/{}", self.path, self.manifest.shards[shard].file)
    }

    pub(crate) fn entry(&self, name: &str) -> Result<&TensorEntry> {
        self.manifest.tensor(name).ok_or_else(|| {
            let error =
                Error::new(ErrorKind::NotFound, format!("run `{}` has no tensor `{name}`", self.path));
            let mut names: Vec<&str> = self.names().take(9).collect();
            if names.len() == 9 {
                names[8] = "…";
            }
            error.hint(format!("it has {}", names.join(", ")))
        })
    }

    /// The start of each example of a ragged tensor, and the end. The numbers are not read.
    #[cfg(feature = "parquet")]
    pub(crate) fn offsets(&self, name: &str) -> Result<Vec<i64>> {
        let parts: Vec<(usize, &Part)> = self.manifest.parts(name).collect();
        Ok(self.cut_ragged(name, &parts, None)?.offsets)
    }

    pub(crate) fn source(&self, number: usize) -> Result<Arc<dyn Source>> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(&number) {
            return Ok(source.clone());
        }
        let shard = &self.manifest.shards[number];
        let source = self.store.backend().open(&format!("{}/{}", self.path, shard.file))?;
        if source.size() != shard.bytes {
            let (place, found) = (self.place(number), source.size());
            return Err(Error::damaged(format!("{place}: is {found} bytes long, not {}", shard.bytes)));
        }
        sources.insert(number, source.clone());
        Ok(source)
    }

    fn read_part(&self, name: &str, examples: Option<Range<usize>>) -> Result<Loaded> {
        let entry = self.entry(name)?;
        let parts: Vec<(usize, &Part)> = self.manifest.parts(name).collect();
        let [(number, part), ..] = parts[..] else {
            return Err(Error::damaged(format!("no shard has `{name}`")));
        };
        if part.shape.is_empty() {
            return match examples {
                None => self.loaded(entry, Vec::new(), self.bytes(number, part, 0..part.len)?, Vec::new()),
                Some(_) => Err(Error::input(format!("`{name}` is a scalar: it has no rows"))),
            };
        }
        let cut = if entry.kind.is_ragged() {
            self.cut_ragged(name, &parts, examples)?
        } else {
            cut_even(name, &parts, examples)?
        };
        let row_bytes = (entry.row_shape.iter().product::<usize>() * entry.dtype.size()) as u64;
        let n_rows: usize = cut.rows.iter().map(ExactSizeIterator::len).sum();
        let shape = [&[n_rows], &entry.row_shape[..]].concat();
        let wanted = parts.iter().zip(&cut.rows).filter(|(_, rows)| !rows.is_empty());
        let wanted: Vec<(usize, &Part, Range<u64>)> = wanted
            .map(|((number, part), rows)| {
                (*number, *part, rows.start as u64 * row_bytes..rows.end as u64 * row_bytes)
            })
            .collect();
        let bytes = match &wanted[..] {
            [] => Bytes::Owned(Vec::new()),
            [(number, part, range)] => self.bytes(*number, part, range.clone())?,
            _ => self.joined(&wanted)?,
        };
        self.loaded(entry, shape, bytes, cut.offsets)
    }

    fn loaded(
        &self,
        entry: &TensorEntry,
        shape: Vec<usize>,
        bytes: Bytes,
        offsets: Vec<i64>,
    ) -> Result<Loaded> {
        Ok(Loaded { dtype: entry.dtype, shape, kind: entry.kind, bytes, offsets })
    }

    /// A range of a part, from the map or read.
    fn bytes(&self, number: usize, part: &Part, range: Range<u64>) -> Result<Bytes> {
        let source = self.source(number)?;
        let (start, end) = (part.offset + range.start, part.offset + range.end);
        if let (Some(map), Ok(start), Ok(end)) =
            (source.mapped(), usize::try_from(start), usize::try_from(end))
            && end <= map.len()
        {
            let compared = self.compare_mapped(number, part, &range, map);
            source.check_unchanged().map_err(|e| Error::io("read", self.place(number), e))?;
            compared?;
            return Ok(Bytes::Mapped(source.clone(), start..end));
        }
        self.joined(&[(number, part, range)])
    }

    fn joined(&self, wanted: &[(usize, &Part, Range<u64>)]) -> Result<Bytes> {
        let total: u64 = wanted.iter().map(|(_, _, range)| range.end - range.start).sum();
        // Each shard's length is checked against the manifest before as much is allocated.
        let sources = wanted.iter().map(|(number, _, _)| self.source(*number)).collect::<Result<Vec<_>>>()?;
        let mut bytes =
            vec![0; usize::try_from(total).map_err(|_| Error::input("more than memory can hold"))?];
        let mut rest = &mut bytes[..];
        for ((number, part, range), source) in wanted.iter().zip(sources) {
            let (out, left) = rest.split_at_mut((range.end - range.start) as usize);
            let compared = self.read_compared(*number, part, range, &*source, out);
            source.check_unchanged().map_err(|e| Error::io("read", self.place(*number), e))?;
            compared?;
            rest = left;
        }
        Ok(Bytes::Owned(bytes))
    }

    /// The rows of each part that belong to the examples, and the offsets of the result.
    fn cut_ragged(
        &self,
        name: &str,
        parts: &[(usize, &Part)],
        examples: Option<Range<usize>>,
    ) -> Result<Cut> {
        let key = offsets_of(name);
        let mut ends = Vec::new();
        for ((number, part), (_, offsets)) in parts.iter().zip(self.manifest.parts(&key)) {
            let bytes = self.bytes(*number, offsets, 0..offsets.len)?;
            let (numbers, _) = bytes.as_chunks::<8>();
            let numbers: Vec<i64> = numbers.iter().map(|x| i64::from_le_bytes(*x)).collect();
            let grows = numbers.windows(2).all(|w| w[0] <= w[1]);
            let rows = i64::try_from(part.shape[0]).ok();
            if numbers.first() != Some(&0) || numbers.last().copied() != rows || !grows {
                let place = self.place(*number);
                return Err(Error::damaged(format!("{place}: `{key}` does not cut `{name}`")));
            }
            ends.push(numbers);
        }
        let counts: Vec<usize> = ends.iter().map(|ends| ends.len() - 1).collect();
        let cuts = cut(name, &counts, examples)?;
        let mut offsets = vec![0];
        let mut rows = Vec::new();
        for (ends, taken) in ends.iter().zip(cuts) {
            let base = offsets.last().copied().unwrap_or(0) - ends[taken.start];
            offsets.extend(ends[taken.start..=taken.end].iter().skip(1).map(|end| base + end));
            rows.push(ends[taken.start] as usize..ends[taken.end] as usize);
        }
        Ok(Cut { rows, offsets })
    }
}

/// The rows taken from each part.
struct Cut {
    rows: Vec<Range<usize>>,
    offsets: Vec<i64>,
}

fn cut_even(name: &str, parts: &[(usize, &Part)], examples: Option<Range<usize>>) -> Result<Cut> {
    let counts: Vec<usize> = parts.iter().map(|(_, part)| part.shape[0]).collect();
    Ok(Cut { rows: cut(name, &counts, examples)?, offsets: Vec::new() })
}

/// Divides a range of all examples into one range for each part.
fn cut(name: &str, counts: &[usize], examples: Option<Range<usize>>) -> Result<Vec<Range<usize>>> {
    let total: usize = counts.iter().sum();
    let wanted = examples.unwrap_or(0..total);
    if wanted.start > wanted.end || wanted.end > total {
        return Err(Error::input(format!(
            "`{name}` has {total} examples; {}:{} is not among them",
            wanted.start, wanted.end
        )));
    }
    let mut begin = 0;
    let ranges = counts.iter().map(|count| {
        let place = |x: usize| x.clamp(begin, begin + count) - begin;
        let range = place(wanted.start)..place(wanted.end);
        begin += count;
        range
    });
    Ok(ranges.collect())
}

impl Loaded {
    /// Number of examples, or of rows.
    pub fn examples(&self) -> usize {
        match self.kind {
            Kind::Rows | Kind::RaggedNd => self.offsets.len().saturating_sub(1),
            _ => self.shape.first().copied().unwrap_or(1),
        }
    }

    /// Checks that everything read from it so far is what was saved. Call this after using or copying numbers of a
    /// mapped file, which another program may cut short after they were compared.
    ///
    /// # Errors
    /// If the file was cut short or written to; its bytes may have read as zeros.
    pub fn check_unchanged(&self) -> Result<()> {
        match &self.bytes {
            Bytes::Owned(_) => Ok(()),
            Bytes::Mapped(source, _) => source.check_unchanged().map_err(|e| Error::damaged(e.to_string())),
        }
    }
}
