//! Scores of edges: EAP, EAP-IG and the mean of both ends.
//!
//! The score of u → v is Σ (corrupted - clean)_u · g_v, where g_v is the metric's gradient with respect to v's input
//! from the stream, before its norm (Syed et al. 2023, arXiv 2310.10348; Hanna et al. 2024, arXiv 2403.17806;
//! hannamw/EAP-IG, `src/eap/attribute.py`).

use std::sync::OnceLock;

use easyroutine_kernels::{Rows, RowsMut};

use super::graph::{Graph, Input, Reader};
use super::slices::{LayerSlices, Slices, writers};
use crate::attribution::{Summed, log_probabilities};
use crate::cache::{ActivationCache, Kept};
use crate::edit::{Edits, Intervention, Operation, Part, Tensor};
use crate::error::{Error, ErrorKind, Result};
use crate::gradients::{self, Output, Rule};
use crate::model::{Model, Readers};
use crate::patching::Metric;
use crate::positions::{Context, Row, Specifier};
use crate::request::Request;
use crate::stop::Stop;

/// Tokens run at a time, so that the backward pass has room for records of all blocks.
const TOKENS: usize = 256;

/// The runs at which gradients are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EdgeMethod {
    /// The clean run.
    Eap,
    /// The mean over embeddings corrupted + k/N (clean - corrupted), k from 0 to N - 1.
    EapIg {
        /// N.
        steps: usize,
    },
    /// The mean of the clean and the corrupted run.
    CleanCorrupted,
}

impl EdgeMethod {
    /// `eap`, `eap-ig`, `clean-corrupted`.
    pub fn name(self) -> &'static str {
        match self {
            EdgeMethod::Eap => "eap",
            EdgeMethod::EapIg { .. } => "eap-ig",
            EdgeMethod::CleanCorrupted => "clean-corrupted",
        }
    }
}

/// Scores of one pair of prompts.
#[derive(Debug, Clone, PartialEq)]
pub struct PairScores {
    /// # Shapes
    /// Writers by readers; 0 if there is no edge.
    pub scores: Vec<f64>,
    /// The metric of the clean run.
    pub clean: f64,
    /// The metric of the corrupted run.
    pub corrupted: f64,
}

/// Scores edges of one model.
#[derive(Debug)]
pub struct EdgeScorer<'a> {
    model: &'a Model,
    graph: Graph,
    method: EdgeMethod,
    rule: Rule,
    slices: Slices,
}

impl<'a> EdgeScorer<'a> {
    /// A scorer for a model.
    ///
    /// # Errors
    /// If the model's heads or parts do not add up, it is in bf16, or there are no steps.
    pub fn new(model: &'a Model, method: EdgeMethod, rule: Rule) -> Result<Self> {
        if let EdgeMethod::EapIg { steps: 0 } = method {
            return Err(Error::input("0 steps: EAP-IG takes at least 1"));
        }
        let graph = Graph::of(model.arch())?;
        Ok(EdgeScorer { model, method, rule, slices: Slices::backward(model)?, graph })
    }

    /// The graph of scored edges.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The scores of a pair of prompts of equal length.
    ///
    /// # Errors
    /// As [`gradients`](gradients::gradients), and if the prompts differ in length, parts do not add up to the stream in these runs, or a
    /// score is not finite.
    pub fn score(
        &self,
        clean: &[u32],
        corrupted: &[u32],
        metric: Metric,
        stop: Stop<'_>,
    ) -> Result<PairScores> {
        let (model, graph) = (self.model, &self.graph);
        if clean.len() != corrupted.len() {
            return Err(Error::input(format!(
                "the clean prompt has {} tokens and the corrupted one {}",
                clean.len(),
                corrupted.len()
            ))
            .hint("edges compare the same positions of both: give prompts of one length"));
        }
        let of_clean = writers(model, graph, clean, stop)?;
        let of_corrupted = writers(model, graph, corrupted, stop)?;
        let ends = [
            metric.of(&of_clean.logits, &of_clean.logits, None)?,
            metric.of(&of_corrupted.logits, &of_clean.logits, None)?,
        ];
        let differences = of_corrupted.less(&of_clean);
        differences.check_sum(&of_clean)?;
        let target = (metric == Metric::Kl).then(|| log_probabilities(&of_clean.logits));
        let pair = Pair { scorer: self, clean, metric, target, stop };
        let size = clean.len() * graph.d_model;
        let mut scores = vec![0.0; graph.n_writers() * graph.n_readers()];
        let mut add = |run: Run<'_>| pair.add(run, &differences.values, size, &mut scores);
        match self.method {
            EdgeMethod::Eap => add(Run { ids: clean, embedded: None, weights: &[1.0] })?,
            EdgeMethod::CleanCorrupted => {
                add(Run { ids: clean, embedded: None, weights: &[0.5] })?;
                add(Run { ids: corrupted, embedded: None, weights: &[0.5] })?;
            }
            EdgeMethod::EapIg { steps } => {
                let start: Vec<f32> =
                    of_clean.values[..size].iter().zip(&differences.values).map(|(x, d)| x + d).collect();
                let all: Vec<usize> = (0..steps).collect();
                for some in all.chunks((TOKENS / clean.len()).max(1)) {
                    let embedded = some.iter().flat_map(|k| {
                        let share = *k as f64 / steps as f64;
                        let towards = start.iter().zip(&differences.values);
                        towards.map(move |(x, d)| (f64::from(*x) - share * f64::from(*d)) as f32)
                    });
                    let weights = vec![1.0 / steps as f64; some.len()];
                    add(Run { ids: clean, embedded: Some(embedded.collect()), weights: &weights })?;
                }
            }
        }
        if let Some(at) = scores.iter().position(|score| !score.is_finite()) {
            let writer = graph.writers().nth(at / graph.n_readers());
            return Err(Error::input(format!(
                "the score of an edge from {} is not finite",
                writer.map_or(String::new(), |writer| writer.to_string())
            ))
            .hint("weights or the prompts overflow f32 in these runs"));
        }
        let [clean, corrupted] = ends;
        Ok(PairScores { scores, clean, corrupted })
    }
}

