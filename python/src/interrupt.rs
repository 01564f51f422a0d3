//! Ctrl-C during long calls: the engine runs without the GIL and polls for signals.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use easyroutine::{Error, ErrorKind};
use pyo3::prelude::*;

use crate::errors::Failure;

/// Interval between checks for signals.
const PAUSE: Duration = Duration::from_millis(50);

/// Ends a run when Python has a signal to handle.
pub(crate) struct Signals {
    looked: Mutex<Instant>,
    raised: Mutex<Option<PyErr>>,
    stopped: AtomicBool,
}

impl Signals {
    pub(crate) fn new() -> Self {
        Signals {
            looked: Mutex::new(Instant::now()),
            raised: Mutex::default(),
            stopped: AtomicBool::new(false),
        }
    }

    /// The error of a run: Python's exception, if that ended the run.
    pub(crate) fn failure(&self, error: Error) -> Failure {
        match lock(&self.raised).take() {
            Some(raised) => Failure::Python(raised),
            None => Failure::Engine(error),
        }
    }

    /// Whether a signal was raised, now or earlier.
    pub(crate) fn is_stopped(&self) -> bool {
        // Other threads of Python may hold the GIL for milliseconds, so this asks for it no more often than a user
        // notices.
        let mut looked = lock(&self.looked);
        if looked.elapsed() >= PAUSE {
            if let Err(raised) = Python::attach(|py| py.check_signals()) {
                *lock(&self.raised) = Some(raised);
                self.stopped.store(true, Ordering::Relaxed);
            }
            *looked = Instant::now();
        }
        self.stopped.load(Ordering::Relaxed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs uninterruptible work on a thread of its own. A signal ends the wait at once; the work goes on in the background
/// and its result is dropped.
pub(crate) fn waiting<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> easyroutine::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    let thread = thread::Builder::new()
        .name("easyroutine-load".to_owned())
        .spawn(work)
        .map_err(|e| Error::new(ErrorKind::Io, format!("no thread could be started: {e}")).because(e))?;
    let mut pause = Duration::from_micros(100);
    while !thread.is_finished() {
        py.detach(|| thread::sleep(pause));
        py.check_signals().map_err(Failure::Python)?;
        pause = (pause * 2).min(PAUSE);
    }
    match thread.join() {
        Ok(result) => Ok(result?),
        Err(_) => Err(Failure::input("the engine gave up on this model: its files contradict themselves")),
    }
}
