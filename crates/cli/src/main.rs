//! The program `easyroutine`.
#![forbid(unsafe_code)]

mod limits;

use std::process::ExitCode;

fn main() -> ExitCode {
    limits::survive_the_size_of_files();
    ExitCode::from(easyroutine_cli::main(std::env::args_os()))
}
