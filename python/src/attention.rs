//! Attention patterns of a prompt as pictures.

use easyroutine::positions::{Context, Specifier};
use easyroutine::request::Request;
use easyroutine::sites::Selector;
use easyroutine::{Batch, Error, Stop};
use easyroutine_app::reports;
use easyroutine_view::attention::{self as view, AttentionReport, PictureOptions, Sink, TerminalOptions};
use easyroutine_view::drawing::{Drawing, Format, Screen};
use easyroutine_view::lens::ColourDepth;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::hooks::{HookInput, Hooks};
use crate::interrupt::Signals;
use crate::model::{Model, RowInput, views};

/// What each head attends to: plain data that can be drawn.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Attention {
    report: AttentionReport,
}

#[pymethods]
impl Attention {
    /// Runs one prompt under the interventions and hooks and keeps the patterns that `heads` names: `pattern_L*H*`.
    #[staticmethod]
    fn of_prompt(
        py: Python<'_>,
        model: &Model,
        row: RowInput,
        heads: &str,
        interventions: Vec<InterventionInput>,
        hooks: Vec<HookInput>,
    ) -> Result<Attention, Failure> {
        let tokenizer = model.tokenizer()?.tokenizer;
        let selector: Selector = heads.parse().map_err(Error::from)?;
        let request =
            Request { activations: vec![selector], positions: vec![Specifier::All], ..Request::default() };
        let rows = [row];
        let views = views(&rows, 0);
        let context = Context { special: model.special(), ..Context::default() };
        let changes = edits::read(&interventions, model.model.arch())?;
        let mut edits = changes.checked(py, &model.model, &views, context)?;
        let changes = changes.described(&hooks);
        let mut hooks = Hooks::new(&model.model, hooks)?;
        let signals = Signals::new();
        let run = || {
            let (batch, taps) = (Batch::new(&[&rows[0].0])?, (&mut edits, &mut hooks));
            let stop = Stop::When(&|| signals.is_stopped());
            let run = request.run_until(&model.model, &batch, &views, context, taps, stop);
            run.map_err(|error| signals.failure(error))
        };
        let cache = py.detach(run).map_err(|failure| hooks.failure(failure))?;
        let subject = model.subject(&tokenizer, &rows[0].0);
        Ok(Attention { report: reports::attention(&subject, changes, &cache) })
    }

    /// A report from its JSON.
    #[staticmethod]
    fn from_json(text: &str) -> Result<Attention, Failure> {
        Ok(Attention { report: AttentionReport::from_json(text).map_err(drawing)? })
    }

    /// The JSON schema `easyroutine.attn/1`.
    fn json(&self) -> Result<String, Failure> {
        view::json(&self.report).map_err(drawing)
    }

    /// One self-contained page; it needs no network.
    fn html(&self, hide_first: bool) -> Result<String, Failure> {
        view::html(&self.report, sink(hide_first)).map_err(drawing)
    }

    fn csv(&self) -> String {
        view::table(&self.report).csv()
    }

    fn markdown(&self) -> String {
        view::markdown(&self.report)
    }

    fn svg(&self, hide_first: bool, dark: bool) -> String {
        view::svg(&self.report, &picture(hide_first, dark))
    }

    fn png<'py>(
        &self,
        py: Python<'py>,
        hide_first: bool,
        dark: bool,
    ) -> Result<Bound<'py, PyBytes>, Failure> {
        let picture = py.detach(|| view::png(&self.report, &picture(hide_first, dark)));
        Ok(PyBytes::new(py, &picture.map_err(drawing)?))
    }

    /// A table for a terminal `width` columns wide, in 24-bit colour or none.
    fn terminal(&self, width: usize, colour: bool, hide_first: bool) -> String {
        let colour = if colour { ColourDepth::True } else { ColourDepth::None };
        view::terminal(&self.report, &TerminalOptions { width, colour, sink: sink(hide_first) })
    }
}

fn sink(hide_first: bool) -> Sink {
    if hide_first { Sink::Hidden } else { Sink::Shown }
}

fn picture(hide_first: bool, dark: bool) -> PictureOptions {
    PictureOptions { sink: sink(hide_first), dark, ..PictureOptions::default() }
}

/// A report in the format that Python names.
pub(crate) fn drawn(report: &dyn Drawing, format: &str, screen: Screen) -> Result<Vec<u8>, Failure> {
    report.draw(Format::from_name(format).map_err(drawing)?, screen).map_err(drawing)
}

/// A drawing error as an error of the engine.
pub(crate) fn drawing(error: easyroutine_view::Error) -> Failure {
    Failure::input(error.to_string())
}
