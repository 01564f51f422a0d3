//! The size of what an extraction keeps, known before it runs.

use std::collections::BTreeSet;

use easyroutine_sites::{Basis, Point, Site};

use crate::arch::{Arch, Pooling};
use crate::cache::{Axis, Examples, Key, PatternAverage, Reduction};
use crate::positions::{Selected, Selection};
use crate::request::Tokens;

/// How much is kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Number of activation keys.
    pub keys: usize,
    /// Bytes in total.
    pub bytes: u64,
    /// Bytes of the logits among them: as wide as the vocabulary, they are what fills memory and disks.
    pub logits_bytes: u64,
}

pub(super) fn of(arch: &Arch, points: &BTreeSet<Point>, tokens: &Tokens, reduction: &Reduction) -> Size {
    let rows = &tokens.columns.rows;
    let of_rows =
        |numbers: &dyn Fn(usize) -> usize| (0..rows.len()).map(|row| numbers(row) as u64).sum::<u64>();
    let t = |row: usize| length(&rows[row], reduction.positions);
    let vectors = of_rows(&t);
    let pairs = |examples: Examples| {
        of_rows(&|row| {
            let pattern_rows = tokens.pattern_rows.as_ref().map_or(&rows[row], |s: &Selection| &s.rows[row]);
            let is_cut = reduction.pattern != PatternAverage::None || reduction.positions == Axis::Groups;
            let axis = if is_cut { Axis::Groups } else { Axis::Tokens };
            let is_kept = examples == Examples::Each || row == 0;
            length(pattern_rows, axis) * length(&rows[row], axis) * usize::from(is_kept)
        })
    };
    // Only patterns have means over examples.
    let (patterns, scores) = (pairs(reduction.examples), pairs(Examples::Each));
    let mut size = Size::default();
    for point in points {
        let width = arch.width(*point).unwrap_or(0) as u64;
        let is_pooled = || arch.score().is_some_and(|score| score.pooling != Pooling::EachToken);
        let bytes = match point.site().basis() {
            Basis::Ids | Basis::ExpertIds => 8 * vectors * width,
            Basis::Positions if point.site() == Site::Pattern => 4 * patterns,
            Basis::Positions => 4 * scores,
            Basis::Labels if is_pooled() => 4 * rows.len() as u64 * width,
            _ => 4 * vectors * width,
        };
        size.keys += Key::of(*point).len();
        size.bytes += bytes;
        if point.site() == Site::Logits {
            size.logits_bytes += bytes;
        }
    }
    size
}

fn length(selected: &Selected, axis: Axis) -> usize {
    match axis {
        Axis::Tokens => selected.indices.len(),
        Axis::Groups => selected.groups.len(),
    }
}
