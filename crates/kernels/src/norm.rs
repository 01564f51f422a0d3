//! Layer norm (arXiv 1607.06450) and RMS norm (arXiv 1910.07467).

use crate::operand::SharedOut;
use crate::shared::SharedRows;
use crate::vector::{Element, MOST_LANES, Vector, Work};
use crate::{Cpu, Out, Rows, RowsMut};

/// What a norm divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// (x - mean) / √(variance + eps), the variance divided by the number of values.
    Layer,
    /// x / √(mean of squares + eps).
    Rms,
}

impl Cpu {
    /// out = norm(x) · weight + bias. Each row is divided into groups of `group` columns, normed one by one.
    ///
    /// # Shapes
    /// x, out: `[rows, cols]`; weight, bias: `[group]`, shared by the groups, or `[cols]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    #[expect(clippy::too_many_arguments, reason = "each is part of the formula")]
    pub fn norm<'a>(
        &self,
        kind: NormKind,
        x: Rows<'_>,
        group: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
        eps: f32,
        out: impl Into<Out<'a>>,
    ) {
        let out = out.into();
        assert_eq!((x.n_rows(), x.n_columns()), out.shape(), "input and output of a norm");
        let norm = Norm::checked(kind, group, weight, bias, eps, x.n_columns());
        match out.share() {
            SharedOut::F32(out) => self.norm_into(norm, x, &out),
            SharedOut::Bf16(out) => self.norm_into(norm, x, &out),
        }
    }

    fn norm_into<O: Element>(&self, norm: Norm<'_>, x: Rows<'_>, out: &SharedRows<'_, O>) {
        self.for_rows(x.n_rows(), x.n_columns(), |rows| {
            for row in rows {
                // SAFETY: `for_rows` gives each row to one task, once.
                let out = unsafe { out.part(row, 0..x.n_columns()) };
                self.run(NormRow { norm, x: x.row(row), out });
            }
        });
    }

    /// x = norm(x) · weight + bias, the same bits as [`Cpu::norm`].
    ///
    /// # Shapes
    /// As for [`Cpu::norm`].
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn norm_in_place(
        &self,
        kind: NormKind,
        x: RowsMut<'_>,
        group: usize,
        weight: Option<&[f32]>,
        bias: Option<&[f32]>,
        eps: f32,
    ) {
        let norm = Norm::checked(kind, group, weight, bias, eps, x.n_columns());
        self.for_each_row(x, |_, x| self.run(NormRowInPlace { norm, x }));
    }
}

#[derive(Clone, Copy)]
struct Norm<'a> {
    kind: NormKind,
    group: usize,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
    eps: f32,
}

impl<'a> Norm<'a> {
    fn checked(
        kind: NormKind,
        group: usize,
        weight: Option<&'a [f32]>,
        bias: Option<&'a [f32]>,
        eps: f32,
        cols: usize,
    ) -> Norm<'a> {
        assert!(group > 0 && cols.is_multiple_of(group), "{cols} columns in groups of {group}");
        for parameter in [weight, bias].into_iter().flatten() {
            let len = parameter.len();
            assert!(len == group || len == cols, "{len} weights for {cols} columns in groups of {group}");
        }
        Norm { kind, group, weight, bias, eps }
    }
}

struct NormRow<'a, O> {
    norm: Norm<'a>,
    x: &'a [f32],
    out: &'a mut [O],
}

impl<O: Element> Work for NormRow<'_, O> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let groups = self.x.chunks_exact(self.norm.group).zip(self.out.chunks_exact_mut(self.norm.group));
        for (index, (x, out)) in groups.enumerate() {
            let line = self.norm.line(v, index, x);
            let mut start = 0;
            while start < x.len() {
                let end = x.len().min(start + V::LANES);
                O::store_some(v, line.of(v, start, &x[start..end]), &mut out[start..end]);
                start = end;
            }
        }
    }
}

