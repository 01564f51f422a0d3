//! Edges and circuits, fitting Jacobian lenses, training tuned lenses.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use easyroutine::attribution::edges::{
    Circuit, CircuitRunner, EdgeMethod, EdgeScorer, Faithfulness, ends, sizes,
};
use easyroutine::jacobian::{FitOptions, JacobianFit, Part};
use easyroutine::tune::{Optimiser, Tuning, save_tuned_lens, shuffled, tuned_lens_config, tuning_settings};
use easyroutine::{Error, ErrorKind, Stop};
use easyroutine_app::edges::EdgeScores;
use easyroutine_app::files::replace;
use easyroutine_app::{record, reports};
use easyroutine_view::circuit::{CircuitEdge, CircuitReport};
use easyroutine_view::drawing::{CircuitDrawing, Screen};
use easyroutine_view::lens::ColourDepth;
use pyo3::prelude::*;
use serde_json::{Value, json};

use crate::attention::drawn;
use crate::errors::Failure;
use crate::gradients::metric;
use crate::interrupt::Signals;
use crate::model::{Model, RowInput};
use crate::patching::{Told, rule};

/// How edges are scored, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct EdgeSettings {
    metrics: Vec<(String, Option<u32>, Option<u32>)>,
    /// `eap`, `eap-ig`, `clean-corrupted`.
    method: String,
    steps: usize,
    rule: String,
    top: usize,
    curve: bool,
    /// Where the sums of the scores are kept.
    state: Option<PathBuf>,
    /// The texts by role, for pictures.
    prompts: Vec<(String, String)>,
}

/// The circuit of the largest edges over pairs of rows, as EAP-IG's JSON with the results of its runs.
pub(crate) fn edges(
    py: Python<'_>,
    model: &Model,
    clean: &[RowInput],
    corrupt: &[RowInput],
    settings: &EdgeSettings,
    progress: Option<Py<PyAny>>,
) -> Result<String, Failure> {
    let method = match settings.method.as_str() {
        "eap" => EdgeMethod::Eap,
        "eap-ig" => EdgeMethod::EapIg { steps: settings.steps },
        "clean-corrupted" => EdgeMethod::CleanCorrupted,
        other => {
            return Err(Failure::input(format!("method is eap, eap-ig or clean-corrupted, not {other}")));
        }
    };
    if clean.len() != corrupt.len() {
        return Err(Failure::input(format!("{} clean rows but {} corrupted", clean.len(), corrupt.len())));
    }
    let rule = rule(&settings.rule)?;
    let metrics = settings.metrics.iter().map(metric).collect::<Result<Vec<_>, _>>()?;
    let name = metrics.first().map(|metric| metric.to_json()).unwrap_or_default();
    let name = name["name"].as_str().unwrap_or_default();
    let of = |row: usize| metrics[if metrics.len() == 1 { 0 } else { row }];
    let signals = Signals::new();
    let mut told = Told::new(progress);
    let engine = &model.model;
    let n = clean.len();
    let found = py.detach(|| -> easyroutine::Result<Value> {
        let stop = Stop::When(&|| signals.is_stopped());
        let scorer = EdgeScorer::new(engine, method, rule)?;
        let graph = scorer.graph().clone();
        let kept = match &settings.state {
            Some(file) => {
                let digest = model.identity.digest()?;
                Some((file.as_path(), record::edge_scores(Some(digest), method, rule, name)))
            }
            None => None,
        };
        let mut sums = EdgeScores::open(scorer, kept)?;
        let read = (0..n).try_for_each(|row| {
            told.tell(row, 2 * n)?;
            sums.add([&clean[row].0, &corrupt[row].0], of(row), stop)
        });
        let scores = sums.finish(read)?;
        let mut circuits = vec![Circuit::top(&graph, &scores, settings.top)?];
        if settings.curve {
            for size in sizes(&graph) {
                circuits.push(Circuit::top(&graph, &scores, size)?);
            }
        }
        let runner = CircuitRunner::new(engine)?;
        let (mut values, mut whole) = (vec![0.0; circuits.len()], [0.0; 2]);
        for row in 0..n {
            told.tell(n + row, 2 * n)?;
            let (clean, corrupt) = (&clean[row].0, &corrupt[row].0);
            let found = runner.run(clean, corrupt, of(row), &circuits, stop)?;
            values.iter_mut().zip(found).for_each(|(sum, x)| *sum += x / n as f64);
            let found = ends(engine, clean, corrupt, of(row))?;
            whole.iter_mut().zip(found).for_each(|(sum, x)| *sum += x / n as f64);
        }
        told.tell(2 * n, 2 * n)?;
        let [clean, corrupted] = whole;
        let curve = match settings.curve {
            true => {
                let sizes = circuits[1..].iter().map(Circuit::len).collect();
                Some(Faithfulness::of(sizes, values[1..].to_vec(), clean, corrupted)?)
            }
            false => None,
        };
        let faithfulness = (clean != corrupted).then(|| (values[0] - corrupted) / (clean - corrupted));
        let mut json = circuits[0].to_json(&graph, &scores);
        let mut words = vec![
            format!(
                "{} · {}, the {} largest edges; {} of {} lie on a path",
                model.name(),
                method.name(),
                settings.top,
                circuits[0].len(),
                graph.n_edges()
            ),
            format!("mean metric of {n} pairs · clean {clean:.4} · corrupted {corrupted:.4} · circuit alone {:.4}", values[0]),
            format!(
                "faithfulness (circuit - corrupted) / (clean - corrupted): {}; every other edge carries the corrupted run",
                faithfulness.map_or("none".to_owned(), |f| format!("{f:.4}"))
            ),
        ];
        words.extend(curve.as_ref().map(reports::curve_words));
        json["easyroutine"] = json!({
            "schema": "easyroutine.edges/1",
            "method": {"method": method.name(), "steps": settings.steps, "rule": settings.rule},
            "pairs": n,
            "clean": clean,
            "corrupted": corrupted,
            "circuit": {"edges": circuits[0].len(), "metric": values[0], "faithfulness": faithfulness},
            "curve": curve.as_ref().map(Faithfulness::to_json),
            "words": words,
            "prompts": settings.prompts,
        });
        Ok(json)
    });
    found.map(|json| json.to_string()).map_err(|error| told.failure(&signals, error))
}

