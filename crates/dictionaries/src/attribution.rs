//! Which features carried a number that the logits give: estimates from one gradient, and runs that check them.

use std::collections::BTreeMap;

use easyroutine::attribution::correlation;
use easyroutine::cache::ActivationCache;
use easyroutine::gradients::{Output, Rule, gradients};
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row, Specifier, select};
use easyroutine::request::Request;
use easyroutine::sites::Point;
use easyroutine::{Batch, Error, LastLogits, Model, Result, Stop, Tap};
use easyroutine_kernels::Rows;

use crate::change::{FeatureChange, FeatureOperation};
use crate::features::Features;
use crate::named::Dictionaries;
use crate::tap::FeatureEdits;

/// What one feature does to a metric at one token.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureScore {
    /// `features_NAME`, of a set with a layer.
    pub key: String,
    /// The position in the prompt.
    pub position: usize,
    /// The feature.
    pub feature: u32,
    /// What it is in the prompt.
    pub value: f32,
    /// What it is in the base; 0 without one.
    pub base: f32,
    /// The estimate.
    pub score: f64,
    /// The effect of a run, where it was made.
    pub exact: Option<f64>,
}

/// Scores of the features of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureScores {
    /// The largest first.
    pub scores: Vec<FeatureScore>,
    /// The metric of the prompt.
    pub value: f64,
    /// The metric of the base.
    pub base: Option<f64>,
    logits: Vec<f32>,
}

/// Scores every feature of some keys that is active at some positions.
///
/// Without a base the score is f·∂metric/∂f, which estimates the metric less what it is with the feature ablated. With one it
/// is (f of the base − f)·∂metric/∂f, which estimates what putting the base's value in the place of the prompt's does to the
/// metric (attribution patching); the features of both prompts count. ∂metric/∂f is what the feature writes times the gradient
/// there, in every layer that it writes to; what undoes a norm is held.
///
/// # Errors
/// A base of another length; a metric that is not read off the last token's logits or has no gradient; no such features; those
/// of [`gradients`].
#[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
pub fn attribute(
    model: &Model,
    dictionaries: &Dictionaries,
    keys: &[String],
    row: &Row<'_>,
    base: Option<&Row<'_>>,
    positions: &[Specifier],
    metric: Metric,
    context: Context<'_>,
    stop: Stop<'_>,
) -> Result<FeatureScores> {
    check_metric(metric)?;
    if let Some(base) = base.filter(|base| base.ids.len() != row.ids.len()) {
        let what = format!("the base has {} tokens and the prompt {}", base.ids.len(), row.ids.len());
        return Err(Error::input(what)
            .hint("each position is put in the place of the same position: give prompts of one length"));
    }
    let selected = select(positions, row.prompt(), context)?;
    let positions: Vec<usize> = selected.distinct().into_iter().map(|at| selected.indices[at]).collect();
    let wanted = dictionaries.each_layer(keys.iter().map(String::as_str))?;
    let of_base = base.map(|base| encoded(model, dictionaries, &wanted, base.ids, &positions)).transpose()?;
    let (others, logits_of_base) = of_base.map(|found| (found.features, found.logits)).unzip();
    let found = scored(model, dictionaries, &wanted, row.ids, others.as_deref(), &positions, metric, stop)?;
    let base = logits_of_base.map(|logits| metric.of(&logits, &logits, None)).transpose()?;
    Ok(FeatureScores { base, ..found })
}

