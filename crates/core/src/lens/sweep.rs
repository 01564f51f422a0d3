//! Logits of many vectors, streamed over the vocabulary: no `vectors x V` array ever exists.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use easyroutine_kernels::{PackedMatrix, Rows, RowsMut, TileShape};

use super::LogitLens;
use super::reading::{Reading, Target, Wanted};
use super::summary::{Sums, Top, merge};

/// Columns of the vocabulary per tile. Part of the order of summation: changing it changes bits.
const TILE: usize = 1024;

/// A few positions, with everything to read at them.
pub(super) struct Sweep<'a> {
    pub(super) lens: &'a LogitLens,
    /// Vectors per position: the model's own, then one per source.
    pub(super) group: usize,
    /// What to read; its targets belong to these positions.
    pub(super) wanted: Wanted<'a>,
    /// Whether the unembedding's bias is added to the sources' logits.
    pub(super) with_bias: bool,
}

/// The readings at one position.
pub(super) struct Position {
    /// The model's own most likely next token.
    pub(super) final_top: u32,
    /// One reading per source.
    pub(super) readings: Vec<Reading>,
}

/// One tile of one vector's logits.
#[derive(Debug)]
struct TileReading {
    sums: Sums,
    /// Sum of e^(final - the final logits' maximum in the tile) times these logits.
    under_final: f64,
    /// Number of logits that rank before the target's.
    above: u64,
}

impl Sweep<'_> {
    /// # Shapes
    /// `vectors`: positions times group by the unembedding's inputs; result: one per position.
    pub(super) fn read(&self, vectors: Rows<'_>) -> Vec<Position> {
        let Wanted { targets, tracked, .. } = self.wanted;
        let ids = tracked.iter().copied().chain(targets.iter().map(|target| target.unwrap_or(0)));
        let named = self.logits_of(vectors, &ids.collect::<Vec<_>>());
        let (tiles, tops) = self.tiles(vectors, &named);
        let final_tops: Vec<u32> = tops.iter().step_by(self.group).map(Top::first).collect();
        let of_final_tops = self.logits_of(vectors, &final_tops);
        let n_tiles = self.n_tiles();
        let of_position = |(position, tiles): (usize, &[TileReading])| {
            let last = Final::new(&tiles[..n_tiles]);
            let sources = position * self.group + 1..(position + 1) * self.group;
            let readings = sources.zip(tiles.chunks_exact(n_tiles).skip(1)).map(|(vector, tiles)| {
                let normaliser = merge(tiles.iter().map(|tile| &tile.sums));
                let log_sum_exp = normaliser.log_sum_exp();
                let logprob = |logit: f32| f64::from(logit) - log_sum_exp;
                let above = || tiles.iter().map(|tile| tile.above).sum::<u64>();
                Reading {
                    top: tops[vector].best().iter().map(|(id, x)| (*id, logprob(*x))).collect(),
                    entropy: log_sum_exp - normaliser.dot / normaliser.sum,
                    kl_to_final: not_negative(last.negative_entropy - last.expected(tiles) + log_sum_exp),
                    logprob_of_final_top: logprob(of_final_tops.of(vector)[position]),
                    target: self.target(&named, vector).map(|(_, logit)| Target {
                        rank: if log_sum_exp.is_nan() { 0 } else { 1 + above() },
                        logprob: logprob(logit),
                    }),
                    tracked: named.of(vector)[..tracked.len()].iter().map(|x| logprob(*x)).collect(),
                }
            });
            Position { final_top: final_tops[position], readings: readings.collect() }
        };
        tiles.chunks_exact(self.group * n_tiles).enumerate().map(of_position).collect()
    }

    /// Reads the logits of all vectors, one tile at a time.
    ///
    /// # Shapes
    /// Tiles: vectors by tiles of the vocabulary; the largest logits: one list per vector.
    fn tiles(&self, vectors: Rows<'_>, named: &Named) -> (Vec<TileReading>, Vec<Top>) {
        let (lens, n_tiles) = (self.lens, self.n_tiles());
        let slots: Vec<OnceLock<TileReading>> =
            (0..vectors.n_rows() * n_tiles).map(|_| OnceLock::new()).collect();
        let tops: Vec<Mutex<Top>> = (0..vectors.n_rows()).map(|v| Mutex::new(self.no_top_yet(v))).collect();
        // A tile holds whole positions: the model's own logits precede those of the sources.
        let shape = TileShape { rows: self.group, columns: TILE };
        let matrix = &lens.unembedding.matrix;
        lens.cpu.matmul_tiles(vectors, &matrix.matrix, self.bias(), shape, |column, first, mut tile| {
            let mut weights = [0.0; TILE];
            let weights = &mut weights[..tile.n_columns()];
            for i in 0..tile.n_rows() {
                let (vector, logits) = (first + i, tile.row_mut(i));
                if self.is_final(vector) {
                    self.add_bias_of_final(column, logits);
                }
                lens.unembedding.finish(logits);
                let sums = Sums::new(&lens.cpu, logits);
                if self.is_final(vector) {
                    weights.copy_from_slice(logits);
                    lens.cpu.exp(weights, sums.max);
                }
                look_for_top(lens, column, logits, sums.max, &tops[vector]);
                let rank = |(id, x)| lens.cpu.rank(logits, x, (id as usize).saturating_sub(column));
                let under_final = lens.cpu.dot(weights, logits);
                let above = self.target(named, vector).map_or(0, rank) as u64;
                // Every tile of every vector is visited once.
                let _ = slots[vector * n_tiles + column / TILE].set(TileReading { sums, under_final, above });
            }
        });
        let tops = tops.into_iter().map(|top| top.into_inner().unwrap_or_else(PoisonError::into_inner));
        (slots.into_iter().filter_map(OnceLock::into_inner).collect(), tops.collect())
    }

    fn n_tiles(&self) -> usize {
        self.lens.vocabulary().div_ceil(TILE)
    }

    /// The target of a vector's position, and its logit.
    fn target(&self, named: &Named, vector: usize) -> Option<(u32, f32)> {
        let position = vector / self.group;
        let logit = || named.of(vector)[self.wanted.tracked.len() + position];
        self.wanted.targets[position].map(|id| (id, logit()))
    }

    fn is_final(&self, vector: usize) -> bool {
        vector.is_multiple_of(self.group)
    }

    fn no_top_yet(&self, vector: usize) -> Top {
        let k = self.wanted.top_k.min(self.lens.vocabulary());
        Top::of(if self.is_final(vector) { k.max(1) } else { k })
    }

    /// The bias of the whole product.
    fn bias(&self) -> Option<&[f32]> {
        self.lens.unembedding.matrix.bias.as_deref().filter(|_| self.with_bias)
    }

    /// Adds the bias of the model's own logits, if the product left it out.
    fn add_bias_of_final(&self, column: usize, logits: &mut [f32]) {
        if let Some(bias) = self.lens.unembedding.matrix.bias.as_deref().filter(|_| !self.with_bias) {
            logits.iter_mut().zip(&bias[column..]).for_each(|(x, bias)| *x += bias);
        }
    }

    /// Logits of named tokens. Packs a small matrix of their rows; each product is summed in the same order as in the
    /// large matrix. Here the model's own vectors get the sources' bias.
    ///
    /// # Shapes
    /// Vectors by ids.
    fn logits_of(&self, vectors: Rows<'_>, ids: &[u32]) -> Named {
        let lens = self.lens;
        let matrix = &lens.unembedding.matrix.matrix;
        let Ok(small) =
            PackedMatrix::pack(&lens.cpu, matrix.dtype(), ids.len(), vectors.n_columns(), |n, row| {
                matrix.read_row(ids[n] as usize, row);
                Ok::<(), Infallible>(())
            });
        let bias: Option<Vec<f32>> =
            self.bias().map(|bias| ids.iter().map(|id| bias[*id as usize]).collect());
        let mut logits = vec![0.0; vectors.n_rows() * ids.len()];
        let out = RowsMut::dense(&mut logits, vectors.n_rows(), ids.len());
        lens.cpu.matmul(vectors, &small, bias.as_deref(), out);
        lens.unembedding.finish(&mut logits);
        Named { logits, width: ids.len() }
    }
}

