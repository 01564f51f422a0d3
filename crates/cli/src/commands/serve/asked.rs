//! The commands that a page may run: those that only read, and write nothing but their result.

use std::ffi::OsString;
use std::path::Path;

use serde_json::Value;

use crate::args::runs::{Runs, RunsCommand};
use crate::args::{Args, Command, DictCommand, Format, Loading, ModelCommand, ModelFlag, PromptArgs};
use crate::failure::Failure;
use crate::parse;

/// Maximum words per command: no command has more flags.
const MOST_WORDS: usize = 200;

/// A command to run.
#[derive(Debug)]
pub(super) struct Asked {
    /// Its parsed arguments.
    pub(super) args: Args,
    /// Its words, as typed.
    pub(super) words: Vec<String>,
}

/// The model for a command.
#[derive(Debug, Clone, Copy)]
pub(super) struct With<'w> {
    pub(super) reference: &'w str,
    pub(super) loading: &'w Loading,
}

/// Parses a command from a page. Commands that need a model get the loaded one.
///
/// # Errors
/// If it is not a command, or one that a page may not run.
pub(super) fn read(
    question: &Value,
    format: Format,
    with: Option<With<'_>>,
    base: Option<&Path>,
) -> Result<Asked, Failure> {
    let given = question["words"].as_array().filter(|words| words.len() <= MOST_WORDS);
    let given: Option<Vec<String>> =
        given.and_then(|words| words.iter().map(|word| word.as_str().map(str::to_owned)).collect());
    let Some(mut words) = given.filter(|words| !words.is_empty()) else {
        return Err(Failure::usage("a command is a list of words"));
    };
    if let Some(with) = with {
        match words.iter().map(String::as_str).take(2).collect::<Vec<_>>()[..] {
            ["dict", "active"] | ["runs", "lens"] => drop(words.splice(2..2, model_words(with))),
            [command, ..] if takes_model(command) => drop(words.splice(1..1, model_words(with))),
            _ => {}
        }
    }
    if let (true, Some(base)) = (words[0] == "runs", base) {
        words.splice(1..1, ["--base".to_owned(), base.display().to_string()]);
    }
    let format_name = format!("{format:?}").to_lowercase();
    let typed = ["easyroutine", "--format", &format_name].into_iter().chain(words.iter().map(String::as_str));
    let args = parse::try_args(typed.map(OsString::from))?;
    refuse_what_is_not_for_a_page(&args)?;
    words.insert(0, "easyroutine".to_owned());
    Ok(Asked { args, words })
}

/// Whether a command takes a prompt and a model.
fn takes_model(command: &str) -> bool {
    matches!(
        command,
        "lens"
            | "attn"
            | "run"
            | "patch"
            | "ablate"
            | "dla"
            | "grad"
            | "attribute"
            | "edges"
            | "graph"
            | "tokens"
    )
}

/// The flags that load this model.
fn model_words(with: With<'_>) -> Vec<String> {
    let Loading { finding, dtype, threads, memory, device: _ } = with.loading;
    let mut words = vec!["--model".to_owned(), with.reference.to_owned()];
    let mut flag = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), value]);
        }
    };
    flag("--dtype", (dtype.dtype() != easyroutine::Dtype::F32).then(|| "bf16".to_owned()));
    flag("--threads", threads.map(|n| n.to_string()));
    flag("--memory", memory.map(|bytes| bytes.to_string()));
    flag("--revision", finding.revision.clone());
    flag("--pre", finding.pre.clone());
    flag("--adapter", finding.adapter.clone());
    finding.allow_config_key.iter().for_each(|key| flag("--allow-config-key", Some(key.clone())));
    finding.allow_tensor.iter().for_each(|name| flag("--allow-tensor", Some(name.clone())));
    words.extend(finding.no_adapter.then(|| "--no-adapter".to_owned()));
    words.extend(finding.offline.then(|| "--offline".to_owned()));
    words
}

/// A page may only read, and set tags; it can neither write files nor use standard input.
fn refuse_what_is_not_for_a_page(args: &Args) -> Result<(), Failure> {
    if !args.output.is_empty() {
        return Err(Failure::usage("-o: the page does not write files"));
    }
    let refused = |what: &str| {
        Err(Failure::usage(format!("the page does not run {what}")).hint("run it in a terminal"))
    };
    match &args.command {
        Command::Lens(lens) => prompt(&lens.prompt),
        Command::Attn(attn) => prompt(&attn.prompt),
        Command::Run(next) => prompt(&next.prompt),
        Command::Patch(patch) => prompt(&patch.prompt),
        Command::Ablate(ablate) => prompt(&ablate.prompt),
        Command::Dla(dla) if dla.prompt.pairs.is_some() => refused("`dla --pairs`, which reads a file"),
        Command::Dla(dla) => prompt(&dla.prompt.one()),
        Command::Grad(grad) => prompt(&grad.prompt),
        Command::Attribute(attribute) if attribute.prompt.pairs.is_some() => {
            refused("`attribute --pairs`, which reads a file")
        }
        Command::Attribute(attribute) => prompt(&attribute.prompt.one()),
        Command::Tokens(tokens) => prompt(&tokens.prompt),
        Command::Edges(edges) if edges.state.is_some() => refused("`edges --state`, which writes a file"),
        Command::Graph(graph) => prompt(&graph.prompt),
        Command::Dict { command: DictCommand::Active(active) } => prompt(&active.prompt),
        Command::Dict { command: DictCommand::Steer(steer) } => prompt(&steer.prompt),
        Command::Edges(_) => Ok(()),
        Command::Model { command: ModelCommand::Info(_) }
        | Command::Dict { command: DictCommand::Info(_) | DictCommand::Page(_) } => Ok(()),
        Command::Runs(runs) => match &runs.command {
            RunsCommand::Ls
            | RunsCommand::Query(_)
            | RunsCommand::Show(_)
            | RunsCommand::Load(_)
            | RunsCommand::Lens(_)
            | RunsCommand::Tag(_)
            | RunsCommand::Verify { .. } => Ok(()),
            _ => refused("commands of `runs` that change files"),
        },
        _ => refused("this command, which writes files or takes long"),
    }
}

