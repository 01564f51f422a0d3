//! The lens as SVG, written directly, and as PNG.

use super::grid::{Cell, Column, Grid};
use super::metric::{Metric, Scale, Value};
use super::report::LensReport;
use super::words;
use crate::colour::{CIVIDIS, Colours, Ink, cividis};
use crate::error::Error;
use crate::font::Coverage;
use crate::svg::{ADVANCE, Align, Svg, escape, number};
use crate::text::{Kind, Piece, columns, fit_pieces, pieces, wrap};

/// Options of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureOptions {
    /// What colour represents.
    pub metric: Metric,
    /// Light text on a dark ground.
    pub dark: bool,
    /// Pixels per unit, for PNG. Reduced if the picture would be too large.
    pub scale: f32,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self { metric: Metric::default(), dark: false, scale: 2.0 }
    }
}

/// The report as one SVG picture.
///
/// Text has fixed widths, so it looks the same in any monospaced font.
#[must_use]
pub fn svg(report: &LensReport, options: &PictureOptions) -> String {
    draw(report, options, None)
}

/// The report as PNG, drawn with the embedded fonts; a missing character becomes a box with its code.
///
/// # Errors
/// If the picture would be too large (thousands of tokens).
pub fn png(report: &LensReport, options: &PictureOptions) -> Result<Vec<u8>, Error> {
    crate::png::png(&draw(report, options, Coverage::embedded()), options.scale)
}

const MARGIN: f64 = 20.0;
const SIZE: f64 = 12.0;
const ROW: f64 = 21.0;
const GAP: f64 = 1.0;
/// Space on both sides of a token.
const PAD: f64 = 6.0;
/// Width of the narrowest and the widest cell, in columns of text.
const NARROW: usize = 4;
const WIDE: usize = 14;
const LEGEND: f64 = 220.0;
/// Minimum width, so that a picture of few tokens has room for its texts.
const LEAST_WIDTH: f64 = 640.0;

struct Picture<'a> {
    report: &'a LensReport,
    metric: Metric,
    colours: &'static Colours,
    scale: Scale,
    grid: Grid<'a>,
    svg: Svg,
    /// Left edge of each column, and the right edge of the last.
    edges: Vec<f64>,
    width: f64,
}

fn draw(report: &LensReport, options: &PictureOptions, coverage: Option<Coverage>) -> String {
    let grid = Grid::new(report);
    let labels = grid.rows.iter().map(|row| columns(&row.label)).chain([7]).max().unwrap_or(7);
    let mut edges = vec![MARGIN + labels as f64 * SIZE * ADVANCE + 10.0];
    for column in 0..grid.columns.len() {
        let need = need(&grid, column).clamp(NARROW, WIDE);
        let last = edges[edges.len() - 1];
        edges.push((last + need as f64 * SIZE * ADVANCE + 2.0 * PAD + GAP).round());
    }
    let width = (edges[edges.len() - 1] + MARGIN).max(LEAST_WIDTH);
    let picture = Picture {
        report,
        metric: options.metric,
        colours: Colours::of(options.dark),
        scale: options.metric.scale(report),
        grid,
        svg: Svg::new(coverage),
        edges,
        width,
    };
    picture.document()
}

/// Columns that a table column's widest text takes before it is truncated.
fn need(grid: &Grid<'_>, column: usize) -> usize {
    let size = |text: &str| pieces(text).iter().map(|p| columns(&p.text)).sum::<usize>();
    let cells =
        grid.rows.iter().filter_map(|row| row.cells[column]?.at.top.first()).map(|top| size(&top.text));
    let at = &grid.columns[column];
    let next = at.next.map_or(0, |t| size(&t.text) + usize::from(at.right == Some(true)));
    cells.chain([next, at.token.map_or(0, |t| size(&t.text))]).max().unwrap_or(0)
}

