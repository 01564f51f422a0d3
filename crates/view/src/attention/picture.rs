//! Patterns as SVG, written directly, and as PNG.

use std::collections::BTreeMap;

use super::report::{AttentionReport, HeadPattern, Sink};
use crate::colour::{CIVIDIS, Colours};
use crate::error::Error;
use crate::font::Coverage;
use crate::svg::{ADVANCE, Align, Svg, escape, number};
use crate::text::{Kind, Piece, columns, fit_pieces, pieces, printable, wrap};

/// Options of a picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureOptions {
    /// Whether the first token is drawn.
    pub sink: Sink,
    /// Light text on a dark ground.
    pub dark: bool,
    /// Pixels per unit, for PNG. Reduced if the picture would be too large.
    pub scale: f32,
}

impl Default for PictureOptions {
    fn default() -> Self {
        Self { sink: Sink::Shown, dark: false, scale: 2.0 }
    }
}

/// The report as one SVG picture: one large head, or several as thumbnails, with the last layer on top.
#[must_use]
pub fn svg(report: &AttentionReport, options: &PictureOptions) -> String {
    draw(report, options, None)
}

/// The report as PNG, drawn with the embedded fonts; a missing character becomes a box with its code.
///
/// # Errors
/// If the picture would be too large.
pub fn png(report: &AttentionReport, options: &PictureOptions) -> Result<Vec<u8>, Error> {
    crate::png::png(&draw(report, options, Coverage::embedded()), options.scale)
}

const MARGIN: f64 = 20.0;
const SIZE: f64 = 11.0;
const LEGEND: f64 = 220.0;
const LEAST_WIDTH: f64 = 560.0;
/// Side of a thumbnail, and its maximum cells per side: finer ones cannot be distinguished.
const THUMBNAIL: f64 = 64.0;
const THUMBNAIL_CELLS: usize = 32;
const GAP: f64 = 8.0;
/// Cell size and maximum side of the large picture.
const CELL: f64 = 22.0;
const LARGE: f64 = 960.0;
const LARGE_CELLS: usize = 320;
/// Maximum columns for a token next to the large picture.
const TOKEN: usize = 14;

struct Picture<'a> {
    report: &'a AttentionReport,
    options: &'a PictureOptions,
    colours: &'static Colours,
    top: f64,
    svg: Svg,
}

fn draw(report: &AttentionReport, options: &PictureOptions, coverage: Option<Coverage>) -> String {
    let colours = Colours::of(options.dark);
    let top = report.top(options.sink);
    let mut picture = Picture { report, options, colours, top, svg: Svg::new(coverage) };
    let body_width = match report.heads.as_slice() {
        [_] => picture.large_width(),
        _ => picture.thumbnails_width(),
    };
    let width = body_width.max(LEAST_WIDTH);
    let y = picture.head(width);
    let height = match report.heads.as_slice() {
        [head] => picture.large(head, y),
        _ => picture.thumbnails(y),
    };
    picture.document(width, height + MARGIN)
}

