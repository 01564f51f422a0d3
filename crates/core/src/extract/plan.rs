//! Which rows run together. Their order depends on their lengths alone, never on the batch size, so that sums over rows
//! are taken in a fixed order.

use std::ops::Range;

/// Consecutive ranges of this many examples, or up to these ends.
pub(super) fn windows(n_examples: usize, size: usize, ends: Option<&[usize]>) -> Vec<Range<usize>> {
    if let Some(ends) = ends {
        let ends = ends.iter().map(|end| *end.min(&n_examples)).chain([n_examples]);
        let from = |start: &mut usize, end: usize| Some(std::mem::replace(start, end)..end);
        return ends.scan(0, from).filter(|window| !window.is_empty()).collect();
    }
    let size = size.max(1);
    (0..n_examples)
        .step_by(size)
        .map(move |start| start..start.saturating_add(size).min(n_examples))
        .collect()
}

/// The rows of a window, longest first, divided into batches of at most `budget` tokens. Longest first, so that
/// insufficient memory shows at once, and buffers grow only once.
pub(super) fn batches(lengths: &[usize], window: Range<usize>, budget: usize) -> Vec<Vec<usize>> {
    let mut rows: Vec<usize> = window.collect();
    rows.sort_by_key(|row| (std::cmp::Reverse(lengths[*row]), *row));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for row in rows {
        match batches.last_mut() {
            Some(batch) if tokens + lengths[row] <= budget => batch.push(row),
            _ => {
                batches.push(vec![row]);
                tokens = 0;
            }
        }
        tokens += lengths[row];
    }
    batches
}
