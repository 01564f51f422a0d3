//! Conditions, and what a query finds.

use crate::common;

use common::{contents, fast_folder, provenance, saver};
use easyroutine_store::{ActivationLoader, Condition, Matching, Provenance, Query};
use proptest::prelude::*;
use serde_json::{Value, json};

/// The numbers of the runs with these extra keys that a condition finds.
fn finds(condition: &str, runs: &[Value]) -> Vec<usize> {
    let base = fast_folder();
    let saver = saver(&base, "e");
    for (number, keys) in runs.iter().enumerate() {
        let mut other_metadata = vec![("number".to_owned(), json!(number).into())];
        other_metadata.extend(keys.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone().into())));
        saver.save(&contents(1), &Provenance { other_metadata, ..provenance(1) }).unwrap();
    }
    let query = Query { condition: Some(condition.parse().unwrap()), ..Query::default() };
    let found = ActivationLoader::from_saver(&saver).query(&query).unwrap();
    found.runs().iter().map(|run| run.metadata.get("number").unwrap().as_u64().unwrap() as usize).collect()
}

#[test]
fn conditions_find_what_they_say() {
    let runs = [
        json!({"seed": 1, "name": "alpha", "deep": {"a": [10, 20]}, "on": true}),
        json!({"seed": 3, "name": "beta", "deep": {"a": [30]}, "on": false}),
        json!({"seed": 3.5, "name": null, "big": 9007199254740993u64}),
        json!({"seed": "3", "and": 5}),
    ];
    for (condition, found) in [
        ("seed >= 3", vec![1, 2]),
        ("seed = 3", vec![1]),
        ("seed == 3.0", vec![1]),
        ("seed = \"3\"", vec![3]),
        ("seed != 3", vec![0, 2, 3]),
        ("missing != 3", vec![0, 1, 2, 3]),
        ("missing < 3 or missing >= 3", vec![]),
        ("not missing < 3", vec![0, 1, 2, 3]),
        ("name ~ 'et'", vec![1]),
        ("name >= 'b'", vec![1]),
        ("name = null", vec![2]),
        ("deep.a.0 > 9 and deep.a.0 < 11", vec![0]),
        ("deep.a ~ 30", vec![1]),
        // A comparison holds for a list if it holds for an element.
        ("deep.a = 20", vec![0]),
        ("deep.a != 20", vec![1, 2, 3]),
        ("deep.a > 25", vec![1]),
        ("deep.a in [10, 30]", vec![0, 1]),
        ("on", vec![0]),
        ("not on", vec![1, 2, 3]),
        ("seed in [1, \"3\"]", vec![0, 3]),
        ("seed = 1 or seed = 3 and name = 'alpha'", vec![0]),
        ("(seed = 1 or seed = 3) and name != 'alpha'", vec![1]),
        ("`and` = 5", vec![3]),
        ("big = 9007199254740993", vec![2]),
        ("big = 9007199254740992", vec![]),
        ("extraction_config.extract_resid_out = true AND seed >= 3", vec![1, 2]),
        ("n_examples = 3 and _store.tensors = 4", vec![0, 1, 2, 3]),
        ("model_name ~ \"tiny\" and tag = 'tag_1'", vec![0, 1, 2, 3]),
    ] {
        assert_eq!(finds(condition, &runs), found, "{condition}");
    }
}

#[test]
fn a_run_has_the_tags_it_was_saved_with() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let save = |tags: &[&str]| {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        saver.save(&contents(1), &Provenance { tags, ..provenance(1) })
    };
    for tags in [&[][..], &["a"], &["b", "a", "b", "c"]] {
        save(tags).unwrap();
    }
    let loader = ActivationLoader::from_saver(&saver);
    let found = |tags: &[&str]| -> Vec<Vec<String>> {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let found = loader.query(&Query { tags, ..Query::default() }).unwrap();
        found.runs().iter().map(|run| run.metadata.tags().into_iter().map(str::to_owned).collect()).collect()
    };
    assert_eq!(found(&[]), [&[][..], &["a"], &["b", "a", "c"]]);
    assert_eq!(found(&["a"]), [&["a"][..], &["b", "a", "c"]]);
    assert_eq!(found(&["c", "a"]), [["b", "a", "c"]]);
    assert!(found(&["c", "d"]).is_empty());
    // The first stands where the original kept its one.
    let all = loader.query(&Query::default()).unwrap();
    assert_eq!(all.runs()[2].metadata.get("tag"), Some(&json!("b")));
    assert!(save(&["a", ""]).is_err());
}