/// Logits of named tokens.
struct Named {
    logits: Vec<f32>,
    width: usize,
}

impl Named {
    fn of(&self, vector: usize) -> &[f32] {
        &self.logits[vector * self.width..][..self.width]
    }
}

/// The model's own prediction at one position.
struct Final {
    /// Factors that turn each tile's weights into probabilities.
    factors: Vec<f64>,
    /// Sum of p log p.
    negative_entropy: f64,
}

impl Final {
    fn new(tiles: &[TileReading]) -> Final {
        let log_sum_exp = merge(tiles.iter().map(|tile| &tile.sums)).log_sum_exp();
        let factors = tiles.iter().map(|tile| (f64::from(tile.sums.max) - log_sum_exp).exp()).collect();
        let mut last = Final { factors, negative_entropy: 0.0 };
        last.negative_entropy = last.expected(tiles) - log_sum_exp;
        last
    }

    /// The mean of a vector's logits under this prediction.
    fn expected(&self, tiles: &[TileReading]) -> f64 {
        tiles.iter().zip(&self.factors).map(|(tile, factor)| tile.under_final * factor).sum()
    }
}

/// Adds the largest logits of one tile to those of its vector. Tiles come in any order, which changes what is skipped
/// but never what is found.
fn look_for_top(lens: &LogitLens, column: usize, logits: &[f32], max: f32, top: &Mutex<Top>) {
    let (k, least) = {
        let top = lock(top);
        (top.k, top.least())
    };
    if max < least {
        return;
    }
    let found = lens.cpu.largest_from(logits, k, least);
    let mut top = lock(top);
    found.into_iter().for_each(|(id, x)| top.take((column + id) as u32, x));
}

fn lock(top: &Mutex<Top>) -> MutexGuard<'_, Top> {
    top.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A divergence is never negative; a value below zero is rounding error. NaN stays NaN.
fn not_negative(divergence: f64) -> f64 {
    if divergence < 0.0 { 0.0 } else { divergence }
}
