//! `lens`: what each layer would predict next, at every token.

use easyroutine::lens::{Component, LensNorm, LogitLens, SurveyOptions, survey_through};
use easyroutine::positions::{self, Context, Specifier};
use easyroutine::sites::Site;
use easyroutine::tokens::Tokenizer;
use easyroutine::{Batch, ErrorKind, Model};
use easyroutine_view::drawing::LensDrawing;
use easyroutine_view::lens::{
    self as view, JacobianLens, LensReport, LensSettings, Metric, Norm, PictureOptions, TrackedToken,
    TunedLens,
};

use crate::args::{Args, Lens, MetricArg, NormArg};
use crate::failure::{Failure, one_line};
use crate::output::{self, DRAWN};
use crate::progress::Layers;
use crate::session::{self, Prompt, Session, token_text};
use crate::{changes, hosted, layers};
use easyroutine_app::reports;

pub(crate) fn run(args: &Args, lens: &Lens) -> Result<(), Failure> {
    let targets = output::targets(args, DRAWN)?;
    let component = Component::from_name(&lens.component)?;
    let specifiers = specifiers(&lens.positions)?;
    let interventions = lens.changes.read(&lens.model.loading.finding)?;
    let session = session::load(&lens.model.model, &lens.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &lens.model.loading.finding)?;
    let arch = session.model.arch();
    let prompt = lens.prompt.read(&tokenizer, arch.context)?;
    let through = through(lens, &session.model)?;
    if let Some(warning) = warning(&through, &session)? {
        output::note("warning", &one_line(&warning));
    }
    let tracked = lens.track.as_deref().map(|text| tracked(text, &tokenizer, arch.vocabulary)).transpose()?;
    let options = SurveyOptions {
        component,
        norm: match lens.norm {
            NormArg::Own => LensNorm::Own,
            NormArg::Cached => LensNorm::Cached,
            NormArg::None => LensNorm::None,
        },
        top_k: lens.k as usize,
        positions: selected(&specifiers, &prompt, &tokenizer, lens.changes.seed)?,
        layers: match (&lens.layers, through.jacobian()) {
            // Everything that it reads: the embedding has no matrix.
            (None, Some(fitted)) => readable(fitted, component),
            (None, None) => component.layers(&session.model),
            (Some(given), _) => layers::parse(Some(given), arch.layers.len())?,
        },
        tracked: tracked.iter().map(|t| t.id).collect(),
    };
    note_of_layers(lens, &options, arch.layers.len());
    let batch = Batch::new(&[&prompt.encoded.ids])?;
    let edits = changes::of_prompt(&interventions, &session, &prompt, &tokenizer, lens.changes.seed)?;
    let taps = (edits, Layers::new(&session.model));
    let survey = survey_through(&through, &session.model, &batch, &options, taps, hosted::stop())?;
    let is_nan = survey.rows.iter().flat_map(|row| &row.readings).any(|r| r.entropy.is_nan());
    output::warn_of_nan(is_nan, !interventions.is_empty());
    let settings = LensSettings {
        component: lens.component.clone(),
        norm: match lens.norm {
            NormArg::Own => Norm::Own,
            NormArg::Cached => Norm::Cached,
            NormArg::None => Norm::None,
        },
        k: options.top_k,
        bos: prompt.encoded.starts_with_bos,
        positions: (!lens.positions.is_empty()).then(|| options.positions.clone()),
        layers: lens.layers.as_ref().map(|_| options.layers.clone()),
        tracked,
        max_context: Some(arch.context),
        interventions: lens.changes.intervene.clone(),
        tuned: through.tuned().map(|lens| TunedLens {
            name: lens.name.clone(),
            base_model: lens.base_model.clone(),
            base_revision: lens.base_revision.clone(),
        }),
        jacobian: through
            .jacobian()
            .map(|lens| JacobianLens { name: lens.name.clone(), n_prompts: lens.n_prompts }),
    };
    let report = reports::lens(&session.subject(&tokenizer, &prompt), settings, &survey);
    let metric = metric(lens.metric, &report)?;
    let options = PictureOptions { metric, dark: lens.dark, ..PictureOptions::default() };
    output::drawings(args, &targets, &LensDrawing { report: &report, options }, || view::json(&report))
}