#[test]
fn fields_of_more_values_than_a_record_lists_are_looked_up_in_the_rows() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    for (counted, first) in [(json!({"distinct": 3}), 0), (json!(3), 10)] {
        let mut contents = contents(1);
        contents.values.insert("id".to_owned(), json!([first, first + 1, first + 2]));
        let other_metadata = vec![("fields".to_owned(), json!({"id": counted, "label": ["a"]}).into())];
        saver.save(&contents, &Provenance { other_metadata, ..provenance(1) }).unwrap();
    }
    let loader = ActivationLoader::from_saver(&saver);
    let index = fast_folder();
    for loader in [loader.clone(), loader.clone().indexed_in(index.path())] {
        for (condition, n) in [
            ("fields.id = 11", 1),
            ("fields.id >= 2", 2),
            ("fields.id = 5", 0),
            ("fields.id in [1, 12]", 2),
            ("not fields.id = 0 and fields.label = 'a'", 1),
            ("fields.id != 0", 1),
            ("fields.label = 'b' or fields.id = 2", 1),
        ] {
            let query = Query { condition: Some(condition.parse().unwrap()), ..Query::default() };
            assert_eq!(loader.query(&query).unwrap().len(), n, "{condition}");
        }
    }
}

#[test]
fn wrong_conditions_say_where_and_what() {
    for (condition, what) in [
        ("", "the name of a key is missing"),
        ("seed >=", "a value is missing"),
        ("seed = three", "`three` is not a value: put text in quotes"),
        ("seed = 3 and", "the name of a key is missing"),
        ("(seed = 3", "a `)` is missing"),
        ("seed = 3)", "`)` does not belong here"),
        ("seed = 'x", "a closing quote is missing"),
        ("seed in 3", "after `in` comes a list"),
        ("seed in [3", "a `]` is missing"),
        ("`seed = 3", "a closing backquote is missing"),
        ("seed = 3 seed = 4", "at character 10: `seed` does not belong here"),
        ("é = 3 ü = 4", "at character 7"),
    ] {
        let error = condition.parse::<Condition>().unwrap_err().to_string();
        assert!(error.contains(what), "{condition}: {error}");
    }
    let long = format!("seed = {} 3", "x".repeat(100_000));
    let error = long.parse::<Condition>().unwrap_err().to_string();
    assert!(error.len() < 400 && error.contains("`xxx") && error.contains("at character 8"), "{error}");
    let deep = "not ".repeat(100_000) + "a";
    assert!(deep.parse::<Condition>().is_err());
    assert!("(".repeat(100_000).parse::<Condition>().is_err());
}

/// A condition as text, of every form.
fn any_condition() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["seed", "a.b", "`with space`", "x_1.0", "`or`", "_store.n_bytes"]);
    let literal =
        prop::sample::select(vec!["1", "-2.5", "1e3", "true", "null", "\"te\\\"xt\"", "'é\\\\'", "false"]);
    let sign = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">=", "~", "=="]);
    let compare = (name.clone(), sign, literal.clone()).prop_map(|(n, s, l)| format!("{n} {s} {l}"));
    let list = (name.clone(), prop::collection::vec(literal, 1..4))
        .prop_map(|(n, l)| format!("{n} in [{}]", l.join(",")));
    let leaf = prop_oneof![compare, list, name.prop_map(str::to_owned)];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|c| format!("not ({c})")),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|c| format!("({})", c.join(" and "))),
            prop::collection::vec(inner, 2..4).prop_map(|c| format!("({})", c.join(" OR "))),
        ]
    })
}

