//! When a run was claimed: an id that only grows, and times for people.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::{Builder, Uuid};

use crate::backend::Backend;
use crate::error::{Error, ErrorKind, Result};
use crate::names::base32;

/// Ticks are milliseconds since 1970 in 48 bits, then 12 bits that count within a millisecond.
pub(crate) const LAST_TICK: u64 = (1 << 60) - 1;

/// The identity of a new run.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// A version 7 UUID. Ids are ordered as the claims in this store, whatever the clock says.
    pub(crate) run_id: Uuid,
    /// `2026-11-23_06-50-00-k3f9a2`: local time, then part of the id.
    pub(crate) folder: String,
    /// `2026-11-23 06:50:00`, local time, in the original's format.
    pub(crate) save_time: String,
    /// UTC, as RFC 3339.
    pub(crate) created_at: String,
}

impl Claim {
    pub(crate) fn new(backend: &dyn Backend) -> Result<Self> {
        Claim::at(backend, SystemTime::now())
    }

    /// A claim at a given time.
    fn at(backend: &dyn Backend, time: SystemTime) -> Result<Self> {
        let timestamp = timestamp(time)?;
        let milliseconds = u64::try_from(timestamp.as_millisecond()).unwrap_or(0);
        let tick = backend.tick(milliseconds.saturating_mul(1 << 12).min(LAST_TICK))?;
        let run_id = id(tick);
        let now = timestamp.to_zoned_datetime(TimeZone::system());
        let suffix = base32(u64::from_be_bytes(run_id.into_bytes()[8..].try_into().unwrap_or_default()), 6);
        Ok(Claim {
            run_id,
            folder: format!("{}-{suffix}", now.strftime("%Y-%m-%d_%H-%M-%S")),
            save_time: now.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            created_at: rfc_3339(timestamp),
        })
    }
}

/// The present, in UTC.
///
/// # Errors
/// If the clock is out of range.
pub(crate) fn utc() -> Result<String> {
    Ok(rfc_3339(timestamp(SystemTime::now())?))
}

fn rfc_3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

/// A time that can be written. A clock that was never set starts in 1970.
fn timestamp(time: SystemTime) -> Result<Timestamp> {
    let found = Timestamp::try_from(time).ok().filter(|found| *found >= Timestamp::UNIX_EPOCH);
    found.ok_or_else(|| {
        let since = time.duration_since(UNIX_EPOCH);
        let seconds = since.map_or_else(|e| -(e.duration().as_secs() as i128), |d| i128::from(d.as_secs()));
        Error::new(
            ErrorKind::Unsupported,
            format!("the clock of this machine is {seconds} seconds from 1970"),
        )
        .hint("set it to a time between 1970 and the end of 9999: date")
    })
}

fn id(tick: u64) -> Uuid {
    let random = Uuid::new_v4().into_bytes();
    let mut low = [0; 10];
    low[..2].copy_from_slice(&((tick & 0xFFF) as u16).to_be_bytes());
    // The bytes in between hold another id's version and variant.
    low[2..8].copy_from_slice(&random[..6]);
    low[8..].copy_from_slice(&random[10..12]);
    Builder::from_unix_timestamp_millis(tick >> 12, &low).into_uuid()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::Local;
    use crate::fs::OsFiles;

    fn backend(folder: &tempfile::TempDir) -> Local {
        std::fs::create_dir_all(folder.path().join(".easyroutine")).unwrap();
        Local::new(Arc::new(OsFiles::open(folder.path()).unwrap()))
    }

    #[test]
    fn an_absurd_clock_is_an_error_and_no_panic() {
        const YEAR: u64 = 31_556_952;
        let folder = tempfile::tempdir().unwrap();
        let backend = backend(&folder);
        let mut last = String::new();
        for year in [0, 1, 56, 2000, 8028] {
            let claim = Claim::at(&backend, UNIX_EPOCH + Duration::from_secs(year * YEAR)).unwrap();
            crate::names::check_run_path(&format!("e/m/{}", claim.folder)).unwrap();
            assert!(claim.run_id.to_string() > last, "in the order of the claims");
            last = claim.run_id.to_string();
        }
        // The clock goes back; the order does not.
        assert!(Claim::at(&backend, UNIX_EPOCH).unwrap().run_id.to_string() > last);
        for year in [8030, 8919, 8921, 1_000_000, 1_000_000_000] {
            let Some(time) = UNIX_EPOCH.checked_add(Duration::from_secs(year * YEAR)) else { continue };
            let error = Claim::at(&backend, time).unwrap_err();
            assert!(error.to_string().contains("the clock of this machine"), "{error}");
        }
        let before = UNIX_EPOCH - Duration::from_secs(YEAR);
        assert!(Claim::at(&backend, before).unwrap_err().to_string().contains("-31556952 seconds"));
    }

    #[test]
    fn whatever_the_clock_file_says_ids_grow_or_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let backend = backend(&folder);
        let file = folder.path().join(".easyroutine/clock");
        let long = "f".repeat(100_000);
        // Foreign content: the time of day applies.
        for content in
            ["", "\0\0\0\0", "zzzz", "-5", "ffffffffffffffff", "1000000000000000", &long, "12 34", "\u{ff11}"]
        {
            std::fs::write(&file, content).unwrap();
            let (first, second) = (Claim::new(&backend).unwrap(), Claim::new(&backend).unwrap());
            assert!(first.run_id < second.run_id, "{content:?}");
        }
        std::fs::write(&file, format!("{:016x}\n", LAST_TICK - 1)).unwrap();
        Claim::new(&backend).unwrap();
        let error = Claim::new(&backend).unwrap_err();
        assert!(error.hint_text().unwrap().contains("delete"), "{error}");
        assert!(error.to_string().contains("clock"), "{error}");
    }
}
