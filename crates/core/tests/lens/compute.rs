//! The lens over a cache: whole vocabulary, directions, probabilities, accuracy, and rejected requests.

use easyroutine::ErrorKind;
use easyroutine::lens::{Direction, LensNorm, LensOptions, LogitLens, Metric, Role};
use easyroutine::load::{LoadOptions, open};
use easyroutine::sites::{Point, Site};

use super::{along, capped, captured, for_every_model, last_stream, own, predicted_from, read, rows};
use crate::common::draft::Draft;
use crate::common::taps::capture;
use crate::common::{assert_same_bits, cases, fixtures, folder, relative_error, tiny};

#[test]
fn the_final_layer_reads_as_the_logits() {
    for_every_model(|name, model| {
        let cache = captured(model, &rows(model));
        let (lens, key) = (LogitLens::from_model(model).unwrap(), last_stream(model).to_string());
        let logits = cache.get("logits").unwrap();
        let read_own = read(&lens, &cache, &key, &own());
        assert_eq!(read_own.row_shapes, logits.row_shapes, "{name}");
        assert_same_bits(name, read_own.values(), logits.values());
        if model.arch().final_norm.is_some() {
            let cached = read(&lens, &cache, &key, &LensOptions::default());
            let error = relative_error(cached.values(), logits.values());
            // The kept statistics of the norm are rounded to f32.
            assert!(error < 1e-6, "{name}: with cached statistics the lens is off by {error:.1e}");
        }
    });
}

#[test]
fn any_vector_reads_as_the_model_would_read_it_last() {
    for_every_model(|name, model| {
        let rows = rows(model);
        let cache = captured(model, &rows);
        let lens = LogitLens::from_model(model).unwrap();
        let mut keys = 0;
        for (key, kept) in cache.iter() {
            let Some(point) = key.point() else { continue };
            if Role::of(point.site()).is_none() {
                continue;
            }
            if model.arch().width(point) != Some(model.arch().d_model) {
                // An expert that reads and gives compressed vectors.
                let error = lens.compute(&cache, &key.to_string(), &own()).unwrap_err().to_string();
                assert!(
                    error.contains("write compressed vectors, so no lens reads it"),
                    "{name}, {key}: {error}"
                );
                continue;
            }
            keys += 1;
            let ours = read(&lens, &cache, &key.to_string(), &own());
            assert_same_bits(
                format_args!("{name}, {key}"),
                ours.values(),
                &predicted_from(model, &rows, kept),
            );
        }
        assert!(keys > 9, "{name}: {keys} keys");
    });
}

#[test]
fn directions_are_logits_and_their_differences_before_the_softcap() {
    for_every_model(|name, model| {
        let cache = captured(model, &rows(model));
        let lens = LogitLens::from_model(model).unwrap();
        let (vocabulary, key) = (model.arch().vocabulary, "resid_out_0");
        let logits = read(&lens, &cache, key, &own());
        let close = |ours: f32, expected: f32| {
            assert!(
                (ours - expected).abs() <= 2e-5 * expected.abs().max(1.0),
                "{name}: {ours} and {expected}"
            );
        };
        let token = |id: u32| read(&lens, &cache, key, &along(vec![Direction::Token(id)], LensNorm::Own));
        let (seven, last) = (token(7), token(vocabulary as u32 - 1));
        assert_eq!(seven.row_shapes, logits.row_shapes.iter().map(|s| vec![s[0]]).collect::<Vec<_>>());
        for (row, value) in logits.values().chunks_exact(vocabulary).zip(seven.values()) {
            close(capped(model, f64::from(*value)) as f32, row[7]);
        }
        let pair =
            read(&lens, &cache, key, &along(vec![Direction::Pair(7, vocabulary as u32 - 1)], LensNorm::Own));
        for ((pair, a), b) in pair.values().iter().zip(seven.values()).zip(last.values()) {
            assert_eq!(*pair, a - b, "{name}");
        }
        let directions = vec![Direction::Token(7), Direction::Pair(7, vocabulary as u32 - 1)];
        let one_a_row = read(&lens, &cache, key, &along(directions, LensNorm::Own));
        assert_same_bits(name, one_a_row.row(0), seven.row(0));
        assert_same_bits(name, one_a_row.row(1), pair.row(1));
    });
}

