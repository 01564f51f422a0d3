//! Gradients under changes of features, against differences of real runs.

use easyroutine::cache::ActivationCache;
use easyroutine::gradients::{Output, Rule, gradients};
use easyroutine::patching::Metric;
use easyroutine::positions::{Context, Row};
use easyroutine::request::Request;
use easyroutine::sites::{Point, Site};
use easyroutine::{Batch, Model, Result, Stop, Tap, Value, Want};
use easyroutine_dictionaries::{Dictionaries, FeatureChange, FeatureEdits};

use crate::common::{Case, cases};

const ANSWER: u32 = 3;
const AGAINST: u32 = 5;

/// Adds a vector to the embeddings of one row, and keeps the metric of its last token.
struct Nudged<'a> {
    by: &'a [f32],
    factor: f32,
    metric: f64,
}

impl Tap for Nudged<'_> {
    fn wants(&self, point: Point) -> Want {
        match point.site() {
            Site::InputEmbeddings => Want::Edit,
            Site::Logits => Want::Read,
            _ => Want::Nothing,
        }
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let length = value.batch().length(0);
        if point.site() == Site::Logits {
            let logits = value.vector(0, length - 1).unwrap();
            self.metric = f64::from(logits[ANSWER as usize]) - f64::from(logits[AGAINST as usize]);
            return Ok(());
        }
        let width = self.by.len() / length;
        for (position, by) in self.by.chunks_exact(width).enumerate() {
            let vector = value.vector_mut(0, position).unwrap();
            vector.iter_mut().zip(by).for_each(|(x, by)| *x += self.factor * by);
        }
        Ok(())
    }
}

fn edits<'d>(
    model: &Model,
    dictionaries: &'d Dictionaries,
    row: &Row<'_>,
    changes: &[String],
) -> FeatureEdits<'d> {
    let changes: Vec<FeatureChange> = changes.iter().map(|text| text.parse().unwrap()).collect();
    FeatureEdits::new(&changes, dictionaries, model.cpu(), &[*row], Context::default()).unwrap()
}

fn gradient(model: &Model, dictionaries: &Dictionaries, ids: &[u32], changes: &[String]) -> (Vec<f32>, f64) {
    let row = Row::of(0, ids);
    let mut edits = edits(model, dictionaries, &row, changes);
    let request = Request::parse("input_embeddings", "all").unwrap();
    let metrics = [Metric::LogitDiff { answer: ANSWER, against: AGAINST }];
    let output = Output::Metric { metrics: &metrics, target: None };
    let (context, stop) = (Context::default(), Stop::Never);
    let found =
        gradients(model, &[row], &request, output, Rule::Gradient, &mut edits, context, stop).unwrap();
    let of = |cache: &ActivationCache| cache.iter().flat_map(|(_, kept)| kept.values().to_vec()).collect();
    (of(&found.cache), found.values[0])
}

fn metric(
    model: &Model,
    dictionaries: &Dictionaries,
    ids: &[u32],
    changes: &[String],
    by: &[f32],
    factor: f32,
) -> f64 {
    let row = Row::of(0, ids);
    let mut nudged = Nudged { by, factor, metric: f64::NAN };
    // The nudge comes first at the embeddings, the metric is read of the changed run.
    let mut taps = (edits(model, dictionaries, &row, changes), &mut nudged);
    model.forward(&Batch::new(&[ids]).unwrap(), &mut taps).unwrap();
    nudged.metric
}

/// Changes that every dictionary has: of the features that its references change.
fn changes(case: &Case, is_set: bool) -> Vec<(&'static str, Vec<String>)> {
    let all = if is_set { "features_d_*" } else { "features_d" };
    let one = match is_set {
        true => format!("features_d_{}", case.size("ablated_layer")),
        false => "features_d".to_owned(),
    };
    let feature = case.size("ablated");
    vec![
        ("ablated", vec![format!("{one}:{feature}@all=0")]),
        ("scaled", vec![format!("{one}:{feature}@all*1.5")]),
        ("clamped", vec![format!("{one}:{feature}@all=0.5")]),
        ("steered", vec![format!("{one}:{feature}@all+0.5")]),
        ("spliced", vec![format!("{all}@all=splice")]),
        ("spliced and scaled", vec![format!("{one}:{feature}@all*0.5"), format!("{all}@all=splice")]),
        ("spliced in part", vec![format!("{one}@-1=splice")]),
    ]
}

#[test]
fn gradients_under_changes_of_features_foretell_differences_of_runs() {
    for case in cases() {
        let model = case.model();
        let mut dictionaries = Dictionaries::default();
        dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
        let ids = &case.rows()[0];
        let is_set = dictionaries.all()[0].dictionary.is_set();
        for (what, changes) in changes(&case, is_set) {
            let (by, value) = gradient(&model, &dictionaries, ids, &changes);
            let unchanged = metric(&model, &dictionaries, ids, &changes, &by, 0.0);
            assert!((value - unchanged).abs() <= 1e-4 * value.abs().max(1.0), "{}: {what}", case.name);
            let norm = by.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 0.0, "{}: {what}", case.name);
            let direction: Vec<f32> = by.iter().map(|x| (f64::from(*x) / norm) as f32).collect();
            // A step that crosses a threshold is no derivative, and one that is too small is lost in f32.
            let errors = [0.1, 0.03, 0.01, 0.003, 0.001].map(|step| {
                let at =
                    |factor: f64| metric(&model, &dictionaries, ids, &changes, &direction, factor as f32);
                let slope = (at(step) - at(-step)) / (2.0 * step);
                (slope / norm - 1.0).abs()
            });
            let best = errors.iter().copied().fold(f64::INFINITY, f64::min);
            assert!(best < 0.02, "{}: {what}: {errors:?} of {norm}", case.name);
        }
    }
}

#[test]
fn nothing_that_changes_nothing_changes_a_gradient() {
    for case in cases() {
        let model = case.model();
        let mut dictionaries = Dictionaries::default();
        dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
        let ids = &case.rows()[0];
        let all = if dictionaries.all()[0].dictionary.is_set() { "features_d_*" } else { "features_d" };
        let plain = gradient(&model, &dictionaries, ids, &[]);
        assert_eq!(
            gradient(&model, &dictionaries, ids, &[format!("{all}@all=keep-error")]),
            plain,
            "{}",
            case.name
        );
        let spliced = gradient(&model, &dictionaries, ids, &[format!("{all}@all=splice")]);
        assert_ne!(spliced.0, plain.0, "{}", case.name);
    }
}
