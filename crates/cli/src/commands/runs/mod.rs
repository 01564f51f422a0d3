//! `runs`: saved runs.

mod change;
mod export;
mod import;
mod lens;
mod list;
mod load;
mod maintain;
mod show;

use std::path::Path;

use easyroutine::positions::Specifier;
use easyroutine_store::{ActivationLoader, Metadata, Query, QueryResult, Run, Store, Which};
use serde_json::Value;

use crate::args::Args;
use crate::args::runs::{Runs, RunsCommand};
use crate::failure::{Failure, SUCCESS};
use crate::output;

pub(crate) fn run(args: &Args, runs: &Runs) -> Result<u8, Failure> {
    let done = |()| SUCCESS;
    match &runs.command {
        RunsCommand::Ls => list::ls(args, runs).map(done),
        RunsCommand::Query(query) => list::query(args, runs, query).map(done),
        RunsCommand::Show(run) => show::run(args, runs, run).map(done),
        RunsCommand::Lens(lens) => lens::run(args, runs, lens).map(done),
        RunsCommand::Load(load) => load::run(args, runs, load).map(done),
        RunsCommand::Tag(tag) => change::tag(args, runs, tag).map(done),
        RunsCommand::Rm(rm) => change::rm(args, runs, rm).map(done),
        RunsCommand::Mv { run, to } => change::mv(args, runs, run, to).map(done),
        RunsCommand::Rename { from, to } => change::rename(args, runs, from, to).map(done),
        RunsCommand::Verify { runs: names } => maintain::verify(args, runs, names),
        RunsCommand::Gc(gc) => maintain::gc(args, runs, gc),
        RunsCommand::Commit { name } => maintain::commit(args, runs, name).map(done),
        RunsCommand::Import { from } => import::run(args, runs, from),
        RunsCommand::Export(export) => export::run(args, runs, export).map(done),
    }
}

/// Opens a run of a store, in any experiment.
///
/// # Errors
/// If the store or the run does not exist.
pub(crate) fn open_run(base: Option<&Path>, name: &str) -> Result<Run, Failure> {
    let base = base.map(Path::to_owned);
    Runs { base, experiment: None, command: RunsCommand::Ls }.find(name)
}

impl Runs {
    /// The store, which must exist.
    fn store(&self) -> Result<Store, Failure> {
        match &self.base {
            Some(base) => Ok(Store::open(base)?),
            None => {
                Ok(Store::open(Store::base_from_env().map_err(|e| e.hint("name the store: --base DIR"))?)?)
            }
        }
    }

    /// The runs that a query finds; reports what can't be read.
    fn query(&self, query: &Query<'_>) -> Result<QueryResult, Failure> {
        let loader = ActivationLoader::of(self.store()?, self.experiment.as_deref().unwrap_or("*")).indexed();
        let found = loader.query(query)?;
        for problem in found.problems() {
            output::note("warning", &format!("{}: {}", problem.path, problem.error));
        }
        Ok(found)
    }

    /// Opens the run with a name; warns about a changed record.
    fn find(&self, name: &str) -> Result<Run, Failure> {
        if let Some(run) = self.at_path(name)? {
            warn_of_record(run.path(), run.metadata());
            return Ok(run);
        }
        let found = self.query(&Query::default())?;
        let run = self.store()?.run(found.path(which(name))?)?;
        warn_of_record(run.path(), run.metadata());
        Ok(run)
    }

    /// The run of a whole path below the store, for which the other runs need not be looked through. What is not there, or
    /// cannot be read, is left to the search, which says more of it.
    fn at_path(&self, name: &str) -> Result<Option<Run>, Failure> {
        let is_path = name.split('/').filter(|part| !part.is_empty() && !part.starts_with('.')).count() == 3
            && name.matches('/').count() == 2;
        let is_ours = self
            .experiment
            .as_deref()
            .is_none_or(|experiment| experiment == "*" || name.split('/').next() == Some(experiment));
        Ok(if is_path && is_ours { self.store()?.run(name).ok() } else { None })
    }

