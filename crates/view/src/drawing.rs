//! A report in any output format. The command line and the Python package both draw through [`Drawing::draw`].

use crate::attention::{self, AttentionReport};
use crate::circuit::{self, CircuitReport};
use crate::graph::{self, GraphReport};
use crate::grid::{self, GridReport};
use crate::lens::{self, ColourDepth, LensReport};
use crate::table::Table;
use crate::{Error, ErrorKind};

/// Pixels of a PNG per unit of its picture, where a report has no options of its own.
const SCALE: f32 = 2.0;

/// The output formats of a drawing. JSON is not among them: it is the report itself, not a drawing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A table with tabs between the cells.
    Tsv,
    /// A table with commas between the cells.
    Csv,
    /// A table in Markdown.
    Markdown,
    /// One self-contained page.
    Html,
    /// A picture of vectors.
    Svg,
    /// A picture of pixels.
    Png,
    /// A table for a terminal.
    Terminal,
}

impl Format {
    /// The format that Python calls `name`: `html`, `svg`, `png`, `tsv`, `csv`, `markdown`, `terminal`.
    ///
    /// # Errors
    /// [`ErrorKind::Name`] if no format has this name.
    pub fn from_name(name: &str) -> Result<Format, Error> {
        Ok(match name {
            "tsv" => Format::Tsv,
            "csv" => Format::Csv,
            "markdown" => Format::Markdown,
            "html" => Format::Html,
            "svg" => Format::Svg,
            "png" => Format::Png,
            "terminal" => Format::Terminal,
            _ => return Err(Error::new(ErrorKind::Name, format!("`{name}` is not a format"))),
        })
    }
}

/// The terminal that a table is drawn for. Other formats ignore it.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    /// Its columns.
    pub width: usize,
    /// The colours it shows.
    pub colour: ColourDepth,
}

/// A report together with the choices of how to draw it.
pub trait Drawing {
    /// Its numbers, one row each.
    fn table(&self) -> Table<'_>;
    /// A table in Markdown, for people.
    fn markdown(&self) -> String;
    /// One self-contained page.
    ///
    /// # Errors
    /// [`ErrorKind::Draw`] if the report cannot be written as data of the page.
    fn html(&self) -> Result<String, Error>;
    /// A picture of vectors; `None` if this report has none.
    fn svg(&self) -> Option<String>;
    /// A picture of pixels; `None` if this report has none.
    ///
    /// # Errors
    /// [`ErrorKind::Size`] if it is too large.
    fn png(&self) -> Option<Result<Vec<u8>, Error>>;
    /// A table for a terminal.
    fn terminal(&self, screen: Screen) -> String;

    /// The drawing in one format.
    ///
    /// # Errors
    /// Those of the format, and [`ErrorKind::Draw`] if this report has no such drawing.
    fn draw(&self, format: Format, screen: Screen) -> Result<Vec<u8>, Error> {
        let none = || Error::new(ErrorKind::Draw, "this report has tables and a page, but no picture");
        Ok(match format {
            Format::Tsv => self.table().tsv().into_bytes(),
            Format::Csv => self.table().csv().into_bytes(),
            Format::Markdown => self.markdown().into_bytes(),
            Format::Html => self.html()?.into_bytes(),
            Format::Svg => self.svg().ok_or_else(none)?.into_bytes(),
            Format::Png => self.png().ok_or_else(none)??,
            Format::Terminal => self.terminal(screen).into_bytes(),
        })
    }
}

/// A lens and how to draw it.
#[derive(Debug, Clone, Copy)]
pub struct LensDrawing<'r> {
    /// The report.
    pub report: &'r LensReport,
    /// Its metric, colours and scale.
    pub options: lens::PictureOptions,
}

/// Patterns and how to draw them.
#[derive(Debug, Clone, Copy)]
pub struct AttentionDrawing<'r> {
    /// The report.
    pub report: &'r AttentionReport,
    /// Its first token, colours and scale.
    pub options: attention::PictureOptions,
}

/// A circuit and how to draw it.
#[derive(Debug, Clone, Copy)]
pub struct CircuitDrawing<'r> {
    /// The report.
    pub report: &'r CircuitReport,
    /// Edges listed on a terminal.
    pub most: usize,
}

