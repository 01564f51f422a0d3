//! The coloured table for terminals, and the plain one for those without colour.

use std::fmt::Write as _;

use super::grid::{Cell, Column, Grid};
use super::metric::{Metric, Scale, Value};
use super::report::LensReport;
use super::words;
use crate::colour::{Rgb, cividis};
use crate::text::{columns, fit, printable};

/// Options of a terminal table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalOptions {
    /// Available columns; the table says what it omitted.
    pub width: usize,
    /// The terminal's colours.
    pub colour: ColourDepth,
    /// What colour represents (without colour: the number next to each token).
    pub metric: Metric,
}

/// A terminal's colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ColourDepth {
    /// None: aligned text with the number next to each token, without any escape sequence.
    #[default]
    None,
    /// The 256-colour palette.
    Ansi256,
    /// 24 bits.
    True,
}

impl Default for TerminalOptions {
    fn default() -> Self {
        Self { width: 80, colour: ColourDepth::None, metric: Metric::default() }
    }
}

/// The report as a table for a terminal: final layer on top, embedding at the bottom.
#[must_use]
pub fn terminal(report: &LensReport, options: &TerminalOptions) -> String {
    let grid = Grid::new(report);
    let table = Table { report, options, scale: options.metric.scale(report), grid: &grid };
    table.draw()
}

struct Table<'a> {
    report: &'a LensReport,
    options: &'a TerminalOptions,
    scale: Scale,
    grid: &'a Grid<'a>,
}

/// Which columns are shown, and their widths.
struct Fitted {
    label: usize,
    /// Spaces on both sides of a cell.
    before: usize,
    after: usize,
    first: usize,
    widths: Vec<usize>,
}

const RESET: &str = "\x1b[0m";
const NEXT: &str = "next →";
const INPUT: &str = "input →";
/// Maximum column widths, from roomy to tight.
const CAPS: [usize; 8] = [20, 16, 14, 12, 10, 9, 8, 7];
/// Width of a column if some are omitted: tokens of this length are still distinguishable.
const CAP_WHEN_CUT: usize = 8;

