//! Attention of one block.

use easyroutine_kernels::{Cpu, Pairing, RowsMut};
use easyroutine_sites::{Point, Site};

use super::buffer::{Buffer, Reading, Seen};
use super::part::Output;
use super::run::{Flow, Run, Seam};
use crate::error::Result;
use crate::tap::{Keeping, Want};
use crate::weights::{Norm, Projection};

/// Values of patterns that are held at once: 64 MiB, or one head's.
const LARGEST_PATTERNS: usize = 16 << 20;

/// Attention with its weights.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) layer: usize,
    /// Queries, keys and values in one product.
    pub(crate) qkv: Projection,
    pub(crate) out: Projection,
    pub(crate) q_norm: Option<HeadNorm>,
    pub(crate) k_norm: Option<HeadNorm>,
    /// Which rotary table, and which columns turn together.
    pub(crate) rope: Option<(usize, Pairing)>,
    /// Scores, mask and softmax; keys and values grouped.
    pub(crate) spec: easyroutine_kernels::Attention,
    /// The same with one key/value head a query head.
    pub(crate) spread: easyroutine_kernels::Attention,
}

/// A norm of queries or keys, over groups of columns.
#[derive(Debug)]
pub(crate) struct HeadNorm {
    pub(crate) norm: Norm,
    /// Columns that are normed together.
    pub(crate) group: usize,
}

/// Buffers inside attention.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// Tokens by (H + 2 K) h.
    qkv: Buffer,
    /// Keys, then values, one a query head: tokens by 2 H h. Made only where a head's own are wanted.
    spread: Buffer,
    /// Mixed values, tokens by H h.
    z: Reading,
    /// One head's part of the output, tokens by `d_model`.
    head: Buffer,
    /// Some heads' patterns, each with every row's square, back to back.
    squares: Vec<Vec<f32>>,
}

/// The first of some squares.
fn some_squares(squares: &mut Vec<Vec<f32>>, count: usize) -> &mut [Vec<f32>] {
    squares.resize_with(squares.len().max(count), Vec::new);
    &mut squares[..count]
}

impl Attention {
    /// Reads `read`, writes `attention_out` or adds to the stream; breaks where nothing further is wanted.
    pub(crate) fn forward(&self, run: &mut Run<'_>, to: Output) -> Result<Flow> {
        let (cpu, tokens) = (run.cpu(), run.batch.n_tokens());
        let Run { scratch, seam, .. } = run;
        let buffers = &mut scratch.attention;
        buffers.qkv.resize(tokens, self.qkv.outputs());
        self.qkv.apply(cpu, scratch.read.left(), buffers.qkv.rows_mut());

        let [q, k, v] = self.columns();
        for (site, part) in [(Site::Queries, &q), (Site::Keys, &k), (Site::Values, &v)] {
            seam.visit(Point::layer_of(site, self.layer), buffers.qkv.rows_mut().columns(part.clone()))?;
        }
        let is_spread = self.visit_heads(run)?;
        if run.seam.after(self.layer, Site::HeadValues).is_break() {
            return Ok(Flow::Break(()));
        }
        self.visit_projected(run)?;

        let Run { batch, scratch, seam, sequences, rotations, past, .. } = run;
        let buffers = &mut scratch.attention;
        self.place(cpu, rotations_of(self.rope, rotations), buffers, is_spread);
        let spec = if is_spread { &self.spread } else { &self.spec };
        let fresh = if is_spread {
            let half = self.spread.n_heads * self.spread.d_head;
            [buffers.spread.rows().columns(0..half), buffers.spread.rows().columns(half..2 * half)]
        } else {
            [buffers.qkv.rows().columns(k), buffers.qkv.rows().columns(v)]
        };
        let [keys, values] = past.join(self.layer, batch, spec.n_kv_heads, fresh);
        let queries = buffers.qkv.rows().columns(q);
        let pattern = self.most_wanted(seam);
        let is_seen = pattern == Want::Edit || seam.plan.wants_heads(Site::HeadOut, self.layer);
        let (dtype, inputs) = (run.model.dtype(), self.out.inputs());
        let mut z = buffers.z.resize(Seen::by_tap_if(is_seen), dtype, tokens, inputs);
        let squares: usize = sequences.iter().map(|s| s.queries.len() * s.keys.len()).sum();
        match pattern {
            Want::Nothing => cpu.attention(spec, queries, keys, values, sequences, z),
            Want::Read => {
                // As many heads at once as keep the threads busy without holding all patterns of a long prompt.
                let at_once = (LARGEST_PATTERNS / squares.max(1)).clamp(1, spec.n_heads);
                for first in (0..spec.n_heads).step_by(at_once) {
                    let heads = first..spec.n_heads.min(first + at_once);
                    let kept = some_squares(&mut buffers.squares, heads.len());
                    let (part, z) = (heads.clone(), z.reborrow());
                    cpu.attention_keeping(spec, part, queries, keys, values, sequences, kept, z);
                    for (head, square) in heads.zip(kept) {
                        let point = Point::head_of(Site::Pattern, self.layer, head);
                        seam.visit_pairs(point, square, spec.window, Keeping::Allowed)?;
                    }
                }
            }
            Want::Edit => {
                let square = &mut some_squares(&mut buffers.squares, 1)[0];
                square.resize(squares, 0.0);
                for head in 0..spec.n_heads {
                    cpu.attention_scores(spec, head, queries, keys, sequences, square);
                    let of = |site| Point::head_of(site, self.layer, head);
                    seam.visit_pairs(of(Site::Scores), square, spec.window, Keeping::Refused)?;
                    cpu.attention_softmax(spec, head, sequences, square);
                    seam.visit_pairs(of(Site::Pattern), square, spec.window, Keeping::Refused)?;
                    cpu.attention_mix(spec, head, square, values, sequences, buffers.z.rows_mut());
                }
            }
        }
        if seam.after(self.layer, Site::Pattern).is_break() {
            return Ok(Flow::Break(()));
        }
        if to == Output::Stream {
            self.out.add(cpu, buffers.z.left(), scratch.stream.rows_mut());
            return Ok(Flow::Continue(()));
        }
        self.out.apply(cpu, buffers.z.left(), scratch.attention_out.rows_mut());
        self.visit_head_out(run)?;
        let raw = Point::layer_of(Site::AttnRaw, self.layer);
        run.seam.visit(raw, run.scratch.attention_out.rows_mut())?;
        Ok(run.seam.after(self.layer, Site::AttnRaw))
    }

