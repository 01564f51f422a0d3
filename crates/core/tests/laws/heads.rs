//! What single heads report.

use easyroutine::Value;
use easyroutine::arch::{Attention, AttentionGate, Bias, Layer};
use easyroutine::sites::{Point, Site};

use super::{all_points, for_every_variant, two_rows};
use crate::common::assert_same_bits;
use crate::common::taps::{Edit, capture, capture_after};

#[test]
fn a_head_sees_its_slice_of_the_projections() {
    for_every_variant(|name, model| {
        let arch = model.arch();
        let cache = capture(model, &two_rows(model), all_points(model));
        for l in (0..arch.layers.len()).filter(|l| arch.layers[*l].attention.is_some()) {
            let heads = arch.heads(l);
            for head in 0..heads.n {
                let shared = head / heads.group();
                for (whole, part, slice) in [
                    ("queries", "head_queries", heads.of_query(head)),
                    ("keys", "head_keys", heads.of_query(shared)),
                    ("values", "head_values", heads.of_value(shared)),
                ] {
                    let key = format!("{part}_L{l}H{head}");
                    let Some(kept) = cache.get(&key) else {
                        assert!(arch.layers[l].keys_of().is_some() && whole != "queries", "{name}, {key}");
                        continue;
                    };
                    let whole = cache.get(format!("{whole}_L{l}")).unwrap();
                    let width = whole.row_shapes[0][1];
                    assert_eq!(kept.row_shapes[0][1], slice.len(), "{name}, {key}");
                    let expected: Vec<f32> = whole
                        .values()
                        .chunks_exact(width)
                        .flat_map(|vector| vector[slice.clone()].iter().copied())
                        .collect();
                    assert_same_bits(format_args!("{name}, {key}"), kept.values(), &expected);
                }
            }
        }
    });
}

/// Whether the only token of a row mixes exactly the projection's output: values are not clamped, and no sink takes
/// part.
fn mixes_plainly(layer: &Layer) -> bool {
    let plain = |a: &Attention| {
        a.clip.is_none() && a.v_norm.is_none() && a.sinks == Bias::Absent && a.gate == AttentionGate::None
    };
    layer.attention.as_ref().is_some_and(plain)
}

#[test]
fn the_first_token_mixes_its_own_value_alone() {
    for_every_variant(|name, model| {
        let (arch, rows) = (model.arch(), two_rows(model));
        let cache = capture(model, &rows, all_points(model));
        for l in (0..arch.layers.len()).filter(|l| mixes_plainly(&arch.layers[*l])) {
            for head in 0..arch.n_heads {
                let [out, projected] = ["head_out", "projected_value"]
                    .map(|site| cache.get(format!("{site}_L{l}H{head}")).unwrap());
                for row in 0..rows.len() {
                    let first = |kept: &easyroutine::cache::Kept| kept.row(row)[..arch.d_model].to_vec();
                    let place = format!("{name}, head_out_L{l}H{head}, row {row}");
                    assert_same_bits(place, &first(out), &first(projected));
                }
            }
        }
    });
}

/// One-token rows mix only their own value: replacing a head's value with its key or query makes its part of the output
/// that key or query through its slice of the output projection.
#[test]
fn keys_and_queries_are_projected_as_values_are() {
    for_every_variant(|name, model| {
        // Layers without attention have nothing to compare, but mix tokens on the way.
        let attends = |layer: &Layer| layer.recurrence.is_none() && layer.attention.is_some();
        let alike = (0..model.arch().layers.len()).all(|l| model.arch().heads(l).are_projected_alike());
        if !alike || !model.arch().layers.iter().all(|layer| attends(layer) && mixes_plainly(layer)) {
            return;
        }
        let rows: Vec<Vec<u32>> = two_rows(model).concat().into_iter().map(|id| vec![id]).collect();
        let clean = capture(model, &rows, all_points(model));
        let of = |site| model.arch().points().filter(move |point| point.site() == site);
        for (vectors, projected) in
            [(Site::HeadKeys, Site::ProjectedKey), (Site::HeadQueries, Site::ProjectedQuery)]
        {
            let replace = |point: Point, value: &mut Value<'_>| {
                let from = Point::head_of(vectors, point.layer().unwrap(), point.head().unwrap());
                let kept = clean.get(from.to_string()).unwrap();
                for row in 0..rows.len() {
                    value.vector_mut(row, 0).unwrap().copy_from_slice(kept.row(row));
                }
            };
            let edit = Edit { at: of(Site::HeadValues).collect(), change: replace };
            let changed = capture_after(model, &rows, of(Site::HeadOut), edit);
            for point in of(projected) {
                let out = Point::head_of(Site::HeadOut, point.layer().unwrap(), point.head().unwrap());
                let (ours, expected) =
                    (clean.get(point.to_string()).unwrap(), changed.get(out.to_string()).unwrap());
                assert_same_bits(format_args!("{name}, {point}"), ours.values(), expected.values());
            }
        }
    });
}
