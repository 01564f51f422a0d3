//! A run of a store, read only as far as requested.

use easyroutine::sites::Point;
use easyroutine_store::{self as store, Kind, Loaded};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::Value as Json;

use crate::errors::Failure;
use crate::store::failure;

/// A run that was found.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Run {
    run: store::Run,
}

/// Type, shape, kind, numbers and offsets of a stored tensor.
type Read<'py> = (String, Vec<usize>, &'static str, Bound<'py, PyBytes>, Vec<i64>);

#[pymethods]
impl Run {
    /// `experiment/model/time`, below the store.
    #[getter]
    fn path(&self) -> &str {
        self.run.path()
    }

    /// Name, type, shape and kind of each tensor, in the order saved.
    fn tensors(&self) -> Vec<(String, String, Vec<usize>, &'static str)> {
        let manifest = self.run.manifest();
        let entry = |entry: &store::TensorEntry| {
            (entry.name.clone(), entry.dtype.to_string(), manifest.shape(entry), kind(entry.kind))
        };
        manifest.tensors.iter().map(entry).collect()
    }

    /// The values saved beside the tensors, as JSON.
    fn values(&self) -> String {
        Json::Object(self.run.manifest().values.clone()).to_string()
    }

    /// The record, as JSON.
    fn record(&self) -> String {
        Json::Object(self.run.metadata().fields().clone()).to_string()
    }

    /// Names of the tensors of one layer.
    fn of_layer(&self, layer: usize) -> Vec<String> {
        let is_of_layer = |name: &&str| name.parse::<Point>().is_ok_and(|point| point.layer() == Some(layer));
        self.run.names().filter(is_of_layer).map(str::to_owned).collect()
    }

    /// A whole tensor.
    fn read<'py>(&self, py: Python<'py>, name: &str) -> Result<Read<'py>, Failure> {
        let loaded = py.detach(|| self.run.read(name)).map_err(failure)?;
        read(py, &loaded)
    }

    /// Some examples of a tensor.
    fn read_rows<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        start: usize,
        stop: usize,
    ) -> Result<Read<'py>, Failure> {
        let loaded = py.detach(|| self.run.read_rows(name, start..stop)).map_err(failure)?;
        read(py, &loaded)
    }
}

impl Run {
    pub(crate) fn new(run: store::Run) -> Self {
        Run { run }
    }
}

fn read<'py>(py: Python<'py>, loaded: &Loaded) -> Result<Read<'py>, Failure> {
    let bytes = PyBytes::new(py, &loaded.bytes);
    // The copy counts only if the file is still whole afterwards.
    loaded.check_unchanged().map_err(failure)?;
    Ok((loaded.dtype.to_string(), loaded.shape.clone(), kind(loaded.kind), bytes, loaded.offsets.clone()))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Dense => "dense",
        Kind::Rows => "rows",
        Kind::RaggedNd => "ragged_nd",
        Kind::Object => "object",
    }
}
