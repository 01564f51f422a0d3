//! What a vector says about the next token, streamed over the vocabulary: no `positions x V` array is ever held.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use easyroutine_kernels::{PackedMatrix, Rows, RowsMut};

use super::LogitLens;
use crate::model::Buffer;

/// Columns of the vocabulary that are looked at together. Part of the order of summation: changing it changes bits.
const TILE: usize = 1024;
/// Positions whose final logits are held at a time, to compare every layer with.
const POSITIONS: usize = 16;

/// What one vector predicts.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Most likely ids with their natural log-probabilities, ties to the lower id.
    pub top: Vec<(u32, f64)>,
    /// Entropy in nats.
    pub entropy: f64,
    /// KL(final ‖ this) in nats.
    pub kl_to_final: f64,
    /// Log-probability that this vector gives to the final layer's most likely token.
    pub logprob_of_final_top: f64,
    /// Rank (from 1, ties to the lower id) and log-probability of the position's target.
    pub target: Option<Target>,
    /// Log-probabilities of the tracked ids.
    pub tracked: Vec<f64>,
}

/// How the target token fares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// 1 for the most likely token; 0 where logits are not numbers.
    pub rank: u64,
    /// Its natural log-probability; the negative of the cross-entropy.
    pub logprob: f64,
}

/// Vectors to be read, source after source: vector `s * positions + p` is source s at position p.
pub(super) struct Sources {
    /// Normed vectors, ready for the projection.
    pub(super) normed: Buffer,
    /// Whether the unembedding's bias is added.
    pub(super) with_bias: bool,
}

/// What is read of every vector.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) top_k: usize,
    /// The target id of each position.
    pub(super) targets: &'a [Option<u32>],
    /// Ids whose log-probability is read everywhere.
    pub(super) tracked: &'a [u32],
}

impl LogitLens {
    /// Reads vectors against the model's own prediction at each position.
    ///
    /// # Shapes
    /// `finals`: P by D, normed as the model norms; sources: S · P by D; result: S · P readings in the same order, and
    /// the model's own most likely token at each of the P.
    pub(super) fn read(
        &self,
        sources: Sources,
        finals: Buffer,
        wanted: Wanted<'_>,
    ) -> (Vec<Reading>, Vec<u32>) {
        let positions = finals.rows().n_rows();
        let with_bias = sources.with_bias;
        let sources = self.unembedding.projected(&self.cpu, sources.normed);
        let finals = self.unembedding.projected(&self.cpu, finals);
        let n_sources = sources.rows().n_rows() / positions.max(1);
        let mut readings: Vec<Option<Reading>> = vec![None; n_sources * positions];
        let mut tops = Vec::with_capacity(positions);
        for start in (0..positions).step_by(POSITIONS) {
            let chunk = start..(start + POSITIONS).min(positions);
            let mut vectors = Buffer::default();
            vectors.resize(n_sources * chunk.len(), sources.rows().n_columns());
            for source in 0..n_sources {
                for (i, position) in chunk.clone().enumerate() {
                    let from = sources.rows();
                    let to = source * chunk.len() + i;
                    vectors.rows_mut().row_mut(to).copy_from_slice(from.row(source * positions + position));
                }
            }
            let group = Group {
                lens: self,
                finals: self.final_logits(finals.rows().rows(chunk.clone())),
                targets: &wanted.targets[chunk.clone()],
                tracked: wanted.tracked,
                top_k: wanted.top_k.min(self.vocabulary()),
                with_bias,
            };
            tops.extend(group.finals.iter().map(|f| f.top));
            for (i, reading) in group.read(vectors.rows()).into_iter().enumerate() {
                let (source, position) = (i / chunk.len(), chunk.start + i % chunk.len());
                readings[source * positions + position] = Some(reading);
            }
        }
        (readings.into_iter().flatten().collect(), tops)
    }

    /// The model's logits at a few positions, with what is needed to compare others with them.
    fn final_logits(&self, entering: Rows<'_>) -> Vec<FinalPrediction> {
        let width = self.vocabulary();
        let mut logits = vec![0.0; entering.n_rows() * width];
        let matrix = &self.unembedding.matrix;
        let out = RowsMut::dense(&mut logits, entering.n_rows(), width);
        self.cpu.matmul(entering, &matrix.matrix, matrix.bias.as_deref(), out);
        let finish = |row: &mut [f32]| {
            self.unembedding.finish(row);
            let whole = row.chunks(TILE).map(|tile| Partial::new(self, tile)).collect::<Vec<_>>();
            let normaliser = merge(&whole).log_sum_exp();
            let top = self.cpu.largest(row, 1).first().map_or(0, |(id, _)| *id as u32);
            let rounded = normaliser as f32;
            let mut weights = row.to_vec();
            self.cpu.exp(&mut weights, rounded);
            // What rounding took from the normaliser would count as often as the logits are large.
            let factor = (f64::from(rounded) - normaliser).exp();
            let parts = weights.chunks(TILE).zip(row.chunks(TILE));
            let expected = parts.map(|(weights, logits)| self.cpu.dot(weights, logits)).sum::<f64>() * factor;
            FinalPrediction { weights, factor, negative_entropy: expected - normaliser, top }
        };
        logits.chunks_exact_mut(width).map(finish).collect()
    }
}

