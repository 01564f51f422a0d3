//! Activations as bytes and flat arrays, as in files.

use std::borrow::Cow;

use easyroutine::cache::{Kept, Key, Numbers};

/// Numbers in files' byte order.
pub fn bytes(numbers: &Numbers) -> Cow<'_, [u8]> {
    match numbers {
        Numbers::F32(values) if cfg!(target_endian = "little") => bytemuck::cast_slice(values).into(),
        Numbers::F32(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        Numbers::I64(values) => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    }
}

/// An activation with rows of different length, concatenated.
#[derive(Debug)]
pub struct Flat {
    /// Whether every row was flattened, because both its axes are positions; otherwise rows follow one another along
    /// the first axis.
    pub is_pairwise: bool,
    /// The resulting shape.
    pub shape: Vec<usize>,
    /// The start of each row along the first axis, and the end of the last.
    pub offsets: Vec<i64>,
}

impl Flat {
    /// Concatenates the rows.
    pub fn of(key: &Key, kept: &Kept) -> Self {
        let is_pairwise = key.is_pairwise();
        let length = |shape: &Vec<usize>| if is_pairwise { shape.iter().product() } else { shape[0] };
        let mut offsets = vec![0i64];
        let mut total = 0;
        for shape in &kept.row_shapes {
            total += length(shape);
            offsets.push(total as i64);
        }
        let inner: &[usize] = match kept.row_shapes.first() {
            Some(shape) if !is_pairwise => &shape[1..],
            _ => &[],
        };
        Flat { is_pairwise, shape: [&[total], inner].concat(), offsets }
    }
}
