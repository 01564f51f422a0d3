//! The left side of a product, as the micro-kernels read it.

use crate::aligned::CACHE_PERIOD;
use crate::operand::padded;
use crate::shared::SharedRows;
use crate::vector::{Convert, Element, Widen};
use crate::{Cpu, Dtype, Left, PackedMatrix, scratch};

/// Activations in the type that is multiplied.
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
    /// bf16 values as f32; the weights are widened as well.
    Widened(&'a [f32]),
}

/// Fewer rows than this are used in place even at a stride that is a multiple of the cache's period.
const FEW_ROWS: usize = 5;

/// From this many rows on, widening bf16 weights once for all rows pays where bf16 instructions are missing.
const WIDENED_ROWS: usize = 5;

/// Calls `f` with `x` in the form that is multiplied with `w`, without a copy where possible.
///
/// # Panics
/// If `x` is an operand of another type.
pub(super) fn with(cpu: &Cpu, x: &Left<'_>, w: &PackedMatrix, f: impl FnOnce(&Inputs<'_>)) {
    let (rows, depth) = (x.n_rows(), w.depth());
    let is_widened = rows >= WIDENED_ROWS && !cpu.multiplies_bf16();
    match x {
        Left::Operand(operand) => {
            assert_eq!(operand.dtype(), w.dtype(), "type of an operand and of the weights");
            let stride = operand.stride();
            match operand.dtype() {
                Dtype::F32 => f(&Inputs { values: Values::F32(operand.values()), rows, stride }),
                Dtype::Bf16 if is_widened => {
                    let narrow: &[u16] = operand.values();
                    widened(cpu, rows, depth, f, |row, to| {
                        cpu.run(Widen { from: &narrow[row * stride..][..depth], to });
                    });
                }
                Dtype::Bf16 => f(&Inputs { values: Values::Bf16(operand.values()), rows, stride }),
            }
        }
        Left::Rows(x) => match w.dtype() {
            Dtype::F32
                if rows < FEW_ROWS || !(x.stride() * size_of::<f32>()).is_multiple_of(CACHE_PERIOD) =>
            {
                f(&Inputs { values: Values::F32(x.data()), rows, stride: x.stride() });
            }
            Dtype::F32 => {
                let stride = padded::<f32>(depth);
                let convert = |row, to: &mut [f32]| cpu.run(Convert { from: x.row(row), to });
                converted(cpu, rows, stride, convert, |values| {
                    f(&Inputs { values: Values::F32(values), rows, stride });
                });
            }
            Dtype::Bf16 if is_widened => widened(cpu, rows, depth, f, |row, to| {
                scratch::with(depth, |narrow: &mut [u16]| {
                    cpu.run(Convert { from: x.row(row), to: narrow });
                    cpu.run(Widen { from: narrow, to });
                });
            }),
            Dtype::Bf16 => {
                let stride = padded::<u16>(depth);
                let convert = |row, to: &mut [u16]| cpu.run(Convert { from: x.row(row), to });
                converted(cpu, rows, stride, convert, |values| {
                    f(&Inputs { values: Values::Bf16(values), rows, stride });
                });
            }
        },
    }
}

/// Calls `f` with rows written by `widen`.
fn widened(
    cpu: &Cpu,
    rows: usize,
    depth: usize,
    f: impl FnOnce(&Inputs<'_>),
    widen: impl Fn(usize, &mut [f32]) + Sync,
) {
    let stride = padded::<f32>(depth);
    converted(cpu, rows, stride, widen, |values| {
        f(&Inputs { values: Values::Widened(values), rows, stride })
    });
}

/// Calls `f` with rows written by `convert`, `stride` values each.
fn converted<T: Element>(
    cpu: &Cpu,
    rows: usize,
    stride: usize,
    convert: impl Fn(usize, &mut [T]) + Sync,
    f: impl FnOnce(&[T]),
) {
    let Some(len) = rows.checked_mul(stride) else { panic!("{rows} rows overflow memory") };
    scratch::with(len, |values: &mut [T]| {
        let shared = SharedRows::dense(values, rows, stride);
        cpu.for_rows(rows, stride, |range| {
            for row in range {
                // SAFETY: `for_rows` gives each row to one task, once.
                convert(row, unsafe { shared.part(row, 0..stride) });
            }
        });
        f(values);
    });
}
