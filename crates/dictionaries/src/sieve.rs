//! Which features may be active, from a product in bf16, which takes half the time of one in f32.
//!
//! The product is near the exact one by a bound that is known: where even h plus the bound is not chosen, the feature is
//! not active. Only the others are computed in f32, with the bits of the whole product, and chosen among. So no bit of a
//! result depends on whether it was sieved.

use std::sync::{Mutex, PoisonError};

use easyroutine::{Cpu, Dtype, Result};
use easyroutine_kernels::{PackedMatrix, Rows, RowsMut, nearest_bf16};

use crate::activation::{Activation, Choice, keep_best};
use crate::encode::{BLOCK, CHUNK, Read};
use crate::layer::{Layer, pack, pieces};

/// Fewest vectors for which sieving pays.
const ROWS: usize = 16;
/// One feature in so many may pass; with more the whole product is quicker.
const SHARE: usize = 16;
/// Limit on the numbers of an encoder that is kept twice, 512 MiB in f32.
const KEPT: usize = 1 << 27;
/// Calls without a sieve after one through which too much passed.
const PAUSE: usize = 32;

/// An encoder in bf16, and what it lost.
#[derive(Debug)]
pub(crate) struct Sieve {
    /// Chunk by chunk, in bf16.
    packed: Vec<PackedMatrix>,
    /// By features, in f32: `[F', D_in]`.
    weights: Vec<f32>,
    /// ‖w‖ of each feature.
    norms: Vec<f32>,
    /// ‖w − its bf16‖ of each feature.
    lost: Vec<f32>,
    /// Calls that are to go by the whole product.
    pause: Mutex<usize>,
}

/// The features of one vector that may be active.
#[derive(Default)]
struct Passed {
    /// Ascending: the feature, and the most that it can be.
    features: Vec<(u32, f32)>,
    /// For `TopK`: the k largest of what features are at least, the smallest first.
    least: Vec<f32>,
}

/// How far a vector's outputs in bf16 may be from those in f32: `norm`·‖w‖ + `lost`·‖w − its bf16‖.
#[derive(Clone, Copy)]
struct Reach {
    norm: f32,
    lost: f32,
}

impl Sieve {
    /// Whether a layer's vectors are sieved.
    pub(crate) fn pays(layer: &Layer, cpu: &Cpu, n: usize) -> bool {
        let chooses_few = match layer.activation {
            Activation::Relu | Activation::JumpRelu { .. } => true,
            Activation::TopK { k } => k.saturating_mul(2 * SHARE) <= layer.n_features(),
            Activation::GroupMax { .. } | Activation::Gated { .. } => false,
        };
        let is_small = layer.n_features().saturating_mul(layer.d_in()) <= KEPT;
        n >= ROWS && chooses_few && is_small && layer.is_kept() && cpu.multiplies_bf16()
    }

    pub(crate) fn new(layer: &Layer, cpu: &Cpu) -> Result<Sieve> {
        let (n_features, width) = (layer.n_features(), layer.d_in());
        let mut weights = vec![0.0; n_features * width];
        layer.encoder.read_block(0..n_features, &mut weights)?;
        let packed = pieces(n_features, CHUNK).map(|chunk| pack(cpu, Dtype::Bf16, &layer.encoder, chunk));
        let packed = packed.collect::<Result<Vec<_>>>()?;
        let (norms, lost) = weights.chunks_exact(width).map(norms_of).unzip();
        Ok(Sieve { packed, weights, norms, lost, pause: Mutex::new(0) })
    }

    /// The features of each vector that may be active; `None` where too many may be.
    pub(crate) fn pass(&self, layer: &Layer, cpu: &Cpu, read: &Read<'_>) -> Option<Vec<Vec<(u32, f32)>>> {
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        if *pause > 0 {
            *pause -= 1;
            return None;
        }
        drop(pause);
        let (n, width) = (read.n_rows(), read.width);
        let passed: Vec<Mutex<Passed>> = (0..n).map(|_| Mutex::default()).collect();
        let reaches: Vec<Reach> = read.values.chunks_exact(width).map(Reach::of).collect();
        let most = n * layer.n_features() / SHARE;
        let together = (BLOCK / CHUNK.min(layer.n_features())).clamp(1, n.max(1));
        let mut h = vec![0.0; together * CHUNK.min(layer.n_features())];
        for (chunk, packed) in pieces(layer.n_features(), CHUNK).zip(&self.packed) {
            let bias = layer.encoder_bias.get(chunk.clone());
            let most_of = |of: &[f32]| of[chunk.clone()].iter().copied().fold(0.0, f32::max);
            let (norm, lost) = (most_of(&self.norms), most_of(&self.lost));
            let scale = if read.norms.is_empty() { 1.0 } else { most_of(read.norms) };
            for rows in pieces(n, together) {
                let h = &mut h[..rows.len() * chunk.len()];
                let x = read.rows(rows.clone());
                cpu.matmul(x, packed, bias, RowsMut::dense(h, rows.len(), chunk.len()));
                let h: &[f32] = h;
                cpu.for_each(rows.len(), |row| {
                    let mut passed = passed[rows.start + row].lock().unwrap_or_else(PoisonError::into_inner);
                    let h = &h[row * chunk.len()..][..chunk.len()];
                    let scaled: Vec<f32>;
                    let h = match read.norms.get(chunk.clone()) {
                        None => h,
                        Some(norms) => {
                            scaled = h.iter().zip(norms).map(|(h, norm)| h * norm).collect();
                            &scaled
                        }
                    };
                    let reach = reaches[rows.start + row];
                    let bound = |feature: usize, h: f32| {
                        let by_norm = if read.norms.is_empty() { 1.0 } else { read.norms[feature] };
                        by_norm * reach.at(self.norms[feature], self.lost[feature]) + h.abs() * ROUNDED
                    };
                    passed.take(&layer.activation, chunk.start, h, scale * reach.at(norm, lost), bound);
                    passed.drop_the_weak();
                });
            }
            let so_far =
                passed.iter().map(|passed| passed.lock().map_or(usize::MAX / n, |p| p.features.len()));
            if so_far.sum::<usize>() > most {
                *self.pause.lock().unwrap_or_else(PoisonError::into_inner) = PAUSE;
                return None;
            }
        }
        let inner =
            |passed: Mutex<Passed>| passed.into_inner().unwrap_or_else(PoisonError::into_inner).features;
        Some(passed.into_iter().map(inner).collect())
    }

