//! `grad`: the gradient of a metric with respect to any activation.

use std::borrow::Cow;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use easyroutine::Error;
use easyroutine::cache::{ActivationCache, Numbers};
use easyroutine::edit::{Reference, Tensor};
use easyroutine::gradients::{Gradients, Output, Rule, gradients};
use easyroutine::patching::Metric;
use easyroutine::positions::Context;
use easyroutine::request::Request;
use easyroutine::tokens::Tokenizer;
use serde_json::{Value, json};

use super::sweep::{apart, predictions};
use crate::args::{Args, Format, Grad, Measure, SmoothArg};
use crate::changes;
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, Cell, PLAIN};
use crate::session::{self, Prompt, Session, token_text};
use crate::tensors::{self, Stored};
use easyroutine_app::reports::{self, metric_words};

pub(crate) fn run(args: &Args, grad: &Grad) -> Result<(), Failure> {
    let file = tensor_file(args)?;
    let targets = if file.is_none() { output::targets(args, PLAIN)? } else { Vec::new() };
    let interventions = grad.changes.read(&grad.model.loading.finding)?;
    let rule = grad.rule.rule();
    if rule != Rule::Gradient && !interventions.features.is_empty() {
        return Err(Failure::usage("--rule relp: it says nothing of features that are changed")
            .hint("plain gradients pass through them: leave --rule out"));
    }
    let request = Request::parse(&grad.activations.join(","), &grad.positions.join(","))?;
    refuse_unread(&grad.measure)?;
    let session = session::load(&grad.model.model, &grad.model.loading)?;
    request.points(session.model.arch())?;
    let tokenizer = session::tokenizer(&session.files, &grad.model.loading.finding)?;
    let prompt = grad.prompt.read(&tokenizer, session.model.arch().context)?;
    let metric = metric(&grad.measure, &session, &tokenizer, &prompt)?;
    let target = target(&grad.measure)?;
    let seed = grad.changes.seed;
    let mut edits = changes::of_prompt(&interventions, &session, &prompt, &tokenizer, seed)?;
    let context = Context { special: tokenizer.special_ids(), seed, ..Context::default() };
    let output = Output::Metric { metrics: &[metric], target: target.as_deref() };
    let found = gradients(
        &session.model,
        &[prompt.row()],
        &request,
        output,
        rule,
        &mut edits,
        context,
        hosted::stop(),
    )?;
    let value = found.values.first().copied().unwrap_or_default();
    let summary = json!({
        "schema": "easyroutine.grad/1",
        "model": session.model_json(),
        "metric": metric.to_json(),
        "value": value,
        "rule": reports::rule_name(rule),
        "interventions": grad.changes.intervene,
    });
    let text = |id: u32| token_text(&tokenizer, id);
    let words = metric_words(metric, &|id| format!("{:?}", text(id)), ["target", "run"]);
    output::note("metric", &format!("{words} = {value:.6}"));
    match file {
        Some(file) => write(file, &found, &summary),
        None => {
            for output in &targets {
                output::write(
                    output,
                    table(output.format, &found, &prompt, &text, summary.clone())?.as_bytes(),
                )?;
            }
            Ok(())
        }
    }
}

/// The tensor file named by -o, if any.
pub(super) fn tensor_file(args: &Args) -> Result<Option<&PathBuf>, Failure> {
    let is_tensors = |file: &&PathBuf| file.extension().is_some_and(|ending| ending == "safetensors");
    match (args.output.iter().find(is_tensors), args.output.len(), args.format) {
        (None, ..) => Ok(None),
        (Some(file), 1, Format::Auto) => output::folder_exists(file).map(|()| Some(file)),
        (Some(file), 1, _) => {
            Err(Failure::usage(format!("--format: {} is written as safetensors", file.display()))
                .hint("leave --format out"))
        }
        _ => Err(Failure::usage("grad writes one file of tensors, or tables").hint("give one -o")),
    }
}

/// Refuses flags that the metric does not use.
pub(super) fn refuse_unread(measure: &Measure) -> Result<(), Failure> {
    let (reads_answer, reads_against) = match measure.metric {
        SmoothArg::LogitDiff => (true, true),
        SmoothArg::Logit | SmoothArg::Logprob | SmoothArg::P => (true, false),
        SmoothArg::Kl | SmoothArg::Ce => (false, false),
    };
    let unread = [
        ("--answer", measure.answer.is_some() && !reads_answer),
        ("--against", measure.against.is_some() && !reads_against),
        ("--target", measure.target.is_some() && measure.metric != SmoothArg::Kl),
    ];
    match unread.iter().find(|(_, is_unread)| *is_unread) {
        Some((flag, _)) => Err(Failure::usage(format!("{flag}: the metric does not read it")).hint(
            "logit-diff reads --answer and --against; logit, logprob and p read --answer; kl reads --target",
        )),
        None => Ok(()),
    }
}

