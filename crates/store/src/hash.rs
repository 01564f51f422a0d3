//! Checksums: XXH3 finds damage at the speed of memory. It is no protection against malice.

use twox_hash::XxHash3_64;

/// The checksum of bytes as written in files: XXH3, 64 bits.
pub fn of(bytes: &[u8]) -> String {
    written(XxHash3_64::oneshot(bytes))
}

/// An incremental checksum.
#[derive(Clone, Default)]
pub(crate) struct Sum(XxHash3_64);

impl Sum {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        std::hash::Hasher::write(&mut self.0, bytes);
    }

    pub(crate) fn finish(&self) -> String {
        written(std::hash::Hasher::finish(&self.0))
    }
}

/// Length of a checksum as text.
pub(crate) const DIGITS: usize = 16;

fn written(sum: u64) -> String {
    format!("{sum:016x}")
}
