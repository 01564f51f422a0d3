//! The contents of a file of activations: its rows, and the axes of its tensors.

use easyroutine_files::{Encoding, ShardedSafeTensors, StoredTensor};
use easyroutine_sites::Site;

use crate::batch::Batch;
use crate::cache::Kept;
use crate::error::{Error, ErrorKind, Result};

/// Tensors that are not activations.
pub(super) const KEYS: &[&str] = &["input_ids", "attention_mask"];

/// The tokens of a file.
#[derive(Debug)]
pub(super) struct Rows {
    ids: Vec<Vec<u32>>,
    mask: Vec<Vec<u8>>,
    length: usize,
}

impl Rows {
    pub(super) fn read(file: &ShardedSafeTensors) -> Result<Self> {
        let wrong = |what: String| Error::new(ErrorKind::Format, what);
        let ids = file.tensor("input_ids").ok_or_else(|| {
            wrong("there is no `input_ids`".to_owned()).hint("a dump carries the ids it was made of: B by S")
        })?;
        let (n_rows, length) = match ids.shape() {
            [n_rows, length] if *n_rows > 0 && *length > 0 => (*n_rows, *length),
            [length] if *length > 0 => (1, *length),
            shape => return Err(wrong(format!("`input_ids` has shape {shape:?}, not B by S"))),
        };
        let id = |id: i64| {
            u32::try_from(id).map_err(|_| wrong(format!("`input_ids` holds {id}, which is not a token id")))
        };
        let values = integers(&ids).ok_or_else(|| wrong("`input_ids` holds no whole numbers".to_owned()))?;
        let values = values.into_iter().map(id).collect::<Result<Vec<u32>>>()?;
        let mask = match file.tensor("attention_mask") {
            None => vec![1; values.len()],
            Some(mask) if mask.shape() == ids.shape() => {
                let bit = |x: i64| u8::try_from(x).unwrap_or(u8::MAX);
                let whole = integers(&mask)
                    .ok_or_else(|| wrong("`attention_mask` holds no whole numbers".to_owned()))?;
                whole.into_iter().map(bit).collect()
            }
            Some(mask) => {
                let (mask, ids) = (mask.shape(), ids.shape());
                return Err(wrong(format!("`attention_mask` has shape {mask:?}, and `input_ids` {ids:?}")));
            }
        };
        debug_assert_eq!(values.len(), n_rows * length);
        let (ids, mask) =
            (values.chunks(length).map(<[u32]>::to_vec), mask.chunks(length).map(<[u8]>::to_vec));
        Ok(Rows { ids: ids.collect(), mask: mask.collect(), length })
    }

    /// The rows without their padding.
    pub(super) fn batch(&self) -> Result<Batch> {
        Batch::from_padded(&self.ids, &self.mask)
    }

    /// Number of padding columns before a row.
    pub(super) fn first(&self, row: usize) -> usize {
        self.mask[row].iter().position(|bit| *bit == 1).unwrap_or(0)
    }
}

fn integers(tensor: &StoredTensor<'_>) -> Option<Vec<i64>> {
    let bytes = tensor.bytes();
    Some(match tensor.encoding() {
        Encoding::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        Encoding::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i64::from(i32::from_le_bytes(*b))).collect(),
        Encoding::U32 => bytes.as_chunks::<4>().0.iter().map(|b| i64::from(u32::from_le_bytes(*b))).collect(),
        Encoding::U8 | Encoding::Bool => bytes.iter().map(|b| i64::from(*b)).collect(),
        _ => return None,
    })
}

/// The strides of a tensor's rows, positions, heads and columns.
#[derive(Debug)]
pub(super) struct Axes {
    row: usize,
    position: usize,
    head: usize,
    /// Whether columns are positions of the row.
    of_pairs: bool,
}

impl Axes {
    /// The axes of a tensor for one point, or for all heads of a layer; otherwise why it has none.
    pub(super) fn of(
        shape: &[usize],
        rows: &Rows,
        site: Site,
        kept: &[&Kept],
    ) -> std::result::Result<Axes, String> {
        let (b, s, h) = (rows.ids.len(), rows.length, kept.len());
        let of_pairs = matches!(site, Site::Pattern | Site::Scores);
        let width = kept[0].row_shapes.first().map_or(0, |shape| shape.iter().skip(1).product());
        let wanted = match (of_pairs, h) {
            (true, 1) => vec![b, s, s],
            (true, _) => vec![b, h, s, s],
            (false, 1) => vec![b, s, width],
            (false, _) => vec![b, s, h, width],
        };
        let n: usize = wanted.iter().product();
        let leading = if of_pairs { wanted.len() } else { wanted.len() - 1 };
        let fits = |shape: &[usize]| shape.len() >= leading && shape[..leading] == wanted[..leading];
        let with_row = [&[1], shape].concat();
        let is_it = fits(shape) || b == 1 && fits(&with_row);
        if !is_it || shape.iter().product::<usize>() != n {
            return Err(format!("it has shape {shape:?} where {wanted:?} is expected"));
        }
        Ok(match (of_pairs, h) {
            (true, _) => Axes { row: h * s * s, position: s, head: s * s, of_pairs },
            (false, _) => Axes { row: s * h * width, position: h * width, head: width, of_pairs },
        })
    }

    /// The index of a number.
    pub(super) fn place(&self, row: usize, position: usize, head: usize, column: usize) -> usize {
        row * self.row + position * self.position + head * self.head + column
    }

    /// The offset of a row's columns in the file: patterns are padded there, too.
    pub(super) fn shift(&self, rows: &Rows, row: usize) -> usize {
        if self.of_pairs { rows.first(row) } else { 0 }
    }
}