impl Table<'_> {
    fn draw(&self) -> String {
        let fitted = self.fit_columns();
        let mut out = String::new();
        self.head(&mut out, &fitted);
        let columns = &self.grid.columns[fitted.first..];
        self.token_line(&mut out, &fitted, NEXT, columns.iter().map(next_text));
        for row in &self.grid.rows {
            let _ = write!(out, "{}", row_label(&row.label, &fitted));
            for (cell, &width) in row.cells[fitted.first..].iter().zip(&fitted.widths) {
                out.push_str(&self.cell(*cell, width, &fitted));
            }
            end_line(&mut out);
        }
        self.token_line(&mut out, &fitted, INPUT, columns.iter().map(input_text));
        out
    }

    fn head(&self, out: &mut String, fitted: &Fitted) {
        let report = self.report;
        let bold = if self.coloured() { ("\x1b[1m", RESET) } else { ("", "") };
        for line in wrap(&words::model(&report.model), self.options.width) {
            let _ = writeln!(out, "{}{line}{}", bold.0, bold.1);
        }
        let reading = format!("{} · {}", words::layers(report), words::reading(report));
        for text in std::iter::once(reading).chain(words::changes(&report.settings.interventions)) {
            wrap(&text, self.options.width).iter().for_each(|line| out.extend([line, "\n"]));
        }
        self.legend(out);
        if fitted.first > 0 {
            let shown = &self.grid.columns[fitted.first..];
            let (from, to) =
                (shown.first().map_or(0, |c| c.position), shown.last().map_or(0, |c| c.position));
            let text = format!(
                "{} of {} columns left out: showing tokens {from} to {to}; a wider terminal, a choice of positions or a page (HTML) shows more",
                fitted.first,
                self.grid.columns.len()
            );
            wrap(&text, self.options.width).iter().for_each(|line| out.extend([line, "\n"]));
        }
    }

    fn legend(&self, out: &mut String) {
        let words = self.options.metric.words(self.report);
        let star = "* = the model's top token is the actual next one";
        let width = self.options.width;
        if !self.coloured() {
            let text = format!("number = {words} · = before a token: same as the final layer's · {star}");
            wrap(&text, width).iter().for_each(|line| out.extend([line, "\n"]));
            return;
        }
        let ticks = &self.scale.ticks;
        let (low, high) = (&ticks[0].1, &ticks[ticks.len() - 1].1);
        let bar: String = (0..16).map(|i| self.paint(cividis(f64::from(i) / 15.0), false) + " ").collect();
        wrap(&format!("colour = {words}"), width).iter().for_each(|line| out.extend([line, "\n"]));
        let same = "same token as the model predicts";
        let parts = [
            (columns(low) + columns(high) + 18, format!("{low} {bar}{RESET} {high}")),
            (5 + columns(same), format!("\x1b[1;4mbold{RESET} {same}")),
            (columns(star), fit(star, width)),
        ];
        let mut used = 0;
        for (wide, part) in parts {
            let break_before = if used == 0 {
                ""
            } else if used + wide <= width {
                "   "
            } else {
                used = 0;
                "\n"
            };
            out.extend([break_before, &part]);
            used += wide + 3;
        }
        out.push('\n');
    }

    fn token_line(
        &self,
        out: &mut String,
        fitted: &Fitted,
        label: &str,
        texts: impl Iterator<Item = String>,
    ) {
        let _ = write!(out, "{}", row_label(label, fitted));
        for (text, &width) in texts.zip(&fitted.widths) {
            // Without colour a cell begins with its sign: the star, or a space.
            let text = if self.coloured() || text.starts_with('*') { text } else { format!(" {text}") };
            let _ = write!(
                out,
                "{}{}",
                " ".repeat(fitted.before),
                right_pad(&fit(&text, width), width + fitted.after)
            );
        }
        end_line(out);
    }

    fn cell(&self, cell: Option<Cell<'_>>, width: usize, fitted: &Fitted) -> String {
        let value = cell.map_or(Value::Absent, |c| self.options.metric.value(c.at, self.report));
        let agrees = cell.is_some_and(|c| c.agrees);
        let token = cell.map_or(String::new(), |c| top_text(c, value));
        let (before, after) = (" ".repeat(fitted.before), " ".repeat(fitted.after));
        if !self.coloured() {
            let number = self.options.metric.format(value);
            let room = width.saturating_sub(columns(&number) + 2);
            let sign = if agrees { '=' } else { ' ' };
            return format!("{before}{sign}{} {number}{after}", right_pad(&fit(&token, room), room));
        }
        let (paint, strong) = match value {
            Value::Number(number) => {
                let colour = cividis(self.scale.position(number));
                (self.paint(colour, false), self.paint(colour, agrees))
            }
            Value::Absent => (String::new(), if agrees { "\x1b[1;4m".into() } else { String::new() }),
            // Red on the terminal's own background, unlike any colour of the scale.
            Value::Nan => ("\x1b[91m".into(), String::new()),
        };
        let token = fit(&token, width);
        let rest = width - columns(&token);
        let fill = if value == Value::Nan { "░" } else { " " }.repeat(rest);
        // The escape is repeated only where bold and underline begin and end.
        match strong == paint || strong.is_empty() {
            true if paint.is_empty() => format!("{before}{token}{fill}{after}"),
            true => format!("{paint}{before}{token}{fill}{after}{RESET}"),
            false => format!("{paint}{before}{strong}{token}{RESET}{paint}{fill}{after}{RESET}"),
        }
    }

    /// The escape sequence for a background and a legible text colour on it.
    fn paint(&self, ground: Rgb, strong: bool) -> String {
        let strong = if strong { "1;4;" } else { "" };
        match self.options.colour {
            ColourDepth::None => String::new(),
            ColourDepth::True => {
                let (g, i) = (ground, ground.ink().rgb());
                format!("\x1b[{strong}38;2;{};{};{};48;2;{};{};{}m", i.0, i.1, i.2, g.0, g.1, g.2)
            }
            ColourDepth::Ansi256 => {
                let (index, ground) = ground.ansi256();
                let ink = ground.ink().rgb().ansi256().0;
                format!("\x1b[{strong}38;5;{ink};48;5;{index}m")
            }
        }
    }

    fn coloured(&self) -> bool {
        self.options.colour != ColourDepth::None
    }

    fn fit_columns(&self) -> Fitted {
        let labels = self.grid.rows.iter().map(|row| columns(&row.label));
        // A space separates the labels from the cells.
        let label = labels.chain([columns(INPUT)]).max().unwrap_or(0) + 1;
        let needs: Vec<usize> = (0..self.grid.columns.len()).map(|i| self.need(i)).collect();
        let room = self.options.width.saturating_sub(label);
        let widths = |cap: usize| needs.iter().map(|&need| need.min(cap)).collect::<Vec<_>>();
        // Without colour the number and the sign are in the column too.
        let extra = if self.coloured() { 0 } else { 4 };
        let (airy, tight) = ((1, 1), (1, 0));
        let layouts = CAPS.iter().filter(|&&cap| cap >= 10).map(|&cap| (airy, cap));
        for ((before, after), cap) in layouts.chain(CAPS.iter().map(|&cap| (tight, cap))) {
            let widths = widths(cap + extra);
            if widths.iter().map(|w| w + before + after).sum::<usize>() <= room {
                return Fitted { label, before, after, first: 0, widths };
            }
        }
        // The last tokens are the most interesting.
        let (before, after) = tight;
        let widths = widths(CAP_WHEN_CUT + extra);
        let mut used = 0;
        let shown = widths.iter().rev().take_while(|&&w| {
            used += w + before + after;
            used <= room
        });
        let first = widths.len() - shown.count().max(1).min(widths.len());
        Fitted { label, before, after, first, widths: widths[first..].to_vec() }
    }

    /// Columns that a table column's widest text takes.
    fn need(&self, column: usize) -> usize {
        let metric = self.options.metric;
        let cells = self.grid.rows.iter().filter_map(|row| row.cells[column]).map(|cell| {
            let value = metric.value(cell.at, self.report);
            let number = if self.coloured() { 0 } else { columns(&metric.format(value)) + 2 };
            columns(&top_text(cell, value)) + number
        });
        let at = &self.grid.columns[column];
        cells.chain([columns(&next_text(at)), columns(&input_text(at)), 3]).max().unwrap_or(3)
    }
}

fn next_text(column: &Column<'_>) -> String {
    let text = column.next.map_or_else(String::new, |t| printable(&t.text));
    if column.right == Some(true) { format!("*{text}") } else { text }
}

fn input_text(column: &Column<'_>) -> String {
    column.token.map_or_else(String::new, |t| printable(&t.text))
}

fn top_text(cell: Cell<'_>, value: Value) -> String {
    match cell.at.top.first() {
        Some(top) if !top.logprob.is_nan() && value != Value::Nan => printable(&top.text),
        _ => "NaN".into(),
    }
}

fn row_label(label: &str, fitted: &Fitted) -> String {
    left_pad(label, fitted.label - 1) + " "
}

fn left_pad(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(columns(text))) + text
}

fn right_pad(text: &str, width: usize) -> String {
    text.to_owned() + &" ".repeat(width.saturating_sub(columns(text)))
}

fn end_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// Breaks at spaces; a word that is too long for a line is truncated.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if columns(line) + 1 + columns(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(fit(word, width)),
        }
    }
    lines
}