/// Draws a circuit, given as that JSON, in one format: `html`, `svg`, `png`, `csv`, `markdown` or `terminal`.
pub(crate) fn draw(text: &str, format: &str, width: usize, most: usize) -> Result<Vec<u8>, Failure> {
    let json: Value =
        serde_json::from_str(text).map_err(|e| Failure::input(format!("this is not a circuit: {e}")))?;
    let number = |key: &str| json["cfg"][key].as_u64().unwrap_or(0) as usize;
    let mut edges = Vec::new();
    for (name, edge) in json["edges"].as_object().into_iter().flatten() {
        let Some((from, to)) = name.split_once("->").filter(|_| edge["in_graph"] == true) else { continue };
        let (to, input) = match to.strip_suffix('>').and_then(|to| to.split_once('<')) {
            Some((to, input)) => (to, input.chars().next()),
            None => (to, None),
        };
        let score = edge["score"].as_f64().unwrap_or(0.0);
        edges.push(CircuitEdge { from: from.to_owned(), to: to.to_owned(), input, score });
    }
    let told = &json["easyroutine"];
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let pair = |pair: &Value| match texts(pair).as_slice() {
        [what, text] => Some((what.clone(), text.clone())),
        _ => None,
    };
    let report = CircuitReport {
        title: "Circuit".to_owned(),
        lines: texts(&told["words"]),
        prompts: told["prompts"].as_array().into_iter().flatten().filter_map(pair).collect(),
        meaning: ["corrupting it raises the metric", "corrupting it lowers the metric"].map(str::to_owned),
        n_layers: number("n_layers"),
        n_heads: number("n_heads"),
        edges,
    };
    drawn(&CircuitDrawing { report: &report, most }, format, Screen { width, colour: ColourDepth::None })
}

