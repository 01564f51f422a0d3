//! How a family's checkpoint stores its weights: names, fusions, orientations. Plain data, filled in by `families/` and
//! undone by `weights/`, so that storage never reaches the forward pass.

mod recurrence;
mod stored;

pub use recurrence::*;
pub use stored::*;

use std::ops::Range;

use crate::arch::Bias;

/// Names of all tensors of a checkpoint. Every name is a module's; `.weight`, and `.bias` if there is one, follow.
#[derive(Debug, Clone, PartialEq)]
pub struct Names {
    /// Prefix of the base model (`model.`), which a file may omit.
    pub prefix: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Table of learned positions.
    pub positions: Option<&'static str>,
    /// Norm on the embedding.
    pub embed_norm: Option<&'static str>,
    /// Projection from the embedding's width to the stream's.
    pub project_in: Option<&'static str>,
    /// Projection from the stream's width back to the embedding's.
    pub project_out: Option<&'static str>,
    /// Norm before the unembedding.
    pub final_norm: Option<&'static str>,
    /// The unembedding, without the base model's prefix. If it is tied, the file may contain a copy.
    pub unembed: &'static str,
    /// The scoring head, without the base model's prefix: the first of these that the file has.
    pub score: &'static [&'static str],
    /// Prefix of a layer, with `{}` for its number: `layers.{}.`
    pub layer: &'static str,
    /// Names within a layer; one entry for all layers, or one per layer.
    pub layers: Vec<LayerNames>,
    /// Endings of names, in whole dotted parts, that are buffers, not weights (`rotary_emb.inv_freq`).
    pub ignored: &'static [&'static str],
    /// Alternatives to `prefix` and `unembed`: the first spelling that fits is used.
    pub spellings: &'static [Spelling],
    /// Name prefixes of tensors that belong to other parts of the model, which are left out.
    pub left_out: &'static [&'static str],
    /// Layers behind the decoder's that predict further tokens, whose tensors are left out too.
    pub further_layers: Range<usize>,
    /// The sources of the layers' additional inputs.
    pub per_layer: Option<PerLayerTables>,
}

/// Names of the modules that produce each layer's additional input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerLayerTables {
    /// The table of ids.
    pub table: &'static str,
    /// From the first stream to the inputs of all layers.
    pub project: &'static str,
    /// Norm of each of these.
    pub norm: &'static str,
}

/// Names of the modules with which a layer uses its additional input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerLayerNames {
    /// From the stream to the gate.
    pub gate: &'static str,
    /// To the stream.
    pub project: &'static str,
    /// Norm of the result before it is added.
    pub norm: &'static str,
}

/// Where a file keeps a decoder that is one part of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spelling {
    /// Prefix of the base model.
    pub prefix: &'static str,
    /// The unembedding.
    pub unembed: &'static str,
}

impl Names {
    /// Order of the axes of a module's stored weight.
    pub(crate) fn axes_of(&self, module: &str) -> Axes {
        let is_it =
            |linear: &Linear| module.strip_suffix(linear.name).is_some_and(|rest| rest.ends_with('.'));
        let found = self.layers.iter().flat_map(LayerNames::projections).find(is_it);
        found.map_or(Axes::OutIn, |linear| linear.axes)
    }

    /// Names of layer `l`.
    pub fn of_layer(&self, l: usize) -> &LayerNames {
        if self.layers.len() == 1 { &self.layers[0] } else { &self.layers[l] }
    }
}

/// Names within one layer. A norm's name is its module; `.weight` and `.bias` follow.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNames {
    /// Norm before attention (or on the stream after it).
    pub attention_norm: Option<&'static str>,
    /// Norm on attention's output.
    pub attention_post_norm: Option<&'static str>,
    /// Norm before the MLP (or on the stream after it).
    pub mlp_norm: Option<&'static str>,
    /// Norm on the MLP's output.
    pub mlp_post_norm: Option<&'static str>,
    /// Query, key and value projections.
    pub qkv: QkvNames,
    /// Norm of the queries.
    pub q_norm: Option<HeadNorm>,
    /// Norm of the keys.
    pub k_norm: Option<HeadNorm>,
    /// Output projection of attention.
    pub out: Linear,
    /// The extra logit of each head.
    pub sinks: Option<&'static str>,
    /// The recurrence, if the layer has one. Names of missing parts are not used.
    pub recurrence: Option<RecurrenceNames>,
    /// The MLP.
    pub mlp: MlpNames,
    /// The additional input, if the layer has one.
    pub per_layer: Option<PerLayerNames>,
    /// The factor on the outgoing stream.
    pub leaving_scale: Option<&'static str>,
}

