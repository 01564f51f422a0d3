//! The lens over a whole prompt: every layer at every position, compared with the model's own prediction.

use std::collections::BTreeSet;

use easyroutine_kernels::{Rows, RowsMut};
use easyroutine_sites::{Point, Site};

use super::reading::{Sources, Wanted};
use super::{CachedStatistics, LensNorm, LogitLens, Reading, Role};
use crate::batch::Batch;
use crate::cache::{Capture, Kept, Key, Statistic};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::positions::{Selected, Selection, Specifier};
use crate::stop::Stop;
use crate::tap::Tap;

/// The activations to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component(Site);

impl Component {
    /// The residual stream that leaves each block.
    pub const RESID_OUT: Component = Component(Site::ResidOut);

    /// A component by the name of its site.
    ///
    /// # Errors
    /// If no site has the name, or it is not in the residual stream's basis.
    pub fn from_name(name: &str) -> Result<Self> {
        let is_component =
            |site: &Site| Role::of(*site).is_some() && site.scope() != easyroutine_sites::Scope::Model;
        let site = Site::from_name(name).filter(is_component);
        site.map(Component).ok_or_else(|| {
            let names = Site::ALL.iter().filter(|site| is_component(site)).map(|site| site.name());
            Error::input(format!("no component `{name}`"))
                .hint(format!("components are: {}", names.collect::<Vec<_>>().join(", ")))
        })
    }

    /// The model's layers that have it, after the embedding (-1): the default layers of a survey. If no layer has it,
    /// all layers, so that the survey reports why.
    pub fn layers(self, model: &Model) -> Vec<i64> {
        let arch = model.arch();
        let all = || 0..arch.layers.len();
        let having: Vec<usize> = all().filter(|layer| arch.has(self.0, *layer)).collect();
        let layers = if having.is_empty() { all().collect() } else { having };
        std::iter::once(-1).chain(layers.into_iter().map(|layer| layer as i64)).collect()
    }

    /// The site.
    pub fn site(self) -> Site {
        self.0
    }
}

/// Options of a survey.
#[derive(Debug, Clone)]
pub struct SurveyOptions {
    /// The activations to read.
    pub component: Component,
    /// The statistics that the final norm uses.
    pub norm: LensNorm,
    /// Number of most likely tokens to list.
    pub top_k: usize,
    /// Positions of the row.
    pub positions: Vec<usize>,
    /// Layers, each read once; -1 is the embedding.
    pub layers: Vec<i64>,
    /// Ids whose log-probability is read everywhere.
    pub tracked: Vec<u32>,
}

/// One activation at all surveyed positions.
#[derive(Debug, Clone)]
pub struct SurveyRow {
    /// -1 for the embedding.
    pub layer: i64,
    /// The key of the activation.
    pub name: String,
    /// One reading per surveyed position.
    pub readings: Vec<Reading>,
}

/// The whole survey, from the embedding up.
#[derive(Debug, Clone)]
pub struct Survey {
    /// One row per activation.
    pub rows: Vec<SurveyRow>,
    /// The positions, in the requested order.
    pub positions: Vec<usize>,
    /// The model's own most likely next token at each position.
    pub final_top: Vec<u32>,
}

/// Runs one prompt and reads its layers.
///
/// # Errors
/// If there is more than one row, a position, layer or tracked id does not exist, the model lacks the component, or the
/// run fails.
pub fn survey(model: &Model, batch: &Batch, options: &SurveyOptions) -> Result<Survey> {
    survey_under(model, batch, options, ())
}

/// The same with a tap that comes first, such as [`Edits`](crate::edit::Edits): the layers are read as it leaves them.
///
/// # Errors
/// As [`survey`], and the tap's errors.
pub fn survey_under(
    model: &Model,
    batch: &Batch,
    options: &SurveyOptions,
    first: impl Tap,
) -> Result<Survey> {
    survey_through(&LogitLens::from_model(model)?, model, batch, options, first, Stop::Never)
}

/// The same through a given lens of the model, which may be a tuned one, ending early when `stop` says so.
///
/// # Errors
/// As [`survey_under`], and if no translator of the lens was trained for the component;
/// [`Interrupted`](crate::ErrorKind::Interrupted) if it was stopped.
pub fn survey_through(
    lens: &LogitLens,
    model: &Model,
    batch: &Batch,
    options: &SurveyOptions,
    first: impl Tap,
    stop: Stop<'_>,
) -> Result<Survey> {
    lens.unembedding.files.during(|| surveyed(lens, model, batch, options, first, stop))
}

