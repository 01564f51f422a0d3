//! Destinations and formats of results.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use easyroutine_view::drawing::{self, Drawing, Screen};
use easyroutine_view::lens::ColourDepth;
use easyroutine_view::table::Table;
use easyroutine_view::{json_text, lines_of_text};
use serde_json::Value;

pub(crate) use easyroutine_view::table::Cell;

use crate::args::{Args, Colour, Format};
use crate::failure::{Failure, one_line};
use crate::hosted::{self, Event};

/// One destination of a result, with its format.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    pub(crate) format: Format,
    /// `None`: standard output.
    pub(crate) file: Option<PathBuf>,
}

/// The targets of a command that can write `formats`, the first being the default for a terminal and the second for a
/// pipe.
///
/// # Errors
/// If the command cannot write a format, or an extension names none.
pub(crate) fn targets(args: &Args, formats: &[Format]) -> Result<Vec<Destination>, Failure> {
    if args.output.is_empty() {
        return Ok(vec![standard_output(args, formats)?]);
    }
    targets_of(args, args.output.iter(), formats)
}

/// The same for a selection of the files in `-o`.
///
/// # Errors
/// As [`targets`].
pub(crate) fn targets_of<'f>(
    args: &Args,
    files: impl Iterator<Item = &'f PathBuf>,
    formats: &[Format],
) -> Result<Vec<Destination>, Failure> {
    let of_file = |file: &PathBuf| {
        let format = if args.format == Format::Auto { by_ending(file, formats)? } else { args.format };
        let format = allowed(format, formats)?;
        agrees(file, format)?;
        folder_exists(file)?;
        Ok(Destination { format, file: Some(file.clone()) })
    };
    files.map(of_file).collect()
}

/// Standard output, regardless of `-o`.
///
/// # Errors
/// If the command cannot write the format.
pub(crate) fn standard_output(args: &Args, formats: &[Format]) -> Result<Destination, Failure> {
    let automatic = if io::stdout().is_terminal() { formats[0] } else { formats[1] };
    let format = match args.format {
        Format::Auto => format_by_variable()?.unwrap_or(automatic),
        chosen => chosen,
    };
    let format = allowed(format, formats)?;
    if format == Format::Png && io::stdout().is_terminal() && !hosted::is_hosted() {
        return Err(Failure::usage("a terminal cannot show a PNG").hint("write it to a file: -o lens.png"));
    }
    Ok(Destination { format, file: None })
}

