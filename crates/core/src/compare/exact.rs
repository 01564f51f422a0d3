//! Both programs beside a run in f64: which of them is wrong.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine_sites::Point;

use super::Difference;
use crate::batch::Batch;
use crate::error::Result;
use crate::model::{ExactTap, ExactValue, Model};
use crate::stop::Stop;
use crate::tap::Want;

/// One place beside a run in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct AgainstExact {
    /// The values of the file.
    pub file: Apart,
    /// Ours.
    pub ours: Apart,
    /// Which of both are further from it than is allowed.
    pub wrong: Wrong,
}

/// How far values are from those of a run in f64.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Apart {
    /// The largest difference over the largest exact value; infinite where one of both is not a number.
    pub error: f64,
    /// Their length over that of the exact values.
    pub magnitude: f64,
    /// The cosine of the angle between both.
    pub cosine: f64,
    /// Row, position in the row, and number within the vector (of a pattern: the key) of the largest difference.
    pub at: [usize; 3],
}

/// Who is wrong in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Nobody.
    Neither,
    /// The program that wrote the file.
    File,
    /// This library.
    Ours,
    /// Both.
    Both,
}

impl AgainstExact {
    pub(super) fn of(file: &Difference, ours: &Difference, tolerance: f64) -> Self {
        let (file, ours) = (Apart::of(file), Apart::of(ours));
        let wrong = match (file.error <= tolerance, ours.error <= tolerance) {
            (true, true) => Wrong::Neither,
            (false, true) => Wrong::File,
            (true, false) => Wrong::Ours,
            (false, false) => Wrong::Both,
        };
        AgainstExact { file, ours, wrong }
    }
}

impl Apart {
    /// Of differences from exact values.
    fn of(difference: &Difference) -> Self {
        let [own, both, exact] = difference.products;
        let over = |a: f64, b: f64| if a == b { 1.0 } else { a / b };
        let error = if difference.largest == 0.0 { 0.0 } else { difference.largest / difference.of_file };
        Apart {
            error,
            magnitude: over(own.sqrt(), exact.sqrt()),
            cosine: over(both, (own * exact).sqrt()).clamp(-1.0, 1.0),
            at: difference.at,
        }
    }
}

/// Values of a run in f64: for each point those of each row, token after token.
pub(super) type Values = BTreeMap<Point, Vec<Vec<f64>>>;

/// Runs a batch in f64 and keeps these points.
pub(super) fn run(
    model: &Model,
    batch: &Batch,
    points: impl Iterator<Item = Point>,
    stop: Stop<'_>,
) -> Result<Values> {
    let mut keep = Keep { points: points.collect(), values: Values::new() };
    model.forward_exact(batch, &mut keep, stop)?;
    Ok(keep.values)
}

struct Keep {
    points: BTreeSet<Point>,
    values: Values,
}

impl ExactTap for Keep {
    fn wants(&self, point: Point) -> Want {
        if self.points.contains(&point) { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut ExactValue<'_>) -> Result<()> {
        let batch = value.batch();
        let of_row = |row: usize| {
            let vectors = (0..batch.length(row)).filter_map(|position| value.vector(row, position));
            vectors.flatten().copied().collect()
        };
        self.values.insert(point, (0..batch.n_rows()).map(of_row).collect());
        Ok(())
    }
}
