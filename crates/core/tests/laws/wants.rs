//! What nobody wants is neither reported nor computed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use easyroutine::sites::{Point, Scope, Site};
use easyroutine::{Batch, Model, Tap};
use proptest::collection::vec;

use super::{for_every_model, two_rows};
use crate::common::draft::{Draft, Stored};
use crate::common::holds;
use crate::common::taps::Recorder;

/// Place of a point in the forward pass.
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
        // The buffers of the broken runs are used again.
        let mut recorder = Recorder { wanted: wanted.clone(), ..Recorder::default() };
        model.forward(&batch, &mut recorder).unwrap();
        assert_eq!(recorder.calls.len(), wanted.len(), "{name}");
    });
}

/// A model of 96 layers and 30000 tokens, so that what is computed without need shows in the time.
fn tall() -> Model {
    const LAYERS: usize = 96;
    const VOCABULARY: usize = 30_000;
    let mut draft = Draft::of("llama");
    draft.set("num_hidden_layers", LAYERS).set("vocab_size", VOCABULARY);
    let first: Vec<(String, Stored)> = draft
        .tensors
        .iter()
        .filter(|(name, _)| name.contains(".layers.0."))
        .map(|(name, tensor)| (name.clone(), tensor.clone()))
        .collect();
    for layer in 1..LAYERS {
        for (name, tensor) in &first {
            draft.tensors.insert(name.replace(".0.", &format!(".{layer}.")), tensor.clone());
        }
    }
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let wide = (0..VOCABULARY * 48).map(|i| (i % 89) as f32 * 0.01);
        draft.tensors.insert(name.to_owned(), Stored::f32(&[VOCABULARY, 48], wide));
    }
    draft.load().unwrap()
}

/// The shortest of many runs: the time of the work itself, whatever else the machine does.
fn shortest(model: &Model, tap: &mut dyn Tap) -> Duration {
    let batch = Batch::new(&[(0..40).collect::<Vec<u32>>()]).unwrap();
    let run = |_| {
        let start = Instant::now();
        model.forward(&batch, tap).unwrap();
        start.elapsed()
    };
    (0..12).map(run).min().unwrap()
}

/// Needless work gives no wrong number, so it can only be seen in the time. The bounds are a tenth of what is expected.
#[test]
fn a_run_ends_after_the_last_wanted_point_and_computes_logits_only_where_they_are_wanted() {
    let model = tall();
    let wanting = |text: &str| Recorder { wanted: [text.parse().unwrap()].into(), ..Recorder::default() };
    let all_layers = shortest(&model, &mut wanting("resid_out_95"));
    let one_layer = shortest(&model, &mut wanting("resid_out_0"));
    let none = shortest(&model, &mut ());
    let logits = shortest(&model, &mut wanting("logits"));
    assert!(one_layer * 10 < all_layers, "one layer takes {one_layer:?}, 96 take {all_layers:?}");
    assert!(none * 10 < all_layers, "nothing takes {none:?}, 96 layers take {all_layers:?}");
    let unembedding = logits.saturating_sub(all_layers);
    let mut last = Last(wanting("logits"));
    let last_logits = shortest(&model, &mut last).saturating_sub(all_layers);
    assert!(
        last_logits * 3 < unembedding,
        "logits of one token take {last_logits:?}, of 40 tokens {unembedding:?}"
    );
}

/// Wants logits of the last token alone.
struct Last(Recorder);

impl Tap for Last {
    fn wants(&self, point: Point) -> easyroutine::Want {
        self.0.wants(point)
    }

    fn tokens(&self, _: Point, batch: &Batch) -> Option<Vec<usize>> {
        Some(vec![batch.n_tokens() - 1])
    }

    fn at(&mut self, point: Point, value: &mut easyroutine::Value<'_>) -> easyroutine::Result<()> {
        let last = value.batch().n_tokens() - 1;
        assert!(value.vector(0, last - 1).is_none() && value.vector(0, last).is_some());
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
