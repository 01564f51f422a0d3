//! The run in f64 beside ours: every place of every fixture.

use std::collections::BTreeMap;

use easyroutine::load::LoadOptions;
use easyroutine::sites::Point;
use easyroutine::{Batch, Dtype, ExactTap, ExactValue, Model, Result, Stop, Tap, Value, Want};

use crate::common::{cases, tiny, tiny_with};

/// All values of a run: for each point those of each row, token after token.
#[derive(Default)]
struct All(BTreeMap<Point, Vec<Vec<f64>>>);

impl Tap for All {
    fn wants(&self, _: Point) -> Want {
        Want::Read
    }

    fn at(&mut self, point: Point, value: &mut Value<'_>) -> Result<()> {
        let batch = value.batch();
        let of_row = |row: usize| {
            let vectors = (0..batch.length(row)).filter_map(|position| value.vector(row, position));
            vectors.flatten().map(|x| f64::from(*x)).collect()
        };
        self.0.insert(point, (0..batch.n_rows()).map(of_row).collect());
        Ok(())
    }
}

impl ExactTap for All {
    fn wants(&self, _: Point) -> Want {
        Want::Read
    }

    fn at(&mut self, point: Point, value: &mut ExactValue<'_>) -> Result<()> {
        let batch = value.batch();
        let of_row = |row: usize| {
            let vectors = (0..batch.length(row)).filter_map(|position| value.vector(row, position));
            vectors.flatten().copied().collect()
        };
        self.0.insert(point, (0..batch.n_rows()).map(of_row).collect());
        Ok(())
    }
}

/// Both runs of some rows.
pub(crate) fn both(model: &Model, rows: &[Vec<u32>]) -> [BTreeMap<Point, Vec<Vec<f64>>>; 2] {
    let batch = Batch::new(rows).unwrap();
    let (mut ours, mut exact) = (All::default(), All::default());
    model.forward(&batch, &mut ours).unwrap();
    model.forward_exact(&batch, &mut exact, Stop::Never).unwrap();
    [ours.0, exact.0]
}

/// Rows of different length that every fixture can run.
fn rows() -> Vec<Vec<u32>> {
    vec![vec![5, 90, 17, 200, 31, 8, 64], vec![44], (0..14).map(|i| (i * 37 + 11) % 250).collect()]
}

/// The largest difference over the largest exact value of all rows, where both are finite; hidden keys are infinite in both.
fn error(ours: &[Vec<f64>], exact: &[Vec<f64>]) -> f64 {
    let (mut largest, mut apart) = (0.0_f64, 0.0_f64);
    for (ours, exact) in ours.iter().zip(exact) {
        assert_eq!(ours.len(), exact.len());
        for (ours, exact) in ours.iter().zip(exact).filter(|(ours, exact)| ours != exact) {
            assert!(ours.is_finite() && exact.is_finite(), "{ours} where {exact} is exact");
            apart = apart.max((ours - exact).abs());
        }
        exact.iter().filter(|x| x.is_finite()).for_each(|x| largest = largest.max(x.abs()));
    }
    if apart == 0.0 { 0.0 } else { apart / largest }
}

/// What a run in f32 may differ by, in units of f32's precision, for each layer that the values went through: sums of some
/// hundred terms, and what the weights, louder than those of real models, make of everything before. The most is 71.
const PER_LAYER: f64 = 96.0;

#[test]
fn every_place_of_every_fixture_is_within_rounding_of_the_run_in_f64() {
    let mut failures = Vec::new();
    for case in cases("tiny") {
        let model = tiny(&case);
        let [ours, exact] = both(&model, &rows());
        assert!(ours.keys().eq(exact.keys()), "{case}: both runs show the same places");
        let layers = model.arch().layers.len();
        for (point, rows) in &ours {
            let error = error(rows, &exact[point]) / f64::from(f32::EPSILON);
            let through = point.layer().map_or(layers, |layer| layer + 1);
            if error > PER_LAYER * through as f64 {
                failures.push(format!("{case}: {point}: {error:.1} units"));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_row_is_the_same_alone_and_in_a_batch_and_with_any_threads() {
    for case in ["llama", "mixtral", "mamba2", "gemma4_text"] {
        let mut model = tiny(case);
        let [_, together] = both(&model, &rows());
        model.set_threads(3);
        for (number, row) in rows().iter().enumerate() {
            let [_, alone] = both(&model, std::slice::from_ref(row));
            for (point, rows) in &alone {
                assert!(rows[0] == together[point][number], "{case}: {point}, row {number}");
            }
        }
    }
}

#[test]
fn rounded_weights_are_refused() {
    let options = LoadOptions { dtype: Dtype::Bf16, ..LoadOptions::default() };
    let model = tiny_with("llama", &options);
    let batch = Batch::new(&rows()).unwrap();
    let error = model.forward_exact(&batch, &mut All::default(), Stop::Never).unwrap_err();
    assert!(error.to_string().contains("bf16"), "{error}");
}
