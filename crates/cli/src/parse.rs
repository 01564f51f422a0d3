//! Parses the command line, and reports errors in the form of all others.

use std::ffi::{OsStr, OsString};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error, FromArgMatches};

use crate::args::{self, Args};
use crate::failure::Failure;

const NO_MODEL: &str = "name a model, `-m smollm2`, or set the variable EASYROUTINE_MODEL";

/// The arguments, or the exit status: help and versions are printed, errors are reported.
pub(crate) fn args(words: impl IntoIterator<Item = OsString>) -> Result<Args, u8> {
    parsed(words).map_err(|error| {
        let is_help = error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
        if is_help || !error.use_stderr() {
            // A reader that has gone, as in `--help | head -1`, is not a failure.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
        failure(&error).report()
    })
}

/// The arguments of a command that was not typed into this program: printing help is an error too.
///
/// # Errors
/// If the words are not a command.
pub(crate) fn try_args(words: impl IntoIterator<Item = OsString>) -> Result<Args, Failure> {
    parsed(words).map_err(|error| match error.use_stderr() {
        true => failure(&error),
        false => Failure::usage("help and versions are for a terminal"),
    })
}

fn parsed(words: impl IntoIterator<Item = OsString>) -> Result<Args, Error> {
    let matched = adjusted(args::command()).try_get_matches_from(words);
    matched.and_then(|matches| Args::from_arg_matches(&matches))
}

/// An empty variable counts as unset, as shells and containers leave them. A negative number after a flag is the flag's
/// value, valid or not, rather than another flag.
fn adjusted(command: Command) -> Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| {
            let arg = match arg.get_env() {
                Some(name) if is_empty(name) => arg.env(None::<&'static str>),
                _ => arg,
            };
            let is_flag = arg.get_long().or(arg.get_short().map(|_| "")).is_some();
            match is_flag && arg.get_action().takes_values() {
                true => arg.allow_negative_numbers(true),
                false => arg,
            }
        })
        .mut_subcommands(adjusted)
}

/// One line that says what is wrong, and one with a hint.
fn failure(error: &Error) -> Failure {
    let text = error.render().to_string();
    let joined = |paragraph: &str| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    let mut paragraphs = text.split("\n\n").map(joined);
    let message = paragraphs.next().unwrap_or_default();
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let rest: Vec<String> = paragraphs.collect();
    let tip = rest.iter().find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    let usage = || rest.iter().find(|paragraph| paragraph.starts_with("Usage: ")).cloned();
    let hint = variable(error)
        .map(|name| format!("the value comes from the variable {name}"))
        .or(tip)
        .or_else(|| message.ends_with(": --model <REF>").then(|| NO_MODEL.to_owned()))
        .or_else(usage)
        .unwrap_or_else(|| "--help shows what there is".to_owned());
    Failure::usage(message).hint(hint)
}

/// The variable that a wrong value came from.
fn variable(error: &Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    // Built, since only a built command can print an argument.
    let mut command = args::command();
    command.build();
    variable_of(&command, argument, value)
}

fn variable_of(command: &Command, argument: &str, value: &str) -> Option<String> {
    let names = command.get_arguments().filter(|a| a.to_string() == argument).filter_map(|a| a.get_env());
    let mut set = names.filter(|name| std::env::var_os(name).is_some_and(|v| v == value));
    let here = set.next().map(|name| name.to_string_lossy().into_owned());
    here.or_else(|| command.get_subcommands().find_map(|sub| variable_of(sub, argument, value)))
}
