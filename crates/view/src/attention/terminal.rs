//! Patterns in a terminal: thumbnails of all heads, or one head with its tokens.

use std::fmt::Write as _;

use super::report::{AttentionReport, HeadPattern, Sink};
use crate::colour::{Rgb, cividis};
use crate::lens::ColourDepth;
use crate::text::{columns, fit, wrap};

/// Options of a terminal drawing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalOptions {
    /// Available columns.
    pub width: usize,
    /// The terminal's colours. Without colour, weights are percentages, and several heads are only summarised.
    pub colour: ColourDepth,
    /// Whether the first token is drawn.
    pub sink: Sink,
}

/// Cells per side of a thumbnail; a line of text holds two rows.
const THUMBNAIL: usize = 10;
const RESET: &str = "\x1b[0m";

/// The report in a terminal: one large head, or several as thumbnails, with the last layer on top.
#[must_use]
pub fn terminal(report: &AttentionReport, options: &TerminalOptions) -> String {
    let mut out = String::new();
    for line in report.lines(options.sink) {
        wrap(&line, options.width).iter().for_each(|line| out.extend([&fit(line, options.width), "\n"]));
    }
    match report.heads.as_slice() {
        [one] => large(&mut out, report, one, options),
        _ if options.colour == ColourDepth::None => summaries(&mut out, report),
        _ => thumbnails(&mut out, report, options),
    }
    out
}

/// One line per query, one column per key: the last ones if not all fit.
fn large(out: &mut String, report: &AttentionReport, head: &HeadPattern, options: &TerminalOptions) {
    let n = report.tokens.len();
    let longest = (0..n).map(|i| columns(&report.token(i))).max().unwrap_or(0).min(16);
    let digits = (n - 1).to_string().len();
    // A key is identified by its position, shown next to each query's token.
    let cell = digits.max(2) + 1;
    let left = longest + 1 + digits + 1;
    let fitting = (options.width.saturating_sub(left) / cell).max(1);
    let first = n.saturating_sub(fitting);
    let _ = writeln!(out, "{}", head.name());
    if first > 0 {
        let _ = writeln!(out, "{first} of {n} keys left out: a picture or a page (HTML) shows all");
    }
    let numbers: String = (first..n).map(|key| format!("{key:>cell$}")).collect();
    let _ = writeln!(out, "{}{numbers}", " ".repeat(left));
    let top = report.top(options.sink);
    for (query, row) in head.weights.iter().enumerate() {
        let token = fit(&report.token(query), longest);
        let blanks = " ".repeat(longest - columns(&token));
        let mut line = format!("{blanks}{token} {query:>digits$} ");
        for (key, weight) in row.iter().enumerate().skip(first) {
            let hidden = key == 0 && options.sink == Sink::Hidden;
            let text = if hidden { " ".repeat(cell) } else { format!("{:>cell$}", percent(*weight)) };
            match options.colour {
                _ if hidden => line += &text,
                ColourDepth::None => line += &text,
                depth => line += &(ground(depth, cividis(f64::from(*weight) / top)) + &text + RESET),
            }
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out.push_str("numbers are percents; a point is less than one\n");
}

/// One line of half blocks per two rows of cells.
fn thumbnails(out: &mut String, report: &AttentionReport, options: &TerminalOptions) {
    let top = report.top(options.sink);
    let (layers, heads) = report.sides();
    let side = THUMBNAIL.min(report.tokens.len());
    let label = layers.iter().max().map_or(1, |layer| layer.to_string().len()) + 3;
    let fitting = (options.width.saturating_sub(label) / (side + 1)).max(1);
    for heads in heads.chunks(fitting) {
        let names: String =
            heads.iter().map(|head| format!("{:<1$}", format!("H{head}"), side + 1)).collect();
        let _ = writeln!(out, "{}{}", " ".repeat(label), names.trim_end());
        for layer in &layers {
            let of_layer = |head: &usize| report.heads.iter().find(|p| p.layer == *layer && p.head == *head);
            let squares: Vec<_> =
                heads.iter().map(|head| of_layer(head).map(|p| p.pooled(side, options.sink))).collect();
            for row in (0..side).step_by(2) {
                let name = if row == 0 { format!("L{layer}") } else { String::new() };
                let _ = write!(out, "{name:<label$}");
                for square in &squares {
                    for column in 0..side {
                        let at = |row: usize| {
                            let weight = square.as_ref()?.get(row)?[column]?;
                            Some(cividis(f64::from(weight) / top))
                        };
                        out.push_str(&halves(options.colour, at(row), at(row + 1)));
                    }
                    out.push(' ');
                }
                out.push('\n');
            }
            out.push('\n');
        }
    }
}

fn summaries(out: &mut String, report: &AttentionReport) {
    out.push_str("means over all tokens but the first; entropy in nats\n");
    out.push_str("layer  head  to first  to itself  to previous  entropy\n");
    let (layers, _) = report.sides();
    for layer in layers {
        for head in report.heads.iter().filter(|head| head.layer == layer) {
            let s = head.summary();
            let _ = writeln!(
                out,
                "{:>5}  {:>4}  {:>8.3}  {:>9.3}  {:>11.3}  {:>7.3}",
                head.layer, head.head, s.first, s.own, s.previous, s.entropy
            );
        }
    }
}

fn percent(weight: f32) -> String {
    match (weight * 100.0).round() {
        percent if percent >= 1.0 => format!("{percent}"),
        percent if percent.is_nan() => "NaN".to_owned(),
        _ => "·".to_owned(),
    }
}

/// The escape sequence for a background and a legible text colour on it.
fn ground(depth: ColourDepth, colour: Rgb) -> String {
    let ink = colour.ink().rgb();
    format!("\x1b[{};{}m", code(depth, 38, ink), code(depth, 48, colour))
}

/// Two cells in one character, upper and lower; `None` is the terminal's own background.
fn halves(depth: ColourDepth, upper: Option<Rgb>, lower: Option<Rgb>) -> String {
    match (upper, lower) {
        (None, None) => " ".to_owned(),
        (Some(upper), None) => format!("\x1b[{}m▀{RESET}", code(depth, 38, upper)),
        (None, Some(lower)) => format!("\x1b[{}m▄{RESET}", code(depth, 38, lower)),
        (Some(upper), Some(lower)) => {
            format!("\x1b[{};{}m▀{RESET}", code(depth, 38, upper), code(depth, 48, lower))
        }
    }
}

/// Parameters that set the text colour (38) or the background (48).
fn code(depth: ColourDepth, what: u8, colour: Rgb) -> String {
    match depth {
        ColourDepth::Ansi256 => format!("{what};5;{}", colour.ansi256().0),
        _ => format!("{what};2;{};{};{}", colour.0, colour.1, colour.2),
    }
}
