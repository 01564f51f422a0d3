//! Rows fed piece by piece through a KV cache give the bits of whole rows.

use std::collections::{BTreeMap, BTreeSet};

use easyroutine::sites::Point;
use easyroutine::{Batch, KvCache, Model, Result, Tap, Value, Want};
use proptest::collection::vec;
use proptest::sample::Index;

use super::{all_points, for_every_variant, two_rows, without_heads};
use crate::common::{assert_same_bits, holds, some_rows};

/// Keeps the newest vector of every position.
#[derive(Default)]
struct Newest {
    wanted: BTreeSet<Point>,
    vectors: BTreeMap<(Point, usize, usize), Vec<f32>>,
}

impl Tap for Newest {
    fn wants(&self, point: Point) -> Want {
        if self.wanted.contains(&point) { Want::Read } else { Want::Nothing }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        for row in 0..value.batch().n_rows() {
            for position in value.batch().first(row)..value.batch().length(row) {
                let vector = value.vector(row, position).unwrap();
                // Scores and patterns have longer rows in later pieces; the addition is masked.
                let vector = &vector[value.visible(row, position)];
                self.vectors.insert((point, row, position), vector.to_vec());
            }
        }
        Ok(())
    }
}

/// Everything that a model reports for whole rows.
fn whole(model: &Model, rows: &[Vec<u32>], points: &[Point]) -> Newest {
    let mut newest = Newest { wanted: points.iter().copied().collect(), ..Newest::default() };
    model.forward(&Batch::new(rows).unwrap(), &mut newest).unwrap();
    newest
}

#[track_caller]
fn assert_same(name: &str, ours: &Newest, expected: &Newest) {
    assert_eq!(ours.vectors.len(), expected.vectors.len(), "{name}");
    for (at, vector) in &expected.vectors {
        assert_same_bits(
            format_args!("{name}, {} row {} at {}", at.0, at.1, at.2),
            &ours.vectors[at],
            vector,
        );
    }
}

#[test]
fn pieces_of_any_length_give_the_bits_of_whole_rows() {
    for_every_variant(|name, model| {
        let cuts = vec(proptest::arbitrary::any::<Index>(), 1..4);
        holds(name, 2, (some_rows(model), cuts), |(rows, cuts)| {
            let canonical = |points: Vec<Point>| -> Vec<Point> {
                points.into_iter().filter(|p| p.canonical() == *p).collect()
            };
            for points in [all_points(model), without_heads(model)].map(canonical) {
                let expected = whole(model, &rows, &points);
                let mut cache = KvCache::new(model.arch(), rows.len());
                let mut pieces = Newest { wanted: points.iter().copied().collect(), ..Newest::default() };
                let cut =
                    |row: &[u32], cut: Option<&Index>| cut.map_or(row.len(), |cut| cut.index(row.len() + 1));
                for step in 0..=cuts.len() {
                    let new: Vec<&[u32]> = (rows.iter().enumerate())
                        .map(|(number, row)| {
                            let start = cache.row(number).len();
                            &row[start..cut(row, cuts.get(step)).max(start)]
                        })
                        .collect();
                    model.forward_cached(&new, &mut cache, &mut pieces).unwrap();
                }
                assert!((0..rows.len()).all(|row| cache.row(row) == rows[row]));
                assert_same(name, &pieces, &expected);
            }
        });
    });
}

#[test]
fn what_a_tap_watched_in_one_piece_changes_no_bit_of_the_next() {
    for_every_variant(|name, model| {
        let rows = two_rows(model);
        let logits = [Point::model(easyroutine::sites::Site::Logits)];
        let expected = whole(model, &rows, &logits);
        let (heads, plain, nothing) = (all_points(model), logits.to_vec(), Vec::new());
        for watched in [[&heads, &plain], [&nothing, &plain], [&plain, &heads]] {
            let mut cache = KvCache::new(model.arch(), rows.len());
            let mut last = Newest::default();
            for (step, points) in watched.into_iter().enumerate() {
                last = Newest { wanted: points.iter().copied().collect(), ..Newest::default() };
                let piece = |row: &Vec<u32>| if step == 0 { row[..4].to_vec() } else { row[4..].to_vec() };
                let new: Vec<Vec<u32>> = rows.iter().map(piece).collect();
                model.forward_cached(&new, &mut cache, &mut last).unwrap();
            }
            let seen = last.vectors.iter().filter(|((point, ..), _)| *point == logits[0]);
            for (at, vector) in seen {
                assert_same_bits(
                    format_args!("{name}, row {} at {}", at.1, at.2),
                    vector,
                    &expected.vectors[at],
                );
            }
        }
    });
}

#[test]
fn an_error_leaves_the_cache_as_it_was() {
    struct Fails;
    impl Tap for Fails {
        fn wants(&self, point: Point) -> Want {
            if point.to_string() == "resid_out_1" { Want::Read } else { Want::Nothing }
        }
        fn at(&mut self, _: Point, _: &mut Value<'_>) -> Result<()> {
            Err(easyroutine::Error::new(easyroutine::ErrorKind::Interrupted, "enough"))
        }
    }
    for_every_variant(|name, model| {
        let rows = two_rows(model);
        let points = without_heads(model);
        let mut cache = KvCache::new(model.arch(), 2);
        let mut pieces = Newest { wanted: points.iter().copied().collect(), ..Newest::default() };
        let part = |range: std::ops::Range<usize>| -> Vec<&[u32]> {
            rows.iter().map(|row| &row[range.start.min(row.len())..range.end.min(row.len())]).collect()
        };
        model.forward_cached(&part(0..3), &mut cache, &mut pieces).unwrap();
        assert!(model.forward_cached(&part(3..99), &mut cache, &mut Fails).is_err());
        let beyond = vec![model.arch().vocabulary as u32];
        assert!(model.forward_cached(&[beyond, vec![]], &mut cache, &mut ()).is_err());
        assert!(model.forward_cached(&part(0..1)[..1], &mut cache, &mut ()).is_err());
        assert_eq!(cache.row(0), &rows[0][..3]);
        model.forward_cached(&part(3..99), &mut cache, &mut pieces).unwrap();
        assert_same(name, &pieces, &whole(model, &rows, &points));
    });
}
