use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::positions::{Context, Row, Specifier};

/// A cache of rows of these lengths, whose values distinguish rows, positions and keys.
fn cache_of(lengths: &[usize], first_row: usize, positions: &str) -> ActivationCache {
    let specifiers = Specifier::parse_list(positions).unwrap();
    let ids: Vec<Vec<u32>> = lengths.iter().map(|length| (0..*length as u32).collect()).collect();
    let rows: Vec<Row<'_>> = ids.iter().enumerate().map(|(i, ids)| Row::of(first_row + i, ids)).collect();
    let selection = Selection::of(&specifiers, &rows, Context::default()).unwrap();
    let mut cache = ActivationCache { selection, ..ActivationCache::default() };
    let t: Vec<usize> = cache.selection.rows.iter().map(|row| row.indices.len()).collect();
    let value = |row: usize, i: usize, salt: usize| ((first_row + row) * 1000 + i * 10 + salt) as f32;
    let filled = |shapes: Vec<Vec<usize>>, salt: usize| {
        let row = |(row, shape): (usize, &Vec<usize>)| {
            (0..shape.iter().product::<usize>()).map(move |i| value(row, i, salt)).collect::<Vec<_>>()
        };
        Kept::f32(shapes.iter().enumerate().flat_map(row).collect(), shapes)
    };
    cache.insert("resid_out_0", filled(t.iter().map(|t| vec![*t, 3]).collect(), 1));
    cache.insert("last_layernorm.mean", filled(t.iter().map(|t| vec![*t]).collect(), 2));
    cache.insert("pattern_L0H0", filled(t.iter().map(|t| vec![*t, *t]).collect(), 3));
    let ids = cache.selection.rows.iter().flat_map(|row| row.indices.iter().map(|i| *i as i64)).collect();
    let shapes = t.iter().map(|t| vec![*t]).collect();
    cache.insert("input_ids", Kept { data: Numbers::I64(ids), row_shapes: shapes });
    cache.insert("labels", json!((0..lengths.len()).map(|row| first_row + row).collect::<Vec<_>>()));
    cache
}

fn joined(parts: Vec<ActivationCache>) -> ActivationCache {
    let mut batches = Batches::new(Aggregations::default());
    parts.into_iter().for_each(|part| batches.push(part).unwrap());
    batches.finish().unwrap()
}

fn message(result: Result<ActivationCache>) -> String {
    result.unwrap_err().to_string()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batches_joined_are_one_batch(
        lengths in vec(1usize..9, 1..12),
        cuts in vec(0usize..12, 0..5),
        positions in prop::sample::select(vec!["all", "last", "last,0", "all,last,all-text", "0:1,-1"]),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(lengths.len())).collect();
        cuts.extend([0, lengths.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let part = |cut: &[usize]| cache_of(&lengths[cut[0]..cut[1]], cut[0], positions);
        let whole = cache_of(&lengths, 0, positions);
        let parts: Vec<ActivationCache> = cuts.windows(2).map(part).collect();
        prop_assert_eq!(&joined(parts.clone()), &whole);
        // The same one by one, in any grouping, and with empty caches in between.
        let mut one_by_one = ActivationCache::default();
        for part in parts {
            one_by_one = one_by_one.cat(ActivationCache::default()).unwrap().cat(part).unwrap();
        }
        prop_assert_eq!(&one_by_one, &whole);
        prop_assert_eq!(one_by_one.token_dict(), whole.token_dict());
        prop_assert_eq!(one_by_one.mapping_index(), whole.mapping_index());
    }

    #[test]
    fn an_order_and_its_inverse_change_nothing(lengths in vec(1usize..9, 1..12), seed in any::<u64>()) {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|row| (*row as u64 + 1).wrapping_mul(seed | 1));
        let mut inverse = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, from)| inverse[*from] = to);
        let cache = cache_of(&lengths, 0, "all,last");
        let there = cache.clone().in_order(&order).unwrap();
        for (to, from) in order.iter().enumerate() {
            prop_assert_eq!(there.get("pattern_L0H0").unwrap().row(to), cache.get("pattern_L0H0").unwrap().row(*from));
        }
        prop_assert!(cache.clone().in_order(&[0, order.len()]).is_err());
        prop_assert_eq!(there.in_order(&inverse).unwrap(), cache);
    }

    #[test]
    fn every_row_is_found_where_the_offsets_say(lengths in vec(1usize..9, 1..12)) {
        let cache = cache_of(&lengths, 0, "all");
        for (key, kept) in cache.iter().filter(|(key, _)| *key != "input_ids") {
            let offsets = kept.offsets();
            for (row, values) in kept.rows().enumerate() {
                prop_assert_eq!(values, &kept.values()[offsets[row]..offsets[row + 1]], "{}", key);
                prop_assert_eq!(values, kept.row(row));
            }
        }
    }
}