pub(super) fn metric(
    measure: &Measure,
    session: &Session,
    tokenizer: &Tokenizer,
    prompt: &Prompt,
) -> Result<Metric, Failure> {
    let named = session::token_named("--answer", &measure.answer, tokenizer)?;
    let named_against = session::token_named("--against", &measure.against, tokenizer)?;
    let predicted = || predictions(&session.model, prompt);
    let answer = || named.map_or_else(|| predicted().map(|ids| ids[0]), Ok);
    Ok(match measure.metric {
        SmoothArg::LogitDiff => {
            let (answer, against) = match (named, named_against) {
                (Some(answer), Some(against)) => (answer, against),
                (answer, against) => {
                    let [first, second] = predicted()?;
                    let answer = answer.unwrap_or(first);
                    // The most likely token other than the answer.
                    (answer, against.unwrap_or(if first == answer { second } else { first }))
                }
            };
            let (answer, against) = apart(answer, against, tokenizer)?;
            Metric::LogitDiff { answer, against }
        }
        SmoothArg::Logit => Metric::Logit { token: answer()? },
        SmoothArg::Logprob => Metric::LogProbability { token: answer()? },
        SmoothArg::P => Metric::Probability { token: answer()? },
        SmoothArg::Kl => Metric::Kl,
        SmoothArg::Ce => Metric::CrossEntropy,
    })
}

/// The distribution of `--target`.
pub(super) fn target(measure: &Measure) -> Result<Option<Vec<Vec<f32>>>, Failure> {
    let text = match &measure.target {
        Some(text) => text,
        None if measure.metric == SmoothArg::Kl => {
            return Err(Failure::usage("`kl` needs the distribution that it is measured from")
                .hint("--target FILE::TENSOR: log-probabilities, one for each id"));
        }
        None => return Ok(None),
    };
    let Reference { file, tensor } = text.parse().map_err(|e: Error| e.at("--target"))?;
    let tensor = Tensor::read(&file, &tensor)?;
    Ok(Some(vec![tensor.values().to_vec()]))
}

/// One line per activation: how large its gradient is, and where it is largest.
fn table(
    format: Format,
    found: &Gradients,
    prompt: &Prompt,
    text: &dyn Fn(u32) -> String,
    mut summary: Value,
) -> Result<String, Failure> {
    let mut rows = Vec::new();
    let mut list = Vec::new();
    for (key, kept) in found.cache.iter() {
        let (positions, width) = (&found.cache.selection.rows[0].indices, kept.row_shapes[0][1]);
        // A token that several positions name counts once.
        let distinct = found.cache.selection.rows[0].distinct();
        let columns = if key.is_pairwise() { distinct.clone() } else { (0..width).collect() };
        let norm = |values: &[f32]| columns.iter().map(|c| f64::from(values[*c]).powi(2)).sum::<f64>().sqrt();
        let norms = kept.values().chunks(width.max(1)).map(norm).collect::<Vec<f64>>();
        let whole = distinct.iter().map(|at| norms[*at].powi(2)).sum::<f64>().sqrt();
        let largest = norms.into_iter().zip(positions).max_by(|a, b| a.0.total_cmp(&b.0));
        let (most, position) = largest.map_or((0.0, 0), |(most, position)| (most, *position));
        let token = prompt.encoded.ids.get(position).map_or(String::new(), |id| text(*id));
        let shape = kept.row_shapes[0].iter().map(usize::to_string).collect::<Vec<_>>().join("x");
        rows.push(vec![
            key.to_string().into(),
            shape.clone().into(),
            Cell::new(format!("{whole:.4}"), whole),
            Cell::new(position.to_string(), position),
            Cell::token(&token),
            Cell::new(format!("{most:.4}"), most),
        ]);
        list.push(json!({
            "key": key.to_string(), "shape": kept.row_shapes[0], "norm": whole,
            "largest": {"position": position, "token": token, "norm": most, "of": if key.is_pairwise() { "query" } else { "token" }},
        }));
    }
    summary["gradients"] = list.into();
    let header = ["activation", "shape", "norm", "largest_at", "token", "norm_there"];
    output::render(format, &header, &rows, &summary)
}

/// Writes gradients, the metric, and the tokens that they belong to.
fn write(file: &Path, found: &Gradients, summary: &Value) -> Result<(), Failure> {
    let cache: &ActivationCache = &found.cache;
    let values = Numbers::F32(found.values.iter().map(|value| *value as f32).collect());
    let mut stored =
        vec![Stored { name: "metric".to_owned(), shape: vec![found.values.len()], numbers: values.into() }];
    for (key, kept) in cache.iter() {
        let shape = kept.shape().unwrap_or_default();
        stored.push(Stored { name: key.to_string(), shape, numbers: Cow::Borrowed(&kept.data).into() });
    }
    let mut metadata: Vec<(&str, String)> = Vec::new();
    for (name, value) in summary.as_object().into_iter().flatten() {
        metadata.push((name, value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    }
    metadata.push(("mapping_index", Value::Object(cache.mapping_index()).to_string()));
    metadata.push(("token_dict", Value::Object(cache.token_dict()).to_string()));
    output::replace(file, |at| tensors::write(&mut BufWriter::new(File::create(at)?), &metadata, stored))
}
