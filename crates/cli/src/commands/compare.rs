//! `model check --compare`: another program's activations compared with ours.

use std::path::Path;

use easyroutine::compare::{Compared, Comparison, Verdict, compare, tolerance};
use serde_json::{Value, json};

use crate::args::{Args, Check};
use crate::failure::{FAILED, Failure, SUCCESS};
use crate::output::{self, Cell, PLAIN};
use crate::session;
use easyroutine_app::reports::dtype_name;

pub(crate) fn run(args: &Args, wanted: &Check, file: &Path) -> Result<u8, Failure> {
    let targets = output::targets(args, PLAIN)?;
    let loading = &wanted.model.loading;
    let files = session::find(&wanted.model.reference()?, &loading.finding)?;
    let opened = session::open(&files, &loading.finding)?;
    crate::memory::check(&opened, loading.dtype())?;
    let names = opened.reading.names.clone();
    let model = opened.build(&loading.options())?;
    let allowed = wanted.tolerance.unwrap_or_else(|| tolerance(&model));
    let comparison = compare(&model, &names, file, allowed)?;
    for (name, reason) in &comparison.passed_over {
        let said = format!("`{}` is not compared: {reason}", name.escape_debug());
        output::note("note", &said);
    }
    let first = comparison.first_wrong();
    if let Some(first) = first {
        output::note("note", &format!("the first place that differs is {}", first.activation));
    }
    let rows: Vec<Vec<Cell>> = comparison.places.iter().map(row).collect();
    let json = json!({
        "schema": "easyroutine.compare/1",
        "model": files.name,
        "dtype": dtype_name(loading.dtype()),
        "file": file.display().to_string(),
        "tolerance": comparison.tolerance,
        "same": first.is_none(),
        "first_wrong": first.map(|place| place.activation.clone()),
        "places": comparison.places.iter().map(place).collect::<Vec<_>>(),
        "passed_over": passed_over(&comparison),
    });
    let header = ["verdict", "activation", "error", "factor", "rest", "row", "position", "number"];
    output::write_found(&targets, &header, &rows, &json, if first.is_none() { SUCCESS } else { FAILED })
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "same",
        Verdict::Magnitude => "MAGNITUDE",
        Verdict::Direction => "DIRECTION",
    }
}

fn row(place: &Compared) -> Vec<Cell> {
    let mut cells: Vec<Cell> = vec![
        verdict(place.verdict).to_owned().into(),
        place.activation.clone().into(),
        format!("{:.1e}", place.error).into(),
        format!("{:.6}", place.factor).into(),
        format!("{:.1e}", place.rest).into(),
    ];
    cells.extend(place.at.iter().map(|number| Cell::from(number.to_string())));
    cells
}

fn place(place: &Compared) -> Value {
    // JSON has no infinity.
    let finite = |x: f64| x.is_finite().then_some(x);
    let [row, position, number] = place.at;
    json!({
        "activation": place.activation,
        "tensor": place.tensor,
        "verdict": verdict(place.verdict).to_lowercase(),
        "error": finite(place.error),
        "factor": finite(place.factor),
        "rest": finite(place.rest),
        "largest_at": {"row": row, "position": position, "number": number},
    })
}

fn passed_over(comparison: &Comparison) -> Vec<Value> {
    let one = |(name, reason): &(String, String)| json!({"tensor": name, "reason": reason});
    comparison.passed_over.iter().map(one).collect()
}
