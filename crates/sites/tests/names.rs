//! Names, patterns and the page made from the table.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use easyroutine_sites::{Extent, Point, Scope, Selector, Site, Slice, SliceError, layers, sites_page};
use proptest::prelude::*;

const MODEL: Extent = Extent { n_layers: 12, n_heads: 4, n_experts: 6 };

fn selected(pattern: &str) -> Vec<String> {
    let selector: Selector = pattern.parse().unwrap_or_else(|e| panic!("{pattern}: {e}"));
    selector.points(MODEL).unwrap().iter().map(ToString::to_string).collect()
}

#[test]
fn every_point_prints_and_parses_to_itself() {
    for &site in Site::ALL {
        let point = match site.scope() {
            Scope::Model => Point::model(site),
            Scope::Layer | Scope::LetteredLayer => Point::layer_of(site, 11),
            Scope::Head => Point::head_of(site, 10, 3),
            Scope::Expert => Point::expert_of(site, 10, 5),
        };
        assert_eq!(point.to_string().parse::<Point>().as_ref(), Ok(&point));
        assert_eq!(selected(&point.to_string()), [point.to_string()]);
    }
}

#[test]
fn a_typo_is_an_error_that_names_the_nearest_key() {
    let cases = [
        ("resid_outt_5", "resid_out_5"),
        ("resid_out5", "resid_out_5"),
        ("pattern_5_3", "pattern_L5H3"),
        ("patern_L7H2", "pattern_L7H2"),
        ("queries_5", "queries_L5"),
        ("logit", "logits"),
        ("ResidOut_5", "resid_out_5"),
    ];
    for (typo, meant) in cases {
        let message = typo.parse::<Point>().unwrap_err().to_string();
        assert_eq!(message, format!("no activation `{typo}`; did you mean `{meant}`?"));
    }
}

#[test]
fn names_that_only_look_right_are_refused() {
    let wrong = [
        "",
        "resid_out_",
        "resid_out_05",
        "resid_out_+5",
        "resid_out_5 ",
        "resid_out_5_",
        "pattern_L5",
        "logits_0",
        "pattern_L5H",
        "queries_5",
        "resid_out_99999999999999999999",
        "blocks.5.hook_resid_past",
    ];
    for name in wrong {
        assert!(name.parse::<Point>().is_err(), "{name:?} parsed");
    }
}

#[test]
fn patterns_select_layers_and_heads() {
    assert_eq!(selected("resid_out_*").len(), 12);
    assert_eq!(selected("resid_out_{i}").len(), 12);
    assert_eq!(selected("resid_out_3:5"), ["resid_out_3", "resid_out_4"]);
    assert_eq!(selected("resid_out_10:"), ["resid_out_10", "resid_out_11"]);
    assert_eq!(selected("resid_out_-1"), ["resid_out_11"]);
    assert_eq!(selected("resid_out_-2:"), ["resid_out_10", "resid_out_11"]);
    assert_eq!(selected("resid_out_0:12:5"), ["resid_out_0", "resid_out_5", "resid_out_10"]);
    assert_eq!(selected("head_out_L4H::2"), ["head_out_L4H0", "head_out_L4H2"]);
    assert_eq!(selected("pattern_*").len(), 48);
    assert_eq!(selected("pattern_L2").len(), 4);
    assert_eq!(
        selected("head_out_L4H*"),
        ["head_out_L4H0", "head_out_L4H1", "head_out_L4H2", "head_out_L4H3"]
    );
    assert_eq!(selected("head_out_L{i}H{j}").len(), 48);
    assert_eq!(selected("expert_out_2").len(), 6);
    assert_eq!(selected("expert_out_*").len(), 72);
    assert_eq!(selected("expert_out_{layer}E{expert}").len(), 72);
    assert_eq!(selected("expert_out_1:3E-1"), ["expert_out_1E5", "expert_out_2E5"]);
    assert_eq!(selected("logits"), ["logits"]);
    assert_eq!(selected("queries_L*").len(), 12);
}

