//! Shell completion: flags, models on this machine, and names of activations.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

use clap::{Command, CommandFactory};
use clap_complete::engine::ValueCompleter;
use clap_complete::env::Shells;
use clap_complete::{ArgValueCompleter, CompleteEnv, CompletionCandidate, PathCompleter, Shell};
use easyroutine::load::{self, LoadOptions};
use easyroutine::sites::{Point, Scope, Site};
use easyroutine::source::{self, Environment, ResolveOptions};

use crate::args::Args;

/// The variable by which the script of [`script`] calls this program.
const VARIABLE: &str = "_EASYROUTINE_COMPLETE";

/// The script by which a shell calls this program on Tab.
pub(crate) fn script(shell: Shell) -> std::io::Result<Vec<u8>> {
    let mut script = Vec::new();
    let name = "easyroutine";
    let shells = Shells::builtins();
    let shell = shells.completer(&shell.to_string()).ok_or(std::io::ErrorKind::Unsupported)?;
    shell.write_registration(VARIABLE, name, name, name, &mut script)?;
    Ok(script)
}

/// Answers a completion request; returns whether there was one.
pub(crate) fn answer(words: &[OsString]) -> Result<bool, clap::Error> {
    let typed = words.to_vec();
    let folder = std::env::current_dir().ok();
    CompleteEnv::with_factory(move || with_names(Args::command(), &typed))
        .var(VARIABLE)
        .try_complete(words.iter().cloned(), folder.as_deref())
}

/// The command and its subcommands, with completions for `--model` and `--activations`.
fn with_names(command: Command, words: &[OsString]) -> Command {
    let reference = model_of(words);
    command
        .mut_args(|arg| match (arg.get_id().as_str(), arg.get_value_names()) {
            ("model" | "reference", Some([name])) if name == "REF" => arg.add(ArgValueCompleter::new(models)),
            ("a" | "b", Some([name])) if name == "A" || name == "B" => {
                arg.add(ArgValueCompleter::new(models))
            }
            ("activations", Some([name])) if name == "KEYS" => {
                let reference = reference.clone();
                arg.add(ArgValueCompleter::new(move |typed: &OsStr| keys(typed, reference.as_deref())))
            }
            _ => arg,
        })
        .mut_subcommands(|sub| with_names(sub, words))
}

/// The model named in the words so far, else by the variable.
fn model_of(words: &[OsString]) -> Option<String> {
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    let apart = words.windows(2).rfind(|pair| matches!(pair[0], "-m" | "--model")).map(|pair| pair[1]);
    let joined = || words.iter().rev().find_map(|word| word.strip_prefix("--model="));
    let named = apart.or_else(joined).map(str::to_owned);
    named.or_else(|| std::env::var("EASYROUTINE_MODEL").ok()).filter(|name| !name.is_empty())
}

/// Demo models, models in the hub's cache, folders and `.gguf` files.
fn models(typed: &OsStr) -> Vec<CompletionCandidate> {
    let start = typed.to_str().unwrap_or_default();
    let demos =
        source::demos().iter().map(|demo| CompletionCandidate::new(demo.name).help(Some(demo.about.into())));
    let cached = cached_models().into_iter().map(CompletionCandidate::new);
    let named = demos
        .chain(cached)
        .filter(|found| found.get_value().to_str().is_some_and(|name| name.starts_with(start)));
    let is_model = |path: &std::path::Path| path.is_dir() || path.extension() == Some(OsStr::new("gguf"));
    named.chain(PathCompleter::any().filter(is_model).complete(typed)).collect()
}

/// Names of the models in the hub's cache, sorted.
fn cached_models() -> Vec<String> {
    let entries = std::fs::read_dir(Environment::from_process().hub_cache).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            entry.file_name().to_str()?.strip_prefix("models--").map(|name| name.replace("--", "/"))
        })
        .collect();
    names.sort_unstable();
    names
}

/// Activation keys that continue the last one of a list, up to the next number: `resid_out_`, then `resid_out_0` and so
/// on. Those of the model if it is on this machine, else those of every model's first layer.
fn keys(typed: &OsStr, reference: Option<&str>) -> Vec<CompletionCandidate> {
    let typed = typed.to_str().unwrap_or_default();
    let (before, key) = typed.split_at(typed.rfind(',').map_or(0, |comma| comma + 1));
    let mut offered = BTreeSet::new();
    let candidate = |(site, name): (Site, String)| {
        let more = up_to_a_number(name.strip_prefix(key)?);
        let new = offered.insert(format!("{key}{more}"));
        let help = Some(site.meaning().into());
        new.then(|| CompletionCandidate::new(format!("{before}{key}{more}")).help(help))
    };
    names(reference).into_iter().filter_map(candidate).collect()
}

/// Every key of the model.
fn names(reference: Option<&str>) -> Vec<(Site, String)> {
    let named = |point: Point| (point.site(), point.to_string());
    let of_any = Site::ALL.iter().map(|site| match site.scope() {
        Scope::Model => Point::model(*site),
        Scope::Layer | Scope::LetteredLayer => Point::layer_of(*site, 0),
        Scope::Head => Point::head_of(*site, 0, 0),
        Scope::Expert => Point::expert_of(*site, 0, 0),
    });
    match reference.and_then(opened) {
        Some(model) => {
            std::iter::once(Point::model(Site::InputIds)).chain(model.arch().points()).map(named).collect()
        }
        None => of_any.map(named).collect(),
    }
}

/// A model whose config can be read without a download.
fn opened(reference: &str) -> Option<load::Opened> {
    let options = ResolveOptions { offline: true, ..ResolveOptions::default() };
    let files = source::resolve(reference, &options).ok()?;
    load::open(&files, &LoadOptions::default()).ok()
}

/// A name up to its first number, or up to the second if it begins with one.
fn up_to_a_number(name: &str) -> &str {
    let bytes = name.as_bytes();
    let begins = |at: &usize| bytes[*at].is_ascii_digit() && !bytes[at - 1].is_ascii_digit();
    &name[..(1..bytes.len()).find(begins).unwrap_or(bytes.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_offered_up_to_its_next_number() {
        for (name, cut) in
            [("resid_out_10", "resid_out_"), ("10", "10"), ("3H11", "3H"), ("H11", "H"), ("", "")]
        {
            assert_eq!(up_to_a_number(name), cut, "{name}");
        }
    }

    #[test]
    fn the_model_is_the_last_that_is_named() {
        let of = |words: &[&str]| model_of(&words.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(of(&["lens", "-m", "a", "--model", "b"]).as_deref(), Some("b"));
        assert_eq!(of(&["lens", "--model=c"]).as_deref(), Some("c"));
    }
}
