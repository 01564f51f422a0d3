//! Writing SVG: a buffer that escapes, and text whose width does not depend on the font.

use std::fmt::Write as _;

use crate::font::Coverage;
use crate::text::{Kind, Piece, columns, printable, width};

/// Width of a column of monospaced text, relative to the font size. DejaVu Sans Mono: 1233 of 2048 units.
pub(crate) const ADVANCE: f64 = 1233.0 / 2048.0;

/// A growing SVG document.
pub(crate) struct Svg {
    out: String,
    /// The font's characters; others become boxes with their code. `None`: the viewer has its own fonts.
    coverage: Option<Coverage>,
}

impl Svg {
    pub(crate) fn new(coverage: Option<Coverage>) -> Self {
        Self { out: String::new(), coverage }
    }

    /// Markup written unchanged: never anything from outside.
    pub(crate) fn raw(&mut self, markup: std::fmt::Arguments<'_>) {
        let _ = self.out.write_fmt(markup);
        self.out.push('\n');
    }

    /// One line of proportional text; its width depends on the font.
    pub(crate) fn text(&mut self, x: f64, y: f64, class: &str, text: &str) {
        let shown: String = match &self.coverage {
            None => text.to_owned(),
            Some(coverage) => {
                text.chars().map(|c| if coverage.has(c) { c.into() } else { code(c) }).collect()
            }
        };
        let _ = writeln!(
            self.out,
            r#"<text x="{}" y="{}" class="{class}">{}</text>"#,
            number(x),
            number(y),
            escape(&shown)
        );
    }

    /// Monospaced text of fixed width, centred, right-aligned or left-aligned at `x`.
    pub(crate) fn mono(&mut self, x: f64, y: f64, align: Align, size: f64, class: &str, pieces: &[Piece]) {
        let runs = self.runs(pieces);
        let total: f64 = runs.iter().map(|run| run.columns() as f64).sum::<f64>() * size * ADVANCE;
        let mut at = match align {
            Align::Left => x,
            Align::Centre => x - total / 2.0,
            Align::Right => x - total,
        };
        for run in runs {
            let wide = run.columns() as f64 * size * ADVANCE;
            match run {
                Run::Text(pieces) => self.mono_run(at, y, size, class, &pieces),
                Run::Box(c) => self.code_box(at, y, size, class, c),
            }
            at += wide;
        }
    }

    pub(crate) fn finish(self) -> String {
        self.out
    }

    /// The whole picture, on white.
    pub(crate) fn document(self, width: f64, height: f64, title: &str, style: &str) -> String {
        let (w, h, title) = (number(width.ceil()), number(height.ceil()), escape(&printable(title)));
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\">\n\
             <title>{title}</title>\n<style>{style}</style>\n<rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n{}</svg>\n",
            self.finish()
        )
    }

    /// One element per piece: some renderers distribute `textLength` wrongly over parts of one element.
    fn mono_run(&mut self, x: f64, y: f64, size: f64, class: &str, pieces: &[Piece]) {
        let mut at = x;
        for piece in pieces {
            let count = columns(&piece.text);
            let wide = count as f64 * size * ADVANCE;
            let sign = if piece.kind == Kind::Sign { " m" } else { "" };
            let _ = write!(self.out, r#"<text x="{}" y="{}""#, number(at), number(y));
            if count > 1 {
                let _ = write!(self.out, r#" textLength="{}" lengthAdjust="spacingAndGlyphs""#, number(wide));
            }
            let _ = writeln!(self.out, r#" class="{class}{sign}">{}</text>"#, escape(&piece.text));
            at += wide;
        }
    }

    /// A missing character: its code in a box two columns wide, in two lines of digits.
    fn code_box(&mut self, x: f64, y: f64, size: f64, class: &str, c: char) {
        let (wide, high) = (2.0 * size * ADVANCE - 1.5, size * 1.02);
        let top = y - size * 0.83;
        let _ = writeln!(
            self.out,
            r#"<rect x="{}" y="{}" width="{}" height="{}" rx="1.5" class="{class} b"/>"#,
            number(x + 0.75),
            number(top),
            number(wide),
            number(high)
        );
        let digits = format!("{:04X}", boxed_code(c));
        let (upper, lower) = digits.split_at(digits.len() / 2);
        for (line, baseline) in [(upper, 0.44), (lower, 0.90)] {
            let small = (size * 0.46).min(wide * 0.9 / (line.len() as f64 * ADVANCE));
            let _ = writeln!(
                self.out,
                r#"<text x="{}" y="{}" class="{class}" style="font-size:{}px" text-anchor="middle">{line}</text>"#,
                number(x + 0.75 + wide / 2.0),
                number(top + size * baseline),
                number(small)
            );
        }
    }

    fn runs(&self, pieces: &[Piece]) -> Vec<Run> {
        let Some(coverage) = &self.coverage else { return vec![Run::Text(pieces.to_vec())] };
        let mut runs: Vec<Run> = Vec::new();
        for piece in pieces {
            for c in piece.text.chars() {
                if !coverage.has(c) {
                    // A mark that cannot be drawn has no column of its own for a box.
                    if width(c) > 0 {
                        runs.push(Run::Box(c));
                    }
                    continue;
                }
                match runs.last_mut() {
                    Some(Run::Text(list)) => match list.last_mut() {
                        Some(last) if last.kind == piece.kind => last.text.push(c),
                        _ => list.push(Piece { text: c.into(), kind: piece.kind }),
                    },
                    _ => runs.push(Run::Text(vec![Piece { text: c.into(), kind: piece.kind }])),
                }
            }
        }
        runs
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Centre,
    Right,
}

enum Run {
    Text(Vec<Piece>),
    Box(char),
}

impl Run {
    fn columns(&self) -> usize {
        match self {
            Self::Text(pieces) => pieces.iter().map(|p| columns(&p.text)).sum(),
            Self::Box(_) => 2,
        }
    }
}

/// The style of a picture on white: monospaced text of this size, titles (`h`), lines of words (`s`), and `more`.
pub(crate) fn style(size: f64, more: &str) -> String {
    format!(
        "text{{font:{size}px \"DejaVu Sans Mono\",Menlo,Consolas,monospace;fill:#1b1f24;white-space:pre}}\
         .h{{font:bold 18px \"DejaVu Sans\",Verdana,sans-serif}}\
         .s{{font:12px \"DejaVu Sans\",Verdana,sans-serif;fill:#5b6570}}{more}"
    )
}

/// A coordinate with as few digits as a precision of 0.01 pixels needs.
pub(crate) fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Text escaped for XML content or an attribute value.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            _ => out.push(c),
        }
    }
    out
}

/// The code in a box: that of the control character if `c` is its picture.
fn boxed_code(c: char) -> u32 {
    match c as u32 {
        0x2421 => 0x7f,
        picture @ 0x2400..=0x241f => picture - 0x2400,
        other => other,
    }
}

fn code(c: char) -> String {
    format!("\\u{{{:x}}}", c as u32)
}
