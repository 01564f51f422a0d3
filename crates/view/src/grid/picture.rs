//! The grid as SVG, written directly, and as PNG.

use super::GridReport;
use crate::colour::{Ink, diverging};
use crate::error::Error;
use crate::font::Coverage;
use crate::svg::{self, ADVANCE, Align, Svg, escape, number};
use crate::text::{Piece, columns, fit_pieces, pieces, printable};

const MARGIN: f64 = 20.0;
const SIZE: f64 = 12.0;
const SMALL: f64 = 10.0;
const ROW: f64 = 21.0;
/// Width of the narrowest and the widest cell, in columns of text.
const NARROW: usize = 5;
const WIDE: usize = 12;
const LEGEND: f64 = 220.0;
const LEAST_WIDTH: f64 = 680.0;

/// The report as one SVG picture; hovering over a cell describes it.
#[must_use]
pub fn svg(report: &GridReport) -> String {
    draw(report, None)
}

/// The report as PNG, drawn with the embedded fonts, at `scale` pixels per unit.
///
/// # Errors
/// If the picture would be too large.
pub fn png(report: &GridReport, scale: f32) -> Result<Vec<u8>, Error> {
    crate::png::png(&draw(report, Coverage::embedded()), scale)
}

/// The picture's style, which a page allows by its hash.
pub(super) fn style() -> String {
    let rules = format!(
        ".t{{font:11px \"DejaVu Sans\",Verdana,sans-serif;fill:#5b6570}}.f{{fill:#5b6570}}.v{{font-size:{SMALL}px}}.k{{fill:#000}}.w{{fill:#fff}}\
         .m{{fill-opacity:.5}}.b{{fill:none;stroke-width:.8;stroke:#5b6570}}"
    );
    svg::style(SIZE, &rules)
}

fn draw(report: &GridReport, coverage: Option<Coverage>) -> String {
    let label = report.rows.iter().map(|row| columns(&printable(&row.label))).max().unwrap_or(0);
    let left = MARGIN + label as f64 * SIZE * ADVANCE + 10.0;
    let mut edges = vec![left];
    for (column, head) in report.columns.iter().enumerate() {
        let text = head.token.as_ref().unwrap_or(&head.label);
        let size = |text: &str| pieces(text).iter().map(|p| columns(&p.text)).sum::<usize>();
        let numbers = report.rows.iter().map(|row| report.text(&row.cells[column]).len());
        let need = numbers.chain([size(text), columns(&head.label)]).max().unwrap_or(0).clamp(NARROW, WIDE);
        edges.push((edges[column] + need as f64 * SIZE * ADVANCE + 6.0).round());
    }
    let words = report.shown_lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let wide = (edges[edges.len() - 1] + MARGIN).max(LEAST_WIDTH).max(words as f64 * 6.6 + 2.0 * MARGIN);
    let mut picture = Picture { report, svg: Svg::new(coverage), edges, width: wide };
    let body = picture.head();
    let rows = report.rows.len() as f64;
    for (number, row) in report.rows_downwards().enumerate() {
        picture.row(row, body + number as f64 * ROW);
    }
    let below = body + rows * ROW;
    picture.heads(below);
    let height = below + 2.0 * ROW + MARGIN;
    picture.svg.document(wide, height, &report.title, &style())
}

struct Picture<'a> {
    report: &'a GridReport,
    svg: Svg,
    /// Left edge of each column, and the right edge of the last.
    edges: Vec<f64>,
    width: f64,
}

