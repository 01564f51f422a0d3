//! Activations of another program beside ours as JSON.

use easyroutine::compare::{AgainstExact, Apart, Compared, Comparison, Verdict, Wrong};
use serde_json::{Value, json};

/// `same`, `magnitude`, `direction`.
pub fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "same",
        Verdict::Magnitude => "magnitude",
        Verdict::Direction => "direction",
        Verdict::Nan => "nan",
    }
}

/// `none`, `file`, `ours`, `both`.
pub fn wrong_name(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Neither => "none",
        Wrong::File => "file",
        Wrong::Ours => "ours",
        Wrong::Both => "both",
    }
}

/// What of `easyroutine.compare/1` a comparison says; whoever ran it adds model and file.
pub fn comparison(found: &Comparison) -> Value {
    let first = found.first_wrong();
    let mut json = json!({
        "tolerance": found.tolerance,
        "same": first.is_none(),
        "first_wrong": first.map(|place| place.activation.clone()),
        "places": found.places.iter().map(place).collect::<Vec<_>>(),
        "passed_over": passed_over(found),
    });
    if let Some(exact) = first.and_then(|place| place.exact.as_ref()) {
        json["wrong"] = wrong_name(exact.wrong).into();
    }
    json
}

fn place(place: &Compared) -> Value {
    let mut json = json!({
        "activation": place.activation,
        "tensor": place.tensor,
        "verdict": verdict_name(place.verdict),
        "error": finite(place.error),
        "factor": finite(place.factor),
        "rest": finite(place.rest),
        "largest_at": at(place.at),
    });
    if let Some(AgainstExact { file, ours, wrong }) = &place.exact {
        json["exact"] = json!({"wrong": wrong_name(*wrong), "file": apart(file), "ours": apart(ours)});
    }
    json
}

fn apart(apart: &Apart) -> Value {
    json!({
        "error": finite(apart.error),
        "magnitude": finite(apart.magnitude),
        "cosine": finite(apart.cosine),
        "largest_at": at(apart.at),
    })
}

fn at([row, position, number]: [usize; 3]) -> Value {
    json!({"row": row, "position": position, "number": number})
}

/// JSON has no infinity.
fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}

fn passed_over(found: &Comparison) -> Vec<Value> {
    let one = |(name, reason): &(String, String)| json!({"tensor": name, "reason": reason});
    found.passed_over.iter().map(one).collect()
}
