//! Laws that hold to the bit: batches, threads, captures and later tokens change nothing.

use easyroutine::arch::RopeScaling;
use easyroutine::cache::{ActivationCache, Kept, Key};
use easyroutine::load::LoadOptions;
use easyroutine::sites::{Point, Site};
use easyroutine::{Model, Value};
use proptest::collection::vec;
use proptest::sample::Index;
use proptest::strategy::{Just, Strategy};

use super::{all_points, for_every_variant, two_rows, variants, without_heads};
use crate::common::taps::{Edit, capture, capture_after};
use crate::common::{assert_same_bits, holds, some_rows, tiny_with};

/// Fails if row `row` of `whole` differs in a bit from row `other_row` of `other`, at any key of `other`.
fn assert_same_row(
    name: &str,
    (whole, row): (&ActivationCache, usize),
    (other, other_row): (&ActivationCache, usize),
) {
    assert!(other.iter().next().is_some(), "{name}: nothing was captured");
    for (key, kept) in other.iter() {
        let ours = whole.get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
        assert_same_bits(format_args!("{name}, {key}, row {row}"), ours.row(row), kept.row(other_row));
    }
}

#[test]
fn a_row_alone_is_the_row_in_any_batch_on_any_number_of_threads() {
    for (case, options) in variants() {
        let name = format!("{case} {:?} {:?}", options.dtype, options.simd);
        let on = |threads| tiny_with(&case, &LoadOptions { threads: Some(threads), ..options.clone() });
        let [one, two, three] = [1, 2, 3].map(on);
        let in_some_order = some_rows(&one).prop_flat_map(|rows| {
            let order: Vec<usize> = (0..rows.len()).collect();
            (Just(rows), Just(order).prop_shuffle())
        });
        let points: [fn(&Model) -> Vec<Point>; 2] = [all_points, without_heads];
        holds(&name, 2, in_some_order, |(rows, order)| {
            for points in points {
                let together = capture(&one, &rows, points(&one));
                let shuffled: Vec<Vec<u32>> = order.iter().map(|row| rows[*row].clone()).collect();
                let in_other_order = capture(&two, &shuffled, points(&two));
                for (place, row) in order.iter().enumerate() {
                    assert_same_row(&name, (&together, *row), (&in_other_order, place));
                }
                for (row, ids) in rows.iter().enumerate() {
                    let alone = capture(&three, std::slice::from_ref(ids), points(&three));
                    assert_same_row(&name, (&together, row), (&alone, 0));
                }
            }
        });
    }
}

#[test]
fn capturing_changes_no_bit_whatever_is_captured() {
    for_every_variant(|name, model| {
        let rows = two_rows(model);
        let everything = capture(model, &rows, all_points(model));
        let logits = capture(model, &rows, [Point::model(Site::Logits)]);
        let plain = capture(model, &rows, without_heads(model));
        for row in 0..rows.len() {
            assert_same_row(name, (&everything, row), (&logits, row));
            assert_same_row(name, (&everything, row), (&plain, row));
        }
        let points = all_points(model);
        let some = vec(proptest::bool::weighted(0.1), points.len());
        holds(name, 4, some, |chosen| {
            let chosen: Vec<Point> =
                points.iter().zip(chosen).filter(|(_, wanted)| *wanted).map(|(point, _)| *point).collect();
            let part = capture(model, &rows, chosen.iter().copied());
            for (key, kept) in part.iter() {
                assert_same_bits(
                    format_args!("{name}, {key}"),
                    everything.get(key).unwrap().values(),
                    kept.values(),
                );
            }
        });
    });
}

/// One row of a kept activation before a position: the vectors before it or, for scores and patterns, the square before
/// it.
fn before(key: &Key, kept: &Kept, row: usize, position: usize) -> Vec<f32> {
    let shape = &kept.row_shapes[row];
    let width: usize = shape[1..].iter().product();
    let seen = if key.is_pairwise() { position } else { width };
    kept.row(row).chunks_exact(width).take(position).flat_map(|vector| &vector[..seen]).copied().collect()
}

#[test]
fn changing_a_token_changes_nothing_before_it_in_any_key() {
    for_every_variant(|name, model| {
        let vocabulary = model.arch().vocabulary as u32;
        let change = (some_rows(model), proptest::num::usize::ANY, 0..vocabulary);
        holds(name, 3, change, |(rows, place, id)| {
            let position = place % rows[0].len();
            let mut changed = rows.clone();
            changed[0][position] = id;
            for points in [all_points(model), without_heads(model)] {
                let (ours, other) =
                    (capture(model, &rows, points.iter().copied()), capture(model, &changed, points));
                for (key, kept) in ours.iter() {
                    let place = format!("{name}, {key} before {position}");
                    let other = other.get(key).unwrap();
                    assert_same_bits(
                        place,
                        &before(key, kept, 0, position),
                        &before(key, other, 0, position),
                    );
                    for row in 1..rows.len() {
                        assert_same_bits(
                            format_args!("{name}, {key}, row {row}"),
                            kept.row(row),
                            other.row(row),
                        );
                    }
                }
            }
        });
    });
}

/// Rows with the same rotary frequencies at both lengths.
fn same_frequencies(model: &Model, lengths: [usize; 2]) -> bool {
    model.arch().ropes.iter().all(|rope| match rope.scaling {
        RopeScaling::Dynamic { original, .. } => lengths.iter().all(|length| *length <= original),
        RopeScaling::LongRope { original, .. } => (lengths[0] <= original) == (lengths[1] <= original),
        _ => true,
    })
}

#[test]
fn the_beginning_of_a_row_gives_what_it_gives_alone() {
    for_every_variant(|name, model| {
        holds(name, 3, (some_rows(model), proptest::arbitrary::any::<Index>()), |(rows, cut)| {
            let row = &rows[0];
            let position = cut.index(row.len()) + 1;
            if !same_frequencies(model, [row.len(), position]) {
                return;
            }
            for points in [all_points(model), without_heads(model)] {
                let whole = capture(model, std::slice::from_ref(row), points.iter().copied());
                let beginning = capture(model, &[row[..position].to_vec()], points);
                for (key, kept) in beginning.iter() {
                    let place = format!("{name}, {key}, {position} of {} tokens", row.len());
                    let whole = before(key, whole.get(key).unwrap(), 0, position);
                    assert_same_bits(place, &whole, kept.values());
                }
            }
        });
    });
}

#[test]
fn a_nan_in_a_token_never_reaches_earlier_tokens_or_other_rows() {
    for_every_variant(|name, model| {
        let rows = two_rows(model);
        let position = rows[0].len() / 2;
        let poison = |_: Point, value: &mut Value<'_>| {
            if let Some(vector) = value.vector_mut(0, position) {
                vector.fill(f32::NAN);
            }
        };
        for points in [all_points(model), without_heads(model)] {
            let clean = capture(model, &rows, points.iter().copied());
            let edit = Edit { at: [Point::model(Site::InputEmbeddings)].into(), change: poison };
            let poisoned = capture_after(model, &rows, points, edit);
            for (key, kept) in clean.iter() {
                let other = poisoned.get(key).unwrap();
                let place = format!("{name}, {key} before the NaN");
                assert_same_bits(place, &before(key, kept, 0, position), &before(key, other, 0, position));
                assert_same_bits(format_args!("{name}, {key} of the other row"), kept.row(1), other.row(1));
            }
            let logits = poisoned.get("logits").unwrap().row(0);
            let after = &logits[position * model.arch().vocabulary..];
            assert!(after.iter().all(|x| x.is_nan()), "{name}: the NaN is lost on the way to the logits");
        }
    });
}