/// One run with gradients.
struct Run<'a> {
    ids: &'a [u32],
    /// Replacement embeddings, one row of the batch after another.
    embedded: Option<Vec<f32>>,
    /// The weight of each row of the batch.
    weights: &'a [f64],
}

struct Pair<'a> {
    scorer: &'a EdgeScorer<'a>,
    clean: &'a [u32],
    metric: Metric,
    target: Option<Vec<f32>>,
    stop: Stop<'a>,
}

impl Pair<'_> {
    /// Adds a run's part to the scores.
    fn add(&self, run: Run<'_>, differences: &[f32], size: usize, scores: &mut [f64]) -> Result<()> {
        let EdgeScorer { model, graph, rule, slices, .. } = self.scorer;
        let n = run.weights.len();
        let rows: Vec<Row<'_>> = (0..n).map(|number| Row::of(number, run.ids)).collect();
        let context = Context::default();
        let shape = [n, self.clean.len(), graph.d_model];
        let put = run.embedded.map(|values| -> Result<Intervention> {
            Ok(Intervention {
                activation: "input_embeddings".parse()?,
                part: Part::Full(vec![Specifier::All]),
                operation: Operation::Replace(Tensor::new("embeddings", &shape, values)?),
                entries: Vec::new(),
            })
        });
        let put: Vec<Intervention> = put.transpose()?.into_iter().collect();
        let mut edits = Edits::new(&put, model.arch(), &rows, context)?;
        let last = graph.n_layers - 1;
        let request = Request::parse(
            &format!("queries_L*,head_keys_L*H*,head_values_L*H*,mlp_in_*,resid_out_{last}"),
            "all",
        )?;
        let target: Option<Vec<Vec<f32>>> = self.target.as_ref().map(|row| vec![row.clone(); n]);
        let output = Output::Metric { metrics: &[self.metric], target: target.as_deref() };
        let streams = if graph.parallel.iter().all(|parallel| *parallel) { "" } else { ",resid_mid_*" };
        let streams = Request::parse(&format!("resid_in_*{streams}"), "all")?;
        let found = gradients::run(
            model,
            &rows,
            &request,
            Some(&streams),
            output,
            *rule,
            &mut edits,
            context,
            self.stop,
        )?;
        let gradients = &found.gradients.cache;
        let at = Layer { scorer: self.scorer, gradients, values: &found.values, weights: run.weights };
        for layer in 0..graph.n_layers {
            let readers = at.readers(layer, &slices.layers[layer])?;
            self.multiply(&readers, differences, size, scores);
        }
        let whole = kept(gradients, format!("resid_out_{last}_gradients"))?;
        let g = averaged(
            Rows::dense(whole.values(), whole.values().len() / graph.d_model, graph.d_model),
            run.weights,
        );
        self.multiply(&[(Reader::Logits, g)], differences, size, scores);
        Ok(())
    }

    /// Adds Σ difference · gradient for each writer that a reader reads.
    fn multiply(&self, readers: &[(Reader, Vec<f32>)], differences: &[f32], size: usize, scores: &mut [f64]) {
        let graph = &self.scorer.graph;
        let reach = readers.iter().map(|(reader, _)| graph.reach(*reader)).max().unwrap_or(0);
        let found: Vec<OnceLock<Vec<f64>>> = (0..reach).map(|_| OnceLock::new()).collect();
        let cpu = self.scorer.model.cpu();
        cpu.for_each(reach, |writer| {
            let own = &differences[writer * size..(writer + 1) * size];
            let of = |(reader, g): &(Reader, Vec<f32>)| {
                if writer < graph.reach(*reader) { cpu.dot(own, g) } else { 0.0 }
            };
            // Every writer is visited once.
            let _ = found[writer].set(readers.iter().map(of).collect());
        });
        for (writer, products) in found.into_iter().filter_map(OnceLock::into_inner).enumerate() {
            for ((reader, _), product) in readers.iter().zip(products) {
                if let Some(column) = graph.reader(*reader) {
                    scores[writer * graph.n_readers() + column] += product;
                }
            }
        }
    }
}

