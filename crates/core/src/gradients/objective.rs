//! Metrics of rows and their derivatives.

use easyroutine_kernels::Cpu;

use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::model::{Model, Objective};
use crate::patching::Metric;

/// Every row's metric, as far as computed.
#[derive(Debug, Default)]
pub(super) struct Measured<'a> {
    rows: Vec<MeasuredRow<'a>>,
    values: Vec<f64>,
    /// Logits of the last token of each row, if the metric reads them.
    last: Vec<Option<Vec<f32>>>,
    cpu: Option<&'a Cpu>,
}

/// The metric of one row.
#[derive(Debug)]
struct MeasuredRow<'a> {
    metric: Metric,
    target: Option<&'a [f32]>,
    /// Its tokens within the batch.
    span: std::ops::Range<usize>,
    ids: Vec<u32>,
}

impl<'a> Measured<'a> {
    pub(super) fn new(
        model: &'a Model,
        batch: &Batch,
        metrics: &[Metric],
        target: Option<&'a [Vec<f32>]>,
    ) -> Result<Self> {
        model.unembedding()?;
        let n_rows = batch.n_rows();
        if metrics.len() != 1 && metrics.len() != n_rows {
            return Err(Error::input(format!("{} metrics for {n_rows} rows", metrics.len()))
                .hint("give one for all rows, or one for each"));
        }
        if let Some(target) = target.filter(|target| target.len() != n_rows) {
            return Err(Error::input(format!("{} rows of target for {n_rows} rows", target.len())));
        }
        let row = |number: usize| {
            let metric = metrics[if metrics.len() == 1 { 0 } else { number }];
            let target = target.map(|target| target[number].as_slice());
            check(model.arch().vocabulary, number, metric, target)?;
            let (span, ids) = (batch.span(number), batch.row(number).to_vec());
            if metric == Metric::CrossEntropy && ids.len() < 2 {
                return Err(Error::input(format!(
                    "row {number} has one token, so there is no next one to predict"
                )));
            }
            Ok(MeasuredRow { metric, target, span, ids })
        };
        let rows = (0..n_rows).map(row).collect::<Result<Vec<_>>>()?;
        Ok(Measured { rows, values: vec![0.0; n_rows], last: vec![None; n_rows], cpu: Some(model.cpu()) })
    }

    /// The metric of each row and the logits of its last token, after the run.
    pub(super) fn finish(self) -> (Vec<f64>, Vec<Option<Vec<f32>>>) {
        (self.values, self.last)
    }
}

/// Checks that a metric can be differentiated.
fn check(vocabulary: usize, row: usize, metric: Metric, target: Option<&[f32]>) -> Result<()> {
    if let Some(id) = metric.tokens().into_iter().find(|id| *id as usize >= vocabulary) {
        return Err(Error::input(format!(
            "row {row}: token id {id} is beyond the vocabulary of {vocabulary}"
        )));
    }
    match (metric, target) {
        (Metric::Rank { .. }, _) => {
            Err(Error::input("`rank` has no gradient: it is a count, which moves in steps")
                .hint("`logit_diff`, `logit`, `logprob`, `p`, `kl` and `ce` have one"))
        }
        (Metric::NormalisedLogitDiff { .. }, _) => Err(Error::input(
            "`normalised` is the logit difference divided by a constant, which takes a second run",
        )
        .hint("differentiate `logit_diff` and divide")),
        (Metric::Kl, None) => Err(Error::input("`kl` needs the distribution that it is measured from")
            .hint("give log-probabilities as its `target`, one for each id")),
        (Metric::Kl, Some(target)) if target.len() != vocabulary => Err(Error::input(format!(
            "row {row} of the target has {} values for a vocabulary of {vocabulary}",
            target.len()
        ))),
        (Metric::Kl, Some(target)) => check_distribution(row, target),
        _ => Ok(()),
    }
}

