//! Probes and steering vectors against scikit-learn, repeng's formulas and NumPy, all in float64.

use easyroutine_dictionaries::{Logistic, Probe, Steering, Vectors};
use easyroutine_files::ShardedSafeTensors;
use serde_json::Value;

use crate::common::{assert_near, fixtures, tiny};

fn lines(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixtures().join("directions").join(file)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn tensor(file: &ShardedSafeTensors, name: &str) -> Vec<f32> {
    file.tensor(name).unwrap_or_else(|| panic!("no {name}")).read_all().unwrap()
}

fn f32s(values: &[f64]) -> Vec<f32> {
    values.iter().map(|x| *x as f32).collect()
}

#[test]
fn probes_are_those_of_scikit_learn() {
    let prompts = lines("probes/prompts.jsonl");
    let expect: Value =
        serde_json::from_slice(&std::fs::read(fixtures().join("directions/probes/expect.json")).unwrap())
            .unwrap();
    let file = ShardedSafeTensors::open(fixtures().join("directions/probes/reference.safetensors")).unwrap();
    let label = |row: &Value| row["label"] == 1;
    for layer in 0..3 {
        let x = tensor(&file, &format!("x.{layer}"));
        let part = |split: &str| -> (Vec<f32>, Vec<bool>) {
            let rows = prompts.iter().zip(x.chunks_exact(48)).filter(|(row, _)| row["split"] == split);
            let rows: Vec<_> = rows.collect();
            (
                rows.iter().flat_map(|(_, x)| x.iter().copied()).collect(),
                rows.iter().map(|(row, _)| label(row)).collect(),
            )
        };
        let ((train, labels), (test, test_labels)) = (part("train"), part("test"));
        let (train, test) = (Vectors::new(&train, 48).unwrap(), Vectors::new(&test, 48).unwrap());
        for (name, c, standardise) in
            [("logistic", 1.0, false), ("logistic_weak", 0.01, false), ("logistic_standardised", 0.1, true)]
        {
            let probe = Probe::logistic(train, &labels, Logistic { c, standardise }).unwrap();
            let what = format!("{name}.{layer}");
            let expected = &expect[&what];
            assert_eq!(
                probe.accuracy(train, &labels),
                expected["accuracy_train"].as_f64().unwrap(),
                "{what}"
            );
            assert_eq!(
                probe.accuracy(test, &test_labels),
                expected["accuracy_test"].as_f64().unwrap(),
                "{what}"
            );
            if standardise {
                // The references keep the weights of standardised vectors.
                let deviations = tensor(&file, &format!("standardise.{layer}.std"));
                let weight: Vec<f64> =
                    probe.weight.iter().zip(&deviations).map(|(w, d)| w * f64::from(*d)).collect();
                assert_near(&what, &f32s(&weight), &tensor(&file, &format!("{what}.weight")), 1e-5);
            } else {
                assert_near(&what, &f32s(&probe.weight), &tensor(&file, &format!("{what}.weight")), 1e-5);
                assert_near(&what, &[probe.bias as f32], &tensor(&file, &format!("{what}.bias")), 1e-5);
            }
            let all = Vectors::new(&x, 48).unwrap();
            let found: Vec<f64> = probe.scores(all).iter().map(|z| 1.0 / (1.0 + (-z).exp())).collect();
            assert_near(&what, &f32s(&found), &tensor(&file, &format!("{what}.probability")), 1e-5);
        }
        let probe = Probe::mean_difference(train, &labels).unwrap();
        let what = format!("mean_difference.{layer}");
        assert_near(&what, &f32s(&probe.weight), &tensor(&file, &what), 1e-5);
        assert_near(&what, &[-probe.bias as f32], &tensor(&file, &format!("{what}.threshold")), 1e-5);
        assert_eq!(
            probe.accuracy(test, &test_labels),
            expect[&what]["accuracy_test"].as_f64().unwrap(),
            "{what}"
        );
    }
}

#[test]
fn steering_vectors_are_those_of_the_references() {
    use easyroutine::extract::{Example, Options, extract};
    use easyroutine::request::Request;
    let model = tiny("gpt2");
    let pairs = lines("steering/pairs.jsonl");
    let side = |key: &str| {
        let examples: Vec<Example> = pairs
            .iter()
            .enumerate()
            .map(|(number, pair)| {
                let ids =
                    pair[key].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
                Example { number, ids, ..Example::default() }
            })
            .collect();
        extract(&model, &Request::parse("resid_out_*", "last").unwrap(), &examples, Options::default())
            .unwrap()
    };
    let (positive, negative) = (side("positive_ids"), side("negative_ids"));
    let file =
        ShardedSafeTensors::open(fixtures().join("directions/steering/reference.safetensors")).unwrap();
    for (layer, ((_, positive), (_, negative))) in positive.iter().zip(negative.iter()).enumerate() {
        let rows = |kept: &easyroutine::cache::Kept| -> Vec<f32> {
            (0..pairs.len()).flat_map(|row| kept.row(row).to_vec()).collect()
        };
        let (positive, negative) = (rows(positive), rows(negative));
        let sides = (Vectors::new(&positive, 48).unwrap(), Vectors::new(&negative, 48).unwrap());
        for how in [Steering::Caa, Steering::PcaDiff, Steering::PcaCenter] {
            let what = format!("{}.{layer}", how.name());
            assert_near(&what, &f32s(&how.vector(sides.0, sides.1).unwrap()), &tensor(&file, &what), 2e-5);
        }
    }
}

#[test]
fn what_has_no_direction_is_refused() {
    let rows = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let three = Vectors::new(&rows, 2).unwrap();
    let how = Logistic { c: 1.0, standardise: false };
    assert!(Probe::logistic(three, &[true; 3], how).unwrap_err().to_string().contains("one label"));
    assert!(Probe::logistic(three, &[true], how).unwrap_err().to_string().contains("1 labels for 3 rows"));
    assert!(Probe::logistic(three, &[true, false, true], Logistic { c: -1.0, ..how }).is_err());
    assert!(Probe::mean_difference(Vectors::new(&[1.0, 1.0], 1).unwrap(), &[true, false]).is_err());
    let moved: Vec<f32> = rows.iter().map(|x| x + 1.0).collect();
    let moved = Vectors::new(&moved, 2).unwrap();
    assert!(Steering::PcaDiff.vector(moved, three).is_err(), "all pairs differ in the same way");
    assert!(Steering::Caa.vector(moved, three).is_ok());
    assert!(Steering::Caa.vector(three, three).is_err());
    assert!(Vectors::new(&[f32::NAN], 1).is_err());
    assert!(Vectors::new(&rows, 4).is_err());
}
