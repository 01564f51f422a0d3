//! Converts what a run kept to and from Python.

use easyroutine::cache::{ActivationCache, Axis, Content, Kept, Numbers as KeptNumbers};
use easyroutine::positions::Selection;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::dlpack::Numbers;
use crate::errors::Failure;
use crate::tensor::Tensor;

/// A cache as a dictionary: `entries` (key, value, remarks); `indices` and `groups` of the selected tokens, and the
/// same for the rows of patterns where they differ; and whether T counts `groups`.
pub(crate) fn to_python<'py>(py: Python<'py>, cache: ActivationCache) -> PyResult<Bound<'py, PyDict>> {
    let result = PyDict::new(py);
    result.set_item("selection", selection(&cache.selection))?;
    result.set_item("pattern_rows", cache.pattern_rows.as_ref().map(selection))?;
    result.set_item("averaged", cache.axis == Axis::Groups)?;
    let entries = PyList::empty(py);
    for (key, entry) in cache.into_items() {
        if let Content::Activation(kept) = entry.content {
            entries.append((key.to_string(), value(py, kept)?, entry.info))?;
        }
    }
    result.set_item("entries", entries)?;
    Ok(result)
}

/// The indices of each row and the columns of each specifier.
pub(crate) type Rows = Vec<(Vec<usize>, Vec<(usize, usize)>)>;

pub(crate) fn selection(selection: &Selection) -> Rows {
    let row = |row: &easyroutine::positions::Selected| {
        (row.indices.clone(), row.groups.iter().map(|group| (group.start, group.end)).collect())
    };
    selection.rows.iter().map(row).collect()
}

/// One tensor, or a list with one per row where rows differ in length.
pub(crate) fn value<'py>(py: Python<'py>, kept: Kept) -> PyResult<Bound<'py, PyAny>> {
    if let Some(shape) = kept.shape() {
        return Tensor::new(numbers(kept.into_data()), shape).into_bound_py_any(py);
    }
    let offsets = kept.offsets();
    let list = PyList::empty(py);
    for (span, shape) in offsets.windows(2).zip(&kept.row_shapes) {
        let row = match &kept.data {
            KeptNumbers::F32(all) => Numbers::F32(all[span[0]..span[1]].to_vec()),
            KeptNumbers::I64(all) => Numbers::I64(all[span[0]..span[1]].to_vec()),
        };
        list.append(Tensor::new(row, shape.clone()).into_bound_py_any(py)?)?;
    }
    Ok(list.into_any())
}

fn numbers(data: KeptNumbers) -> Numbers {
    match data {
        KeptNumbers::F32(values) => Numbers::F32(values),
        KeptNumbers::I64(values) => Numbers::I64(values),
    }
}

/// A value from Python: one tensor `[B, ...]`, or a list with one per row.
pub(crate) fn kept(key: &str, value: &Bound<'_, PyAny>) -> Result<Kept, Failure> {
    let of_type = |value: &Bound<'_, PyAny>| {
        value.cast::<Tensor>().ok().map(|t| (t.get().floats(), t.get().shape.clone()))
    };
    let wrong = || Failure::input(format!("`{key}` is neither a tensor nor a list of one a row"));
    if let Some((values, shape)) = of_type(value) {
        let (rows, rest) =
            shape.split_first().ok_or_else(|| Failure::input(format!("`{key}` has no axes")))?;
        return Ok(Kept::f32(values, vec![rest.to_vec(); *rows]));
    }
    let list = value.cast::<PyList>().map_err(|_| wrong())?;
    let (mut all, mut row_shapes) = (Vec::new(), Vec::new());
    for row in list.iter() {
        let (values, shape) = of_type(&row).ok_or_else(wrong)?;
        all.extend(values);
        row_shapes.push(shape);
    }
    Ok(Kept::f32(all, row_shapes))
}