#[test]
fn probabilities_are_the_softmax_of_the_logits() {
    for_every_model(|name, model| {
        let cache = captured(model, &rows(model));
        let lens = LogitLens::from_model(model).unwrap();
        let vocabulary = model.arch().vocabulary;
        let logits = read(&lens, &cache, "resid_out_0", &own());
        let soft = LensOptions { softmax: true, ..own() };
        let probabilities = read(&lens, &cache, "resid_out_0", &soft);
        assert_eq!(probabilities.row_shapes, logits.row_shapes);
        let pair = LensOptions { softmax: true, ..along(vec![Direction::Pair(3, 5)], LensNorm::Own) };
        let differences = read(&lens, &cache, "resid_out_0", &pair);
        let vectors =
            logits.values().chunks_exact(vocabulary).zip(probabilities.values().chunks_exact(vocabulary));
        for ((logits, probabilities), difference) in vectors.zip(differences.values()) {
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f64> = logits.iter().map(|x| f64::from(x - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for (weight, p) in weights.iter().zip(probabilities) {
                assert!((weight / sum - f64::from(*p)).abs() < 1e-6, "{name}: {p} is not {}", weight / sum);
            }
            assert_eq!(*difference, probabilities[3] - probabilities[5], "{name}");
        }
    });
}

#[test]
fn accuracy_is_the_share_of_rows_in_which_the_first_of_a_pair_beats_the_second() {
    let model = tiny("llama");
    let rows: Vec<Vec<u32>> =
        (0..7u32).map(|row| (0..4).map(|i| (row * 61 + i * 13) % 320).collect()).collect();
    let cache = captured(&model, &rows);
    let lens = LogitLens::from_model(&model).unwrap();
    let directions: Vec<Direction> = (0..7).map(|row| Direction::Pair(row * 9, 200 - row)).collect();
    let key = "resid_out_1";
    let differences = read(&lens, &cache, key, &along(directions.clone(), LensNorm::Own));
    let accuracy = LensOptions { metric: Metric::Accuracy, ..along(directions, LensNorm::Own) };
    let shares = read(&lens, &cache, key, &accuracy);
    assert_eq!(shares.shape(), Some(vec![4]));
    let won = |position: usize| {
        differences.values().chunks_exact(4).filter(|row| row[position] > 0.0).count() as f32 / 7.0
    };
    let expected: Vec<f32> = (0..4).map(won).collect();
    assert_eq!(shares.values(), expected);
    assert!(expected.iter().any(|share| *share > 0.0 && *share < 1.0), "{expected:?} tells nothing");
}

#[test]
fn keys_come_in_numerical_order() {
    let mut draft = Draft::of("llama");
    draft.set("num_hidden_layers", 12);
    let own_layers: Vec<_> = draft.tensors.iter().map(|(n, t)| (n.clone(), t.clone())).collect();
    for (name, tensor) in own_layers.iter().filter(|(name, _)| name.contains(".layers.2.")) {
        (3..12).for_each(|l| {
            draft.tensors.insert(name.replace(".2.", &format!(".{l}.")), tensor.clone());
        });
    }
    let model = draft.load().unwrap();
    let cache = captured(&model, &[vec![1, 2]]);
    let names = |pattern: &str| -> Vec<String> {
        let results = LogitLens::from_model(&model).unwrap().compute(&cache, pattern, &own()).unwrap();
        results.into_iter().map(|(name, _)| name).collect()
    };
    let expected: Vec<String> = (0..12).map(|l| format!("logit_lens_resid_out_{l}")).collect();
    assert_eq!(names("resid_out_{i}"), expected);
    assert_eq!(names("resid_out_*"), expected);
    let heads = names("head_out_L{i}H{j}");
    assert_eq!(heads.len(), 48);
    assert_eq!(
        (heads[0].as_str(), heads[47].as_str()),
        ("logit_lens_head_out_L0H0", "logit_lens_head_out_L11H3")
    );
    assert_eq!(heads[2 * 4 + 1], "logit_lens_head_out_L2H1");
    assert_eq!(names("resid_out_-1"), ["logit_lens_resid_out_11"]);
}

#[test]
fn what_cannot_be_read_is_an_error_that_says_why() {
    let model = tiny("llama");
    let lens = LogitLens::from_model(&model).unwrap();
    let cache = captured(&model, &rows(&model));
    let refused = |cache, key: &str, options: &LensOptions, parts: &[&str]| {
        let error = lens.compute(cache, key, options).err().unwrap_or_else(|| panic!("{key} is read"));
        assert_eq!(error.kind(), ErrorKind::Input);
        for part in parts {
            assert!(error.to_string().contains(part), "{key}: {error}");
        }
        error
    };
    refused(&cache, "residout_0", &own(), &["residout_0"]);
    refused(&cache, "mlp_in_0", &own(), &["no `mlp_in_0`", "input_embeddings"]);
    refused(&cache, "resid_out_9", &own(), &["no `resid_out_9`"]);
    refused(&cache, "logits", &own(), &["residual stream's basis"]);
    let accuracy = |directions| LensOptions { metric: Metric::Accuracy, ..along(directions, LensNorm::Own) };
    let pair = Direction::Pair(1, 2);
    refused(
        &cache,
        "resid_out_0",
        &along(vec![Direction::Token(320)], LensNorm::Own),
        &["320", "vocabulary of 320"],
    );
    refused(&cache, "resid_out_0", &along(vec![Direction::Pair(1, 999)], LensNorm::Own), &["999"]);
    refused(&cache, "resid_out_0", &along(vec![pair; 3], LensNorm::Own), &["3 directions for 2 rows"]);
    refused(&cache, "resid_out_0", &along(vec![], LensNorm::Own), &["0 directions"]);
    refused(&cache, "resid_out_0", &accuracy(vec![Direction::Token(1)]), &["pairs"]);
    refused(&cache, "resid_out_0", &accuracy(vec![pair]), &["same number of positions"]);
    let without = LensOptions { metric: Metric::Accuracy, ..own() };
    refused(&cache, "resid_out_0", &without, &["pairs"]);
    let bare = capture(&model, &rows(&model), [Point::layer_of(Site::ResidOut, 0)]);
    let error =
        refused(&bare, "resid_out_0", &LensOptions::default(), &["`last_layernorm`", "same positions"]);
    assert!(error.hint_text().unwrap().contains("extract `last_layernorm`"));
}

#[test]
fn a_lens_loaded_alone_reads_the_same_and_needs_no_layer() {
    for case in cases("tiny") {
        let model = tiny(&case);
        let cache = captured(&model, &rows(&model));
        let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
        let whole = LogitLens::from_model(&model).unwrap().compute(&cache, "resid_out_*", &own()).unwrap();
        let files = folder(fixtures().join("tiny").join(&case));
        let alone = open(&files, &options).unwrap().lens(&options).unwrap();
        let mut draft = Draft::of(&case);
        draft.tensors.retain(|name, _| !name.split('.').any(|part| part.parse::<u32>().is_ok()));
        assert!(draft.load().is_err(), "{case}: layers are missing");
        let without_layers = draft.open().unwrap().lens(&options).unwrap_or_else(|e| panic!("{case}: {e}"));
        for lens in [alone, without_layers] {
            for ((key, ours), (_, other)) in
                whole.iter().zip(lens.compute(&cache, "resid_out_*", &own()).unwrap())
            {
                assert_same_bits(format_args!("{case}, {key}"), ours.values(), other.values());
            }
        }
    }
}
