//! `model check`: checks the laws of every decoder on this model.

use easyroutine::ErrorKind;
use easyroutine::check::{Outcome, check};
use easyroutine::load;
use easyroutine::source::ModelFiles;
use serde_json::json;

use crate::args::{Args, Check, Loading};
use crate::failure::{FAILED, Failure, SUCCESS};
use crate::output::{self, PLAIN};
use crate::session;
use easyroutine_app::memory::bounded;
use easyroutine_app::reports::dtype_name;

pub(crate) fn run(args: &Args, wanted: &Check) -> Result<u8, Failure> {
    if let Some(file) = &wanted.compare {
        return super::compare::run(args, wanted, file);
    }
    let targets = output::targets(args, PLAIN)?;
    let loading = &wanted.model.loading;
    let files = session::find(&wanted.model.reference()?, &loading.finding)?;
    let opened = session::open(&files, &loading.finding)?;
    let options = bounded(&opened, loading.options())?;
    let mut outcomes: Vec<Outcome> = opened
        .non_finite()?
        .into_iter()
        .map(|(tensor, count, first)| Outcome {
            law: "weights are finite numbers",
            deviation: Some(count as f64),
            allowed: 0.0,
            place: format!("{tensor}, first at {first}"),
        })
        .collect();
    if outcomes.is_empty() {
        let law = "weights are finite numbers";
        outcomes.push(Outcome { law, deviation: Some(0.0), allowed: 0.0, place: String::new() });
    }
    let mut model = opened.build(&options)?;
    let longest = usize::from(wanted.tokens).min(model.arch().context).max(2);
    let ids = ids(longest, model.arch().vocabulary);
    outcomes.extend(check(&mut model, [&ids, &ids[longest / 3..]])?);
    outcomes.push(token_roads(&files, loading)?);
    let holds = outcomes.iter().all(Outcome::holds);
    let verdict = |o: &Outcome| match o.deviation {
        None => "n/a",
        Some(_) if o.holds() => "ok",
        Some(_) => "BROKEN",
    };
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|o| {
            let deviation = o.deviation.map_or("-".to_owned(), |deviation| format!("{deviation:.1e}"));
            let allowed = format!("{:.1e}", o.allowed);
            vec![verdict(o).to_owned(), o.law.to_owned(), deviation, allowed, o.place.clone()]
        })
        .collect();
    let listed: Vec<_> = outcomes
        .iter()
        .map(|o| {
            // JSON has no infinity: a NaN or infinite deviation becomes null, like one that could not be computed.
            let deviation = o.deviation.filter(|deviation| deviation.is_finite());
            let holds = o.deviation.map(|_| o.holds());
            json!({"law": o.law, "holds": holds, "deviation": deviation, "allowed": o.allowed, "place": o.place})
        })
        .collect();
    let json = json!({
        "schema": "easyroutine.check/1",
        "model": files.name,
        "dtype": dtype_name(loading.dtype()),
        "holds": holds,
        "laws": listed,
    });
    let header = ["verdict", "law", "deviation", "allowed", "largest at"];
    output::write_found(&targets, &header, &rows, &json, if holds { SUCCESS } else { FAILED })
}

/// Whether every way to the model's tokenizer gives the same ids; the place lists the ways compared.
fn token_roads(files: &ModelFiles, loading: &Loading) -> Result<Outcome, Failure> {
    let law = "token ids are the same by every road";
    let pre = loading.finding.pre.as_deref();
    let roads = match load::token_roads(files, pre) {
        Ok(roads) => roads,
        // A model may come without a tokenizer.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported) => {
            return Ok(Outcome { law, deviation: None, allowed: 0.0, place: error.to_string() });
        }
        Err(error) => return Err(error.into()),
    };
    let compared = roads.compared.join(", ");
    let place = match roads.differences.first() {
        None => compared,
        Some((road, text)) => format!("{road} differs at {text}; compared: {compared}"),
    };
    Ok(Outcome { law, deviation: Some(roads.differences.len() as f64), allowed: 0.0, place })
}

/// Ids spread over the vocabulary, by a fixed rule, so that two checks of a model agree.
fn ids(count: usize, vocabulary: usize) -> Vec<u32> {
    (0..count).map(|i| ((i * i * 7919 + i * 104_729 + 13) % vocabulary) as u32).collect()
}
