//! A body that must arrive at a minimum speed: otherwise a server that sends a byte per second could hold a download
//! forever.

use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Bytes per second that any line delivers.
const SLOWEST: f64 = 1024.0;

/// A reader that fails if a period brings fewer bytes than the slowest allowed speed.
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
