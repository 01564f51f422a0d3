//! The page of features: one file or a folder, no token active, bad lines refused.

use easyroutine_view::features::{Feature, FeaturesReport, File, Folder, html};
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
fn a_folder_has_every_feature_in_its_index_and_in_one_of_its_scripts() {
    let hostile = "</script><script>alert(1)</script>\u{202e}\u{2028}";
    let report = report((0..600).map(|n| line(n, if n == 300 { hostile } else { "Paris" })));
    let mut folder = Folder::default();
    let mut files: Vec<File> = report.features.iter().filter_map(|feature| folder.add(feature)).collect();
    files.extend(folder.finish(&report));
    let names: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
    assert_eq!(names, ["chunks/0.js", "chunks/1.js", "chunks/2.js", "index.html"]);
    let index = &files[3].text;
    let data = index.split_once("id=\"data\">").unwrap().1.split_once("</script>").unwrap().0;
    let data: Value = serde_json::from_str(data).unwrap();
    let mut cards = Vec::new();
    for (number, file) in files[..3].iter().enumerate() {
        let inner = file.text.strip_prefix(&format!("easyroutine({number},")).unwrap();
        let chunk: Value = serde_json::from_str(inner.strip_suffix(");\n").unwrap()).unwrap();
        for card in chunk["features"].as_array().unwrap() {
            cards.push((card["n"].clone(), json!(number)));
        }
    }
    let entries = data["features"].as_array().unwrap().iter();
    assert!(entries.map(|entry| (entry["n"].clone(), entry["chunk"].clone())).eq(cards));
    for file in &files {
        let spoken = file.text.contains("alert(1)</script>") || file.text.contains(['\u{202e}', '\u{2028}']);
        assert!(!spoken, "{}", file.name);
    }
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
