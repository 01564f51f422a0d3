//! Patches activations of one run into another.

use std::sync::Arc;

use easyroutine::Stop;
use easyroutine::attribution::{self, Estimating};
use easyroutine::gradients::Rule;
use easyroutine::patching::{self, Along, By, Labels, Metric, Patch, Sweep};
use easyroutine::positions::Context;
use easyroutine::sites::{Selector, Site};
use easyroutine_app::reports::{self, Estimated, GridPlaces, GridWords};
use easyroutine_dictionaries::{Chosen, Dictionaries, FeatureColumns, FeatureSweep, sweep_features};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::dictionary::Dictionary;
use crate::errors::Failure;
use crate::interrupt::Signals;
use crate::model::{Model, RowInput, specifiers, views};
use crate::tensor::Tensor;

/// Activation, and positions as JSON.
pub(crate) type PatchInput = (String, String);

/// Runs base and target, then the target with the base's activations patched in.
pub(crate) fn compute<'py>(
    py: Python<'py>,
    model: &Model,
    base: &[RowInput],
    target: &[RowInput],
    patches: &[PatchInput],
    labels: Option<Vec<(u32, u32)>>,
) -> PyResult<Bound<'py, PyDict>> {
    let patches = patches
        .iter()
        .map(|(activation, positions)| {
            let activation: Selector = activation.parse().map_err(easyroutine::Error::from)?;
            Ok(Patch { activation, positions: specifiers(positions)? })
        })
        .collect::<Result<Vec<_>, Failure>>()?;
    let labels: Option<Vec<Labels>> =
        labels.map(|list| list.into_iter().map(|(base, target)| Labels { base, target }).collect());
    let context = Context { special: model.special(), ..Context::default() };
    let found = py
        .detach(|| {
            let (base, target) = (views(base, 0), views(target, 0));
            patching::compute_patching(&model.model, &base, &target, &patches, labels.as_deref(), context)
        })
        .map_err(Failure::from)?;
    let result = PyDict::new(py);
    let single = |values: &[f64]| Tensor::f32(values.iter().map(|x| *x as f32).collect(), vec![values.len()]);
    if let Some(diffs) = &found.logit_diffs {
        result.set_item("logit_diff_variation", single(&diffs.variation))?;
        result.set_item("logit_diff_in_clean", single(&diffs.clean))?;
        result.set_item("logit_diff_in_patched", single(&diffs.patched))?;
    }
    result.set_item("kl_clean|base", single(&found.kl_clean_base))?;
    result.set_item("kl_patched|base", single(&found.kl_patched_base))?;
    result.set_item("kl_patched|clean", single(&found.kl_patched_clean))?;
    result.set_item("kl_difference", single(&found.kl_difference))?;
    let rows = |logits: Vec<Vec<f32>>| {
        let shape = vec![logits.len(), logits.first().map_or(0, Vec::len)];
        Tensor::f32(logits.concat(), shape)
    };
    result.set_item("base_logits", rows(found.base_logits))?;
    result.set_item("target_clean_logits", rows(found.target_clean_logits))?;
    result.set_item("target_patched_logits", rows(found.target_patched_logits))?;
    Ok(result)
}

/// A sweep as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct SweepInput {
    layers: Vec<usize>,
    /// `positions`, `heads`, `sites` or `experts`; of features `positions` or `features`.
    along: String,
    /// Numbers of experts; all by default.
    experts: Option<Vec<usize>>,
    /// None along sites are all that layers add.
    sites: Vec<String>,
    positions: Vec<usize>,
    /// `zero`, `mean`, `resample` or `patch`.
    by: String,
    /// For `mean`: `rows` or `tokens`; by default rows where their lengths agree.
    mean_over: Option<String>,
    /// The other rows, for every change but `zero`.
    others: Vec<Vec<u32>>,
    metric: String,
    answer: Option<u32>,
    against: Option<u32>,
    /// The texts by role, for pictures.
    prompts: Vec<(String, String)>,
    /// Whether cells are estimated instead of run.
    estimate: bool,
    check: Option<usize>,
    /// `gradient` or `relp`.
    rule: String,
    /// Names, dictionaries and their records, as JSON: with them the features of `sites` are swept.
    dictionaries: Vec<(String, Py<Dictionary>, String)>,
    /// The features; none for the strongest.
    features: Option<Vec<u32>>,
    top: usize,
}

