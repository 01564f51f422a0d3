//! Rotary tables.

use super::Pairing;

/// One rotary table.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// The first column of a head that rotates.
    pub first: usize,
    /// The width whose frequencies these are: the columns of a head that rotate, or one less if odd.
    pub rotary_dim: usize,
    /// Which columns rotate together.
    pub pairing: Pairing,
    /// The direction of rotation.
    pub turn: Turn,
    /// How frequencies are scaled beyond the trained length.
    pub scaling: RopeScaling,
}

impl Rope {
    /// Pairs of columns that rotate. With an odd width the last pair takes one column more, as in transformers.
    pub fn pairs(&self) -> usize {
        self.rotary_dim.div_ceil(2)
    }
}

/// Direction of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// `(x cos - y sin, y cos + x sin)`
    Forward,
    /// `(x cos + y sin, y cos - x sin)`
    Backward,
}

/// Frequency scaling (all formulas: `transformers/modeling_rope_utils.py`).
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// Divisor of the frequencies.
        factor: f64,
    },
    /// NTK-aware: the base grows with the row's own length beyond `original`.
    Dynamic {
        /// Growth of the base.
        factor: f64,
        /// Length up to which nothing changes.
        original: usize,
    },
    /// Llama 3: low frequencies divided by `factor`, with a smooth transition band.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are unchanged.
        high_freq_factor: f64,
        /// Context for which the frequencies were trained.
        original: usize,
    },
    /// YaRN (arXiv:2309.00071).
    Yarn {
        /// Divisor of the interpolated frequencies.
        factor: f64,
        /// Rotations above which a dimension extrapolates.
        beta_fast: f64,
        /// Rotations below which a dimension interpolates.
        beta_slow: f64,
        /// Context for which the frequencies were trained.
        original: usize,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Whether the bounds of the ramp are rounded to whole dimensions.
        bounds: RampBounds,
    },
    /// Only the first pairs rotate, with the frequencies of a fully rotating head.
    Proportional {
        /// How many pairs rotate.
        pairs: usize,
    },
    /// LongRoPE (arXiv:2402.13753): one factor per frequency, chosen by the row's own length.
    LongRope {
        /// Divisors for rows up to `original` tokens.
        short: Vec<f64>,
        /// Divisors for longer rows.
        long: Vec<f64>,
        /// Length up to which a row counts as short.
        original: usize,
        /// Factor on cos and sin.
        attention_factor: f64,
    },
}

/// Bounds of YaRN's ramp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RampBounds {
    /// Rounded outwards to whole dimensions (`truncate: true`, the default).
    Whole,
    /// As computed.
    Exact,
}
