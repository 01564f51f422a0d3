//! Shared helpers for finding a block's weights.

use crate::error::{Error, ErrorKind, Result};
use crate::names::Linear;
use crate::weights::{Loader, Projection};

/// Gate and up in one product, from separate projections; `factor` scales the gate.
pub(super) fn gate_up(
    loader: &Loader<'_>,
    prefix: &str,
    ([gate, up], factor): ([Linear; 2], Option<f32>),
    d_mlp: usize,
    d_model: usize,
) -> Result<Projection> {
    if factor.is_some() {
        let name = format!("{prefix}{}.weight", gate.name);
        loader.checkpoint.widens(loader.base, &name, "multiplied by a factor of the config");
    }
    let gate = loader.part(prefix, gate, d_mlp, d_model)?.times(factor);
    let parts = vec![gate, loader.part(prefix, up, d_mlp, d_model)?];
    Ok(loader.gated(parts, d_model, d_mlp, move |n| (n / d_mlp, n % d_mlp)))
}

/// A family described a module without naming its tensors: a bug in `families/`, not in a file.
pub(super) fn unnamed(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the family describes {what} but names no tensors for it"))
}