/// Makes every change of a sweep on one row, and gives the grid as JSON of the schema `easyroutine.grid/1`.
pub(crate) fn sweep(
    py: Python<'_>,
    model: &Model,
    row: &[u32],
    written: SweepInput,
    progress: Option<Py<PyAny>>,
) -> Result<String, Failure> {
    let tokenizer = model.tokenizer()?.tokenizer;
    let prompts = written.prompts.clone();
    let estimating = match written.estimate {
        true => Some(Estimating { rule: rule(&written.rule)?, check: written.check }),
        false => None,
    };
    if !written.dictionaries.is_empty() {
        return sweep_of_features(py, model, row, written, progress);
    }
    let sweep = read(written, &model.model, row)?;
    let how = match sweep.along {
        Along::Experts { .. } => reports::how_experts_changed(&sweep.by),
        _ => reports::how_changed(&sweep.by),
    };
    let title = if matches!(sweep.by, By::Patch(_)) { "Activation patching" } else { "Ablation" };
    let mut told = Told::new(progress);
    let signals = Signals::new();
    let grid = py.detach(|| match estimating {
        None => patching::sweep(&model.model, row, &sweep, |done, of| told.tell(done, of))
            .map(|grid| (grid, None)),
        Some(how) => {
            let stop = Stop::When(&|| signals.is_stopped());
            attribution::estimate(&model.model, row, &sweep, how, stop, |done, of| told.tell(done, of))
                .map(|found| (found.grid, found.check))
        }
    });
    let (grid, check) = grid.map_err(|error| told.failure(&signals, error))?;
    let estimated = estimating.map(|how| Estimated { rule: how.rule, check: check.as_ref() });
    let words = GridWords { title, how: &how, prompts, estimated };
    let places = GridPlaces::from(&sweep.along);
    let (_, json) = reports::grid(&model.subject(&tokenizer, row), &places, &grid, &words);
    Ok(json.to_string())
}

/// The same of features.
fn sweep_of_features(
    py: Python<'_>,
    model: &Model,
    row: &[u32],
    mut written: SweepInput,
    progress: Option<Py<PyAny>>,
) -> Result<String, Failure> {
    let tokenizer = model.tokenizer()?.tokenizer;
    let prompts = std::mem::take(&mut written.prompts);
    let mut dictionaries = Dictionaries::default();
    let mut record = serde_json::Map::new();
    for (name, one, about) in &written.dictionaries {
        dictionaries.add(name, Arc::clone(&one.get().dictionary), model.model.arch())?;
        record.insert(name.clone(), serde_json::from_str(about).unwrap_or_default());
    }
    let columns = match written.along.as_str() {
        "positions" => FeatureColumns::Positions,
        "features" => FeatureColumns::Together,
        other => {
            return Err(Failure::input(format!(
                "features are swept along positions or features, not {other}"
            )));
        }
    };
    let keys = match written.sites.is_empty() {
        true => dictionaries.keys(),
        false => std::mem::take(&mut written.sites),
    };
    let chosen = written.features.take().map_or(Chosen::Strongest(written.top), Chosen::Listed);
    let mut positions = written.positions.clone();
    positions.sort_unstable();
    positions.dedup();
    let (by, metric) = by_and_metric(written, row)?;
    let (how, title) = match &by {
        By::Patch(_) => {
            ("with their values in the base, in the run of the target".to_owned(), "Activation patching")
        }
        by => (reports::how_changed(by), "Ablation"),
    };
    let names = keys.join(", ");
    let request = FeatureSweep { keys, chosen, positions: positions.clone(), columns, by, metric };
    let mut told = Told::new(progress);
    let signals = Signals::new();
    let grid = py.detach(|| {
        let stop = Stop::When(&|| signals.is_stopped());
        sweep_features(&model.model, &dictionaries, row, &request, stop, |done, of| told.tell(done, of))
    });
    let grid = grid.map_err(|error| told.failure(&signals, error))?;
    let words = GridWords { title, how: &how, prompts, estimated: None };
    let places = GridPlaces {
        names,
        sites: &[],
        by_position: columns == FeatureColumns::Positions,
        positions: &positions,
        dictionaries: Some(serde_json::Value::Object(record)),
    };
    let (_, json) = reports::grid(&model.subject(&tokenizer, row), &places, &grid, &words);
    Ok(json.to_string())
}

/// The progress callback, and any exception Python raised meanwhile.
pub(crate) struct Told {
    progress: Option<Py<PyAny>>,
    raised: Option<PyErr>,
}

impl Told {
    pub(crate) fn new(progress: Option<Py<PyAny>>) -> Self {
        Told { progress, raised: None }
    }

    /// Reports how many of the steps are done, and checks for signals.
    pub(crate) fn tell(&mut self, done: usize, of: usize) -> easyroutine::Result<()> {
        let step = Python::attach(|py| {
            py.check_signals()?;
            self.progress.as_ref().map_or(Ok(()), |function| function.call1(py, (done, of)).map(|_| ()))
        });
        step.map_err(|error| {
            self.raised = Some(error);
            easyroutine::Error::new(easyroutine::ErrorKind::Interrupted, "interrupted")
        })
    }

