//! The left side of a product, as the micro-kernels read it.

use crate::aligned::CACHE_PERIOD;
use crate::operand::padded;
use crate::shared::SharedRows;
use crate::vector::{Convert, Element};
use crate::{Cpu, Dtype, Left, PackedMatrix, Rows, scratch};

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

/// Fewer rows than this find room there even so.
const FEW_ROWS: usize = 5;

/// Calls `f` with `x` in the type of `w`: as it stands where it can be used so.
///
/// # Panics
/// If `x` is an operand of another type.
pub(super) fn with(cpu: &Cpu, x: &Left<'_>, w: &PackedMatrix, f: impl FnOnce(&Inputs<'_>)) {
    let x = match x {
        Left::Rows(rows) => rows,
        Left::Operand(operand) => {
            assert_eq!(operand.dtype(), w.dtype(), "type of an operand and of the weights");
            let values = match operand.dtype() {
                Dtype::F32 => Values::F32(operand.values()),
                Dtype::Bf16 => Values::Bf16(operand.values()),
            };
            return f(&Inputs { values, rows: operand.n_rows(), stride: operand.stride() });
        }
    };
    let rows = x.n_rows();
    match w.dtype() {
        Dtype::F32 if rows < FEW_ROWS || !(x.stride() * size_of::<f32>()).is_multiple_of(CACHE_PERIOD) => {
            f(&Inputs { values: Values::F32(x.data()), rows, stride: x.stride() });
        }
        Dtype::F32 => {
            let stride = padded::<f32>(w.depth());
            converted(cpu, *x, stride, |values| f(&Inputs { values: Values::F32(values), rows, stride }));
        }
        Dtype::Bf16 => {
            let stride = padded::<u16>(w.depth());
            converted(cpu, *x, stride, |values| f(&Inputs { values: Values::Bf16(values), rows, stride }));
        }
    }
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