/// Gradients with respect to the inputs of a layer's parts.
struct Layer<'a> {
    scorer: &'a EdgeScorer<'a>,
    gradients: &'a ActivationCache,
    values: &'a ActivationCache,
    weights: &'a [f64],
}

impl Layer<'_> {
    fn readers(&self, layer: usize, slices: &LayerSlices) -> Result<Vec<(Reader, Vec<f32>)>> {
        let EdgeScorer { model, graph, .. } = self.scorer;
        let Readers { attention, mlp, .. } = model.readers(layer)?;
        let stream = kept(self.values, format!("resid_in_{layer}"))?;
        let mut readers = Vec::with_capacity(3 * graph.n_heads + 1);
        for input in Input::ALL {
            for head in 0..graph.n_heads {
                let key = match input {
                    Input::Query => format!("queries_L{layer}_gradients"),
                    Input::Key => format!("head_keys_L{layer}H{head}_gradients"),
                    Input::Value => format!("head_values_L{layer}H{head}_gradients"),
                };
                let kept = kept(self.gradients, key)?;
                let width = kept.row_shapes[0][1];
                let g = Rows::dense(kept.values(), kept.values().len() / width, width);
                let d_head = model.arch().d_head;
                let g = if input == Input::Query { g.columns(head * d_head..(head + 1) * d_head) } else { g };
                let slice = slices.of(input, head);
                let mut read = vec![0.0; g.n_rows() * graph.d_model];
                let out = RowsMut::dense(&mut read, g.n_rows(), graph.d_model);
                model.cpu().matmul(g, slice, None, out);
                readers.push((Reader::Head { layer, head, input }, self.before(attention, stream, read)));
            }
        }
        let stream = match graph.parallel[layer] {
            true => stream,
            false => kept(self.values, format!("resid_mid_{layer}"))?,
        };
        let read = kept(self.gradients, format!("mlp_in_{layer}_gradients"))?.values().to_vec();
        readers.push((Reader::Mlp { layer }, self.before(mlp, stream, read)));
        Ok(readers)
    }

    /// The gradient before a norm, averaged over the rows of the batch.
    fn before(&self, norm: Option<&crate::weights::Norm>, stream: &Kept, read: Vec<f32>) -> Vec<f32> {
        let EdgeScorer { model, graph, rule, .. } = self.scorer;
        let width = graph.d_model;
        let tokens = read.len() / width;
        let g = Rows::dense(&read, tokens, width);
        let Some(norm) = norm else { return averaged(g, self.weights) };
        let mut before = vec![0.0; read.len()];
        let (x, out) =
            (Rows::dense(stream.values(), tokens, width), RowsMut::dense(&mut before, tokens, width));
        norm.back(model.cpu(), rule.scale(), x, width, g, out);
        averaged(Rows::dense(&before, tokens, width), self.weights)
    }
}

/// Σ weight · row of the batch, for rows of one length.
fn averaged(g: Rows<'_>, weights: &[f64]) -> Vec<f32> {
    let size = g.data().len() / weights.len();
    let mut sums = vec![0f64; size];
    for (row, weight) in g.data().chunks_exact(size).zip(weights) {
        sums.iter_mut().zip(row).for_each(|(sum, g)| *sum += weight * f64::from(*g));
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

fn kept(cache: &ActivationCache, key: String) -> Result<&Kept> {
    cache.get(key.as_str()).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("this model has no `{key}`, so its edges cannot be scored"),
        )
    })
}

/// Scores summed over many pairs, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct EdgeSums {
    /// # Shapes
    /// Writers by readers.
    pub scores: Vec<f64>,
    /// Sums of the metric over clean and corrupted runs.
    pub metrics: [f64; 2],
    /// The pairs that were summed.
    pub summed: Summed,
}

impl EdgeSums {
    /// Empty sums.
    pub fn new(graph: &Graph) -> Self {
        let scores = vec![0.0; graph.n_writers() * graph.n_readers()];
        EdgeSums { scores, metrics: [0.0; 2], summed: Summed::of("pairs") }
    }

    /// Passes the next pair of a data set, clean and corrupted, and says whether the sums include it.
    ///
    /// # Errors
    /// As [`Summed::has`].
    pub fn has(&mut self, [clean, corrupted]: [&[u32]; 2], metric: Metric) -> Result<bool> {
        self.summed.has(&[clean, corrupted], &format!("{metric:?}"))
    }

    /// Adds the scores of a pair, clean and corrupted.
    pub fn add(&mut self, [clean, corrupted]: [&[u32]; 2], metric: Metric, pair: &PairScores) {
        self.scores.iter_mut().zip(&pair.scores).for_each(|(sum, x)| *sum += x);
        self.metrics[0] += pair.clean;
        self.metrics[1] += pair.corrupted;
        self.summed.add(&[clean, corrupted], &format!("{metric:?}"));
    }

    /// Mean scores.
    ///
    /// # Shapes
    /// Writers by readers.
    pub fn mean(&self) -> Vec<f64> {
        let n = self.summed.n().max(1) as f64;
        self.scores.iter().map(|sum| sum / n).collect()
    }
}
