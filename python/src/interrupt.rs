//! Ctrl-C in long calls: the engine runs without the GIL and looks for signals on the way.

use std::thread;
use std::time::Duration;

use easyroutine::sites::{Point, Scope, Site};
use easyroutine::{Batch, Error, ErrorKind, Tap, Value, Want};
use pyo3::prelude::*;

use crate::errors::Failure;

/// How often a waiting thread looks for signals.
const PAUSE: Duration = Duration::from_millis(50);

/// A tap around another that looks for signals at the entry of every block that is needed anyway.
pub(crate) struct Interruptible<'t> {
    inner: &'t mut dyn Tap,
    /// Blocks below this one are run because the inner tap wants something there or above.
    needed: usize,
    raised: Option<PyErr>,
}

impl<'t> Interruptible<'t> {
    /// # Arguments
    /// `n_layers` and `n_heads` of the model that will run.
    pub(crate) fn new(inner: &'t mut dyn Tap, n_layers: usize, n_heads: usize) -> Self {
        let wants = |point| inner.wants(point) > Want::Nothing;
        let in_layer = |layer: &usize| {
            Site::ALL.iter().any(|site| match site.scope() {
                Scope::Model => false,
                Scope::Head => (0..n_heads).any(|head| wants(Point::head_of(*site, *layer, head))),
                _ => wants(Point::layer_of(*site, *layer)),
            })
        };
        let at_the_end = [Site::LastLayernorm, Site::Logits].into_iter().any(|s| wants(Point::model(s)));
        let highest = || (0..n_layers).rev().find(in_layer).map_or(0, |layer| layer + 1);
        let needed = if at_the_end { n_layers } else { highest() };
        Interruptible { inner, needed, raised: None }
    }

    /// As [`Interruptible::new`], for runs that go to the end in any case.
    pub(crate) fn of_whole_runs(inner: &'t mut dyn Tap, n_layers: usize) -> Self {
        Interruptible { inner, needed: n_layers, raised: None }
    }

    /// The error of a run: what Python raised where that ended it.
    pub(crate) fn failure(&mut self, error: Error) -> Failure {
        match self.raised.take() {
            Some(raised) => Failure::Python(raised),
            None => Failure::Engine(error),
        }
    }

    fn is_check(&self, point: Point) -> bool {
        point.site() == Site::ResidIn && point.layer().is_some_and(|layer| layer < self.needed)
    }
}

impl Tap for Interruptible<'_> {
    fn wants(&self, point: Point) -> Want {
        let own = if self.is_check(point) { Want::Read } else { Want::Nothing };
        self.inner.wants(point).max(own)
    }

    fn tokens(&self, point: Point, batch: &Batch) -> Option<Vec<usize>> {
        self.inner.tokens(point, batch)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<(), Error> {
        if self.is_check(point)
            && let Err(raised) = Python::attach(|py| py.check_signals())
        {
            self.raised = Some(raised);
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        if self.inner.wants(point) > Want::Nothing { self.inner.at(point, value) } else { Ok(()) }
    }
}

/// Runs something that cannot be asked to stop on a thread of its own. A signal ends the waiting at once; what was begun
/// goes on unseen and its result is dropped.
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
