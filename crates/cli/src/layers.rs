//! Parses `--layers`: `emb,0:30:5,-1` to layer numbers, with -1 for the embedding.

use crate::failure::Failure;

/// Layers in model order, each once; `None` means all, with the embedding first.
///
/// # Errors
/// If a word is not a layer, or the model lacks the layer.
pub(crate) fn parse(text: Option<&str>, n_layers: usize) -> Result<Vec<i64>, Failure> {
    let Some(text) = text else { return Ok((-1..n_layers as i64).collect()) };
    easyroutine::sites::layers(text, n_layers).map_err(|error| {
        Failure::usage(format!("--layers: {error}"))
            .hint("layers are `emb`, 5, -1 (the last), 4:9 (4 to 8), 0:30:5 (every fifth), joined by commas")
    })
}
