//! Python functions at sites.

use std::collections::BTreeSet;

use easyroutine::edit::check_access;
use easyroutine::sites::{Point, Selector, Site};
use easyroutine::{Error, ErrorKind, Tap, Value, Want};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::cache;
use crate::errors::Failure;
use crate::tensor::Tensor;

/// A hook from Python: a pattern of keys, the function, and whether it only reads.
pub(crate) type HookInput = (String, Py<PyAny>, bool);

/// Calls functions with the values at their points and replaces the values with what they return.
pub(crate) struct Hooks {
    hooks: Vec<Hook>,
    raised: Option<PyErr>,
}

struct Hook {
    points: BTreeSet<Point>,
    function: Py<PyAny>,
    want: Want,
}

impl Hooks {
    pub(crate) fn new(model: &easyroutine::Model, hooks: Vec<HookInput>) -> Result<Self, Failure> {
        let mut found = Vec::with_capacity(hooks.len());
        for (pattern, function, reads) in hooks {
            let selector: Selector = pattern.parse().map_err(Error::from)?;
            let points = model.arch().named(&selector)?;
            let points: BTreeSet<Point> = points.into_iter().map(Point::canonical).collect();
            if points.iter().any(|point| matches!(point.site(), Site::InputIds)) {
                return Err(Failure::input(
                    "`input_ids` are what the caller gives: there is nothing to hook",
                ));
            }
            found.push(Hook { points, function, want: if reads { Want::Read } else { Want::Edit } });
        }
        Ok(Hooks { hooks: found, raised: None })
    }

    /// The error of a run: the exception that a function raised, if that ended the run.
    pub(crate) fn failure(&mut self, failure: Failure) -> Failure {
        self.raised.take().map_or(failure, Failure::Python)
    }
}

impl Hook {
    fn call(&self, py: Python<'_>, point: Point, value: &mut Value<'_>) -> PyResult<()> {
        let given = rows_of(py, value)?;
        let handed = py.import("easyroutine.tensors")?.call_method1("handed_out", (&given,))?;
        let returned = self.function.call1(py, (&handed, point.to_string()))?;
        if self.want == Want::Read {
            if returned.is_none(py) {
                return Ok(());
            }
            return Err(Failure::input(format!(
                "hook at `{point}`: it was registered with read_only=True, so it must return None"
            ))
            .into());
        }
        let changed = if returned.is_none(py) { handed } else { returned.into_bound(py) };
        let read = py.import("easyroutine.tensors")?.getattr("rows_of_hook")?;
        let changed = read.call1((changed, point.to_string()))?;
        put(value, &changed, &given, point)
    }
}

impl Tap for Hooks {
    fn wants(&self, point: Point) -> Want {
        let here = self.hooks.iter().filter(|hook| hook.points.contains(&point));
        here.map(|hook| hook.want).max().unwrap_or(Want::Nothing)
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<(), Error> {
        for hook in self.hooks.iter().filter(|hook| hook.points.contains(&point)) {
            if let Err(raised) = Python::attach(|py| hook.call(py, point, value)) {
                self.raised = Some(raised);
                return Err(Error::new(ErrorKind::Interrupted, "a hook raised an error"));
            }
        }
        Ok(())
    }
}

/// The values at a point: one tensor `[B, S, ...]`, or a list with one per row where rows differ.
fn rows_of<'py>(py: Python<'py>, value: &Value<'_>) -> PyResult<Bound<'py, PyAny>> {
    let batch = value.batch();
    let (mut numbers, mut shapes) = (Vec::new(), Vec::new());
    for row in 0..batch.n_rows() {
        if let Some(vector) = value.of_row(row) {
            shapes.push(vec![vector.len()]);
            numbers.extend_from_slice(vector);
            continue;
        }
        let matrix = value.matrix(row).ok_or_else(|| {
            Failure::input("a hook sees every token of a row, and this run computed only some of them")
        })?;
        shapes.push(vec![matrix.n_rows(), matrix.n_columns()]);
        (0..matrix.n_rows()).for_each(|token| numbers.extend_from_slice(matrix.row(token)));
    }
    cache::value(py, easyroutine::cache::Kept::f32(numbers, shapes))
}

/// Writes numbers back where they differ.
fn put(
    value: &mut Value<'_>,
    changed: &Bound<'_, PyAny>,
    given: &Bound<'_, PyAny>,
    point: Point,
) -> PyResult<()> {
    let (returned, expected) = (shapes(changed), shapes(given));
    if returned != expected {
        let message = format!("hook at `{point}`: it returned {} for {}", named(&returned), named(&expected));
        return Err(Failure::input(message).into());
    }
    let kept = cache::kept("what a hook returned", changed)?;
    let numbers = kept.rows().map(<[f32]>::to_vec).collect::<Vec<_>>();
    for (row, numbers) in numbers.iter().enumerate() {
        let Some(mut matrix) = value.matrix_mut(row) else { continue };
        for (token, vector) in numbers.chunks_exact(matrix.n_columns().max(1)).enumerate() {
            let target = matrix.row_mut(token);
            let differs = target.iter().zip(vector).any(|(old, new)| old.to_bits() != new.to_bits());
            // No intervention changes logits, but a hook may.
            if differs && point.site() != Site::Logits {
                check_access(point.site()).map_err(Failure::from)?;
            }
            target.copy_from_slice(vector);
        }
    }
    Ok(())
}

/// The shape of a tensor, or of each in a list; `None` for anything else.
fn shapes(value: &Bound<'_, PyAny>) -> Vec<Option<Vec<usize>>> {
    let shape = |value: &Bound<'_, PyAny>| value.cast::<Tensor>().map(|t| t.get().shape.clone()).ok();
    match value.cast::<PyList>() {
        Ok(list) => list.iter().map(|one| shape(&one)).collect(),
        Err(_) => vec![shape(value)],
    }
}

/// Shapes as errors name them.
fn named(shapes: &[Option<Vec<usize>>]) -> String {
    let one = |shape: &Option<Vec<usize>>| match shape {
        Some(shape) => format!("{shape:?}"),
        None => "no tensor".to_owned(),
    };
    match shapes {
        [only] => one(only),
        several => format!("rows of [{}]", several.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}
