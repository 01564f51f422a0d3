use crate::{Error, Result};

/// Reads little-endian values from a slice, with bounds checks.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, position: 0 }
    }

    pub(super) fn position(&self) -> usize {
        self.position
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let taken = self.bytes[self.position..].get(..length).ok_or_else(|| self.cut_short(length as u64))?;
        self.position += length;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.bytes[self.position..].first_chunk().ok_or_else(|| self.cut_short(N as u64))?;
        self.position += N;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of items of at least `smallest` bytes each. Refused before anything is allocated if the rest of the file
    /// cannot hold them.
    pub(super) fn count(&mut self, of: &str, smallest: usize) -> Result<usize> {
        let claimed = self.u64()?;
        usize::try_from(claimed).ok().filter(|&count| count <= self.remaining() / smallest).ok_or_else(|| {
            Error::malformed(format!("claims {claimed} {of}, but only {} bytes follow", self.remaining()))
        })
    }

    pub(super) fn string(&mut self) -> Result<&'a str> {
        let length = self.count("bytes of a string", 1)?;
        let start = self.position;
        std::str::from_utf8(self.take(length)?)
            .map_err(|e| Error::malformed(format!("the string at byte {start} is not UTF-8: {e}")))
    }

    fn cut_short(&self, wanted: u64) -> Error {
        Error::malformed(format!(
            "ends at byte {}, {wanted} were to follow byte {}. Is the download complete?",
            self.bytes.len(),
            self.position
        ))
    }
}