#[test]
fn the_tables_of_positions_speak_of_every_row_and_batch() {
    // The original's describes only the last batch.
    let cache = joined(vec![cache_of(&[6, 5], 0, "all,last"), cache_of(&[3], 2, "all,last")]);
    assert_eq!(
        Value::Object(cache.token_dict()),
        json!({"all": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 2]], "last": [[5], [4], [2]]})
    );
    assert_eq!(
        Value::Object(cache.mapping_index()),
        json!({"all": [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [0, 1, 2]], "last": [[6], [5], [3]]})
    );
    let same = cache_of(&[4, 4], 0, "0:2,last");
    assert_eq!(Value::Object(same.mapping_index()), json!({"[0,2]": [0, 1], "last": [2]}));
}

#[test]
fn a_key_is_cut_by_specifier() {
    let cache = cache_of(&[6, 3], 0, "0:2,last");
    let cut = cache.map_to_dict("resid_out_0").unwrap();
    assert_eq!(cut.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["[0,2]", "last"]);
    assert_eq!(cut[0].1.shape(), Some(vec![2, 2, 3]));
    assert_eq!(cut[1].1.shape(), Some(vec![2, 1, 3]));
    assert_eq!(cut[1].1.row(1), &cache.get("resid_out_0").unwrap().row(1)[6..9]);
    assert_eq!(cache.map_to_dict("pattern_L0H0").unwrap()[1].1.shape(), Some(vec![2, 1, 3]));
    assert_eq!(cache.map_to_dict("input_ids").unwrap()[1].1.data, Numbers::I64(vec![5, 2]));
    assert!(cache.map_to_dict("labels").unwrap_err().to_string().contains("no activation `labels`"));
    let mut other = cache;
    other.insert("scores", Kept::f32(vec![1.0, 2.0], vec![vec![], vec![]]));
    assert!(other.map_to_dict("scores").unwrap_err().to_string().contains("no axis of positions"));
}

#[test]
fn strategies_go_by_the_longest_prefix() {
    let parts = || [cache_of(&[2], 0, "all"), cache_of(&[3, 3], 1, "all"), cache_of(&[1], 3, "all")];
    let with = |register: &dyn Fn(&mut Aggregations)| {
        let mut aggregations = Aggregations::default();
        register(&mut aggregations);
        let mut batches = Batches::new(aggregations);
        parts().into_iter().for_each(|part| batches.push(part).unwrap());
        batches.finish().unwrap()
    };
    let label = |cache: &ActivationCache| cache.entry("labels").unwrap().content.clone();
    assert_eq!(label(&with(&|_| ())), Content::Json(json!([0, 1, 2, 3])));
    let first = with(&|a| a.register("label", Aggregation::First));
    assert_eq!(label(&first), Content::Json(json!([0])));
    let last = with(&|a| {
        a.register("labels", Aggregation::Last);
        a.register("label", Aggregation::First);
    });
    assert_eq!(label(&last), Content::Json(json!([3])));
    let listed = with(&|a| a.register("labels", Aggregation::List));
    let one = |value: Value| Content::Json(value);
    assert_eq!(label(&listed), Content::List(vec![one(json!([0])), one(json!([1, 2])), one(json!([3]))]));
    let join = |a: Content, _: Content| Ok(a);
    let custom = with(&|a| a.register("", Aggregation::Custom(Arc::new(join))));
    assert_eq!(custom.get("resid_out_0"), parts()[0].get("resid_out_0"));
    let mut aggregations = Aggregations::default();
    assert!(aggregations.remove("avg_pattern_"));
    assert!(!aggregations.remove("avg_pattern_"));
}

#[test]
fn single_values_become_one_list_for_two_caches_as_for_three() {
    // The original's becomes a tensor for two batches and a nested list for three.
    let with = |kl: f64| {
        let mut cache = ActivationCache::default();
        cache.insert("kl", json!(kl));
        cache.insert("nested", json!({"a": [kl], "b": kl}));
        cache
    };
    let two = joined(vec![with(0.5), with(1.5)]);
    assert_eq!(two.entry("kl").unwrap().content, Content::Json(json!([0.5, 1.5])));
    let three = joined(vec![with(0.5), with(1.5), with(2.5)]);
    assert_eq!(three.entry("kl").unwrap().content, Content::Json(json!([0.5, 1.5, 2.5])));
    let nested = json!({"a": [0.5, 1.5, 2.5], "b": [0.5, 1.5, 2.5]});
    assert_eq!(three.entry("nested").unwrap().content, Content::Json(nested));
}

