//! Parts of a config that families with recurrences read the same way.

use super::parts::pre_norm;
use crate::arch::*;
use crate::config::{Config, LARGEST_SIZE};
use crate::error::Result;

/// A block that is a recurrence alone.
pub(super) fn alone(recurrence: Recurrence, norm: Norm) -> Layer {
    mixed(recurrence, None, norm)
}

/// A block of a recurrence and an MLP, each after a norm.
pub(super) fn mixed(recurrence: Recurrence, mlp: Option<Mlp>, norm: Norm) -> Layer {
    let (attention, factors) = (None, Factors::default());
    Layer { attention, recurrence: Some(recurrence), mlp, wiring: pre_norm(norm), factors }
}

/// A gate without a norm beside it.
pub(super) fn ungated(act: Option<Activation>) -> Gate {
    Gate { act, norm: GateNorm::None }
}

/// The width of the stream times the number under `key`, cut to a whole number.
pub(super) fn expanded(config: &Config, key: &str, default: f64, d_model: usize) -> Result<usize> {
    let width = (config.positive_or(key, default)? * d_model as f64).floor();
    if (1.0..=LARGEST_SIZE as f64).contains(&width) {
        return Ok(width as usize);
    }
    Err(config.wrong(key, "a factor that gives a width from 1 to 2^28"))
}