    /// The same; reports if checksums are not compared.
    fn find_to_read(&self, name: &str, no_verify: bool) -> Result<Run, Failure> {
        let run = self.find(name)?;
        if !no_verify {
            return Ok(run);
        }
        output::note("warning", "--no-verify: numbers may be damaged without notice");
        Ok(run.unverified())
    }
}

/// Warns if a record is not as easyroutine wrote it.
fn warn_of_record(path: &str, metadata: &Metadata) {
    if let Some(warning) = metadata.warning() {
        output::note("warning", &format!("{path}: metadata.json {warning}"));
        output::note("hint", "easyroutine runs tag RUN --accept takes it over, if you made the change");
    }
}

/// A number is an index, anything else a name.
fn which(name: &str) -> Which {
    let is_index = name.starts_with('-') || name.len() < 4;
    match name.parse::<i64>() {
        Ok(index) if is_index => Which::Index(index),
        _ => Which::Name(name.to_owned()),
    }
}

/// `KEY=VALUE`, where the value is JSON, or otherwise a string.
pub(crate) fn pair(example: &str, text: &str) -> Result<(String, Value), Failure> {
    let Some((key, value)) = text.split_once('=').filter(|(key, _)| !key.is_empty()) else {
        return Err(Failure::usage(format!("`{text}` is not a KEY=VALUE")).hint(example));
    };
    let json = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
    if let (false, Some(number)) = (json.is_string(), beyond_64_bits(value)) {
        return Err(Failure::usage(format!(
            "`{key}`: {number} is beyond 64 bits, and would not be kept exactly"
        ))
        .hint(format!("keep it as a text: '{key}=\"{number}\"'")));
    }
    Ok((key.to_owned(), json))
}

/// An integer in JSON beyond 64 bits: read as a float, it would change.
fn beyond_64_bits(json: &str) -> Option<String> {
    // Without escapes, every second part between quotes is a string.
    let plain = json.replace("\\\\", "").replace("\\\"", "");
    let outside = plain.split('"').step_by(2);
    let words =
        outside.flat_map(|part| part.split(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))));
    let is_whole = |word: &&str| {
        let digits = word.strip_prefix('-').unwrap_or(word);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let is_beyond = |word: &&str| word.parse::<i64>().is_err() && word.parse::<u64>().is_err();
    words.filter(is_whole).find(is_beyond).map(str::to_owned)
}

/// A specifier as stored in metadata: `-1` is a number, `4:9` a pair, anything else its text.
pub(crate) fn position(specifier: &Specifier) -> Value {
    let key = specifier.key();
    serde_json::from_str(&key).unwrap_or_else(|_| key.into())
}

/// User keys with their values, each named once.
pub(crate) fn pairs(given: &[String]) -> Result<Vec<(String, Value)>, Failure> {
    let mut pairs: Vec<(String, Value)> = Vec::new();
    for text in given {
        let (key, value) = pair("--meta seed=3", text)?;
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(Failure::usage(format!("--meta: two values for the key `{key}`")));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_that_would_become_others_are_found() {
        for fine in [
            "18446744073709551615",
            "-9223372036854775808",
            "1e300",
            "1.5",
            r#""18446744073709551616""#,
            "[]",
        ] {
            assert_eq!(beyond_64_bits(fine), None, "{fine}");
        }
        for (text, found) in [
            ("18446744073709551616", "18446744073709551616"),
            (r#"{"a\\\"": ["99999999999999999999\"1", -9223372036854775809]}"#, "-9223372036854775809"),
        ] {
            assert_eq!(beyond_64_bits(text).as_deref(), Some(found), "{text}");
            assert!(pair("", &format!("key={text}")).is_err());
        }
        assert_eq!(pair("", "key=18446744073709551616x").unwrap().1, "18446744073709551616x");
    }
}