/// Checks that log-probabilities form a distribution.
fn check_distribution(row: usize, target: &[f32]) -> Result<()> {
    let sum: f64 = target.iter().map(|x| f64::from(*x).exp()).sum();
    if (sum - 1.0).abs() < 1e-3 {
        return Ok(());
    }
    Err(Error::input(format!("row {row} of the target: its probabilities sum to {sum:.4}, not to 1")).hint(
        "the target holds log-probabilities: logits minus the logarithm of the sum of their exponentials",
    ))
}

impl Objective for Measured<'_> {
    fn tokens(&self, _: &Batch) -> Vec<usize> {
        let of_row = |row: &MeasuredRow<'_>| match row.metric {
            Metric::CrossEntropy => row.span.start..row.span.end - 1,
            _ => row.span.end - 1..row.span.end,
        };
        self.rows.iter().flat_map(of_row).collect()
    }

    fn at(&mut self, token: usize, logits: &mut [f32]) -> Result<()> {
        let (Some(number), Some(cpu)) =
            (self.rows.iter().position(|row| row.span.contains(&token)), self.cpu)
        else {
            return Ok(());
        };
        let row = &self.rows[number];
        if token + 1 == row.span.end {
            self.last[number] = Some(logits.to_vec());
        }
        let next = row.ids.get(token + 1 - row.span.start).copied();
        self.values[number] += match row.metric {
            Metric::LogitDiff { answer, against } => {
                let value = f64::from(logits[answer as usize]) - f64::from(logits[against as usize]);
                logits.fill(0.0);
                logits[answer as usize] += 1.0;
                logits[against as usize] -= 1.0;
                value
            }
            Metric::Logit { token } => {
                let value = f64::from(logits[token as usize]);
                logits.fill(0.0);
                logits[token as usize] = 1.0;
                value
            }
            Metric::LogProbability { token } => log_probability(cpu, logits, token, 1.0),
            Metric::CrossEntropy => match next {
                Some(next) => -log_probability(cpu, logits, next, -1.0),
                None => 0.0,
            },
            Metric::Probability { token } => {
                let value = log_probability(cpu, logits, token, 1.0);
                logits.iter_mut().for_each(|g| *g *= value.exp() as f32);
                value.exp()
            }
            Metric::Kl => divergence(cpu, logits, row.target.unwrap_or(&[])),
            // Refused before the run.
            Metric::NormalisedLogitDiff { .. } | Metric::Rank { .. } => f64::NAN,
        };
        Ok(())
    }
}

/// A token's log-probability; replaces the logits by its gradient times a factor: token minus softmax.
fn log_probability(cpu: &Cpu, logits: &mut [f32], token: u32, factor: f32) -> f64 {
    let most = cpu.max(logits);
    let value = f64::from(logits[token as usize]) - f64::from(most);
    let sum = softmax(cpu, logits, most, -factor);
    logits[token as usize] += factor;
    value - sum.ln()
}

/// KL(q ‖ p) of the target's q and the logits' p in nats; replaces the logits by its gradient, p - q.
fn divergence(cpu: &Cpu, logits: &mut [f32], target: &[f32]) -> f64 {
    let most = cpu.max(logits);
    let mut cross = 0.0;
    for (log_q, logit) in target.iter().zip(logits.iter()) {
        let q = f64::from(*log_q).exp();
        if q > 0.0 {
            cross += q * (f64::from(*log_q) - (f64::from(*logit) - f64::from(most)));
        }
    }
    let sum = softmax(cpu, logits, most, 1.0);
    logits.iter_mut().zip(target).for_each(|(g, log_q)| *g -= log_q.exp());
    cross + sum.ln()
}

/// Replaces logits by their softmax times a factor; returns the sum of their exponentials, shifted by `most`.
fn softmax(cpu: &Cpu, logits: &mut [f32], most: f32, factor: f32) -> f64 {
    cpu.exp(logits, most);
    let sum: f64 = logits.iter().map(|x| f64::from(*x)).sum();
    let factor = (f64::from(factor) / sum) as f32;
    logits.iter_mut().for_each(|x| *x *= factor);
    sum
}
