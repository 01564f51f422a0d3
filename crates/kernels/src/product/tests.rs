//! Products against f64; identical bits.

use crate::testing::{Matrix, bits, cpus, error, single_cpus, values};
use crate::{Activation, Cpu, Dtype, Finish, PackedMatrix, Source, Terms, TileShape, bf16};
use proptest::prelude::*;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A product with all its terms.
#[derive(Clone, Debug)]
struct Case {
    dtype: Dtype,
    rows: usize,
    /// Even, so that it can be a gated matrix.
    outputs: usize,
    inputs: usize,
    gap: usize,
    has_bias: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let dtype = prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16)];
    // Some products have so many inputs that they are cut into steps, and rows for several tiles and blocks.
    let inputs = prop_oneof![8 => 0_usize..70, 1 => 1530_usize..1540, 1 => 3070_usize..4100];
    let rows = prop_oneof![4 => 0_usize..30, 1 => 90_usize..110];
    (dtype, rows, 1_usize..60, inputs, 0_usize..5, any::<bool>()).prop_map(
        |(dtype, rows, half, inputs, gap, has_bias)| Case {
            dtype,
            rows,
            outputs: 2 * half,
            inputs,
            gap,
            has_bias,
        },
    )
}

impl Case {
    fn x(&self) -> Matrix {
        Matrix::random(1, self.rows, self.inputs, self.inputs + self.gap)
    }

    fn weights(&self) -> Vec<f32> {
        values(2, self.outputs * self.inputs)
    }

    fn bias(&self) -> Option<Vec<f32>> {
        self.has_bias.then(|| values(3, self.outputs))
    }

    fn packed(&self, cpu: &Cpu, gated: bool) -> PackedMatrix {
        let weights = self.weights();
        let fill = |output: usize, row: &mut [f32]| {
            row.copy_from_slice(&weights[output * self.inputs..][..self.inputs]);
            Ok::<(), Infallible>(())
        };
        if gated {
            PackedMatrix::pack_gated(cpu, self.dtype, self.outputs / 2, self.inputs, fill).unwrap()
        } else {
            PackedMatrix::pack(cpu, self.dtype, self.outputs, self.inputs, fill).unwrap()
        }
    }

    fn out(&self) -> Matrix {
        Matrix::untouched(self.rows, self.outputs, self.outputs + self.gap)
    }

    fn product(&self, cpu: &Cpu, gated: bool) -> Matrix {
        let mut out = self.out();
        let packed = self.packed(cpu, gated);
        cpu.matmul(self.x().view(), &packed, self.bias().as_deref(), out.view_mut());
        out
    }

    fn expected(&self) -> Vec<f64> {
        let narrow = |value: f32| match self.dtype {
            Dtype::F32 => f64::from(value),
            Dtype::Bf16 => f64::from(bf16::widen(bf16::round(value))),
        };
        let (x, weights, bias) = (self.x(), self.weights(), self.bias());
        let mut expected = Vec::new();
        for row in 0..self.rows {
            for output in 0..self.outputs {
                let terms = x.view().row(row).iter().zip(&weights[output * self.inputs..]);
                let sum: f64 = terms.map(|(x, w)| narrow(*x) * narrow(*w)).sum();
                expected.push(sum + bias.as_ref().map_or(0.0, |bias| f64::from(bias[output])));
            }
        }
        expected
    }
}

/// Weights in memory, and of how many outputs a matrix was done with them.
struct Held {
    weights: Vec<f32>,
    inputs: usize,
    done: AtomicUsize,
    again: bool,
}

impl Source for Held {
    fn read(&self, output: usize, weights: &mut [f32]) {
        weights.copy_from_slice(&self.weights[output * self.inputs..][..self.inputs]);
    }

    fn done(&self, outputs: Range<usize>) {
        self.done.fetch_add(outputs.len(), Ordering::Relaxed);
    }

    fn is_read_again(&self) -> bool {
        self.again
    }
}