impl LayerNames {
    /// Every projection except those of experts.
    fn projections(&self) -> Vec<Linear> {
        let mut all = match self.qkv {
            QkvNames::Split { q, k, v } | QkvNames::SplitGated { q, k, v } => vec![q, k, v],
            QkvNames::Stacked(one) | QkvNames::ByHead(one) | QkvNames::ByGroup(one) => vec![one],
            QkvNames::InBlocks { linear, .. } => vec![linear],
            QkvNames::KeysAreValues { q, k } => vec![q, k],
            QkvNames::Queries { q, .. } => vec![q],
            QkvNames::Latent(LatentNames { compress_queries, queries, compress_kv, keys_values, .. }) => {
                let compress_queries = compress_queries.map(|(linear, _)| linear);
                compress_queries.into_iter().chain([queries, compress_kv, keys_values]).collect()
            }
        };
        all.push(self.out);
        all.extend(self.recurrence.iter().flat_map(RecurrenceNames::projections));
        match self.mlp {
            MlpNames::Plain { up, down } | MlpNames::Xielu { up, down, .. } => all.extend([up, down]),
            MlpNames::Gated { gate, up, down } => all.extend([gate, up, down]),
            MlpNames::GatedStacked { gate_up, down } => all.extend([gate_up, down]),
            // Their names contain the expert's number, and all are stored alike.
            MlpNames::Experts { .. } => {}
        }
        all
    }
}

/// The location of a query or key norm's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNorm {
    /// One tensor: `NAME.weight`.
    One(&'static str),
    /// One tensor per head: `NAME.{head}.weight`, where `{}` in the name is the head.
    EachHead(&'static str),
}

/// A stored projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    /// Module name: `.weight` and `.bias` follow.
    pub name: &'static str,
    /// Whether a bias is stored.
    pub bias: Bias,
    /// Order of the weight's axes.
    pub axes: Axes,
}

impl Linear {
    /// A projection stored `[outputs, inputs]`.
    pub fn new(name: &'static str, bias: Bias) -> Self {
        Linear { name, bias, axes: Axes::OutIn }
    }
}

/// Order of a stored weight's axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// `[outputs, inputs]`
    OutIn,
    /// `[inputs, outputs]` (GPT-2's Conv1D)
    InOut,
}

/// How queries, keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvNames {
    /// Three projections.
    Split {
        /// Queries.
        q: Linear,
        /// Keys.
        k: Linear,
        /// Values.
        v: Linear,
    },
    /// Three projections; the first gives each head's query and gate.
    SplitGated {
        /// Queries and gates.
        q: Linear,
        /// Keys.
        k: Linear,
        /// Values.
        v: Linear,
    },
    /// One projection: all queries, then all keys, then all values.
    Stacked(Linear),
    /// One projection: each head's query, key and value (`[H, 3, h]`).
    ByHead(Linear),
    /// One projection: for each key, its queries, the key itself and its value (`[K, H / K + 2, h]`).
    ByGroup(Linear),
    /// One projection: for each block of heads its queries, values, keys (`[blocks, 3, H / blocks, h]`).
    InBlocks {
        /// The projection.
        linear: Linear,
        /// Number of blocks.
        blocks: usize,
    },
    /// From compressed vectors.
    Latent(LatentNames),
    /// Two projections: keys double as values.
    KeysAreValues {
        /// Queries.
        q: Linear,
        /// Keys.
        k: Linear,
    },
    /// Only queries: an earlier layer has keys and values.
    Queries {
        /// Queries.
        q: Linear,
        /// Unused modules that a file may still contain.
        unread: &'static [&'static str],
    },
}

