//! The loss of a translator and its gradient.

use easyroutine_kernels::{Cpu, Finish, PackedMatrix, Rows, RowsMut, Scale};

use super::Tuning;
use crate::error::Result;
use crate::model::{Model, Unembedding};

/// Tokens whose logits are held at a time.
const TOKENS: usize = 64;
/// Rows of a sum per task.
const ROWS: usize = 16;

/// The target of the translators.
pub(super) struct Slope<'a> {
    cpu: &'a Cpu,
    unembedding: &'a Unembedding,
    /// The last stream, normed and projected as input of the unembedding.
    last: Vec<f32>,
    tokens: usize,
}

impl<'a> Slope<'a> {
    /// # Shapes
    /// `stream`: tokens by D, the last stream.
    pub(super) fn new(model: &'a Model, stream: &[f32]) -> Result<Self> {
        let unembedding = model.unembedding()?;
        let (cpu, d) = (model.cpu(), model.arch().d_model);
        let tokens = stream.len() / d;
        let mut slope = Slope { cpu, unembedding, last: Vec::new(), tokens };
        slope.last = slope.read(stream).1;
        Ok(slope)
    }

    /// A stream after the norm, and as input of the unembedding matrix.
    fn read(&self, stream: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let d = self.unembedding.d_model();
        let n = stream.len() / d;
        let mut normed = stream.to_vec();
        if let Some(norm) = &self.unembedding.norm {
            norm.apply(self.cpu, Rows::dense(stream, n, d), RowsMut::dense(&mut normed, n, d));
        }
        let Some(project) = &self.unembedding.project else { return (normed.clone(), normed) };
        let mut out = vec![0.0; n * project.outputs()];
        project.apply(self.cpu, Rows::dense(&normed, n, d), RowsMut::dense(&mut out, n, project.outputs()));
        (normed, out)
    }

    fn logits(&self, entering: &[f32]) -> Vec<f32> {
        let (matrix, width) = (&self.unembedding.matrix, self.unembedding.matrix.inputs());
        let (n, v) = (entering.len() / width, matrix.outputs());
        let mut logits = vec![0.0; n * v];
        matrix.apply(self.cpu, Rows::dense(entering, n, width), RowsMut::dense(&mut logits, n, v));
        logits.chunks_exact_mut(v).for_each(|row| self.unembedding.finish(row));
        logits
    }

    /// The mean over tokens of KL(final ‖ lens), and its gradient by W and b if requested.
    ///
    /// # Shapes
    /// `x`: tokens by D, the translator's input.
    pub(super) fn of(
        &self,
        tuning: &Tuning,
        layer: usize,
        x: &[f32],
        with_gradient: bool,
    ) -> Result<(f64, Vec<f32>)> {
        let (cpu, d, tokens) = (self.cpu, tuning.d_model, self.tokens);
        let Ok(matrix) = PackedMatrix::pack(cpu, easyroutine_kernels::Dtype::F32, d, d, |n, row| {
            row.copy_from_slice(&tuning.weight(layer)[n * d..(n + 1) * d]);
            Ok::<(), std::convert::Infallible>(())
        });
        let mut stream = vec![0.0; x.len()];
        let (rows, out) = (Rows::dense(x, tokens, d), RowsMut::dense(&mut stream, tokens, d));
        cpu.matmul(rows, &matrix, Some(tuning.bias(layer)), out);
        stream.iter_mut().zip(x).for_each(|(h, x)| *h += x);
        let (normed, entering) = self.read(&stream);
        let inputs = self.unembedding.matrix.inputs();
        let mut of_stream = vec![0.0; if with_gradient { x.len() } else { 0 }];
        let mut loss = 0.0;
        for first in (0..tokens).step_by(TOKENS) {
            let some = first..tokens.min(first + TOKENS);
            let part = |values: &[f32], width: usize| values[some.start * width..some.end * width].to_vec();
            let mut ours = self.logits(&part(&entering, inputs));
            let last = self.logits(&part(&self.last, inputs));
            loss += self.differ(&mut ours, &last);
            if with_gradient {
                let d_range = some.start * d..some.end * d;
                let streams = (&stream[d_range.clone()], &normed[d_range.clone()]);
                self.back(ours, streams.0, &mut of_stream[d_range]);
            }
        }
        let mut gradient = Vec::new();
        if with_gradient {
            gradient = self.of_parameters(&of_stream, x, d);
        }
        Ok((loss / tokens as f64, gradient))
    }

