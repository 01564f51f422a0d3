//! Unwanted activations are neither reported nor computed.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use easyroutine::sites::{Point, Scope, Site};
use easyroutine::{Batch, Stop, Tap, Value};
use proptest::collection::vec;

use super::{for_every_model, two_rows};
use crate::common::holds;
use crate::common::taps::{Edit, Recorder};

/// A point's place in the forward pass.
fn stage(point: &Point) -> (usize, usize, Site, usize) {
    let part = match point.site() {
        Site::InputEmbeddings => 0,
        site if site.scope() == Scope::Model => 2,
        _ => 1,
    };
    (part, point.layer().unwrap_or(0), point.site(), point.head().unwrap_or(0))
}

#[test]
fn a_tap_is_called_once_at_each_point_that_it_wants_and_nowhere_else() {
    for_every_model(|name, model| {
        let batch = Batch::new(&two_rows(model)).unwrap();
        let points: Vec<Point> = model.arch().points().collect();
        let some = vec(proptest::bool::weighted(0.3), points.len());
        holds(name, 12, some, |chosen| {
            let wanted: BTreeSet<Point> =
                points.iter().zip(chosen).filter(|(_, wanted)| *wanted).map(|(point, _)| *point).collect();
            let mut recorder = Recorder { wanted: wanted.clone(), ..Recorder::default() };
            model.forward(&batch, &mut recorder).unwrap();
            assert_eq!(recorder.calls.iter().copied().collect::<BTreeSet<_>>(), wanted, "{name}");
            assert_eq!(recorder.calls.len(), wanted.len(), "{name}: a point was reported twice");
            let stages: Vec<_> =
                recorder.calls.iter().map(stage).map(|(part, layer, ..)| (part, layer)).collect();
            assert!(stages.is_sorted(), "{name}: {:?}", recorder.calls);
        });
    });
}

#[test]
fn an_error_of_a_tap_ends_the_run_and_is_returned() {
    for_every_model(|name, model| {
        let batch = Batch::new(&two_rows(model)).unwrap();
        let wanted: BTreeSet<Point> = model.arch().points().collect();
        for point in &wanted {
            let mut recorder =
                Recorder { wanted: wanted.clone(), fails_at: Some(*point), ..Recorder::default() };
            let error = model.forward(&batch, &mut recorder).unwrap_err();
            assert_eq!(error.kind(), easyroutine::ErrorKind::Interrupted, "{name}, {point}");
            assert_eq!(recorder.calls.last(), Some(point), "{name}: called again after an error");
        }
        // The buffers of the interrupted runs are used again.
        let mut recorder = Recorder { wanted: wanted.clone(), ..Recorder::default() };
        model.forward(&batch, &mut recorder).unwrap();
        assert_eq!(recorder.calls.len(), wanted.len(), "{name}");
    });
}

#[test]
fn logits_are_reported_only_for_the_tokens_that_are_wanted() {
    for_every_model(|name, model| {
        let wanted = [Point::model(Site::Logits)].into();
        let mut last = Last(Recorder { wanted, ..Recorder::default() });
        model.forward(&Batch::new(&two_rows(model)).unwrap(), &mut last).unwrap();
        assert_eq!(last.0.calls.len(), 1, "{name}");
    });
}

#[test]
fn a_run_ends_before_the_block_at_which_it_is_stopped() {
    for_every_model(|name, model| {
        let batch = Batch::new(&two_rows(model)).unwrap();
        let wanted: BTreeSet<Point> = model.arch().points().collect();
        for block in 0..model.arch().layers.len() {
            let asked = Cell::new(0);
            let is_due = || asked.replace(asked.get() + 1) == block;
            let mut recorder = Recorder { wanted: wanted.clone(), ..Recorder::default() };
            let error = model.forward_until(&batch, &mut recorder, Stop::When(&is_due)).unwrap_err();
            assert_eq!(error.kind(), easyroutine::ErrorKind::Interrupted, "{name}");
            let is_before = |point: &&Point| match point.layer() {
                Some(layer) => layer < block,
                None => point.site() == Site::InputEmbeddings,
            };
            assert_eq!(recorder.calls.len(), wanted.iter().filter(is_before).count(), "{name}");
        }
    });
}

