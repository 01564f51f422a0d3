//! The data of a picture of attention.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind};
use crate::lens::{ModelCard, Token};
use crate::text::printable;

/// The schema's name.
pub const SCHEMA: &str = "easyroutine.attn/1";

/// Attention patterns of one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttentionReport {
    /// [`SCHEMA`].
    pub schema: Schema,
    /// The model.
    pub model: ModelCard,
    /// Whether a beginning-of-sequence token is among the tokens.
    pub bos: bool,
    /// Changes made while the model ran, as written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interventions: Vec<String>,
    /// Every token of the prompt.
    pub tokens: Vec<Token>,
    /// The heads, in ascending order of layer and head.
    pub heads: Vec<HeadPattern>,
}

/// The name of the schema; reading any other name is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Schema;

/// The pattern of one head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadPattern {
    /// Layer, from 0.
    pub layer: usize,
    /// Query head, from 0.
    pub head: usize,
    /// For each token, its weights on the tokens up to itself: rows of 1, 2, 3, … numbers.
    pub weights: Vec<Vec<f32>>,
}

/// Whether the first token, which gets most weight, is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sink {
    /// Like any other; colours go up to 1.
    #[default]
    Shown,
    /// Left blank; colours go up to the largest weight of the others.
    Hidden,
}

/// Where a head looks: means over all tokens except the first, which has no choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Weight on the first token.
    pub first: f64,
    /// Weight on the token itself.
    pub own: f64,
    /// Weight on the token before.
    pub previous: f64,
    /// Entropy of the weights, nats.
    pub entropy: f64,
}

impl AttentionReport {
    /// Reads a report.
    ///
    /// # Errors
    /// If the text is not a report of [`SCHEMA`], or patterns do not match the tokens.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let wrong = |what: String| Error::new(ErrorKind::Report, what);
        let report: AttentionReport = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
        if report.tokens.is_empty() || report.heads.is_empty() {
            return Err(wrong("a report has at least one token and one head".to_owned()));
        }
        let n = report.tokens.len();
        let fits = |head: &HeadPattern| {
            head.weights.len() == n && head.weights.iter().enumerate().all(|(i, row)| row.len() == i + 1)
        };
        match report.heads.iter().find(|head| !fits(head)) {
            Some(HeadPattern { layer, head, .. }) => {
                Err(wrong(format!("the pattern of layer {layer}, head {head} does not fit {n} tokens")))
            }
            None => Ok(report),
        }
    }

    /// The weight at the end of the colour scale.
    pub(crate) fn top(&self, sink: Sink) -> f64 {
        let from = match sink {
            Sink::Shown => return 1.0,
            Sink::Hidden => 1,
        };
        let weights = self.heads.iter().flat_map(|head| &head.weights).flat_map(|row| row.iter().skip(from));
        let top = weights.fold(0f32, |top, weight| top.max(*weight));
        if top > 0.0 { f64::from(top) } else { 1.0 }
    }

    /// The description in every picture: the model, what is drawn, and how.
    pub(crate) fn lines(&self, sink: Sink) -> Vec<String> {
        let bos = if self.bos { "the first token is BOS" } else { "no BOS" };
        let colour = match sink {
            Sink::Shown => "colour = attention weight, 0 to 1".to_owned(),
            Sink::Hidden => {
                let top = self.top(sink);
                format!("colour = attention weight, 0 to {top:.3}, the first token hidden")
            }
        };
        let mut lines = vec![
            crate::lens::model_line(&self.model),
            "a row is the token that looks (query), a column the token looked at (key); after softmax"
                .to_owned(),
            format!("{} tokens, {bos} · {colour}", self.tokens.len()),
        ];
        lines.extend(crate::lens::changes_line(&self.interventions));
        lines
    }

    /// A token's text for display.
    pub(crate) fn token(&self, position: usize) -> String {
        printable(&self.tokens[position].text)
    }

    /// The layers, last first, and the heads, ascending.
    pub(crate) fn sides(&self) -> (Vec<usize>, Vec<usize>) {
        let mut layers: Vec<usize> = self.heads.iter().map(|head| head.layer).collect();
        let mut heads: Vec<usize> = self.heads.iter().map(|head| head.head).collect();
        layers.sort_unstable_by(|a, b| b.cmp(a));
        heads.sort_unstable();
        layers.dedup();
        heads.dedup();
        (layers, heads)
    }
}

impl HeadPattern {
    /// `L5H3`
    pub(crate) fn name(&self) -> String {
        format!("L{}H{}", self.layer, self.head)
    }

    /// Where the head looks; NaN for a prompt of one token.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let rows = || self.weights.iter().skip(1);
        let mean =
            |of: &dyn Fn(&[f32]) -> f64| rows().map(|row| of(row)).sum::<f64>() / rows().count() as f64;
        let entropy = |row: &[f32]| -> f64 {
            let terms = row.iter().map(|w| f64::from(*w)).filter(|w| *w > 0.0).map(|w| w * w.ln());
            -terms.sum::<f64>() + 0.0
        };
        Summary {
            first: mean(&|row| f64::from(row[0])),
            own: mean(&|row| f64::from(row[row.len() - 1])),
            previous: mean(&|row| f64::from(row[row.len() - 2])),
            entropy: mean(&entropy),
        }
    }

    /// The pattern as a square of at most `side` cells per side: the largest weight in each, `None` above the diagonal
    /// and where the first token is hidden.
    pub(crate) fn pooled(&self, side: usize, sink: Sink) -> Vec<Vec<Option<f32>>> {
        let n = self.weights.len();
        let side = side.clamp(1, n);
        let cell = |at: usize| at * side / n;
        let mut square = vec![vec![None; side]; side];
        for (query, row) in self.weights.iter().enumerate() {
            for (key, weight) in row.iter().enumerate().skip(usize::from(sink == Sink::Hidden)) {
                let cell: &mut Option<f32> = &mut square[cell(query)][cell(key)];
                *cell = Some(cell.map_or(*weight, |largest| largest.max(*weight)));
            }
        }
        square
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
            return Ok(Schema);
        }
        Err(serde::de::Error::custom(format!("schema {name:?} is not {SCHEMA:?}")))
    }
}