    /// Σ KL(final ‖ ours) over tokens; replaces our logits by the gradient of the mean.
    fn differ(&self, ours: &mut [f32], last: &[f32]) -> f64 {
        let v = self.unembedding.vocabulary();
        let mut sum = 0.0;
        for (ours, last) in ours.chunks_exact_mut(v).zip(last.chunks_exact(v)) {
            let capped = self.unembedding.softcap.map(|_| ours.to_vec());
            let [most, of_last] = [self.cpu.max(ours), self.cpu.max(last)];
            let mut q = last.to_vec();
            self.cpu.exp(&mut q, of_last);
            let total: f64 = q.iter().map(|x| f64::from(*x)).sum();
            let log_total = total.ln();
            let mut kl = 0.0;
            for ((q, last), own) in q.iter_mut().zip(last).zip(ours.iter()) {
                let share = f64::from(*q) / total;
                let log_q = f64::from(*last) - f64::from(of_last) - log_total;
                kl += share * (log_q - (f64::from(*own) - f64::from(most)));
                *q = share as f32;
            }
            self.cpu.exp(ours, most);
            let own_total: f64 = ours.iter().map(|x| f64::from(*x)).sum();
            sum += kl + own_total.ln();
            let n = self.tokens as f64;
            for (g, q) in ours.iter_mut().zip(&q) {
                *g = ((f64::from(*g) / own_total - f64::from(*q)) / n) as f32;
            }
            if let (Some(cap), Some(capped)) = (self.unembedding.softcap, capped) {
                ours.iter_mut().zip(capped).for_each(|(g, y)| *g *= 1.0 - (y / cap) * (y / cap));
            }
            self.unembedding.scale(ours);
        }
        sum
    }

    /// From the gradient of logits to that of the stream.
    fn back(&self, of_logits: Vec<f32>, stream: &[f32], out: &mut [f32]) {
        let d = self.unembedding.d_model();
        let n = stream.len() / d;
        let matrix = &self.unembedding.matrix;
        let mut of_entering = vec![0.0; n * matrix.inputs()];
        let g = Rows::dense(&of_logits, n, matrix.outputs());
        matrix.back_in_parts(self.cpu, g, RowsMut::dense(&mut of_entering, n, matrix.inputs()));
        let of_normed = match &self.unembedding.project {
            None => of_entering,
            Some(project) => {
                let mut of_normed = vec![0.0; n * d];
                let g = Rows::dense(&of_entering, n, project.outputs());
                project.back(self.cpu, g, Finish::Store, RowsMut::dense(&mut of_normed, n, d));
                of_normed
            }
        };
        let g = Rows::dense(&of_normed, n, d);
        match &self.unembedding.norm {
            None => out.copy_from_slice(&of_normed),
            Some(norm) => {
                let (x, out) = (Rows::dense(stream, n, d), RowsMut::dense(out, n, d));
                norm.back(self.cpu, Scale::Moves, x, d, g, out);
            }
        }
    }

    /// W: Σ over tokens of gradient ⊗ x; b: Σ gradient. Each number is summed in the order of the tokens.
    fn of_parameters(&self, g: &[f32], x: &[f32], d: usize) -> Vec<f32> {
        let parts: Vec<std::sync::OnceLock<Vec<f32>>> =
            (0..d.div_ceil(ROWS)).map(|_| std::sync::OnceLock::new()).collect();
        self.cpu.for_each(parts.len(), |part| {
            let outputs = part * ROWS..d.min((part + 1) * ROWS);
            let mut sums = vec![0.0f32; outputs.len() * d];
            for (g, x) in g.chunks_exact(d).zip(x.chunks_exact(d)) {
                for (row, g) in sums.chunks_exact_mut(d).zip(&g[outputs.clone()]) {
                    row.iter_mut().zip(x).for_each(|(sum, x)| *sum += g * x);
                }
            }
            // Every part is visited once.
            let _ = parts[part].set(sums);
        });
        let mut all: Vec<f32> =
            parts.into_iter().filter_map(std::sync::OnceLock::into_inner).flatten().collect();
        let mut bias = vec![0.0f32; d];
        g.chunks_exact(d).for_each(|g| bias.iter_mut().zip(g).for_each(|(sum, g)| *sum += g));
        all.extend(bias);
        all
    }
}