    /// The most that is done to the pattern of any head of this layer. Whoever wants scores stands before the softmax, as
    /// one who edits the pattern stands behind it: both need the steps apart.
    fn most_wanted(&self, seam: &Seam<'_>) -> Want {
        if seam.plan.wants_heads(Site::Scores, self.layer) {
            return Want::Edit;
        }
        let of = |head| seam.plan.wants(Point::head_of(Site::Pattern, self.layer, head));
        (0..self.spec.n_heads).map(of).max().unwrap_or(Want::Nothing)
    }

    /// Columns of queries, keys and values in the fused projection.
    fn columns(&self) -> [std::ops::Range<usize>; 3] {
        let spec = &self.spec;
        let (q, k) = (spec.n_heads * spec.d_head, spec.n_kv_heads * spec.d_head);
        [0..q, q..q + k, q + k..q + 2 * k]
    }

    /// Reports each head's query, key and value. Keys and values are copied out to one a query head where wanted,
    /// so that an edit changes only what that head sees; returns whether they were.
    fn visit_heads(&self, run: &mut Run<'_>) -> Result<bool> {
        let d_head = self.spec.d_head;
        let Run { scratch, seam, past, .. } = run;
        let buffers = &mut scratch.attention;
        let [_, k, v] = self.columns();
        for head in 0..self.spec.n_heads {
            let own = head * d_head..(head + 1) * d_head;
            let point = Point::head_of(Site::HeadQueries, self.layer, head);
            seam.visit(point, buffers.qkv.rows_mut().columns(own))?;
        }
        let sites = [(Site::HeadKeys, k), (Site::HeadValues, v)];
        let wanted = sites.iter().any(|(site, _)| seam.plan.wants_heads(*site, self.layer));
        if !wanted && !past.is_spread(self.layer, self.spec.n_kv_heads) {
            return Ok(false);
        }
        let (n_heads, group) = (self.spec.n_heads, self.spec.n_heads / self.spec.n_kv_heads);
        buffers.spread.resize(buffers.qkv.rows().n_rows(), 2 * n_heads * d_head);
        for (half, (site, shared)) in sites.into_iter().enumerate() {
            for head in 0..n_heads {
                let from = shared.start + head / group * d_head;
                let to = (half * n_heads + head) * d_head;
                let (source, mut target) = (buffers.qkv.rows(), buffers.spread.rows_mut());
                for token in 0..source.n_rows() {
                    let vector = &source.row(token)[from..from + d_head];
                    target.row_mut(token)[to..to + d_head].copy_from_slice(vector);
                }
                let point = Point::head_of(site, self.layer, head);
                seam.visit(point, buffers.spread.rows_mut().columns(to..to + d_head))?;
            }
        }
        Ok(true)
    }

    /// Reports each head's value, key and query through its slice of the output projection.
    fn visit_projected(&self, run: &mut Run<'_>) -> Result<()> {
        let cpu = run.cpu();
        let d_head = self.spec.d_head;
        let group = self.spec.n_heads / self.spec.n_kv_heads;
        let [q, k, v] = self.columns();
        let Run { scratch, seam, .. } = run;
        let Scratch { qkv, head: projected, .. } = &mut scratch.attention;
        let sites =
            [(Site::ProjectedValue, v, group), (Site::ProjectedKey, k, group), (Site::ProjectedQuery, q, 1)];
        for (site, columns, group) in sites {
            for head in 0..self.spec.n_heads {
                let point = Point::head_of(site, self.layer, head);
                if seam.plan.wants(point) == Want::Nothing {
                    continue;
                }
                let from = columns.start + head / group * d_head;
                let vectors = qkv.rows().columns(from..from + d_head);
                projected.resize(vectors.n_rows(), self.out.outputs());
                self.out.apply_part(cpu, vectors, head, projected.rows_mut());
                seam.visit(point, projected.rows_mut())?;
            }
        }
        Ok(())
    }

