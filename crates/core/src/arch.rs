//! What a decoder computes, as plain data. No names of files, tensors or families: for those see `families/`.
//!
//! Invariant: no `bool` in [`Arch`]; a choice is an enum or an `Option` that carries its own parameters.

mod attention;
mod experts;
mod heads;
mod layer;
mod recurrence;
mod rope;

pub use attention::*;
pub use easyroutine_kernels::{Activation, Pairing};
pub use experts::*;
pub use heads::*;
pub use layer::*;
pub use recurrence::*;
pub use rope::*;

/// A whole decoder: embedding, blocks, final norm, unembedding.
#[derive(Debug, Clone, PartialEq)]
pub struct Arch {
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads of every layer with attention; 0 if there is none.
    pub n_heads: usize,
    /// Key/value heads of a layer with attention, unless it has its own number; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head of such a layer.
    pub d_head: usize,
    /// Rows of the unembedding: the ids that can be predicted.
    pub vocabulary: usize,
    /// Longest row that the model was built for.
    pub context: usize,
    /// How ids become the first residual stream.
    pub embed: Embed,
    /// An additional input of each layer, made from ids and the first stream (Gemma 3n and 4).
    pub per_layer: Option<PerLayerInputs>,
    /// The distinct rotary tables; layers refer to them by index.
    pub ropes: Vec<Rope>,
    /// One entry per block.
    pub layers: Vec<Layer>,
    /// Norm before the unembedding; `None` if the architecture has none.
    pub final_norm: Option<Norm>,
    /// How the last residual stream becomes logits, if the head is an unembedding.
    pub unembed: Unembed,
    /// The reader of the last residual stream.
    pub head: Head,
}

/// The reader of the last residual stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The unembedding: one logit per id.
    Unembedding,
    /// A few numbers: a reward, or classes.
    Score(Score),
    /// None: a bare decoder.
    Nothing {
        /// The class name in transformers.
        class: String,
    },
}

/// A head that outputs a few numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// The class name in transformers.
    pub class: String,
    /// How many numbers it outputs.
    pub labels: usize,
    /// Whether a bias is added.
    pub bias: Bias,
    /// The tokens that it reads.
    pub pooling: Pooling,
}

/// The tokens that a score reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Each token separately.
    EachToken,
    /// The last token of a row that is not padding; the first if all are (transformers, `modeling_layers.py`,
    /// `GenericForSequenceClassification`).
    LastToken {
        /// The id that counts as padding anywhere; without one, the row's last token is read.
        padding: Option<u32>,
    },
}

impl Arch {
    /// What this model is instead, if it has no unembedding.
    pub fn lacks_unembedding(&self) -> Option<String> {
        match &self.head {
            Head::Unembedding => None,
            Head::Score(Score { class, .. }) | Head::Nothing { class } => {
                Some(format!("this is a {class}: it has no unembedding"))
            }
        }
    }

    /// The score of its head, if it has one.
    pub fn score(&self) -> Option<&Score> {
        match &self.head {
            Head::Score(score) => Some(score),
            _ => None,
        }
    }
}

/// From token ids to the first residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// Width of the table; differs from `d_model` if a projection follows.
    pub width: usize,
    /// Factor on the row (rounded to the compute dtype, as in transformers).
    pub scale: Option<f32>,
    /// Norm on the embedding (BLOOM).
    pub norm: Option<Norm>,
    /// Learned absolute positions added to the embedding.
    pub positions: Option<LearnedPositions>,
    /// Placeholder ids for images or videos, which this decoder cannot see.
    pub placeholders: Vec<u32>,
}

/// A table of learned positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Row of the table for position 0 (OPT: 2).
    pub offset: usize,
    /// Rows of the table, including the offset.
    pub rows: usize,
}

/// An additional input of each layer: a row of a table plus a projection of the first stream, scaled. A layer gates it
/// by its stream, projects it, norms it and adds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerLayerInputs {
    /// Width of one layer's input.
    pub width: usize,
    /// Rows of the table.
    pub rows: usize,
    /// Activation of the gate.
    pub act: Activation,
    /// Norm of the projected stream, and of the result before it is added.
    pub norm: Norm,
}

/// How the parts of a block are connected.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wiring {
    /// Attention, then the MLP on the stream after attention.
    Sequential {
        /// Norms around attention.
        attention: Norms,
        /// Norms around the MLP.
        mlp: Norms,
    },
    /// Attention and MLP both read the stream that enters the block.
    Parallel {
        /// Norm before attention.
        attention: Norm,
        /// Norm before the MLP; `None`: it shares attention's.
        mlp: Option<Norm>,
    },
    /// The norm is applied to the stream itself.
    NormOnStream {
        /// Norm beside attention.
        attention: Norm,
        /// Norm beside the MLP.
        mlp: Norm,
        /// On which side of its part each stands.
        side: StreamNorm,
    },
}

