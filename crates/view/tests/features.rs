//! The page of features: one file, no token active, bad lines refused.

use easyroutine_view::features::{Feature, FeaturesReport, html};
use serde_json::{Value, json};

fn line(feature: u32, token: &str) -> Value {
    json!({
        "schema": "easyroutine.feature/1", "feature": feature, "count": 2, "frequency": 0.5, "mean": 1.5, "max": 2.0,
        "histogram": [[1.0, 1.125, 1], [2.0, 2.25, 1]],
        "top_logits": [{"id": 1, "token": token, "value": 3.0}], "bottom_logits": null,
        "top": [{"prompt": 0, "position": 4, "value": 2.0, "start": 3, "tokens": ["a", token], "values": [0.0, 2.0]}],
        "drawn": [],
    })
}

fn report(features: impl IntoIterator<Item = Value>) -> FeaturesReport {
    let features = features.into_iter().map(|line| Feature::from_json(&line.to_string()).unwrap()).collect();
    FeaturesReport { title: "sae".to_owned(), facts: vec![("L0".to_owned(), "7.9".to_owned())], features }
}

#[test]
fn tokens_and_titles_are_never_active() {
    let hostile = "</script><script>alert(1)</script>\u{202e}";
    let mut report = report([line(7, hostile)]);
    report.title = hostile.to_owned();
    let page = html(&report).unwrap();
    assert_eq!(page.matches("<script").count(), 2, "the data and the script of the page");
    assert!(!page.contains("alert(1)</script>") && !page.contains('\u{202e}'));
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_page_holds_each_text_of_a_token_once() {
    let page = html(&report((0..50).map(|n| line(n, "Paris")))).unwrap();
    let data = page.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["texts"], json!(["Paris", "a"]));
    assert_eq!(data["features"].as_array().unwrap().len(), 50);
}

#[test]
fn lines_that_do_not_hold_together_are_refused() {
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut value = line(7, "x");
        change(&mut value);
        Feature::from_json(&value.to_string()).unwrap_err().to_string()
    };
    assert!(wrong(&|line| line["schema"] = json!("other/1")).contains("easyroutine.feature/1"));
    assert!(wrong(&|line| line["top"][0]["values"] = json!([1.0])).contains("feature 7"));
    assert!(wrong(&|line| line["top"][0]["start"] = json!(5)).contains("feature 7"));
    assert!(!wrong(&|line| line["count"] = json!("many")).is_empty());
    assert!(Feature::from_json("{").is_err());
}
