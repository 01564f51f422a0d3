//! Scratch memory that each thread keeps for reuse, since fresh pages cost more than the arithmetic on them.

use crate::aligned::{Aligned, Plain};
use std::cell::RefCell;

/// Blocks that a thread keeps at most.
const KEPT_BLOCKS: usize = 6;
/// The largest block that is kept.
const KEPT_BYTES: usize = 256 << 20;

thread_local! {
    static FREE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with `len` values of unspecified contents, aligned to a cache line.
///
/// # Panics
/// If no memory can be that large.
pub(crate) fn with<T: Plain, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let Some(bytes) = len.checked_mul(size_of::<T>()) else { panic!("{len} values overflow memory") };
    let mut block = take(bytes).unwrap_or_else(|| Aligned::zeroed(bytes.saturating_add(bytes / 4)));
    let result = f(&mut block.values_mut()[..len]);
    give_back(block);
    result
}

/// Takes the smallest block that is large enough.
fn take(bytes: usize) -> Option<Aligned> {
    FREE.with_borrow_mut(|free| {
        let fits = free.iter().enumerate().filter(|(_, block)| block.bytes() >= bytes);
        let (index, _) = fits.min_by_key(|(_, block)| block.bytes())?;
        Some(free.swap_remove(index))
    })
}

fn give_back(block: Aligned) {
    if block.bytes() > KEPT_BYTES {
        return;
    }
    FREE.with_borrow_mut(|free| {
        free.push(block);
        if free.len() > KEPT_BLOCKS {
            let smallest = free.iter().enumerate().min_by_key(|(_, block)| block.bytes());
            if let Some((index, _)) = smallest {
                free.swap_remove(index);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_inside_scratch_does_not_overlap() {
        with::<f32, _>(100, |outer| {
            outer.fill(1.0);
            with::<f32, _>(100, |inner| inner.fill(2.0));
            assert!(outer.iter().all(|value| *value == 1.0));
        });
    }

    #[test]
    fn a_block_is_used_again() {
        let first = with::<f32, _>(1000, |values| values.as_ptr().addr());
        let second = with::<u16, _>(500, |values| values.as_ptr().addr());
        assert_eq!(first, second);
    }
}