#[test]
fn a_value_is_the_same_as_a_matrix_and_as_vectors() {
    for_every_model(|name, model| {
        let batch = Batch::new(&two_rows(model)).unwrap();
        let at: BTreeSet<Point> = model.arch().points().collect();
        let matrices = RefCell::new(0);
        let change = |point: Point, value: &mut Value<'_>| {
            for row in 0..value.batch().n_rows() {
                let span = value.batch().span(row).len();
                let Some(matrix) = value.matrix(row) else {
                    assert!(value.is_of_rows(), "{name}, {point}");
                    continue;
                };
                assert_eq!(
                    (matrix.n_rows(), matrix.n_columns()),
                    (span, value.width(row)),
                    "{name}, {point}"
                );
                let vectors: Vec<Vec<f32>> =
                    (0..span).map(|i| value.vector(row, i).unwrap().to_vec()).collect();
                let rows: Vec<Vec<f32>> = (0..span).map(|i| matrix.row(i).to_vec()).collect();
                for (i, vector) in vectors.iter().enumerate() {
                    assert_eq!(rows[i], *vector, "{name}, {point}");
                    assert_eq!(value.matrix_mut(row).unwrap().row_mut(i), &vector[..], "{name}, {point}");
                }
                *matrices.borrow_mut() += 1;
            }
        };
        model.forward(&batch, &mut Edit { at, change }).unwrap();
        assert!(*matrices.borrow() > 0, "{name}");
    });
}

/// Wants only the last token's logits.
struct Last(Recorder);

impl Tap for Last {
    fn wants(&self, point: Point) -> easyroutine::Want {
        self.0.wants(point)
    }

    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        Some(vec![batch.n_tokens() - 1])
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> easyroutine::Result<()> {
        let batch = value.batch();
        let given: Vec<(usize, usize)> = (0..batch.n_rows())
            .flat_map(|row| (0..batch.length(row)).map(move |position| (row, position)))
            .filter(|(row, position)| value.vector(*row, *position).is_some())
            .collect();
        let last = batch.n_rows() - 1;
        assert_eq!(given, [(last, batch.length(last) - 1)]);
        self.0.at(point, value)
    }
}

#[test]
fn with_nothing_wanted_the_rows_are_still_checked() {
    for_every_model(|name, model| {
        let beyond = Batch::new(&[[model.arch().vocabulary as u32]]).unwrap();
        assert!(model.forward(&beyond, &mut ()).is_err(), "{name}");
    });
}

#[test]
fn after_the_last_attention_only_wanted_tokens_are_computed_to_the_same_bits() {
    for_every_model(|name, model| {
        let batch = Batch::new(&two_rows(model)).unwrap();
        let last = model.arch().layers.len() - 1;
        let follows = |point: &Point| match point.layer() {
            Some(layer) => layer == last && point.site() >= Site::MlpIn,
            None => point.site() != Site::InputEmbeddings,
        };
        let every: BTreeSet<Point> = model.arch().points().collect();
        for wanted in [every.clone(), every.iter().copied().filter(follows).collect()] {
            let run = |most: usize| {
                let mut ends = Ends { most, wanted: wanted.clone(), seen: BTreeMap::new() };
                model.forward(&batch, &mut ends).unwrap();
                ends.seen
            };
            let (whole, ends) = (run(usize::MAX), run(2));
            for (point, seen) in &ends {
                let computed = if follows(point) { 2 * batch.n_rows() } else { batch.n_tokens() };
                assert_eq!(seen.computed, computed, "{name}, {point}");
                for (row, vectors) in seen.rows.iter().enumerate() {
                    let all = &whole[point].rows[row];
                    assert_eq!(vectors.len(), 2, "{name}, {point}");
                    assert_eq!(vectors[..], all[all.len() - 2..], "{name}, {point}");
                }
            }
            assert_eq!(ends.len(), wanted.len(), "{name}");
        }
    });
}

/// Wants the last tokens of each row.
struct Ends {
    most: usize,
    wanted: BTreeSet<Point>,
    seen: BTreeMap<Point, Seen>,
}

/// The values at one point.
struct Seen {
    /// Tokens that were computed.
    computed: usize,
    /// The bits of each row's last vectors.
    rows: Vec<Vec<Vec<u32>>>,
}

impl Tap for Ends {
    fn wants(&self, point: Point) -> easyroutine::Want {
        if self.wanted.contains(&point) { easyroutine::Want::Read } else { easyroutine::Want::Nothing }
    }

    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        Some(batch.spans().flat_map(|span| span.end - span.len().min(self.most)..span.end).collect())
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> easyroutine::Result<()> {
        let batch = value.batch();
        let last = |row: usize| {
            let length = batch.length(row);
            let positions = length - length.min(self.most)..length;
            let vectors = positions.filter_map(|position| value.vector(row, position));
            vectors.map(|vector| vector.iter().map(|x| x.to_bits()).collect()).collect()
        };
        let seen = Seen { computed: batch.n_tokens(), rows: (0..batch.n_rows()).map(last).collect() };
        self.seen.insert(point, seen);
        Ok(())
    }
}