proptest! {
    #[test]
    fn a_condition_prints_as_it_parses(text in any_condition()) {
        let condition: Condition = text.parse().unwrap();
        let printed = condition.to_string();
        prop_assert_eq!(&printed.parse::<Condition>().unwrap(), &condition, "{}", printed);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z`'\"()=<>! .,\\[\\]\\\\0-9é]{0,40}") {
        let _ = text.parse::<Condition>();
    }
}

#[test]
fn configs_match_by_subset_or_exactly() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let saved = json!({
        "extract_resid_out": true, "extract_attn_pattern": true, "save_logits": false, "avg": false,
        "attn_heads": [{"layer": 1, "head": 2}, {"layer": 3, "head": 0}], "attn_pattern_avg": "mean",
    });
    saver.save(&contents(1), &Provenance { extraction_config: saved.clone(), ..provenance(1) }).unwrap();
    let loader = ActivationLoader::from_saver(&saver);
    let finds = |config: Value, matching| {
        let query = Query { extraction_config: Some(config), matching, ..Query::default() };
        loader.query(&query).unwrap().len() == 1
    };
    for (config, subset) in [
        (json!({}), true),
        (json!({"extract_resid_out": true}), true),
        (json!({"extract_resid_out": false, "extract_mlp_out": false}), true),
        (json!({"extract_mlp_out": true}), false),
        (json!({"save_logits": true}), true),
        (json!({"save_logits": false}), true),
        (json!({"avg": true}), false),
        (json!({"attn_heads": "all"}), true),
        (json!({"attn_heads": [{"head": 2, "layer": 1}]}), true),
        (json!({"attn_heads": [{"layer": 9, "head": 9}]}), false),
        (json!({"attn_pattern_avg": "mean"}), true),
        (json!({"attn_pattern_avg": "sum"}), false),
        (json!({"attn_pattern_avg": "none"}), true),
        (saved.clone(), true),
    ] {
        assert_eq!(finds(config.clone(), Matching::Subset), subset, "{config}");
        assert_eq!(finds(config.clone(), Matching::Exact), config == saved, "{config} exactly");
    }
}

#[test]
fn every_criterion_that_is_given_must_hold() {
    let base = fast_folder();
    let saver = saver(&base, "e");
    let path = saver.save(&contents(1), &provenance(1)).unwrap();
    let loader = ActivationLoader::from_saver(&saver);
    let save_time = saver.store().run(&path).unwrap().metadata().save_time().to_owned();
    let text = |text: &str| Some(text.to_owned());
    let keys = |value: Value| value.as_object().unwrap().clone();
    let right = Query {
        experiment_name: text("e"),
        model_name: text("org/tiny"),
        target_token_positions: Some(json!(["last", [2, 5], -3])),
        save_time: Some(save_time),
        custom_keys: keys(json!({"seed": 1})),
        tags: vec!["tag_1".to_owned()],
        ..Query::default()
    };
    assert_eq!(loader.query(&right).unwrap().len(), 1);
    let renamed = Query { model_name: text("tiny"), or_model_name: text("org/tiny"), ..right.clone() };
    assert_eq!(loader.query(&renamed).unwrap().len(), 1);
    for wrong in [
        Query { experiment_name: text("other"), ..right.clone() },
        Query { model_name: text("org_tiny"), ..right.clone() },
        Query { target_token_positions: Some(json!("last")), ..right.clone() },
        Query { pivot_positions: Some(json!([1])), ..right.clone() },
        Query { save_time: text("2023-04-15 14:30:25"), ..right.clone() },
        Query { custom_keys: keys(json!({"seed": 2})), ..right.clone() },
        Query { custom_keys: keys(json!({"seed": 1, "other": null})), ..right.clone() },
        Query { extraction_config: Some(json!({"avg": true})), ..right.clone() },
        Query { interventions: Some(json!([{"type": "full"}]).into()), ..right.clone() },
        Query { tags: vec!["tag_1".to_owned(), "tag_2".to_owned()], ..right.clone() },
    ] {
        assert_eq!(loader.query(&wrong).unwrap().len(), 0, "{wrong:?}");
    }
}
