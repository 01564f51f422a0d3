//! Interventions, from the Python dataclass to the engine's.

use easyroutine::edit::{Edits, Intervention, Operation, Part, Rescaled, Tensor as Values, activation};
use easyroutine::positions::{Context, Row};
use easyroutine_app::record;
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use serde_json::Value;

use crate::dlpack::Numbers;
use crate::errors::Failure;
use crate::hooks::HookInput;
use crate::model::specifiers;
use crate::tensor::Tensor;

/// An intervention as `easyroutine/interpretability/interventions.py` writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct InterventionInput {
    /// `full`, `columns`, ...
    r#type: String,
    /// A key, or a pattern of keys.
    activation: String,
    /// As JSON; of a grid the queries.
    positions: String,
    /// As JSON: the keys of a grid.
    columns: Option<String>,
    /// Whether changed rows of a pattern are divided by their sums.
    rescaled: bool,
    /// `scale`, `replace`, `mean`, `add`, `resample`.
    operation: String,
    /// Of `scale` and `add`.
    factor: f32,
    /// Of `replace`, `mean` and `add`.
    values: Option<Py<Tensor>>,
    /// Of `resample`.
    row: Option<usize>,
}

impl InterventionInput {
    fn read(&self) -> Result<Intervention, Failure> {
        let place = |e: easyroutine::Error| e.at(format_args!("edit of `{}`", self.activation));
        let (activation, entries) = activation(&self.activation).map_err(place)?;
        let columns = self.columns.as_deref().map(specifiers).transpose()?;
        let rescaled = if self.rescaled { Rescaled::Yes } else { Rescaled::No };
        let part =
            Part::of_type(&self.r#type, specifiers(&self.positions)?, columns, rescaled).map_err(place)?;
        let values = || {
            let tensor = self.values.as_ref().ok_or_else(|| {
                Failure::input(format!("edit of `{}`: `{}` needs values", self.activation, self.operation))
            })?;
            let tensor = tensor.get();
            Ok::<_, Failure>(Values::new("patching_values", &tensor.shape, tensor.floats())?)
        };
        let operation = match self.operation.as_str() {
            "scale" => Operation::Scale(self.factor),
            "replace" => Operation::Replace(values()?),
            "mean" => Operation::Mean(values()?),
            "add" => Operation::Add { factor: self.factor, values: values()? },
            "resample" => Operation::Resample { row: self.row.unwrap_or(0) },
            other => return Err(Failure::input(format!("no operation `{other}`"))),
        };
        Ok(Intervention { activation, entries, part, operation })
    }
}

/// An intervention as a run keeps it, in the spelling of every face: its fields as JSON, and its values.
pub(crate) fn recorded(written: &InterventionInput) -> Result<(String, Option<Tensor>), Failure> {
    let intervention = written.read()?;
    let values = match &intervention.operation {
        Operation::Replace(values) | Operation::Mean(values) | Operation::Add { values, .. } => Some(values),
        Operation::Scale(_) | Operation::Set(_) | Operation::Resample { .. } => None,
    };
    let tensor = values.map(|x| Tensor::new(Numbers::F32(x.values().to_vec()), x.shape().to_vec()));
    Ok((Value::Object(record::fields(&intervention)).to_string(), tensor))
}

/// Interventions, read.
pub(crate) fn read(written: &[InterventionInput]) -> Result<Vec<Intervention>, Failure> {
    written.iter().map(InterventionInput::read).collect()
}

/// What is changed while a model runs, in words for pictures.
pub(crate) fn described(interventions: &[Intervention], hooks: &[HookInput]) -> Vec<String> {
    let of_hooks = hooks.iter().map(|(site, ..)| format!("a function at {site}"));
    interventions.iter().map(ToString::to_string).chain(of_hooks).collect()
}

/// Whether one of these says what becomes of single rows of a batch.
pub(crate) fn speak_of_rows(written: &[InterventionInput]) -> Result<bool, Failure> {
    Ok(read(written)?.iter().any(Intervention::speaks_of_rows))
}

/// Interventions checked against a model and its rows. What is odd about them is warned of.
pub(crate) fn checked(
    py: Python<'_>,
    interventions: &[Intervention],
    model: &easyroutine::Model,
    rows: &[Row<'_>],
    context: Context<'_>,
) -> Result<Edits, Failure> {
    let edits = Edits::new(interventions, model.arch(), rows, context)?;
    for warning in edits.warnings() {
        let warnings = py.import("warnings").map_err(Failure::Python)?;
        let category = py.get_type::<PyUserWarning>();
        warnings.call_method1("warn", (warning, category, 4)).map_err(Failure::Python)?;
    }
    Ok(edits)
}
