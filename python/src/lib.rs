//! The native half of the Python package `easyroutine`: the module `easyroutine._core`.
//!
//! What a user sees is written in Python, in `easyroutine/`. Here stands what needs the engine: models, tokenizers,
//! lenses, pictures and the memory of tensors. Configurations and positions come in as JSON, in the spelling that the
//! engine reads everywhere; numbers go out as [`tensor::Tensor`].

mod cache;
mod dlpack;
mod edits;
mod errors;
mod generate;
mod hooks;
mod interrupt;
mod lens;
mod model;
mod patching;
mod report;
mod source;
mod store;
mod tensor;
mod tokenizer;

use easyroutine::positions::{Context, Selection};
use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::lens::Lens;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::report::Report;
    #[pymodule_export]
    use super::store::{Found, Loader, Saver};
    #[pymodule_export]
    use super::tensor::Tensor;
    #[pymodule_export]
    use super::tokenizer::Tokenizer;

    /// Tells the engine that this process was just forked off another.
    #[pyfunction]
    fn forked() {
        easyroutine::forked();
    }

    /// The fields of an extraction configuration that ask for an activation, with what each gives.
    #[pyfunction]
    fn sites() -> Vec<(&'static str, &'static str, &'static str)> {
        let sites = easyroutine::sites::Site::ALL.iter();
        sites.map(|site| (site.flag(), site.name(), site.axes())).collect()
    }

    /// For each row of ids its selected indices and the columns of each specifier.
    #[pyfunction]
    #[pyo3(signature = (rows, positions, *, pivots=Vec::new(), special=Vec::new(), seed=0, first_row=0))]
    fn select(
        rows: Vec<model::RowInput>,
        positions: &str,
        pivots: Vec<i64>,
        special: Vec<u32>,
        seed: u64,
        first_row: usize,
    ) -> Result<cache::Rows, errors::Failure> {
        let specifiers = model::specifiers(positions)?;
        let context = Context { special: &special, pivots: &pivots, seed };
        Ok(cache::selection(&Selection::of(&specifiers, &model::views(&rows, first_row), context)?))
    }

    /// The `k` most likely ids of logits `[V]` with their probabilities, ties to the lower id.
    #[pyfunction]
    fn most_likely(logits: &Bound<'_, Tensor>, k: usize) -> Vec<(usize, f64)> {
        let logits = logits.get().floats();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(*x - most).exp()).sum();
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        ids.into_iter().take(k).map(|id| (id, f64::from(logits[id] - most).exp() / sum)).collect()
    }

    /// How a number of bytes is shown.
    #[pyfunction]
    fn readable(bytes: usize) -> String {
        easyroutine::cache::readable(bytes as u64)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