#[test]
fn a_mean_over_examples_weighs_rows() {
    let with = |rows: usize, mean: f32| {
        let mut cache = cache_of(&vec![1; rows], 0, "all");
        cache.insert("avg_pattern_L0H0", Kept::f32(vec![mean], vec![vec![1, 1]]));
        cache
    };
    let cache = joined(vec![with(3, 1.0), with(1, 5.0), with(4, 0.0)]);
    assert_eq!(cache.get("avg_pattern_L0H0").unwrap().values(), [1.0]);
}

#[test]
fn caches_that_do_not_go_together_are_refused() {
    let cache = || cache_of(&[2], 0, "all");
    let mut without = cache();
    without.remove("labels");
    assert!(message(cache().cat(without.clone())).contains("no `labels`"));
    assert!(message(without.cat(cache())).contains("no `labels`"));
    let elsewhere = cache_of(&[2], 0, "last");
    assert!(message(cache().cat(elsewhere.clone())).contains("different positions: all and last"));
    assert!(message(cache() + elsewhere).contains("different tokens"));
    let mut wider = cache();
    wider.insert("resid_out_0", Kept::f32(vec![0.0; 8], vec![vec![2, 4]]));
    assert!(message(cache().cat(wider)).contains("`resid_out_0`: rows of shape [2, 3] and [2, 4]"));
    let of_model = |name: &str| {
        let mut cache = cache();
        cache.metadata.insert("model_name".to_owned(), json!(name));
        cache
    };
    assert!(message(of_model("a").cat(of_model("b"))).contains("`model_name` is \"a\" and \"b\""));
}

#[test]
fn the_right_one_wins_where_two_are_merged() {
    let mut right = cache_of(&[2], 0, "all");
    right.insert("labels", json!(["new"]));
    right.remove("input_ids");
    let merged = (cache_of(&[2], 0, "all") + right).unwrap();
    assert_eq!(merged.entry("labels").unwrap().content, Content::Json(json!(["new"])));
    assert!(merged.contains("input_ids"));
    assert!(merged.keys().next().unwrap() == "resid_out_0", "keys keep their places");
    let mut others = ActivationCache::default();
    others.insert("index", json!(7));
    let merged = (cache_of(&[2], 0, "all") + others).unwrap();
    assert_eq!(merged.n_rows(), 1);
    assert!(merged.contains("index"));
}

#[test]
fn memory_is_told_in_decimal_units_and_for_parts_too() {
    let mut cache = cache_of(&[5, 5], 0, "all");
    cache.insert("resid_out_1", Kept::f32(vec![0.0; 500], vec![vec![250], vec![250]]));
    cache.insert("avg_pattern_L0H0", Kept::f32(vec![0.0; 25], vec![vec![5, 5]]));
    assert_eq!(cache.memory_size(Some("last_layernorm")).as_deref(), Some("40 B"));
    assert_eq!(cache.memory_size(Some("resid_out_1")).as_deref(), Some("2.0 kB"));
    assert_eq!(cache.memory_size(Some("resid_out_7")), None);
    let tree = cache.memory_tree(Grouping::Names);
    let expected = "\
2.5 kB in 7 keys
  resid_out_*          2 x of different shapes  2.1 kB
  last_layernorm.mean  [2, 5]  40 B
  pattern_L*H*         [2, 5, 5]  200 B
  input_ids            [2, 5]  80 B
  labels               value  5 B
  avg_pattern_L*H*     [1, 5, 5]  100 B
";
    assert_eq!(tree, expected);
    assert!(cache.memory_tree(Grouping::Keys).contains("resid_out_1"));
    assert_eq!(
        cache_of(&[2, 3], 0, "all").memory_tree(Grouping::Keys).matches("different length").count(),
        4
    );
}

#[test]
fn many_batches_are_joined_in_linear_time() {
    // Copying everything at each batch would touch 2000^2 / 2 batches of 40 kB, 80 GB: minutes.
    let mut batches = Batches::new(Aggregations::default());
    for number in 0..2000 {
        let mut cache = cache_of(&[1], number, "all");
        cache.insert("logits", Kept::f32(vec![number as f32; 10_000], vec![vec![1, 10_000]]));
        batches.push(cache).unwrap();
    }
    let start = std::time::Instant::now();
    let cache = batches.finish().unwrap();
    assert!(start.elapsed().as_secs() < 20);
    assert_eq!(cache.get("logits").unwrap().shape(), Some(vec![2000, 1, 10_000]));
    let rows = cache.get("logits").unwrap().rows();
    assert!(rows.enumerate().all(|(number, row)| row.iter().all(|x| *x == number as f32)));
}
