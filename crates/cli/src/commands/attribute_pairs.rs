//! `attribute --pairs`: mean scores of many pairs, summed over positions.

use std::collections::BTreeMap;
use std::path::Path;

use easyroutine::Stop;
use easyroutine::attribution::attribution_patching;
use easyroutine::gradients::Rule;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::Point;
use easyroutine_app::reports;
use serde_json::{Value, json};

use super::edges::metric_name;
use super::grad::tensor_file;
use super::pairs::{Pairs, count};
use crate::args::{Args, Attribute, RuleArg, SmoothArg};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::progress::Counted;
use crate::session;

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
    let mut sums: BTreeMap<(Point, Option<usize>), f64> = BTreeMap::new();
    let (mut n, mut values) = (0usize, [0.0; 2]);
    let read = pairs.each(file, limit, |pair| {
        let (clean, corrupted) = ([Row::of(0, &pair.clean)], [Row::of(0, &pair.corrupted)]);
        let metrics = [pair.metric];
        let found =
            attribution_patching(model, &clean, &corrupted, &request, &metrics, rule, context, Stop::Never)?;
        for (point, kept) in &found.scores {
            // Cells of a pattern are at other positions in every pair.
            let parts = kept.row_shapes[0].get(1).copied().filter(|_| !point.site().is_pairwise());
            for (i, value) in kept.row(0).iter().enumerate() {
                let part = parts.map(|parts| i % parts);
                *sums.entry((*point, part)).or_default() += f64::from(*value);
            }
        }
        values[0] += found.target[0];
        values[1] += found.base[0];
        n += 1;
        Ok(bar.tell(n, all)?)
    });
    bar.finish();
    read?;
    let [corrupted, clean] = values.map(|value| value / n as f64);
    // The metric of a run compared with itself says nothing.
    let clean = (!matches!(metric, SmoothArg::Kl | SmoothArg::Ce)).then_some(clean);
    let of_clean = clean.map_or(String::new(), |clean| format!("; of the clean prompts {clean:.6}"));
    let name = metric_name(metric);
    output::note("metric", &format!("mean {name} of {n} corrupted prompts = {corrupted:.6}{of_clean}"));
    let mut scores: Vec<((Point, Option<usize>), f64)> =
        sums.into_iter().map(|(cell, sum)| (cell, sum / n as f64)).collect();
    scores.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()).then(a.0.cmp(&b.0)));
    scores.truncate(attribute.k as usize);
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
