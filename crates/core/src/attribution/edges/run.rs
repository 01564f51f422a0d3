//! Runs a circuit: every removed edge carries what its writer writes on the other prompt.

use std::ops::Range;

use easyroutine_kernels::{Rows, RowsMut};
use easyroutine_sites::{Point, Site};

use super::circuit::Circuit;
use super::graph::{Graph, Input, Reader, Writer};
use super::slices::{Slices, outputs, place, writers};
use crate::batch::Batch;
use crate::error::{Error, Result};
use crate::logits::LastLogits;
use crate::model::{Model, Readers};
use crate::patching::{Metric, last_logits};
use crate::positions::Row;
use crate::stop::Stop;
use crate::tap::{Tap, Value, Want};
use crate::weights::Norm;

/// Runs circuits of one model.
#[derive(Debug)]
pub struct CircuitRunner<'a> {
    model: &'a Model,
    graph: Graph,
    slices: Slices,
}

impl<'a> CircuitRunner<'a> {
    /// A runner for a model.
    ///
    /// # Errors
    /// As [`EdgeScorer::new`](super::EdgeScorer::new).
    pub fn new(model: &'a Model) -> Result<Self> {
        Ok(CircuitRunner { model, graph: Graph::of(model.arch())?, slices: Slices::forward(model)? })
    }

    /// The metric of circuits on the clean prompt: each reader sees the running stream, with the contributions of
    /// removed edges replaced by those of the corrupted run.
    ///
    /// # Errors
    /// If the prompts differ in length, the metric is not read at the last token, or a run fails.
    pub fn run(
        &self,
        clean: &[u32],
        corrupted: &[u32],
        metric: Metric,
        circuits: &[Circuit],
        stop: Stop<'_>,
    ) -> Result<Vec<f64>> {
        if clean.len() != corrupted.len() {
            return Err(Error::input(format!(
                "the clean prompt has {} tokens and the corrupted one {}",
                clean.len(),
                corrupted.len()
            )));
        }
        let base = writers(self.model, &self.graph, corrupted, stop)?.values;
        let batch = Batch::new(&[clean])?;
        let run = |first: &mut dyn Tap| -> Result<Vec<f32>> {
            let mut taps = (first, LastLogits::of(0..1));
            self.model.forward_until(&batch, &mut taps, stop)?;
            Ok(taps.1.logits.pop().flatten().unwrap_or_default())
        };
        let whole = run(&mut ())?;
        let of = |circuit: &Circuit| {
            let mut tap = CircuitTap {
                runner: self,
                circuit,
                base: &base,
                running: vec![0.0; base.len()],
                all: vec![0.0; clean.len() * self.graph.d_model],
                summed: 0,
                stream: Vec::new(),
                tokens: clean.len(),
            };
            metric.of(&run(&mut tap)?, &whole, None)
        };
        circuits.iter().map(of).collect()
    }
}

/// The metric of the clean and of the corrupted run.
///
/// # Errors
/// If the metric is not read at the last token, or a run fails.
pub fn ends(model: &Model, clean: &[u32], corrupted: &[u32], metric: Metric) -> Result<[f64; 2]> {
    let logits = last_logits(model, &[Row::of(0, clean), Row::of(1, corrupted)], ())?;
    Ok([metric.of(&logits[0], &logits[0], None)?, metric.of(&logits[1], &logits[0], None)?])
}

/// Shows each reader what its circuit passes on.
struct CircuitTap<'a> {
    runner: &'a CircuitRunner<'a>,
    circuit: &'a Circuit,
    /// The outputs of the writers in the corrupted run.
    ///
    /// # Shapes
    /// Writers by tokens by `d_model`.
    base: &'a [f32],
    /// The writers' outputs in this run so far.
    running: Vec<f32>,
    /// Σ (corrupted - running) of the first `summed` writers.
    all: Vec<f32>,
    summed: usize,
    /// The stream that the next part reads.
    stream: Vec<f32>,
    tokens: usize,
}

