//! Retries what may succeed the next time.

use std::thread::sleep;
use std::time::Duration;

use super::super::Retries;
use crate::error::{Error, Result};

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Permanent: it would fail again.
    Lasting(Error),
    /// Temporary: it may succeed after at least this long.
    Passing(Error, Duration),
}

impl Failure {
    pub(super) fn passing(error: Error) -> Self {
        Failure::Passing(error, Duration::ZERO)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Lasting(error)
    }
}

const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Retries until success, a permanent failure, or too many consecutive failures.
pub(super) fn repeat<T>(retries: Retries, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    repeat_while_growing(retries, || (attempt(), 0))
}

/// The same for an attempt that reports how many bytes it gained: attempts that gained [`ENOUGH`] do not count.
pub(super) fn repeat_while_growing<T>(
    retries: Retries,
    mut attempt: impl FnMut() -> (Result<T, Failure>, u64),
) -> Result<T> {
    let mut failures = 0;
    let mut pause = retries.first_pause;
    loop {
        let (outcome, gained) = attempt();
        let (error, at_least) = match outcome {
            Ok(value) => return Ok(value),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(error, at_least)) => (error, at_least),
        };
        if gained >= ENOUGH {
            failures = 0;
            pause = retries.first_pause;
        }
        failures += 1;
        if failures >= retries.attempts {
            return Err(error);
        }
        sleep(pause.max(at_least).min(LONGEST_PAUSE));
        pause = pause.saturating_mul(2);
    }
}

/// A connection that delivered this much before it broke is always worth resuming: the file ends some time.
const ENOUGH: u64 = 8 << 20;