fn surveyed(
    lens: &LogitLens,
    model: &Model,
    batch: &Batch,
    options: &SurveyOptions,
    first: impl Tap,
    stop: Stop<'_>,
) -> Result<Survey> {
    if batch.n_rows() != 1 {
        return Err(Error::input("a lens is drawn of one prompt at a time"));
    }
    check(model, batch, options)?;
    let points = points(model, options)?;
    points.iter().try_for_each(|point| lens.check(*point))?;
    let last = model.arch().layers.len() - 1;
    let final_stream = Point::layer_of(Site::ResidOut, last);
    let mut wanted: BTreeSet<Point> = points.iter().copied().collect();
    wanted.insert(final_stream);
    if options.norm == LensNorm::Cached {
        wanted.insert(Point::model(Site::LastLayernorm));
    }
    let all = 0..options.positions.len();
    let selected = Selected { indices: options.positions.clone(), groups: std::iter::once(all).collect() };
    let selection = Selection { specifiers: vec![Specifier::All], rows: vec![selected] };
    let mut taps = (first, Capture::new(wanted, selection));
    model.forward_until(batch, &mut taps, stop)?;
    let mut cache = taps.1.finish(batch);

    // Each activation leaves the cache and is normed in place.
    let (n, d_model) = (options.positions.len(), model.arch().d_model);
    let statistics = Statistic::ALL.map(|statistic| cache.take(Key::Statistic(statistic)));
    let [mean, variance, second_moment] =
        statistics.each_ref().map(|kept| kept.as_ref().map_or(&[][..], Kept::values));
    let cached =
        (options.norm == LensNorm::Cached).then_some(CachedStatistics { mean, variance, second_moment });
    let not_reached = |point: Point| Error::input(format!("`{point}` was not reached"));
    let finals = cache.get(final_stream).ok_or_else(|| not_reached(final_stream))?;
    let finals = lens.normed(Rows::dense(finals.values(), n, d_model), Role::Stream, LensNorm::Own, None)?;
    let mut normed = |point: Point, role: Role| -> Result<Kept> {
        let mut kept = cache.take(point).ok_or_else(|| not_reached(point))?;
        let translated = lens.translated(point, Rows::dense(kept.values(), n, d_model))?;
        let mut vectors = RowsMut::dense(kept.values_mut(), n, d_model);
        if let Some(translated) = translated {
            (0..n).for_each(|p| vectors.row_mut(p).copy_from_slice(translated.rows().row(p)));
        }
        lens.norm_in_place(vectors, role, options.norm, cached)?;
        Ok(kept)
    };
    let ids = batch.row(0);
    let targets: Vec<Option<u32>> = options
        .positions
        .iter()
        .map(|p| ids.get(p + 1).copied().filter(|id| (*id as usize) < lens.vocabulary()))
        .collect();
    let wanted = Wanted { top_k: options.top_k, targets: &targets, tracked: &options.tracked };
    let mut rows = Vec::new();
    let mut final_top = Vec::new();
    // Streams and parts differ in whether the unembedding's bias is added, so each kind is read separately.
    for role in [Role::Part, Role::Stream] {
        let of_role: Vec<Point> = points
            .iter()
            .copied()
            .filter(|point| lens.role(point.site()).is_ok_and(|found| found == role))
            .collect();
        if of_role.is_empty() {
            continue;
        }
        let normed = of_role.iter().map(|point| normed(*point, role)).collect::<Result<_>>()?;
        let with_bias = role.takes_bias(options.norm);
        let readings;
        (readings, final_top) = lens.read(&Sources { normed, with_bias }, &finals, wanted);
        rows.extend(of_role.into_iter().zip(readings).map(|(point, readings)| SurveyRow {
            layer: point.layer().map_or(-1, |l| l as i64),
            name: point.to_string(),
            readings,
        }));
    }
    rows.sort_by_key(|row| row.layer);
    Ok(Survey { rows, positions: options.positions.clone(), final_top })
}

/// Refuses positions outside the row and ids outside the vocabulary.
fn check(model: &Model, batch: &Batch, options: &SurveyOptions) -> Result<()> {
    let (length, vocabulary) = (batch.n_tokens(), model.arch().vocabulary);
    if let Some(position) = options.positions.iter().find(|p| **p >= length) {
        return Err(Error::input(format!(
            "position {position} is outside the prompt, which has {length} tokens"
        )));
    }
    if let Some(id) = options.tracked.iter().find(|id| **id as usize >= vocabulary) {
        return Err(Error::input(format!("tracked: token id {id} is beyond the vocabulary of {vocabulary}")));
    }
    Ok(())
}

/// The points of the survey, checked against the model.
fn points(model: &Model, options: &SurveyOptions) -> Result<Vec<Point>> {
    let n_layers = model.arch().layers.len() as i64;
    let site = options.component.site();
    let mut points = Vec::new();
    for layer in &options.layers.iter().copied().collect::<BTreeSet<i64>>() {
        if *layer == -1 {
            points.push(Point::model(Site::InputEmbeddings));
            continue;
        }
        if !(0..n_layers).contains(layer) {
            return Err(Error::input(format!(
                "no layer {layer}; the model has 0 to {}, and -1 is the embedding",
                n_layers - 1
            )));
        }
        points.extend(model.arch().points_of(site, *layer as usize)?);
    }
    Ok(points)
}
