//! A user's name for a model: a path or a name on the hub.

use std::path::PathBuf;

use easyroutine_files::gguf::PartName;

use super::environment::Environment;
use super::printable;
use crate::error::{Error, ErrorKind, Result};

/// A parsed reference, not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Path(PathBuf),
    Hub(HubReference),
}

/// `org/name[@revision][:FILE.gguf]`, each part valid within a path and a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HubReference {
    pub(super) id: String,
    pub(super) revision: String,
    pub(super) file: Option<String>,
}

/// The branch used if no revision is named.
pub(super) const DEFAULT_REVISION: &str = "main";

pub(super) fn parse(text: &str, revision: Option<&str>, environment: &Environment) -> Result<Reference> {
    if text.is_empty() {
        return Err(invalid("a model reference cannot be empty".into()));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(format!("`{}` holds control characters", printable(text))));
    }
    if let Some((scheme @ ("http" | "https" | "hf"), address)) = text.split_once("://") {
        let name = address.split('/').skip(usize::from(scheme != "hf")).take(2).collect::<Vec<_>>().join("/");
        return Err(Error::new(ErrorKind::InvalidReference, format!("`{}` is an address", printable(text)))
            .hint(format!("give the model's name alone: `{}`", printable(&name))));
    }
    let path = environment.expand_home(text);
    if looks_like_path(text) || path.symlink_metadata().is_ok() {
        return match revision {
            Some(_) => Err(invalid(format!("`{}` is a path, and a path has no revision", printable(text)))),
            None => Ok(Reference::Path(path)),
        };
    }
    parse_hub(text, revision).map(Reference::Hub)
}

/// Whether the text can only be meant as a path, so that a mistyped path is never requested from the hub.
fn looks_like_path(text: &str) -> bool {
    let (before_file, file) = text.split_once(':').map_or((text, None), |(id, file)| (id, Some(file)));
    let id = before_file.split_once('@').map_or(before_file, |(id, _)| id);
    let drive = id.len() == 1 && file.is_some_and(|rest| rest.starts_with('/'));
    text.starts_with(['.', '/', '~'])
        || text.contains('\\')
        || id.matches('/').count() > 1
        || (file.is_none() && is_gguf(text))
        || drive
}

pub(super) fn parse_hub(text: &str, revision: Option<&str>) -> Result<HubReference> {
    let (name, file) = text.split_once(':').map_or((text, None), |(name, file)| (name, Some(file)));
    let (id, own_revision) = name.split_once('@').map_or((name, None), |(id, own)| (id, Some(own)));
    check_id(id, text)?;
    let revision = match (own_revision, revision) {
        (Some(own), Some(other)) if own != other => {
            return Err(invalid(format!(
                "two revisions: `{}` in the reference and `{}` beside it",
                printable(own),
                printable(other)
            )));
        }
        (own, other) => own.or(other).unwrap_or(DEFAULT_REVISION),
    };
    check_revision(revision)?;
    if let Some(file) = file.filter(|file| !is_gguf(file) || !is_safe_name(file)) {
        return Err(invalid(format!(
            "`{}` names no file: after `:` goes the path of one .gguf file",
            printable(text)
        ))
        .hint(format!("`{id}:FILE.gguf`, or `{id}@REVISION:FILE.gguf`; got `{}`", printable(file))));
    }
    Ok(HubReference { id: id.into(), revision: revision.into(), file: file.map(Into::into) })
}

/// The hub's own rule for names: one or two segments of letters, digits, `-`, `_`, `.`, at most 96 long, neither
/// beginning nor ending with `-` or `.`, without `--` and `..` (huggingface_hub, `utils/_validators.py`).
fn check_id(id: &str, text: &str) -> Result<()> {
    let segments: Vec<&str> = id.split('/').collect();
    let good = |segment: &&str| {
        (1..=96).contains(&segment.len())
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && !segment.starts_with(['-', '.'])
            && !segment.ends_with(['-', '.'])
    };
    if segments.len() <= 2
        && segments.iter().all(good)
        && !id.contains("--")
        && !id.contains("..")
        && !id.ends_with(".git")
    {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::InvalidReference,
        format!("`{}` is neither a path nor a model's name", printable(text)),
    )
    .hint(
        "names are `org/name` or `name` of letters, digits, `-`, `_` and `.`; \
             paths of files that are here begin with `./` or `/`",
    ))
}

/// What git allows in the name of a branch or tag, except anything that could leave a folder.
fn check_revision(revision: &str) -> Result<()> {
    let bad_character = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\\"<>|%#".contains(c);
    let good = (1..=200).contains(&revision.len())
        && !revision.contains(bad_character)
        && revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.') && !part.ends_with('.'))
        && !revision.contains("..");
    if good {
        return Ok(());
    }
    Err(invalid(format!("`{}` cannot be a revision", printable(revision))).hint(
        "a revision is a branch (`main`), a tag (`v1.0`), `refs/pr/1` or a commit of 40 hexadecimal digits",
    ))
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidReference, message)
}

pub(super) fn is_gguf(name: &str) -> bool {
    name.len() > 5 && name.get(name.len() - 5..).is_some_and(|end| end.eq_ignore_ascii_case(".gguf"))
}

/// The files of a model that is named by one of them: that one, or every part of a split model.
pub(super) fn parts_of(file: &str) -> Vec<String> {
    PartName::parse(file).map_or_else(|| vec![file.to_owned()], |part| part.all().collect())
}

/// The first of these GGUF files and what is missing of its model, where all belong to one: a single file, or parts of a
/// split one.
pub(super) fn one_model(files: &[String]) -> Option<(&String, Vec<String>)> {
    let first = files.iter().min()?;
    let parts = parts_of(first);
    let missing = parts.iter().filter(|part| !files.contains(part)).cloned().collect();
    files.iter().all(|file| parts.contains(file)).then_some((first, missing))
}

/// True for a name from outside that stays below the folder it is joined to, on every system.
pub(super) fn is_safe_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || matches!(c, '\\' | ':'))
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// Whether the text is a full commit: 40 lower-case hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
