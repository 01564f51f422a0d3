//! Gradients of recurrences: back through the tokens with the states that stood between them.
//!
//! States are not kept by the forward run. A first walk notes the state before every 32nd token; from each of these the
//! next 32 are computed again when the walk back comes to them. So a task holds a state for every 32nd token and 33 more,
//! of its own part alone, whatever the length of the row. Sums over parts have one order, whoever computed them.

mod convolve;
mod delta;
mod selective;
mod space;
#[cfg(test)]
mod tests;
mod unit;

use std::ops::Range;

use crate::recurrence::assert_apart;
use crate::shared::SharedRows;
use crate::vector::{Vector, Work};
use crate::{Cpu, Rows, RowsMut, math};

/// Tokens between states that are noted.
const APART: usize = 32;

/// One part of a recurrence that goes through the tokens by itself: some channels, or a head.
trait Part {
    /// Numbers of its state.
    fn size(&self) -> usize;

    /// Turns the state before a token into the one after it. `begins`: the token is a row's first.
    fn forward<V: Vector>(&mut self, v: V, row: usize, begins: bool, state: &mut [f32]);

    /// Turns the gradient of the state after a token into that of the state before, and adds to `out` the gradients of
    /// what the token gave the part.
    fn back<V: Vector>(&mut self, v: V, token: Token<'_>, g: &mut [f32], out: &mut [f32]);
}

/// A token on the way back.
struct Token<'a> {
    row: usize,
    begins: bool,
    before: &'a [f32],
    after: &'a [f32],
}

/// Walks every part of every sequence back. A task has some parts, one after another, and so many columns of `out`, which
/// holds zeros.
fn walk_back<P: Part>(
    cpu: &Cpu,
    sequences: &[Range<usize>],
    (tasks, width): (usize, usize),
    parts: impl Fn(usize) -> Range<usize> + Sync,
    part: impl Fn(usize) -> P + Sync,
    out: RowsMut<'_>,
) {
    assert_apart(sequences);
    assert_eq!(out.n_columns(), tasks * width, "columns of all tasks");
    let out = SharedRows::new(out);
    cpu.for_each(sequences.len() * tasks, |number| {
        let (rows, task) = (sequences[number / tasks].clone(), number % tasks);
        for part in parts(task).map(&part) {
            cpu.run(Walk { part, rows: rows.clone(), columns: task * width..(task + 1) * width, out: &out });
        }
    });
}

struct Walk<'a, P> {
    part: P,
    rows: Range<usize>,
    columns: Range<usize>,
    out: &'a SharedRows<'a>,
}

impl<P: Part> Work for Walk<'_, P> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Walk { mut part, rows, columns, out } = self;
        let size = part.size();
        let starts: Vec<usize> = rows.clone().step_by(APART).collect();
        let mut noted = vec![0.0; starts.len() * size];
        for at in 1..starts.len() {
            let (before, state) = noted[(at - 1) * size..(at + 1) * size].split_at_mut(size);
            state.copy_from_slice(before);
            for row in starts[at - 1]..starts[at] {
                part.forward(v, row, row == rows.start, state);
            }
        }
        let mut states = vec![0.0; (APART + 1) * size];
        let mut g = vec![0.0; size];
        for (at, start) in starts.iter().enumerate().rev() {
            let end = rows.end.min(start + APART);
            states[..size].copy_from_slice(&noted[at * size..(at + 1) * size]);
            for row in *start..end {
                let (before, after) =
                    states[(row - start) * size..(row - start + 2) * size].split_at_mut(size);
                after.copy_from_slice(before);
                part.forward(v, row, row == rows.start, after);
            }
            for row in (*start..end).rev() {
                let (before, after) = states[(row - start) * size..(row - start + 2) * size].split_at(size);
                // SAFETY: a task has columns of its own in the rows of its sequence, and sequences do not overlap.
                let out = unsafe { out.part(row, columns.clone()) };
                part.back(v, Token { row, begins: row == rows.start, before, after }, &mut g, out);
            }
        }
    }
}

/// Adds columns that tasks wrote, each row's in the order of tasks.
fn collect(from: Rows<'_>, first: usize, mut to: RowsMut<'_>, column: usize, width: usize) {
    for row in 0..from.n_rows() {
        let from = &from.row(row)[first..first + width];
        to.row_mut(row)[column..column + width].iter_mut().zip(from).for_each(|(to, g)| *to += g);
    }
}

/// e^x of each value.
#[inline(always)]
fn exponentials<V: Vector>(v: V, values: &mut [f32]) {
    for values in values.chunks_mut(V::LANES) {
        v.store_some(math::exp(v, v.load_or(values, 0.0)), values);
    }
}

/// One value's.
#[inline(always)]
fn exponential<V: Vector>(v: V, x: f32) -> f32 {
    v.lanes(math::exp(v, v.splat(x)))[0]
}

#[inline(always)]
fn sigmoid<V: Vector>(v: V, x: f32) -> f32 {
    v.lanes(math::sigmoid(v, v.splat(x)))[0]
}

/// Eight sums side by side, which become vectors.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.0.iter().zip(b.0) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    let mut sum = 0.0;
    for (a, b) in a.1.iter().zip(b.1) {
        sum += a * b;
    }
    sums.iter().sum::<f32>() + sum
}

impl Cpu {
    /// The gradient of x from that of y = ln(1 + e^(x + bias)), within `least` and `most`: g becomes g · sigmoid(x + bias),
    /// and zero where y is held by a limit.
    ///
    /// # Shapes
    /// x, g: `[rows, cols]`; bias: `[cols]`.
    ///
    /// # Panics
    /// If the shapes do not fit.
    pub fn softplus_back(&self, x: Rows<'_>, bias: &[f32], [least, most]: [f32; 2], g: RowsMut<'_>) {
        assert_eq!((x.n_rows(), x.n_columns()), (g.n_rows(), g.n_columns()), "values and their gradients");
        assert_eq!(x.n_columns(), bias.len(), "a bias for each column");
        self.for_each_row(g, |row, g| {
            for ((g, x), bias) in g.iter_mut().zip(x.row(row)).zip(bias) {
                let x = f64::from(x + bias);
                let y = x.max(0.0) + (-x.abs()).exp().ln_1p();
                let is_held = y < f64::from(least) || y > f64::from(most);
                *g = if is_held { 0.0 } else { (f64::from(*g) / (1.0 + (-x).exp())) as f32 };
            }
        });
    }
}