impl CircuitTap<'_> {
    fn size(&self) -> usize {
        self.tokens * self.runner.graph.d_model
    }

    fn own(&self, writer: usize) -> Range<usize> {
        writer * self.size()..(writer + 1) * self.size()
    }

    /// The input of a reader, once [`Self::sum`] has summed all that it reads. Sums either the kept edges or the
    /// removed ones, whichever are fewer.
    fn seen(&self, reader: Reader) -> Vec<f32> {
        let graph = &self.runner.graph;
        let column = graph.reader(reader).unwrap_or(0);
        let reach = graph.reach(reader);
        let (kept, left): (Vec<usize>, Vec<usize>) =
            (0..reach).partition(|writer| self.circuit.has(graph, *writer, column));
        let mut seen = self.stream.clone();
        let mut add = |writer: usize, sign: f32| {
            let own = self.own(writer);
            let terms = self.base[own.clone()].iter().zip(&self.running[own]);
            seen.iter_mut().zip(terms).for_each(|(x, (base, running))| *x += sign * (base - running));
        };
        if left.len() <= kept.len() {
            left.into_iter().for_each(|writer| add(writer, 1.0));
        } else {
            kept.into_iter().for_each(|writer| add(writer, -1.0));
            seen.iter_mut().zip(&self.all).for_each(|(x, all)| *x += all);
        }
        seen
    }

    /// Sums the writers that a reader reads. Readers come in the order of the pass, so each reads all that earlier ones
    /// read.
    fn sum(&mut self, reader: Reader) {
        let reach = self.runner.graph.reach(reader);
        for writer in self.summed..reach {
            let own = self.own(writer);
            let terms = self.base[own.clone()].iter().zip(&self.running[own]);
            self.all.iter_mut().zip(terms).for_each(|(sum, (base, running))| *sum += base - running);
        }
        self.summed = reach;
    }

    fn normed(&self, norm: Option<&Norm>, mut x: Vec<f32>) -> Vec<f32> {
        let Some(norm) = norm else { return x };
        let (tokens, width) = (self.tokens, self.runner.graph.d_model);
        let read = x.clone();
        norm.apply(
            self.runner.model.cpu(),
            Rows::dense(&read, tokens, width),
            RowsMut::dense(&mut x, tokens, width),
        );
        x
    }

    /// Puts the queries, keys or values of a list of heads in place, each from its own stream.
    fn put_heads(
        &mut self,
        layer: usize,
        input: Input,
        heads: Range<usize>,
        value: &mut Value<'_>,
    ) -> Result<()> {
        let CircuitRunner { model, graph, slices } = self.runner;
        let Readers { qkv, attention, .. } = model.readers(layer)?;
        let d_head = model.arch().d_head;
        self.sum(Reader::Head { layer, head: 0, input });
        for (number, head) in heads.enumerate() {
            let seen = self.normed(attention, self.seen(Reader::Head { layer, head, input }));
            let mut out = vec![0.0; self.tokens * d_head];
            let bias = qkv.bias.as_ref().map(|bias| &bias[outputs(model, input, head)]);
            let rows = Rows::dense(&seen, self.tokens, graph.d_model);
            let slice = slices.layers[layer].of(input, head);
            model.cpu().matmul(rows, slice, bias, RowsMut::dense(&mut out, self.tokens, d_head));
            for (position, vector) in out.chunks_exact(d_head).enumerate() {
                if let Some(to) = value.vector_mut(0, position) {
                    to[number * d_head..(number + 1) * d_head].copy_from_slice(vector);
                }
            }
        }
        Ok(())
    }

    fn put(&self, vectors: &[f32], value: &mut Value<'_>) {
        for (position, vector) in vectors.chunks_exact(self.runner.graph.d_model).enumerate() {
            if let Some(to) = value.vector_mut(0, position) {
                to.copy_from_slice(vector);
            }
        }
    }

    fn read(&self, value: &Value<'_>) -> Vec<f32> {
        let vectors = (0..self.tokens).filter_map(|position| value.vector(0, position));
        vectors.flatten().copied().collect()
    }

    fn wrote(&mut self, writer: Writer, value: &Value<'_>) {
        let Some(number) = self.runner.graph.writer(writer) else { return };
        let (_, factor) = place(self.runner.model, writer);
        let (own, written) = (self.own(number), self.read(value));
        self.running[own].iter_mut().zip(written).for_each(|(to, x)| *to = x * factor);
    }

    fn is_last(&self, point: Point) -> bool {
        point.layer() == Some(self.runner.graph.n_layers - 1)
    }
}

impl Tap for CircuitTap<'_> {
    fn wants(&self, point: Point) -> Want {
        match point.site() {
            Site::InputEmbeddings | Site::ResidIn | Site::HeadOut | Site::MlpOut => Want::Read,
            Site::ResidMid => Want::Read,
            Site::Queries | Site::HeadKeys | Site::HeadValues | Site::MlpIn => Want::Edit,
            Site::ResidOut if self.is_last(point) => Want::Edit,
            _ => Want::Nothing,
        }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let layer = point.layer().unwrap_or(0);
        let head = point.head().unwrap_or(0);
        match point.site() {
            Site::InputEmbeddings => self.wrote(Writer::Input, value),
            Site::ResidIn | Site::ResidMid => self.stream = self.read(value),
            Site::HeadOut => self.wrote(Writer::Head { layer, head }, value),
            Site::MlpOut => self.wrote(Writer::Mlp { layer }, value),
            Site::Queries => {
                let heads = 0..self.runner.graph.n_heads;
                self.put_heads(layer, Input::Query, heads, value)?;
            }
            Site::HeadKeys => self.put_heads(layer, Input::Key, head..head + 1, value)?,
            Site::HeadValues => self.put_heads(layer, Input::Value, head..head + 1, value)?,
            Site::MlpIn => {
                let reader = Reader::Mlp { layer };
                self.sum(reader);
                let norm = self.runner.model.readers(layer)?.mlp;
                let seen = self.normed(norm, self.seen(reader));
                self.put(&seen, value);
            }
            Site::ResidOut => {
                self.stream = self.read(value);
                self.sum(Reader::Logits);
                let seen = self.seen(Reader::Logits);
                self.put(&seen, value);
            }
            _ => {}
        }
        Ok(())
    }
}
