//! The logit lens on every tiny model.

mod cached;
mod compute;
mod survey;
mod tuned;

use easyroutine::cache::{ActivationCache, Kept};
use easyroutine::lens::{Direction, LensNorm, LensOptions, LogitLens, Role};
use easyroutine::sites::{Point, Site};
use easyroutine::{Model, Value};

use crate::common::taps::{Edit, capture, capture_after};
use crate::common::{cases, tiny};

fn for_every_model(law: impl Fn(&str, &Model)) {
    for case in cases("tiny") {
        law(&case, &tiny(&case));
    }
}

/// Two rows of different length.
fn rows(model: &Model) -> Vec<Vec<u32>> {
    let context = model.arch().context as u32;
    vec![(0..9.min(context)).map(|i| 300 - i * 31).collect(), vec![5, 250, 17]]
}

/// Everything that a lens reads or needs.
fn captured(model: &Model, rows: &[Vec<u32>]) -> ActivationCache {
    let read = |point: &Point| {
        Role::of(point.site()).is_some() || matches!(point.site(), Site::LastLayernorm | Site::Logits)
    };
    capture(model, rows, model.arch().points().filter(read))
}

fn own() -> LensOptions {
    LensOptions { norm: LensNorm::Own, ..LensOptions::default() }
}

fn along(directions: Vec<Direction>, norm: LensNorm) -> LensOptions {
    LensOptions { directions: Some(directions), norm, ..LensOptions::default() }
}

/// The lens of one key.
fn read(lens: &LogitLens, cache: &ActivationCache, key: &str, options: &LensOptions) -> Kept {
    let mut results = lens.compute(cache, key, options).unwrap_or_else(|e| panic!("{key}: {e}"));
    assert_eq!(results.len(), 1, "{key}");
    let (name, kept) = results.remove(0);
    assert_eq!(name, format!("logit_lens_{key}"));
    kept
}

fn last_stream(model: &Model) -> Point {
    Point::layer_of(Site::ResidOut, model.arch().layers.len() - 1)
}

/// The model's own prediction from these vectors, which replace its last residual stream.
fn predicted_from(model: &Model, rows: &[Vec<u32>], vectors: &Kept) -> Vec<f32> {
    let put = |_: Point, value: &mut Value<'_>| {
        for (row, ids) in rows.iter().enumerate() {
            let width = value.width(row);
            for position in 0..ids.len() {
                let vector = &vectors.row(row)[position * width..][..width];
                value.vector_mut(row, position).unwrap().copy_from_slice(vector);
            }
        }
    };
    let edit = Edit { at: [last_stream(model)].into(), change: put };
    let logits = Point::model(Site::Logits);
    capture_after(model, rows, [logits], edit).get("logits").unwrap().values().to_vec()
}

/// A value without the model's softcap.
fn uncapped(model: &Model, logit: f32) -> f64 {
    let logit = f64::from(logit);
    model.arch().unembed.softcap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).atanh())
}

/// A value with the model's softcap.
fn capped(model: &Model, logit: f64) -> f64 {
    model.arch().unembed.softcap.map_or(logit, |cap| f64::from(cap) * (logit / f64::from(cap)).tanh())
}
