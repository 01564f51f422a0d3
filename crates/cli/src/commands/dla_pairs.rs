//! `dla --pairs`: mean direct contributions to the answers of many pairs.

use std::path::Path;

use easyroutine::dla::{By, Direction, direct_attribution};
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row, Specifier};
use serde_json::{Value, json};

use super::pairs::{Pairs, count};
use crate::args::{Args, CutArg, Dla, SmoothArg};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::progress::Counted;
use crate::session;

pub(super) fn run(args: &Args, dla: &Dla, file: &Path) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let by = match dla.by {
        CutArg::Part => By::Part,
        CutArg::Head => By::Head,
        CutArg::Neuron => By::Neuron,
        CutArg::Stream => {
            return Err(Failure::usage(
                "--by stream is of one prompt: streams of pairs have no mean that means \
                                       anything",
            ));
        }
    };
    if !dla.changes.intervene.is_empty() || !dla.changes.dictionaries.dict.is_empty() {
        let flag = if dla.changes.intervene.is_empty() { "--dict" } else { "--intervene" };
        return Err(Failure::usage(format!("{flag} changes one prompt, and --pairs are many")));
    }
    let positions = Specifier::parse_lists(&dla.positions)?;
    let session = session::load(&dla.model.model, &dla.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &dla.model.loading.finding)?;
    let context = Context { special: tokenizer.special_ids(), seed: dla.changes.seed, ..Context::default() };
    let (model, metric) = (&session.model, SmoothArg::LogitDiff);
    let pairs = Pairs { model, tokenizer: &tokenizer, cutting: &dla.prompt.cutting, metric };
    let limit = dla.prompt.limit;
    let (all, bar) = (count(file, limit, metric)?, Counted::new("pairs"));
    let mut sums: Vec<(String, Vec<f64>)> = Vec::new();
    let (mut n, mut bias, mut whole) = (0usize, 0.0, 0.0);
    let read = pairs.each(file, limit, |pair| {
        let Metric::LogitDiff { answer, against } = pair.metric else { return Ok(()) };
        let directions = [Direction { answer, against: Some(against) }];
        let rows = [Row::of(0, &pair.clean)];
        let found = direct_attribution(model, &rows, &directions, &positions, by, context, ())?;
        let indices = &found.selection.rows[0].indices;
        if indices.len() != 1 {
            return Err(Failure::usage(format!("{} positions of a pair, where one is read", indices.len()))
                .hint("name it: --positions last"));
        }
        for (at, (name, kept)) in found.contributions.iter().enumerate() {
            let values = kept.row(0);
            if sums.len() == at {
                sums.push((name.clone(), vec![0.0; values.len()]));
            }
            sums[at].1.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        bias += found.bias[0];
        whole += f64::from(found.logit_diff.row(0)[0]);
        n += 1;
        Ok(bar.tell(n, all)?)
    });
    bar.finish();
    read?;
    let mean = |sum: f64| sum / n as f64;
    let mut shares: Vec<(String, Option<usize>, f64)> = Vec::new();
    if by == By::Part {
        shares.push(("bias".to_owned(), None, mean(bias)));
    }
    for (name, sums) in &sums {
        for (neuron, sum) in sums.iter().enumerate() {
            shares.push((name.clone(), (sums.len() > 1).then_some(neuron), mean(*sum)));
        }
    }
    output::note("sum", &format!("mean logit difference of {n} clean prompts = {:.4}", mean(whole)));
    if by == By::Part {
        let sum: f64 = shares.iter().map(|(_, _, value)| value).sum();
        output::note("sum", &format!("parts and bias sum to {sum:.4}"));
    } else {
        shares.sort_by(|a, b| b.2.abs().total_cmp(&a.2.abs()));
        shares.truncate(dla.k as usize);
    }
    let list: Vec<Value> = shares
        .iter()
        .map(|(name, neuron, value)| json!({"component": name, "neuron": neuron, "value": value}))
        .collect();
    let json = json!({
        "schema": "easyroutine.dla_pairs/1",
        "model": session.model_json(),
        "pairs": n,
        "logit_diff": mean(whole),
        "bias": mean(bias),
        "contributions": list,
    });
    let mut running = 0.0;
    let rows: Vec<Vec<Cell>> = shares
        .iter()
        .map(|(name, neuron, value)| {
            running += value;
            let name = neuron.map_or(name.clone(), |neuron| format!("{name}:{neuron}"));
            let mut row = vec![name.into(), Cell::new(format!("{value:.4}"), *value)];
            if by == By::Part {
                row.push(Cell::new(format!("{running:.4}"), running));
            }
            row
        })
        .collect();
    let header = ["component", "mean_contribution", "running_sum"];
    let header = if by == By::Part { &header[..] } else { &header[..2] };
    output::tables(&targets, header, &rows, &json)
}
