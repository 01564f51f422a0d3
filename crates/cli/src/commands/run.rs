//! `run`: the most likely next tokens.

use easyroutine::Batch;
use easyroutine::lens::{Component, LensNorm, SurveyOptions, survey_under};
use serde_json::json;

use crate::args::{Args, Next};
use crate::changes;
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::session::{self, token_text};

pub(crate) fn run(args: &Args, next: &Next) -> Result<(), Failure> {
    match next.generation.generate {
        Some(count) => super::generate::run(args, next, count),
        None => predict(args, next),
    }
}

fn predict(args: &Args, next: &Next) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let interventions = next.changes.read(&next.model.loading.finding)?;
    let session = session::load(&next.model.model, &next.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &next.model.loading.finding)?;
    let arch = session.model.arch();
    let prompt = next.prompt.read(&tokenizer, arch.context)?;
    let batch = Batch::new(&[&prompt.encoded.ids])?;
    // The lens of the final layer is the model's own prediction.
    let options = SurveyOptions {
        component: Component::RESID_OUT,
        norm: LensNorm::Own,
        top_k: next.k as usize,
        positions: vec![prompt.encoded.ids.len() - 1],
        layers: vec![arch.layers.len() as i64 - 1],
        tracked: Vec::new(),
    };
    let edits = changes::of_prompt(&interventions, &session, &prompt, &tokenizer, next.changes.seed)?;
    let survey = survey_under(&session.model, &batch, &options, edits)?;
    let reading = &survey.rows[0].readings[0];
    output::warn_of_nan(reading.entropy.is_nan(), !interventions.is_empty());
    let text = |id: u32| token_text(&tokenizer, id);
    let mut rows = Vec::new();
    let mut top = Vec::new();
    for (rank, (id, logprob)) in reading.top.iter().enumerate() {
        let probability = logprob.exp();
        rows.push(vec![
            (rank + 1).to_string().into(),
            id.to_string().into(),
            Cell::token(&text(*id)),
            Cell::new(format!("{probability:.6}"), probability),
            Cell::new(format!("{logprob:.5}"), logprob),
        ]);
        top.push(json!({"rank": rank + 1, "id": id, "text": text(*id), "probability": probability, "logprob": logprob}));
    }
    let tokens: Vec<_> = prompt
        .encoded
        .ids
        .iter()
        .enumerate()
        .map(|(p, id)| json!({"position": p, "id": id, "text": text(*id)}))
        .collect();
    let json = json!({
        "schema": "easyroutine.run/1",
        "model": session.model_json(),
        "bos": prompt.encoded.starts_with_bos,
        "chat": prompt.chat,
        "interventions": next.changes.intervene,
        "dictionaries": interventions.dictionaries.record(),
        "tokens": tokens,
        "entropy": reading.entropy,
        "top": top,
    });
    output::tables(&targets, &["rank", "id", "token", "probability", "logprob"], &rows, &json)
}