impl Picture<'_> {
    fn document(mut self) -> String {
        let mut y = self.head();
        y = self.legend(y);
        let body = y;
        let rows = self.grid.rows.len() as f64;
        let height = body + (rows + 2.0) * ROW + 16.0 + MARGIN;
        self.token_row(body, "next", |c| {
            (c.next.map_or(String::new(), |t| t.text.clone()), c.right == Some(true))
        });
        for row in 0..self.grid.rows.len() {
            self.row(row, body + (row as f64 + 1.0) * ROW);
        }
        let below = body + (rows + 1.0) * ROW;
        self.token_row(below, "input", |c| (c.token.map_or(String::new(), |t| t.text.clone()), false));
        self.positions(below + ROW);
        let start = self.start(height);
        let end = if self.has_nan() { self.hatch() } else { String::new() };
        format!("{start}{end}{}</svg>\n", self.svg.finish())
    }

    fn start(&self, height: f64) -> String {
        let c = self.colours;
        let (width, height) = (number(self.width.ceil()), number(height.ceil()));
        let name = crate::text::printable(&self.report.model.name);
        let title = escape(&format!("{}, {name}", words::title(self.report)));
        let words = escape(&self.metric.words(self.report));
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img">"#,
                "\n<title>{title}</title>\n<desc>Colour: {words}. Final layer on top; one column a token.</desc>\n",
                "<style>text{{font:{size}px \"DejaVu Sans Mono\",Menlo,Consolas,monospace;fill:{text};white-space:pre}}",
                ".h{{font:bold 18px \"DejaVu Sans\",Verdana,sans-serif}}",
                ".s{{font:12px \"DejaVu Sans\",Verdana,sans-serif;fill:{faint}}}",
                ".t{{font:11px \"DejaVu Sans\",Verdana,sans-serif;fill:{faint}}}",
                ".f{{fill:{faint}}}.p{{fill:{faint};font-size:9px}}.n{{fill:{alarm}}}.k{{fill:#000}}.w{{fill:#fff}}",
                ".m{{fill-opacity:.5}}.b{{fill:none;stroke-width:.8}}.k.b{{stroke:#000}}.w.b{{stroke:#fff}}",
                ".a{{fill:none;stroke-width:1.8}}.a.k{{stroke:#000}}.a.w{{stroke:#fff}}.a.x{{stroke:{text}}}",
                ".f.b,.x.b,.n.b{{stroke:{faint}}}</style>\n",
                r#"<rect width="{w}" height="{h}" fill="{ground}"/>"#,
                "\n"
            ),
            w = width,
            h = height,
            title = title,
            words = words,
            size = SIZE,
            text = c.text,
            faint = c.faint,
            alarm = c.alarm,
            ground = c.ground,
        )
    }

    /// Title and description. Returns the y below them.
    fn head(&mut self) -> f64 {
        self.svg.text(MARGIN, MARGIN + 16.0, "h", words::title(self.report));
        let mut y = MARGIN + 38.0;
        // Proportional text: 0.58 of the size is slightly more than DejaVu Sans's average width.
        let room = ((self.width - 2.0 * MARGIN) / (12.0 * 0.58)) as usize;
        for line in words::lines(self.report) {
            for part in wrap(&line, room) {
                self.svg.text(MARGIN, y, "s", &part);
                y += 17.0;
            }
        }
        y + 4.0
    }

    /// The meaning of colours and signs. Returns the y below them.
    fn legend(&mut self, top: f64) -> f64 {
        let c = self.colours;
        self.svg.text(MARGIN, top + 10.0, "s", &format!("Colour: {}", self.metric.words(self.report)));
        let bar = top + 18.0;
        let step = LEGEND / (CIVIDIS.len() - 1) as f64;
        let stops: String = CIVIDIS
            .iter()
            .enumerate()
            .map(|(i, c)| {
                format!(
                    r#"<stop offset="{}" stop-color="{}"/>"#,
                    number(i as f64 * step / LEGEND * 100.0) + "%",
                    c.hex()
                )
            })
            .collect();
        self.svg.raw(format_args!(r#"<linearGradient id="scale">{stops}</linearGradient>"#));
        self.svg.raw(format_args!(
            r#"<rect x="{}" y="{}" width="{}" height="12" fill="url(#scale)" stroke="{}" stroke-width=".5"/>"#,
            number(MARGIN),
            number(bar),
            number(LEGEND),
            c.line
        ));
        let ticks = self.scale.ticks.clone();
        for (i, (at, label)) in ticks.iter().enumerate() {
            let x = MARGIN + at * LEGEND;
            self.svg.raw(format_args!(
                r#"<path d="M{} {}v3" stroke="{}"/>"#,
                number(x.clamp(MARGIN + 0.5, MARGIN + LEGEND - 0.5)),
                number(bar + 12.0),
                c.faint
            ));
            let align = match i {
                0 => Align::Left,
                i if i + 1 == ticks.len() => Align::Right,
                _ => Align::Centre,
            };
            let label = [Piece { text: label.clone(), kind: Kind::Plain }];
            self.svg.mono(x, bar + 25.0, align, 9.0, "p", &label);
        }
        let x = MARGIN + LEGEND + 24.0;
        self.svg.raw(format_args!(r#"<path class="a x" d="M{} {}h20v12h-20z"/>"#, number(x), number(bar)));
        self.svg.text(x + 28.0, bar + 10.0, "t", "same token as the model predicts");
        self.svg.text(x, bar + 27.0, "t", "*  the model's top token is the actual next one");
        if self.has_nan() {
            let x = x + 220.0;
            self.svg.raw(format_args!(
                r#"<rect x="{}" y="{}" width="20" height="12" fill="url(#nan)"/>"#,
                number(x),
                number(bar)
            ));
            self.svg.text(x + 28.0, bar + 10.0, "t", "not a number");
        }
        bar + 40.0
    }

    fn token_row(&mut self, y: f64, label: &str, of: impl Fn(&Column<'_>) -> (String, bool)) {
        let baseline = y + ROW / 2.0 + 4.2;
        self.mono(self.edges[0] - 9.0, baseline, Align::Right, "f", &format!("{label} →"));
        for column in 0..self.grid.columns.len() {
            let (text, star) = of(&self.grid.columns[column]);
            self.token(column, baseline, "x", &text, star);
        }
    }

    fn positions(&mut self, y: f64) {
        for column in 0..self.grid.columns.len() {
            let label = [Piece { text: self.grid.columns[column].position.to_string(), kind: Kind::Plain }];
            self.svg.mono(self.middle(column), y + 8.0, Align::Centre, 9.0, "p", &label);
        }
        let label = [Piece { text: "position".into(), kind: Kind::Plain }];
        self.svg.mono(self.edges[0] - 9.0, y + 8.0, Align::Right, 9.0, "p", &label);
    }

    fn row(&mut self, row: usize, y: f64) {
        let label = self.grid.rows[row].label.clone();
        self.mono(self.edges[0] - 9.0, y + ROW / 2.0 + 4.2, Align::Right, "f", &label);
        for column in 0..self.grid.columns.len() {
            if let Some(cell) = self.grid.rows[row].cells[column] {
                self.cell(row, column, y, cell);
            }
        }
    }

    fn agrees(&self, row: Option<usize>, column: usize) -> bool {
        let row = row.and_then(|r| self.grid.rows.get(r));
        row.and_then(|r| r.cells[column]).is_some_and(|cell: Cell<'_>| cell.agrees)
    }

    fn cell(&mut self, row: usize, column: usize, y: f64, cell: Cell<'_>) {
        let (x, width, height) =
            (self.edges[column], self.edges[column + 1] - self.edges[column] - GAP, ROW - GAP);
        let value = self.metric.value(cell.at, self.report);
        let (fill, ink) = match value {
            Value::Number(number) => {
                let colour = cividis(self.scale.position(number));
                (colour.hex(), if colour.ink() == Ink::Black { "k" } else { "w" })
            }
            Value::Absent => (self.colours.empty.to_owned(), "x"),
            Value::Nan => ("url(#nan)".to_owned(), "n"),
        };
        self.svg.raw(format_args!(
            r#"<rect x="{}" y="{}" width="{}" height="{}" fill="{fill}"/>"#,
            number(x),
            number(y),
            number(width),
            number(height)
        ));
        if cell.agrees {
            // One frame around a run of agreeing cells, in each cell's own text colour.
            let (above, below) =
                (self.agrees(row.checked_sub(1), column), self.agrees(Some(row + 1), column));
            let (left, right) = (number(x + 1.4), number(x + width - 1.4));
            let upper = number(if above { y } else { y + 1.4 });
            let lower = number(if below { y + ROW } else { y + height - 1.4 });
            let mut path = format!("M{left} {lower}V{upper}");
            path += &if above { format!("M{right} {upper}") } else { format!("H{right}") };
            path += &format!("V{lower}");
            if !below {
                path += &format!("H{left}");
            }
            self.svg.raw(format_args!(r#"<path class="a {ink}" d="{path}"/>"#));
        }
        let token =
            cell.at.top.first().filter(|_| value != Value::Nan).map_or("NaN", |top| top.text.as_str());
        self.token(column, y + height / 2.0 + 4.2, ink, token, false);
    }

    /// A token centred in its column, truncated to fit.
    fn token(&mut self, column: usize, baseline: f64, class: &str, text: &str, star: bool) {
        let width = self.edges[column + 1] - self.edges[column] - GAP - 2.0 * PAD;
        let room = (width / (SIZE * ADVANCE) + 0.1) as usize;
        let mut all = Vec::new();
        if star {
            all.push(Piece { text: "*".into(), kind: Kind::Plain });
        }
        all.extend(pieces(text));
        let all = fit_pieces(&all, room);
        if !all.is_empty() {
            self.svg.mono(self.middle(column), baseline, Align::Centre, SIZE, class, &all);
        }
    }

    fn mono(&mut self, x: f64, y: f64, align: Align, class: &str, text: &str) {
        self.svg.mono(x, y, align, SIZE, class, &[Piece { text: text.to_owned(), kind: Kind::Plain }]);
    }

    fn middle(&self, column: usize) -> f64 {
        (self.edges[column] + self.edges[column + 1] - GAP) / 2.0
    }

    fn has_nan(&self) -> bool {
        let mut cells = self.report.layers.iter().flat_map(|row| &row.positions);
        cells.any(|at| self.metric.value(at, self.report) == Value::Nan)
    }

    fn hatch(&self) -> String {
        let c = self.colours;
        format!(
            concat!(
                r#"<pattern id="nan" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">"#,
                r#"<rect width="6" height="6" fill="{}"/><path d="M0 0v6" stroke="{}" stroke-opacity=".45" stroke-width="2"/></pattern>"#,
                "\n"
            ),
            c.empty, c.alarm
        )
    }
}