struct NormRowInPlace<'a> {
    norm: Norm<'a>,
    x: &'a mut [f32],
}

impl Work for NormRowInPlace<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for (index, x) in self.x.chunks_exact_mut(self.norm.group).enumerate() {
            let line = self.norm.line(v, index, x);
            let mut start = 0;
            while start < x.len() {
                let end = x.len().min(start + V::LANES);
                let normed = line.of(v, start, &x[start..end]);
                v.store_some(normed, &mut x[start..end]);
                start = end;
            }
        }
    }
}

impl<'a> Norm<'a> {
    /// The affine map that the norm applies to a group's values.
    #[inline(always)]
    fn line<V: Vector>(&self, v: V, index: usize, x: &[f32]) -> Line<'a, V> {
        let Norm { kind, group, weight, bias, eps } = *self;
        let of_group = |parameter: &'_ [f32]| if parameter.len() == group { 0 } else { index * group };
        let mean = match kind {
            NormKind::Layer => sum(v, x) / group as f32,
            NormKind::Rms => 0.0,
        };
        let variance = sum_of_squares(v, x, mean) / group as f32;
        Line {
            means: v.splat(mean),
            factors: v.splat(1.0 / (variance + eps).sqrt()),
            weight: weight.map(|weight| &weight[of_group(weight)..][..group]),
            bias: bias.map(|bias| &bias[of_group(bias)..][..group]),
        }
    }
}

/// (x - mean) · factor · weight + bias.
struct Line<'a, V: Vector> {
    means: V::F,
    factors: V::F,
    weight: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl<V: Vector> Line<'_, V> {
    /// The results from value `start` on: one vector, or fewer values at the end.
    #[inline(always)]
    fn of(&self, v: V, start: usize, x: &[f32]) -> V::F {
        const NEUTRAL: [f32; MOST_LANES] = [1.0; MOST_LANES];
        let mut values = v.mul(v.sub(v.load_or(x, 0.0), self.means), self.factors);
        let weight = self.weight.map_or(&NEUTRAL[..x.len()], |weight| &weight[start..][..x.len()]);
        values = v.mul(values, v.load_or(weight, 0.0));
        if let Some(bias) = self.bias {
            values = v.add(values, v.load_or(&bias[start..][..x.len()], 0.0));
        }
        values
    }
}

/// Independent sums, so that one addition need not wait for the last. The assignment depends on the length alone.
const CHAINS: usize = 4;

#[inline(always)]
pub(crate) fn sum<V: Vector>(v: V, x: &[f32]) -> f32 {
    let mut sums = [v.splat(0.0); CHAINS];
    let mut blocks = x.chunks_exact(CHAINS * V::LANES);
    for block in &mut blocks {
        for (sum, chunk) in sums.iter_mut().zip(block.chunks_exact(V::LANES)) {
            *sum = v.add(*sum, v.load(chunk));
        }
    }
    for (sum, chunk) in sums.iter_mut().zip(blocks.remainder().chunks(V::LANES)) {
        *sum = v.add(*sum, v.load_or(chunk, 0.0));
    }
    total(v, sums)
}

/// The sum of (x - mean)².
#[inline(always)]
pub(crate) fn sum_of_squares<V: Vector>(v: V, x: &[f32], mean: f32) -> f32 {
    let means = v.splat(mean);
    let mut sums = [v.splat(0.0); CHAINS];
    let mut blocks = x.chunks_exact(CHAINS * V::LANES);
    for block in &mut blocks {
        for (sum, chunk) in sums.iter_mut().zip(block.chunks_exact(V::LANES)) {
            let difference = v.sub(v.load(chunk), means);
            *sum = v.mul_add(difference, difference, *sum);
        }
    }
    for (sum, chunk) in sums.iter_mut().zip(blocks.remainder().chunks(V::LANES)) {
        // A lane without a value adds nothing.
        let difference = v.sub(v.load_or(chunk, mean), means);
        *sum = v.mul_add(difference, difference, *sum);
    }
    total(v, sums)
}