/// Scores the features of some layers at some positions by the step to `others`, a token's features for each position; by what
/// they are in the row without.
#[expect(clippy::too_many_arguments, reason = "each is known in another place")]
pub(crate) fn scored(
    model: &Model,
    dictionaries: &Dictionaries,
    wanted: &[(usize, usize)],
    ids: &[u32],
    others: Option<&[Features]>,
    positions: &[usize],
    metric: Metric,
    stop: Stop<'_>,
) -> Result<FeatureScores> {
    check_metric(metric)?;
    let all_targets = || {
        let of = |(dictionary, layer): &(usize, usize)| targets(dictionaries, *dictionary, *layer);
        wanted
            .iter()
            .flat_map(move |at| of(at).into_iter().map(|target| dictionaries.all()[at.0].fits[target]))
    };
    let written: Vec<Point> = all_targets().map(|fit| fit.writes).collect();
    let own = encoded(model, dictionaries, wanted, ids, positions)?;
    let read = kept(model, &all_targets().map(|fit| fit.reads).collect::<Vec<_>>(), ids)?.0;
    let (metrics, request) = ([metric], of_points(&written)?);
    let output = Output::Metric { metrics: &metrics, target: None };
    let context = Context::default();
    let rows = [Row::of(0, ids)];
    let found = gradients(model, &rows, &request, output, Rule::Gradient, &mut (), context, stop)?;
    let mut scores = Vec::new();
    for (number, (dictionary, layer)) in wanted.iter().copied().enumerate() {
        let named = &dictionaries.all()[dictionary];
        let coder = named.dictionary.layer(layer)?;
        let key = dictionaries.key(dictionary, layer);
        let (features, others) = (&own.features[number], others.map(|others| &others[number]));
        let mut slopes: Vec<BTreeMap<u32, f64>> = vec![BTreeMap::new(); positions.len()];
        for target in targets(dictionaries, dictionary, layer) {
            let fit = named.fits[target];
            let to = named.dictionary.layer(target)?;
            let x = at(&read, &fit.reads.to_string(), positions, ids.len())?;
            let g = at(&found.cache, &format!("{}_gradients", fit.writes), positions, ids.len())?;
            for (token, slopes) in slopes.iter_mut().enumerate() {
                let numbers = active(features, others, token);
                let g = &g[token * to.d_out()..][..to.d_out()];
                let undo = to.undo(&x[token * to.d_in()..][..to.d_in()])?;
                let along = coder.by_features(target, &numbers, g)?;
                for (number, along) in numbers.into_iter().zip(along) {
                    *slopes.entry(number).or_default() += along * undo.scale;
                }
            }
        }
        for ((token, slopes), position) in slopes.into_iter().enumerate().zip(positions) {
            for (feature, slope) in slopes {
                let value = features.value(token, feature as usize);
                let base = others.map_or(0.0, |others| others.value(token, feature as usize));
                let step = match others {
                    Some(_) => f64::from(base) - f64::from(value),
                    None => f64::from(value),
                };
                let (key, position, score) = (key.clone(), *position, step * slope);
                scores.push(FeatureScore { key, position, feature, value, base, score, exact: None });
            }
        }
        named.dictionary.check_unchanged()?;
    }
    // Ties keep their order: keys, positions, features.
    scores.sort_by(|a, b| b.score.abs().total_cmp(&a.score.abs()));
    let value = metric.of(&own.logits, &own.logits, None)?;
    Ok(FeatureScores { scores, value, base: None, logits: own.logits })
}

/// What some layers read at some positions of a row, their features, and the logits of the last token.
pub(crate) struct Encoded {
    /// Layer by layer: `[positions, D_in]`.
    pub(crate) x: Vec<Vec<f32>>,
    /// Layer by layer.
    pub(crate) features: Vec<Features>,
    logits: Vec<f32>,
}

/// Runs a row and encodes what some layers read at some positions.
pub(crate) fn encoded(
    model: &Model,
    dictionaries: &Dictionaries,
    wanted: &[(usize, usize)],
    ids: &[u32],
    positions: &[usize],
) -> Result<Encoded> {
    let reads = |(dictionary, layer): &(usize, usize)| dictionaries.all()[*dictionary].fits[*layer].reads;
    let (cache, logits) = kept(model, &wanted.iter().map(reads).collect::<Vec<_>>(), ids)?;
    let mut found = Encoded { x: Vec::new(), features: Vec::new(), logits };
    for layer in wanted {
        let x = at(&cache, &reads(layer).to_string(), positions, ids.len())?;
        let coder = dictionaries.all()[layer.0].dictionary.layer(layer.1)?;
        found.features.push(coder.encode(model.cpu(), Rows::dense(&x, positions.len(), coder.d_in()))?);
        found.x.push(x);
    }
    Ok(found)
}

