//! Reads that compare bytes with the saved checksums.
//!
//! A part of a tensor has a checksum for each of its pieces. Before bytes are returned, every piece that contains them
//! is compared, once per opened run: reading rows of a large tensor costs a piece or two, not the whole. Parts written
//! before pieces existed are one piece each.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::fs::Source;
use crate::hash;
use crate::manifest::Part;
use crate::run::Run;

/// The pieces of an opened run that were compared: shard number and offset in the shard.
#[derive(Debug, Default)]
pub(crate) struct Compared(Mutex<BTreeSet<(usize, u64)>>);

impl Compared {
    fn has(&self, shard: usize, offset: u64) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(shard, offset))
    }

    fn add(&self, shard: usize, offset: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert((shard, offset));
    }
}

impl Run {
    /// Compares the headers of the shards that hold these tensors (all shards if none is named). Reads take places and
    /// shapes from the manifest and never look at a header, so a damaged one harms only programs that read the shard
    /// itself. A shard written before headers had a checksum of their own is read whole.
    ///
    /// # Errors
    /// If a header is damaged, or a shard cannot be read.
    pub fn compare_headers(&self, names: &[String]) -> Result<()> {
        if !self.is_compared() {
            return Ok(());
        }
        for (number, shard) in self.manifest().shards.iter().enumerate() {
            let is_named = |part: &Part| names.contains(&part.name);
            if !names.is_empty() && !shard.tensors.iter().any(is_named) {
                continue;
            }
            let source = self.source(number)?;
            let (end, expected, what) = match &shard.head_xxh3 {
                Some(sum) => {
                    let first = shard.tensors.iter().map(|part| part.offset).min();
                    (first.unwrap_or(shard.bytes), sum, "its header is damaged")
                }
                None => (shard.bytes, &shard.xxh3, "it is damaged"),
            };
            let found = self.sum(&*source, 0..end, &shard.file);
            source.check_unchanged().map_err(|e| Error::io("read", self.place(number), e))?;
            if found? != *expected {
                let what = format!("{}: {what}: the checksum differs", self.place(number));
                return Err(Error::damaged(what).hint("easyroutine runs verify lists all damage"));
            }
        }
        Ok(())
    }

    /// Compares the pieces that contain a range of a part, in a mapped shard.
    ///
    /// # Errors
    /// If the tensor is damaged.
    pub(crate) fn compare_mapped(
        &self,
        shard: usize,
        part: &Part,
        range: &Range<u64>,
        map: &[u8],
    ) -> Result<()> {
        self.pieces(shard, part, range).into_iter().try_for_each(|piece| {
            let (start, end) = (part.offset + piece.start, part.offset + piece.end);
            let bytes = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let bytes = bytes.and_then(|(start, end)| map.get(start..end)).unwrap_or_default();
            self.compare(shard, part, piece, bytes)
        })
    }

    /// Reads a range of a part, and compares the pieces that contain it.
    ///
    /// # Errors
    /// If the tensor is damaged or cannot be read.
    pub(crate) fn read_compared(
        &self,
        shard: usize,
        part: &Part,
        range: &Range<u64>,
        source: &dyn Source,
        out: &mut [u8],
    ) -> Result<()> {
        let read = |from: u64, out: &mut [u8]| {
            let place = || self.place(shard);
            source.read_at(part.offset + from, out).map_err(|e| Error::io("read", place(), e))
        };
        let pieces = self.pieces(shard, part, range);
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            return read(range.start, out);
        };
        let whole = first.start.min(range.start)..last.end.max(range.end);
        let compare = |bytes: &[u8]| {
            pieces.iter().try_for_each(|piece| {
                let at = (piece.start - whole.start) as usize..(piece.end - whole.start) as usize;
                self.compare(shard, part, piece.clone(), &bytes[at])
            })
        };
        if whole == *range {
            read(range.start, out)?;
            return compare(out);
        }
        let size = usize::try_from(whole.end - whole.start);
        let mut bytes = vec![0; size.map_err(|_| Error::input("more than memory can hold"))?];
        read(whole.start, &mut bytes)?;
        compare(&bytes)?;
        let start = (range.start - whole.start) as usize;
        out.copy_from_slice(&bytes[start..start + out.len()]);
        Ok(())
    }

    /// The pieces of a part that contain a range and have not been compared yet.
    fn pieces(&self, shard: usize, part: &Part, range: &Range<u64>) -> Vec<Range<u64>> {
        if !self.is_compared() || range.is_empty() {
            return Vec::new();
        }
        let step = part.piece_bytes();
        let numbers = range.start / step..range.end.div_ceil(step);
        let pieces = numbers.map(|number| number * step..((number + 1) * step).min(part.len));
        pieces.filter(|piece| !self.compared().has(shard, part.offset + piece.start)).collect()
    }

    fn compare(&self, shard: usize, part: &Part, piece: Range<u64>, bytes: &[u8]) -> Result<()> {
        if hash::of(bytes) != part.sum_of_piece(piece.start / part.piece_bytes()) {
            let what =
                format!("{}: tensor `{}` is damaged: its checksum differs", self.place(shard), part.name);
            return Err(Error::damaged(what)
                .hint("the run's other tensors are read as ever; easyroutine runs verify lists all damage"));
        }
        self.compared().add(shard, part.offset + piece.start);
        Ok(())
    }
}
