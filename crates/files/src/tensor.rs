use std::ops::Range;
use std::sync::Arc;

use crate::{Encoding, Error, MappedFile, Result, blocks};

/// One tensor as stored in its file: a name, a shape, and bytes that decode to `f32`.
///
/// It has exactly the bytes that shape and encoding need; otherwise the container was refused when opened.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor<'a> {
    name: &'a str,
    shape: Vec<usize>,
    encoding: Encoding,
    bytes: &'a [u8],
    file: Option<PlaceInFile<'a>>,
}

#[derive(Debug, Clone, Copy)]
struct PlaceInFile<'a> {
    map: &'a MappedFile,
    offset: usize,
}

impl PartialEq for PlaceInFile<'_> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.map, other.map) && self.offset == other.offset
    }
}

impl<'a> StoredTensor<'a> {
    /// A tensor over bytes that are not in a mapped file.
    ///
    /// # Errors
    /// If `bytes` is not as long as `shape` and `encoding` need, or a row is not whole blocks.
    pub fn new(name: &'a str, shape: Vec<usize>, encoding: Encoding, bytes: &'a [u8]) -> Result<Self> {
        let needed = stored_bytes(&shape, encoding).map_err(|e| e.within(format_args!("tensor `{name}`")))?;
        if needed != bytes.len() {
            return Err(Error::malformed(format!(
                "shape {shape:?} of {encoding} needs {needed} bytes, not {}",
                bytes.len()
            ))
            .within(format_args!("tensor `{name}`")));
        }
        Ok(StoredTensor { name, shape, encoding, bytes, file: None })
    }

    pub(crate) fn in_file(
        map: &'a MappedFile,
        range: Range<usize>,
        name: &'a str,
        shape: &[usize],
        encoding: Encoding,
    ) -> Option<Self> {
        let offset = range.start;
        let tensor = StoredTensor::new(name, shape.to_vec(), encoding, map.bytes().get(range)?).ok()?;
        Some(StoredTensor { file: Some(PlaceInFile { map, offset }), ..tensor })
    }

    /// The tensor's name in the file.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Sizes of its axes, slowest first, as in PyTorch (GGUF writes them in reverse).
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The encoding of its numbers.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The numbers as stored, little-endian.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Product of all axes except the last: 1 for a vector or a scalar.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Size of the last axis: 1 for a scalar.
    pub fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Decodes row `i`.
    ///
    /// # Shapes
    /// out: `[row_len]`
    ///
    /// # Errors
    /// If there is no such row, `out` is not one row long, or the encoding does not decode to `f32`.
    pub fn read_row(&self, i: usize, out: &mut [f32]) -> Result<()> {
        self.read_rows(i..i.saturating_add(1), out)
    }

    /// Decodes consecutive rows.
    ///
    /// # Shapes
    /// out: [rows.len(), row_len]
    ///
    /// # Errors
    /// As [`read_row`](Self::read_row).
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<()> {
        self.refuse_undecodable()?;
        let stored = self.bytes_of_rows(&rows)?;
        if out.len() != rows.len() * self.row_len() {
            return Err(self.error(Error::request(format!(
                "{} row(s) of {} do not fit a buffer of {}",
                rows.len(),
                self.row_len(),
                out.len()
            ))));
        }
        blocks::decode(self.encoding, &self.bytes[stored], out);
        Ok(())
    }

    /// Decodes the whole tensor.
    ///
    /// # Shapes
    /// returns `[elements]`, row-major in [`shape`](Self::shape)
    ///
    /// # Errors
    /// If the encoding does not decode to `f32`.
    pub fn read_all(&self) -> Result<Vec<f32>> {
        self.refuse_undecodable()?;
        let mut out = vec![0.0; self.elements()];
        blocks::decode(self.encoding, self.bytes, &mut out);
        Ok(out)
    }

    /// Its rows as a value that owns the map, to be decoded at any time.
    ///
    /// # Errors
    /// If the encoding does not decode to `f32`.
    pub fn lasting(&self) -> Result<LastingRows> {
        self.refuse_undecodable()?;
        let bytes = match self.file {
            Some(PlaceInFile { map, offset }) => {
                Bytes::Mapped(map.clone(), offset..offset + self.bytes.len())
            }
            None => Bytes::Own(self.bytes.into()),
        };
        let row_bytes = self.row_bytes();
        Ok(LastingRows { bytes, encoding: self.encoding, rows: self.rows(), row_bytes })
    }

    /// Releases the memory of these rows' bytes, if they are in a mapped file. See [`MappedFile::drop_pages`].
    pub fn drop_rows(&self, rows: Range<usize>) {
        if let (Some(file), Ok(stored)) = (self.file, self.bytes_of_rows(&rows)) {
            file.map.drop_pages(file.offset + stored.start..file.offset + stored.end);
        }
    }

