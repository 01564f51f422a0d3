//! What each kind of intervention changes, and what it leaves alone, on every tiny model.

use easyroutine::Model;
use easyroutine::cache::ActivationCache;
use easyroutine::edit::{Intervention, Operation, Part, Softmax};
use easyroutine::positions::Specifier;
use easyroutine::sites::{Point, Scope, Site};

use super::{run, run_written, tensor, with, written};
use crate::common::{assert_same_bits, cases, has, tiny};

fn rows() -> Vec<Vec<u32>> {
    vec![(5..17).collect(), (3..15).rev().collect()]
}

fn for_every_model(check: impl Fn(&str, &Model)) {
    for case in cases("tiny") {
        check(&case, &tiny(&case));
    }
}

/// The models whose layer 1 has attention.
fn with_attention(check: impl Fn(&str, &Model)) {
    for_every_model(|name, model| {
        if has(model, "pattern_L1H1") {
            check(name, model);
        }
    });
}

fn values<'a>(cache: &'a ActivationCache, key: &str, row: usize) -> &'a [f32] {
    cache.get(key).unwrap_or_else(|| panic!("no {key}")).row(row)
}

/// The vector at a position of a row.
fn vector<'a>(cache: &'a ActivationCache, key: &str, row: usize, position: usize) -> &'a [f32] {
    let width = cache.get(key).unwrap().row_shapes[row][1];
    &values(cache, key, row)[position * width..][..width]
}

/// Every activation of layer 1 whose whole vectors can be changed.
fn full_points(model: &Model) -> Vec<Point> {
    let read_only = [
        Site::Scores,
        Site::Pattern,
        Site::ProjectedValue,
        Site::ProjectedKey,
        Site::ProjectedQuery,
        Site::RouterIndex,
        // A change reaches the output of the tokens routed to the expert.
        Site::ExpertOut,
    ];
    let is_full = |point: &Point| {
        let place = if point.site().scope() == Scope::Model {
            point.site() == Site::InputEmbeddings
        } else {
            point.layer() == Some(1) && point.head().unwrap_or(1) == 1
        };
        place && !read_only.contains(&point.site())
    };
    model.arch().points().filter(is_full).collect()
}

#[test]
fn a_change_shows_at_its_place_reaches_the_logits_and_leaves_earlier_tokens_alone() {
    for_every_model(|name, model| {
        let points = full_points(model);
        assert!(points.len() > 5, "{name}: {points:?}");
        for point in points {
            let keys = format!("{point},logits");
            let clean = run(model, &rows(), &[], &keys);
            let changed = run_written(model, &rows(), &[&format!("{point}@4,6=0.25")], &keys);
            let key = point.to_string();
            for row in 0..2 {
                for position in 0..12 {
                    let place = format!("{name}, {key}, row {row}, position {position}");
                    let (ours, before) =
                        (vector(&changed, &key, row, position), vector(&clean, &key, row, position));
                    if [4, 6].contains(&position) {
                        assert!(ours.iter().all(|x| *x == 0.25), "{place}: {ours:?}");
                    } else {
                        assert_same_bits(&place, ours, before);
                    }
                    let logits = [&changed, &clean].map(|cache| vector(cache, "logits", row, position));
                    if position < 4 {
                        assert_same_bits(format!("{place}, logits"), logits[0], logits[1]);
                    }
                }
                let last = [&changed, &clean].map(|cache| values(cache, "logits", row));
                assert_ne!(last[0], last[1], "{name}: {key} never reaches the logits");
            }
        }
    });
}

#[test]
fn no_change_at_all_keeps_every_bit() {
    for_every_model(|name, model| {
        let clean = run(model, &rows(), &[], "logits");
        for point in full_points(model).into_iter().map(|p| format!("{p}@all*1")) {
            let same = run_written(model, &rows(), &[&point], "logits");
            let expected = clean.get("logits").unwrap().values();
            assert_same_bits(format!("{name}, {point}"), same.get("logits").unwrap().values(), expected);
        }
        let attends = model.arch().layers.iter().any(|layer| layer.attention.is_some());
        let patterns = ["pattern_L*H*@rows:all*1", "pattern_L*H*@pre:columns:all*1"];
        for spec in patterns.into_iter().filter(|_| attends) {
            let same = run_written(model, &rows(), &[spec], "logits");
            let expected = clean.get("logits").unwrap().values();
            assert_same_bits(format!("{name}, {spec}"), same.get("logits").unwrap().values(), expected);
        }
    });
}

