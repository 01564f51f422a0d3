//! `attribute --pairs`: mean scores of many pairs, summed over positions.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

use easyroutine::attribution::{AttributionSums, attribution_patching};
use easyroutine::gradients::Rule;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine_app::{record, reports};
use serde_json::{Value, json};

use super::edges::metric_name;
use super::grad::tensor_file;
use super::pairs::{Pairs, count};
use crate::args::{Args, Attribute, RuleArg, SmoothArg};
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, Cell, PLAIN};
use crate::progress::Counted;
use crate::session;

/// The shortest time between two writes of the sums.
const PAUSE: Duration = Duration::from_secs(5);

pub(super) fn run(args: &Args, attribute: &Attribute, file: &Path) -> Result<(), Failure> {
    if tensor_file(args)?.is_some() {
        return Err(Failure::usage("a file of tensors holds the scores of one pair, by position")
            .hint("write means as .json, .tsv, .csv or .md"));
    }
    if attribute.measure.target.is_some() {
        return Err(Failure::usage("--target: the clean prompt is what `kl` is measured from"));
    }
    let targets = output::targets(args, PLAIN)?;
    let session = session::load(&attribute.model.model, &attribute.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &attribute.model.loading.finding)?;
    let keys = match attribute.activations.is_empty() {
        true => "z_L*".to_owned(),
        false => attribute.activations.join(","),
    };
    let request = Request::parse(&keys, &attribute.positions.join(","))?;
    let context = Context { special: tokenizer.special_ids(), seed: attribute.seed, ..Context::default() };
    let rule = attribute.rule.map_or(Rule::Gradient, RuleArg::rule);
    let (model, metric) = (&session.model, attribute.measure.metric);
    let pairs = Pairs { model, tokenizer: &tokenizer, cutting: &attribute.prompt.cutting, metric };
    let limit = attribute.prompt.limit;
    let (all, bar) = (count(file, limit, metric)?, Counted::new("pairs"));
    let name = metric_name(metric);
    let origin = match &attribute.state {
        None => Value::Null,
        // The digest reads every weight, so compute it only if a later run will continue from here.
        Some(_) => {
            let digest = session.identity.digest()?;
            record::mean_attribution(model.arch(), digest, &request, attribute.seed, rule, name)?
        }
    };
    let mut sums = match &attribute.state {
        Some(state) if state.exists() => {
            let sums = AttributionSums::read(state, &origin)?;
            let pairs = sums.summed().n();
            output::note("note", &format!("continues after {pairs} pairs of {}", state.display()));
            sums
        }
        Some(state) => output::folder_exists(state).map(|()| AttributionSums::default())?,
        None => AttributionSums::default(),
    };
    let keep = |sums: &AttributionSums| match &attribute.state {
        Some(state) => {
            output::replace(state, |at| sums.write(&origin, &mut BufWriter::new(File::create(at)?)))
        }
        None => Ok(()),
    };
    let (mut number, mut kept) = (0, Instant::now());
    let read = pairs.each(file, limit, |pair| {
        number += 1;
        let ids = [&pair.clean[..], &pair.corrupted[..]];
        if sums.has(ids, pair.metric)? {
            return Ok(bar.tell(number, all)?);
        }
        let [clean, corrupted] = ids.map(|ids| [Row::of(0, ids)]);
        let metrics = [pair.metric];
        let stop = hosted::stop();
        let found = attribution_patching(model, &clean, &corrupted, &request, &metrics, rule, context, stop)?;
        sums.add(ids, pair.metric, &found);
        if kept.elapsed() >= PAUSE {
            keep(&sums)?;
            kept = Instant::now();
        }
        Ok(bar.tell(number, all)?)
    });
    bar.finish();
    // Keep the work done before a bad pair.
    keep(&sums)?;
    read?;
    if let Some(state) = &attribute.state {
        sums.summed().finish().map_err(|e| e.at(state.display()))?;
    }
    let (n, [corrupted, clean]) = (sums.summed().n(), sums.metrics());
    // The metric of a run compared with itself says nothing.
    let clean = (!matches!(metric, SmoothArg::Kl | SmoothArg::Ce)).then_some(clean);
    let of_clean = clean.map_or(String::new(), |clean| format!("; of the clean prompts {clean:.6}"));
    output::note("metric", &format!("mean {name} of {n} corrupted prompts = {corrupted:.6}{of_clean}"));
    let mut scores = sums.means();
    scores.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
    scores.truncate(attribute.most());
    let cells: Vec<Value> = scores
        .iter()
        .map(|((point, part), score)| json!({"activation": point.to_string(), "part": part, "score": score}))
        .collect();
    let json = json!({
        "schema": "easyroutine.attribute_pairs/1",
        "model": session.model_json(),
        "method": "patching",
        "rule": reports::rule_name(rule),
        "metric": name,
        "pairs": n,
        "corrupted": corrupted,
        "clean": clean,
        "cells": cells,
    });
    let rows: Vec<Vec<Cell>> = scores
        .iter()
        .map(|((point, part), score)| {
            vec![
                point.to_string().into(),
                part.map_or(String::new(), |part| part.to_string()).into(),
                Cell::new(format!("{score:+.4}"), *score),
            ]
        })
        .collect();
    output::tables(&targets, &["activation", "part", "mean_score"], &rows, &json)
}