#[test]
fn a_layer_or_head_out_of_range_is_named() {
    for (pattern, part) in [
        ("resid_out_12", "the model has 12 layers, 0 to 11"),
        ("resid_out_-13", "no such layer"),
        ("resid_out_5:5", "no such layer"),
        ("pattern_L0H4", "the model has 4 heads, 0 to 3"),
        ("expert_out_0E6", "the model has 6 experts, 0 to 5"),
    ] {
        let message = pattern.parse::<Selector>().unwrap().points(MODEL).unwrap_err().to_string();
        assert!(message.contains(part) && message.contains(pattern), "{message}");
    }
    let of_neither = Extent { n_heads: 0, n_experts: 0, ..MODEL };
    for (pattern, part) in
        [("pattern_*", "the model has no heads"), ("expert_out_3", "the model has no experts")]
    {
        let message = pattern.parse::<Selector>().unwrap().points(of_neither).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_slice_prints_as_it_is_read_and_selects_what_python_would() {
    for text in ["4:9", "4:", ":9", "-3:", "-3:-1", "0:30:5", ":", "::2"] {
        assert_eq!(text.parse::<Slice>().unwrap().to_string(), text);
    }
    assert_eq!("4:9:".parse::<Slice>().unwrap(), Slice::new(4, 9));
    for text in ["", "5", "a:", "1:2:0", "1:2:-1", "1:2:3:4", "-0:", "+1:", "1234567890:"] {
        let message = text.parse::<Slice>().unwrap_err().to_string();
        assert!(message.contains("0:30:5"), "{text}: {message}");
    }
    let of = |text: &str, count| text.parse::<Slice>().unwrap().of(count).map(Iterator::collect::<Vec<_>>);
    assert_eq!(of("-3:", 5), Ok(vec![2, 3, 4]));
    assert_eq!(of("0:5:2", 5), Ok(vec![0, 2, 4]));
    assert_eq!((of("-6:", 5), of(":6", 5)), (Err(SliceError::Outside), Err(SliceError::Outside)));
    assert_eq!((of("3:3", 5), of(":", 0)), (Err(SliceError::Empty), Err(SliceError::Empty)));
}

#[test]
fn layers_are_read_once_each_in_the_order_of_the_model() {
    assert_eq!(layers("-1, emb,0:30:5,5", 32), Ok(vec![-1, 0, 5, 10, 15, 20, 25, 31]));
    assert_eq!(layers("all", 2), Ok(vec![-1, 0, 1]));
    for (text, part) in
        [("0:40", "32 layers"), ("32", "0 to 31"), ("2:1", "empty"), ("x", "`x`"), ("", "neither a layer")]
    {
        let message = layers(text, 32).unwrap_err().to_string();
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn lists_keep_every_pattern() {
    let list = Selector::parse_list(" resid_out_* , logits ").unwrap();
    assert_eq!(list.iter().map(ToString::to_string).collect::<Vec<_>>(), ["resid_out_*", "logits"]);
    assert!(Selector::parse_list(" , ").is_err());
    assert!(Selector::parse_list("resid_out_*,resid_uot_1").is_err());
}

#[test]
fn names_of_transformer_lens_mean_the_same_points() {
    for (theirs, ours) in [
        ("blocks.5.hook_resid_pre", "resid_in_5"),
        ("blocks.5.hook_resid_post", "resid_out_5"),
        ("blocks.0.attn.hook_q", "queries_L0"),
        ("blocks.11.mlp.hook_post", "mlp_hidden_11"),
    ] {
        assert_eq!(theirs.parse::<Point>().unwrap().to_string(), ours);
        assert_eq!(selected(theirs), [ours]);
    }
    assert_eq!(selected("blocks.5.attn.hook_pattern"), selected("pattern_L5H*"));
    assert_eq!(selected("blocks.5.attn.hook_attn_scores"), selected("scores_L5H*"));
}

#[test]
fn the_documentation_page_is_fresh() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/SITES.md");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == sites_page(), "docs/SITES.md is stale; its first lines say how to renew it");
}

proptest! {
    #[test]
    fn no_text_makes_the_parsers_panic(text in "\\PC{0,40}") {
        let _ = text.parse::<Point>();
        if let Ok(selector) = text.parse::<Selector>() {
            let _ = selector.points(MODEL);
        }
    }

    #[test]
    fn a_parsed_name_prints_as_it_was_written(name in "[a-z_]{3,12}_L?[0-9]{1,3}(H[0-9]{1,2})?") {
        if let Ok(point) = name.parse::<Point>() {
            prop_assert_eq!(point.to_string(), name);
        }
    }
}
