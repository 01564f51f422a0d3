//! The left side of a product, as the micro-kernels read it.

use crate::shared::SharedRows;
use crate::vector::{Element, Vector, Work};
use crate::{Cpu, Dtype, PackedMatrix, Rows, scratch};

/// Activations in the type of the weights.
///
/// # Shapes
/// `[rows, depth]`, `stride` values from row to row.
pub(super) struct Inputs<'a> {
    pub(super) values: Values<'a>,
    pub(super) rows: usize,
    pub(super) stride: usize,
}

/// Values of either type.
pub(super) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [u16]),
}

/// Rows at a stride that is a multiple of this many bytes share their places in the first-level cache.
const CACHE_PERIOD: usize = 4096;

/// Fewer rows than this find room there even so.
const FEW_ROWS: usize = 5;

/// Calls `f` with `x` in the type of `w`: as it stands where it can be used so.
pub(super) fn with(cpu: &Cpu, x: Rows<'_>, w: &PackedMatrix, f: impl FnOnce(&Inputs<'_>)) {
    let rows = x.n_rows();
    match w.dtype() {
        Dtype::F32 if rows < FEW_ROWS || !(x.stride() * size_of::<f32>()).is_multiple_of(CACHE_PERIOD) => {
            f(&Inputs { values: Values::F32(x.data()), rows, stride: x.stride() });
        }
        Dtype::F32 => {
            let stride = padded::<f32>(w.depth());
            converted(cpu, x, stride, |values| f(&Inputs { values: Values::F32(values), rows, stride }));
        }
        Dtype::Bf16 => {
            let stride = padded::<u16>(w.depth());
            converted(cpu, x, stride, |values| f(&Inputs { values: Values::Bf16(values), rows, stride }));
        }
    }
}

/// A stride for rows of `depth` values: whole cache lines, and no multiple of the cache's period.
fn padded<T>(depth: usize) -> usize {
    let line = 64 / size_of::<T>();
    let stride = depth.next_multiple_of(line);
    let clashes = (stride * size_of::<T>()).is_multiple_of(CACHE_PERIOD / 4);
    if clashes { stride + line } else { stride }
}

fn converted<T: Element>(cpu: &Cpu, x: Rows<'_>, stride: usize, f: impl FnOnce(&[T])) {
    let Some(len) = x.n_rows().checked_mul(stride) else { panic!("{} rows overflow memory", x.n_rows()) };
    scratch::with(len, |values: &mut [T]| {
        let rows = SharedRows::dense(values, x.n_rows(), stride);
        cpu.for_rows(x.n_rows(), stride, |range| {
            for row in range {
                // SAFETY: `for_rows` gives each row to one task, once.
                let to = unsafe { rows.part(row, 0..stride) };
                cpu.run(Convert { from: x.row(row), to });
            }
        });
        f(values);
    });
}

struct Convert<'a, T> {
    from: &'a [f32],
    to: &'a mut [T],
}

impl<T: Element> Work for Convert<'_, T> {
    type Out = ();

    /// Plain Rust, which the compiler vectorises. Inputs beyond the last, with which pairs are filled up, become zero.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        let (to, rest) = self.to.split_at_mut(self.from.len());
        for (to, from) in to.iter_mut().zip(self.from) {
            *to = T::nearest(*from);
        }
        rest.fill(T::nearest(0.0));
    }
}