impl Picture<'_> {
    /// Title, prompts, and the meaning of colours. Returns the y below them.
    fn head(&mut self) -> f64 {
        self.svg.text(MARGIN, MARGIN + 16.0, "h", &printable(&self.report.title));
        let mut y = MARGIN + 38.0;
        for line in self.report.shown_lines() {
            self.svg.text(MARGIN, y, "s", &line);
            y += 17.0;
        }
        let names = self.report.prompts.iter().map(|(what, _)| columns(&printable(what))).max().unwrap_or(0);
        let at = MARGIN + (names as f64 + 1.5) * SIZE * ADVANCE;
        let room = ((self.width - at - MARGIN) / (SIZE * ADVANCE)) as usize;
        for (what, prompt) in &self.report.prompts {
            self.svg.mono(MARGIN, y, Align::Left, SIZE, "f", &Piece::plain(&printable(what)));
            self.svg.mono(at, y, Align::Left, SIZE, "x", &fit_pieces(&pieces(prompt), room));
            y += 17.0;
        }
        self.legend(y + 6.0)
    }

    fn legend(&mut self, top: f64) -> f64 {
        let reach = self.report.reach();
        let steps = 40;
        for step in 0..steps {
            let part = (f64::from(step) + 0.5) / f64::from(steps) * 2.0 - 1.0;
            let (x, wide) =
                (MARGIN + LEGEND * f64::from(step) / f64::from(steps), LEGEND / f64::from(steps) + 0.3);
            self.svg.raw(format_args!(
                r#"<rect x="{}" y="{}" width="{}" height="10" fill="{}"/>"#,
                number(x),
                number(top),
                number(wide),
                diverging(part).hex()
            ));
        }
        for (part, align) in [(-1.0, Align::Left), (0.0, Align::Centre), (1.0, Align::Right)] {
            let x = MARGIN + LEGEND * (part + 1.0) / 2.0;
            self.svg.mono(
                x,
                top + 23.0,
                align,
                SMALL,
                "v f",
                &Piece::plain(&self.report.number(part * reach)),
            );
        }
        let words = super::meaning(self.report, ["orange", "blue"]);
        self.svg.text(MARGIN + LEGEND + 16.0, top + 9.0, "t", &words);
        top + 36.0
    }

    fn row(&mut self, row: &super::GridRow, top: f64) {
        let name = Piece::plain(&printable(&row.label));
        self.svg.mono(self.edges[0] - 8.0, top + 15.0, Align::Right, SIZE, "f", &name);
        for (column, cell) in row.cells.iter().enumerate().filter(|(_, cell)| !cell.is_empty()) {
            let (x, end) = (self.edges[column], self.edges[column + 1]);
            let ground = diverging(cell.effect / self.report.reach());
            let token = self.report.columns[column].token.as_ref();
            let token = token.map(|token| format!(" at `{}`", printable(token))).unwrap_or_default();
            let shown = self.report.text(cell);
            let name = printable(&cell.activation);
            let words = match cell.routed {
                None => format!("{name}{token}: {} (effect {shown})", cell.value),
                Some(0) => format!("{name}: no changed token goes through it"),
                Some(1) => format!("{name}, 1 token: {} (effect {shown})", cell.value),
                Some(n) => format!("{name}, {n} tokens: {} (effect {shown})", cell.value),
            };
            self.svg.raw(format_args!(
                r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{}"><title>{}</title></rect>"#,
                number(x),
                number(top),
                number(end - x - 1.0),
                number(ROW - 1.0),
                ground.hex(),
                escape(&words)
            ));
            let ink = if ground.ink() == Ink::Black { "v k" } else { "v w" };
            self.svg.mono(
                (x + end - 1.0) / 2.0,
                top + 14.0,
                Align::Centre,
                SMALL,
                ink,
                &Piece::plain(&shown),
            );
        }
    }

    /// Tokens and positions under the columns.
    fn heads(&mut self, top: f64) {
        for (column, head) in self.report.columns.iter().enumerate() {
            let (x, end) = (self.edges[column], self.edges[column + 1]);
            let room = ((end - x - 2.0) / (SIZE * ADVANCE)) as usize;
            let middle = (x + end - 1.0) / 2.0;
            let first = head.token.as_ref().unwrap_or(&head.label);
            self.svg.mono(middle, top + 15.0, Align::Centre, SIZE, "x", &fit_pieces(&pieces(first), room));
            if head.token.is_some() {
                let position = Piece::plain(&printable(&head.label));
                self.svg.mono(middle, top + 29.0, Align::Centre, SMALL, "v f", &position);
            }
        }
    }
}
