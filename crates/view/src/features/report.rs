//! The data of a page of features.

use serde::Deserialize;

use crate::error::{Error, ErrorKind};

/// The schema of a line.
const SCHEMA: &str = "easyroutine.feature/1";

/// Features, with facts about all of them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FeaturesReport {
    /// The title.
    pub title: String,
    /// Facts about all features: a name and a value.
    pub facts: Vec<(String, String)>,
    /// The features.
    pub features: Vec<Feature>,
}

/// One feature.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Feature {
    schema: String,
    /// Its number.
    pub feature: u32,
    /// Tokens on which it is active.
    pub count: u64,
    /// Their share of all tokens.
    pub frequency: f64,
    /// Mean value where it is active.
    pub mean: f64,
    /// Largest value.
    pub max: f64,
    /// Edges and counts of bins.
    pub histogram: Vec<(f64, f64, u64)>,
    /// Tokens whose logits it raises most.
    pub top_logits: Option<Vec<Logit>>,
    /// Tokens whose logits it lowers most.
    pub bottom_logits: Option<Vec<Logit>>,
    /// Its strongest occurrences.
    pub top: Vec<Occurrence>,
    /// Occurrences drawn at random.
    pub drawn: Vec<Occurrence>,
}

/// A feature's contribution to the logit of a token.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Logit {
    /// The token.
    pub token: String,
    /// The contribution.
    pub value: f64,
}

/// A token on which a feature is active, with its context.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Occurrence {
    /// The number of the prompt.
    pub prompt: u32,
    /// The position in the prompt.
    pub position: u32,
    /// The feature's value.
    pub value: f64,
    /// The position of the first of `tokens`.
    pub start: u32,
    /// The token and its context.
    pub tokens: Vec<String>,
    /// The feature's value at each of them.
    pub values: Vec<f64>,
}

impl Feature {
    /// Parses a line.
    ///
    /// # Errors
    /// If the text is not such a line.
    pub fn from_json(line: &str) -> Result<Feature, Error> {
        let wrong = |what: String| Error::new(ErrorKind::Report, what);
        let feature: Feature = serde_json::from_str(line).map_err(|e| wrong(e.to_string()))?;
        if feature.schema != SCHEMA {
            return Err(wrong(format!("`schema` is not `{SCHEMA}`")));
        }
        let fits = |kept: &Occurrence| {
            let at = kept.position.checked_sub(kept.start).map(|at| at as usize);
            kept.tokens.len() == kept.values.len() && at.is_some_and(|at| at < kept.tokens.len())
        };
        match feature.top.iter().chain(&feature.drawn).all(fits) {
            true => Ok(feature),
            false => {
                Err(wrong(format!("feature {}: tokens and values do not belong together", feature.feature)))
            }
        }
    }
}

/// The number of the feature of a line, whose rest is read over.
///
/// # Errors
/// Text that is no such line.
pub fn number(line: &str) -> Result<u32, Error> {
    #[derive(Deserialize)]
    struct Numbered {
        feature: u32,
    }
    let numbered: Numbered =
        serde_json::from_str(line).map_err(|e| Error::new(ErrorKind::Report, e.to_string()))?;
    Ok(numbered.feature)
}
