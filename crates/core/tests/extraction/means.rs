//! `avg`: means over the positions of each specifier.

use easyroutine::lens::{LensNorm, LensOptions, LogitLens};
use serde_json::{Value, json};

use super::{assert_close, rows, run};
use crate::common::{assert_same_bits, cases, those_of, tiny};

const POSITIONS: &str = "0:3,last,inputs-partition-1,all";

/// The means of one row over groups of positions, from the values at all positions.
fn means(values: &[f32], width: usize, groups: &[Vec<usize>]) -> Vec<f64> {
    let mut means = Vec::new();
    for group in groups {
        for column in 0..width {
            let sum: f64 = group.iter().map(|i| f64::from(values[i * width + column])).sum();
            means.push(sum / group.len() as f64);
        }
    }
    means
}

/// The positions of each specifier in a row of this length; the pivots are 4 and 2.
fn groups(length: usize) -> Vec<Vec<usize>> {
    vec![vec![0, 1, 2], vec![length - 1], vec![2, 3], (0..length).collect()]
}

#[test]
fn an_average_is_the_mean_over_the_positions_of_each_specifier() {
    for case in cases("tiny") {
        let model = tiny(&case);
        let flags = |avg: bool| {
            let attends = !those_of(&model, "queries_*").is_empty();
            json!({
                "avg": avg, "extract_embed": true, "extract_resid_out": true, "extract_queries": attends,
                "extract_head_out": attends, "extract_last_layernorm": model.arch().final_norm.is_some(),
            })
        };
        let whole = run(&model, &rows(), flags(false), "all").unwrap();
        let averaged = run(&model, &rows(), flags(true), POSITIONS).unwrap();
        assert_eq!(whole.keys().collect::<Vec<_>>(), averaged.keys().collect::<Vec<_>>());
        for (key, kept) in averaged.iter() {
            let all = whole.get(key).unwrap();
            for (row, ids) in rows().iter().enumerate() {
                // Logits and the statistics of the last norm are averaged like everything else, unlike in the original.
                let width = all.row_shapes[row].get(1).copied();
                let shape: Vec<usize> = std::iter::once(4).chain(width).collect();
                assert_eq!(kept.row_shapes[row], shape, "{case}: {key}");
                let expected = means(all.row(row), width.unwrap_or(1), &groups(ids.len()));
                assert_close(&format!("{case}: {key}, row {row}"), kept.row(row), &expected);
            }
        }
    }
}

#[test]
fn an_averaged_cache_says_so_and_has_one_column_a_specifier() {
    let cache = run(&tiny("llama"), &rows(), json!({"avg": true}), "0:3,last").unwrap();
    assert_eq!(Value::Object(cache.mapping_index()), json!({"[0,3]": [0], "last": [1], "info": "avg"}));
    assert_eq!(
        Value::Object(cache.token_dict()),
        json!({"[0,3]": [[0, 1, 2], [0, 1, 2], [0, 1, 2]], "last": [[6], [5], [8]]})
    );
    let cut = cache.map_to_dict("logits").unwrap();
    assert_eq!(cut[1].1.shape(), Some(vec![3, 1, 320]));
    assert_same_bits("last", cut[1].1.row(2), &cache.get("logits").unwrap().row(2)[320..]);
    // Rows of different lengths have means of the same shape.
    assert!(run(&tiny("llama"), &rows(), json!({"avg": true}), "all").unwrap().is_rectangular());
}

#[test]
fn a_mean_of_one_token_is_the_token() {
    let model = tiny("gemma2");
    let single = run(&model, &rows(), json!({"extract_resid_out": true}), "last,1").unwrap();
    let mean = run(&model, &rows(), json!({"extract_resid_out": true, "avg": true}), "last,1").unwrap();
    for (key, kept) in single.iter() {
        assert_same_bits(key, mean.get(key).unwrap().values(), kept.values());
    }
}

#[test]
fn an_average_is_the_same_to_the_bit_in_any_batch() {
    let model = tiny("llama");
    let asked = json!({"avg": true, "extract_resid_out": true, "extract_attn_pattern": true});
    let whole = run(&model, &rows(), asked.clone(), "0:3,last").unwrap();
    for (row, ids) in rows().iter().enumerate() {
        let alone = run(&model, std::slice::from_ref(ids), asked.clone(), "0:3,last").unwrap();
        for (key, kept) in whole.iter() {
            assert_same_bits(format!("{key}, row {row}"), alone.get(key).unwrap().values(), kept.row(row));
        }
    }
}

#[test]
fn a_lens_with_cached_norm_refuses_averages() {
    let model = tiny("llama");
    let asked = json!({"avg": true, "extract_resid_out": true, "extract_last_layernorm": true});
    let cache = run(&model, &rows(), asked, "0:3").unwrap();
    let lens = LogitLens::from_model(&model).unwrap();
    let error = lens.compute(&cache, "resid_out_1", &LensOptions::default()).unwrap_err();
    assert!(error.to_string().contains("averaged activations have no cached norm"));
    let own = LensOptions { norm: LensNorm::Own, ..LensOptions::default() };
    assert_eq!(lens.compute(&cache, "resid_out_1", &own).unwrap()[0].1.shape(), Some(vec![3, 1, 320]));
}
