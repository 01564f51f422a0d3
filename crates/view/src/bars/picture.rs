//! Bars as SVG, written directly, and as PNG.

use super::BarsReport;
use crate::colour::diverging;
use crate::error::Error;
use crate::font::Coverage;
use crate::svg::{self, ADVANCE, Align, Svg, escape, number};
use crate::text::{Piece, columns, fit_pieces, pieces, printable};

const MARGIN: f64 = 20.0;
const SIZE: f64 = 12.0;
const SMALL: f64 = 10.0;
const ROW: f64 = 20.0;
/// A column has room for the longest bar on either side.
const COLUMN: f64 = 74.0;
/// With few columns, they are wider.
const WIDE: f64 = 250.0;
const SUM: f64 = 190.0;
const LEAST_WIDTH: f64 = 680.0;

/// The report as one SVG picture; hovering over a bar shows its value.
#[must_use]
pub fn svg(report: &BarsReport) -> String {
    draw(report, None)
}

/// The report as PNG, drawn with the embedded fonts, at `scale` pixels per unit.
///
/// # Errors
/// If the picture would be too large.
pub fn png(report: &BarsReport, scale: f32) -> Result<Vec<u8>, Error> {
    crate::png::png(&draw(report, Coverage::embedded()), scale)
}

/// The picture's style, which a page allows by its hash.
pub(super) fn style() -> String {
    let rules = format!(".f{{fill:#5b6570}}.v{{font-size:{SMALL}px}}.a{{stroke:#c3cad1}}.r{{fill:#8a939c}}");
    svg::style(SIZE, &rules)
}

fn draw(report: &BarsReport, coverage: Option<Coverage>) -> String {
    let mut svg = Svg::new(coverage);
    let label = report.rows.iter().map(|row| columns(&printable(&row.label))).max().unwrap_or(0);
    let left = MARGIN + label as f64 * SIZE * ADVANCE + 12.0;
    let column = if report.columns.len() <= 4 { WIDE } else { COLUMN };
    let bars_end = left + report.columns.len() as f64 * column;
    let sum_at = bars_end + 16.0;
    let words = report.shown_lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let across = if report.sum.is_some() { sum_at + SUM } else { bars_end } + MARGIN;
    let width = across.max(LEAST_WIDTH).max(words as f64 * 6.6 + 2.0 * MARGIN).ceil();
    svg.text(MARGIN, MARGIN + 16.0, "h", &printable(&report.title));
    let mut y = MARGIN + 38.0;
    for line in report.shown_lines() {
        svg.text(MARGIN, y, "s", &line);
        y += 17.0;
    }
    let names = report.prompts.iter().map(|(what, _)| columns(&printable(what))).max().unwrap_or(0);
    let at = MARGIN + (names as f64 + 1.5) * SIZE * ADVANCE;
    let room = ((width - at - MARGIN) / (SIZE * ADVANCE)) as usize;
    for (what, prompt) in &report.prompts {
        svg.mono(MARGIN, y, Align::Left, SIZE, "f", &Piece::plain(&printable(what)));
        svg.mono(at, y, Align::Left, SIZE, "x", &fit_pieces(&pieces(prompt), room));
        y += 17.0;
    }
    let [more, less] = &report.meaning;
    let words = format!("right, orange: {} · left, blue: {}", printable(more), printable(less));
    svg.text(MARGIN, y + 2.0, "s", &words);
    let top = y + 30.0;
    let heads = report.columns.iter().map(String::as_str);
    for (i, head) in heads.enumerate() {
        let x = left + (i as f64 + 0.5) * column;
        svg.mono(x, top - 6.0, Align::Centre, SMALL, "v f", &Piece::plain(&printable(head)));
    }
    if let Some(sum) = &report.sum {
        svg.mono(sum_at, top - 6.0, Align::Left, SMALL, "v f", &Piece::plain(&printable(sum)));
    }
    let finite = |values: &mut dyn Iterator<Item = f64>| -> f64 {
        let most = values.map(f64::abs).filter(|x| x.is_finite()).fold(0.0, f64::max);
        if most > 0.0 { most } else { 1.0 }
    };
    let reach = finite(&mut report.rows.iter().flat_map(|row| row.values.iter().flatten().copied()));
    let sum_reach = finite(&mut report.rows.iter().map(|row| row.sum));
    let bottom = top + report.rows.len() as f64 * ROW;
    for i in 0..report.columns.len() {
        let x = number(left + (i as f64 + 0.5) * column);
        svg.raw(format_args!(r#"<path class="a" d="M{x} {}V{}"/>"#, number(top), number(bottom)));
    }
    for (line, row) in report.rows.iter().rev().enumerate() {
        let y = top + line as f64 * ROW;
        let name = printable(&row.label);
        svg.mono(left - 10.0, y + 14.0, Align::Right, SIZE, "f", &Piece::plain(&name));
        for (i, value) in row.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let middle = left + (i as f64 + 0.5) * column;
            if !value.is_finite() {
                svg.mono(middle, y + 13.5, Align::Centre, SMALL, "v", &Piece::plain(&value.to_string()));
                continue;
            }
            let (part, half) = (value / reach, column / 2.0 - 4.0);
            let (x, long) = (middle + (part * half).min(0.0), (part * half).abs());
            let words = format!("{name}, {}: {value:+.5}", printable(&report.columns[i]));
            svg.raw(format_args!(
                r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>"#,
                number(x),
                number(y + 3.0),
                number(long.max(0.5)),
                number(ROW - 6.0),
                diverging(part.signum() * (0.4 + 0.6 * part.abs())).hex(),
                escape(&words)
            ));
            // The largest are labelled with their value.
            if part.abs() > 0.25 || column > COLUMN && part.abs() > 0.04 {
                let text = format!("{value:+.2}");
                let side = if part > 0.0 { Align::Right } else { Align::Left };
                let at = middle + if part > 0.0 { -5.0 } else { 5.0 };
                svg.mono(at, y + 13.5, side, SMALL, "v", &Piece::plain(&text));
            }
        }
        if report.sum.is_some() {
            let long = row.sum / sum_reach * (SUM / 2.0 - 34.0);
            let middle = sum_at + SUM / 2.0 + 10.0;
            svg.raw(format_args!(
                r#"<rect class="r" x="{}" y="{}" width="{}" height="4"/>"#,
                number(middle + long.min(0.0)),
                number(y + 8.0),
                number(long.abs().max(0.5))
            ));
            svg.mono(sum_at, y + 14.0, Align::Left, SMALL, "v", &Piece::plain(&format!("{:+.3}", row.sum)));
        }
    }
    let height = bottom + MARGIN;
    svg.document(width, height, &report.title, &style())
}
