//! `--layers`: `emb,0:30:5,-1` to layer numbers, -1 the embedding.

use crate::failure::Failure;

/// Layers in the order of the model, each once. Without a text: all, the embedding first.
///
/// # Errors
/// A word that is no layer, or a layer that the model does not have.
pub(crate) fn parse(text: Option<&str>, n_layers: usize) -> Result<Vec<i64>, Failure> {
    let Some(text) = text else { return Ok((-1..n_layers as i64).collect()) };
    easyroutine::sites::layers(text, n_layers).map_err(|error| {
        Failure::usage(format!("--layers: {error}"))
            .hint("layers are `emb`, 5, -1 (the last), 4:9 (4 to 8), 0:30:5 (every fifth), joined by commas")
    })
}