/// An attribution graph and how to draw it.
#[derive(Debug, Clone, Copy)]
pub struct GraphDrawing<'r> {
    /// The report.
    pub report: &'r GraphReport,
    /// Features listed on a terminal.
    pub most: usize,
}

impl Drawing for LensDrawing<'_> {
    fn table(&self) -> Table<'_> {
        lens::table(self.report)
    }
    fn markdown(&self) -> String {
        lens::markdown(self.report, self.options.metric)
    }
    fn html(&self) -> Result<String, Error> {
        Ok(lens::html(self.report))
    }
    fn svg(&self) -> Option<String> {
        Some(lens::svg(self.report, &self.options))
    }
    fn png(&self) -> Option<Result<Vec<u8>, Error>> {
        Some(lens::png(self.report, &self.options))
    }
    fn terminal(&self, Screen { width, colour }: Screen) -> String {
        lens::terminal(self.report, &lens::TerminalOptions { width, colour, metric: self.options.metric })
    }
}

impl Drawing for AttentionDrawing<'_> {
    fn table(&self) -> Table<'_> {
        attention::table(self.report)
    }
    fn markdown(&self) -> String {
        attention::markdown(self.report)
    }
    fn html(&self) -> Result<String, Error> {
        attention::html(self.report, self.options.sink)
    }
    fn svg(&self) -> Option<String> {
        Some(attention::svg(self.report, &self.options))
    }
    fn png(&self) -> Option<Result<Vec<u8>, Error>> {
        Some(attention::png(self.report, &self.options))
    }
    fn terminal(&self, Screen { width, colour }: Screen) -> String {
        attention::terminal(
            self.report,
            &attention::TerminalOptions { width, colour, sink: self.options.sink },
        )
    }
}

impl Drawing for GridReport {
    fn table(&self) -> Table<'_> {
        grid::table(self)
    }
    fn markdown(&self) -> String {
        grid::markdown(self)
    }
    fn html(&self) -> Result<String, Error> {
        Ok(grid::html(self))
    }
    fn svg(&self) -> Option<String> {
        Some(grid::svg(self))
    }
    fn png(&self) -> Option<Result<Vec<u8>, Error>> {
        Some(grid::png(self, SCALE))
    }
    fn terminal(&self, Screen { width, colour }: Screen) -> String {
        grid::terminal(self, width, colour)
    }
}

impl Drawing for CircuitDrawing<'_> {
    fn table(&self) -> Table<'_> {
        circuit::table(self.report)
    }
    fn markdown(&self) -> String {
        circuit::markdown(self.report)
    }
    fn html(&self) -> Result<String, Error> {
        circuit::html(self.report)
    }
    fn svg(&self) -> Option<String> {
        Some(circuit::svg(self.report))
    }
    fn png(&self) -> Option<Result<Vec<u8>, Error>> {
        Some(circuit::png(self.report, SCALE))
    }
    fn terminal(&self, screen: Screen) -> String {
        circuit::terminal(self.report, screen.width, self.most)
    }
}

impl Drawing for GraphDrawing<'_> {
    fn table(&self) -> Table<'_> {
        graph::table(self.report)
    }
    fn markdown(&self) -> String {
        graph::markdown(self.report)
    }
    fn html(&self) -> Result<String, Error> {
        graph::html(self.report)
    }
    fn svg(&self) -> Option<String> {
        None
    }
    fn png(&self) -> Option<Result<Vec<u8>, Error>> {
        None
    }
    fn terminal(&self, screen: Screen) -> String {
        graph::terminal(self.report, screen.width, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_picture_and_an_unknown_format_are_errors() {
        let report = GraphReport {
            title: String::new(),
            lines: Vec::new(),
            tokens: Vec::new(),
            n_layers: 2,
            nodes: Vec::new(),
            edges: Vec::new(),
        };
        let (graph, screen) =
            (GraphDrawing { report: &report, most: 3 }, Screen { width: 80, colour: ColourDepth::None });
        let error = graph.draw(Format::from_name("png").unwrap(), screen).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Draw);
        assert!(graph.draw(Format::from_name("csv").unwrap(), screen).unwrap().starts_with(b"source"));
        assert_eq!(Format::from_name("md").unwrap_err().kind(), ErrorKind::Name);
    }
}
