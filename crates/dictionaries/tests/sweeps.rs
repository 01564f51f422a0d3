//! Sweeps of features: every cell is a whole run with that change, to the bit.

use easyroutine::patching::{By, Grid, Metric};
use easyroutine::positions::{Context, Row};
use easyroutine::{Batch, LastLogits, Model, Result, Stop};
use easyroutine_dictionaries::{
    Chosen, Dictionaries, FeatureCapture, FeatureChange, FeatureColumns, FeatureEdits, FeatureSweep,
    sweep_features,
};

use crate::common::{Case, cases};

const METRIC: Metric = Metric::LogitDiff { answer: 3, against: 11 };

fn opened(case: &Case, model: &Model) -> (Dictionaries, String) {
    let mut dictionaries = Dictionaries::default();
    dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
    let is_set = dictionaries.all()[0].dictionary.is_set();
    (dictionaries, if is_set { "features_d_*" } else { "features_d" }.to_owned())
}

/// The metric of a whole run under changes written as text.
fn whole_run(model: &Model, dictionaries: &Dictionaries, row: &[u32], changes: &[String]) -> f64 {
    let changes: Vec<FeatureChange> = changes.iter().map(|text| text.parse().unwrap()).collect();
    let rows = [Row::of(0, row)];
    let edits = FeatureEdits::new(&changes, dictionaries, model.cpu(), &rows, Context::default()).unwrap();
    let mut taps = (edits, LastLogits::of(0..1));
    model.forward(&Batch::new(&[row]).unwrap(), &mut taps).unwrap();
    let logits = taps.1.logits[0].clone().unwrap();
    METRIC.of(&logits, &logits, None).unwrap()
}

/// What a feature is at each position of a row.
fn values(model: &Model, dictionaries: &Dictionaries, row: &[u32], key: &str, feature: u32) -> Vec<f32> {
    let positions = vec![(0..row.len()).collect()];
    let mut capture = FeatureCapture::new(&[key.to_owned()], dictionaries, model.cpu(), positions).unwrap();
    model.forward(&Batch::new(&[row]).unwrap(), &mut capture).unwrap();
    let found = capture.finish().remove(0).1;
    let mut values = vec![0.0; row.len()];
    for ([_, position, number], value) in found.indices.iter().zip(&found.values) {
        if *number as u32 == feature {
            values[*position as usize] = *value;
        }
    }
    values
}

fn swept(model: &Model, dictionaries: &Dictionaries, row: &[u32], sweep: &FeatureSweep) -> Result<Grid> {
    let mut heard = Vec::new();
    let grid = sweep_features(model, dictionaries, row, sweep, Stop::Never, |done, of| {
        heard.push((done, of));
        Ok(())
    })?;
    let n = grid.values.concat().len();
    assert_eq!(heard, (0..=n).map(|done| (done, n)).collect::<Vec<_>>());
    Ok(grid)
}

fn request(key: &str, by: By, columns: FeatureColumns, chosen: Chosen) -> FeatureSweep {
    FeatureSweep { keys: vec![key.to_owned()], chosen, positions: vec![4, 0, 2], columns, by, metric: METRIC }
}

/// What a sweep gives each position of a feature, from runs of their own.
fn replacement(model: &Model, dictionaries: &Dictionaries, by: &By, key: &str, feature: u32) -> Vec<f32> {
    let of = |row: &Vec<u32>| values(model, dictionaries, row, key, feature);
    let mean = |values: &mut dyn Iterator<Item = f32>| {
        let values: Vec<f64> = values.map(f64::from).collect();
        (values.iter().sum::<f64>() / values.len() as f64) as f32
    };
    match by {
        By::Zero => vec![0.0; 5],
        By::Resample(other) | By::Patch(other) => of(other),
        By::Mean(rows) => {
            let all: Vec<f32> = rows.iter().flat_map(of).collect();
            vec![mean(&mut all.into_iter()); 5]
        }
        By::MeanOfRows(rows) => {
            let each: Vec<Vec<f32>> = rows.iter().map(of).collect();
            (0..5).map(|position| mean(&mut each.iter().map(|row| row[position]))).collect()
        }
    }
}

