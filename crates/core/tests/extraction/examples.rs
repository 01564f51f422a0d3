//! `avg_over_example`: the mean of patterns over all rows.

use serde_json::{Value, json};

use super::{assert_close, refusal, rows, run};
use crate::common::{assert_same_bits, cases, those_of, tiny};

fn flags(more: Value) -> Value {
    let mut flags = json!({"save_logits": false, "extract_attn_pattern": true});
    flags.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    flags
}

#[test]
fn the_mean_over_examples_is_that_of_every_rows_pattern() {
    for case in cases("tiny") {
        let model = tiny(&case);
        if those_of(&model, "pattern_*").is_empty() {
            continue;
        }
        for (positions, more, shape) in [
            ("0:3,last", json!({}), [4, 4]),
            ("0:3,last", json!({"attn_pattern_avg": "mean"}), [2, 2]),
            ("all", json!({"attn_pattern_avg": "sum"}), [1, 1]),
            ("0:3,last", json!({"attn_pattern_row_positions": ["last"]}), [1, 4]),
        ] {
            let each = run(&model, &rows(), flags(more.clone()), positions).unwrap();
            let mut over = more;
            over["avg_over_example"] = json!(true);
            let mean = run(&model, &rows(), flags(over), positions).unwrap();
            assert_eq!(mean.len(), each.len());
            for (key, kept) in each.iter() {
                let mean = mean.get(format!("avg_{key}")).unwrap();
                assert_eq!(mean.row_shapes, [shape.to_vec()], "{case}: {key}");
                let of_cell = |cell: usize| kept.rows().map(|row| f64::from(row[cell])).sum::<f64>() / 3.0;
                let expected: Vec<f64> = (0..shape[0] * shape[1]).map(of_cell).collect();
                assert_close(&format!("{case}: {key}"), mean.values(), &expected);
            }
        }
    }
}

#[test]
fn asking_for_projected_values_does_not_change_what_a_mean_is() {
    // The original then keeps a map weighted by the norms of the values instead of the values.
    let model = tiny("llama");
    let plain = run(&model, &rows(), flags(json!({"avg_over_example": true})), "0:3").unwrap();
    let both = json!({"avg_over_example": true, "extract_head_values_projected": true});
    let both = run(&model, &rows(), flags(both), "0:3").unwrap();
    for (key, kept) in plain.iter() {
        assert_same_bits(key, both.get(key).unwrap().values(), kept.values());
    }
    let values = run(&model, &rows(), json!({"extract_head_values_projected": true}), "0:3").unwrap();
    let key = "projected_value_L1H2";
    assert_eq!(both.get(key), values.get(key));
}

#[test]
fn rows_that_select_different_numbers_of_tokens_have_no_mean() {
    let refused = refusal(flags(json!({"avg_over_example": true})), "all");
    assert!(refused.contains("row 0 has 7, row 1 has 6"), "{refused}");
    let rows = json!({"avg_over_example": true, "attn_pattern_row_positions": ["all"]});
    let refused = refusal(flags(rows), "last");
    assert!(refused.contains("row 0 has 7, row 1 has 6"), "{refused}");
}
