//! Interventions: the references, what each kind changes and leaves alone, the syntax, and errors of every kind.

mod effects;
mod golden;
mod grammar;
mod wrong;

use easyroutine::cache::ActivationCache;
use easyroutine::edit::{Edits, Intervention, Operation, Reference, Tensor};
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::{Batch, Error, Model};

/// The rows of a batch, in the form that interventions are checked against.
fn described(rows: &[Vec<u32>]) -> Vec<Row<'_>> {
    rows.iter().enumerate().map(|(number, ids)| Row::of(number, ids)).collect()
}

/// Parses an intervention; values it names are read from files.
fn written(spec: &str) -> Result<Intervention, Error> {
    spec.parse::<Intervention<Reference>>()?.load()
}

fn edits(model: &Model, rows: &[Vec<u32>], interventions: &[Intervention]) -> Result<Edits, Error> {
    Edits::new(interventions, model.arch(), &described(rows), Context::default())
}

/// Runs rows under interventions and keeps activations at all tokens.
fn run(model: &Model, rows: &[Vec<u32>], interventions: &[Intervention], keys: &str) -> ActivationCache {
    let edits = edits(model, rows, interventions).unwrap_or_else(|e| panic!("{e}"));
    let (batch, request) = (Batch::new(rows).unwrap(), Request::parse(keys, "all").unwrap());
    request.run_under(model, &batch, &described(rows), Context::default(), edits).unwrap()
}

/// The same for interventions in text form.
fn run_written(model: &Model, rows: &[Vec<u32>], specs: &[&str], keys: &str) -> ActivationCache {
    let interventions: Vec<Intervention> =
        specs.iter().map(|spec| written(spec).unwrap_or_else(|e| panic!("{spec}: {e}"))).collect();
    run(model, rows, &interventions, keys)
}

/// An intervention with values that its text form cannot hold.
fn with(spec: &str, operation: Operation) -> Intervention {
    Intervention { operation, ..written(spec).unwrap() }
}

fn tensor(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
    Tensor::new("values", shape, values.into_iter().collect::<Vec<_>>()).unwrap()
}