#[inline(always)]
fn total<V: Vector>(v: V, sums: [V::F; CHAINS]) -> f32 {
    v.sum(v.add(v.add(sums[0], sums[1]), v.add(sums[2], sums[3])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, bits, cpus, error, values};
    use proptest::prelude::*;

    fn expected(kind: NormKind, x: &[f32], group: usize, weight: &[f32], bias: &[f32], eps: f32) -> Vec<f64> {
        let mut expected = Vec::new();
        for (index, group_of_x) in x.chunks(group).enumerate() {
            let wide = || group_of_x.iter().map(|x| f64::from(*x));
            let n = group as f64;
            let mean = if kind == NormKind::Layer { wide().sum::<f64>() / n } else { 0.0 };
            let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
            let at =
                |parameter: &[f32], i: usize| f64::from(parameter[(index * group + i) % parameter.len()]);
            let scale = (variance + f64::from(eps)).sqrt();
            expected
                .extend(wide().enumerate().map(|(i, x)| (x - mean) / scale * at(weight, i) + at(bias, i)));
        }
        expected
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        #[test]
        fn a_norm_is_right_and_the_same_alone_in_a_batch_and_in_place(
            layer in any::<bool>(), shared in any::<bool>(), rows in 1_usize..20, group in 1_usize..200, groups in 1_usize..4,
        ) {
            let kind = if layer { NormKind::Layer } else { NormKind::Rms };
            let cols = group * groups;
            let x = Matrix::random(1, rows, cols, cols + 3);
            let len = if shared { group } else { cols };
            let (weight, bias) = (values(2, len), values(3, len));
            for cpu in cpus() {
                let mut out = Matrix::untouched(rows, cols, cols + 1);
                cpu.norm(kind, x.view(), group, Some(&weight), Some(&bias), 1e-3, out.view_mut());
                prop_assert!(out.gaps_are_untouched());
                let mut in_place = x.clone();
                cpu.norm_in_place(kind, in_place.view_mut(), group, Some(&weight), Some(&bias), 1e-3);
                for row in 0..rows {
                    let expected = expected(kind, x.view().row(row), group, &weight, &bias, 1e-3);
                    // With eps this large, a group of near-equal values does not magnify its rounding errors beyond
                    // this.
                    prop_assert!(error(out.view().row(row), &expected) < 5e-6);
                    prop_assert_eq!(bits(in_place.view().row(row)), bits(out.view().row(row)));
                    let mut alone = Matrix::untouched(1, cols, cols);
                    let x = x.view().rows(row..row + 1);
                    cpu.norm(kind, x, group, Some(&weight), Some(&bias), 1e-3, alone.view_mut());
                    prop_assert_eq!(bits(&alone.values), bits(out.view().row(row)));
                }
            }
        }
    }

    #[test]
    fn nan_makes_its_own_group_nan_and_no_other() {
        for cpu in cpus() {
            let mut x = values(1, 60);
            x[25] = f32::NAN;
            cpu.norm_in_place(NormKind::Layer, RowsMut::dense(&mut x, 1, 60), 20, None, None, 1e-5);
            let nan: Vec<usize> = (0..60).filter(|i| x[*i].is_nan()).collect();
            assert_eq!(nan, (20..40).collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_large_values_keep_their_digits() {
        let x = Matrix::random(1, 1, 8192, 8192);
        let x: Vec<f32> = x.values.iter().map(|x| x * 1000.0 + 300.0).collect();
        for kind in [NormKind::Layer, NormKind::Rms] {
            let expected = expected(kind, &x, 8192, &[1.0], &[0.0], 1e-6);
            for cpu in cpus() {
                let mut out = x.clone();
                cpu.norm_in_place(kind, RowsMut::dense(&mut out, 1, 8192), 8192, None, None, 1e-6);
                assert!(error(&out, &expected) < 1e-6);
            }
        }
    }
}
