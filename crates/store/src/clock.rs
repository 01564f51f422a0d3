//! When a run was claimed: an id that only grows, and times that people read.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::ZonedDateTime;
use uuid::{Builder, Uuid};

use crate::backend::Backend;
use crate::error::Result;
use crate::names::base32;

/// Ticks are milliseconds since 1970 in 48 bits, then 12 bits that count within one.
pub(crate) const LAST_TICK: u64 = (1 << 60) - 1;

/// The identity of a new run.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    /// Version 7; its order is the order of claims in this store, whatever the clock says.
    pub(crate) run_id: Uuid,
    /// `2026-11-23_06-50-00-k3f9a2`: local time, then a part of the id.
    pub(crate) folder: String,
    /// `2026-11-23 06:50:00`, local time, as the original writes it.
    pub(crate) save_time: String,
    /// UTC, as RFC 3339.
    pub(crate) created_at: String,
}

impl Claim {
    pub(crate) fn new(backend: &dyn Backend) -> Result<Self> {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let milliseconds = u64::try_from(since_1970.as_millis()).unwrap_or(0);
        let tick = backend.tick((milliseconds << 12) & LAST_TICK)?;
        let run_id = id(tick);
        let now = ZonedDateTime::now();
        let suffix = base32(u64::from_be_bytes(run_id.into_bytes()[8..].try_into().unwrap_or_default()), 6);
        Ok(Claim {
            run_id,
            folder: format!("{}-{suffix}", now.strftime("%Y-%m-%d_%H-%M-%S")),
            save_time: now.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            created_at: utc(),
        })
    }
}

/// The present, in UTC.
pub(crate) fn utc() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}

fn id(tick: u64) -> Uuid {
    let random = Uuid::new_v4().into_bytes();
    let mut low = [0; 10];
    low[..2].copy_from_slice(&((tick & 0xFFF) as u16).to_be_bytes());
    // The bytes in between hold the version and variant of another id.
    low[2..8].copy_from_slice(&random[..6]);
    low[8..].copy_from_slice(&random[10..12]);
    Builder::from_unix_timestamp_millis(tick >> 12, &low).into_uuid()
}
