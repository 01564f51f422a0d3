//! Statistics of features over a data set, against the references, for any split.

use std::cell::RefCell;
use std::rc::Rc;

use easyroutine::{Batch, Model};
use easyroutine_dictionaries::{
    Dictionaries, FeatureWatch, Keeping, Observed, Statistics, Watched, WatchedRow,
};
use easyroutine_files::ShardedSafeTensors;
use proptest::prelude::*;
use serde_json::{Map, Value};

use crate::common::{Case, assert_near, cases, fixtures};

fn prompts() -> Vec<Vec<u32>> {
    let text = std::fs::read_to_string(fixtures().join("dictionaries/prompts.jsonl")).unwrap();
    let ids = |line: &str| -> Vec<u32> {
        let value: Value = serde_json::from_str(line).unwrap();
        value["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
    };
    text.lines().map(ids).collect()
}

/// Collects these prompts, a few at a time.
fn collected(
    model: &Model,
    dictionaries: &Dictionaries,
    prompts: &[Vec<u32>],
    numbers: &[usize],
    together: usize,
    keeping: Keeping,
) -> Statistics {
    let n = dictionaries.all()[0].dictionary.layer(0).unwrap().n_features();
    let watched: Watched = Rc::new(RefCell::new(vec![((0, 0), Statistics::new(n, keeping))]));
    for numbers in numbers.chunks(together) {
        let rows: Vec<WatchedRow> = numbers
            .iter()
            .map(|number| WatchedRow {
                number: *number as u32,
                ids: prompts[*number].clone(),
                positions: (0..prompts[*number].len()).collect(),
            })
            .collect();
        let batch = Batch::new(&rows.iter().map(|row| &row.ids).collect::<Vec<_>>()).unwrap();
        model.forward(&batch, &mut FeatureWatch::new(dictionaries, model.cpu(), rows, &watched)).unwrap();
    }
    watched.take().remove(0).1
}

fn whole_numbers(case: &Case, name: &str) -> Vec<i64> {
    let tensor = case.reference.tensor(name).unwrap();
    tensor.bytes().as_chunks::<8>().0.iter().map(|x| i64::from_le_bytes(*x)).collect()
}

#[test]
fn frequencies_means_and_the_strongest_tokens_are_those_of_the_references() {
    let prompts = prompts();
    let all: Vec<usize> = (0..prompts.len()).collect();
    let mut checked = 0;
    for case in cases().iter().filter(|case| case.reference.tensor("top.values").is_some()) {
        let model = case.model();
        let mut dictionaries = Dictionaries::default();
        dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
        let keeping = Keeping { top: 5, ..Keeping::default() };
        let found = collected(&model, &dictionaries, &prompts, &all, 7, keeping);
        let tokens = found.tokens() as f64;
        let l0 = case.expect["stats"]["l0"].as_f64().unwrap();
        assert!((found.l0() - l0).abs() < 1e-2, "{}: L0 {} and {l0}", case.name, found.l0());
        let of = |value: &dyn Fn(&easyroutine_dictionaries::FeatureStatistics) -> f64| -> Vec<f32> {
            found.features().iter().map(|feature| value(feature) as f32).collect()
        };
        let (_, frequency) = case.tensor("frequency");
        assert_near(&case.name, &of(&|feature| feature.count as f64 / tokens), &frequency, 2e-3);
        let (shape, values) = case.tensor("top.values");
        let (numbers, positions) = (whole_numbers(case, "top.prompts"), whole_numbers(case, "top.positions"));
        let largest = values.iter().fold(0f32, |most, x| most.max(*x));
        for (number, feature) in found.features().iter().enumerate() {
            for rank in 0..shape[1] {
                let at = number * shape[1] + rank;
                let Some(kept) = feature.top().get(rank) else {
                    assert!(
                        numbers[at] == -1 || values[at] < 1e-4 * largest,
                        "{} feature {number}",
                        case.name
                    );
                    continue;
                };
                assert!((kept.value - values[at]).abs() <= 3e-5 * largest, "{} feature {number}", case.name);
                // Neighbours that float32 cannot distinguish may be in either order.
                let is_close = |other: usize| (values[at] - values[other]).abs() <= 3e-5 * largest;
                let row = number * shape[1]..(number + 1) * shape[1];
                let places =
                    row.filter(|other| is_close(*other)).map(|other| (numbers[other], positions[other]));
                let found = (i64::from(kept.prompt), i64::from(kept.position));
                let is_last = rank + 1 == shape[1];
                assert!(
                    is_last || places.clone().any(|place| place == found),
                    "{} feature {number}: {found:?}",
                    case.name
                );
                let centre = (kept.position - kept.start) as usize;
                assert_eq!(kept.values[centre], kept.value);
                assert_eq!(kept.ids[centre], prompts[kept.prompt as usize][kept.position as usize]);
            }
        }
        checked += 1;
    }
    assert!(checked >= 25, "{checked}");
}

#[test]
fn any_split_in_any_order_gives_the_same_bytes() {
    let case = Case::named("saelens_standard");
    let model = case.model();
    let mut dictionaries = Dictionaries::default();
    dictionaries.add("d", case.dictionary(), model.arch()).unwrap();
    let prompts = prompts();
    let collect = |numbers: &[usize], together| {
        collected(&model, &dictionaries, &prompts, numbers, together, Keeping::default())
    };
    let all: Vec<usize> = (0..prompts.len()).collect();
    let whole = collect(&all, 40).to_bytes(&Map::new());
    let reversed: Vec<usize> = all.iter().rev().copied().collect();
    for (cut, together) in [(1, 3), (17, 1), (39, 5)] {
        let mut joined = collect(&reversed[..cut], together);
        joined.merge(collect(&reversed[cut..], together)).unwrap();
        assert!(joined.to_bytes(&Map::new()) == whole, "cut at {cut}");
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("state.safetensors");
    let about = Map::from_iter([("until".to_owned(), 7.into())]);
    std::fs::write(&file, collect(&all, 40).to_bytes(&about)).unwrap();
    let (opened, said) = Statistics::open(&file).unwrap();
    assert_eq!((&said, opened.to_bytes(&Map::new()) == whole), (&about, true));
    for length in [0, 7, 100, 5000] {
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..length.min(bytes.len() - 1)]).unwrap();
        assert!(Statistics::open(&file).is_err(), "{length}");
        std::fs::write(&file, bytes).unwrap();
    }
    // A bin that contains no positive number.
    let mut bytes = std::fs::read(&file).unwrap();
    let range = {
        let tensors = ShardedSafeTensors::open(&file).unwrap();
        let bins = tensors.tensor("bin").unwrap().bytes();
        bytes.windows(bins.len()).position(|window| window == bins).unwrap() + 4
    };
    for (bin, is_known) in [(0x7F7u32, true), (0x7F8, false), (0xFFFF, false), (0x1_0000, false)] {
        bytes[range..range + 4].copy_from_slice(&bin.to_le_bytes());
        std::fs::write(&file, &bytes).unwrap();
        let opened = Statistics::open(&file);
        assert_eq!(opened.is_ok(), is_known, "{bin:#x}");
        opened.iter().for_each(|(found, _)| {
            found.features().iter().for_each(|feature| assert!(feature.histogram().all(|bin| bin.0 < bin.1)));
        });
    }
    let other = Statistics::new(3, Keeping::default());
    assert!(collect(&all[..1], 1).merge(other).is_err());
}

