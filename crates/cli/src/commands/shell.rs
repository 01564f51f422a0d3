//! `completions` and `man`, both made from the flags themselves.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::{Args, Format};
use crate::failure::Failure;
use crate::output::{self, Target};

pub(crate) fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "easyroutine", &mut script);
    output::write(&Target { format: Format::Table, file: None }, &script)
}

pub(crate) fn man() -> Result<(), Failure> {
    let mut page = Vec::new();
    let failed = |e: std::io::Error| Failure::failed(format!("manual page: {e}"));
    let command = Args::command();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(failed)?;
    // One page holds all: a reader searches one file.
    for sub in command.get_subcommands().filter(|c| c.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        man.render_name_section(&mut page).map_err(failed)?;
        man.render_synopsis_section(&mut page).map_err(failed)?;
        man.render_options_section(&mut page).map_err(failed)?;
    }
    output::write(&Target { format: Format::Table, file: None }, &page)
}
