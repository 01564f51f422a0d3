//! `dict steer`: one prompt continued at several strengths of a feature.

use easyroutine::generate::Generated;
use easyroutine_dictionaries::{FeatureChange, FeatureOperation};
use easyroutine_view::steering::{self, SteeringReport};
use serde_json::{Value, json};

use super::generate;
use crate::args::{Args, DictSteer, Format};
use crate::changes;
use crate::failure::{Failure, one_line};
use crate::output::{self, Cell};
use crate::session::{self, token_text};

/// Tables, and a page of the continuations side by side.
const FORMATS: &[Format] =
    &[Format::Table, Format::Tsv, Format::Json, Format::Csv, Format::Md, Format::Jsonl, Format::Html];
/// New tokens of each continuation, unless --generate says how many.
const TOKENS: usize = 40;

pub(crate) fn run(args: &Args, steer: &DictSteer) -> Result<(), Failure> {
    let targets = output::targets(args, FORMATS)?;
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
        let mut pieces: Vec<String> = Vec::new();
        let stops = &steer.generation.stop;
        let generated =
            generate::continued(&session, &tokenizer, &prompt, stops, &options, edits, |piece| {
                pieces.push(piece.to_owned());
                Ok(true)
            })?;
        if strength != 0.0 {
            given.features.pop();
        }
        if let Some(generated) = generated {
            continuations.push(Continuation { strength, pieces, generated });
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
                    "text": one.text(),
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
                Cell::token(&one.text()),
            ]
        })
        .collect();
    let header = ["strength", "mean_logprob", "text"];
    for target in &targets {
        let text = match target.format {
            Format::Html => {
                let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
                let mut facts = vec![named("model", &session.files.name)];
                facts.extend(
                    given
                        .dictionaries
                        .record()
                        .iter()
                        .map(|(name, about)| named(name, about["path"].as_str().unwrap_or_default())),
                );
                facts.extend(steer.changes.intervene.iter().map(|text| named("with", text)));
                facts.push(named("seed", &seed.to_string()));
                steering::html(&SteeringReport {
                    feature: steer.feature.clone(),
                    facts,
                    prompt: prompt.text.clone(),
                    continuations: continuations.iter().map(Continuation::shown).collect(),
                })
            }
            format => output::render(format, &header, &rows, &json)?,
        };
        output::write(target, text.as_bytes())?;
    }
    Ok(())
}

/// What the model wrote at one strength.
struct Continuation {
    strength: f32,
    /// The text that each token adds, and what the end adds.
    pieces: Vec<String>,
    generated: Generated,
}

impl Continuation {
    fn text(&self) -> String {
        self.pieces.concat()
    }

    /// For the page: the last token has the end's text too.
    fn shown(&self) -> steering::Continuation {
        let n = self.generated.logprobs.len();
        let text = |number: usize| match number + 1 == n {
            true => self.pieces[number.min(self.pieces.len())..].concat(),
            false => self.pieces.get(number).cloned().unwrap_or_default(),
        };
        steering::Continuation {
            strength: f64::from(self.strength),
            mean_logprob: self.mean_logprob(),
            finish: self.generated.finish.name().to_owned(),
            tokens: self
                .generated
                .logprobs
                .iter()
                .enumerate()
                .map(|(i, logprob)| (text(i), *logprob))
                .collect(),
        }
    }

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
