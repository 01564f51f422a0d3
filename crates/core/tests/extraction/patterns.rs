//! Attention patterns: rows of their own, and the four ways to keep a block.

use easyroutine::cache::ActivationCache;
use serde_json::{Value, json};

use super::{assert_close, refusal, rows, run};
use crate::common::{assert_same_bits, cases, those_of, tiny};

/// The positions of each specifier in a row of this length.
type Groups = fn(usize) -> Vec<Vec<usize>>;

const COLUMNS: (&str, Groups) = ("0:3,last,1", |n| vec![vec![0, 1, 2], vec![n - 1], vec![1]]);
const ROWS: (&str, Groups) = ("last,-3,2:5", |n| vec![vec![n - 1], vec![n - 3], vec![2, 3, 4]]);

/// The value kept for a block, from the definitions.
fn of_block(how: &str, pattern: &[f32], length: usize, rows: &[usize], columns: &[usize]) -> f64 {
    let weight = |i: usize, j: usize| f64::from(pattern[i * length + j]);
    let uniform = |i: usize, j: usize| if j <= i { 1.0 / (i + 1) as f64 } else { 0.0 };
    let sum_of = |cell: &dyn Fn(usize, usize) -> f64| -> f64 {
        rows.iter().flat_map(|i| columns.iter().map(move |j| (*i, *j))).map(|(i, j)| cell(i, j)).sum()
    };
    let cells = (rows.len() * columns.len()) as f64;
    match how {
        "sum" => sum_of(&weight),
        "mean" => sum_of(&weight) / cells,
        "baseline_ratio" => (sum_of(&weight) / cells) / (sum_of(&uniform) / cells),
        _ => unreachable!(),
    }
}

fn asked(how: &str, rows: Value) -> Value {
    let rows = match rows.as_str() {
        Some(text) => text.split(',').map(row_position).collect(),
        None => rows,
    };
    json!({
        "save_logits": false, "extract_attn_pattern": true, "attn_pattern_avg": how,
        "attn_pattern_row_positions": rows,
    })
}

/// A specifier as a configuration has it.
fn row_position(text: &str) -> Value {
    match text.split_once(':') {
        Some((start, end)) => json!([start.parse::<i64>().unwrap(), end.parse::<i64>().unwrap()]),
        None => text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n)),
    }
}

#[track_caller]
fn assert_blocks(case: &str, how: &str, whole: &ActivationCache, blocks: &ActivationCache, of: [Groups; 2]) {
    for (key, kept) in blocks.iter() {
        for (row, ids) in rows().iter().enumerate() {
            let length = ids.len();
            let (row_groups, column_groups) = (of[0](length), of[1](length));
            let mut expected = Vec::new();
            for rows in &row_groups {
                for columns in &column_groups {
                    expected.push(of_block(how, whole.get(key).unwrap().row(row), length, rows, columns));
                }
            }
            assert_eq!(kept.row_shapes[row], [row_groups.len(), column_groups.len()]);
            assert_close(&format!("{case}: {key}, row {row}, {how}"), kept.row(row), &expected);
        }
    }
}

#[test]
fn a_block_is_kept_as_its_mean_sum_or_ratio_with_rows_of_its_own_or_without() {
    for case in cases("tiny") {
        let model = tiny(&case);
        if those_of(&model, "pattern_*").is_empty() {
            continue;
        }
        let whole = run(&model, &rows(), asked("none", Value::Null), "all").unwrap();
        for how in ["mean", "sum", "baseline_ratio"] {
            let (columns, of_columns) = COLUMNS;
            let (own_rows, of_rows) = ROWS;
            let blocks = run(&model, &rows(), asked(how, json!(own_rows)), columns).unwrap();
            assert_blocks(&case, how, &whole, &blocks, [of_rows, of_columns]);
            // The original returns unaveraged patterns if no rows are named.
            let blocks = run(&model, &rows(), asked(how, Value::Null), columns).unwrap();
            assert_blocks(&case, how, &whole, &blocks, [of_columns, of_columns]);
        }
        // `avg` alone also reduces patterns to blocks.
        let flags = json!({"save_logits": false, "extract_attn_pattern": true, "avg": true});
        let blocks = run(&model, &rows(), flags, COLUMNS.0).unwrap();
        assert_blocks(&case, "mean", &whole, &blocks, [COLUMNS.1, COLUMNS.1]);
    }
}

