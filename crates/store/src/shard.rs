//! Writes shards: safetensors files, checksummed while they are written.

use std::borrow::Cow;
use std::io::{self, Write};
use std::ops::Range;
use std::panic::resume_unwind;
use std::thread;

use easyroutine_files::{HeaderEntry, safetensors_head};
use serde_json::{Map, Value, json};

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::hash::{self, Sum};
use crate::manifest::{Part, Pieces, Shard};
use crate::names::nonce;
use crate::tensor::{Dtype, Tensor, offsets_of};

/// Default shard size in bytes.
pub const SHARD_BYTES: u64 = 256 << 20;

/// Bytes hashed and written at a time, so that they are still in the cache when written. Pieces end at large page
/// boundaries, so that the system can cache the file in large pages, from which reads cause far fewer page faults.
const PIECE: u64 = 2 << 20;

/// Bytes of a part with a checksum of their own. Reading a single row costs one of these: 15 microseconds. Smaller ones
/// would make manifests long, at 16 digits each.
const CHECKED: u64 = 256 << 10;

/// Size of a run, in bytes, from which two threads write it.
const TWO_THREADS: usize = 64 << 20;

/// A part of a tensor to be written into a shard.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// Identifies the shard being written.
#[derive(Debug, Clone)]
pub(crate) struct Label<'a> {
    /// Folder of the run.
    pub(crate) run: &'a str,
    pub(crate) run_id: &'a str,
    pub(crate) number: usize,
    pub(crate) examples: Option<[u64; 2]>,
    pub(crate) worker: Option<String>,
}

/// Divides tensors into shards of about `limit` bytes: whole tensors if they fit, else whole examples.
pub(crate) fn plan<'t>(tensors: &'t [Tensor<'_>], limit: u64) -> Vec<Vec<Piece<'t>>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut shards: Vec<Vec<Piece<'t>>> = vec![Vec::new()];
    let mut used = 0usize;
    for tensor in tensors {
        let whole = tensor.bytes.len();
        if used > 0 && used.saturating_add(whole) > limit {
            shards.push(Vec::new());
            used = 0;
        }
        let Some(examples) = tensor.examples().filter(|_| whole > limit) else {
            push(&mut shards, tensor, None);
            used += whole;
            continue;
        };
        let mut begin = 0;
        while begin < examples {
            let end = fitting(tensor, begin..examples, limit);
            push(&mut shards, tensor, Some(begin..end));
            used = tensor.rows_of(begin..end).len() * tensor.row_bytes();
            begin = end;
            if begin < examples {
                shards.push(Vec::new());
            }
        }
    }
    shards
}

/// The end of as many examples as fit, but at least one.
fn fitting(tensor: &Tensor<'_>, examples: Range<usize>, limit: usize) -> usize {
    let fits = |end: usize| tensor.rows_of(examples.start..end).len() * tensor.row_bytes() <= limit;
    let (mut low, mut high) = (examples.start + 1, examples.end);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

fn push<'t>(shards: &mut [Vec<Piece<'t>>], tensor: &'t Tensor<'_>, examples: Option<Range<usize>>) {
    let Some(shard) = shards.last_mut() else { return };
    shard.extend(pieces(tensor, examples));
}

/// A tensor, or a range of its examples, as stored in a shard: a ragged one with offsets that start at 0.
pub(crate) fn pieces<'t>(tensor: &'t Tensor<'_>, examples: Option<Range<usize>>) -> Vec<Piece<'t>> {
    let (name, dtype) = (tensor.name.clone(), tensor.dtype);
    let Some(examples) = examples.or_else(|| tensor.examples().map(|n| 0..n)) else {
        return vec![Piece { name, dtype, shape: Vec::new(), bytes: Cow::Borrowed(&tensor.bytes) }];
    };
    let rows = tensor.rows_of(examples.clone());
    let shape = [&[rows.len()], &tensor.shape[1..]].concat();
    let bytes = &tensor.bytes[rows.start * tensor.row_bytes()..rows.end * tensor.row_bytes()];
    let mut found = vec![Piece { name, dtype, shape, bytes: Cow::Borrowed(bytes) }];
    if tensor.kind.is_ragged() {
        let offsets = &tensor.offsets[examples.start..=examples.end];
        let bytes: Vec<u8> = offsets.iter().flat_map(|o| (o - offsets[0]).to_le_bytes()).collect();
        let (name, shape) = (offsets_of(&tensor.name), vec![offsets.len()]);
        found.push(Piece { name, dtype: Dtype::I64, shape, bytes: bytes.into() });
    }
    found
}