impl Picture<'_> {
    fn document(self, width: f64, height: f64) -> String {
        let c = self.colours;
        let title = escape(&format!("Attention, {}", printable(&self.report.model.name)));
        let words = escape(&self.report.lines(self.options.sink)[1..].join("; "));
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" role="img">"#,
                "\n<title>{title}</title>\n<desc>{words}. Last layer on top.</desc>\n",
                "<style>text{{font:{size}px \"DejaVu Sans Mono\",Menlo,Consolas,monospace;fill:{text};white-space:pre}}",
                ".h{{font:bold 18px \"DejaVu Sans\",Verdana,sans-serif}}",
                ".s{{font:12px \"DejaVu Sans\",Verdana,sans-serif;fill:{faint}}}",
                ".f{{fill:{faint}}}.p{{fill:{faint};font-size:9px}}.m{{fill-opacity:.5}}",
                ".b{{fill:none;stroke-width:.8;stroke:{faint}}}.c path{{shape-rendering:crispEdges}}</style>\n",
                r#"<rect width="{w}" height="{h}" fill="{ground}"/>"#,
                "\n{body}</svg>\n"
            ),
            w = number(width.ceil()),
            h = number(height.ceil()),
            title = title,
            words = words,
            size = SIZE,
            text = c.text,
            faint = c.faint,
            ground = c.ground,
            body = self.svg.finish(),
        )
    }

    /// Title, description and scale. Returns the y below them.
    fn head(&mut self, width: f64) -> f64 {
        let title = match self.report.heads.as_slice() {
            [one] => format!("Attention, layer {}, head {}", one.layer, one.head),
            many => format!("Attention, {} heads", many.len()),
        };
        self.svg.text(MARGIN, MARGIN + 16.0, "h", &title);
        let mut y = MARGIN + 38.0;
        // Proportional text: 0.58 of the size is slightly more than DejaVu Sans's average width.
        let room = ((width - 2.0 * MARGIN) / (12.0 * 0.58)) as usize;
        for line in self.report.lines(self.options.sink) {
            for part in wrap(&line, room) {
                self.svg.text(MARGIN, y, "s", &part);
                y += 17.0;
            }
        }
        self.legend(y) + 10.0
    }

    fn legend(&mut self, bar: f64) -> f64 {
        let steps = (CIVIDIS.len() - 1) as f64;
        let stop = |(i, c): (usize, &crate::colour::Rgb)| {
            let at = number(i as f64 / steps * 100.0);
            format!(r#"<stop offset="{at}%" stop-color="{}"/>"#, c.hex())
        };
        let stops: String = CIVIDIS.iter().enumerate().map(stop).collect();
        self.svg.raw(format_args!(r#"<linearGradient id="scale">{stops}</linearGradient>"#));
        self.svg.raw(format_args!(
            r#"<rect x="{}" y="{}" width="{}" height="12" fill="url(#scale)" stroke="{}" stroke-width=".5"/>"#,
            number(MARGIN),
            number(bar),
            number(LEGEND),
            self.colours.line
        ));
        let ends = [(0.0, Align::Left), (0.5, Align::Centre), (1.0, Align::Right)];
        for (at, align) in ends {
            let value = format!("{:.3}", at * self.top);
            let value = value.trim_end_matches('0').trim_end_matches('.').to_owned();
            let value = if value.is_empty() { "0".to_owned() } else { value };
            self.plain(MARGIN + at * LEGEND, bar + 24.0, align, 9.0, "p", &value);
        }
        bar + 30.0
    }

    fn thumbnails_width(&self) -> f64 {
        let (_, heads) = self.report.sides();
        MARGIN + self.layer_label() + heads.len() as f64 * (THUMBNAIL + GAP) + MARGIN
    }

    fn layer_label(&self) -> f64 {
        let (layers, _) = self.report.sides();
        let digits = layers.iter().map(|layer| layer.to_string().len() + 1).max().unwrap_or(2);
        digits as f64 * SIZE * ADVANCE + 10.0
    }

    fn thumbnails(&mut self, top: f64) -> f64 {
        let (layers, heads) = self.report.sides();
        let left = MARGIN + self.layer_label();
        for (column, head) in heads.iter().enumerate() {
            let x = left + column as f64 * (THUMBNAIL + GAP) + THUMBNAIL / 2.0;
            self.plain(x, top + 9.0, Align::Centre, SIZE, "f", &format!("H{head}"));
        }
        let top = top + 16.0;
        for (row, layer) in layers.iter().enumerate() {
            let y = top + row as f64 * (THUMBNAIL + GAP);
            self.plain(left - 9.0, y + THUMBNAIL / 2.0 + 4.0, Align::Right, SIZE, "f", &format!("L{layer}"));
            for (column, head) in heads.iter().enumerate() {
                let report = self.report;
                let Some(pattern) = report.heads.iter().find(|p| p.layer == *layer && p.head == *head) else {
                    continue;
                };
                self.cells(pattern, THUMBNAIL_CELLS, left + column as f64 * (THUMBNAIL + GAP), y, THUMBNAIL);
            }
        }
        top + layers.len() as f64 * (THUMBNAIL + GAP)
    }

    /// Side of one token's row and column in the large picture.
    fn cell(&self) -> f64 {
        (LARGE / self.report.tokens.len() as f64).min(CELL)
    }

    fn label(&self) -> f64 {
        let n = self.report.tokens.len();
        let longest = (0..n).map(|i| columns(&self.report.token(i))).max().unwrap_or(1).min(TOKEN);
        longest as f64 * SIZE * ADVANCE + 8.0
    }

    fn large_width(&self) -> f64 {
        MARGIN + self.label() + self.report.tokens.len() as f64 * self.cell() + MARGIN
    }

    fn large(&mut self, head: &HeadPattern, top: f64) -> f64 {
        let (n, cell) = (self.report.tokens.len(), self.cell());
        let side = n as f64 * cell;
        let (left, body) = (MARGIN + self.label(), top + self.label());
        self.cells(head, LARGE_CELLS, left, body, side);
        // If cells are lower than a line of text, only some tokens are labelled.
        let step = ((SIZE + 1.0) / cell).ceil().max(1.0) as usize;
        for position in (0..n).step_by(step) {
            let middle = (position as f64 + 0.5) * cell;
            let token = fit_pieces(&pieces(&self.report.tokens[position].text), TOKEN);
            self.svg.mono(left - 6.0, body + middle + 4.0, Align::Right, SIZE, "x", &token);
            self.svg.raw(format_args!(
                r#"<g transform="translate({} {}) rotate(-90)">"#,
                number(left + middle + 4.0),
                number(body - 6.0)
            ));
            self.svg.mono(0.0, 0.0, Align::Left, SIZE, "x", &token);
            self.svg.raw(format_args!("</g>"));
        }
        body + side
    }

    /// A pattern as one path per colour: adjacent cells of one colour in a row form one rectangle.
    fn cells(&mut self, head: &HeadPattern, most: usize, x: f64, y: f64, side: f64) {
        let square = head.pooled(most, self.options.sink);
        let cell = side / square.len() as f64;
        let steps = (CIVIDIS.len() - 1) as f64;
        let level = |weight: Option<f32>| {
            weight.map(|w| (f64::from(w) / self.top * steps).clamp(0.0, steps).round() as usize)
        };
        let mut paths: BTreeMap<usize, String> = BTreeMap::new();
        for (row, cells) in square.iter().enumerate() {
            let levels: Vec<Option<usize>> = cells.iter().map(|weight| level(*weight)).collect();
            let mut column = 0;
            for run in levels.chunk_by(|a, b| a == b) {
                if let Some(level) = run[0] {
                    let path = paths.entry(level).or_default();
                    let (from, wide) = (number(x + column as f64 * cell), number(run.len() as f64 * cell));
                    let (above, high) = (number(y + row as f64 * cell), number(cell));
                    *path += &format!("M{from} {above}h{wide}v{high}h-{wide}z");
                }
                column += run.len();
            }
        }
        self.svg.raw(format_args!(r#"<g class="c"><title>{}</title>"#, head.name()));
        for (level, path) in paths {
            self.svg.raw(format_args!(r#"<path fill="{}" d="{path}"/>"#, CIVIDIS[level].hex()));
        }
        self.svg.raw(format_args!("</g>"));
        let line = self.colours.line;
        let (x, y, side) = (number(x), number(y), number(side));
        self.svg.raw(format_args!(
            r#"<rect x="{x}" y="{y}" width="{side}" height="{side}" fill="none" stroke="{line}" stroke-width=".5"/>"#
        ));
    }

    fn plain(&mut self, x: f64, y: f64, align: Align, size: f64, class: &str, text: &str) {
        self.svg.mono(x, y, align, size, class, &[Piece { text: text.to_owned(), kind: Kind::Plain }]);
    }
}