/// The vectors of some positions of the one row of a cache.
fn at(cache: &ActivationCache, key: &str, positions: &[usize], length: usize) -> Result<Vec<f32>> {
    let kept = cache.get(key).ok_or_else(|| Error::input(format!("`{key}` was not reached")))?;
    let width = kept.values().len() / length.max(1);
    Ok(positions.iter().flat_map(|p| &kept.values()[p * width..(p + 1) * width]).copied().collect())
}

impl FeatureScores {
    /// Makes the runs of the largest scores: each ablates one feature at one token, or puts the base's value there.
    ///
    /// # Errors
    /// Those of a run; an error of `progress`, which hears how many are done, of how many.
    #[expect(clippy::too_many_arguments, reason = "each is asked for in another place")]
    pub fn check(
        &mut self,
        model: &Model,
        dictionaries: &Dictionaries,
        row: &Row<'_>,
        metric: Metric,
        most: usize,
        context: Context<'_>,
        mut progress: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<()> {
        let all = most.min(self.scores.len());
        let is_patch = self.base.is_some();
        for (done, score) in self.scores.iter_mut().take(most).enumerate() {
            progress(done, all)?;
            let change = FeatureChange {
                key: score.key.clone(),
                feature: Some(score.feature as usize),
                positions: Specifier::parse_lists(&[score.position.to_string()])?,
                operation: FeatureOperation::Set(if is_patch { score.base } else { 0.0 }),
            };
            let edits = FeatureEdits::new(&[change], dictionaries, model.cpu(), &[*row], context)?;
            let changed = metric.of(&last(model, row, edits)?, &self.logits, None)?;
            score.exact = Some(if is_patch { changed - self.value } else { self.value - changed });
        }
        progress(all, all)
    }

    /// Pearson's correlation of estimates and runs; none of fewer than two, or where either does not vary.
    pub fn pearson(&self) -> Option<f64> {
        let checked = self.scores.iter().filter_map(|one| Some((one.score, one.exact?)));
        let (estimates, exact): (Vec<f64>, Vec<f64>) = checked.unzip();
        correlation(&estimates, &exact)
    }
}

/// The layers of a set that a layer writes to.
pub(crate) fn targets(dictionaries: &Dictionaries, dictionary: usize, layer: usize) -> Vec<usize> {
    let within = &dictionaries.all()[dictionary].dictionary;
    (0..within.layers().len()).filter(|target| within.sources(*target).contains(&layer)).collect()
}

/// The features of a token in either run, ascending.
fn active(features: &Features, others: Option<&Features>, token: usize) -> Vec<u32> {
    let mut numbers = features.token(token).0.to_vec();
    numbers.extend(others.into_iter().flat_map(|others| others.token(token).0));
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn of_points(points: &[Point]) -> Result<Request> {
    let mut names: Vec<String> = points.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    Request::parse(&names.join(","), "all")
}

/// The values of some points at every token, and the logits of the last one.
fn kept(model: &Model, points: &[Point], ids: &[u32]) -> Result<(ActivationCache, Vec<f32>)> {
    let mut last = LastLogits::of(0..1);
    let (batch, rows) = (Batch::new(&[ids])?, [Row::of(0, ids)]);
    let cache = of_points(points)?.run_under(model, &batch, &rows, Context::default(), &mut last)?;
    Ok((cache, only(last)))
}

fn check_metric(metric: Metric) -> Result<()> {
    match metric {
        Metric::LogitDiff { .. }
        | Metric::Logit { .. }
        | Metric::LogProbability { .. }
        | Metric::Probability { .. } => Ok(()),
        other => Err(Error::input(format!("features are not scored by {}", other.to_json()["name"]))
            .hint("metrics of features are logit_diff, logit, logprob and p")),
    }
}

/// The logits of the last token, under a tap that comes first.
fn last(model: &Model, row: &Row<'_>, first: impl Tap) -> Result<Vec<f32>> {
    let mut taps = (first, LastLogits::of(0..1));
    model.forward(&Batch::new(&[row.ids])?, &mut taps)?;
    Ok(only(taps.1))
}

/// The logits of the one row of a batch.
fn only(last: LastLogits) -> Vec<f32> {
    last.logits.into_iter().flatten().next().unwrap_or_default()
}
