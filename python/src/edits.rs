//! Interventions: from the Python dataclass to the engine's.

use easyroutine::arch::Arch;
use easyroutine::edit::{Edits, Intervention, Operation, Part, Rescaled, Tensor as Values, activation};
use easyroutine::positions::{Context, Row};
use easyroutine_app::record;
use easyroutine_dictionaries::{Dictionaries, FeatureChange, FeatureEdits, FeatureOperation};
use pyo3::exceptions::PyUserWarning;
use pyo3::prelude::*;
use serde_json::Value;

use crate::dictionary::{Dictionary, added};
use crate::dlpack::Numbers;
use crate::errors::Failure;
use crate::hooks::HookInput;
use crate::model::specifiers;
use crate::tensor::Tensor;

/// An intervention as `easyroutine/interpretability/interventions.py` writes it.
#[derive(FromPyObject)]
pub(crate) enum InterventionInput {
    /// A change of an activation.
    #[pyo3(transparent)]
    Activation(ActivationInput),
    /// A change of features.
    #[pyo3(transparent)]
    Features(FeatureInput),
}

/// A change of features.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct FeatureInput {
    dictionary: Py<Dictionary>,
    /// Layers by their number in the dictionary.
    layers: Vec<usize>,
    /// `None` means all.
    feature: Option<usize>,
    /// `set`, `scale`, `steer`, `splice`, `keep_error`.
    operation: String,
    /// For `set`, `scale` and `steer`.
    value: f32,
    /// As JSON.
    positions: String,
}

/// A change of an activation.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct ActivationInput {
    /// `full`, `columns`, ...
    r#type: String,
    /// A key, or a pattern of keys.
    activation: String,
    /// As JSON; for a grid, the queries.
    positions: String,
    /// As JSON: the keys of a grid.
    columns: Option<String>,
    /// Whether changed rows of a pattern are divided by their sums.
    rescaled: bool,
    /// `scale`, `replace`, `mean`, `add`, `resample`.
    operation: String,
    /// For `scale` and `add`.
    factor: f32,
    /// For `replace`, `mean` and `add`.
    values: Option<Py<Tensor>>,
    /// For `resample`.
    row: Option<usize>,
}

impl ActivationInput {
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

/// An intervention as a run stores it, spelled the same way everywhere: its fields as JSON, and its values.
pub(crate) fn recorded(written: &InterventionInput) -> Result<(String, Option<Tensor>), Failure> {
    let InterventionInput::Activation(written) = written else {
        return Err(Failure::input("a change of features is not recorded in a run"));
    };
    let intervention = written.read()?;
    let values = match &intervention.operation {
        Operation::Replace(values) | Operation::Mean(values) | Operation::Add { values, .. } => Some(values),
        Operation::Scale(_) | Operation::Set(_) | Operation::Resample { .. } => None,
    };
    let tensor = values.map(|x| Tensor::new(Numbers::F32(x.values().to_vec()), x.shape().to_vec()));
    Ok((Value::Object(record::fields(&intervention)).to_string(), tensor))
}

/// What changes while a model runs: activations, then features.
pub(crate) struct Changes {
    pub(crate) interventions: Vec<Intervention>,
    features: Vec<FeatureChange>,
    dictionaries: Dictionaries,
}

/// Reads changes for a model.
pub(crate) fn read(written: &[InterventionInput], arch: &Arch) -> Result<Changes, Failure> {
    let mut changes =
        Changes { interventions: Vec::new(), features: Vec::new(), dictionaries: Dictionaries::default() };
    for one in written {
        match one {
            InterventionInput::Activation(one) => changes.interventions.push(one.read()?),
            InterventionInput::Features(one) => changes.add(one, arch)?,
        }
    }
    Ok(changes)
}

/// Reads changes where features may not be changed; `what` says why.
pub(crate) fn read_activations(
    written: &[InterventionInput],
    what: &str,
) -> Result<Vec<Intervention>, Failure> {
    let of_activation = |one: &InterventionInput| match one {
        InterventionInput::Activation(one) => one.read(),
        InterventionInput::Features(_) => Err(Failure::input(format!("a change of features: {what}"))),
    };
    written.iter().map(of_activation).collect()
}

impl Changes {
    fn add(&mut self, one: &FeatureInput, arch: &Arch) -> Result<(), Failure> {
        let dictionary = added(&mut self.dictionaries, one.dictionary.get(), arch)?;
        let operation = match one.operation.as_str() {
            "set" => FeatureOperation::Set(one.value),
            "scale" => FeatureOperation::Scale(one.value),
            "steer" => FeatureOperation::Steer(one.value),
            "splice" => FeatureOperation::Splice,
            "keep_error" => FeatureOperation::KeepError,
            other => return Err(Failure::input(format!("no operation `{other}` on features"))),
        };
        for layer in &one.layers {
            self.features.push(FeatureChange {
                key: self.dictionaries.key(dictionary, *layer),
                feature: one.feature,
                positions: specifiers(&one.positions)?,
                operation,
            });
        }
        Ok(())
    }

    /// Checks the changes against a model and its rows, with warnings about anything odd.
    pub(crate) fn checked(
        &self,
        py: Python<'_>,
        model: &easyroutine::Model,
        rows: &[Row<'_>],
        context: Context<'_>,
    ) -> Result<(Edits, FeatureEdits<'_>), Failure> {
        let edits = checked(py, &self.interventions, model, rows, context)?;
        Ok((edits, self.of_features(model, rows, context)?))
    }

    /// The feature changes for rows.
    pub(crate) fn of_features(
        &self,
        model: &easyroutine::Model,
        rows: &[Row<'_>],
        context: Context<'_>,
    ) -> easyroutine::Result<FeatureEdits<'_>> {
        FeatureEdits::new(&self.features, &self.dictionaries, model.cpu(), rows, context)
    }

    /// Describes the changes for pictures.
    pub(crate) fn described(&self, hooks: &[HookInput]) -> Vec<String> {
        let of_hooks = hooks.iter().map(|(site, ..)| format!("a function at {site}"));
        let of_features = self.features.iter().map(ToString::to_string);
        self.interventions.iter().map(ToString::to_string).chain(of_features).chain(of_hooks).collect()
    }
}

/// Whether any of these treats single rows of a batch differently.
pub(crate) fn speak_of_rows(written: &[InterventionInput]) -> Result<bool, Failure> {
    let mut speaks = false;
    for one in written {
        if let InterventionInput::Activation(one) = one {
            speaks |= one.read()?.speaks_of_rows();
        }
    }
    Ok(speaks)
}

/// Checks changes of activations against a model and its rows, with warnings about anything odd.
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
