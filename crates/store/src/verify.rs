//! Reading everything back and comparing checksums.

use std::fmt;

use crate::error::Result;
use crate::fs::Source;
use crate::hash::Sum;
use crate::metadata::EDITED;
use crate::names::METADATA;
use crate::record_sum::RecordSum;
use crate::run::Run;

/// Something in a run that is not as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, in the run's folder.
    pub file: String,
    /// The tensor, if the damage is within one.
    pub tensor: Option<String>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.tensor {
            Some(tensor) => write!(f, "{}: tensor `{tensor}` {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

impl Run {
    /// Reads every byte and compares it with what was saved. Lists the damage, down to the tensor.
    ///
    /// # Errors
    /// The system's error while reading an existing file.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        let mut found = self.links()?;
        for number in 0..self.manifest().shards.len() {
            let file = &self.manifest().shards[number].file;
            match self.source(number) {
                Ok(source) => self.verify_shard(number, &*source, &mut found)?,
                Err(error) => {
                    found.push(Damage { file: file.clone(), tensor: None, what: error.to_string() })
                }
            }
        }
        if self.metadata().checksum() == RecordSum::Wrong {
            found.push(Damage { file: METADATA.to_owned(), tensor: None, what: EDITED.to_owned() });
        }
        if found.is_empty() && self.manifest().digest() != self.metadata().digest() {
            let what = "the digest of the record is not that of its tensors".to_owned();
            found.push(Damage { file: METADATA.to_owned(), tensor: None, what });
        }
        Ok(found)
    }

    fn verify_shard(&self, number: usize, source: &dyn Source, found: &mut Vec<Damage>) -> Result<()> {
        let shard = &self.manifest().shards[number];
        let before = found.len();
        for part in &shard.tensors {
            if self.sum(source, part.offset..part.offset + part.len, &shard.file)? != part.xxh3 {
                let (file, tensor) = (shard.file.clone(), Some(part.name.clone()));
                found.push(Damage { file, tensor, what: "is damaged: its checksum differs".to_owned() });
            }
        }
        if found.len() == before && self.sum(source, 0..source.size(), &shard.file)? != shard.xxh3 {
            let what = "the header is damaged: its checksum differs, those of its tensors do not".to_owned();
            found.push(Damage { file: shard.file.clone(), tensor: None, what });
        }
        Ok(())
    }

    pub(crate) fn sum(&self, source: &dyn Source, range: std::ops::Range<u64>, file: &str) -> Result<String> {
        let mut sum = Sum::default();
        let mut piece = vec![0; PIECE.min(range.end - range.start) as usize];
        let mut offset = range.start;
        while offset < range.end {
            let bytes = &mut piece[..PIECE.min(range.end - offset) as usize];
            source
                .read_at(offset, bytes)
                .map_err(|e| crate::Error::io("read", format!("{}/{file}", self.path()), e))?;
            sum.add(bytes);
            offset += bytes.len() as u64;
        }
        Ok(sum.finish())
    }
}
