//! `dict steer`: one prompt continued at several strengths of a feature.

use easyroutine::generate::Generated;
use easyroutine_dictionaries::{FeatureChange, FeatureOperation};
use serde_json::{Value, json};

use super::generate;
use crate::args::{Args, DictSteer};
use crate::changes;
use crate::failure::{Failure, one_line};
use crate::output::{self, Cell, PLAIN};
use crate::session::{self, token_text};

/// New tokens of each continuation, unless --generate says how many.
const TOKENS: usize = 40;

pub(crate) fn run(args: &Args, steer: &DictSteer) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let change = change(&steer.feature)?;
    let strengths = strengths(&steer.strength)?;
    let mut given = steer.changes.read(&steer.model.loading.finding)?;
    if given.dictionaries.is_empty() {
        return Err(Failure::usage("no dictionary is given").hint("name one: --dict NAME=PATH"));
    }
    let session = session::load(&steer.model.model, &steer.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &steer.model.loading.finding)?;
    let prompt = steer.prompt.read(&tokenizer, session.model.arch().context)?;
    let count = steer.generation.generate.unwrap_or(TOKENS);
    let seed = steer.changes.seed;
    let options = generate::options(&steer.generation, seed, count, &session, &tokenizer)?;
    // A feature that is not there is refused at strength 0 too.
    given.features.push(change.clone());
    changes::of_prompt(&given, &session, &prompt, &tokenizer, seed)?;
    given.features.pop();
    let mut continuations = Vec::new();
    for strength in strengths {
        // At 0 the continuation is the model's own, to the bit.
        let steered = (strength != 0.0)
            .then(|| FeatureChange { operation: FeatureOperation::Steer(strength), ..change.clone() });
        given.features.extend(steered);
        let edits = changes::of_prompt(&given, &session, &prompt, &tokenizer, seed)?;
        let mut text = String::new();
        let stops = &steer.generation.stop;
        let generated =
            generate::continued(&session, &tokenizer, &prompt, stops, &options, edits, |piece| {
                text += piece;
                Ok(true)
            })?;
        if strength != 0.0 {
            given.features.pop();
        }
        if let Some(generated) = generated {
            continuations.push(Continuation { strength, text, generated });
        }
    }
    let named = |id: &u32| json!({"id": id, "text": token_text(&tokenizer, *id)});
    let json = json!({
        "schema": "easyroutine.steer/1",
        "model": session.model_json(),
        "bos": prompt.encoded.starts_with_bos,
        "chat": prompt.chat,
        "interventions": steer.changes.intervene,
        "dictionaries": given.dictionaries.record(),
        "feature": steer.feature,
        "seed": seed,
        "tokens": prompt.encoded.ids.iter().map(named).collect::<Vec<_>>(),
        "continuations": continuations
            .iter()
            .map(|one| {
                json!({
                    "strength": one.strength,
                    "text": one.text,
                    "generated": one.generated.ids.iter().map(named).collect::<Vec<_>>(),
                    "logprobs": one.generated.logprobs,
                    "mean_logprob": one.mean_logprob(),
                    "finish": one.generated.finish.name(),
                })
            })
            .collect::<Vec<Value>>(),
    });
    let rows: Vec<Vec<Cell>> = continuations
        .iter()
        .map(|one| {
            let mean = one.mean_logprob();
            vec![
                Cell::new(one.strength.to_string(), one.strength),
                Cell::new(format!("{mean:.3}"), mean),
                Cell::token(&one.text),
            ]
        })
        .collect();
    output::tables(&targets, &["strength", "mean_logprob", "text"], &rows, &json)
}

/// What the model wrote at one strength.
struct Continuation {
    strength: f32,
    text: String,
    generated: Generated,
}

impl Continuation {
    /// The mean log-probability of the new tokens in the steered model; 0 if there are none.
    fn mean_logprob(&self) -> f64 {
        let logprobs = &self.generated.logprobs;
        logprobs.iter().sum::<f64>() / logprobs.len().max(1) as f64
    }
}

/// `features_sae:12`, at all positions unless it names some: `features_sae:12@last`.
fn change(feature: &str) -> Result<FeatureChange, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!("--feature: `{}` {what}", one_line(feature)))
            .hint("features_sae:12 is feature 12 of --dict sae=PATH; features_sae:12@last, at the last token")
    };
    if !FeatureChange::is_meant(feature) {
        return Err(wrong("is no feature"));
    }
    let whole = if feature.contains('@') { format!("{feature}+1") } else { format!("{feature}@all+1") };
    let change: FeatureChange = whole.parse()?;
    match change {
        FeatureChange { feature: Some(_), operation: FeatureOperation::Steer(1.0), .. } => Ok(change),
        _ => Err(wrong("is not one feature")),
    }
}

/// `0,10,30`
fn strengths(given: &[String]) -> Result<Vec<f32>, Failure> {
    let texts = given.iter().flat_map(|text| text.split(',')).map(str::trim);
    texts
        .map(|text| {
            let found = text.parse::<f32>().ok().filter(|strength| strength.is_finite());
            found.ok_or_else(|| {
                Failure::usage(format!("--strength: `{}` is not a number", one_line(text)))
                    .hint("several are comma-separated: 0,10,30")
            })
        })
        .collect()
}
