//! `graph`: attribution graphs over transcoder sets.

use crate::common::{easyroutine, fails, fixtures, json, succeeds, tiny};

fn set(name: &str) -> String {
    fixtures().join("dictionaries").join(name).to_str().unwrap().to_owned()
}

const PROMPT: &str = "the cat sat on the mat";

#[test]
fn a_graph_is_written_with_its_certificate_and_drawn() {
    let (model, plt) = (tiny("gpt2"), set("circuit_tracer_plt"));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [written, page, table] = ["g.json", "g.html", "g.tsv"].map(path);
    let args = ["graph", PROMPT, "-m", &model, "--dict-set", &plt, "--bos", "yes"];
    succeeds(&[&args[..], &["-o", &written, "-o", &page, "-o", &table]].concat());
    let graph: serde_json::Value = serde_json::from_slice(&std::fs::read(&written).unwrap()).unwrap();
    assert_eq!(graph["metadata"]["slug"], "the-cat-sat-on-the-mat");
    assert_eq!(graph["metadata"]["scan"], "circuit_tracer_plt");
    assert_eq!(graph["metadata"]["prompt_tokens"][0], "<bos>");
    let about = &graph["metadata"]["easyroutine"];
    assert_eq!(about["schema"], "easyroutine.graph/1");
    assert_eq!(about["settings"]["node_threshold"], 0.8);
    let certificate = &about["certificate"];
    assert!(certificate["largest_row_error"].as_f64().unwrap() < 1e-5, "{certificate}");
    assert!(certificate["largest_intervention_error"].as_f64().unwrap() < 1e-5, "{certificate}");
    assert_eq!(certificate["interventions"].as_array().unwrap().len(), 8);
    // A link joins existing nodes, and each exists once.
    let nodes: Vec<&str> =
        graph["nodes"].as_array().unwrap().iter().map(|node| node["node_id"].as_str().unwrap()).collect();
    let mut names = nodes.clone();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), nodes.len());
    for link in graph["links"].as_array().unwrap() {
        let at = |end: &str| nodes.contains(&link[end].as_str().unwrap());
        assert!(at("source") && at("target"), "{link}");
    }
    let links = graph["links"].as_array().unwrap().len();
    assert_eq!(std::fs::read_to_string(&table).unwrap().lines().count(), links + 1);
    let page = std::fs::read_to_string(&page).unwrap();
    assert!(page.contains("Content-Security-Policy") && page.contains("replacement score"));
}

#[test]
fn logits_features_and_thresholds_are_as_asked() {
    let (model, clt) = (tiny("gpt2"), set("circuit_tracer_clt"));
    let args = ["graph", PROMPT, "-m", &model, "--dict-set", &clt, "--format", "json"];
    let some = json(
        &[&args[..], &["--answer", "id:7", "--answer", "id:9", "--max-features", "5", "--slug", "s"]]
            .concat(),
    );
    let about = &some["metadata"]["easyroutine"];
    assert_eq!((&about["features_with_a_row"], &about["certificate"]["rows"]), (&5.into(), &7.into()));
    assert!(about["certificate"]["largest_row_error"].is_null());
    assert_eq!(about["settings"]["answers"], serde_json::json!([7, 9]));
    let of_kind = |graph: &serde_json::Value, kind: &str| {
        graph["nodes"].as_array().unwrap().iter().filter(|node| node["feature_type"] == kind).count()
    };
    assert_eq!(of_kind(&some, "logit"), 2);
    let whole =
        json(&[&args[..], &["--node-threshold", "1", "--edge-threshold", "1", "--check", "0"]].concat());
    let few = json(&[&args[..], &["--node-threshold", "0.3", "--logits", "2"]].concat());
    assert!(whole["links"].as_array().unwrap().len() > few["links"].as_array().unwrap().len());
    assert_eq!(of_kind(&few, "logit"), 2);
    assert!(whole["metadata"]["easyroutine"]["certificate"]["largest_intervention_error"].is_null());
    let output = easyroutine(&[&args[..], &["--bos", "no"]].concat()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("stands at the beginning, where features and errors are left out"), "{said}");
}

#[test]
fn what_makes_no_graph_is_refused() {
    let (model, plt) = (tiny("gpt2"), set("circuit_tracer_plt"));
    let args = ["graph", PROMPT, "-m", &model, "--dict-set", &plt];
    let refused = |code: i32, more: &[&str]| fails(code, &[&args[..], more].concat());
    assert!(refused(2, &["--answer", "no such token"]).contains("--answer"));
    assert!(refused(2, &["--answer", "id:7", "--logits", "3"]).contains("cannot be used with"));
    assert!(refused(2, &["--node-threshold", "1.5"]).contains("shares lie between 0 and 1"));
    assert!(refused(2, &["--probability", "nan"]).contains("a probability of NaN"));
    assert!(refused(2, &["--skip-first", "100"]).contains("features of the first 100 are left out"));
    assert!(refused(2, &["-o", "graph.svg"]).contains("svg"));
    let sae = set("saelens_standard");
    assert!(fails(4, &["graph", PROMPT, "-m", &model, "--dict-set", &sae]).contains("needs transcoders"));
    let missing = fails(3, &["graph", PROMPT, "-m", &model, "--dict-set", "/nowhere/at/all"]);
    assert!(missing.contains("/nowhere/at/all"), "{missing}");
    let other = fails(2, &["graph", PROMPT, "-m", &tiny("mamba"), "--dict-set", &plt]);
    assert!(other.contains("mlp_in_0"), "{other}");
}
