//! Graphs of three transcoder sets against their references: computed in float64 by another method, and by
//! circuit-tracer.

use easyroutine_graphs::{Graph, Options, Texts, to_json};
use serde_json::{Value, json};

use crate::common::{Case, assert_near, cases};

/// The precision of float32, relative to the largest value.
const SHARE: f64 = 1e-5;

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|x| f64::from(*x)).collect()
}

/// Compares a graph with the tensors under a name prefix.
fn compare(case: &Case, graph: &Graph, prefix: &str, expect: &Value) {
    let what = |name: &str| format!("{} {prefix}{name}", case.name);
    let ids: Vec<i64> = graph.logits.iter().map(|logit| i64::from(logit.id)).collect();
    assert_eq!(ids, case.integers(&format!("{prefix}logit_ids")), "{}", what("logits"));
    let probabilities: Vec<f64> = graph.logits.iter().map(|logit| logit.probability).collect();
    assert_near(
        &what("probabilities"),
        &probabilities,
        &case.floats(&format!("{prefix}logit_probabilities")),
        SHARE,
    );
    let n = graph.n_nodes();
    let mut adjacency = vec![0.0; n * n];
    for target in graph.targets() {
        let row = graph.row(target).unwrap();
        adjacency[target * n..target * n + row.len()].copy_from_slice(&f64s(row));
    }
    assert_near(&what("adjacency"), &adjacency, &case.floats(&format!("{prefix}adjacency")), SHARE);
    assert_near(&what("influence"), &graph.influence(), &case.floats(&format!("{prefix}influence")), SHARE);
    let scores = graph.scores();
    for (name, found) in [("replacement", scores.replacement), ("completeness", scores.completeness)] {
        let expected = expect[name].as_f64().unwrap();
        assert!((found - expected).abs() < SHARE, "{}: {found} {expected}", what(name));
    }
    let pruned = graph.prune(0.8, 0.98).unwrap();
    assert_near(&what("cumulative"), &pruned.cumulative, &case.floats(&format!("{prefix}cumulative")), SHARE);
    let nodes: Vec<i64> = pruned.nodes.iter().map(|kept| i64::from(*kept)).collect();
    assert_eq!(nodes, case.integers(&format!("{prefix}node_mask")), "{}", what("nodes"));
    let mut edges = vec![0; n * n];
    pruned.edges.iter().for_each(|(target, source)| edges[target * n + source] = 1);
    assert_eq!(edges, case.integers(&format!("{prefix}edge_mask")), "{}", what("edges"));
}

#[test]
fn graphs_are_those_of_the_references() {
    for case in cases() {
        let graph = case.graph(&case.options());
        let features: Vec<i64> = graph
            .features
            .iter()
            .flat_map(|feature| [feature.layer, feature.position, feature.number].map(|x| x as i64))
            .collect();
        assert_eq!(features, case.integers("features"), "{}", case.name);
        let values: Vec<f64> = graph.features.iter().map(|feature| f64::from(feature.value)).collect();
        assert_near(&case.name, &values, &case.floats("activations"), SHARE);
        compare(&case, &graph, "", &case.expect);
        assert_near(
            &format!("{} values", case.name),
            &graph.certificate.values,
            &case.floats("row_value"),
            SHARE,
        );
        assert_near(
            &format!("{} rests", case.name),
            &graph.certificate.rests,
            &case.floats("row_rest"),
            SHARE,
        );
    }
}

#[test]
fn graphs_of_some_features_are_those_of_the_references() {
    for case in cases() {
        let limited = &case.expect["limited"];
        let number = |key: &str| limited[key].as_u64().unwrap() as usize;
        let options = Options {
            max_logits: number("max_n_logits"),
            probability: limited["desired_logit_prob"].as_f64().unwrap(),
            max_features: number("max_feature_nodes"),
            rank_every: number("batch_size") * number("update_interval"),
            ..Options::default()
        };
        let (whole, graph) = (case.graph(&case.options()), case.graph(&options));
        let selected: Vec<i64> = graph
            .features
            .iter()
            .map(|feature| whole.features.iter().position(|other| other == feature).unwrap() as i64)
            .collect();
        assert_eq!(selected, case.integers("limited.selected_features"), "{}", case.name);
        compare(&case, &graph, "limited.", limited);
    }
}

#[test]
fn the_json_is_that_of_circuit_tracer() {
    for case in cases() {
        let graph = case.graph(&case.options());
        let pruned = graph.prune(0.8, 0.98).unwrap();
        let metadata = &case.written["metadata"];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let clerp = |node: &Value| {
            let clerp = text(&node["clerp"]);
            let inner = clerp.strip_prefix("Output \"").unwrap();
            inner[..inner.rfind("\" (p=").unwrap()].to_owned()
        };
        let nodes = case.written["nodes"].as_array().unwrap();
        let texts = Texts {
            slug: text(&metadata["slug"]),
            scan: text(&metadata["scan"]),
            prompt: text(&metadata["prompt"]),
            tokens: metadata["prompt_tokens"].as_array().unwrap().iter().map(text).collect(),
            logits: nodes.iter().filter(|node| node["feature_type"] == "logit").map(clerp).collect(),
        };
        let mut found = to_json(&graph, &pruned, 0.8, &texts, json!({}));
        let about = found["metadata"].as_object_mut().unwrap().remove("easyroutine").unwrap();
        assert_eq!(about["certificate"]["rows"], graph.features.len() + graph.logits.len());
        assert_near_json(&case.name, &found, &case.written);
    }
}

/// The same keys in the same order, the same texts, numbers equal within float32's precision.
fn assert_near_json(what: &str, found: &Value, expected: &Value) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
            for (key, value) in expected {
                assert_near_json(&format!("{what}.{key}"), &found[key], value);
            }
        }
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{what}");
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert_near_json(&format!("{what}[{at}]"), found, expected);
            }
        }
        (Value::Number(found), Value::Number(expected)) => {
            let (found, expected) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((found - expected).abs() <= 2e-5 * expected.abs().max(1.0), "{what}: {found} {expected}");
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}