/// Prints which layers have a component, if not all do and no layers were named.
fn note_of_layers(lens: &Lens, options: &SurveyOptions, n_layers: usize) {
    let having: Vec<String> =
        options.layers.iter().filter(|layer| **layer >= 0).map(i64::to_string).collect();
    if lens.layers.is_none() && lens.jacobian.is_none() && having.len() < n_layers {
        let (name, layers) = (&lens.component, having.join(", "));
        output::note("note", &format!("of {n_layers} layers these have `{name}`: {layers}"));
    }
}

/// The layers of a component for which a Jacobian lens has a matrix: the stream that enters a layer left the one
/// before.
fn readable(fitted: &easyroutine::lens::JacobianLens, component: Component) -> Vec<i64> {
    let shift = i64::from(component.site() == Site::ResidIn);
    let last = fitted.layers.iter().max().copied().unwrap_or(0) as i64;
    fitted.layers.iter().map(|layer| *layer as i64 + shift).filter(|layer| *layer <= last).collect()
}

/// The lens: the model's own final norm and unembedding, optionally after a tuned or a Jacobian lens.
fn through(lens: &Lens, model: &Model) -> Result<LogitLens, Failure> {
    if let Some(file) = &lens.jacobian {
        return LogitLens::from_jacobian(file, model).map_err(|error| {
            let failure = match error.kind() {
                ErrorKind::NotFound => Failure::failed(error.to_string()).hint(
                    "a Jacobian lens is a published .pt file, or what `easyroutine jacobian fit` writes",
                ),
                _ => error.into(),
            };
            failure.at("--jacobian")
        });
    }
    let Some(folder) = &lens.tuned else { return Ok(LogitLens::from_model(model)?) };
    LogitLens::from_tuned_lens(folder, model).map_err(|error| {
        let failure = match error.kind() {
            // The exit status for a missing model would be misleading.
            ErrorKind::NotFound => Failure::failed(error.to_string()).hint(
                "a tuned lens is a folder that the tuned-lens package saved: config.json and params.pt",
            ),
            _ => error.into(),
        };
        failure.at("--tuned")
    })
}

/// A warning if a tuned or a Jacobian lens is another model's.
fn warning(lens: &LogitLens, session: &Session) -> Result<Option<String>, Failure> {
    if let Some(trained) = lens.tuned() {
        return Ok(trained.warning(&session.files.name, &lens.unembedding().tuned_lens_hash()?));
    }
    match lens.jacobian().filter(|fitted| fitted.model_digest.is_some()) {
        Some(fitted) => Ok(fitted.warning(session.identity.digest()?)),
        None => Ok(None),
    }
}

pub(super) fn specifiers(given: &[String]) -> Result<Vec<Specifier>, Failure> {
    if given.is_empty() {
        return Ok(vec![Specifier::All]);
    }
    Ok(Specifier::parse_lists(given)?)
}

/// The surveyed positions: a picture shows each once, in prompt order.
pub(super) fn selected(
    specifiers: &[Specifier],
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    seed: u64,
) -> Result<Vec<usize>, Failure> {
    let context = Context { special: tokenizer.special_ids(), seed, ..Context::default() };
    let mut indices = positions::select(specifiers, prompt.row(), context)?.indices;
    indices.sort_unstable();
    indices.dedup();
    Ok(indices)
}

fn tracked(text: &str, tokenizer: &Tokenizer, vocabulary: usize) -> Result<TrackedToken, Failure> {
    let id = session::token_id("--track", text, tokenizer)?;
    if id as usize >= vocabulary {
        return Err(Failure::usage(format!(
            "--track: token id {id} is beyond the vocabulary of {vocabulary}"
        )));
    }
    Ok(TrackedToken { id, text: token_text(tokenizer, id) })
}

fn metric(metric: Option<MetricArg>, report: &LensReport) -> Result<Metric, Failure> {
    // If a token is tracked, the picture is about that token.
    let default = if report.settings.tracked.is_some() { MetricArg::Tracked } else { MetricArg::Final };
    Ok(match metric.unwrap_or(default) {
        MetricArg::Final => Metric::Final,
        MetricArg::P => Metric::Own,
        MetricArg::Rank => Metric::Rank,
        MetricArg::Entropy => Metric::Entropy,
        MetricArg::Kl => Metric::Kl,
        MetricArg::Tracked if report.settings.tracked.is_some() => Metric::Tracked,
        MetricArg::Tracked => return Err(Failure::usage("--metric tracked needs a token: --track ' Paris'")),
    })
}
