//! Rotary position embedding (arXiv 2104.09864): pairs of a head's values rotate by an angle that depends on the
//! position.

use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut};

/// Which values of a head rotate together. Of r consecutive values:
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// Value i with value i + r/2 (GPT-NeoX, Llama).
    Halves,
    /// Value 2i with value 2i + 1 (GPT-J).
    Adjacent,
}

/// Which values of each head rotate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turning {
    /// Values per head.
    pub d_head: usize,
    /// The first value that rotates.
    pub first: usize,
    /// How values are paired.
    pub pairing: Pairing,
}

impl Cpu {
    /// Rotates pair i of every head by the angle whose cosine and sine are at index i of the same row, within the r
    /// values from `turning.first` on. Other values stay unchanged.
    ///
    /// # Shapes
    /// x: `[rows, n_heads * d_head]`; cos, sin: `[rows, r / 2]`.
    ///
    /// # Panics
    /// If the shapes do not fit, or a head has fewer values.
    pub fn rotary(&self, x: RowsMut<'_>, turning: Turning, cos: Rows<'_>, sin: Rows<'_>) {
        let (angles, Turning { d_head, first, .. }) = (cos.n_columns(), turning);
        assert!(
            d_head > 0 && x.n_columns().is_multiple_of(d_head),
            "{} columns of heads of {d_head}",
            x.n_columns()
        );
        assert!(first + 2 * angles <= d_head, "{angles} angles for heads of {d_head} values from {first} on");
        let shapes = [cos.n_rows(), sin.n_rows(), sin.n_columns()];
        assert_eq!(shapes, [x.n_rows(), x.n_rows(), angles], "rows of cos, rows and columns of sin");
        self.for_each_row(x, |row, x| {
            self.run(Turn { x, turning, cos: cos.row(row), sin: sin.row(row) });
        });
    }
}

struct Turn<'a> {
    x: &'a mut [f32],
    turning: Turning,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Work for Turn<'_> {
    type Out = ();

    /// Plain Rust, which the compiler vectorises; it does not fuse multiplies and adds, so all paths give the same
    /// bits.
    #[inline(always)]
    fn run<V: Vector>(self, _v: V) {
        let angles = self.cos.len();
        let (cos, sin) = (self.cos, &self.sin[..angles]);
        for head in self.x.chunks_exact_mut(self.turning.d_head) {
            let head = &mut head[self.turning.first..];
            match self.turning.pairing {
                Pairing::Halves => {
                    let (first, rest) = head.split_at_mut(angles);
                    let second = &mut rest[..angles];
                    for i in 0..angles {
                        (first[i], second[i]) = turned(first[i], second[i], cos[i], sin[i]);
                    }
                }
                Pairing::Adjacent => {
                    for (i, pair) in head[..2 * angles].as_chunks_mut::<2>().0.iter_mut().enumerate() {
                        (pair[0], pair[1]) = turned(pair[0], pair[1], cos[i], sin[i]);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn turned(a: f32, b: f32, cos: f32, sin: f32) -> (f32, f32) {
    (a * cos - b * sin, b * cos + a * sin)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Matrix, bits, cpus};

    #[test]
    fn pairs_turn_and_the_rest_stays() {
        for (pairing, pairs) in [(Pairing::Halves, [(0, 2), (1, 3)]), (Pairing::Adjacent, [(0, 1), (2, 3)])] {
            let x = Matrix::random(1, 3, 14, 15);
            let (cos, sin) = (Matrix::random(2, 3, 2, 2), Matrix::random(3, 3, 2, 3));
            for (cpu, first) in cpus().into_iter().flat_map(|cpu| [0, 3].map(|first| (cpu.clone(), first))) {
                let mut out = x.clone();
                // Two heads of seven values, four of which rotate.
                let turning = Turning { d_head: 7, first, pairing };
                cpu.rotary(out.view_mut(), turning, cos.view(), sin.view());
                for row in 0..3 {
                    let mut expected = x.view().row(row).to_vec();
                    for head in [first, 7 + first] {
                        for (i, (a, b)) in pairs.into_iter().enumerate() {
                            let (cos, sin) = (cos.view().row(row)[i], sin.view().row(row)[i]);
                            let (a, b) = (head + a, head + b);
                            let (x, y) = (expected[a], expected[b]);
                            (expected[a], expected[b]) = (x * cos - y * sin, y * cos + x * sin);
                        }
                    }
                    assert_eq!(bits(out.view().row(row)), bits(&expected));
                }
            }
        }
    }

    #[test]
    fn long_heads_turn_as_short_ones_do() {
        let (cos, sin) = (Matrix::random(2, 1, 40, 40), Matrix::random(3, 1, 40, 40));
        for cpu in cpus() {
            for pairing in [Pairing::Halves, Pairing::Adjacent] {
                let x = Matrix::random(1, 1, 80, 80);
                let mut out = x.clone();
                cpu.rotary(out.view_mut(), Turning { d_head: 80, first: 0, pairing }, cos.view(), sin.view());
                for i in 0..40 {
                    let (a, b) = if pairing == Pairing::Halves { (i, i + 40) } else { (2 * i, 2 * i + 1) };
                    let expected = turned(x.values[a], x.values[b], cos.values[i], sin.values[i]);
                    assert_eq!((out.values[a], out.values[b]), expected);
                }
            }
        }
    }
}