/// How queries, keys and values made from compressed vectors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentNames {
    /// To compressed queries, and their norm, if queries are compressed.
    pub compress_queries: Option<(Linear, &'static str)>,
    /// To the queries.
    pub queries: Linear,
    /// To compressed keys and values, then the shared part of keys.
    pub compress_kv: Linear,
    /// Norm of compressed keys and values.
    pub kv_norm: &'static str,
    /// From these, for each head its own part of the key, then its value.
    pub keys_values: Linear,
}

/// How an MLP is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpNames {
    /// Two projections.
    Plain {
        /// To the neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
    },
    /// Two projections, and the parameters of the activation.
    Xielu {
        /// To the neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
        /// The module that holds `alpha_p`, `alpha_n`, `beta` and `eps`.
        act: &'static str,
    },
    /// Three projections.
    Gated {
        /// To the gate.
        gate: Linear,
        /// To the neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
    },
    /// Gate and up in one projection: all gates, then all neurons.
    GatedStacked {
        /// Gate and up.
        gate_up: Linear,
        /// Back to the stream.
        down: Linear,
    },
    /// A router and gated experts.
    Experts {
        /// The router, `[experts, d_model]`.
        router: Linear,
        /// The correction used to choose experts.
        correction: Option<Correction>,
        /// Router and experts that read the stream directly: see [`Router::apart`](crate::arch::Router).
        apart: Option<&'static ApartNames>,
        /// The experts.
        experts: ExpertNames,
        /// The projections to the width of experts that read another than the stream's, and back.
        latent: Option<[Linear; 2]>,
        /// The shared expert.
        shared: Option<SharedNames>,
    },
}

/// Tensors of a router and experts that read the stream directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApartNames {
    /// Factors on the router's input, after a norm without weight.
    pub router_scale: &'static str,
    /// Factors on the experts' weights.
    pub factors: &'static str,
    /// Norm of the experts' input.
    pub experts: &'static str,
    /// Norm of their sum.
    pub experts_post: &'static str,
    /// Norm of the shared expert's output.
    pub shared_post: &'static str,
}

/// The tensor of a router's correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Correction {
    /// `[experts]`
    Vector(&'static str),
    /// `[1, experts]`
    Row(&'static str),
}

/// How experts are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertNames {
    /// One by one; `{}` in the names is the expert's number.
    Each {
        /// To an expert's gate.
        gate: Linear,
        /// To its neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
    },
    /// One by one without gates; `{}` in the names is the expert's number.
    Ungated {
        /// To its neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
    },
    /// All in one tensor, `[experts, outputs, inputs]`; gates precede neurons.
    Stacked {
        /// Gate and neurons.
        gate_up: &'static str,
        /// Back to the stream.
        down: &'static str,
    },
    /// All in one tensor, `[experts, inputs, outputs]`; gates precede neurons.
    StackedInOut {
        /// Gate and neurons.
        gate_up: &'static str,
        /// Back to the stream.
        down: &'static str,
    },
    /// All in one tensor with biases, gates and neurons alternating: `[experts, inputs, outputs]`, or in blocks of
    /// MXFP4 (`_blocks` and `_scales`) `[experts, outputs, inputs]`. Names are complete except for those endings and
    /// `_bias`.
    Alternating {
        /// Gate and neurons.
        gate_up: &'static str,
        /// Back to the stream.
        down: &'static str,
    },
}

/// How a shared expert is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SharedNames {
    /// Three projections, and optionally one for its weight.
    Split {
        /// To its gate.
        gate: Linear,
        /// To its neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
        /// The weight's projection.
        weigh: Option<&'static str>,
    },
    /// Gate and neurons in one.
    Stacked {
        /// Gate and neurons.
        gate_up: Linear,
        /// Back to the stream.
        down: Linear,
    },
    /// Two projections, without a gate.
    Ungated {
        /// To its neurons.
        up: Linear,
        /// Back to the stream.
        down: Linear,
    },
}