#[test]
fn a_quantile_is_never_too_low_and_at_most_an_eighth_too_high() {
    for value in (8..16).map(|eighths| eighths as f32 / 8.0) {
        let mut statistics = Statistics::new(1, Keeping::default());
        let mut features = easyroutine_dictionaries::Features::new(1);
        features.push([(0, value)]);
        features.push([(0, 100.0)]);
        let seen = Observed { prompt: 0, ids: &[1, 2], positions: &[0, 1], features: &features, first: 0 };
        statistics.add(seen);
        let found = statistics.features()[0].quantile(0.5);
        assert!(value <= found && found <= value * 1.125, "{value}: {found}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn merging_is_free_of_order(
        rows in prop::collection::vec(prop::collection::vec(prop::collection::vec((0u32..4, 0.001f32..9.0), 0..4), 1..6), 1..8),
        split in 0usize..8,
    ) {
        let keeping = Keeping { top: 2, drawn: 2, before: 1, after: 1 };
        let add = |statistics: &mut Statistics, number: usize| {
            let tokens = &rows[number];
            let mut features = easyroutine_dictionaries::Features::new(4);
            for token in tokens {
                let mut token = token.clone();
                token.sort_by_key(|(feature, _)| *feature);
                token.dedup_by_key(|(feature, _)| *feature);
                features.push(token);
            }
            let ids: Vec<u32> = (0..tokens.len() as u32).collect();
            let positions: Vec<usize> = (0..tokens.len()).collect();
            statistics.add(Observed { prompt: number as u32, ids: &ids, positions: &positions, features: &features, first: 0 });
        };
        let mut whole = Statistics::new(4, keeping);
        (0..rows.len()).for_each(|number| add(&mut whole, number));
        let split = split.min(rows.len());
        let (mut left, mut right) = (Statistics::new(4, keeping), Statistics::new(4, keeping));
        (0..split).rev().for_each(|number| add(&mut left, number));
        (split..rows.len()).rev().for_each(|number| add(&mut right, number));
        right.merge(left).unwrap();
        prop_assert_eq!(right.to_bytes(&Map::new()), whole.to_bytes(&Map::new()));
    }
}
