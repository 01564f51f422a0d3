//! `model check --compare`: another program's activations compared with ours, and both with a run in f64.

use std::path::Path;

use easyroutine::compare::{
    AgainstExact, Compared, Comparison, Verdict, Wrong, compare, compare_exact, tolerance,
};
use easyroutine::load::LoadOptions;
use easyroutine::{Dtype, Stop};
use easyroutine_app::memory::bounded;
use easyroutine_app::reports::{comparison, dtype_name, verdict_name, wrong_name};
use serde_json::{Value, json};

use crate::args::{Args, Check};
use crate::failure::{FAILED, Failure, SUCCESS};
use crate::output::{self, Cell, PLAIN};
use crate::session;

pub(crate) fn run(args: &Args, wanted: &Check, file: &Path) -> Result<u8, Failure> {
    let targets = output::targets(args, PLAIN)?;
    let loading = &wanted.model.loading;
    let files = session::find(&wanted.model.reference()?, &loading.finding)?;
    let opened = session::open(&files, &loading.finding)?;
    let options = bounded(&opened, loading.options())?;
    let names = opened.reading.names.clone();
    let model = opened.build(&options)?;
    let allowed = wanted.tolerance.unwrap_or_else(|| tolerance(&model));
    let found = if wanted.exact {
        // In bf16 weights are rounded; the exact ones are those of a second model.
        let exact = match loading.dtype() {
            Dtype::F32 => None,
            Dtype::Bf16 => {
                let again = session::open(&files, &loading.finding)?;
                let options = LoadOptions { dtype: Dtype::F32, ..loading.options() };
                let options = bounded(&again, options)?;
                Some(again.build(&options)?)
            }
        };
        compare_exact(&model, exact.as_ref().unwrap_or(&model), &names, file, allowed, Stop::Never)?
    } else {
        compare(&model, &names, file, allowed)?
    };
    for (name, reason) in &found.passed_over {
        let said = format!("`{}` is not compared: {reason}", name.escape_debug());
        output::note("note", &said);
    }
    let first = found.first_wrong();
    if let Some(first) = first {
        output::note("note", &said_of(first));
    }
    let code = if first.is_none() { SUCCESS } else { FAILED };
    let mut json = json!({
        "schema": "easyroutine.compare/1",
        "model": files.name,
        "dtype": dtype_name(loading.dtype()),
        "file": file.display().to_string(),
    });
    if let (Value::Object(json), Value::Object(rest)) = (&mut json, comparison(&found)) {
        json.extend(rest);
    }
    write(&targets, &found, &json, code)
}

/// What is said of the first place where somebody is wrong.
fn said_of(first: &Compared) -> String {
    let name = &first.activation;
    if first.verdict == Verdict::Nan {
        let [row, position, number] = first.at;
        return format!(
            "the first place that differs is {name}: the file or this run holds NaN, first in row {row}, position \
             {position}, number {number}"
        );
    }
    match first.exact.as_ref().map(|exact| exact.wrong) {
        None | Some(Wrong::Neither) => format!("the first place that differs is {name}"),
        Some(Wrong::File) => format!("the first place that is wrong is {name}: the file is, we are not"),
        Some(Wrong::Ours) => format!("the first place that is wrong is {name}: we are, the file is not"),
        Some(Wrong::Both) => format!("the first place that is wrong is {name}: both are, the file and we"),
    }
}

fn write(targets: &[output::Destination], found: &Comparison, json: &Value, code: u8) -> Result<u8, Failure> {
    let exact: Option<Vec<Vec<Cell>>> =
        found.places.iter().map(|place| Some(row_exact(place, place.exact.as_ref()?))).collect();
    if let Some(rows) = exact {
        let header = [
            "wrong",
            "activation",
            "file error",
            "file magnitude",
            "file cosine",
            "our error",
            "our magnitude",
            "our cosine",
            "row",
            "position",
            "number",
        ];
        return output::write_found(targets, &header, &rows, json, code);
    }
    let rows: Vec<Vec<Cell>> = found.places.iter().map(row).collect();
    let header = ["verdict", "activation", "error", "factor", "rest", "row", "position", "number"];
    output::write_found(targets, &header, &rows, json, code)
}

fn row(place: &Compared) -> Vec<Cell> {
    let verdict = verdict_name(place.verdict);
    let verdict = if verdict == "same" { verdict.to_owned() } else { verdict.to_uppercase() };
    let mut cells: Vec<Cell> = vec![
        verdict.into(),
        place.activation.clone().into(),
        format!("{:.1e}", place.error).into(),
        format!("{:.6}", place.factor).into(),
        format!("{:.1e}", place.rest).into(),
    ];
    cells.extend(place.at.iter().map(|number| Cell::from(number.to_string())));
    cells
}

/// Both beside the run in f64; the largest difference is that of the file, unless we alone are wrong.
fn row_exact(place: &Compared, AgainstExact { file, ours, wrong }: &AgainstExact) -> Vec<Cell> {
    let name = wrong_name(*wrong);
    let name = if *wrong == Wrong::Neither { name.to_owned() } else { name.to_uppercase() };
    let mut cells: Vec<Cell> = vec![name.into(), place.activation.clone().into()];
    for apart in [file, ours] {
        cells.extend([
            format!("{:.1e}", apart.error).into(),
            format!("{:.6}", apart.magnitude).into(),
            Cell::from(format!("{:.9}", apart.cosine)),
        ]);
    }
    let at = if *wrong == Wrong::Ours { ours.at } else { file.at };
    cells.extend(at.iter().map(|number| Cell::from(number.to_string())));
    cells
}
