//! One feature as JSON, `easyroutine.feature/1`.

use std::borrow::Cow;
use std::sync::OnceLock;

use easyroutine::tokens::Tokenizer;
use easyroutine_dictionaries::{Occurrence, Statistics};
use serde::Serialize;

use crate::session::token_text;

/// Quantiles reported for each feature.
const SHARES: [f64; 5] = [0.1, 0.25, 0.5, 0.75, 0.95];

/// Ids from the largest logit down, and from the smallest up.
pub(super) type Logits = (Vec<(u32, f32)>, Vec<(u32, f32)>);

/// What the lines of all features need.
pub(super) struct Lines<'a> {
    statistics: &'a Statistics,
    tokenizer: &'a Tokenizer,
    /// The text of each token, once it was needed: most occur in many examples.
    texts: Vec<OnceLock<String>>,
}

/// A line. Numbers are f64, so that every reader sees the same digits.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    schema: &'static str,
    feature: usize,
    n_features: usize,
    count: u64,
    frequency: f64,
    mean: f64,
    mean_over_all: f64,
    max: f64,
    quantiles: Vec<(f64, f64)>,
    histogram: Vec<(f64, f64, u64)>,
    top_logits: Option<Vec<Logit<'a>>>,
    bottom_logits: Option<Vec<Logit<'a>>>,
    top: Vec<Kept<'a>>,
    drawn: Vec<Kept<'a>>,
}

#[derive(Serialize)]
struct Logit<'a> {
    id: u32,
    token: Cow<'a, str>,
    value: f64,
}

#[derive(Serialize)]
struct Kept<'a> {
    prompt: u32,
    position: u32,
    value: f64,
    start: u32,
    tokens: Vec<Cow<'a, str>>,
    ids: &'a [u32],
    values: Vec<f64>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(statistics: &'a Statistics, tokenizer: &'a Tokenizer, vocabulary: usize) -> Self {
        Lines { statistics, tokenizer, texts: (0..vocabulary).map(|_| OnceLock::new()).collect() }
    }

    pub(super) fn line(&self, number: usize, logits: Option<&Logits>) -> Line<'_> {
        let feature = &self.statistics.features()[number];
        let tokens = self.statistics.tokens().max(1) as f64;
        Line {
            schema: "easyroutine.feature/1",
            feature: number,
            n_features: self.statistics.features().len(),
            count: feature.count,
            frequency: feature.count as f64 / tokens,
            mean: feature.mean(),
            mean_over_all: feature.total() / tokens,
            max: f64::from(feature.max),
            quantiles: SHARES.map(|share| (share, f64::from(feature.quantile(share)))).to_vec(),
            histogram: feature.histogram().map(|(from, to, n)| (f64::from(from), f64::from(to), n)).collect(),
            top_logits: logits.map(|(top, _)| self.logits(top)),
            bottom_logits: logits.map(|(_, bottom)| self.logits(bottom)),
            top: feature.top().iter().map(|kept| self.kept(kept)).collect(),
            drawn: feature.drawn().into_iter().map(|kept| self.kept(kept)).collect(),
        }
    }

    fn logits(&self, list: &[(u32, f32)]) -> Vec<Logit<'_>> {
        list.iter()
            .map(|(id, value)| Logit { id: *id, token: self.text(*id), value: f64::from(*value) })
            .collect()
    }

    fn kept<'b>(&'b self, kept: &'b Occurrence) -> Kept<'b> {
        Kept {
            prompt: kept.prompt,
            position: kept.position,
            value: f64::from(kept.value),
            start: kept.start,
            tokens: kept.ids.iter().map(|id| self.text(*id)).collect(),
            ids: &kept.ids,
            values: kept.values.iter().map(|value| f64::from(*value)).collect(),
        }
    }

    fn text(&self, id: u32) -> Cow<'_, str> {
        match self.texts.get(id as usize) {
            Some(text) => text.get_or_init(|| token_text(self.tokenizer, id)).into(),
            None => token_text(self.tokenizer, id).into(),
        }
    }
}
