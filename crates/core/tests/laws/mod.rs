//! Laws of every decoder, checked on every tiny model: how activations relate, and which bits never change.

mod bits;
mod cached;
mod experts;
mod heads;
mod sums;
mod wants;

use easyroutine::check::check;
use easyroutine::load::LoadOptions;
use easyroutine::sites::{Point, Site};
use easyroutine::{Dtype, Model, Simd};

use crate::common::{cases, tiny_with};

/// Every tiny model with every instruction set of this processor, in both compute types.
fn variants() -> impl Iterator<Item = (String, LoadOptions)> {
    cases("tiny").into_iter().flat_map(|case| {
        Simd::available().into_iter().flat_map(move |simd| {
            let case = case.clone();
            [Dtype::F32, Dtype::Bf16].map(|dtype| {
                let options =
                    LoadOptions { dtype, simd: Some(simd), threads: Some(2), ..LoadOptions::default() };
                (case.clone(), options)
            })
        })
    })
}

/// Calls `law` with every variant of every tiny model.
fn for_every_variant(law: impl Fn(&str, &Model)) {
    for (case, options) in variants() {
        let name = format!("{case} {:?} {:?}", options.dtype, options.simd);
        law(&name, &tiny_with(&case, &options));
    }
}

/// Calls `law` with every tiny model as loaded by default.
fn for_every_model(law: impl Fn(&str, &Model)) {
    for case in cases("tiny") {
        law(&case, &crate::common::tiny(&case));
    }
}

/// `model check` says to users what the other tests hold.
#[test]
fn no_model_breaks_a_law_that_users_check() {
    for case in cases("tiny") {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let mut model = tiny_with(&case, &LoadOptions { dtype, ..LoadOptions::default() });
            let rows = two_rows(&model);
            for outcome in check(&mut model, [&rows[0], &rows[1]]).unwrap() {
                assert!(outcome.holds(), "{case} {dtype:?}: {outcome:?}");
            }
        }
    }
}

/// Every point of a model, including second names of the same place.
fn all_points(model: &Model) -> Vec<Point> {
    let layers = 0..model.arch().layers.len();
    let aliases = layers.map(|layer| Point::layer_of(Site::ResidInPostLayernorm, layer));
    let aliases = aliases.filter(|point| model.arch().lacks(*point).is_none());
    model.arch().points().chain(aliases).collect()
}

/// All points except those that switch attention to another path: patterns, and keys and values of single heads.
fn without_heads(model: &Model) -> Vec<Point> {
    let apart = [Site::Scores, Site::Pattern, Site::HeadKeys, Site::HeadValues];
    model.arch().points().filter(|point| !apart.contains(&point.site())).collect()
}

/// Two rows, the first longer than any window and any block of the arithmetic, within the model's context.
fn two_rows(model: &Model) -> Vec<Vec<u32>> {
    let row = |length: usize, step: u32| {
        let length = length.min(model.arch().context) as u32;
        (0..length).map(|i| (7 + i * step) % model.arch().vocabulary as u32).collect()
    };
    vec![row(27, 31), row(5, 13)]
}
