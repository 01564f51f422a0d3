//! `dict active`: which features are active at each token of one prompt.

use easyroutine::Batch;
use easyroutine_dictionaries::{FeatureCapture, SparseFeatures};
use serde_json::{Value, json};

use super::lens::{selected, specifiers};
use crate::args::{Args, DictActive};
use crate::failure::Failure;
use crate::output::{self, Cell, PLAIN};
use crate::session::{self, token_text};
use crate::{changes, hosted};

/// One feature at one token.
struct Active {
    key: String,
    position: usize,
    feature: usize,
    value: f32,
}

pub(crate) fn run(args: &Args, active: &DictActive) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let given = active.changes.read(&active.model.loading.finding)?;
    if given.dictionaries.is_empty() {
        return Err(Failure::usage("no dictionary is given").hint("name one: --dict NAME=PATH"));
    }
    let session = session::load(&active.model.model, &active.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &active.model.loading.finding)?;
    let model = &session.model;
    let prompt = active.prompt.read(&tokenizer, model.arch().context)?;
    let seed = active.changes.seed;
    let positions = selected(&specifiers(&active.positions)?, &prompt, &tokenizer, seed)?;
    let dictionaries = given.dictionaries.fitted(&session)?;
    let keys: Vec<String> = match active.activations.is_empty() {
        true => dictionaries.keys(),
        false => active
            .activations
            .iter()
            .flat_map(|list| list.split(','))
            .map(|key| key.trim().to_owned())
            .collect(),
    };
    let edits = changes::of_prompt(&given, &session, &prompt, &tokenizer, seed)?;
    let capture = FeatureCapture::new(&keys, dictionaries, model.cpu(), vec![positions.clone()])?;
    let batch = Batch::new(&[&prompt.encoded.ids])?;
    let mut tap = (edits, capture);
    model.forward_until(&batch, &mut tap, hosted::stop())?;
    let found = tap.1.finish();
    let counts: Vec<Value> = found
        .iter()
        .map(|(key, sparse)| {
            let l0 = sparse.values.len() as f64 / positions.len().max(1) as f64;
            json!({"key": key, "n_features": sparse.shape[2], "l0": l0})
        })
        .collect();
    let largest = largest(&found, &positions, active.k as usize);
    output::warn_of_nan(largest.iter().any(|one| one.value.is_nan()), !given.is_empty());
    let text = |position: usize| {
        prompt.encoded.ids.get(position).map_or(String::new(), |id| token_text(&tokenizer, *id))
    };
    let listed: Vec<Value> = largest
        .iter()
        .map(|one| {
            json!({
                "key": one.key, "feature": one.feature, "position": one.position,
                "token": text(one.position), "value": one.value,
            })
        })
        .collect();
    let tokens: Vec<Value> = prompt
        .encoded
        .ids
        .iter()
        .enumerate()
        .map(|(position, id)| json!({"position": position, "id": id, "text": token_text(&tokenizer, *id)}))
        .collect();
    let json = json!({
        "schema": "easyroutine.active/1",
        "model": session.model_json(),
        "bos": prompt.encoded.starts_with_bos,
        "interventions": active.changes.intervene,
        "dictionaries": given.dictionaries.record(),
        "tokens": tokens,
        "positions": positions,
        "keys": counts,
        "features": listed,
    });
    let rows: Vec<Vec<Cell>> = largest
        .iter()
        .map(|one| {
            vec![
                Cell::new(one.position.to_string(), one.position),
                Cell::token(&text(one.position)),
                one.key.clone().into(),
                Cell::new(one.feature.to_string(), one.feature),
                Cell::new(format!("{:.4}", one.value), one.value),
            ]
        })
        .collect();
    output::tables(&targets, &["position", "token", "key", "feature", "value"], &rows, &json)
}

/// The largest features of each token, token by token; ties to the lower number.
fn largest(found: &[(String, SparseFeatures)], positions: &[usize], most: usize) -> Vec<Active> {
    let mut tokens: Vec<Vec<Active>> = positions.iter().map(|_| Vec::new()).collect();
    for (key, sparse) in found {
        for (index, value) in sparse.indices.iter().zip(&sparse.values) {
            let number = index[1] as usize;
            let (position, feature) = (positions[number], index[2] as usize);
            tokens[number].push(Active { key: key.clone(), position, feature, value: *value });
        }
    }
    for here in &mut tokens {
        // Already in the order of keys and numbers, which the stable sort preserves.
        here.sort_by(|a, b| b.value.abs().total_cmp(&a.value.abs()));
        here.truncate(most);
    }
    tokens.into_iter().flatten().collect()
}
