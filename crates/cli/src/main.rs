//! The program `easyroutine`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(easyroutine_cli::main(std::env::args_os()))
}