/// Checked before any work, since a long run must not end at a missing folder.
///
/// # Errors
/// If the file's folder does not exist, or the file is itself a folder.
pub(crate) fn folder_exists(file: &Path) -> Result<(), Failure> {
    if file.is_dir() {
        return Err(Failure::usage(format!("{} is a folder", file.display())).hint("name a file in it"));
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(Failure::failed(format!("{}: there is no folder {}", file.display(), folder.display()))
                .hint(format!("mkdir -p '{}'", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Writes a text or a picture. All results for standard output pass here, so that no text contains control characters
/// that a terminal would obey.
///
/// # Errors
/// If the file or pipe cannot be written. A closed pipe is a quiet end.
pub(crate) fn write(target: &Destination, content: &[u8]) -> Result<(), Failure> {
    match &target.file {
        Some(file) => write_file(file, content),
        None => {
            let content = harmless(target.format, content);
            if hosted::write(&content) {
                return Ok(());
            }
            let mut out = io::stdout().lock();
            let written = out.write_all(&content).and_then(|()| out.flush());
            written.map_err(|e| match e.kind() {
                io::ErrorKind::BrokenPipe => Failure::quiet(),
                _ => Failure::failed(format!("standard output: {e}")),
            })
        }
    }
}

/// Writes a drawing, or its report as JSON, to every target.
///
/// # Errors
/// As [`write`], and if a page or picture cannot be drawn.
pub(crate) fn drawings(
    args: &Args,
    targets: &[Destination],
    drawn: &dyn Drawing,
    json: impl Fn() -> Result<String, easyroutine_view::Error>,
) -> Result<(), Failure> {
    let content = |target: &Destination| -> Result<Vec<u8>, Failure> {
        let format = match target.format {
            Format::Json | Format::Jsonl => return Ok((json()? + "\n").into_bytes()),
            Format::Tsv => drawing::Format::Tsv,
            Format::Csv => drawing::Format::Csv,
            Format::Md => drawing::Format::Markdown,
            Format::Html => drawing::Format::Html,
            Format::Svg => drawing::Format::Svg,
            Format::Png => drawing::Format::Png,
            Format::Auto | Format::Table => drawing::Format::Terminal,
        };
        let screen = Screen { width: width(), colour: colour_depth(args, target) };
        Ok(drawn.draw(format, screen)?)
    };
    // All are drawn before any is written: a picture that is too large must not leave half of the output behind.
    let contents = targets.iter().map(content).collect::<Result<Vec<_>, _>>()?;
    targets.iter().zip(&contents).try_for_each(|(target, content)| write(target, content))
}

/// Writes a table, or its JSON, to every target.
pub(crate) fn tables<C: Clone + Into<Cell>>(
    targets: &[Destination],
    header: &[&str],
    rows: &[Vec<C>],
    json: &Value,
) -> Result<(), Failure> {
    targets.iter().try_for_each(|target| write(target, render(target.format, header, rows, json)?.as_bytes()))
}

/// Writes a command's findings to every target, and returns their exit status, even if the reader has gone.
///
/// # Errors
/// As [`render`] and [`write`].
pub(crate) fn write_found<C: Clone + Into<Cell>>(
    targets: &[Destination],
    header: &[&str],
    rows: &[Vec<C>],
    json: &Value,
    status: u8,
) -> Result<u8, Failure> {
    for target in targets {
        match write(target, render(target.format, header, rows, json)?.as_bytes()) {
            Err(failure) if failure.is_quiet() => {}
            written => written?,
        }
    }
    Ok(status)
}

/// The same text, with escapes for controls and for characters that change the writing direction. Pages and pictures
/// have their own escaping.
fn harmless(format: Format, content: &[u8]) -> Cow<'_, [u8]> {
    match (format, std::str::from_utf8(content)) {
        (Format::Html | Format::Svg | Format::Png, _) | (_, Err(_)) => Cow::Borrowed(content),
        (Format::Json | Format::Jsonl, Ok(text)) => Cow::Owned(json_text(text).into_bytes()),
        (Format::Auto | Format::Table, Ok(text)) => Cow::Owned(lines_of_text(text, true).into_bytes()),
        (Format::Tsv | Format::Csv | Format::Md, Ok(text)) => {
            Cow::Owned(lines_of_text(text, false).into_bytes())
        }
    }
}

/// Warns if NaNs were computed, by the model itself or under interventions.
pub(crate) fn warn_of_nan(found: bool, is_changed: bool) {
    let text = match is_changed {
        true => {
            "values that are not numbers were computed: what an intervention put in or added may be NaN or too large"
        }
        false => "the model computes values that are not numbers; `easyroutine model check` says where",
    };
    if found {
        note("warning", text);
    }
}

/// Prints a message to standard error.
pub(crate) fn note(kind: &str, text: &str) {
    if hosted::say(Event::Note { kind, text }) {
        return;
    }
    // Standard error may be closed, in which case there is nowhere to report it.
    let _ = writeln!(anstream::stderr(), "\u{1b}[1;33m{kind}:\u{1b}[0m {}", one_line(text));
}

fn write_file(file: &Path, content: &[u8]) -> Result<(), Failure> {
    replace(file, |at| std::fs::write(at, content))
}

/// Creates or replaces a file, so that it is complete or absent.
///
/// # Errors
/// The error of `fill` or of the system.
pub(crate) fn replace(file: &Path, fill: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), Failure> {
    Ok(easyroutine_app::files::replace(file, fill)?)
}

/// The format in `EASYROUTINE_FORMAT`, if it is set.
fn format_by_variable() -> Result<Option<Format>, Failure> {
    let word = std::env::var("EASYROUTINE_FORMAT").unwrap_or_default();
    match Format::from_str(&word, true) {
        Ok(Format::Auto) => Ok(None),
        Ok(format) => Ok(Some(format)),
        Err(_) if word.is_empty() => Ok(None),
        Err(_) => Err(Failure::usage(format!("EASYROUTINE_FORMAT: `{word}` is not a format"))
            .hint(format!("formats are {}", names(Format::value_variants())))),
    }
}

fn allowed(format: Format, formats: &[Format]) -> Result<Format, Failure> {
    if formats.contains(&format) {
        return Ok(format);
    }
    Err(Failure::usage(format!("this command does not write {}", name(format)))
        .hint(format!("it writes {}", names(formats))))
}

fn by_ending(file: &Path, formats: &[Format]) -> Result<Format, Failure> {
    let ending = file.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let found = match ending.as_str() {
        "txt" => formats.contains(&Format::Table).then_some(Format::Table),
        "markdown" => Some(Format::Md),
        "htm" => Some(Format::Html),
        "table" => None,
        _ => formats.iter().copied().find(|f| name(*f) == ending),
    };
    found.ok_or_else(|| {
        Failure::usage(format!("{}: the ending names no format of this command", file.display()))
            .hint(format!("endings are {}; or pass --format", endings(formats)))
    })
}

/// Refuses a format that contradicts the file's extension.
fn agrees(file: &Path, format: Format) -> Result<(), Failure> {
    match by_ending(file, Format::value_variants()) {
        Ok(named) if named != format && named != Format::Auto => {
            let (is, says) = (name(named), name(format));
            Err(Failure::usage(format!("--format {says}: {} ends as {is} does", file.display()))
                .hint("leave --format out, or give the file another ending"))
        }
        _ => Ok(()),
    }
}

fn name(format: Format) -> String {
    format!("{format:?}").to_ascii_lowercase()
}

fn names(formats: &[Format]) -> String {
    let mut names: Vec<String> = formats.iter().map(|f| name(*f)).collect();
    names.dedup();
    names.join(", ")
}

/// The extensions of formats; that of a table is `.txt`.
fn endings(formats: &[Format]) -> String {
    let ending = |f: &Format| if *f == Format::Table { ".txt".to_owned() } else { format!(".{}", name(*f)) };
    let mut endings: Vec<String> = formats.iter().map(ending).collect();
    endings.dedup();
    endings.join(", ")
}

/// The colours allowed in the terminal table. A file gets colour only on request.
pub(crate) fn colour_depth(args: &Args, target: &Destination) -> ColourDepth {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let wanted = match args.color {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => {
            target.file.is_none()
                && io::stdout().is_terminal()
                && variable("NO_COLOR").is_empty()
                && variable("TERM") != "dumb"
        }
    };
    let true_colour = matches!(variable("COLORTERM").as_str(), "truecolor" | "24bit");
    match (wanted, true_colour, args.color) {
        (false, ..) => ColourDepth::None,
        (true, true, _) | (true, _, Colour::Always) => ColourDepth::True,
        (true, false, _) => ColourDepth::Ansi256,
    }
}

/// The terminal's columns. `COLUMNS` takes precedence; without a terminal, 120.
pub(crate) fn width() -> usize {
    let columns = std::env::var("COLUMNS").ok().and_then(|c| c.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    columns.or_else(terminal).unwrap_or(120).clamp(20, 2000)
}

/// A table in the given format; the JSON formats print `json`.
///
/// # Errors
/// Never for the formats in [`PLAIN`].
pub(crate) fn render<C: Clone + Into<Cell>>(
    format: Format,
    header: &[&str],
    rows: &[Vec<C>],
    json: &Value,
) -> Result<String, Failure> {
    let table = || Table::new(header, rows.iter().map(|row| row.iter().cloned().map(Into::into).collect()));
    Ok(match format {
        Format::Jsonl => json.to_string() + "\n",
        Format::Json => serde_json::to_string_pretty(json).unwrap_or_default() + "\n",
        Format::Tsv => table().tsv(),
        Format::Csv => table().csv(),
        Format::Md => table().markdown(),
        _ => table().terminal(),
    })
}

/// Formats of results that can also be drawn as pictures.
pub(crate) const DRAWN: &[Format] = &[
    Format::Table,
    Format::Tsv,
    Format::Json,
    Format::Csv,
    Format::Md,
    Format::Html,
    Format::Svg,
    Format::Png,
    Format::Jsonl,
];

/// Formats of a plain table.
pub(crate) const PLAIN: &[Format] =
    &[Format::Table, Format::Tsv, Format::Json, Format::Csv, Format::Md, Format::Jsonl];