    /// The error of the work: Python's exception, if that ended it.
    pub(crate) fn failure(&mut self, signals: &Signals, error: easyroutine::Error) -> Failure {
        self.raised.take().map_or_else(|| signals.failure(error), Failure::Python)
    }
}

/// The rule of a name: `gradient` or `relp`.
pub(crate) fn rule(name: &str) -> Result<Rule, Failure> {
    match name {
        "gradient" => Ok(Rule::Gradient),
        "relp" => Ok(Rule::Relp { halves: true }),
        other => Err(Failure::input(format!("rule is gradient or relp, not {other}"))),
    }
}

fn read(written: SweepInput, model: &easyroutine::Model, row: &[u32]) -> Result<Sweep, Failure> {
    let n_sites = written.sites.len();
    let layers = written.layers.clone();
    let (along, positions) = (written.along.clone(), written.positions.clone());
    let mut sites = written
        .sites
        .iter()
        .map(|name| {
            Site::from_name(name).ok_or_else(|| Failure::input(format!("there is no activation `{name}`")))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let along = match (along.as_str(), sites.as_slice()) {
        ("positions", [site]) => Along::Positions { site: *site, positions },
        ("heads", [site]) => Along::Heads { site: *site, positions },
        ("sites", []) => Along::Sites { sites: Along::parts(model), positions },
        ("sites", [_, ..]) => Along::Sites { sites: std::mem::take(&mut sites), positions },
        ("experts", [Site::ExpertOut]) => Along::Experts { experts: written.experts.clone(), positions },
        (other, _) => {
            return Err(Failure::input(match other {
                "positions" | "heads" => {
                    format!("along={other:?} changes one site, not {}; along=\"sites\" several", n_sites)
                }
                "experts" => "along=\"experts\" changes expert_out; leave site out".to_owned(),
                _ => format!("along is positions, heads, sites or experts, not {other}"),
            }));
        }
    };
    let (by, metric) = by_and_metric(written, row)?;
    Ok(Sweep { layers, along, by, metric })
}

/// What replaces a value, and what is measured.
fn by_and_metric(written: SweepInput, row: &[u32]) -> Result<(By, Metric), Failure> {
    let SweepInput { along, by, mean_over, mut others, metric, answer, against, .. } = written;
    let by = match (by.as_str(), others.len()) {
        ("zero", 0) => By::Zero,
        ("mean", 1..) => match mean_over.as_deref() {
            // At one position, few rows go through an expert.
            None if along == "experts" => By::Mean(others),
            None => By::mean_of(others, row),
            Some("rows") => By::MeanOfRows(others),
            Some("tokens") => By::Mean(others),
            Some(other) => {
                return Err(Failure::input(format!("mean_over is rows or tokens, not {other}")));
            }
        },
        ("resample", 1) => By::Resample(others.remove(0)),
        ("patch", 1) => By::Patch(others.remove(0)),
        ("zero", _) => return Err(Failure::input("by=\"zero\" reads no base; leave it out")),
        ("mean", 0) => {
            return Err(Failure::input("by=\"mean\" takes the mean over base: base=[\"…\", \"…\"]"));
        }
        ("resample" | "patch", rows) => {
            return Err(Failure::input(format!("by={by:?} takes one prompt as base, not {rows}")));
        }
        _ => return Err(Failure::input(format!("by is zero, mean, resample or patch, not {by}"))),
    };
    let token =
        |token: Option<u32>| token.ok_or_else(|| Failure::input(format!("metric {metric} needs a token")));
    let unread = match metric.as_str() {
        "kl" => answer.map(|_| "answer").or(against.map(|_| "against")),
        "probability" | "rank" => against.map(|_| "against"),
        _ => None,
    };
    if let Some(unread) = unread {
        return Err(Failure::input(format!("metric {metric} does not read `{unread}`; logit_diff does")));
    }
    let metric = match metric.as_str() {
        "logit_diff" => Metric::LogitDiff { answer: token(answer)?, against: token(against)? },
        "normalised_logit_diff" => {
            Metric::NormalisedLogitDiff { answer: token(answer)?, against: token(against)? }
        }
        "probability" => Metric::Probability { token: token(answer)? },
        "rank" => Metric::Rank { token: token(answer)? },
        "kl" => Metric::Kl,
        other => {
            return Err(Failure::input(format!(
                "no metric `{other}`: logit_diff, normalised_logit_diff, probability, rank, kl"
            )));
        }
    };
    Ok((by, metric))
}