/// The model's prediction at one position.
struct FinalPrediction {
    /// Probabilities, but for the factor.
    weights: Vec<f32>,
    factor: f64,
    /// Sum of p log p.
    negative_entropy: f64,
    top: u32,
}

/// A few positions with everything that is read there.
struct Group<'a> {
    lens: &'a LogitLens,
    finals: Vec<FinalPrediction>,
    targets: &'a [Option<u32>],
    tracked: &'a [u32],
    top_k: usize,
    with_bias: bool,
}

impl Group<'_> {
    /// # Shapes
    /// `vectors`: sources times positions by the unembedding's inputs.
    fn read(&self, vectors: Rows<'_>) -> Vec<Reading> {
        let lens = self.lens;
        let matrix = &lens.unembedding.matrix;
        let bias = if self.with_bias { matrix.bias.as_deref() } else { None };
        let named = self.named_logits(vectors);
        let n_tiles = lens.vocabulary().div_ceil(TILE);
        let slots: Vec<OnceLock<TileReading>> =
            (0..vectors.n_rows() * n_tiles).map(|_| OnceLock::new()).collect();
        let floors: Vec<Floor> = (0..vectors.n_rows()).map(|_| Floor::none()).collect();
        lens.cpu.matmul_tiles(vectors, &matrix.matrix, bias, TILE, |column, first, mut tile| {
            for i in 0..tile.n_rows() {
                let (vector, logits) = (first + i, tile.row_mut(i));
                lens.unembedding.finish(logits);
                let reading = self.read_tile(vector, column, logits, &named[vector], &floors[vector]);
                // Every tile of every vector is visited once.
                let _ = slots[vector * n_tiles + column / TILE].set(reading);
            }
        });
        let tiles: Vec<TileReading> = slots.into_iter().filter_map(OnceLock::into_inner).collect();
        tiles.chunks_exact(n_tiles).zip(&named).enumerate().map(|(v, (t, n))| self.finish(v, t, n)).collect()
    }

    /// Logits of the tokens that are asked for by name, before the sweep, so that ranks can be counted in it. A small
    /// matrix of their rows is packed: each product is summed in the same order as in the large one.
    fn named_logits(&self, vectors: Rows<'_>) -> Vec<Named> {
        let lens = self.lens;
        let matrix = &lens.unembedding.matrix;
        let positions = self.finals.len();
        let mut ids: Vec<u32> = self.tracked.to_vec();
        ids.extend(self.finals.iter().map(|f| f.top));
        ids.extend(self.targets.iter().map(|t| t.unwrap_or(0)));
        let Ok(small) =
            PackedMatrix::pack(&lens.cpu, matrix.matrix.dtype(), ids.len(), vectors.n_columns(), |n, row| {
                matrix.matrix.read_row(ids[n] as usize, row);
                Ok::<(), std::convert::Infallible>(())
            });
        let own_bias = if self.with_bias { matrix.bias.as_ref() } else { None };
        let bias: Option<Vec<f32>> = own_bias.map(|b| ids.iter().map(|id| b[*id as usize]).collect());
        let mut logits = vec![0.0; vectors.n_rows() * ids.len()];
        let out = RowsMut::dense(&mut logits, vectors.n_rows(), ids.len());
        lens.cpu.matmul(vectors, &small, bias.as_deref(), out);
        let named = |(vector, row): (usize, &mut [f32])| {
            lens.unembedding.finish(row);
            let (position, tracked) = (vector % positions, self.tracked.len());
            Named {
                tracked: row[..tracked].to_vec(),
                final_top: row[tracked + position],
                target: self.targets[position].map(|id| (id, row[tracked + positions + position])),
            }
        };
        logits.chunks_exact_mut(ids.len()).enumerate().map(named).collect()
    }

    fn read_tile(
        &self,
        vector: usize,
        column: usize,
        logits: &[f32],
        named: &Named,
        floor: &Floor,
    ) -> TileReading {
        let (lens, last) = (self.lens, &self.finals[vector % self.finals.len()]);
        let rank = |(id, x): (u32, f32)| lens.cpu.rank(logits, x, (id as usize).saturating_sub(column));
        let partial = Partial::new(lens, logits);
        let least = floor.get();
        let top =
            if partial.max < least { Vec::new() } else { lens.cpu.largest_from(logits, self.top_k, least) };
        if top.len() == self.top_k
            && let Some((_, last)) = top.last()
        {
            floor.raise(*last);
        }
        TileReading {
            partial,
            under_final: lens.cpu.dot(&last.weights[column..column + logits.len()], logits) * last.factor,
            above: named.target.map_or(0, rank) as u64,
            top: top.into_iter().map(|(id, x)| ((column + id) as u32, x)).collect(),
        }
    }

    fn finish(&self, vector: usize, tiles: &[TileReading], named: &Named) -> Reading {
        let last = &self.finals[vector % self.finals.len()];
        let whole = merge(tiles.iter().map(|t| &t.partial));
        let normaliser = whole.log_sum_exp();
        let logprob = |logit: f32| f64::from(logit) - normaliser;
        let top = best(tiles.iter().map(|tile| &tile.top[..]), self.top_k);
        let under_final: f64 = tiles.iter().map(|t| t.under_final).sum();
        Reading {
            top: top.into_iter().map(|(id, x)| (id, logprob(x))).collect(),
            entropy: normaliser - whole.dot / whole.sum,
            kl_to_final: not_negative(last.negative_entropy - under_final + normaliser),
            logprob_of_final_top: logprob(named.final_top),
            target: named.target.map(|(_, x)| Target {
                rank: if normaliser.is_nan() { 0 } else { 1 + tiles.iter().map(|t| t.above).sum::<u64>() },
                logprob: logprob(x),
            }),
            tracked: named.tracked.iter().map(|x| logprob(*x)).collect(),
        }
    }
}