#[test]
fn a_grouped_key_or_value_changes_for_one_head_alone() {
    let model = tiny("llama");
    assert!(model.arch().n_kv_heads < model.arch().n_heads);
    let keys = "head_values_L1H*,head_out_L1H*,values_L1";
    let clean = run(&model, &rows(), &[], keys);
    let one = run_written(&model, &rows(), &["head_values_L1H0@3=0"], keys);
    let shared = run_written(&model, &rows(), &["values_L1@3=0"], keys);
    let group = model.arch().n_heads / model.arch().n_kv_heads;
    for head in 0..model.arch().n_heads {
        let key = format!("head_values_L1H{head}");
        assert_eq!(vector(&one, &key, 0, 3) == vector(&clean, &key, 0, 3), head != 0, "{key}");
        assert!(vector(&shared, &key, 0, 3).iter().all(|x| *x == 0.0), "{key}");
        let out = format!("head_out_L1H{head}");
        assert_eq!(values(&one, &out, 0) == values(&clean, &out, 0), head != 0, "{out}");
    }
    assert_eq!(values(&one, "values_L1", 0), values(&clean, "values_L1", 0));
    assert!(group > 1);
}

#[test]
fn a_head_out_changes_the_sum_of_all_heads_by_the_difference() {
    with_attention(|name, model| {
        let keys = "head_out_L1H1,attn_raw_1";
        let clean = run(model, &rows(), &[], keys);
        let changed = run_written(model, &rows(), &["head_out_L1H1@5=0"], keys);
        let old = vector(&clean, "head_out_L1H1", 0, 5);
        let sums = [&clean, &changed].map(|cache| vector(cache, "attn_raw_1", 0, 5));
        for ((before, after), old) in sums[0].iter().zip(sums[1]).zip(old) {
            assert_eq!((before - old).to_bits(), after.to_bits(), "{name}");
        }
    });
}

/// Whether an edit covers a query and a key.
type IsNamed = fn(usize, usize) -> bool;

/// The pattern of head 1 of layer 1 as rows of weights.
fn pattern(cache: &ActivationCache) -> Vec<Vec<f32>> {
    values(cache, "pattern_L1H1", 0).chunks_exact(12).map(<[f32]>::to_vec).collect()
}

#[test]
fn patterns_change_where_they_are_named_and_hidden_keys_stay_hidden() {
    with_attention(|name, model| {
        let clean = pattern(&run(model, &rows(), &[], "pattern_L1H1"));
        let named: [(&str, IsNamed); 4] = [
            ("columns:3", |_, key| key == 3),
            ("rows:7", |query, _| query == 7),
            ("grid:5,8x4,5", |query, key| [5, 8].contains(&query) && [4, 5].contains(&key)),
            ("keep-self:6", |query, key| query == 6 && key != 6),
        ];
        for (part, is_named) in named {
            let spec = format!("pattern_L1H1@{part}=0");
            let changed = pattern(&run_written(model, &rows(), &[&spec], "pattern_L1H1"));
            let knocked = pattern(&run_written(
                model,
                &rows(),
                &[&format!("pattern_L1H1@pre:{part}=-inf")],
                "pattern_L1H1",
            ));
            for query in 0..12 {
                let touched = (0..12).any(|key| is_named(query, key) && clean[query][key] != 0.0);
                for key in 0..12 {
                    let place = format!("{name}, {spec}: query {query}, key {key}");
                    let expected = if is_named(query, key) { 0.0 } else { clean[query][key] };
                    assert_eq!(changed[query][key], expected, "{place}");
                    let hidden = key > query || is_named(query, key);
                    assert!(
                        !hidden || knocked[query][key] == 0.0,
                        "{place}: knocked out but {}",
                        knocked[query][key]
                    );
                    assert!(touched || knocked[query][key] == clean[query][key], "{place}: untouched");
                }
                // The rest of the knocked-out row keeps its old weights divided by their sum; without a key the row is
                // zeros.
                let rest: f32 =
                    (0..12).filter(|key| !is_named(query, *key)).map(|key| clean[query][key]).sum();
                let sum: f32 = knocked[query].iter().sum();
                let expected = if rest > 1e-6 { 1.0 } else { 0.0 };
                // A sink takes a share of every row.
                let has_sink = model.arch().layers[1].attention.as_ref().unwrap().sinks
                    == easyroutine::arch::Bias::Stored;
                assert!(
                    (sum - expected).abs() < 1e-5 || rest < 1e-3 || (has_sink && sum < 1.0),
                    "{name}, {spec}: row {query} sums to {sum}"
                );
            }
        }
        let set = pattern(&run_written(model, &rows(), &["pattern_L1H1@columns:11=0.5"], "pattern_L1H1"));
        assert!((0..11).all(|query| set[query][11] == 0.0), "{name}: a query sees a later key");
        assert_eq!(set[11][11], 0.5, "{name}");
    });
}

