//! The same as a command about saved runs, in Python.

use super::python::literal;
use crate::args::runs::{Runs, RunsCommand};

/// The program in Python that gives the same as a command about saved runs; `None` for one that it has no call for.
pub(super) fn of(runs: &Runs) -> Option<String> {
    let base = literal(runs.base.as_deref()?.to_str()?);
    let experiment = literal(runs.experiment.as_deref().unwrap_or("*"));
    let begin = format!(
        "from easyroutine.interpretability import ActivationLoader\n\nloader = ActivationLoader({base}, experiment_name={experiment})\n"
    );
    let query = |condition: Option<&str>| match condition {
        Some(condition) => format!("runs = loader.query(where={})\n", literal(condition)),
        None => "runs = loader.query()\n".to_owned(),
    };
    let rest = match &runs.command {
        RunsCommand::Ls => format!("{}print(runs)\n", query(None)),
        RunsCommand::Query(asked) => format!("{}print(runs)\n", query(asked.condition.as_deref())),
        RunsCommand::Show(run) => format!("{}print(runs.open({}))\n", query(None), which(&run.run)),
        RunsCommand::Load(load) => {
            let key = literal(load.key.as_deref()?);
            let tensor = match load.rows.as_deref().map(|rows| rows.split_once(':')) {
                None => format!("run[{key}]"),
                Some(Some((first, end))) => format!("run.rows({key}, {first}, {end})"),
                Some(None) => return None,
            };
            format!("{}run = runs.open({})\ntensor = {tensor}\n", query(None), which(&load.run.run))
        }
        _ => return None,
    };
    Some(begin + &rest)
}

/// An index of a run is a number; a path below the store becomes the folder's name.
fn which(run: &str) -> String {
    match run.parse::<i64>() {
        Ok(place) => place.to_string(),
        Err(_) => literal(run.rsplit('/').next().unwrap_or(run)),
    }
}
