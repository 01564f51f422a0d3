//! The predictions of vectors, compared with the model's own.

use super::LogitLens;
use super::sweep::Sweep;
use crate::cache::Kept;
use crate::model::Buffer;

/// Vectors per sweep over the vocabulary, if that many are left: enough that reading the unembedding is cheap compared
/// with the arithmetic.
const VECTORS: usize = 256;
/// Limit on sources per sweep. Those of one position are read together, so they should fit into a cache.
const SOURCES: usize = 127;
/// Limit on positions per sweep: named tokens of each are looked up in all its vectors.
const POSITIONS: usize = 32;

/// The prediction of one vector.
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

/// The target token's rank and probability.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// 1 for the most likely token; 0 if logits are NaN.
    pub rank: u64,
    /// Its natural log-probability; the negative of the cross-entropy.
    pub logprob: f64,
}

/// Vectors to read.
pub(super) struct Sources {
    /// For each source, the normed vectors, ready for the projection, one per position.
    pub(super) normed: Vec<Kept>,
    /// Whether the unembedding's bias is added.
    pub(super) with_bias: bool,
}

/// What to read from every vector.
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
    /// `finals`: P by D, normed as in the model; sources: S times P by D; result: S times P readings, and the model's
    /// own most likely token at each of the P positions.
    pub(super) fn read(
        &self,
        sources: &Sources,
        finals: &Buffer,
        wanted: Wanted<'_>,
    ) -> (Vec<Vec<Reading>>, Vec<u32>) {
        let (positions, width) = (finals.rows().n_rows(), finals.rows().n_columns());
        let mut readings = Vec::with_capacity(sources.normed.len());
        let mut tops = Vec::new();
        for sources_at_once in sources.normed.chunks(SOURCES) {
            tops.clear();
            let mut read: Vec<Vec<Reading>> =
                sources_at_once.iter().map(|_| Vec::with_capacity(positions)).collect();
            let group = 1 + sources_at_once.len();
            let at_once = (VECTORS / group).clamp(1, POSITIONS);
            for start in (0..positions).step_by(at_once) {
                let chunk = start..(start + at_once).min(positions);
                let mut vectors = Buffer::default();
                vectors.resize(chunk.len() * group, width);
                let rows = chunk.clone().flat_map(|position| {
                    let of_sources =
                        sources_at_once.iter().map(move |s| &s.values()[position * width..][..width]);
                    std::iter::once(finals.rows().row(position)).chain(of_sources)
                });
                rows.enumerate().for_each(|(to, row)| vectors.rows_mut().row_mut(to).copy_from_slice(row));
                let sweep = Sweep {
                    lens: self,
                    group,
                    wanted: Wanted { targets: &wanted.targets[chunk], ..wanted },
                    with_bias: sources.with_bias,
                };
                for position in sweep.read(self.unembedding.projected(&self.cpu, vectors).rows()) {
                    tops.push(position.final_top);
                    read.iter_mut().zip(position.readings).for_each(|(all, reading)| all.push(reading));
                }
            }
            readings.extend(read);
        }
        (readings, tops)
    }
}
