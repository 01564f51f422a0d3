//! Reuse of large arrays. The system clears fresh memory page by page, and a virtual machine may have to fetch it from
//! its host: a tenth of a run that keeps activations, measured on one.

use std::collections::VecDeque;
use std::sync::{Mutex, TryLockError};

use crate::aligned::advise_large_pages_within;

/// Bytes kept for reuse at most; beyond that the oldest arrays go back to the system.
const MOST_BYTES: usize = 256 << 20;

/// Smaller arrays are left to the allocator, which caches memory itself.
const LEAST_BYTES: usize = 256 << 10;

static SPARE: Mutex<Spare> = Mutex::new(Spare::new());

/// An empty vector with room for `capacity` values: reused memory, or fresh memory on large pages where the system has
/// them.
///
/// # Panics
/// If no memory can be that large.
pub fn large_vec(capacity: usize) -> Vec<f32> {
    let mut values = taken(capacity).unwrap_or_else(|| {
        let values: Vec<f32> = Vec::with_capacity(capacity);
        advise_large_pages_within(values.as_ptr().cast(), capacity * size_of::<f32>());
        values
    });
    values.clear();
    values
}

/// `len` values of unspecified contents, to be overwritten.
///
/// # Panics
/// If no memory can be that large.
pub fn large_values(len: usize) -> Vec<f32> {
    if let Some(mut values) = taken(len) {
        values.resize(len, 0.0);
        return values;
    }
    // The allocator hands out zeroed memory untouched.
    let values = vec![0.0; len];
    advise_large_pages_within(values.as_ptr().cast(), len * size_of::<f32>());
    values
}

/// Gives back an array for reuse.
pub fn give_back(values: Vec<f32>) {
    if bytes(&values) >= LEAST_BYTES {
        // Evicted arrays are freed after the lock is released.
        drop(with_spare(|spare| spare.put(values)));
    }
}

fn taken(len: usize) -> Option<Vec<f32>> {
    if len.checked_mul(size_of::<f32>())? < LEAST_BYTES {
        return None;
    }
    with_spare(|spare| spare.take(len)).flatten()
}

/// `None` while another thread has the arrays, or had them when this process was forked; memory is then fresh, or
/// freed.
fn with_spare<R>(f: impl FnOnce(&mut Spare) -> R) -> Option<R> {
    match SPARE.try_lock() {
        Ok(mut spare) => Some(f(&mut spare)),
        Err(TryLockError::Poisoned(poisoned)) => Some(f(&mut poisoned.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn bytes(values: &Vec<f32>) -> usize {
    values.capacity() * size_of::<f32>()
}

/// The waiting arrays, oldest first.
struct Spare {
    arrays: VecDeque<Vec<f32>>,
    bytes: usize,
}

impl Spare {
    const fn new() -> Spare {
        Spare { arrays: VecDeque::new(), bytes: 0 }
    }

    /// The smallest waiting array with room for `len` values, if it is not much larger.
    fn take(&mut self, len: usize) -> Option<Vec<f32>> {
        let fits = |capacity: usize| capacity >= len && capacity - len <= len / 8;
        let fitting = self.arrays.iter().enumerate().filter(|(_, values)| fits(values.capacity()));
        let (index, _) = fitting.min_by_key(|(_, values)| values.capacity())?;
        let values = self.arrays.remove(index)?;
        self.bytes -= bytes(&values);
        Some(values)
    }

    /// Adds an array, and returns those evicted for it.
    fn put(&mut self, values: Vec<f32>) -> Vec<Vec<f32>> {
        if bytes(&values) > MOST_BYTES {
            return vec![values];
        }
        self.bytes += bytes(&values);
        self.arrays.push_back(values);
        let mut gone = Vec::new();
        while self.bytes > MOST_BYTES
            && let Some(values) = self.arrays.pop_front()
        {
            self.bytes -= bytes(&values);
            gone.push(values);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each waiting array's first value and capacity.
    fn waiting(spare: &Spare) -> Vec<(f32, usize)> {
        assert_eq!(spare.bytes, spare.arrays.iter().map(bytes).sum::<usize>());
        spare.arrays.iter().map(|values| (values[0], values.capacity())).collect()
    }

    fn array(first: f32, capacity: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(capacity);
        values.push(first);
        assert_eq!(values.capacity(), capacity);
        values
    }

    #[test]
    fn the_array_that_fits_best_is_taken() {
        let mut spare = Spare::new();
        for (first, capacity) in [(0.0, 1000), (1.0, 1100), (2.0, 1090), (3.0, 2000)] {
            assert!(spare.put(array(first, capacity)).is_empty());
        }
        assert!(spare.take(1200).is_none());
        assert_eq!(spare.take(1001).unwrap()[0], 2.0);
        assert_eq!(spare.take(1001).unwrap()[0], 1.0);
        assert!(spare.take(1001).is_none());
        assert_eq!(waiting(&spare), [(0.0, 1000), (3.0, 2000)]);
    }

    #[test]
    fn what_has_waited_longest_goes_first() {
        let mut spare = Spare::new();
        let third = MOST_BYTES / size_of::<f32>() / 3;
        for first in [0.0, 1.0, 2.0] {
            assert!(spare.put(array(first, third)).is_empty());
        }
        let gone = spare.put(array(3.0, 2 * third - 5));
        assert_eq!(gone.iter().map(|values| values[0]).collect::<Vec<_>>(), [0.0, 1.0]);
        assert_eq!(waiting(&spare), [(2.0, third), (3.0, 2 * third - 5)]);
        let gone = spare.put(array(4.0, 4 * third));
        assert_eq!(gone.iter().map(|values| values[0]).collect::<Vec<_>>(), [4.0]);
        assert_eq!(waiting(&spare).len(), 2);
    }

    #[test]
    fn memory_that_is_used_again_has_the_length_that_was_asked_for() {
        let len = LEAST_BYTES / size_of::<f32>();
        for given in [len, len + 5] {
            give_back(vec![7.0; given]);
            let room = large_vec(len);
            assert!(room.is_empty() && room.capacity() >= len);
            give_back(vec![7.0; given]);
            assert_eq!(large_values(len + 3).len(), len + 3);
        }
    }
}
