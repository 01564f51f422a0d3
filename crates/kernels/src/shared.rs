//! Rows that several tasks write concurrently, each its own part.

use crate::RowsMut;
use std::marker::PhantomData;
use std::ops::Range;

/// A matrix that tasks write in disjoint parts.
pub(crate) struct SharedRows<'a, T = f32> {
    start: *mut T,
    rows: usize,
    cols: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: access is only through `part`, whose callers promise that parts do not overlap.
unsafe impl<T: Send> Send for SharedRows<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedRows<'_, T> {}

impl<'a> SharedRows<'a> {
    pub(crate) fn new(mut rows: RowsMut<'a>) -> SharedRows<'a> {
        let (n, cols, stride) = (rows.n_rows(), rows.n_columns(), rows.stride());
        SharedRows { start: rows.data_mut().as_mut_ptr(), rows: n, cols, stride, borrow: PhantomData }
    }
}

impl<'a, T> SharedRows<'a, T> {
    /// Rows of `cols` values that start `stride` values apart.
    pub(crate) fn spaced(values: &'a mut [T], rows: usize, cols: usize, stride: usize) -> SharedRows<'a, T> {
        let fits = rows.checked_mul(stride).is_some_and(|len| len <= values.len());
        assert!(fits && cols <= stride, "{rows} rows of {cols} values, {stride} apart");
        SharedRows { start: values.as_mut_ptr(), rows, cols, stride, borrow: PhantomData }
    }

    /// Rows of `cols` values without gaps, in a slice at least as long.
    pub(crate) fn dense(values: &'a mut [T], rows: usize, cols: usize) -> SharedRows<'a, T> {
        SharedRows::spaced(values, rows, cols, cols)
    }

    pub(crate) fn n_rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn n_columns(&self) -> usize {
        self.cols
    }

    /// A range of columns of a row.
    ///
    /// # Safety
    /// While the result lives, no other part of the row shares a column with it.
    ///
    /// # Panics
    /// If the row or the columns do not exist.
    #[expect(clippy::mut_from_ref, reason = "parts are disjoint, which is the caller's promise")]
    #[inline]
    pub(crate) unsafe fn part(&self, row: usize, columns: Range<usize>) -> &mut [T] {
        assert!(
            row < self.rows && columns.start <= columns.end && columns.end <= self.cols,
            "part of a matrix"
        );
        if columns.is_empty() {
            return &mut [];
        }
        // SAFETY: within the view that the constructor took and checked; the caller promises that it is the only access.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.stride + columns.start), columns.len())
        }
    }
}
