//! Direct logit attribution: how much each part, head or neuron writes towards one token and away from another.
//!
//! With the run's final norm statistics held fixed, the logits are linear in the last residual stream, which is the sum
//! of what the parts wrote (Elhage et al. 2021, transformer-circuits.pub/2021/framework; the formula of
//! TransformerLens' `logit_attrs`). It does not cover a part's effect through later parts; patching does.

mod accumulated;

use easyroutine_kernels::{Finish, NormKind, Rows, RowsMut};
use easyroutine_sites::{Point, Site};

use crate::arch::{Layer, Mlp, Norms, Wiring};
use crate::batch::Batch;
use crate::cache::{ActivationCache, Kept};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::positions::{Context, Row, Selection, Specifier};
use crate::request::Request;
use crate::tap::Tap;
use crate::weights::Projection;
pub use accumulated::accumulated;

/// How the logits are decomposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By the embedding, and the outputs of attention and MLP in each layer.
    Part,
    /// By head, and the bias of each attention.
    Head,
    /// By neuron, and the bias of each MLP's last projection.
    Neuron,
}

/// The token whose logit is attributed, and the token that it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Direction {
    /// The first.
    pub answer: u32,
    /// The second; `None` attributes the logit alone.
    pub against: Option<u32>,
}

/// Contributions to a logit or a logit difference, before any softcap.
#[derive(Debug, Clone)]
pub struct Direct {
    /// By name: `input_embeddings`, `attn_out_3`, `mlp_out_3`; `head_out_L3H2`, `attn_bias_3`; `mlp_hidden_3`,
    /// `mlp_bias_3`.
    ///
    /// # Shapes
    /// `[T]` per row; `[T, F]` for neurons.
    pub contributions: Vec<(String, Kept)>,
    /// The contribution of the final norm's and the unembedding's biases, per row.
    pub bias: Vec<f64>,
    /// The logit difference itself. For parts, contributions and bias sum to it.
    ///
    /// # Shapes
    /// `[T]` per row.
    pub logit_diff: Kept,
    /// The tokens that T counts.
    pub selection: Selection,
}