#[test]
fn rows_of_their_own_are_kept_whole_where_nothing_is_averaged() {
    let model = tiny("llama");
    let whole = run(&model, &rows(), asked("none", Value::Null), "all").unwrap();
    let cut = run(&model, &rows(), asked("none", json!(ROWS.0)), COLUMNS.0).unwrap();
    for (key, kept) in cut.iter() {
        assert_eq!(kept.shape(), Some(vec![3, 5, 5]), "{key}");
        for (row, ids) in rows().iter().enumerate() {
            let (n, all) = (ids.len(), whole.get(key).unwrap().row(row));
            let [rows, columns] = [ROWS.1(n).concat(), COLUMNS.1(n).concat()];
            let expected: Vec<f32> =
                rows.iter().flat_map(|i| columns.iter().map(move |j| all[i * n + j])).collect();
            assert_same_bits(key, kept.row(row), &expected);
        }
    }
    assert_eq!(
        cut.mapping_index_rows().map(Value::Object),
        Some(json!({"last": [0], "-3": [1], "[2,5]": [2, 3, 4]}))
    );
    assert_eq!(Value::Object(cut.mapping_index()), json!({"[0,3]": [0, 1, 2], "last": [3], "1": [4]}));
    let by_row = cut.map_to_dict("pattern_L0H0").unwrap();
    assert_eq!(by_row[2].0, "[2,5]");
    assert_eq!(by_row[2].1.shape(), Some(vec![3, 3, 5]));
}

#[test]
fn a_ratio_to_the_baseline_counts_positions_from_the_start_of_the_row() {
    // "last" is row 5 of six, so uniform attention gives one key of six 1/6; the original counts it as row -1 and
    // divides by zero.
    let model = tiny("llama");
    let six = vec![vec![21, 22, 23, 24, 25, 26]];
    let whole = run(&model, &six, asked("none", Value::Null), "all").unwrap();
    let ratio = run(&model, &six, asked("baseline_ratio", json!("last")), "2").unwrap();
    for (key, kept) in ratio.iter() {
        let weight = f64::from(whole.get(key).unwrap().values()[5 * 6 + 2]);
        assert_close(&key.to_string(), kept.values(), &[weight / (1.0 / 6.0)]);
    }
    // A whole row holds all the weight, however it is distributed, so its ratio is 1.
    let ratio = run(&model, &six, asked("baseline_ratio", json!("last")), "all").unwrap();
    ratio.iter().for_each(|(key, kept)| assert_close(&key.to_string(), kept.values(), &[1.0]));
    // Keys after the query have an expected weight of zero, so no ratio.
    let ratio = run(&model, &six, asked("baseline_ratio", json!("first")), "last").unwrap();
    assert!(ratio.iter().all(|(_, kept)| kept.values()[0].is_nan()));
}

#[test]
fn rows_and_columns_of_one_run_share_the_draw() {
    let model = tiny("llama");
    let flags = asked("none", json!("random-text-3"));
    let cache = run(&model, &rows(), flags, "random-text-3").unwrap();
    assert_eq!(cache.pattern_rows.as_ref().unwrap().rows, cache.selection.rows);
    assert!(cache.selection.rows.iter().all(|row| row.indices.len() == 3));
}

#[test]
fn a_group_without_tokens_has_no_average() {
    let refused = refusal(asked("mean", json!("last,special")), "last");
    assert!(refused.contains("row 0: `special` selects no token"), "{refused}");
    let refused = refusal(asked("sum", Value::Null), "last,special");
    assert!(refused.contains("row 0: `special` selects no token"), "{refused}");
}
