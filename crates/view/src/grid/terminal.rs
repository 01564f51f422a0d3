//! The grid in a terminal: one number per cell, on blue if negative and on orange if positive.

use std::fmt::Write as _;

use super::GridReport;
use crate::colour::{Rgb, diverging};
use crate::lens::ColourDepth;
use crate::text::{columns, fit, printable};

/// The report as a table of at most `width` columns, with the last layer on top; it says what it omits.
#[must_use]
pub fn terminal(report: &GridReport, width: usize, colour: ColourDepth) -> String {
    let mut out = String::new();
    let bold = |text: &str| match colour {
        ColourDepth::None => text.to_owned(),
        _ => format!("\u{1b}[1m{text}\u{1b}[0m"),
    };
    let _ = writeln!(out, "{}", bold(&printable(&report.title)));
    for line in report.shown_lines() {
        let _ = writeln!(out, "{line}");
    }
    let names = report.prompts.iter().map(|(what, _)| columns(&printable(what))).max().unwrap_or(0);
    for (what, prompt) in &report.prompts {
        let (what, blanks) = (printable(what), " ".repeat(names - columns(&printable(what))));
        let _ = writeln!(
            out,
            "{what}{blanks}  {}",
            fit(&printable(prompt), width.saturating_sub(names + 2).max(8))
        );
    }
    let _ = writeln!(out, "{}\n", super::meaning(report, ["positive", "negative"]));

    let label = report.rows.iter().map(|row| columns(&printable(&row.label))).max().unwrap_or(0);
    let widest = |column: usize| report.rows.iter().map(|row| report.text(&row.cells[column]).len()).max();
    let heads: Vec<String> =
        report.columns.iter().map(|c| printable(c.token.as_ref().unwrap_or(&c.label))).collect();
    let cell = (0..heads.len()).filter_map(widest).max().unwrap_or(0).max(5);
    let cell = cell.max(heads.iter().map(|head| columns(head)).max().unwrap_or(0).min(9));
    let fits = (width.saturating_sub(label) / (cell + 1)).clamp(1, heads.len().max(1));

    let blanks = |text: &str, to: usize| " ".repeat(to.saturating_sub(columns(text)));
    for row in report.rows_downwards() {
        let name = printable(&row.label);
        let _ = write!(out, "{}{name}", blanks(&name, label));
        for value in row.cells.iter().take(fits) {
            let number = report.text(value);
            let padded = format!("{}{number}", blanks(&number, cell));
            let shown = match value.is_empty() {
                true => padded,
                false => painted(&padded, value.effect / report.reach(), colour),
            };
            let _ = write!(out, " {shown}");
        }
        out.push('\n');
    }
    let mut line = |texts: &mut dyn Iterator<Item = String>| {
        out.push_str(&" ".repeat(label));
        for text in texts.take(fits) {
            let text = fit(&text, cell);
            let _ = write!(out, " {}{text}", blanks(&text, cell));
        }
        out.push('\n');
    };
    line(&mut heads.iter().cloned());
    if report.columns.iter().any(|column| column.token.is_some()) {
        line(&mut report.columns.iter().map(|column| printable(&column.label)));
    }
    if fits < heads.len() {
        let _ = writeln!(out, "{} of {} columns fit; the whole: -o grid.html", fits, heads.len());
    }
    out
}

fn painted(text: &str, part: f64, colour: ColourDepth) -> String {
    let ground = diverging(part);
    match colour {
        ColourDepth::None => text.to_owned(),
        ColourDepth::True => {
            let (Rgb(r, g, b), Rgb(x, y, z)) = (ground, ground.ink().rgb());
            format!("\u{1b}[48;2;{r};{g};{b};38;2;{x};{y};{z}m{text}\u{1b}[0m")
        }
        ColourDepth::Ansi256 => {
            let (entry, shown) = ground.ansi256();
            let ink = if shown.ink() == crate::colour::Ink::Black { 16 } else { 231 };
            format!("\u{1b}[48;5;{entry};38;5;{ink}m{text}\u{1b}[0m")
        }
    }
}