    /// Each vector's choice among the features that may be active.
    pub(crate) fn choices(
        &self,
        layer: &Layer,
        cpu: &Cpu,
        read: &Read<'_>,
        passed: Vec<Vec<(u32, f32)>>,
    ) -> Vec<Choice> {
        let weights = Rows::dense(&self.weights, layer.n_features(), read.width);
        let choices: Vec<Mutex<Choice>> = passed.iter().map(|_| Mutex::default()).collect();
        cpu.for_each(passed.len(), |row| {
            let numbers: Vec<u32> = passed[row].iter().map(|(number, _)| *number).collect();
            let mut h = vec![0.0; numbers.len()];
            cpu.chosen_outputs(read.rows(row..row + 1).row(0), weights, &numbers, &mut h);
            let numbered = numbers.iter().zip(h).map(|(number, h)| {
                let number = *number as usize;
                let h = layer.encoder_bias.get(number).map_or(h, |bias| h + bias);
                (number, read.norms.get(number).map_or(h, |norm| h * norm))
            });
            let mut choice = choices[row].lock().unwrap_or_else(PoisonError::into_inner);
            choice.take(&layer.activation, layer.n_features(), numbered);
        });
        choices
            .into_iter()
            .map(|choice| choice.into_inner().unwrap_or_else(PoisonError::into_inner))
            .collect()
    }
}

/// What rounding a bias's sum and a product by a norm may cost, per h: a few halves of the last place.
const ROUNDED: f32 = 1.0 / (1 << 21) as f32;

impl Reach {
    /// ‖x − its bf16‖·‖w‖ + ‖its bf16‖·‖w − its bf16‖, by Cauchy and Schwarz; and for the rounding of n sums, in f32 and
    /// in bf16's product, n halves of the last place each of ‖x‖·‖w‖, taken twice.
    fn of(x: &[f32]) -> Reach {
        let (norm, lost) = norms_of(x);
        let sums = x.len() as f32 * 4.0 / (1 << 24) as f32;
        Reach { norm: (lost + sums * norm) * ABOVE, lost: (norm + lost) * ABOVE }
    }

    fn at(self, norm: f32, lost: f32) -> f32 {
        // Products below the least normal number may be taken as 0.
        (self.norm * norm + self.lost * lost) * ABOVE + 1e-30
    }
}

/// A little more than 1, for what rounding takes off a bound.
const ABOVE: f32 = 1.0 + 1.0 / (1 << 16) as f32;

/// ‖x‖ and ‖x − its bf16‖, rounded up.
fn norms_of(x: &[f32]) -> (f32, f32) {
    let (mut norm, mut lost) = (0.0f64, 0.0f64);
    for x in x {
        let missed = f64::from(*x) - f64::from(nearest_bf16(*x));
        norm += f64::from(*x) * f64::from(*x);
        lost += missed * missed;
    }
    ((norm.sqrt() as f32) * ABOVE, (lost.sqrt() as f32) * ABOVE)
}

impl Passed {
    /// Takes the outputs of the features from `first` on, each at most `widest` from its exact one, and at most its own
    /// `bound`.
    fn take(
        &mut self,
        activation: &Activation,
        first: usize,
        h: &[f32],
        widest: f32,
        bound: impl Fn(usize, f32) -> f32,
    ) {
        match activation {
            Activation::TopK { k } => {
                let mut limit = self.limit(*k);
                for (i, h) in h.iter().enumerate() {
                    // What is not finite passes too.
                    if h + widest + h.abs() * ROUNDED < limit {
                        continue;
                    }
                    let bound = bound(first + i, *h);
                    if h + bound < limit {
                        continue;
                    }
                    self.features.push(((first + i) as u32, h + bound));
                    keep_best(&mut self.least, *k, h - bound, |a, b| a < b);
                    limit = self.limit(*k);
                }
            }
            Activation::JumpRelu { threshold } => {
                for ((i, h), threshold) in h.iter().enumerate().zip(&threshold[first..]) {
                    let limit = threshold.max(0.0);
                    if h + widest + h.abs() * ROUNDED < limit || h + bound(first + i, *h) < limit {
                        continue;
                    }
                    self.features.push(((first + i) as u32, f32::INFINITY));
                }
            }
            _ => {
                for (i, h) in h.iter().enumerate() {
                    if h + widest + h.abs() * ROUNDED < 0.0 || h + bound(first + i, *h) < 0.0 {
                        continue;
                    }
                    self.features.push(((first + i) as u32, f32::INFINITY));
                }
            }
        }
    }

    /// What a feature must reach to be among the k largest and above 0.
    fn limit(&self, k: usize) -> f32 {
        self.least.first().filter(|_| self.least.len() >= k).map_or(0.0, |least| least.max(0.0))
    }

    /// Drops features that later ones have shown not to be among the k largest.
    fn drop_the_weak(&mut self) {
        // Fewer than k are held only where no more have passed.
        if let Some(limit) = self.least.first().copied() {
            self.features.retain(|(_, most)| most.partial_cmp(&limit) != Some(std::cmp::Ordering::Less));
        }
    }
}
