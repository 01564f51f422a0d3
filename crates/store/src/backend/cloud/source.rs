//! Reading objects, whole or in part.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use futures_util::future::try_join_all;
use object_store::path::Path as Key;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};

use super::{AT_ONCE, Cloud};
use crate::fs::Source;

/// Bytes read when an object is opened: most records are no longer, and cost one request.
const FIRST: u64 = 128 << 10;
/// Bytes per request of a long read.
const PIECE: usize = 16 << 20;

/// What is known of an object.
pub(super) struct Opened {
    key: Key,
    size: u64,
    e_tag: Option<String>,
    first: Vec<u8>,
}

/// Reads the beginning of an object.
pub(super) async fn open(objects: Arc<dyn ObjectStore>, key: Key) -> object_store::Result<Opened> {
    let options = GetOptions { range: Some(GetRange::Bounded(0..FIRST)), ..GetOptions::default() };
    match objects.get_opts(&key, options).await {
        Ok(found) => {
            let (size, e_tag) = (found.meta.size, found.meta.e_tag.clone());
            Ok(Opened { key, size, e_tag, first: found.bytes().await?.to_vec() })
        }
        Err(error @ object_store::Error::NotFound { .. }) => Err(error),
        // An empty object has no first byte to request.
        Err(error) => match objects.head(&key).await {
            Ok(found) if found.size == 0 => {
                Ok(Opened { key, size: 0, e_tag: found.e_tag, first: Vec::new() })
            }
            _ => Err(error),
        },
    }
}

/// An opened object. It does not change: reading a part of other content is an error.
#[derive(Debug)]
pub(super) struct CloudSource {
    cloud: Cloud,
    path: String,
    key: Key,
    size: u64,
    e_tag: Option<String>,
    first: Vec<u8>,
}

impl CloudSource {
    pub(super) fn new(cloud: Cloud, path: String, opened: Opened) -> Self {
        let Opened { key, size, e_tag, first } = opened;
        CloudSource { cloud, path, key, size, e_tag, first }
    }

    fn pieces(&self, ranges: Vec<Range<u64>>) -> io::Result<Vec<Vec<u8>>> {
        let (objects, key, e_tag) = (self.cloud.objects.clone(), self.key.clone(), self.e_tag.clone());
        let read = self.cloud.wait(async move {
            let piece = async |range: Range<u64>| -> object_store::Result<Vec<u8>> {
                let range = Some(GetRange::Bounded(range));
                let options = GetOptions { range, if_match: e_tag.clone(), ..GetOptions::default() };
                Ok(objects.get_opts(&key, options).await?.bytes().await?.to_vec())
            };
            try_join_all(ranges.into_iter().map(piece)).await
        });
        let read = read.map_err(io::Error::other)?;
        read.map_err(|e| io::Error::other(self.cloud.failed("read", &self.path, e)))
    }
}

impl Source for CloudSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        if let Some(found) = self.first.get(offset as usize..end as usize) {
            out.copy_from_slice(found);
            return Ok(());
        }
        let mut at = offset;
        for wave in out.chunks_mut(PIECE * AT_ONCE) {
            let mut ranges = Vec::new();
            for piece in wave.chunks(PIECE) {
                ranges.push(at..at + piece.len() as u64);
                at += piece.len() as u64;
            }
            for (out, read) in wave.chunks_mut(PIECE).zip(self.pieces(ranges)?) {
                if out.len() != read.len() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                out.copy_from_slice(&read);
            }
        }
        Ok(())
    }
}
