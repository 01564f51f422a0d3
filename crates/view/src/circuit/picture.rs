//! A circuit as SVG, written directly, and as PNG: rows are layers from the input up, with heads side by side.

use super::{CircuitReport, place};
use crate::colour::diverging;
use crate::error::Error;
use crate::font::Coverage;
use crate::svg::{self, ADVANCE, Align, Svg, escape, number};
use crate::text::{Piece, columns, fit_pieces, pieces, printable};

const MARGIN: f64 = 24.0;
const SIZE: f64 = 12.0;
const SMALL: f64 = 10.0;
const COLUMN: f64 = 62.0;
const ROW: f64 = 40.0;
const LEFT: f64 = 76.0;
const LEAST_WIDTH: f64 = 680.0;

/// The report as one SVG picture; hovering over an edge shows its score.
#[must_use]
pub fn svg(report: &CircuitReport) -> String {
    draw(report, None)
}

/// The report as PNG, drawn with the embedded fonts, at `scale` pixels per unit.
///
/// # Errors
/// If the picture would be too large.
pub fn png(report: &CircuitReport, scale: f32) -> Result<Vec<u8>, Error> {
    crate::png::png(&draw(report, Coverage::embedded()), scale)
}

fn style() -> String {
    let rules = format!(
        ".f{{fill:#5b6570}}.v{{font-size:{SMALL}px}}.n{{fill:#fff;stroke:#5b6570}}.e{{fill:none;stroke-opacity:.75}}"
    );
    svg::style(SIZE, &rules)
}

/// Rows with at least one node, from below: empty ones take no room.
pub(crate) fn rows(report: &CircuitReport) -> Vec<usize> {
    let mut rows: Vec<usize> = report.nodes().iter().map(|(_, row, _)| *row).collect();
    rows.dedup();
    rows
}

/// The label of a row.
pub(crate) fn row_name(row: usize, n_layers: usize) -> String {
    match row {
        0 => String::new(),
        row if row == 2 * n_layers + 1 => String::new(),
        row if row % 2 == 1 => format!("heads {}", row / 2),
        row => format!("MLP {}", row / 2 - 1),
    }
}

fn draw(report: &CircuitReport, coverage: Option<Coverage>) -> String {
    let mut svg = Svg::new(coverage);
    let words = report.shown_lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let across = LEFT + (report.n_heads + 2) as f64 * COLUMN + MARGIN;
    let width = across.max(LEAST_WIDTH).max(words as f64 * 6.6 + 2.0 * MARGIN).ceil();
    svg.text(MARGIN, MARGIN + 14.0, "h", &printable(&report.title));
    let mut y = MARGIN + 36.0;
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
    let meaning =
        format!("orange: {} · blue: {} · width: size of the score", printable(more), printable(less));
    svg.text(MARGIN, y + 4.0, "s", &meaning);
    let top = y + 34.0;
    let rows = rows(report);
    let at_row = |row: usize| {
        let number = rows.iter().position(|r| *r == row).unwrap_or(0);
        top + (rows.len() - 1 - number) as f64 * ROW
    };
    let at_column = |column: f64| LEFT + column * COLUMN;
    let point = |name: &str| {
        place(name, report.n_layers, report.n_heads).map(|(row, column)| (at_column(column), at_row(row)))
    };
    let reach = report.reach();
    // The largest on top.
    for edge in report.by_size().into_iter().rev() {
        let (Some((x0, y0)), Some((x1, y1))) = (point(&edge.from), point(&edge.to)) else { continue };
        let part = edge.score / reach;
        let bend = (y0 - y1) * 0.45;
        // Edges within one column would lie on one line.
        let aside = if (x0 - x1).abs() < 1.0 { 12.0 + ((y0 - y1) * 0.14).min(70.0) } else { 0.0 };
        svg.raw(format_args!(
            r#"<path class="e" d="M{} {}C{} {} {} {} {} {}" stroke="{}" stroke-width="{}"><title>{}</title></path>"#,
            number(x0),
            number(y0 - 9.0),
            number(x0 + aside),
            number(y0 - 9.0 - bend),
            number(x1 + aside),
            number(y1 + 9.0 + bend),
            number(x1),
            number(y1 + 9.0),
            diverging(part.signum() * (0.35 + 0.65 * part.abs())).hex(),
            number(0.6 + 3.4 * part.abs()),
            escape(&format!("{} {:+.5}", edge.name(), edge.score))
        ));
    }
    for row in &rows {
        let name = row_name(*row, report.n_layers);
        svg.mono(MARGIN, at_row(*row) + 4.0, Align::Left, SMALL, "v f", &Piece::plain(&name));
    }
    for (name, row, column) in report.nodes() {
        let (x, y) = (at_column(column), at_row(row));
        let wide = columns(&name).max(3) as f64 * SMALL * ADVANCE + 10.0;
        svg.raw(format_args!(
            r#"<rect class="n" x="{}" y="{}" width="{}" height="18" rx="4"/>"#,
            number(x - wide / 2.0),
            number(y - 9.0),
            number(wide)
        ));
        svg.mono(x, y + 3.5, Align::Centre, SMALL, "v", &Piece::plain(&printable(&name)));
    }
    let height = top + (rows.len() - 1) as f64 * ROW + MARGIN + 10.0;
    svg.document(width, height, &report.title, &style())
}