#[test]
fn a_row_left_without_any_key_is_zeros() {
    with_attention(|name, model| {
        let keys = "pattern_L1H1,head_out_L1H1,logits";
        let cache = run_written(model, &rows(), &["pattern_L1H1@pre:rows:5=-inf"], keys);
        assert!(pattern(&cache)[5].iter().all(|x| x.to_bits() == 0), "{name}");
        assert!(vector(&cache, "head_out_L1H1", 0, 5).iter().all(|x| *x == 0.0), "{name}");
        assert!(values(&cache, "logits", 0).iter().all(|x| x.is_finite()), "{name}");
    });
}

#[test]
fn rescaled_rows_sum_to_one_and_scores_knocked_out_stay_out() {
    let model = tiny("llama");
    let part = Part::Columns(vec![Specifier::At(3)], Softmax::AfterRescaled);
    let rescaled = Intervention { part, ..written("pattern_L1H1@columns:3=0").unwrap() };
    let cache = run(&model, &rows(), &[rescaled], "pattern_L1H1");
    for (query, weights) in pattern(&cache).iter().enumerate() {
        assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6, "row {query}");
        assert_eq!(weights[3], 0.0);
    }
    let twice = ["pattern_L1H1@pre:columns:3=-inf", "pattern_L1H1@pre:columns:all*-2"];
    let weights = pattern(&run_written(&model, &rows(), &twice, "pattern_L1H1"));
    assert!(weights.iter().all(|row| row[3] == 0.0 && row.iter().all(|x| x.is_finite())));
}

#[test]
fn edits_apply_in_the_order_given() {
    let model = tiny("qwen2");
    let after = |specs: &[&str]| run_written(&model, &rows(), specs, "resid_in_1").clone();
    let vector_of = |specs| vector(&after(specs), "resid_in_1", 0, 2)[0];
    assert_eq!(vector_of(&["resid_in_1@2=3", "resid_in_1@2*2"]), 6.0);
    assert_eq!(vector_of(&["resid_in_1@2*2", "resid_in_1@2=3"]), 3.0);
    // A position named twice is scaled once.
    assert_eq!(vector_of(&["resid_in_1@2=3", "resid_in_1@2,-10*2"]), 6.0);
}

#[test]
fn values_are_put_added_averaged_and_taken_of_another_row() {
    let model = tiny("gpt2");
    let (key, d) = ("mlp_out_1", model.arch().d_model);
    let clean = run(&model, &rows(), &[], key);
    let ramp = |n: usize| (0..n).map(|i| i as f32);
    let at = |operation| run(&model, &rows(), &[with("mlp_out_1@2,9=0", operation)], key);

    let put = at(Operation::Replace(tensor(&[2, 2, d], ramp(4 * d))));
    assert_eq!(vector(&put, key, 1, 2)[0], (2 * d) as f32);
    assert_eq!(vector(&put, key, 1, 9)[d - 1], (4 * d - 1) as f32);

    let mean = at(Operation::Mean(tensor(&[3, d], ramp(3 * d))));
    assert_eq!(vector(&mean, key, 0, 9)[1], (d + 1) as f32);

    let added = at(Operation::Add { factor: -2.0, values: tensor(&[d], ramp(d)) });
    assert_eq!(vector(&added, key, 0, 2)[3], vector(&clean, key, 0, 2)[3] - 6.0);

    let resampled = run_written(&model, &rows(), &["mlp_out_1@2,9=row:1"], key);
    for position in [2, 9] {
        assert_same_bits("row 0", vector(&resampled, key, 0, position), vector(&clean, key, 1, position));
        assert_same_bits("row 1", vector(&resampled, key, 1, position), vector(&clean, key, 1, position));
    }

    let keys = "pattern_L1H1";
    let copied = run_written(&model, &rows(), &["pattern_L1H1@grid:9x2,3=row:1"], keys);
    let whole = run(&model, &rows(), &[], keys);
    assert_eq!(
        values(&copied, keys, 0)[9 * 12 + 2..9 * 12 + 4],
        values(&whole, keys, 1)[9 * 12 + 2..9 * 12 + 4]
    );

    // A square the size of a whole pattern is read at the cells that change.
    let square = with("pattern_L1H1@grid:9x2=0", Operation::Replace(tensor(&[12, 12], ramp(144))));
    assert_eq!(values(&run(&model, &rows(), &[square], keys), keys, 0)[9 * 12 + 2], (9 * 12 + 2) as f32);
}
