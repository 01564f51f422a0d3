//! `runs verify`, `gc` and `commit`.

use std::time::Duration;

use easyroutine_store::{Begun, Query, RecordSum, Sweep, Swept};
use serde_json::json;

use super::change::say;
use super::which;
use crate::args::Args;
use crate::args::runs::{self, Runs};
use crate::failure::{FAILED, Failure, SUCCESS};
use crate::output::{self, PLAIN};

pub(super) fn verify(args: &Args, runs: &Runs, names: &[String]) -> Result<u8, Failure> {
    let targets = output::targets(args, PLAIN)?;
    let found = runs.query(&Query::default())?;
    let store = runs.store()?;
    let paths: Vec<String> = match names {
        [] => found.get_paths().into_iter().map(str::to_owned).collect(),
        names => names
            .iter()
            .map(|name| Ok(found.path(which(name))?.to_owned()))
            .collect::<Result<_, Failure>>()?,
    };
    let mut rows = Vec::new();
    let mut damage = Vec::new();
    // A run whose record can't be read counts as damaged too, when all are checked.
    let links = if names.is_empty() { store.links()? } else { Vec::new() };
    let unread = found.problems().iter().filter(|_| names.is_empty()).chain(&links);
    let mut listed: Vec<(String, Vec<String>)> =
        unread.map(|problem| (problem.path.clone(), vec![problem.error.to_string()])).collect();
    let mut without = Vec::new();
    for path in paths {
        let verified = store.run(&path).and_then(|run| {
            if run.metadata().checksum() == RecordSum::None {
                without.push(path.clone());
            }
            run.verify()
        });
        let wrong = match verified {
            Ok(found) => found.iter().map(ToString::to_string).collect(),
            Err(error) => vec![error.to_string()],
        };
        listed.push((path, wrong));
    }
    for (path, wrong) in listed {
        if wrong.is_empty() {
            let state = if without.contains(&path) { "whole; its record has no checksum" } else { "whole" };
            rows.push(vec![path.clone(), state.to_owned()]);
        }
        for what in wrong {
            damage.push(json!({"path": path, "what": what}));
            rows.push(vec![path.clone(), what]);
        }
    }
    let json = json!({"schema": "easyroutine.runs_verified/1", "looked_at": rows.len(), "damage": damage});
    let status = if damage.is_empty() { SUCCESS } else { FAILED };
    output::write_found(&targets, &["run", "state"], &rows, &json, status)
}

pub(super) fn gc(args: &Args, runs: &Runs, asked: &runs::Gc) -> Result<u8, Failure> {
    let targets = output::targets(args, PLAIN)?;
    let sweep = if asked.dry_run { Sweep::Look } else { Sweep::Delete };
    let Swept { garbage: found, problems } =
        runs.store()?.gc(Duration::from_secs(3600 * u64::from(asked.idle)), sweep)?;
    for problem in &problems {
        output::note("warning", &format!("{}: {}", problem.path, problem.error));
    }
    let rows: Vec<Vec<String>> = found.iter().map(|g| vec![g.path.clone(), g.what.to_owned()]).collect();
    let garbage: Vec<_> = found.iter().map(|g| json!({"path": g.path, "what": g.what})).collect();
    let left: Vec<_> =
        problems.iter().map(|p| json!({"path": p.path, "error": p.error.to_string()})).collect();
    let json = json!({
        "schema": "easyroutine.runs_garbage/1",
        "deleted": !asked.dry_run,
        "garbage": garbage,
        "problems": left,
    });
    let status = if problems.is_empty() { SUCCESS } else { FAILED };
    output::write_found(&targets, &["path", "what"], &rows, &json, status)
}

pub(super) fn commit(args: &Args, runs: &Runs, name: &str) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let experiment = runs.experiment.as_deref().unwrap_or("default");
    let path = match runs.store()?.begun(experiment, name)? {
        Begun::Open(run) => run.commit(easyroutine_app::filling::finish_values)?,
        Begun::Committed(path) => path,
    };
    say(&targets, "committed", &[path])
}
