//! The record of a run: the same JSON from every face, so that a run begun by one is found and resumed by another.

use std::borrow::Cow;

use easyroutine::arch::Arch;
use easyroutine::attribution::edges::EdgeMethod;
use easyroutine::edit::{Intervention, Operation, Part, Softmax};
use easyroutine::extraction::{ExtractionConfig, Heads};
use easyroutine::gradients::Rule;
use easyroutine::positions::Specifier;
use easyroutine::request::Request;
use easyroutine::sites::{Point, Scope};
use easyroutine::source::ModelFiles;
use easyroutine::{Error, Model};
use easyroutine_store::{self as store, Dtype};
use serde_json::{Map, Value, json};

use crate::reports::{dtype_name, rule_name};

/// The model of a run; `digest` is its identity by content.
pub fn model(files: &ModelFiles, digest: Option<&str>, model: &Model) -> store::Model {
    store::Model {
        name: files.name.clone(),
        revision: files.commit.clone(),
        adapter: files.adapter_name(),
        digest: digest.map(str::to_owned),
        dtype: Some(dtype_name(model.dtype()).to_owned()),
    }
}

/// Positions in the requested order.
pub fn positions(specifiers: &[Specifier]) -> Value {
    specifiers.iter().map(Specifier::to_json).collect()
}

/// What mean scores of attribution patching depend on besides their pairs. `digest` is the model's identity by content,
/// `metric` the metric's name in [`Metric::to_json`](easyroutine::patching::Metric::to_json).
///
/// # Errors
/// As [`Request::points`].
pub fn mean_attribution(
    arch: &Arch,
    digest: &str,
    request: &Request,
    seed: u64,
    rule: Rule,
    metric: &str,
) -> Result<Value, Error> {
    let activations: Value = request.points(arch)?.iter().map(Point::to_string).collect();
    Ok(json!({
        "model_digest": digest,
        "activations": activations,
        "positions": positions(&request.positions),
        "seed": seed,
        "rule": rule_name(rule),
        "metric": metric,
    }))
}

/// What mean scores of edges depend on besides their pairs. `digest` is the model's identity by content, if a
/// file keeps the sums; `metric` is the metric's name in [`Metric::to_json`](easyroutine::patching::Metric::to_json).
pub fn edge_scores(digest: Option<&str>, method: EdgeMethod, rule: Rule, metric: &str) -> Value {
    let steps = match method {
        EdgeMethod::EapIg { steps } => Some(steps),
        EdgeMethod::Eap | EdgeMethod::CleanCorrupted => None,
    };
    json!({
        "model_digest": digest,
        "method": method.name(),
        "steps": steps,
        "rule": rule_name(rule),
        "metric": metric,
    })
}

/// The request as the fields of an extraction configuration. If flags and heads cover more than was requested, as with
/// single layers, `activations` lists the keys.
///
/// # Errors
/// As [`Request::points`].
pub fn config(request: &Request, arch: &Arch) -> Result<Map<String, Value>, Error> {
    let points = request.points(arch)?;
    let mut config = ExtractionConfig {
        sites: points.iter().map(|point| point.site()).collect(),
        heads: Heads::All,
        reduction: request.reduction.clone(),
    };
    let says_the_same = |config: &ExtractionConfig| {
        let said = config.request(&request.positions).and_then(|request| request.points(arch));
        said.is_ok_and(|said| said == points)
    };
    if says_the_same(&config) {
        return Ok(config.to_json());
    }
    // In the order in which they were named.
    let mut heads = Vec::new();
    for selector in request.activations.iter().filter(|selector| selector.site().scope() == Scope::Head) {
        for point in arch.named(selector)? {
            let head = point.layer().zip(point.head());
            heads.extend(head.filter(|head| !heads.contains(head)));
        }
    }
    config.heads = Heads::Of(heads);
    if says_the_same(&config) {
        return Ok(config.to_json());
    }
    config.heads = Heads::All;
    let mut fields = config.to_json();
    fields.insert("activations".to_owned(), points.iter().map(Point::to_string).collect());
    Ok(fields)
}

/// Interventions with their values; `None` if there are none.
pub fn interventions(interventions: &[Intervention]) -> Option<store::Value<'static>> {
    let list = || interventions.iter().map(intervention).collect();
    (!interventions.is_empty()).then(|| store::Value::List(list()))
}

/// An intervention with its values.
fn intervention(intervention: &Intervention) -> store::Value<'static> {
    let values = match &intervention.operation {
        Operation::Replace(values) | Operation::Mean(values) | Operation::Add { values, .. } => {
            Some(tensor(values.shape(), values.values()))
        }
        // A set number is a tensor broadcast over the place.
        Operation::Set(x) if *x != 0.0 && (x.is_finite() || intervention.part.softmax().is_none()) => {
            Some(tensor(&[1], &[*x]))
        }
        Operation::Set(_) | Operation::Scale(_) | Operation::Resample { .. } => None,
    };
    let mut values = values;
    let field =
        |(key, value): (String, Value)| match (key.as_str(), values.take_if(|_| key == "patching_values")) {
            (_, Some(tensor)) => (key, tensor),
            (_, None) => (key, value.into()),
        };
    store::Value::Map(fields(intervention).into_iter().map(field).collect())
}

/// An intervention with the original's field names, `patching_values` omitted if null. Zero, and minus infinity before
/// the softmax, are recorded as the factor 0, which is equivalent.
pub fn fields(intervention: &Intervention) -> Map<String, Value> {
    let Intervention { part, operation, .. } = intervention;
    let (operation, scale, strength, row) = match operation {
        Operation::Scale(factor) => ("patch", *factor, 1.0, None),
        Operation::Set(_) | Operation::Replace(_) => ("patch", 0.0, 1.0, None),
        Operation::Mean(_) => ("mean", 0.0, 1.0, None),
        Operation::Add { factor, .. } => ("add", 0.0, *factor, None),
        Operation::Resample { row } => ("resample", 0.0, 1.0, Some(*row)),
    };
    let places = match part {
        Part::Full(places) | Part::Columns(places, _) | Part::Rows(places, _) | Part::KeepSelf(places, _) => {
            positions(places)
        }
        Part::Grid { rows, columns, .. } => json!([positions(rows), positions(columns)]),
    };
    let entries = [
        ("type", json!(part.type_name())),
        ("activation", json!(intervention.key())),
        ("token_positions", places),
        ("patching_values", Value::Null),
        ("multiplication_value", json!(shortest(scale))),
        ("apply_softmax", json!(part.softmax() == Some(Softmax::AfterRescaled))),
        ("operation", json!(operation)),
        ("strength", json!(shortest(strength))),
        ("source_row", json!(row)),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The number as written: 0.1, not f32's 0.10000000149.
fn shortest(x: f32) -> f64 {
    x.to_string().parse().unwrap_or(f64::from(x))
}

fn tensor(shape: &[usize], values: &[f32]) -> store::Value<'static> {
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    store::Value::Tensor(store::Tensor::new("", Dtype::F32, shape, Cow::<[u8]>::Owned(bytes)))
}
