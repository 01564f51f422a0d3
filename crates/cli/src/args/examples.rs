//! Examples at the end of each command's help. Tests run them, in their order.

use clap::{Command, CommandFactory as _};

use super::Args;

/// One command a line, as typed.
const EXAMPLES: &str = include_str!("examples.txt");
/// Examples of one help at most.
const MOST: usize = 6;

/// The commands, each with its examples.
pub(crate) fn command() -> Command {
    with_examples(Args::command(), &[])
}

fn with_examples(command: Command, above: &[String]) -> Command {
    // The whole program has too many to show; its help names the commands.
    let command = match above {
        [] => command,
        _ => match examples(above) {
            text if text.is_empty() => command,
            text => command.after_help(text),
        },
    };
    let above = above.to_vec();
    command.mut_subcommands(move |sub| {
        let path: Vec<String> = above.iter().cloned().chain([sub.get_name().to_owned()]).collect();
        with_examples(sub, &path)
    })
}

fn examples(path: &[String]) -> String {
    let lines: Vec<&str> = EXAMPLES.lines().filter(|line| is_of(line, path)).take(MOST).collect();
    match lines.is_empty() {
        true => String::new(),
        false => format!("\u{1b}[1m\u{1b}[4mExamples:\u{1b}[0m\n  {}", lines.join("\n  ")),
    }
}

/// Whether a line is of this command, or of one below it. Flags may stand between: `runs -b runs/ ls`.
fn is_of(line: &str, path: &[String]) -> bool {
    let mut words = line.split(' ').skip(1);
    path.iter().enumerate().all(|(i, name)| match i {
        0 => words.next() == Some(name),
        1 if path[0] == "runs" => words.nth(2) == Some(name),
        _ => words.next() == Some(name),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &Command, above: &str, out: &mut Vec<(String, bool)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let name = format!("{above} {}", sub.get_name());
            out.push((name.clone(), sub.get_after_help().is_some()));
            leaves(sub, &name, out);
        }
    }

    #[test]
    fn every_command_has_an_example_of_its_own() {
        let mut found = Vec::new();
        leaves(&command(), "easyroutine", &mut found);
        assert!(found.len() > 45, "{}", found.len());
        let without: Vec<&str> =
            found.iter().filter(|(_, has)| !has).map(|(name, _)| name.as_str()).collect();
        assert!(without.is_empty(), "{without:?}");
    }

    #[test]
    fn every_example_is_a_command() {
        for line in EXAMPLES.lines() {
            assert!(line.chars().count() <= 98, "too wide for a help: {line}");
            // None has a blank within more than one pair of quotes.
            let words: Vec<String> = line
                .split(['"', '\''])
                .enumerate()
                .flat_map(|(i, part)| match i % 2 {
                    0 => part.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                })
                .collect();
            let parsed = crate::parse::try_args(words.iter().map(std::ffi::OsString::from));
            assert!(parsed.is_ok(), "{line}: {:?}", parsed.err().map(|e| e.message().to_owned()));
        }
    }
}
