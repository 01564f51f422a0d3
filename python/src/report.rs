//! The lens of a whole prompt as a picture.

use easyroutine::lens::{Component, LogitLens, Survey, SurveyOptions, survey_through};
use easyroutine::positions::{self, Context, Row};
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, Stop};
use easyroutine_app::reports;
use easyroutine_view::lens::{
    self as view, ColourDepth, LensReport, LensSettings, Metric, Norm, PictureOptions, TerminalOptions,
    TrackedToken,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::attention::drawing;
use crate::edits::{self, InterventionInput};
use crate::errors::Failure;
use crate::hooks::{HookInput, Hooks};
use crate::interrupt::Signals;
use crate::lens::norm_of;
use crate::model::{Model, RowInput, specifiers, views};

/// What each layer would predict at each token: plain data that can be drawn.
#[pyclass(frozen, module = "easyroutine._core")]
pub(crate) struct Report {
    report: LensReport,
}

#[pymethods]
impl Report {
    /// Runs one prompt under the interventions and hooks and reads its layers. `layers` are numbers, -1 the embedding;
    /// `tracked` is a token's id.
    #[staticmethod]
    #[pyo3(signature = (model, row, interventions, hooks, *, positions=None, layers=None, component="resid_out", norm="own", k=10, tracked=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python function")]
    fn of_prompt(
        py: Python<'_>,
        model: &Model,
        row: RowInput,
        interventions: Vec<InterventionInput>,
        hooks: Vec<HookInput>,
        positions: Option<&str>,
        layers: Option<Vec<i64>>,
        component: &str,
        norm: &str,
        k: usize,
        tracked: Option<u32>,
    ) -> Result<Report, Failure> {
        let tokenizer = model.tokenizer()?.tokenizer;
        let arch = model.model.arch();
        let specifiers = positions.map(specifiers).transpose()?;
        let asked = layers.is_some();
        let (name, component) = (component, Component::from_name(component)?);
        let options = SurveyOptions {
            component,
            norm: norm_of(norm)?,
            top_k: k,
            positions: match &specifiers {
                None => (0..row.0.len()).collect(),
                Some(specifiers) => selected(specifiers, &row, &tokenizer)?,
            },
            layers: layers.unwrap_or_else(|| component.layers(&model.model)),
            tracked: tracked.into_iter().collect(),
        };
        let changes = edits::read(&interventions, arch)?;
        let context = Context { special: model.special(), ..Context::default() };
        let mut edits = changes.checked(py, &model.model, &views(std::slice::from_ref(&row), 0), context)?;
        let changes = changes.described(&hooks);
        let mut hooks = Hooks::new(&model.model, hooks)?;
        let signals = Signals::new();
        let work = || -> Result<Survey, Failure> {
            let (lens, batch) = (LogitLens::from_model(&model.model)?, Batch::new(&[&row.0])?);
            let (taps, stop) = ((&mut edits, &mut hooks), Stop::When(&|| signals.is_stopped()));
            survey_through(&lens, &model.model, &batch, &options, taps, stop)
                .map_err(|error| signals.failure(error))
        };
        let survey = py.detach(work).map_err(|failure| hooks.failure(failure))?;
        let settings = LensSettings {
            component: name.to_owned(),
            norm: match norm {
                "cached" => Norm::Cached,
                "none" => Norm::None,
                _ => Norm::Own,
            },
            k,
            bos: model.subject(&tokenizer, &row.0).starts_with_bos,
            positions: specifiers.is_some().then(|| options.positions.clone()),
            layers: asked.then(|| options.layers.clone()),
            tracked: tracked.map(|id| TrackedToken { id, text: tokenizer.token_text(id).to_string() }),
            max_context: Some(arch.context),
            interventions: changes,
            tuned: None,
            jacobian: None,
        };
        Ok(Report { report: reports::lens(&model.subject(&tokenizer, &row.0), settings, &survey) })
    }

    /// A report from its JSON.
    #[staticmethod]
    fn from_json(text: &str) -> Result<Report, Failure> {
        let report = LensReport::from_json(text).map_err(drawing)?;
        Ok(Report { report })
    }

    /// The JSON schema `easyroutine.lens/1`.
    fn json(&self) -> Result<String, Failure> {
        view::json(&self.report).map_err(drawing)
    }

    /// One self-contained page; it needs no network.
    fn html(&self) -> String {
        view::html(&self.report)
    }

    fn tsv(&self) -> String {
        view::table(&self.report).tsv()
    }

    fn csv(&self) -> String {
        view::table(&self.report).csv()
    }

    fn markdown(&self, metric: &str) -> Result<String, Failure> {
        Ok(view::markdown(&self.report, self.metric(metric)?))
    }

    fn svg(&self, metric: &str, dark: bool) -> Result<String, Failure> {
        let options = PictureOptions { metric: self.metric(metric)?, dark, ..PictureOptions::default() };
        Ok(view::svg(&self.report, &options))
    }

    fn png<'py>(&self, py: Python<'py>, metric: &str, dark: bool) -> Result<Bound<'py, PyBytes>, Failure> {
        let options = PictureOptions { metric: self.metric(metric)?, dark, ..PictureOptions::default() };
        let picture = py.detach(|| view::png(&self.report, &options));
        Ok(PyBytes::new(py, &picture.map_err(drawing)?))
    }

    /// A table for a terminal `width` columns wide, in 24-bit colour or none.
    fn terminal(&self, metric: &str, width: usize, colour: bool) -> Result<String, Failure> {
        let colour = if colour { ColourDepth::True } else { ColourDepth::None };
        let options = TerminalOptions { width, colour, metric: self.metric(metric)? };
        Ok(view::terminal(&self.report, &options))
    }
}

impl Report {
    fn metric(&self, name: &str) -> Result<Metric, Failure> {
        match name {
            "final" => Ok(Metric::Final),
            "p" => Ok(Metric::Own),
            "rank" => Ok(Metric::Rank),
            "entropy" => Ok(Metric::Entropy),
            "kl" => Ok(Metric::Kl),
            "tracked" if self.report.settings.tracked.is_some() => Ok(Metric::Tracked),
            "tracked" => Err(Failure::input("metric tracked needs a token: track=\" Paris\"")),
            _ => Err(Failure::input(format!("metric is final, p, rank, entropy, kl or tracked, not {name}"))),
        }
    }
}

/// The surveyed positions, each once, in the order of the prompt.
fn selected(
    specifiers: &[positions::Specifier],
    (ids, text): &RowInput,
    tokenizer: &Tokenizer,
) -> Result<Vec<usize>, Failure> {
    let text = text.as_ref().map(|(text, spans)| (text.as_str(), spans.as_slice()));
    let context = Context { special: tokenizer.special_ids(), ..Context::default() };
    let mut indices = positions::select(specifiers, Row { number: 0, ids, text, n_new: 0 }, context)?.indices;
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}