/// Logits of one vector for tokens asked for by name.
struct Named {
    tracked: Vec<f32>,
    final_top: f32,
    target: Option<(u32, f32)>,
}

/// One tile of one vector's logits.
#[derive(Debug)]
struct TileReading {
    partial: Partial,
    /// Sum of the final layer's probabilities times these logits.
    under_final: f64,
    /// Logits that rank before the target's.
    above: u64,
    top: Vec<(u32, f32)>,
}

/// What at least as many logits of a vector are known to reach as are looked for: smaller ones need no look. Tiles raise
/// it in any order, which changes what is passed over and never what is found.
struct Floor(AtomicU32);

impl Floor {
    fn none() -> Floor {
        Floor(AtomicU32::new(f32::NEG_INFINITY.to_bits()))
    }

    fn get(&self) -> f32 {
        f32::from_bits(self.0.load(Ordering::Relaxed))
    }

    fn raise(&self, to: f32) {
        // A number alone is greater than another: what is none leaves the floor as it is.
        let higher = |floor: u32| (to > f32::from_bits(floor)).then(|| to.to_bits());
        // An error says that the floor is higher already.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, higher);
    }
}

/// Sums of exponentials relative to the largest logit.
#[derive(Debug, Clone, Copy)]
struct Partial {
    max: f32,
    /// Sum of e^(x - max).
    sum: f64,
    /// Sum of e^(x - max) x.
    dot: f64,
}

impl Partial {
    fn new(lens: &LogitLens, logits: &[f32]) -> Self {
        let max = lens.cpu.max(logits);
        let [sum, dot] = lens.cpu.exp_sums(logits, max);
        Partial { max, sum, dot }
    }

    fn log_sum_exp(&self) -> f64 {
        f64::from(self.max) + self.sum.ln()
    }
}

/// Tiles in their order to the whole vocabulary.
fn merge<'a>(tiles: impl IntoIterator<Item = &'a Partial> + Clone) -> Partial {
    let nan_or_larger = |m: f32, t: &Partial| if m.is_nan() || m > t.max { m } else { t.max };
    let max = tiles.clone().into_iter().fold(f32::NEG_INFINITY, nan_or_larger);
    let (mut sum, mut dot) = (0.0, 0.0);
    for tile in tiles {
        let weight = (f64::from(tile.max) - f64::from(max)).exp();
        sum += tile.sum * weight;
        dot += tile.dot * weight;
    }
    Partial { max, sum, dot }
}

/// A divergence is never negative; what lies below zero is rounding. A NaN stays one.
fn not_negative(divergence: f64) -> f64 {
    if divergence < 0.0 { 0.0 } else { divergence }
}

/// The `k` largest of several lists in the order of their ids, each descending with ties to the lower id and not-a-numbers
/// last; the result is ordered so too.
fn best<'a>(lists: impl Iterator<Item = &'a [(u32, f32)]>, k: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    for list in lists {
        for (id, x) in list {
            if top.len() == k && top.last().is_none_or(|(_, least)| x <= least || x.is_nan()) {
                // What the list holds further on is smaller still.
                break;
            }
            let at = top.partition_point(|other| other.1 >= *x || x.is_nan());
            top.insert(at, (*id, *x));
            top.truncate(k);
        }
    }
    top
}
