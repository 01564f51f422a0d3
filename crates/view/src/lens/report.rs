//! The report: plain data, and the JSON schema `easyroutine.lens/1`.

use std::collections::HashMap;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind};

/// Name of the JSON schema that [`LensReport`] is written in.
pub const SCHEMA: &str = "easyroutine.lens/1";

/// What each layer would predict at each token.
///
/// Logarithms are natural, entropy and KL in nats, ranks count from 1. JSON has no NaN or infinity:
/// a number that is not finite is written `null` and read as NaN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LensReport {
    /// Always [`SCHEMA`].
    pub schema: Schema,
    /// The model that was run.
    pub model: ModelCard,
    /// How the lens was taken.
    pub settings: LensSettings,
    /// Every token of the prompt, shown or not.
    pub tokens: Vec<Token>,
    /// Layers in forward order. Every layer has the same positions in the same order.
    pub layers: Vec<LayerRow>,
    /// The model's own predictions, if `layers` does not include the final layer (a choice of layers, or a component
    /// other than `resid_out`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub final_top: Vec<FinalTop>,
}

/// The name of the schema; reading any other name is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Schema;

/// A description of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Hub id, or the stem of the file or folder.
    pub name: String,
    /// The resolved commit of a model from the hub.
    #[serde(default)]
    pub commit: Option<String>,
    /// `model_type` of its config.
    pub model_type: String,
    /// Number of blocks.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Rows of the unembedding.
    pub vocab_size: usize,
    /// The dtype of its computation: `f32`, `bf16`.
    pub dtype: String,
}

/// How the lens was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LensSettings {
    /// The component read: `resid_out`, `attn_out`, `mlp_out`, `head_out`, …
    pub component: String,
    /// The norm before the unembedding.
    pub norm: Norm,
    /// Number of candidates kept in `top`.
    pub k: usize,
    /// Whether a beginning-of-sequence token is among the tokens.
    pub bos: bool,
    /// The requested positions; `None` means all.
    #[serde(default)]
    pub positions: Option<Vec<usize>>,
    /// The requested layers, with -1 for the embedding; `None` means all.
    #[serde(default)]
    pub layers: Option<Vec<i64>>,
    /// A token whose probability is tracked in every cell.
    #[serde(default)]
    pub tracked: Option<TrackedToken>,
    /// Longest prompt that the model accepts.
    #[serde(default)]
    pub max_context: Option<usize>,
    /// Changes made while the model ran, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<String>,
    /// The tuned lens through which layers were read; `None` for a logit lens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<TunedLens>,
    /// The Jacobian lens that carried layers to the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jacobian: Option<JacobianLens>,
}

/// The identity of a Jacobian lens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JacobianLens {
    /// The name of its file.
    pub name: String,
    /// Number of prompts in the mean.
    pub n_prompts: usize,
}

/// The identity of a tuned lens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunedLens {
    /// The name of its folder.
    pub name: String,
    /// The model that it claims to be trained on.
    #[serde(default)]
    pub base_model: Option<String>,
    /// The revision of that model.
    #[serde(default)]
    pub base_revision: Option<String>,
}

/// The norm between a vector and the unembedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// The final norm with each vector's own statistics: the classic lens.
    Own,
    /// The final norm with the statistics of the final layer, which makes it linear.
    Cached,
    /// Nothing.
    None,
}

/// A token whose probability is tracked in every cell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackedToken {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// A token of the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Index in the prompt, from 0.
    pub position: usize,
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

/// One row of the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRow {
    /// Layer from 0, -1 the embedding.
    pub layer: i64,
    /// Name of the activation: `resid_out_5`, `head_out_L5H3`, `input_embeddings`.
    pub name: String,
    /// One cell per position.
    pub positions: Vec<LayerPosition>,
}

/// One cell: what this layer would predict after this token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerPosition {
    /// Index of the token in the prompt.
    pub position: usize,
    /// The most probable tokens, best first.
    pub top: Vec<Candidate>,
    /// Entropy of the distribution, nats.
    #[serde(deserialize_with = "number")]
    pub entropy: f64,
    /// KL(final ‖ this layer), nats.
    #[serde(deserialize_with = "number")]
    pub kl_to_final: f64,
    /// Rank of the token that actually comes next; absent at the last position.
    #[serde(default)]
    pub rank_of_next: Option<u64>,
    /// This layer's log-probability of the final layer's top token.
    #[serde(deserialize_with = "number")]
    pub logprob_of_final_top: f64,
    /// Log-probability of the tracked token, if there is one.
    #[serde(default)]
    pub tracked: Option<f64>,
}

/// A candidate for the next token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Token id.
    pub id: u32,
    /// Its text.
    pub text: String,
    /// Its natural log-probability.
    #[serde(deserialize_with = "number")]
    pub logprob: f64,
}

/// The model's own prediction at a position.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalTop {
    /// Index of the token in the prompt.
    pub position: usize,
    /// Id of the most probable next token.
    pub id: u32,
    /// Its text.
    pub text: String,
}

impl LensReport {
    /// Parses a report from JSON.
    ///
    /// # Errors
    /// If the text is not JSON of schema [`SCHEMA`], or its layers differ in positions.
    pub fn from_json(json: &str) -> Result<Self, Error> {
        let report: Self = serde_json::from_str(json)
            .map_err(|e| Error::new(ErrorKind::Report, format!("not a report of schema {SCHEMA}: {e}")))?;
        report.check()?;
        Ok(report)
    }

    /// Checks that the table is a rectangle, which also bounds its size by that of the text.
    fn check(&self) -> Result<(), Error> {
        let Some(first) = self.layers.first() else { return Ok(()) };
        let positions = |row: &LayerRow| row.positions.iter().map(|p| p.position).collect::<Vec<_>>();
        let expected = positions(first);
        let mut seen = HashMap::new();
        for row in &self.layers {
            if positions(row) != expected {
                return Err(Error::new(
                    ErrorKind::Report,
                    format!(
                        "report: layer {} ({:?}) has other positions than layer {}",
                        row.layer, row.name, first.layer
                    ),
                ));
            }
            if seen.insert(row.name.as_str(), row.layer).is_some() {
                return Err(Error::new(
                    ErrorKind::Report,
                    format!("report: two layers are named {:?}", row.name),
                ));
            }
        }
        Ok(())
    }
}

impl Serialize for Schema {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(SCHEMA)
    }
}

impl<'de> Deserialize<'de> for Schema {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name == SCHEMA {
            Ok(Self)
        } else {
            Err(D::Error::custom(format!("schema is {name:?}, not {SCHEMA:?}")))
        }
    }
}

/// A number that may be `null`, which is how JSON writes NaN.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}
