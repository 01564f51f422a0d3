//! The inputs of each head and the outputs of each part.

use std::convert::Infallible;
use std::ops::Range;

use easyroutine_kernels::{Dtype, PackedMatrix};
use easyroutine_sites::{Point, Site};

use super::graph::{Graph, Input, Writer};
use crate::attribution::values_and_logits;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{Model, Readers};
use crate::positions::{Context, Row};
use crate::request::Request;
use crate::stop::Stop;

/// The maps from the stream to every head's query, key and value, layer by layer.
#[derive(Debug)]
pub(super) struct Slices {
    pub(super) layers: Vec<LayerSlices>,
}

/// The maps of one layer: for each query head, and for each key and value head.
#[derive(Debug)]
pub(super) struct LayerSlices {
    parts: [Vec<PackedMatrix>; 3],
    group: usize,
}

impl LayerSlices {
    pub(super) fn of(&self, input: Input, head: usize) -> &PackedMatrix {
        let number = if input == Input::Query { head } else { head / self.group };
        &self.parts[input as usize][number]
    }
}

/// The outputs of the joined qkv projection that belong to a head's input.
pub(super) fn outputs(model: &Model, input: Input, head: usize) -> Range<usize> {
    let arch = model.arch();
    let (heads, shared, group) = (arch.n_heads, arch.n_kv_heads, arch.n_heads / arch.n_kv_heads);
    let first = match input {
        Input::Query => head,
        Input::Key => heads + head / group,
        Input::Value => heads + shared + head / group,
    };
    first * arch.d_head..(first + 1) * arch.d_head
}

impl Slices {
    /// Maps from the stream to each part.
    pub(super) fn forward(model: &Model) -> Result<Self> {
        Slices::new(
            model,
            |rows, output, row| {
                let width = row.len();
                row.copy_from_slice(&rows[output * width..(output + 1) * width]);
            },
            |d_model, d_head| (d_head, d_model),
        )
    }

    /// Maps from the gradient of each part to that of its input.
    pub(super) fn backward(model: &Model) -> Result<Self> {
        Slices::new(
            model,
            |rows, output, row| {
                let d_model = rows.len() / row.len();
                row.iter_mut().enumerate().for_each(|(input, x)| *x = rows[input * d_model + output]);
            },
            |d_model, d_head| (d_model, d_head),
        )
    }

    fn new(
        model: &Model,
        fill: impl Fn(&[f32], usize, &mut [f32]) + Sync,
        shape: impl Fn(usize, usize) -> (usize, usize),
    ) -> Result<Self> {
        if model.dtype() != Dtype::F32 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "edges are computed in f32, and this model in bf16",
            )
            .hint("load it in f32"));
        }
        let arch = model.arch();
        let group = arch.n_heads / arch.n_kv_heads;
        let layer = |layer: usize| -> Result<LayerSlices> {
            let Readers { qkv, .. } = model.readers(layer)?;
            let part = |input: Input, head: usize| {
                let of = outputs(model, input, head);
                let mut rows = vec![0.0; of.len() * arch.d_model];
                rows.chunks_exact_mut(arch.d_model).zip(of).for_each(|(row, n)| qkv.read_row(n, row));
                let (outputs, inputs) = shape(arch.d_model, arch.d_head);
                let Ok(packed) = PackedMatrix::pack(model.cpu(), Dtype::F32, outputs, inputs, |n, row| {
                    fill(&rows, n, row);
                    Ok::<(), Infallible>(())
                });
                packed
            };
            let parts = Input::ALL.map(|input| {
                let step = if input == Input::Query { 1 } else { group };
                (0..arch.n_heads).step_by(step).map(|head| part(input, head)).collect()
            });
            Ok(LayerSlices { parts, group })
        };
        model
            .unembedding()?
            .files
            .during(|| Ok(Slices { layers: (0..arch.layers.len()).map(layer).collect::<Result<_>>()? }))
    }
}

/// What every writer adds to the stream in a run, and the stream that the additions sum to, up to constants. With the run's
/// last logits.
#[derive(Debug)]
pub(super) struct Written {
    /// # Shapes
    /// Writers by tokens by `d_model`.
    pub(super) values: Vec<f32>,
    /// # Shapes
    /// Tokens by `d_model`.
    last: Vec<f32>,
    /// # Shapes
    /// V.
    pub(super) logits: Vec<f32>,
}

/// Runs a prompt.
pub(super) fn writers(model: &Model, graph: &Graph, ids: &[u32], stop: Stop<'_>) -> Result<Written> {
    let last = graph.n_layers - 1;
    let keys = format!("input_embeddings,head_out_L*H*,mlp_out_*,resid_out_{last}");
    let request = Request::parse(&keys, "all")?;
    let rows = [Row::of(0, ids)];
    let tokens = request.tokens(&rows, Context::default())?;
    let (cache, mut logits) = values_and_logits(model, &rows, &request, tokens, stop)?;
    let logits = logits.pop().unwrap_or_default();
    let size = ids.len() * graph.d_model;
    let mut values = Vec::with_capacity(graph.n_writers() * size);
    for writer in graph.writers() {
        let (point, factor) = place(model, writer);
        let kept = cache.get(point).ok_or_else(|| Error::input(format!("`{point}` was not reached")))?;
        values.extend(kept.values().iter().map(|x| x * factor));
    }
    let stream = cache.get(Point::layer_of(Site::ResidOut, last));
    Ok(Written { values, last: stream.map(|kept| kept.values().to_vec()).unwrap_or_default(), logits })
}

/// The point of a writer's output, and its factor before it is added.
pub(super) fn place(model: &Model, writer: Writer) -> (Point, f32) {
    match writer {
        Writer::Input => (Point::model(Site::InputEmbeddings), 1.0),
        Writer::Head { layer, head } => {
            let factor = model.arch().layers[layer].factors.attention.unwrap_or(1.0);
            (Point::head_of(Site::HeadOut, layer, head), factor)
        }
        Writer::Mlp { layer } => (Point::layer_of(Site::MlpOut, layer), 1.0),
    }
}

impl Written {
    /// The difference from another run with the same prompt length.
    pub(super) fn less(mut self, other: &Written) -> Written {
        let subtract = |a: &mut Vec<f32>, b: &[f32]| a.iter_mut().zip(b).for_each(|(a, b)| *a -= b);
        subtract(&mut self.values, &other.values);
        subtract(&mut self.last, &other.last);
        self
    }

    /// Checks that the differences of all writers sum to that of the last stream.
    ///
    /// # Errors
    /// If they do not, because something else writes to the stream.
    pub(super) fn check_sum(&self, of: &Written) -> Result<()> {
        let size = self.last.len();
        let mut sums = vec![0f64; size];
        for one in self.values.chunks_exact(size) {
            sums.iter_mut().zip(one).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let most = |x: &[f32]| x.iter().fold(0.0_f64, |most, x| most.max(f64::from(x.abs())));
        let allowed = 1e-3 * most(&self.last) + 1e-5 * most(&of.last);
        let apart = sums.iter().zip(&self.last).find(|(sum, x)| (*sum - f64::from(**x)).abs() > allowed);
        match apart {
            None => Ok(()),
            Some((sum, x)) => Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "the embedding, heads and MLPs of this model sum to {sum:.4} where its stream is {x:.4}: something else \
                     writes to the stream, so its edges do not add up"
                ),
            )),
        }
    }
}