    /// Norms queries and keys and turns them to their positions.
    fn place(
        &self,
        cpu: &Cpu,
        rotation: Option<(&super::rotations::Rotations, Pairing)>,
        buffers: &mut Scratch,
        is_spread: bool,
    ) {
        let [q, k, _] = self.columns();
        let d_head = self.spec.d_head;
        let norm = |rows: RowsMut<'_>, norm: Option<&HeadNorm>| {
            if let Some(HeadNorm { norm, group }) = norm {
                norm.apply_in_place(cpu, rows, *group);
            }
        };
        let turn = |rows: RowsMut<'_>| {
            if let Some((rotation, pairing)) = rotation {
                cpu.rotary(rows, d_head, pairing, rotation.cos(), rotation.sin());
            }
        };
        norm(buffers.qkv.rows_mut().columns(q.clone()), self.q_norm.as_ref());
        if is_spread {
            turn(buffers.qkv.rows_mut().columns(q));
            if let Some(k_norm) = &self.k_norm {
                self.norm_spread_keys(cpu, k_norm, buffers);
            }
            turn(buffers.spread.rows_mut().columns(0..self.spread.n_heads * d_head));
        } else {
            norm(buffers.qkv.rows_mut().columns(k.clone()), self.k_norm.as_ref());
            // Queries and keys side by side, in one go.
            turn(buffers.qkv.rows_mut().columns(q.start..k.end));
        }
    }

    /// Norms the keys of each query head as if its own key stood in the whole projection: a norm may span all heads.
    fn norm_spread_keys(&self, cpu: &Cpu, k_norm: &HeadNorm, buffers: &mut Scratch) {
        let [_, k, _] = self.columns();
        let (d_head, group) = (self.spec.d_head, self.spec.n_heads / self.spec.n_kv_heads);
        let Scratch { qkv, spread, head: whole, .. } = buffers;
        for head in 0..self.spec.n_heads {
            let shared = head / group * d_head..(head / group + 1) * d_head;
            let own = head * d_head..(head + 1) * d_head;
            whole.resize(qkv.rows().n_rows(), k.len());
            let mut rows = whole.rows_mut();
            for token in 0..rows.n_rows() {
                rows.row_mut(token).copy_from_slice(&qkv.rows().row(token)[k.clone()]);
                rows.row_mut(token)[shared.clone()].copy_from_slice(&spread.rows().row(token)[own.clone()]);
            }
            k_norm.norm.apply_in_place(cpu, rows.reborrow(), k_norm.group);
            for token in 0..rows.n_rows() {
                spread.rows_mut().row_mut(token)[own.clone()]
                    .copy_from_slice(&rows.row(token)[shared.clone()]);
            }
        }
    }

    /// Reports each head's part of the output; an edit changes the output by the difference.
    fn visit_head_out(&self, run: &mut Run<'_>) -> Result<()> {
        let (cpu, d_head) = (run.cpu(), self.spec.d_head);
        let Run { scratch, seam, .. } = run;
        let Scratch { z, head: part, .. } = &mut scratch.attention;
        for head in 0..self.spec.n_heads {
            let point = Point::head_of(Site::HeadOut, self.layer, head);
            let want = seam.plan.wants(point);
            if want == Want::Nothing {
                continue;
            }
            let inputs = head * d_head..(head + 1) * d_head;
            part.resize(z.rows().n_rows(), self.out.outputs());
            self.out.apply_part(cpu, z.rows().columns(inputs), head, part.rows_mut());
            let before = (want == Want::Edit).then(|| dense(part));
            seam.visit(point, part.rows_mut())?;
            let Some(before) = before else { continue };
            let mut out = scratch.attention_out.rows_mut();
            for (token, old) in before.chunks_exact(self.out.outputs()).enumerate() {
                let new = part.rows();
                for ((sum, new), old) in out.row_mut(token).iter_mut().zip(new.row(token)).zip(old) {
                    // What was not edited keeps its bits, even where it is infinite or a negative zero.
                    if new.to_bits() != old.to_bits() {
                        *sum += new - old;
                    }
                }
            }
        }
        Ok(())
    }
}

fn rotations_of(
    rope: Option<(usize, Pairing)>,
    rotations: &[super::rotations::Rotations],
) -> Option<(&super::rotations::Rotations, Pairing)> {
    rope.map(|(table, pairing)| (&rotations[table], pairing))
}

fn dense(buffer: &Buffer) -> Vec<f32> {
    let rows = buffer.rows();
    (0..rows.n_rows()).flat_map(|i| rows.row(i)).copied().collect()
}
