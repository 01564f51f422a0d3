//! Taps for tests: keeping everything, changing values, recording calls.

use std::collections::BTreeSet;

use easyroutine::cache::{ActivationCache, Capture};
use easyroutine::positions::Selection;
use easyroutine::sites::Point;
use easyroutine::{Batch, Model, Result, Tap, Value, Want};

/// Runs rows and keeps the given points at all tokens.
pub(crate) fn capture(
    model: &Model,
    rows: &[Vec<u32>],
    points: impl IntoIterator<Item = Point>,
) -> ActivationCache {
    capture_after(model, rows, points, ())
}

/// Runs rows under another tap, which comes first, and keeps the given points at all tokens.
pub(crate) fn capture_after(
    model: &Model,
    rows: &[Vec<u32>],
    points: impl IntoIterator<Item = Point>,
    first: impl Tap,
) -> ActivationCache {
    let batch = Batch::new(rows).unwrap();
    let mut taps = (first, capturing(rows, points));
    model.forward(&batch, &mut taps).unwrap();
    taps.1.finish(&batch)
}

/// A capture of the given points at all tokens of the rows.
pub(crate) fn capturing(rows: &[Vec<u32>], points: impl IntoIterator<Item = Point>) -> Capture {
    Capture::new(points.into_iter().collect(), Selection::all(rows.iter().map(Vec::len)))
}

/// Changes values at some points.
pub(crate) struct Edit<F> {
    pub(crate) at: BTreeSet<Point>,
    pub(crate) change: F,
}

impl<F: FnMut(Point, &mut Value<'_>)> Tap for Edit<F> {
    fn wants(&self, point: Point) -> Want {
        if self.at.contains(&point) { Want::Edit } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        (self.change)(point, value);
        Ok(())
    }
}

/// Records where it was called; ends the run at one point, if one is named.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(crate) wanted: BTreeSet<Point>,
    pub(crate) fails_at: Option<Point>,
    pub(crate) calls: Vec<Point>,
}

impl Tap for Recorder {
    fn wants(&self, point: Point) -> Want {
        if self.wanted.contains(&point) { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, _: &mut Value<'_>) -> Result<()> {
        self.calls.push(point);
        if self.fails_at == Some(point) {
            return Err(easyroutine::Error::new(easyroutine::ErrorKind::Interrupted, "enough"));
        }
        Ok(())
    }
}
