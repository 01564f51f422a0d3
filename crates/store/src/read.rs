//! Reading small files whole.

use crate::error::{Error, Result};
use crate::fs::Source;

/// Size limit for metadata.json and manifest.json, in bytes.
pub(crate) const LONGEST: u64 = 256 << 20;

/// The whole content of a small file.
pub(crate) fn whole(source: &dyn Source, place: &str) -> Result<Vec<u8>> {
    let size = source.size();
    if size > LONGEST {
        return Err(Error::damaged(format!("{place}: is {size} bytes long; {LONGEST} is the limit")));
    }
    let mut content = vec![0; size as usize];
    source.read_at(0, &mut content).map_err(|e| Error::io("read", place, e))?;
    Ok(content)
}
