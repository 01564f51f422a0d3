//! `completions` and `man`.

use std::io::{self, Write};

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

use super::env::VARIABLES;
use crate::args::{self, Args, Format};
use crate::complete;
use crate::failure::{EXIT_CODES, Failure};
use crate::output::{self, Destination};

pub(crate) fn completions(args: &Args, shell: Shell) -> Result<(), Failure> {
    let script =
        complete::script(shell).map_err(|e| Failure::failed(format!("completions of {shell}: {e}")))?;
    write(args, &script)
}

pub(crate) fn man(args: &Args) -> Result<(), Failure> {
    let mut page = Vec::new();
    // Built, so that a subcommand knows its full name.
    let mut command = args::command();
    command.build();
    let rendered = Man::new(command.clone())
        .render(&mut page)
        .and_then(|()| subcommands(&command, &mut page))
        .and_then(|()| surroundings(&mut page));
    rendered.map_err(|e| Failure::failed(format!("manual page: {e}")))?;
    write(args, &page)
}

/// One page for all, so that a reader searches one file.
fn subcommands(command: &Command, page: &mut Vec<u8>) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let man = Man::new(sub.clone());
        man.render_name_section(page)?;
        man.render_synopsis_section(page)?;
        man.render_options_section(page)?;
        man.render_extra_section(page)?;
        subcommands(sub, page)?;
    }
    Ok(())
}

/// Topics for which no flag's help has room.
fn surroundings(page: &mut Vec<u8>) -> io::Result<()> {
    let token = [
        ("HF_TOKEN", "token for the hub, for gated models"),
        ("EASYROUTINE_SERVE_TOKEN", "as --token of `serve`, without standing in the list of processes"),
    ];
    let variables = VARIABLES.iter().chain(&token).map(|(name, meaning)| ((*name).to_owned(), *meaning));
    let codes = EXIT_CODES.iter().map(|(code, meaning)| (code.to_string(), *meaning));
    section(page, "ENVIRONMENT", variables)?;
    section(page, "EXIT STATUS", codes)
}

fn section<'a>(
    page: &mut Vec<u8>,
    title: &str,
    entries: impl Iterator<Item = (String, &'a str)>,
) -> io::Result<()> {
    writeln!(page, ".SH \"{title}\"")?;
    for (name, meaning) in entries {
        writeln!(page, ".TP\n\\fB{name}\\fR\n{}", meaning.replace('-', "\\-"))?;
    }
    Ok(())
}

fn write(args: &Args, content: &[u8]) -> Result<(), Failure> {
    if args.output.is_empty() {
        return output::write(&Destination { format: Format::Table, file: None }, content);
    }
    args.output.iter().try_for_each(|file| {
        output::folder_exists(file)?;
        output::write(&Destination { format: Format::Table, file: Some(file.clone()) }, content)
    })
}
