//! `runs lens`: what saved vectors of the residual stream would predict.

use easyroutine::cache::{ActivationCache, Kept};
use easyroutine::lens::{LensNorm, LensOptions, LogitLens};
use easyroutine::sites::Point;
use easyroutine_store::{Dtype, Run};
use serde_json::{Value, json};

use super::load::{place, range};
use crate::args::Args;
use crate::args::runs::{RunLens, Runs};
use crate::failure::Failure;
use crate::hosted;
use crate::output::{self, Cell, PLAIN};
use crate::progress::Counted;
use crate::session::{self, Session, token_text};

/// Vectors read together: each needs a probability for every token of the vocabulary.
const TOGETHER: usize = 32;

pub(super) fn run(args: &Args, runs: &Runs, asked: &RunLens) -> Result<(), Failure> {
    let targets = output::targets(args, PLAIN)?;
    let key = &asked.key;
    let point: Point = key.parse().map_err(easyroutine::Error::from)?;
    let run = runs.find_to_read(&asked.run.run, false)?;
    let rows = asked.rows.as_deref().map(range).transpose()?;
    let first = rows.as_ref().map_or(0, |rows| rows.start);
    let loaded = match rows {
        Some(rows) => run.read_rows(key, rows)?,
        None => run.read(key)?,
    };
    let session = session::load(&asked.model.model, &asked.model.loading)?;
    let tokenizer = session::tokenizer(&session.files, &asked.model.loading.finding)?;
    let width = session.model.arch().d_model;
    if loaded.dtype != Dtype::F32 || loaded.shape.len() < 2 || loaded.shape.last() != Some(&width) {
        let (dtype, shape) = (loaded.dtype, &loaded.shape);
        return Err(Failure::usage(format!(
            "{key} is {dtype} {shape:?} in this run; a lens of {} reads F32 vectors of {width}",
            session.files.name
        ))
        .hint("name a stream or a part of it, as resid_out_5, mlp_out_3, head_out_L1H2"));
    }
    tell_of_other_model(&run, &session)?;
    let values: Vec<f32> =
        loaded.bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    loaded.check_unchanged()?;
    let lens = LogitLens::from_model(&session.model)?;
    let options = LensOptions { norm: LensNorm::Own, softmax: true, ..LensOptions::default() };
    let count = values.len() / width;
    let (mut listed, mut table) = (Vec::new(), Vec::new());
    let bar = Counted::new("vectors");
    for (piece, vectors) in values.chunks(TOGETHER * width).enumerate() {
        hosted::check()?;
        let n = vectors.len() / width;
        let mut cache = ActivationCache::default();
        cache.insert(point, Kept::f32(vectors.to_vec(), vec![vec![n, width]]));
        let found = lens.compute(&cache, key, &options)?;
        let Some((_, probabilities)) = found.first() else { continue };
        for (at, row) in probabilities.values().chunks(lens.vocabulary()).enumerate() {
            let vector = piece * TOGETHER + at;
            let place = place(vector, &loaded, first);
            if row.iter().any(|p| p.is_nan()) {
                return Err(not_a_number(&run, key, &place, &vectors[at * width..(at + 1) * width]));
            }
            let top: Vec<(u32, f32)> = largest(row, asked.k as usize);
            for (rank, (id, probability)) in top.iter().enumerate() {
                table.push(vec![
                    place.clone().into(),
                    Cell::new((rank + 1).to_string(), rank + 1),
                    Cell::new(id.to_string(), id),
                    Cell::token(&token_text(&tokenizer, *id)),
                    Cell::new(format!("{probability:.6}"), probability),
                ]);
            }
            let top: Vec<Value> = top
                .iter()
                .map(|(id, p)| json!({"id": id, "text": token_text(&tokenizer, *id), "probability": p}))
                .collect();
            listed.push(json!({"place": place, "top": top}));
        }
        bar.tell((piece * TOGETHER + n).min(count), count)?;
    }
    bar.finish();
    let json = json!({
        "schema": "easyroutine.run_lens/1",
        "path": run.path(),
        "key": key,
        "model": session.model_json(),
        "norm": "own",
        "shape": loaded.shape,
        "rows": listed,
    });
    output::tables(&targets, &["row", "rank", "id", "token", "probability"], &table, &json)
}

/// The error for a vector without probabilities.
fn not_a_number(run: &Run, key: &str, place: &str, vector: &[f32]) -> Failure {
    let what = match vector.iter().position(|x| !x.is_finite()) {
        Some(at) => format!("its number {at} is {}", vector[at]),
        None => "its numbers are finite, but too large for the final norm or the unembedding".to_owned(),
    };
    Failure::failed(format!("{}: {key} {place} has no probabilities: {what}", run.path()))
        .hint("--rows reads other rows; this value is what the run saved")
}

/// The most probable ids, ties to the lower id.
fn largest(probabilities: &[f32], most: usize) -> Vec<(u32, f32)> {
    let mut order: Vec<u32> = (0..probabilities.len() as u32).collect();
    let by =
        |a: &u32, b: &u32| probabilities[*b as usize].total_cmp(&probabilities[*a as usize]).then(a.cmp(b));
    let most = most.min(order.len());
    if most < order.len() {
        order.select_nth_unstable_by(most, by);
        order.truncate(most);
    }
    order.sort_unstable_by(by);
    order.into_iter().map(|id| (id, probabilities[id as usize])).collect()
}

/// Warns if the run is another model's: its vectors would give meaningless tokens, with no other sign.
fn tell_of_other_model(run: &Run, session: &Session) -> Result<(), Failure> {
    let saved = run.metadata().store().and_then(|store| store.get("model_digest")).and_then(Value::as_str);
    let own = session.identity.digest()?;
    match saved {
        Some(saved) if saved != own => output::note(
            "warning",
            &format!("the run was made by another model than {}: its digest is {saved}", session.files.name),
        ),
        Some(_) => {}
        None => output::note(
            "note",
            &format!("the run has no digest of the model that made it ({})", run.metadata().model_name()),
        ),
    }
    Ok(())
}