    /// Releases the memory of all its bytes, if they are in a mapped file. See [`MappedFile::drop_pages`].
    pub fn drop_pages(&self) {
        self.drop_rows(0..self.rows());
    }

    fn bytes_of_rows(&self, rows: &Range<usize>) -> Result<Range<usize>> {
        if rows.start > rows.end || rows.end > self.rows() {
            return Err(self.error(Error::request(format!("no rows {rows:?}: it has {}", self.rows()))));
        }
        // The product is at most `bytes.len()`.
        let row_bytes = self.row_bytes();
        Ok(rows.start * row_bytes..rows.end * row_bytes)
    }

    /// Rows are whole blocks by construction.
    fn row_bytes(&self) -> usize {
        self.row_len() / self.encoding.block_len() * self.encoding.block_bytes()
    }

    fn refuse_undecodable(&self) -> Result<()> {
        if self.encoding.is_decoded() {
            return Ok(());
        }
        Err(self.error(Error::unsupported(format!(
            "holds {} numbers, which are not weights; F32, F16, BF16, F64 and the GGUF block types are",
            self.encoding
        ))))
    }

    fn error(&self, error: Error) -> Error {
        let error = error.within(format_args!("tensor `{}`", self.name));
        match self.file {
            Some(file) => error.within(file.map.path().display()),
            None => error,
        }
    }
}

/// The rows of a tensor that decodes to `f32`. They keep its file mapped.
#[derive(Debug, Clone)]
pub struct LastingRows {
    bytes: Bytes,
    encoding: Encoding,
    rows: usize,
    row_bytes: usize,
}

#[derive(Debug, Clone)]
enum Bytes {
    Mapped(MappedFile, Range<usize>),
    Own(Arc<[u8]>),
}

impl LastingRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Decodes row `i`.
    ///
    /// # Shapes
    /// out: `[row_len]`
    ///
    /// # Panics
    /// If there is no such row, or `out` is not one row long.
    pub fn read(&self, i: usize, out: &mut [f32]) {
        let row_len = self.row_bytes / self.encoding.block_bytes() * self.encoding.block_len();
        assert!(i < self.rows && out.len() == row_len, "row {i} of {} rows of {row_len}", self.rows);
        blocks::decode(self.encoding, self.bytes(i), out);
    }

    /// The encoding of the numbers.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Row `i` as stored, little-endian.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn bytes(&self, i: usize) -> &[u8] {
        let bytes = match &self.bytes {
            Bytes::Mapped(map, range) => &map.bytes()[range.clone()],
            Bytes::Own(bytes) => bytes,
        };
        &bytes[i * self.row_bytes..][..self.row_bytes]
    }

    /// Releases the memory of some rows' bytes, if they are in a mapped file. See [`MappedFile::drop_pages`].
    pub fn drop_pages(&self, rows: Range<usize>) {
        if let Some((map, range)) = self.in_file(rows) {
            map.drop_pages(range);
        }
    }

    /// Says that some rows will be read soon, if they lie in a mapped file. See [`MappedFile::soon`].
    pub fn soon(&self, rows: Range<usize>) {
        if let Some((map, range)) = self.in_file(rows) {
            map.soon(range);
        }
    }

    fn in_file(&self, rows: Range<usize>) -> Option<(&MappedFile, Range<usize>)> {
        let Bytes::Mapped(map, range) = &self.bytes else { return None };
        let at = |row: usize| range.start + row.min(self.rows) * self.row_bytes;
        Some((map, at(rows.start)..at(rows.end)))
    }
}

/// Bytes of a tensor of this shape; an error if they overflow or a row is not whole blocks.
pub(crate) fn stored_bytes(shape: &[usize], encoding: Encoding) -> Result<usize> {
    let row = shape.last().copied().unwrap_or(1);
    let row_bytes = encoding.bytes_of(row).ok_or_else(|| {
        Error::malformed(format!(
            "rows of {row} are not whole blocks of {encoding}, which hold {}",
            encoding.block_len()
        ))
    })?;
    let outer = shape.split_last().map_or(&[][..], |(_, outer)| outer);
    // An empty axis makes the product 0, yet the others must not overflow on the way: `elements` multiplies all.
    let mut bytes = row_bytes.max(1);
    for &axis in outer {
        bytes = bytes
            .checked_mul(axis.max(1))
            .ok_or_else(|| Error::malformed(format!("shape {shape:?} is more than any memory holds")))?;
    }
    Ok(if shape.contains(&0) { 0 } else { bytes })
}
