//! What a decoder computes, as plain data. No names of files, tensors or families: see `families/`.
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
    /// Query heads of every layer with attention; 0 where none has.
    pub n_heads: usize,
    /// Key/value heads of a layer with attention that has not its own; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head of such a layer.
    pub d_head: usize,
    /// Rows of the unembedding: the ids that can be predicted.
    pub vocabulary: usize,
    /// Longest row that the model was built for.
    pub context: usize,
    /// How ids become the first residual stream.
    pub embed: Embed,
    /// A further input of each layer, made of ids and the first stream (Gemma 3n and 4).
    pub per_layer: Option<PerLayerInputs>,
    /// The distinct rotary tables; layers refer to them by index.
    pub ropes: Vec<Rope>,
    /// One entry a block.
    pub layers: Vec<Layer>,
    /// Norm before the unembedding; `None` where the architecture has none.
    pub final_norm: Option<Norm>,
    /// How the last residual stream becomes logits, where the head is an unembedding.
    pub unembed: Unembed,
    /// What reads the last residual stream.
    pub head: Head,
}

/// What reads the last residual stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The unembedding: a logit for each id.
    Unembedding,
    /// A few numbers: a reward, classes.
    Score(Score),
    /// Nothing: the decoder stands alone.
    Nothing {
        /// What transformers calls this class of models.
        class: String,
    },
}

/// A head that gives a few numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Score {
    /// What transformers calls this class of models.
    pub class: String,
    /// How many numbers.
    pub labels: usize,
    /// Whether a bias is added.
    pub bias: Bias,
    /// Which tokens it reads.
    pub pooling: Pooling,
}

/// Which tokens a score is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Each for itself.
    EachToken,
    /// The last of a row that is not padding; the first where all are (transformers, `modeling_layers.py`,
    /// `GenericForSequenceClassification`).
    LastToken {
        /// The id that is padding wherever it stands; without one it is the last token.
        padding: Option<u32>,
    },
}

impl Arch {
    /// What this model is instead, where it has no unembedding.
    pub fn lacks_unembedding(&self) -> Option<String> {
        match &self.head {
            Head::Unembedding => None,
            Head::Score(Score { class, .. }) | Head::Nothing { class } => {
                Some(format!("this is a {class}: it has no unembedding"))
            }
        }
    }

    /// The score that its head gives, if it has one.
    pub fn score(&self) -> Option<&Score> {
        match &self.head {
            Head::Score(score) => Some(score),
            _ => None,
        }
    }
}

/// Token ids to the first residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Embed {
    /// Width of the table; differs from `d_model` where a projection follows.
    pub width: usize,
    /// Factor on the looked-up row (rounded to the compute dtype, as transformers does).
    pub scale: Option<f32>,
    /// Norm on the embedding (BLOOM).
    pub norm: Option<Norm>,
    /// Learned absolute positions added to the embedding.
    pub positions: Option<LearnedPositions>,
    /// Ids that hold the place of an image or a video, which this decoder cannot see.
    pub placeholders: Vec<u32>,
}

/// A table of learned positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedPositions {
    /// Row of the table that position 0 takes (OPT: 2).
    pub offset: usize,
    /// Rows of the table, the offset included.
    pub rows: usize,
}

/// A further input of each layer: a row of a table and a projection of the first stream, added and scaled. A layer gates it
/// by its stream, projects it, norms it and adds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PerLayerInputs {
    /// Width of one layer's input.
    pub width: usize,
    /// Rows of the table.
    pub rows: usize,
    /// Non-linearity of the gate.
    pub act: Activation,
    /// Norm of the projected stream, and of what is added.
    pub norm: Norm,
}

/// What reads what inside a block.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wiring {
    /// Attention, then the MLP on the stream between.
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
        /// Norm before the MLP; `None`: it reads attention's.
        mlp: Option<Norm>,
    },
    /// The norm stands on the stream itself, after each addition (OPT-350m).
    NormOnStream {
        /// Norm after attention was added.
        attention: Norm,
        /// Norm after the MLP was added.
        mlp: Norm,
    },
}

/// Norms before a part reads and after it wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norms {
    /// On what the part reads.
    pub pre: Option<Norm>,
    /// On what the part adds.
    pub post: Option<Norm>,
}

/// One norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// The formula.
    pub kind: NormKind,
    /// Added to the variance or the mean square.
    pub eps: f32,
}

/// Formula and parameters of a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// LayerNorm with weight and bias.
    Layer,
    /// LayerNorm with weight alone.
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
        /// Non-linearity.
        act: Activation,
    },
    /// `down(xielu(up(x)))`, with learned parameters of the non-linearity.
    Xielu {
        /// Neurons.
        d_mlp: usize,
    },
    /// `down(act(gate(x)) * up(x))`
    Gated {
        /// Neurons.
        d_mlp: usize,
        /// Non-linearity of the gate.
        act: Activation,
    },
    /// Gated experts, chosen by a router.
    Experts {
        /// Number of experts.
        count: usize,
        /// Experts a token goes through.
        top_k: usize,
        /// Neurons of one expert.
        d_mlp: usize,
        /// What becomes of gate and neurons.
        gate: ExpertGate,
        /// How experts are chosen and weighed.
        router: Router,
        /// An expert that every token goes through beside those.
        shared: Option<SharedExpert>,
    },
}

impl Mlp {
    /// How many experts a router chooses from, where it has some.
    pub fn experts(self) -> Option<usize> {
        match self {
            Mlp::Experts { count, .. } => Some(count),
            Mlp::Plain { .. } | Mlp::Xielu { .. } | Mlp::Gated { .. } => None,
        }
    }

    /// Whether it has experts that every token goes through, beside those that a router chooses.
    pub fn has_shared(self) -> bool {
        matches!(self, Mlp::Experts { shared: Some(_), .. })
    }

    /// Neurons; of experts those of one.
    pub fn d_mlp(self) -> usize {
        match self {
            Mlp::Plain { d_mlp, .. }
            | Mlp::Xielu { d_mlp }
            | Mlp::Gated { d_mlp, .. }
            | Mlp::Experts { d_mlp, .. } => d_mlp,
        }
    }
}

/// The last residual stream to logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Unembed {
    /// Whose matrix it is.
    pub matrix: UnembedMatrix,
    /// Whether a bias is added.
    pub bias: Bias,
    /// Ids that are never predicted: their logits are the lowest number of f32.
    pub never: Vec<u32>,
    /// Logits are divided by this (Granite).
    pub divisor: Option<f32>,
    /// `c * tanh(logit / c)`
    pub softcap: Option<f32>,
}

/// Where the unembedding matrix comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnembedMatrix {
    /// The token embedding.
    Tied,
    /// A matrix of its own.
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
    /// [`Bias::Stored`] where a config flag says so.
    pub fn when(flag: bool) -> Self {
        if flag { Bias::Stored } else { Bias::Absent }
    }
}