fn prompt(prompt: &PromptArgs) -> Result<(), Failure> {
    if prompt.file.is_some() {
        return Err(Failure::usage("--file: the page does not read files").hint("paste the text"));
    }
    match prompt.prompt.as_deref() {
        Some("-") => Err(Failure::usage("the prompt `-` is standard input, which a page lacks")),
        _ => Ok(()),
    }
}

/// The model that a command names, if any.
pub(super) fn model(command: &Command) -> Option<&ModelFlag> {
    Some(match command {
        Command::Lens(lens) => &lens.model,
        Command::Attn(attn) => &attn.model,
        Command::Run(next) => &next.model,
        Command::Patch(patch) => &patch.model,
        Command::Ablate(ablate) => &ablate.model,
        Command::Dla(dla) => &dla.model,
        Command::Grad(grad) => &grad.model,
        Command::Attribute(attribute) => &attribute.model,
        Command::Edges(edges) => &edges.model,
        Command::Graph(graph) => &graph.model,
        Command::Dict { command: DictCommand::Active(active) } => &active.model,
        Command::Dict { command: DictCommand::Steer(steer) } => &steer.model,
        Command::Tokens(tokens) => &tokens.model,
        Command::Runs(Runs { command: RunsCommand::Lens(lens), .. }) => &lens.model,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Words that commands know, and some that none does.
    const WORDS: &[&str] = &[
        "lens",
        "attn",
        "run",
        "patch",
        "ablate",
        "dla",
        "grad",
        "attribute",
        "edges",
        "graph",
        "tokens",
        "dict",
        "active",
        "page",
        "info",
        "runs",
        "ls",
        "query",
        "show",
        "load",
        "tag",
        "rm",
        "gc",
        "commit",
        "import",
        "export",
        "verify",
        "extract",
        "features",
        "serve",
        "model",
        "tune",
        "completions",
        "man",
        "-o",
        "--output",
        "x.json",
        "--file",
        "--pairs",
        "--state",
        "--model",
        "-m",
        "--base",
        "-b",
        "--format",
        "csv",
        "--intervene",
        "resid_out_1@all=0",
        "--dict",
        "sae=path",
        "--dict-set",
        "--help",
        "--version",
        "-",
        "--",
        "-1",
        "",
        "the cat",
        "--yes",
        "--threads",
        "2",
        "--adapter",
        "--rows",
        "0:4",
        "--k=3",
        "\u{0}",
        "\u{202e}",
    ];

    /// Whether a command only looks, or writes a tag.
    fn is_for_a_page(args: &Args) -> bool {
        let is_look = !matches!(
            args.command,
            Command::Extract(_)
                | Command::Features(_)
                | Command::Serve(_)
                | Command::Tune(_)
                | Command::Jacobian { .. }
                | Command::Direction(_)
                | Command::Probe { .. }
        );
        let is_run = match &args.command {
            Command::Runs(runs) => matches!(
                runs.command,
                RunsCommand::Ls
                    | RunsCommand::Query(_)
                    | RunsCommand::Show(_)
                    | RunsCommand::Load(_)
                    | RunsCommand::Lens(_)
                    | RunsCommand::Tag(_)
                    | RunsCommand::Verify { .. }
            ),
            Command::Model { command } => matches!(command, ModelCommand::Info(_)),
            Command::Dict { command } => !matches!(command, DictCommand::Check(_) | DictCommand::Export(_)),
            _ => true,
        };
        is_look && is_run && args.output.is_empty()
    }

    fn asked(question: &Value) {
        let base = Path::new("runs");
        for base in [None, Some(base)] {
            match read(question, Format::Json, None, base) {
                Ok(asked) => {
                    assert!(is_for_a_page(&asked.args), "{question}: {:?}", asked.args);
                    assert_eq!(asked.words[0], "easyroutine");
                }
                Err(failure) => assert!(!failure.message().is_empty(), "{question}"),
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_a_page_asks_is_a_look_or_is_refused(
            words in prop::collection::vec(prop::sample::select(WORDS), 0..9),
        ) {
            asked(&json!({"words": words}));
        }

        #[test]
        fn no_text_breaks_a_question(command in prop::sample::select(WORDS), words in prop::collection::vec(".*", 0..5)) {
            let words: Vec<String> = std::iter::once(command.to_owned()).chain(words).collect();
            asked(&json!({"words": words}));
        }
    }

    #[test]
    fn what_is_no_list_of_words_is_no_command() {
        for words in [
            json!(null),
            json!(3),
            json!("lens"),
            json!([]),
            json!([1]),
            json!([["lens"]]),
            json!({"0": "lens"}),
        ] {
            assert!(read(&json!({"words": words}), Format::Json, None, None).is_err());
        }
    }
}