/// Fits a Jacobian lens on rows and writes it; returns the file's description as JSON.
pub(crate) fn fit_jacobian(
    py: Python<'_>,
    model: &Model,
    rows: &[Vec<u32>],
    path: &Path,
    skip_first: usize,
    resume: bool,
    progress: Option<Py<PyAny>>,
) -> Result<String, Failure> {
    let signals = Signals::new();
    let mut told = Told::new(progress);
    let engine = &model.model;
    let is_torch = path.extension().is_some_and(|ending| ending == "pt");
    let found = py.detach(|| -> easyroutine::Result<String> {
        let options = FitOptions { skip_first, ..FitOptions::default() };
        let (arch, digest) = (engine.arch(), model.identity.digest()?);
        let write = |fit: &JacobianFit| replace(path, |at| fit.write(&mut BufWriter::new(File::create(at)?)));
        let mut fit = match resume && path.exists() {
            true => JacobianFit::resume(path, arch, options, digest, Part::WHOLE)?,
            false => JacobianFit::new(arch, options, digest, Part::WHOLE)?,
        };
        let (first, d) = (fit.covered(), arch.d_model);
        let mut kept = Instant::now();
        for (number, ids) in rows.iter().enumerate() {
            let stop = Stop::When(&|| signals.is_stopped());
            let added = fit.add(engine, ids, stop, |done, _| told.tell(number * d + done, rows.len() * d));
            if let Err(error) = added {
                // Keep the work done before.
                if !is_torch && fit.covered() > first {
                    write(&fit)?;
                }
                return Err(error);
            }
            if !is_torch && kept.elapsed() >= PAUSE {
                write(&fit)?;
                kept = Instant::now();
            }
        }
        fit.finish()?;
        match is_torch {
            true => {
                let bytes = fit.sums().to_torch()?;
                replace(path, |at| std::fs::write(at, bytes))?;
            }
            false => write(&fit)?,
        }
        Ok(fit.description().to_string())
    });
    found.map_err(|error| told.failure(&signals, error))
}

/// How a tuned lens is trained, as Python writes it.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct TuneSettings {
    optimiser: String,
    rate: Option<f64>,
    steps: usize,
    rows: usize,
    seed: u64,
    resume: bool,
}

/// The shortest time between two writes of what a fit has so far.
const PAUSE: Duration = Duration::from_secs(60);

/// Trains a tuned lens on rows and saves it in a folder; returns the mean loss of every step made.
pub(crate) fn tune(
    py: Python<'_>,
    model: &Model,
    rows: &[Vec<u32>],
    folder: &Path,
    settings: &TuneSettings,
    progress: Option<Py<PyAny>>,
) -> Result<Vec<f64>, Failure> {
    let signals = Signals::new();
    let mut told = Told::new(progress);
    let engine = &model.model;
    let found = py.detach(|| -> easyroutine::Result<Vec<f64>> {
        if rows.is_empty() || settings.rows == 0 {
            return Err(Error::input("no rows to train on"));
        }
        let optimiser = Optimiser::from_name(&settings.optimiser, settings.rate)?;
        let state = folder.join("state.safetensors");
        if settings.resume && !state.exists() && folder.join("params.pt").exists() {
            let text = format!("{}: its lens is finished, so there is nothing to resume", folder.display());
            return Err(Error::input(text).hint("name another folder to train anew"));
        }
        let origin = tuning_settings(model.identity.digest()?, rows, settings.rows, settings.seed);
        let mut tuning = match settings.resume && state.exists() {
            true => Tuning::resume(engine, &state, optimiser, settings.steps, &origin)?,
            false => Tuning::new(engine, optimiser, settings.steps)?,
        };
        let at =
            |e: std::io::Error| Error::new(ErrorKind::Io, format!("{}: {e}", folder.display())).because(e);
        std::fs::create_dir_all(folder).map_err(at)?;
        let keep = |tuning: &Tuning| {
            replace(&state, |at| tuning.write_state(&origin, &mut BufWriter::new(File::create(at)?)))
        };
        let (mut losses, mut kept) = (Vec::with_capacity(settings.steps), Instant::now());
        while tuning.done < settings.steps {
            let order = shuffled(rows.len(), settings.rows, settings.seed, tuning.done);
            let some: Vec<&[u32]> = order.into_iter().map(|row| rows[row].as_slice()).collect();
            let made = told
                .tell(tuning.done, settings.steps)
                .and_then(|()| tuning.step(engine, &some, Stop::When(&|| signals.is_stopped())));
            let made = match made {
                Err(error) => {
                    // Keep the work done before.
                    if tuning.done > 0 {
                        keep(&tuning)?;
                    }
                    return Err(error);
                }
                Ok(made) => made,
            };
            losses.push(made.losses.iter().sum::<f64>() / made.losses.len() as f64);
            if kept.elapsed() >= PAUSE {
                keep(&tuning)?;
                kept = Instant::now();
            }
        }
        told.tell(settings.steps, settings.steps)?;
        let (params, config) = (save_tuned_lens(&tuning)?, tuned_lens_config(engine, model.name(), None)?);
        replace(&folder.join("params.pt"), |at| std::fs::write(at, &params))?;
        replace(&folder.join("config.json"), |at| std::fs::write(at, config.to_string() + "\n"))?;
        match std::fs::remove_file(&state) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(at(e)),
            _ => Ok(losses),
        }
    });
    found.map_err(|error| told.failure(&signals, error))
}
