//! The command line of easyroutine.
#![forbid(unsafe_code)]

mod args;
mod changes;
mod commands;
mod failure;
mod layers;
mod memory;
mod output;
mod progress;
mod session;
mod tensors;
mod typed;

use std::process::ExitCode;

use args::{Args, Command, ModelCommand};
use failure::Failure;

fn main() -> ExitCode {
    let args = match typed::args() {
        Ok(args) => args,
        Err(code) => return code,
    };
    args.color.of_messages().write_global();
    match run(&args) {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let done = |()| ExitCode::SUCCESS;
    match &args.command {
        Command::Lens(lens) => commands::lens::run(args, lens).map(done),
        Command::Attn(attn) => commands::attn::run(args, attn).map(done),
        Command::Extract(extract) => commands::extract::run(args, extract).map(done),
        Command::Run(next) => commands::run::run(args, next).map(done),
        Command::Patch(patch) => commands::sweep::patch(args, patch).map(done),
        Command::Ablate(ablate) => commands::sweep::ablate(args, ablate).map(done),
        Command::Tokens(tokens) => commands::tokens::run(args, tokens).map(done),
        Command::Model { command: ModelCommand::Info(model) } => commands::info::run(args, model).map(done),
        Command::Model { command: ModelCommand::Ls } => commands::ls::run(args).map(done),
        Command::Model { command: ModelCommand::Check(check) } => commands::check::run(args, check),
        Command::Model { command: ModelCommand::Export(export) } => {
            commands::export::run(args, export).map(done)
        }
        Command::Runs(runs) => commands::runs::run(args, runs),
        Command::Env => commands::env::run(args).map(done),
        Command::Completions { shell } => commands::shell::completions(args, *shell).map(done),
        Command::Man => commands::shell::man(args).map(done),
    }
}
