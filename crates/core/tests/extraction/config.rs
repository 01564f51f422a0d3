//! Every flag, its default, and rejected configurations.

use easyroutine::cache::{Axis, Examples, PatternAverage, Reduction};
use easyroutine::extraction::{ExtractionConfig, Heads};
use easyroutine::positions::Specifier;
use easyroutine::sites::{Point, Site, Slice};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

use super::{config, refusal, rows, run, specifiers};
use crate::common::{cases, tiny};

#[test]
fn an_empty_config_returns_logits_alone() {
    let cache = run(&tiny("llama"), &rows(), json!({}), "last").unwrap();
    assert_eq!(cache.keys().collect::<Vec<_>>(), ["logits"]);
    assert_eq!(cache.get("logits").unwrap().shape(), Some(vec![3, 1, 320]));
    let none = ExtractionConfig { sites: [].into(), ..ExtractionConfig::default() };
    assert!(none.request(&specifiers("all")).unwrap_err().to_string().contains("every flag is off"));
}

#[test]
fn every_flag_of_the_table_gives_the_keys_of_its_site_and_nothing_else() {
    for case in cases("tiny") {
        let model = tiny(&case);
        for site in Site::ALL {
            let asked = json!({"save_logits": false, site.flag(): true});
            let Ok(cache) = run(&model, &rows()[..1], asked, "all") else {
                let has = |p: Point| p.site() == *site && model.arch().lacks(p).is_none();
                assert!(!model.arch().points().any(has), "{case}: {} was refused", site.flag());
                continue;
            };
            assert!(!cache.is_empty(), "{case}: {}", site.flag());
            for key in cache.keys() {
                let point: Point = key.to_string().split('.').next().unwrap().parse().unwrap();
                assert_eq!(point.site(), *site, "{case}: {}", site.flag());
            }
        }
    }
}

#[test]
fn token_ids_are_ids() {
    // The original's ids are floats cut out of the embeddings.
    let cache = run(&tiny("llama"), &rows(), json!({"save_input_ids": true}), "last,0:2").unwrap();
    let ids = easyroutine::cache::Numbers::I64(vec![11, 5, 6, 26, 21, 22, 37, 3, 30]);
    assert_eq!(cache.get("input_ids").unwrap().data, ids);
}

#[test]
fn heads_limit_everything_that_has_heads_and_nothing_else() {
    let asked = json!({
        "extract_attn_pattern": true, "extract_head_out": true, "extract_head_keys": true, "extract_attn_out": true,
        "attn_heads": [{"layer": 2, "head": 1}, {"head": 3, "layer": 0}],
    });
    let cache = run(&tiny("llama"), &rows(), asked, "last").unwrap();
    let expected = [
        "head_keys_L0H3",
        "pattern_L0H3",
        "head_out_L0H3",
        "attn_out_0",
        "attn_out_1",
        "head_keys_L2H1",
        "pattern_L2H1",
        "head_out_L2H1",
        "attn_out_2",
        "logits",
    ];
    assert_eq!(cache.keys().collect::<Vec<_>>(), expected);
    let beyond = json!({"extract_attn_pattern": true, "attn_heads": [{"layer": 0, "head": 4}]});
    assert!(refusal(beyond, "last").contains("no such head"));
    let none = json!({"extract_attn_pattern": true, "attn_heads": []});
    assert!(refusal(none, "last").contains("`attn_heads` names no head"));
}

#[test]
fn fields_that_do_not_exist_or_are_of_another_type_are_refused() {
    let refused = |json: Value| {
        let error = ExtractionConfig::from_json(json.as_object().unwrap()).unwrap_err();
        format!("{error}; {}", error.hint_text().unwrap_or_default())
    };
    let expected = [
        (json!({"extract_resid_ou": true}), "did you mean `extract_resid_out`"),
        (json!({"zzz": true}), "no field `zzz`"),
        (json!({"extract_resid_out": 1}), "`extract_resid_out` is true or false, not 1"),
        (json!({"avg": "yes"}), "`avg` is true or false"),
        (json!({"keep_gradient": true}), "`keep_gradient` is of one token's logit"),
        (json!({"attn_heads": "some"}), "`attn_heads` is \"some\""),
        (json!({"attn_heads": [{"layer": 1}]}), "`attn_heads`"),
        (json!({"attn_heads": [{"layer": 1, "head": -1}]}), "`attn_heads`"),
        (json!({"attn_heads": [[1, 2]]}), "`attn_heads`"),
        (json!({"attn_pattern_avg": "median"}), "none, mean, sum, baseline_ratio"),
        (json!({"attn_pattern_row_positions": []}), "`attn_pattern_row_positions` is []"),
        (json!({"attn_pattern_row_positions": ["lasst"]}), "`lasst` names no token positions"),
        (json!({"attn_pattern_row_positions": [[1, 2, 3]]}), "`[1,2,3]` names no token positions"),
        (json!({"attn_pattern_row_positions": [1e300]}), "names no token positions"),
    ];
    for (json, said) in expected {
        let refusal = refused(json.clone());
        assert!(refusal.contains(said), "{json}: {refusal}");
    }
    assert_eq!(config(json!({"keep_gradient": false})), ExtractionConfig::default());
}

#[test]
fn what_would_be_without_effect_is_refused() {
    for field in [
        json!({"attn_pattern_avg": "mean"}),
        json!({"avg_over_example": true}),
        json!({"attn_pattern_row_positions": ["last"]}),
    ] {
        let name = field.as_object().unwrap().keys().next().unwrap().clone();
        let refusal = refusal(field, "last");
        assert!(refusal.starts_with(&format!("`{name}` (`--")), "{refusal}");
        assert!(refusal.contains("is about attention patterns"), "{refusal}");
    }
    assert!(refusal(json!({"avg": true, "save_input_ids": true}), "last").contains("experts have no mean"));
    let special = refusal(json!({"avg": true}), "last,special");
    assert!(special.contains("row 0: `special` selects no token"), "{special}");
}

fn some_specifier() -> impl Strategy<Value = Specifier> {
    prop_oneof![
        select(vec!["all", "first", "last", "last-7", "special", "all-text", "random-text-2", "text:a, b"])
            .prop_map(|text| text.parse().unwrap()),
        (-999_999_999i64..1_000_000_000).prop_map(Specifier::At),
        (-50i64..50, -50i64..50).prop_map(|(start, end)| Specifier::Span(Slice::new(start, end))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_config_written_is_read_back(
        sites in subsequence(Site::ALL.to_vec(), 0..Site::ALL.len()),
        heads in prop::option::of(prop::collection::vec((0usize..99, 0usize..99), 0..4)),
        (avg, over, pattern) in (any::<bool>(), any::<bool>(), select(PatternAverage::ALL.to_vec())),
        rows in prop::option::of(prop::collection::vec(some_specifier(), 1..4)),
    ) {
        let reduction = Reduction {
            positions: if avg { Axis::Groups } else { Axis::Tokens },
            pattern: pattern.0,
            pattern_rows: rows,
            examples: if over { Examples::Mean } else { Examples::Each },
        };
        let heads = heads.map_or(Heads::All, Heads::Of);
        let config = ExtractionConfig { sites: sites.into_iter().collect(), heads, reduction };
        let text = Value::Object(config.to_json()).to_string();
        let fields: Map<String, Value> = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(fields.len(), ExtractionConfig::fields().count());
        prop_assert!(ExtractionConfig::fields().all(|name| fields.contains_key(name)));
        prop_assert_eq!(ExtractionConfig::from_json(&fields).unwrap(), config);
    }
}
