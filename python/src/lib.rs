//! The native half of the Python package `easyroutine`: the module `easyroutine._core`.
//!
//! What a user sees is written in Python, in `easyroutine/`. Here stands what needs the engine: models, tokenizers,
//! lenses, pictures and the memory of tensors. Configurations and positions come in as JSON, in the spelling that the
//! engine reads everywhere; numbers go out as [`tensor::Tensor`].

// The tests are Python's, and what only Python can load does not link as a program of tests.
#![cfg(not(test))]

mod attention;
mod attribution;
mod cache;
mod checkpoints;
mod comparison;
mod dictionary;
mod directions;
mod dla;
mod dlpack;
mod edges;
mod edits;
mod errors;
mod extract;
mod filling;
mod generate;
mod gradients;
mod graph;
mod grid;
mod hooks;
mod interrupt;
mod lens;
mod model;
mod patching;
mod report;
mod source;
mod store;
mod stored_run;
mod tensor;
mod tokenizer;

use easyroutine::positions::{Context, Selection};
use pyo3::prelude::*;

#[pymodule]
mod _core {
    use super::*;

    #[pymodule_export]
    use super::attention::Attention;
    #[pymodule_export]
    use super::attribution::AttributionSums;
    #[pymodule_export]
    use super::checkpoints::{checkpoints_page, compare_checkpoints};
    #[pymodule_export]
    use super::dictionary::Dictionary;
    #[pymodule_export]
    use super::directions::Directions;
    #[pymodule_export]
    use super::filling::OpenRun;
    #[pymodule_export]
    use super::graph::AttributionGraph;
    #[pymodule_export]
    use super::lens::Lens;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::report::Report;
    #[pymodule_export]
    use super::store::{Found, Loader, Saver};
    #[pymodule_export]
    use super::stored_run::Run;
    #[pymodule_export]
    use super::tensor::Tensor;
    #[pymodule_export]
    use super::tokenizer::Tokenizer;

    /// Runs a command line, whose first word is the program's name, and returns its exit status. The caller must have
    /// restored the system's handler for Ctrl-C: the command watches for it itself.
    #[pyfunction]
    fn command(py: Python<'_>, words: Vec<std::ffi::OsString>) -> u8 {
        py.detach(|| easyroutine_cli::main(words))
    }

    /// Tells the engine that this process was just forked.
    #[pyfunction]
    fn forked() {
        easyroutine::forked();
    }

    /// The extraction-configuration fields that request an activation, with what each gives.
    #[pyfunction]
    fn sites() -> Vec<(&'static str, &'static str, &'static str)> {
        let sites = easyroutine::sites::Site::ALL.iter();
        sites.map(|site| (site.flag(), site.name(), site.axes())).collect()
    }

    /// For each row of ids the selected indices and the columns of each specifier.
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

    /// The `k` most likely ids of logits `[V]` with their probabilities; ties go to the lower id.
    #[pyfunction]
    fn most_likely(logits: &Bound<'_, Tensor>, k: usize) -> Vec<(usize, f64)> {
        let logits = logits.get().floats();
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|x| f64::from(*x - most).exp()).sum();
        let mut ids: Vec<usize> = (0..logits.len()).collect();
        ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        ids.into_iter().take(k).map(|id| (id, f64::from(logits[id] - most).exp() / sum)).collect()
    }

    /// Whether an intervention treats single rows of a batch differently; a data set then keeps its batches.
    #[pyfunction]
    fn speak_of_rows(interventions: Vec<edits::InterventionInput>) -> Result<bool, errors::Failure> {
        edits::speak_of_rows(&interventions)
    }

    /// An intervention as a run stores it: its fields as JSON, and its values.
    #[pyfunction]
    fn recorded(intervention: edits::InterventionInput) -> Result<(String, Option<Tensor>), errors::Failure> {
        edits::recorded(&intervention)
    }

    /// Parses layers such as `emb,0:30:5,-1`; -1 is the embedding.
    #[pyfunction]
    fn layers(text: &str, n_layers: usize) -> Result<Vec<i64>, errors::Failure> {
        Ok(easyroutine::sites::layers(text, n_layers).map_err(easyroutine::Error::from)?)
    }

    /// A circuit in one format; see `edges::draw`.
    #[pyfunction]
    #[pyo3(signature = (circuit, format, *, width=100, most=20))]
    fn draw_circuit<'py>(
        py: Python<'py>,
        circuit: &str,
        format: &str,
        width: usize,
        most: usize,
    ) -> Result<Bound<'py, pyo3::types::PyBytes>, errors::Failure> {
        Ok(pyo3::types::PyBytes::new(py, &edges::draw(circuit, format, width, most)?))
    }

    /// A grid of effects as `html`, `svg`, `png`, `csv`, `markdown` or `terminal`.
    #[pyfunction]
    #[pyo3(signature = (grid, format, *, width=100, colour=false))]
    fn draw_grid<'py>(
        py: Python<'py>,
        grid: grid::GridInput,
        format: &str,
        width: usize,
        colour: bool,
    ) -> Result<Bound<'py, pyo3::types::PyBytes>, errors::Failure> {
        let drawn = py.detach(|| grid::draw(grid, format, width, colour))?;
        Ok(pyo3::types::PyBytes::new(py, &drawn))
    }

    /// The folder of the store that the environment names.
    #[pyfunction]
    fn base_from_env() -> Result<String, errors::Failure> {
        store::base_from_env()
    }

    /// A unique name for a run.
    #[pyfunction]
    fn fresh_name() -> String {
        easyroutine_store::fresh_name()
    }

    /// Formats a number of bytes.
    #[pyfunction]
    fn readable(bytes: usize) -> String {
        easyroutine::cache::readable(bytes as u64)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