/// The direct contributions at positions of each row, in a run that the tap `first` may change.
///
/// # Errors
/// As [`Request::run_under`]. Also if the model has no unembedding, its parts do not add up to the last stream, a norm
/// changes the output of heads or neurons before it is added, neurons are requested of a layer of experts, a token is
/// beyond the vocabulary, or the number of directions is neither one nor that of the rows.
pub fn direct_attribution(
    model: &Model,
    rows: &[Row<'_>],
    directions: &[Direction],
    positions: &[Specifier],
    by: By,
    context: Context<'_>,
    first: impl Tap,
) -> Result<Direct> {
    let lines = lines_of(model, rows, directions)?;
    for (layer, block) in model.arch().layers.iter().enumerate() {
        check(by, layer, block)?;
    }
    let layers = &model.arch().layers;
    if by == By::Head && layers.iter().all(|layer| layer.attention.is_none()) {
        let what = "this model mixes tokens without attention, so it has no heads; parts add up";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    if by == By::Neuron && layers.iter().all(|layer| layer.mlp.is_none()) {
        let what = "this model has no MLPs, so it has no neurons; parts add up";
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    let last = model.arch().layers.len() - 1;
    let sites = match by {
        By::Part => {
            let has = |part: fn(&Layer) -> bool| layers.iter().any(part);
            let parts = [
                ("attn_out_*", has(|layer| layer.attention.is_some())),
                ("mixer_out_*", has(|layer| layer.recurrence.is_some())),
                ("mlp_out_*", has(|layer| layer.mlp.is_some())),
                ("per_layer_out_*", model.arch().per_layer.is_some()),
            ];
            let parts = parts.iter().filter(|(_, is_there)| *is_there).map(|(name, _)| *name);
            std::iter::once("input_embeddings").chain(parts).collect::<Vec<_>>().join(",")
        }
        By::Head => "z_*".to_owned(),
        By::Neuron => "mlp_hidden_*".to_owned(),
    };
    let norm = if model.arch().final_norm.is_some() { ",last_layernorm" } else { "" };
    let request = Request {
        positions: positions.to_vec(),
        ..Request::parse(&format!("{sites},resid_out_{last}{norm}"), "all")?
    };
    let batch = Batch::new(&rows.iter().map(|row| row.ids).collect::<Vec<_>>())?;
    let cache = request.run_under(model, &batch, rows, context, first)?;
    let scales = scales(model, &cache);
    let stream = kept(&cache, Point::layer_of(Site::ResidOut, last))?;
    let along = |vectors: &Kept, row: usize, line: &[f32]| -> Vec<f64> {
        let width = line.len().max(1);
        let vectors = vectors.row(row).chunks_exact(width).zip(&scales[row]);
        vectors.map(|(vector, scale)| model.cpu().dot(vector, line) / scale).collect()
    };
    let each = |of: &dyn Fn(usize) -> Vec<f64>| -> Kept {
        let rows: Vec<Vec<f64>> = (0..rows.len()).map(of).collect();
        let shapes = rows.iter().map(|row| vec![row.len()]).collect();
        Kept::f32(rows.concat().iter().map(|x| *x as f32).collect(), shapes)
    };
    let logit_diff =
        each(&|row| along(stream, row, &lines[row].vector).iter().map(|x| x + lines[row].bias).collect());
    let mut contributions = Vec::new();
    // A layer's output is multiplied by the factors of all blocks that it leaves.
    let leaving = |layer: usize| f64::from(model.leaving_scale(layer));
    let passed = |layer: usize| (layer..=last).map(leaving).product::<f64>();
    match by {
        By::Part => {
            let sites = [Site::AttnOut, Site::MixerOut, Site::MlpOut, Site::PerLayerOut];
            let parts = (0..=last).flat_map(|l| sites.map(|s| Point::layer_of(s, l)));
            let parts = parts.filter(|point| model.arch().lacks(*point).is_none());
            for point in std::iter::once(Point::model(Site::InputEmbeddings)).chain(parts) {
                let vectors = kept(&cache, point)?;
                let share = passed(point.layer().unwrap_or(0));
                let of = |row: usize| -> Vec<f64> {
                    along(vectors, row, &lines[row].vector).into_iter().map(|x| x * share).collect()
                };
                contributions.push((point.to_string(), each(&of)));
            }
            check_sum(&contributions, &lines, &logit_diff)?;
        }
        By::Head => {
            for (layer, block) in layers.iter().enumerate() {
                let [Some(out), _] = model.projections(layer)? else { continue };
                let z = kept(&cache, Point::layer_of(Site::Z, layer))?;
                let factor = f64::from(block.factors.attention.unwrap_or(1.0)) * passed(layer);
                let heads = model.arch().heads(layer);
                let read: Vec<Vec<f32>> = lines.iter().map(|line| line.through(model, out)).collect();
                for head in 0..heads.n {
                    let columns = heads.of_value(head);
                    let of = |row: usize| -> Vec<f64> {
                        let vectors = z.row(row).chunks_exact(heads.mixed()).zip(&scales[row]);
                        let line = &read[row][columns.clone()];
                        vectors
                            .map(|(z, scale)| model.cpu().dot(&z[columns.clone()], line) * factor / scale)
                            .collect()
                    };
                    contributions.push((Point::head_of(Site::HeadOut, layer, head).to_string(), each(&of)));
                }
                let bias = of_bias(out, &lines, &scales, factor);
                contributions.push((format!("attn_bias_{layer}"), each(&|row| bias[row].clone())));
            }
        }
        By::Neuron => {
            for (layer, block) in layers.iter().enumerate() {
                let [_, Some(down)] = model.projections(layer)? else { continue };
                let hidden = kept(&cache, Point::layer_of(Site::MlpHidden, layer))?;
                let factor = f64::from(block.factors.mlp.unwrap_or(1.0));
                let mut values = Vec::with_capacity(hidden.values().len());
                for (row, line) in lines.iter().enumerate() {
                    let read = line.through(model, down);
                    for (neurons, scale) in hidden.row(row).chunks_exact(read.len().max(1)).zip(&scales[row])
                    {
                        let share = factor / scale;
                        values.extend(
                            neurons
                                .iter()
                                .zip(&read)
                                .map(|(h, n)| (f64::from(*h) * f64::from(*n) * share) as f32),
                        );
                    }
                }
                let point = Point::layer_of(Site::MlpHidden, layer);
                contributions.push((point.to_string(), Kept::f32(values, hidden.row_shapes.clone())));
                let bias = of_bias(down, &lines, &scales, factor);
                contributions.push((format!("mlp_bias_{layer}"), each(&|row| bias[row].clone())));
            }
        }
    }
    let bias = lines.iter().map(|line| line.bias).collect();
    Ok(Direct { contributions, bias, logit_diff, selection: cache.selection.clone() })
}

/// Each row's direction, as a linear function of the stream.
fn lines_of(model: &Model, rows: &[Row<'_>], directions: &[Direction]) -> Result<Vec<Line>> {
    model.unembedding()?;
    if directions.len() != 1 && directions.len() != rows.len() {
        return Err(Error::input(format!("{} directions for {} rows", directions.len(), rows.len()))
            .hint("give one for all rows, or one for each"));
    }
    let direction = |row: usize| directions[if directions.len() == 1 { 0 } else { row }];
    (0..rows.len()).map(|row| Line::new(model, direction(row))).collect()
}

/// Checks that the requested decomposition adds up in a block.
fn check(by: By, layer: usize, block: &Layer) -> Result<()> {
    let refused = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
    let post = |norms: Norms| norms.post.is_some();
    let (after_attention, after_mlp) = match block.wiring {
        Wiring::Sequential { attention, mlp } => (post(attention), post(mlp)),
        Wiring::Parallel { .. } => (false, false),
        Wiring::NormOnStream { .. } => {
            return refused(format!(
                "layer {layer} norms the residual stream itself, so its parts do not add up to logits"
            ));
        }
    };
    match by {
        By::Head if after_attention => refused(format!(
            "layer {layer} norms the sum of its heads, so single heads do not add up to logits; parts do"
        )),
        By::Neuron if after_mlp => refused(format!(
            "layer {layer} norms what its neurons write, so single neurons do not add up to logits; parts do"
        )),
        By::Neuron if matches!(block.mlp, Some(Mlp::Experts { .. })) => {
            refused(format!("layer {layer} has experts, each with neurons of its own; parts add up"))
        }
        _ => Ok(()),
    }
}

/// The contribution of a stream vector to a logit difference, up to the norm's divisor: (c - mean(c)) ⊙ w · d is c ·
/// vector.
struct Line {
    vector: Vec<f32>,
    /// The contribution of adding one to every entry of a vector, for a mean other than the vector's own.
    sum: f64,
    bias: f64,
}

impl Line {
    fn new(model: &Model, direction: Direction) -> Result<Line> {
        let unembedding = model.unembedding()?;
        let vocabulary = unembedding.vocabulary();
        let ids = [Some(direction.answer), direction.against];
        if let Some(id) = ids.into_iter().flatten().find(|id| *id as usize >= vocabulary) {
            return Err(Error::input(format!("token id {id} is beyond the vocabulary of {vocabulary}")));
        }
        if direction.against == Some(direction.answer) {
            return Err(Error::input(format!(
                "both tokens are {}: their logits do not differ",
                direction.answer
            )));
        }
        let rules = unembedding.rules();
        let divisor = f64::from(rules.divisor.unwrap_or(1.0));
        let bias_of = |id: u32| rules.bias.as_ref().map_or(0.0, |bias| f64::from(bias[id as usize]));
        let mut d: Vec<f64> =
            unembedding.row(direction.answer as usize)?.iter().map(|x| f64::from(*x)).collect();
        let mut bias = bias_of(direction.answer);
        if let Some(against) = direction.against {
            let other = unembedding.row(against as usize)?;
            d.iter_mut().zip(other).for_each(|(d, x)| *d -= f64::from(x));
            bias -= bias_of(against);
        }
        d.iter_mut().for_each(|d| *d /= divisor);
        bias /= divisor;
        let mut sum = 0.0;
        if let Some(norm) = unembedding.final_norm() {
            if let Some(shift) = &norm.bias {
                bias += d.iter().zip(shift).map(|(d, b)| d * f64::from(*b)).sum::<f64>();
            }
            if let Some(weight) = &norm.weight {
                d.iter_mut().zip(weight).for_each(|(d, w)| *d *= f64::from(*w));
            }
            if norm.kind == NormKind::Layer {
                sum = d.iter().sum::<f64>();
                let mean = sum / d.len() as f64;
                d.iter_mut().for_each(|d| *d -= mean);
            }
        }
        Ok(Line { vector: d.iter().map(|d| *d as f32).collect(), sum, bias })
    }

    /// The same as a function of the input of a projection into the stream.
    fn through(&self, model: &Model, projection: &Projection) -> Vec<f32> {
        let mut out = vec![0.0; projection.inputs()];
        let (line, width) = (Rows::dense(&self.vector, 1, self.vector.len()), projection.inputs());
        projection.back(model.cpu(), line, Finish::Store, RowsMut::dense(&mut out, 1, width));
        out
    }
}

/// The contribution of a projection's bias, per row and token.
fn of_bias(projection: &Projection, lines: &[Line], scales: &[Vec<f64>], factor: f64) -> Vec<Vec<f64>> {
    let dot = |line: &Line| -> f64 {
        let bias = projection.bias.as_deref().unwrap_or(&[]);
        bias.iter().zip(&line.vector).map(|(b, v)| f64::from(*b) * f64::from(*v)).sum()
    };
    lines
        .iter()
        .zip(scales)
        .map(|(line, of_row)| of_row.iter().map(|s| dot(line) * factor / s).collect())
        .collect()
}

/// The final norm's divisor, per row and token.
fn scales(model: &Model, cache: &ActivationCache) -> Vec<Vec<f64>> {
    let norm = model.unembedding().ok().and_then(|unembedding| unembedding.final_norm());
    let of = |row: usize, t: usize| -> Vec<f64> {
        let Some(norm) = &norm else { return vec![1.0; t] };
        let part = if norm.kind == NormKind::Layer { "variance" } else { "second_moment" };
        let squares = cache.get(format!("last_layernorm.{part}")).map_or(&[][..], |kept| kept.row(row));
        squares.iter().map(|x| (f64::from(*x) + f64::from(norm.eps)).sqrt()).collect()
    };
    cache.selection.rows.iter().enumerate().map(|(row, selected)| of(row, selected.indices.len())).collect()
}

fn kept(cache: &ActivationCache, point: Point) -> Result<&Kept> {
    cache.get(point).ok_or_else(|| Error::input(format!("this model has no `{point}` to attribute to")))
}

/// Checks that parts and bias sum to the logit difference in this run.
fn check_sum(parts: &[(String, Kept)], lines: &[Line], logit_diff: &Kept) -> Result<()> {
    for (row, line) in lines.iter().enumerate() {
        for (t, whole) in logit_diff.row(row).iter().enumerate() {
            let values = parts.iter().map(|(_, kept)| f64::from(kept.row(row)[t]));
            let (sum, size) =
                values.fold((line.bias, 1.0_f64), |(sum, size), x| (sum + x, size.max(x.abs())));
            if (sum - f64::from(*whole)).abs() > 1e-3 * size {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "the parts sum to {sum:.4} where the logit difference is {whole:.4}: in this model something \
                             else writes to the stream, or an intervention changes it"
                    ),
                ));
            }
        }
    }
    Ok(())
}
