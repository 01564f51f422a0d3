//! `runs tag`, `rm`, `mv` and `rename`.

use std::io::{self, BufRead, IsTerminal};

use easyroutine_store::{Edit, Query};
use serde_json::json;

use super::{pairs, which};
use crate::args::Args;
use crate::args::runs::{self, RunArg, Runs};
use crate::failure::Failure;
use crate::output::{self, Destination, PLAIN};

pub(super) fn tag(args: &Args, runs: &Runs, asked: &runs::Tag) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let mut edits: Vec<Edit> = asked.tags.iter().cloned().map(Edit::Tag).collect();
    edits.extend(asked.remove.iter().cloned().map(Edit::Untag));
    edits.extend(pairs(&asked.meta)?.into_iter().map(|(key, value)| Edit::Set(key, value)));
    edits.extend(asked.drop.iter().cloned().map(Edit::Unset));
    edits.extend(asked.accept.then_some(Edit::Accept));
    if edits.is_empty() {
        return Err(Failure::usage("nothing to change").hint("easyroutine runs tag -1 good --meta seed=3"));
    }
    let run = runs.find(&asked.run.run)?;
    let edited = runs.store()?.edit(run.path(), &edits, asked.revision)?;
    say(&targets, "changed", &[run.path().to_owned(), format!("revision {}", edited.revision())])
}

pub(super) fn rm(args: &Args, runs: &Runs, asked: &runs::Rm) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let found = runs.query(&Query::default())?;
    // Resolve all names before removing the first run; each run once.
    let mut paths: Vec<String> = Vec::new();
    for name in &asked.runs {
        let path = found.path(which(name))?.to_owned();
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    if asked.dry_run {
        return say(&targets, "would remove", &paths);
    }
    let is_watched = io::stdin().is_terminal() && io::stderr().is_terminal();
    if is_watched && !asked.yes && !agreed(&paths, io::stdin().lock()) {
        return Err(Failure::failed("nothing was removed").hint("--yes removes without asking"));
    }
    for path in &paths {
        runs.store()?.remove(path)?;
    }
    say(&targets, "removed", &paths)
}

/// Whether the user confirms the removal: with `y` or `yes`, and nothing else.
fn agreed(paths: &[String], answers: impl BufRead) -> bool {
    paths.iter().for_each(|path| output::note("remove", path));
    output::note(
        "question",
        &format!("remove {} for good? y/N", if paths.len() == 1 { "this run" } else { "these runs" }),
    );
    let mut answer = String::new();
    let read = answers.take(ANSWER).read_line(&mut answer);
    read.is_ok() && ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

/// Maximum bytes of an answer.
const ANSWER: u64 = 100;

pub(super) fn mv(args: &Args, runs: &Runs, run: &RunArg, to: &str) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let found = runs.query(&Query::default())?;
    let from = found.path(which(&run.run))?.to_owned();
    let path = runs.store()?.move_run(&from, to)?;
    say(&targets, "moved", &[path])
}

pub(super) fn rename(args: &Args, runs: &Runs, from: &str, to: &str) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    if runs.experiment.is_some() {
        return Err(Failure::usage("--experiment: `rename` names the experiment itself"));
    }
    runs.store()?.rename_experiment(from, to)?;
    say(&targets, "renamed", &[from.to_owned(), to.to_owned()])
}

/// Reports what was done in the requested format. The targets are determined before anything is done.
pub(super) fn say(targets: &[Destination], done: &str, things: &[String]) -> Result<(), Failure> {
    let json = json!({"schema": "easyroutine.runs_done/1", "done": done, "what": things});
    let rows: Vec<Vec<String>> = things.iter().map(|thing| vec![done.to_owned(), thing.clone()]).collect();
    output::tables(targets, &["done", "what"], &rows, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_removed_where_the_answer_is_yes() {
        for (answer, is_yes) in [
            ("y\n", true),
            ("Yes\n", true),
            (" y ", true),
            ("\n", false),
            ("", false),
            ("no\n", false),
            ("yy\n", false),
        ] {
            assert_eq!(agreed(&["e/m/t".to_owned()], answer.as_bytes()), is_yes, "{answer:?}");
        }
    }
}
