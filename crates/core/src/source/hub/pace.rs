//! A body that must come at a pace: a server that sends a byte a second would be waited for as long as a silent one would
//! not.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Bytes a second that any line brings.
const SLOWEST: f64 = 1024.0;

/// A reader that fails where a span of time brought fewer bytes than the slowest pace allows.
pub(super) struct Paced<R> {
    inner: R,
    span: Duration,
    began: Instant,
    received: u64,
}

impl<R> Paced<R> {
    pub(super) fn new(inner: R, span: Duration) -> Self {
        Paced { inner, span, began: Instant::now(), received: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.received += count as u64;
        let elapsed = self.began.elapsed();
        if count > 0 && elapsed >= self.span {
            if (self.received as f64) < SLOWEST * elapsed.as_secs_f64() {
                let message = format!(
                    "{} bytes came in {:.1} s; {SLOWEST} a second is the slowest that is waited for",
                    self.received,
                    elapsed.as_secs_f64()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            (self.began, self.received) = (Instant::now(), 0);
        }
        Ok(count)
    }
}
