//! Records that this process has read. A list of ten thousand runs then looks at the size and the time of each record, as
//! the index itself does, and reads only those that were written to since.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use super::table::Stamp;
use super::{UNSURE, now};
use crate::error::{ErrorKind, Result};
use crate::metadata::Metadata;
use crate::names::METADATA;
use crate::store::Store;

/// Records that are kept at most, of all stores: some 80 MB.
const MOST: usize = 20_000;

type Records = HashMap<String, (Stamp, Arc<Metadata>)>;

static RECORDS: LazyLock<Mutex<Records>> = LazyLock::new(Mutex::default);

/// The record of a run of the store that the index calls `name`, `None` where it is gone.
///
/// # Errors
/// The record can't be read, or is wrong.
pub(super) fn record(store: &Store, name: &str, path: &str) -> Result<Option<Metadata>> {
    let before = now();
    let stamp = match store.backend().entry(&format!("{path}/{METADATA}")) {
        Ok(file) => i64::try_from(file.modified)
            .map_or(Stamp::UNKNOWN, |modified| Stamp { size: file.size as i64, modified }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // A time that is close to the present may stand for two contents.
    let is_settled = stamp != Stamp::UNKNOWN && before - i128::from(stamp.modified) > UNSURE;
    let key = format!("{name}/{path}");
    if is_settled && let Some(metadata) = kept(&key, stamp) {
        return Ok(Some(Metadata::clone(&metadata)));
    }
    let read = store.record(path)?;
    if let (true, Some(metadata)) = (is_settled, &read) {
        let mut records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= MOST {
            records.clear();
        }
        records.insert(key, (stamp, Arc::new(metadata.clone())));
    }
    Ok(read)
}

fn kept(key: &str, stamp: Stamp) -> Option<Arc<Metadata>> {
    let records = RECORDS.lock().unwrap_or_else(PoisonError::into_inner);
    records.get(key).filter(|(kept, _)| *kept == stamp).map(|(_, metadata)| Arc::clone(metadata))
}