fn dense(matrix: &Matrix) -> Vec<f32> {
    (0..matrix.rows).flat_map(|row| matrix.view().row(row).to_vec()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_product_is_right_on_every_path(case in cases()) {
        let expected = case.expected();
        for cpu in cpus() {
            let out = case.product(&cpu, false);
            let error = error(&dense(&out), &expected);
            // A sequential sum's error grows with the root of the number of inputs, 6e-8 per rounding; the worst of
            // thousands of sums has a little more.
            let tolerance = 1.5e-7 * (case.inputs.max(400) as f64).sqrt();
            prop_assert!(error < tolerance, "{}: {error:.2e}", cpu.simd());
            prop_assert!(out.gaps_are_untouched());
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_alone_and_in_a_batch(case in cases()) {
        let x = case.x();
        for cpu in cpus() {
            let packed = case.packed(&cpu, false);
            let (together, bias) = (case.product(&cpu, false), case.bias());
            for row in 0..case.rows {
                let mut alone = Matrix::untouched(1, case.outputs, case.outputs);
                cpu.matmul(x.view().rows(row..row + 1), &packed, bias.as_deref(), alone.view_mut());
                prop_assert_eq!(bits(&alone.values), bits(together.view().row(row)));
            }
        }
    }

    #[test]
    fn a_matrix_that_is_packed_later_gives_the_same_bits(case in cases(), gated in any::<bool>()) {
        let (x, bias) = (case.x(), case.bias());
        for cpu in cpus() {
            let at_once = case.product(&cpu, gated);
            let packed = case.packed(&cpu, gated);
            for again in [false, true] {
                let held =
                    Held { weights: case.weights(), inputs: case.inputs, done: AtomicUsize::new(0), again };
                let held = Arc::new(held);
                let source: Arc<dyn Source> = held.clone();
                let later = match gated {
                    true => PackedMatrix::gated_later(case.dtype, case.outputs / 2, case.inputs, source),
                    false => PackedMatrix::later(case.dtype, case.outputs, case.inputs, source),
                };
                let bytes = later.full_bytes();
                // While the weights pass by, when they are packed, and afterwards; then when they were let go.
                for time in 0..6 {
                    if time == 4 {
                        prop_assert_eq!(held.done.load(Ordering::Relaxed), case.outputs);
                        prop_assert_eq!(later.packed_bytes(), Some(bytes));
                        later.release();
                        prop_assert_eq!(later.packed_bytes(), (!again).then_some(bytes));
                    }
                    let mut out = case.out();
                    cpu.matmul(x.view(), &later, bias.as_deref(), out.view_mut());
                    prop_assert_eq!(bits(&dense(&out)), bits(&dense(&at_once)));
                    for output in [0, case.outputs - 1] {
                        let mut rows = [vec![0.0; case.inputs], vec![0.0; case.inputs]];
                        later.read_row(output, &mut rows[0]);
                        packed.read_row(output, &mut rows[1]);
                        prop_assert_eq!(bits(&rows[0]), bits(&rows[1]));
                    }
                }
                let holders = if again { 2 } else { 1 };
                prop_assert_eq!(Arc::strong_count(&held), holders, "the weights are let go, or kept");
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit(case in cases()) {
        for path in crate::vector::Path::all() {
            let one = case.product(&Cpu::with_path(path, 1), false);
            let five = case.product(&Cpu::with_path(path, 5), false);
            prop_assert_eq!(bits(&one.values), bits(&five.values));
        }
    }

    #[test]
    fn what_is_fused_gives_the_bits_of_its_parts(case in cases()) {
        for cpu in single_cpus() {
            let (x, bias, plain) = (case.x(), case.bias(), case.product(&cpu, false));
            let packed = case.packed(&cpu, false);
            for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
                let mut apart = plain.clone();
                cpu.activate(activation, apart.view_mut());
                let mut fused = case.out();
                cpu.matmul_activated(x.view(), &packed, bias.as_deref(), activation, fused.view_mut());
                prop_assert_eq!(bits(&fused.values), bits(&apart.values));
            }
            let start = Matrix::random(9, case.rows, case.outputs, case.outputs + 1);
            let (mut apart, mut fused) = (start.clone(), start);
            cpu.add(plain.view(), apart.view_mut());
            cpu.matmul_add(x.view(), &packed, bias.as_deref(), fused.view_mut());
            prop_assert_eq!(bits(&fused.values), bits(&apart.values));
        }
    }

    #[test]
    fn an_addend_joins_the_sums_before_the_result_is_made(case in cases()) {
        let addend = Matrix::random(8, case.rows, case.outputs, case.outputs + 3);
        let (x, bias) = (case.x(), case.bias());
        for cpu in cpus() {
            let mut sums = case.product(&cpu, false);
            cpu.add(addend.view(), sums.view_mut());
            let terms = Terms { bias: bias.as_deref(), addend: Some(addend.view()) };
            let start = Matrix::random(9, case.rows, case.outputs, case.outputs + 1);
            let mut added = start.clone();
            cpu.add(sums.view(), added.view_mut());
            let mut activated = sums.clone();
            cpu.activate(Activation::Silu, activated.view_mut());
            for (finish, expected) in
                [(Finish::Store, &sums), (Finish::Add, &added), (Finish::Activate(Activation::Silu), &activated)]
            {
                let mut out = start.clone();
                cpu.matmul_then(x.view(), &case.packed(&cpu, false), terms, finish, out.view_mut());
                prop_assert_eq!(bits(&dense(&out)), bits(&dense(expected)));
            }
            let neurons = case.outputs / 2;
            let mut gated = Matrix::untouched(case.rows, neurons, neurons);
            let gate = Finish::Gate(Activation::Silu);
            cpu.matmul_then(x.view(), &case.packed(&cpu, true), terms, gate, gated.view_mut());
            for row in 0..case.rows {
                let (gate, up) = (&activated.view().row(row)[..neurons], &sums.view().row(row)[neurons..]);
                let expected: Vec<f32> = gate.iter().zip(up).map(|(gate, up)| gate * up).collect();
                prop_assert_eq!(bits(gated.view().row(row)), bits(&expected));
            }
        }
    }

    #[test]
    fn a_gated_matrix_gives_the_bits_of_a_plain_one(case in cases()) {
        let neurons = case.outputs / 2;
        for cpu in cpus() {
            let plain = case.product(&cpu, false);
            prop_assert_eq!(bits(&case.product(&cpu, true).values), bits(&plain.values));
            let mut apart = plain.clone();
            cpu.activate(Activation::Silu, apart.view_mut().columns(0..neurons));
            let mut fused = Matrix::untouched(case.rows, neurons, neurons + case.gap);
            let (packed, bias) = (case.packed(&cpu, true), case.bias());
            cpu.matmul_gated(case.x().view(), &packed, bias.as_deref(), Activation::Silu, fused.view_mut());
            for row in 0..case.rows {
                let (gate, up) = apart.view().row(row).split_at(neurons);
                let expected: Vec<f32> = gate.iter().zip(up).map(|(gate, up)| gate * up).collect();
                prop_assert_eq!(bits(fused.view().row(row)), bits(&expected));
            }
            prop_assert!(fused.gaps_are_untouched());
        }
    }

    #[test]
    fn tiles_cover_a_product_once_with_the_same_bits(
        case in cases(),
        columns in 0_usize..100,
        pick in any::<prop::sample::Index>(),
    ) {
        let divisors: Vec<usize> = (1..=case.rows).filter(|n| case.rows.is_multiple_of(*n)).collect();
        let rows = if divisors.is_empty() { 1 } else { *pick.get(&divisors) };
        for cpu in cpus() {
            let expected = case.product(&cpu, false);
            let seen = Mutex::new(case.out());
            let (packed, bias) = (case.packed(&cpu, false), case.bias());
            let visit = |column: usize, row: usize, tile: crate::RowsMut<'_>| {
                let mut seen = seen.lock().unwrap();
                let untouched = case.out();
                assert!(row.is_multiple_of(rows) && tile.n_rows().is_multiple_of(rows));
                for index in 0..tile.n_rows() {
                    let columns = column..column + tile.n_columns();
                    let place = &mut seen.view_mut().columns(columns.clone()).row_mut(row + index).to_vec();
                    assert_eq!(*place, untouched.view().columns(columns.clone()).row(row + index));
                    seen.view_mut().columns(columns).row_mut(row + index).copy_from_slice(tile.row(index));
                }
            };
            let tile = TileShape { rows, columns };
            cpu.matmul_tiles(case.x().view(), &packed, bias.as_deref(), tile, visit);
            prop_assert_eq!(bits(&seen.into_inner().unwrap().values), bits(&expected.values));
        }
    }
}

#[test]
fn a_stride_that_clashes_in_the_cache_changes_no_bit() {
    let case = Case { dtype: Dtype::F32, rows: 20, outputs: 40, inputs: 1000, gap: 0, has_bias: false };
    let close = case.x();
    let mut wide = Matrix::untouched(20, 1000, 2048);
    for row in 0..20 {
        wide.view_mut().row_mut(row).copy_from_slice(close.view().row(row));
    }
    for cpu in cpus() {
        let mut out = case.out();
        cpu.matmul(wide.view(), &case.packed(&cpu, false), None, out.view_mut());
        assert_eq!(bits(&out.values), bits(&case.product(&cpu, false).values));
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let case = Case { dtype, rows: 30, outputs: 50, inputs: 33, gap: 0, has_bias: true };
        for (bad, is_there) in
            [(f32::NAN, f32::is_nan as fn(f32) -> bool), (f32::INFINITY, |x| !x.is_finite())]
        {
            let mut x = case.x();
            x.view_mut().row_mut(7)[32] = bad;
            for cpu in cpus() {
                let (clean, mut out) = (case.product(&cpu, false), case.out());
                cpu.matmul(x.view(), &case.packed(&cpu, false), case.bias().as_deref(), out.view_mut());
                for row in 0..30 {
                    let found = out.view().row(row);
                    if row == 7 {
                        assert!(found.iter().all(|value| is_there(*value)));
                    } else {
                        assert_eq!(bits(found), bits(clean.view().row(row)));
                    }
                }
            }
        }
    }
}

#[test]
fn a_product_inside_a_visit_of_tiles_ends() {
    let case = Case { dtype: Dtype::F32, rows: 13, outputs: 100, inputs: 20, gap: 0, has_bias: false };
    for cpu in cpus() {
        let (x, packed, expected) = (case.x(), case.packed(&cpu, false), case.product(&cpu, false));
        cpu.matmul_tiles(x.view(), &packed, None, TileShape { rows: 1, columns: 32 }, |_, _, _| {
            assert_eq!(bits(&case.product(&cpu, false).values), bits(&expected.values));
        });
    }
}