#[test]
fn a_cell_is_a_whole_run_with_its_change_to_the_bit() {
    let (mut changed, mut models) = (0, 0);
    for case in cases() {
        let model = case.model();
        models += 1;
        let (dictionaries, key) = opened(&case, &model);
        let rows = case.rows();
        let (row, other) = (rows[0][..5].to_vec(), rows[1][..5].to_vec());
        let ways = [
            By::Zero,
            By::Patch(other.clone()),
            By::Mean(vec![other.clone(), row[1..4].to_vec()]),
            By::MeanOfRows(vec![other.clone(), row.clone()]),
        ];
        let every = whole_run(&model, &dictionaries, &row, &[]);
        for (number, by) in ways.into_iter().enumerate() {
            // Each way by one kind of column, and by the other in the next dictionary.
            let together = (number + models) % 2 == 0;
            let columns = if together { FeatureColumns::Together } else { FeatureColumns::Positions };
            let sweep = request(&key, by, columns, Chosen::Strongest(3));
            let grid = match swept(&model, &dictionaries, &row, &sweep) {
                Ok(grid) => grid,
                Err(e) if e.to_string().contains("no feature is active") => continue,
                Err(e) => panic!("{}: {e}", case.name),
            };
            assert_eq!(grid.unchanged.to_bits(), every.to_bits(), "{}", case.name);
            for (names, found) in grid.activations.iter().zip(&grid.values) {
                let (key, feature) = names[0].rsplit_once(':').unwrap();
                let to = replacement(&model, &dictionaries, &sweep.by, key, feature.parse().unwrap());
                let change = |position: &usize| format!("{key}:{feature}@{position}={}", to[*position]);
                let columns: Vec<Vec<usize>> =
                    if together { vec![vec![0, 2, 4]] } else { vec![vec![0], vec![2], vec![4]] };
                for (positions, found) in columns.iter().zip(found) {
                    let changes: Vec<String> = positions.iter().map(change).collect();
                    let expected = whole_run(&model, &dictionaries, &row, &changes);
                    assert_eq!(found.to_bits(), expected.to_bits(), "{}: {changes:?}", case.name);
                    changed += usize::from(*found != grid.unchanged);
                }
            }
        }
    }
    assert!(changed > 100 && models > 20, "{changed} cells of {models} models differ");
}

#[test]
fn a_feature_that_stays_as_it_is_has_no_effect() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let (dictionaries, key) = opened(&case, &model);
    let row = case.rows()[0][..5].to_vec();
    let n = dictionaries.all()[0].dictionary.layers()[0].n_features() as u32;
    let is_silent =
        |feature: &u32| values(&model, &dictionaries, &row, &key, *feature).iter().all(|x| *x == 0.0);
    let silent = (0..n).find(is_silent).unwrap();
    let listed = Chosen::Listed(vec![silent]);
    let grid =
        swept(&model, &dictionaries, &row, &request(&key, By::Zero, FeatureColumns::Positions, listed))
            .unwrap();
    assert_eq!(grid.effects(), [[0.0; 3]]);
    // A prompt patched with itself has nothing to choose from.
    let itself = request(&key, By::Patch(row.clone()), FeatureColumns::Together, Chosen::Strongest(5));
    let error = swept(&model, &dictionaries, &row, &itself).unwrap_err().to_string();
    assert!(error.contains("no feature"), "{error}");
}

#[test]
fn the_strongest_are_those_that_a_gradient_scores_highest() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let (dictionaries, key) = opened(&case, &model);
    let row = case.rows()[0][..5].to_vec();
    let scores = easyroutine_dictionaries::attribute(
        &model,
        &dictionaries,
        std::slice::from_ref(&key),
        &Row::of(0, &row),
        None,
        &["0".parse().unwrap(), "2".parse().unwrap(), "4".parse().unwrap()],
        METRIC,
        Context::default(),
        Stop::Never,
    )
    .unwrap();
    let sweep = request(&key, By::Zero, FeatureColumns::Positions, Chosen::Strongest(2));
    let grid = swept(&model, &dictionaries, &row, &sweep).unwrap();
    let mut best: Vec<u32> = scores.scores.iter().map(|score| score.feature).collect();
    let mut seen = std::collections::BTreeSet::new();
    best.retain(|feature| seen.insert(*feature));
    assert_eq!(grid.features, best[..2]);
    assert_eq!(grid.columns, ["position 0", "position 2", "position 4"]);
}

#[test]
fn wrong_requests_are_refused_by_name() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let (dictionaries, key) = opened(&case, &model);
    let row = case.rows()[0][..5].to_vec();
    let good = request(&key, By::Zero, FeatureColumns::Positions, Chosen::Listed(vec![1]));
    let refused = |sweep: FeatureSweep, words: &str| {
        let error = swept(&model, &dictionaries, &row, &sweep).unwrap_err();
        let said = format!("{error} {}", error.hint_text().unwrap_or_default());
        assert!(said.contains(words), "{said}");
    };
    refused(FeatureSweep { chosen: Chosen::Listed(vec![1, 64]), ..good.clone() }, "no feature 64");
    refused(FeatureSweep { positions: vec![5], ..good.clone() }, "position 5 is outside the row");
    refused(FeatureSweep { positions: Vec::new(), ..good.clone() }, "features and positions");
    refused(FeatureSweep { chosen: Chosen::Listed(Vec::new()), ..good.clone() }, "features and positions");
    refused(FeatureSweep { keys: vec!["features_e".to_owned()], ..good.clone() }, "no dictionary for");
    refused(FeatureSweep { by: By::Patch(row[1..].to_vec()), ..good.clone() }, "has 4 tokens");
    refused(FeatureSweep { by: By::Mean(Vec::new()), ..good.clone() }, "over no rows");
    refused(FeatureSweep { chosen: Chosen::Strongest(65_536), ..good.clone() }, "at most 65536");
    let without = FeatureSweep { metric: Metric::Kl, chosen: Chosen::Strongest(3), ..good };
    refused(without, "features are not scored by");
}