/// The side of a part on which the stream itself is normed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamNorm {
    /// Before the part reads it (BLOOM with `apply_residual_connection_post_layernorm`).
    Before,
    /// After the part is added (OPT-350m).
    After,
}

/// Norms around a part of a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norms {
    /// On the part's input.
    pub pre: Option<Norm>,
    /// On the part's output.
    pub post: Option<Norm>,
}

/// One norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// The formula.
    pub kind: NormKind,
    /// Added to the variance or mean square.
    pub eps: f32,
}

/// Formula and parameters of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm with weight and bias.
    Layer,
    /// LayerNorm with only a weight.
    LayerNoBias,
    /// LayerNorm without parameters.
    LayerNoParams,
    /// RMSNorm with a weight.
    Rms,
    /// RMSNorm that multiplies by `1 + weight`.
    RmsOffset,
    /// RMSNorm without parameters.
    RmsNoParams,
    /// LayerNorm that multiplies by `1 + weight`, with bias.
    LayerOffset,
}

impl NormKind {
    /// Whether the mean is removed.
    pub fn is_layer_norm(self) -> bool {
        matches!(
            self,
            NormKind::Layer | NormKind::LayerNoBias | NormKind::LayerNoParams | NormKind::LayerOffset
        )
    }

    /// Whether it has a weight.
    pub fn has_weight(self) -> bool {
        !matches!(self, NormKind::LayerNoParams | NormKind::RmsNoParams)
    }

    /// Whether it has a bias.
    pub fn has_bias(self) -> bool {
        matches!(self, NormKind::Layer | NormKind::LayerOffset)
    }

    /// Whether 1 is added to its weight.
    pub fn adds_one(self) -> bool {
        matches!(self, NormKind::RmsOffset | NormKind::LayerOffset)
    }
}

/// The MLP of one block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mlp {
    /// `down(act(up(x)))`
    Plain {
        /// Neurons.
        d_mlp: usize,
        /// Activation.
        act: Activation,
    },
    /// `down(xielu(up(x)))`; the activation has learned parameters.
    Xielu {
        /// Neurons.
        d_mlp: usize,
    },
    /// `down(act(gate(x)) * up(x))`
    Gated {
        /// Neurons.
        d_mlp: usize,
        /// Activation of the gate.
        act: Activation,
    },
    /// Gated experts, chosen by a router.
    Experts {
        /// Number of experts.
        count: usize,
        /// Experts per token.
        top_k: usize,
        /// Neurons per expert.
        d_mlp: usize,
        /// Width of what experts read and give, if a projection leads to it and another back to the stream
        /// (Nemotron 3 Super). The router and the shared expert read the stream's width.
        latent: Option<usize>,
        /// How gate and neurons combine.
        gate: ExpertGate,
        /// How experts are chosen and weighed.
        router: Router,
        /// A shared expert that every token also goes through.
        shared: Option<SharedExpert>,
    },
}

impl Mlp {
    /// Number of experts that a router chooses from, if there are any.
    pub fn experts(self) -> Option<usize> {
        match self {
            Mlp::Experts { count, .. } => Some(count),
            Mlp::Plain { .. } | Mlp::Xielu { .. } | Mlp::Gated { .. } => None,
        }
    }

    /// Whether it has shared experts besides those that a router chooses.
    pub fn has_shared(self) -> bool {
        matches!(self, Mlp::Experts { shared: Some(_), .. })
    }

    /// Neurons; with experts, those of a single one.
    pub fn d_mlp(self) -> usize {
        match self {
            Mlp::Plain { d_mlp, .. }
            | Mlp::Xielu { d_mlp }
            | Mlp::Gated { d_mlp, .. }
            | Mlp::Experts { d_mlp, .. } => d_mlp,
        }
    }
}

/// From the last residual stream to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Unembed {
    /// The source of the matrix.
    pub matrix: UnembedMatrix,
    /// Whether a bias is added.
    pub bias: Bias,
    /// Ids that are never predicted: their logits are the lowest f32.
    pub never: Vec<u32>,
    /// Divisor of logits (Granite).
    pub divisor: Option<f32>,
    /// `c * tanh(logit / c)`
    pub softcap: Option<f32>,
}

/// The source of the unembedding matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnembedMatrix {
    /// The token embedding.
    Tied,
    /// A separate matrix.
    Own,
}

/// Whether a projection has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bias {
    /// It has one, and the file must hold it.
    Stored,
    /// It has none.
    Absent,
}

impl Bias {
    /// [`Bias::Stored`] if a config flag says so.
    pub fn when(flag: bool) -> Self {
        if flag { Bias::Stored } else { Bias::Absent }
    }
}
