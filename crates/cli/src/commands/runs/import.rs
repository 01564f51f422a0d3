//! `runs import`: runs of the original easyroutine.

use std::path::{Path, PathBuf};

use easyroutine_store::Store;
use serde_json::json;

use crate::args::Args;
use crate::args::runs::Runs;
use crate::failure::{FAILED, Failure, SUCCESS};
use crate::output::{self, PLAIN};

pub(super) fn run(args: &Args, runs: &Runs, from: &Path) -> Result<u8, Failure> {
    let targets = output::targets(args, PLAIN)?;
    let base: PathBuf = match &runs.base {
        Some(base) => base.clone(),
        None => Store::base_from_env().map_err(|e| e.hint("name the store: --base DIR"))?,
    };
    let imported = Store::create(base)?.import(from)?;
    let mut rows = Vec::new();
    let mut listed = Vec::new();
    for run in &imported {
        let from = run.from.display().to_string();
        let (state, what) = match &run.to {
            Ok(path) => ("imported", path.clone()),
            Err(error) => ("broken", error.to_string()),
        };
        listed.push(json!({"from": &from, "state": state, "what": &what}));
        rows.push(vec![from, state.to_owned(), what]);
    }
    let json = json!({"schema": "easyroutine.runs_imported/1", "runs": listed});
    let status = if imported.iter().all(|run| run.to.is_ok()) { SUCCESS } else { FAILED };
    output::write_found(&targets, &["from", "state", "what"], &rows, &json, status)
}