/// Writes the shards of a run, numbered in order. Large runs use two threads, so that one prepares a shard while the
/// other waits for the disk.
///
/// # Errors
/// As [`write`].
pub(crate) fn write_all(
    backend: &dyn Backend,
    label: &Label<'_>,
    mut shards: Vec<Vec<Piece<'_>>>,
) -> Result<Vec<Shard>> {
    let each = |first: usize, shards: Vec<Vec<Piece<'_>>>| -> Result<Vec<Shard>> {
        let numbered = shards.into_iter().zip(first..);
        numbered.map(|(pieces, number)| write(backend, &Label { number, ..label.clone() }, pieces)).collect()
    };
    if shards.iter().flatten().map(|piece| piece.bytes.len()).sum::<usize>() < TWO_THREADS {
        return each(0, shards);
    }
    let half = shards.len().div_ceil(2);
    let others = shards.split_off(half);
    thread::scope(|scope| {
        let others = scope.spawn(|| each(half, others));
        let mut written = each(0, shards)?;
        written.extend(others.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        Ok(written)
    })
}

/// Writes one shard and returns its description.
///
/// # Errors
/// The backend's error.
pub(crate) fn write(backend: &dyn Backend, label: &Label<'_>, mut pieces: Vec<Piece<'_>>) -> Result<Shard> {
    widest_first(&mut pieces);
    let head = head(label.about(), &pieces);
    let file = format!("data/{:05}-{}.safetensors", label.number, &nonce()[..4]);
    let place = format!("{}/{file}", label.run);
    let mut upload = backend.upload(&place)?;
    let mut whole = Sum::default();
    let mut parts = Vec::with_capacity(pieces.len());
    let mut offset = head.len() as u64;
    let write = |e: io::Error| Error::io("write", &place, e);
    whole.add(&head);
    upload.write_all(&head).map_err(write)?;
    for piece in pieces {
        let mut own = Sum::default();
        let len = piece.bytes.len() as u64;
        let mut pieces = PieceSums::default();
        let mut rest = &piece.bytes[..];
        while !rest.is_empty() {
            let written = offset + len - rest.len() as u64;
            let next = rest.len().min((PIECE - written % PIECE) as usize);
            let (bytes, others) = rest.split_at(next);
            own.add(bytes);
            pieces.add(bytes);
            whole.add(bytes);
            upload.write_all(bytes).map_err(write)?;
            rest = others;
        }
        let (xxh3, pieces) = (own.finish(), pieces.finish(len));
        parts.push(Part { name: piece.name, shape: piece.shape, offset, len, xxh3, pieces });
        offset += len;
    }
    upload.finish()?;
    let (examples, worker) = (label.examples, label.worker.clone());
    let head_xxh3 = Some(hash::of(&head));
    Ok(Shard { file, bytes: offset, xxh3: whole.finish(), head_xxh3, examples, worker, tensors: parts })
}

/// Checksums of a part's pieces, computed as bytes come.
#[derive(Default)]
struct PieceSums {
    sum: Sum,
    bytes: u64,
    done: String,
}

impl PieceSums {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (of_piece, others) = bytes.split_at(bytes.len().min((CHECKED - self.bytes) as usize));
            self.sum.add(of_piece);
            self.bytes += of_piece.len() as u64;
            if self.bytes == CHECKED {
                self.end();
            }
            bytes = others;
        }
    }

    fn end(&mut self) {
        self.done.push_str(&std::mem::take(&mut self.sum).finish());
        self.bytes = 0;
    }

    /// All checksums; `None` if the part is one piece, which then has the part's own checksum.
    fn finish(mut self, len: u64) -> Option<Pieces> {
        if self.bytes > 0 {
            self.end();
        }
        (len > CHECKED).then_some(Pieces { bytes: CHECKED, xxh3: self.done })
    }
}

/// The widest numbers first, so that every tensor starts at a multiple of its own width.
pub(crate) fn widest_first(pieces: &mut [Piece<'_>]) {
    pieces.sort_by_key(|piece| std::cmp::Reverse(piece.dtype.size()));
}

impl Label<'_> {
    /// The header's metadata, which identifies a shard that lost its manifest.
    fn about(&self) -> Map<String, Value> {
        let mut about = Map::new();
        about.insert("format".to_owned(), json!("easyroutine.shard/1"));
        about.insert("run_id".to_owned(), json!(self.run_id));
        about.insert("shard".to_owned(), json!(self.number.to_string()));
        if let Some([begin, end]) = self.examples {
            about.insert("examples".to_owned(), json!(format!("{begin}:{end}")));
        }
        about
    }
}

/// Everything before the numbers, which start at a multiple of 64, the width of a vector.
pub(crate) fn head(about: Map<String, Value>, pieces: &[Piece<'_>]) -> Vec<u8> {
    let entries = pieces.iter().map(|piece| HeaderEntry {
        name: &piece.name,
        dtype: piece.dtype.to_string(),
        shape: &piece.shape,
        bytes: piece.bytes.len(),
    });
    safetensors_head(about, entries, 64)
}
