//! The command line of easyroutine, as a library, since both its own program and the Python package provide the
//! command.
#![forbid(unsafe_code)]

mod args;
mod changes;
mod chat;
mod commands;
mod complete;
mod failure;
mod hosted;
mod layers;
mod memory;
mod output;
mod parse;
mod progress;
mod reading;
mod session;
mod tensors;

use std::ffi::OsString;
use std::io::Write;

use args::{Args, Command, DictCommand, JacobianCommand, ModelCommand, ProbeCommand};
use failure::{Failure, SUCCESS};

/// Runs a command line, whose first word is the program's own name, and returns the exit status.
///
/// Results go to standard output, everything else to standard error. A long command handles Ctrl-C: call this only if
/// nothing else in the process does.
pub fn main(words: impl IntoIterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = words.into_iter().collect();
    let status = match complete::answer(&words) {
        Ok(true) => SUCCESS,
        Ok(false) => typed(words),
        Err(error) => Failure::failed(error.to_string()).report(),
    };
    // The host of a library does not flush buffered output; a reader that has gone is not a failure.
    let _ = std::io::stdout().flush();
    status
}

/// Runs a typed command line.
fn typed(words: Vec<OsString>) -> u8 {
    match parse::args(words) {
        Ok(args) => {
            args.color.of_messages().write_global();
            run(&args).unwrap_or_else(|failure| failure.report())
        }
        Err(status) => status,
    }
}

fn run(args: &Args) -> Result<u8, Failure> {
    let done = |()| SUCCESS;
    match &args.command {
        Command::Lens(lens) => commands::lens::run(args, lens).map(done),
        Command::Attn(attn) => commands::attn::run(args, attn).map(done),
        Command::Extract(extract) => commands::extract::run(args, extract).map(done),
        Command::Run(next) => commands::run::run(args, next).map(done),
        Command::Patch(patch) => commands::sweep::patch(args, patch).map(done),
        Command::Dla(dla) => commands::dla::run(args, dla).map(done),
        Command::Attribute(attribute) => commands::attribute::run(args, attribute).map(done),
        Command::Edges(edges) => commands::edges::run(args, edges).map(done),
        Command::Graph(graph) => commands::graph::run(args, graph).map(done),
        Command::Jacobian { command: JacobianCommand::Fit(fit) } => {
            commands::jacobian::fit(args, fit).map(done)
        }
        Command::Jacobian { command: JacobianCommand::Merge(merge) } => {
            commands::jacobian::merge(args, merge).map(done)
        }
        Command::Tune(tune) => commands::tune::run(args, tune).map(done),
        Command::Grad(grad) => commands::grad::run(args, grad).map(done),
        Command::Ablate(ablate) => commands::sweep::ablate(args, ablate).map(done),
        Command::Compare(compare) => commands::compare_models::run(args, compare).map(done),
        Command::Tokens(tokens) => commands::tokens::run(args, tokens).map(done),
        Command::Model { command: ModelCommand::Info(model) } => commands::info::run(args, model).map(done),
        Command::Model { command: ModelCommand::Show(model) } => commands::show::run(args, model).map(done),
        Command::Model { command: ModelCommand::Ls } => commands::ls::run(args).map(done),
        Command::Model { command: ModelCommand::Check(check) } => commands::check::run(args, check),
        Command::Model { command: ModelCommand::Export(export) } => {
            commands::export::run(args, export).map(done)
        }
        Command::Dict { command: DictCommand::Info(info) } => commands::dict::info(args, info).map(done),
        Command::Dict { command: DictCommand::Active(active) } => {
            commands::dict_active::run(args, active).map(done)
        }
        Command::Dict { command: DictCommand::Check(check) } => {
            commands::dict_check::run(args, check).map(done)
        }
        Command::Dict { command: DictCommand::Export(export) } => {
            commands::dict_export::run(args, export).map(done)
        }
        Command::Dict { command: DictCommand::Page(page) } => commands::dict_page::run(args, page).map(done),
        Command::Dict { command: DictCommand::Steer(steer) } => {
            commands::dict_steer::run(args, steer).map(done)
        }
        Command::Direction(given) => commands::directions::direction(args, given).map(done),
        Command::Probe { command: ProbeCommand::Fit(given) } => {
            commands::directions::fit(args, given).map(done)
        }
        Command::Probe { command: ProbeCommand::Apply(given) } => {
            commands::directions::apply(args, given).map(done)
        }
        Command::Features(features) => commands::features::run(args, features).map(done),
        Command::Runs(runs) => commands::runs::run(args, runs),
        Command::Serve(serve) => commands::serve::run(args, serve).map(done),
        Command::Env => commands::env::run(args).map(done),
        Command::Completions { shell } => commands::shell::completions(args, *shell).map(done),
        Command::Man => commands::shell::man(args).map(done),
    }
}
