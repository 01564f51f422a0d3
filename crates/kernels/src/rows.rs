//! Views of matrices in slices: rows of one length at a fixed distance.

use std::fmt;
use std::ops::Range;

/// A matrix in a slice: `rows` rows of `cols` values, `stride` values from one row's start to the next.
///
/// # Shapes
/// [rows, cols], row-major.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// The same view, mutable.
///
/// # Shapes
/// [rows, cols], row-major.
pub struct RowsMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// Number of values from a matrix's first to its last.
///
/// # Panics
/// If the rows would overlap, or the span does not fit in a `usize`.
fn span(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 || cols == 0 {
        return 0;
    }
    assert!(rows == 1 || stride >= cols, "rows of {cols} values overlap at a stride of {stride}");
    let before_last = (rows - 1).checked_mul(stride);
    before_last.and_then(|n| n.checked_add(cols)).expect("the span of a matrix fits in a usize")
}

fn check(len: usize, rows: usize, cols: usize, stride: usize) -> usize {
    let span = span(rows, cols, stride);
    assert!(
        span <= len,
        "{rows} rows of {cols} values at a stride of {stride} need {span} values, the slice has {len}"
    );
    span
}

fn check_range(range: &Range<usize>, limit: usize, what: &str) {
    assert!(
        range.start <= range.end && range.end <= limit,
        "{what} {}..{} of a matrix that has {limit}",
        range.start,
        range.end
    );
}

impl<'a> Rows<'a> {
    /// A view of `data`.
    ///
    /// # Panics
    /// If the slice is too short, or rows would overlap.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Rows<'a> {
        let span = check(data.len(), rows, cols, stride);
        Rows { data: &data[..span], rows, cols, stride }
    }

    /// A view of rows without gaps between them.
    ///
    /// # Panics
    /// If the slice is not exactly `rows` times `cols` values long.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Rows<'a> {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "{rows} rows of {cols} values");
        Rows::new(data, rows, cols, cols)
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// Number of values in a row.
    pub fn n_columns(&self) -> usize {
        self.cols
    }

    /// Distance from one row's start to the next, in values.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    /// All values, gaps between rows included.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        if self.cols == 0 {
            return &[];
        }
        &self.data[row * self.stride..][..self.cols]
    }

    /// A view of a range of columns of every row.
    ///
    /// # Panics
    /// If the range reaches past the last column.
    pub fn columns(&self, range: Range<usize>) -> Rows<'a> {
        check_range(&range, self.cols, "columns");
        let data = if self.is_empty() { self.data } else { &self.data[range.start..] };
        Rows::new(data, self.rows, range.len(), self.stride)
    }

    /// A view of a range of rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(&self, range: Range<usize>) -> Rows<'a> {
        check_range(&range, self.rows, "rows");
        let data =
            if range.is_empty() || self.cols == 0 { &[] } else { &self.data[range.start * self.stride..] };
        Rows::new(data, range.len(), self.cols, self.stride)
    }
}

impl<'a> RowsMut<'a> {
    /// A view of `data`.
    ///
    /// # Panics
    /// If the slice is too short, or rows would overlap.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> RowsMut<'a> {
        let span = check(data.len(), rows, cols, stride);
        RowsMut { data: &mut data[..span], rows, cols, stride }
    }

    /// A view of rows without gaps between them.
    ///
    /// # Panics
    /// If the slice is not exactly `rows` times `cols` values long.
    pub fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> RowsMut<'a> {
        assert_eq!(rows.checked_mul(cols), Some(data.len()), "{rows} rows of {cols} values");
        RowsMut::new(data, rows, cols, cols)
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// Number of values in a row.
    pub fn n_columns(&self) -> usize {
        self.cols
    }

    /// Distance from one row's start to the next, in values.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Whether there is no value at all.
    pub fn is_empty(&self) -> bool {
        self.rows == 0 || self.cols == 0
    }

    /// All values, gaps between rows included.
    pub fn data_mut(&mut self) -> &mut [f32] {
        self.data
    }

    /// The same view, borrowed for a shorter time.
    pub fn reborrow(&mut self) -> RowsMut<'_> {
        RowsMut { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// A read-only view.
    pub fn as_rows(&self) -> Rows<'_> {
        Rows { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// One row.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[f32] {
        self.as_rows().row(row)
    }

    /// One row, mutable.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        if self.cols == 0 {
            return &mut [];
        }
        &mut self.data[row * self.stride..][..self.cols]
    }

    /// A view of a range of columns of every row.
    ///
    /// # Panics
    /// If the range reaches past the last column.
    pub fn columns(self, range: Range<usize>) -> RowsMut<'a> {
        check_range(&range, self.cols, "columns");
        let empty = self.is_empty();
        let data = if empty { self.data } else { &mut self.data[range.start..] };
        RowsMut::new(data, self.rows, range.len(), self.stride)
    }

    /// A view of a range of rows.
    ///
    /// # Panics
    /// If the range reaches past the last row.
    pub fn rows(self, range: Range<usize>) -> RowsMut<'a> {
        check_range(&range, self.rows, "rows");
        let data = if range.is_empty() || self.cols == 0 {
            &mut []
        } else {
            &mut self.data[range.start * self.stride..]
        };
        RowsMut::new(data, range.len(), self.cols, self.stride)
    }
}

impl fmt::Debug for RowsMut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowsMut[{} x {}]", self.n_rows(), self.n_columns())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn views_of_views_are_where_they_should_be() {
        let data: Vec<f32> = (0..22).map(|i| i as f32).collect();
        let all = Rows::new(&data, 3, 6, 8);
        let part = all.rows(1..3).columns(2..5);
        assert_eq!((part.n_rows(), part.n_columns(), part.stride()), (2, 3, 8));
        assert_eq!(part.row(0), [10.0, 11.0, 12.0]);
        assert_eq!(part.row(1), [18.0, 19.0, 20.0]);
        let mut copy = data.clone();
        let mut part = RowsMut::new(&mut copy, 3, 6, 8).rows(1..3).columns(2..5);
        part.reborrow().row_mut(1).fill(0.0);
        assert_eq!(part.row(0), [10.0, 11.0, 12.0]);
        assert_eq!(copy[17..22], [17.0, 0.0, 0.0, 0.0, 21.0]);
    }

    #[test]
    fn views_without_values_are_views() {
        for (rows, cols, stride) in [(0, 5, 5), (5, 0, 0), (0, 0, 0)] {
            let view = Rows::new(&[], rows, cols, stride);
            assert!(view.is_empty());
            assert_eq!(view.rows(0..rows).columns(0..cols).n_rows(), rows);
            assert!((0..rows).all(|row| view.row(row).is_empty()));
        }
    }

    #[test]
    fn what_does_not_fit_panics() {
        let bad: [fn(); 6] = [
            || _ = Rows::new(&[0.0; 10], 2, 5, 6).row(0),
            || _ = Rows::new(&[0.0; 10], 2, 5, 4).row(0),
            || _ = Rows::new(&[0.0; 10], usize::MAX, 5, 5).row(0),
            || _ = Rows::new(&[0.0; 10], 2, 5, 5).row(2),
            || _ = Rows::new(&[0.0; 10], 2, 5, 5).columns(3..6).n_rows(),
            || _ = Rows::new(&[0.0; 10], 2, 5, 5).rows(1..3).n_rows(),
        ];
        for (index, bad) in bad.into_iter().enumerate() {
            assert!(catch_unwind(bad).is_err(), "case {index}");
        }
    }
}
