//! Attribution graphs in every format; `EASYROUTINE_BLESS=1` rewrites the expected files.

use easyroutine_view::graph::{
    GraphEdge, GraphNode, GraphReport, NodeKind, html, markdown, page_data, table, terminal,
};

use crate::expect;

fn node(
    kind: NodeKind,
    layer: usize,
    position: usize,
    name: &str,
    value: Option<f64>,
    cumulative: f64,
) -> GraphNode {
    let influence = Some(1.0 - cumulative);
    GraphNode { kind, layer, position, name: name.to_owned(), value, influence, cumulative }
}

/// Hostile text from outside: tokens, a model's name.
fn report() -> GraphReport {
    let edge = |from, to, weight| GraphEdge { from, to, weight };
    GraphReport {
        title: "Attribution graph".to_owned(),
        lines: vec!["name</title>\u{7} · sets".to_owned(), "replacement score 0.5".to_owned()],
        tokens: ["<bos>", "When", " <script>Mary", "\u{1b}[2J"].map(str::to_owned).to_vec(),
        n_layers: 3,
        nodes: vec![
            node(NodeKind::Feature, 0, 2, "12", Some(1.5), 0.5),
            node(NodeKind::Feature, 2, 3, "7", Some(0.25), 0.75),
            node(NodeKind::Error, 0, 3, "", None, 0.875),
            node(NodeKind::Token, 0, 0, "<bos>", None, 0.95),
            node(NodeKind::Token, 0, 1, "When", None, 0.97),
            node(NodeKind::Token, 0, 2, " <script>Mary", None, 0.4),
            node(NodeKind::Token, 0, 3, "\u{1b}[2J", None, 0.99),
            node(NodeKind::Logit, 0, 3, " </script>", Some(0.75), 1.0),
            node(NodeKind::Logit, 0, 3, "b", Some(0.125), 1.0),
        ],
        edges: vec![
            edge(5, 0, 2.0),
            edge(0, 1, -0.5),
            edge(2, 1, 0.25),
            edge(1, 7, 1.5),
            edge(0, 7, -0.75),
            edge(6, 8, 0.0625),
        ],
    }
}

#[test]
fn every_format_is_as_expected() {
    let report = report();
    expect("graph.txt", &terminal(&report, 80, 4));
    expect("graph.tsv", &table(&report).tsv());
    expect("graph.csv", &table(&report).csv());
    expect("graph.md", &markdown(&report));
    expect("graph.html", &html(&report).unwrap());
}

#[test]
fn nothing_of_a_prompt_is_active() {
    let report = report();
    for text in [html(&report).unwrap(), markdown(&report)] {
        assert!(!text.contains("name</title>") && !text.contains("<script>Mary"), "{text}");
    }
    for text in [html(&report).unwrap(), markdown(&report), terminal(&report, 80, 9), table(&report).tsv()] {
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn too_many_edges_are_no_page_and_edges_without_a_node_are_left_out() {
    let mut report = report();
    report.edges[0].to = 99;
    assert_eq!(table(&report).tsv().lines().count(), report.edges.len());
    report.edges = vec![report.edges[1]; 20_001];
    assert!(html(&report).unwrap_err().to_string().contains("keep less"));
}

/// A graph as `easyroutine graph` writes it.
fn written() -> serde_json::Value {
    let node = |id: &str, layer: &str, position: usize, kind: &str| {
        serde_json::json!({
            "node_id": id, "layer": layer, "ctx_idx": position, "feature_type": kind, "token_prob": 0.5,
            "clerp": if kind == "logit" { "Output \" <b>\" (p=0.500)" } else { "" },
            "influence": 0.25, "activation": 1.5,
        })
    };
    serde_json::json!({
        "metadata": {"prompt_tokens": ["<bos>", " a"]},
        "nodes": [
            node("1_12_1", "1", 1, "cross layer transcoder"),
            node("0_2_1", "2", 1, "mlp reconstruction error"),
            node("E_7_0", "E", 0, "embedding"),
            node("4_9_1", "4", 1, "logit"),
        ],
        "links": [{"source": "E_7_0", "target": "1_12_1", "weight": 0.5}, {"source": "1_12_1", "target": "4_9_1", "weight": -2.0}],
    })
}

#[test]
fn a_graph_is_read_back_from_its_json() {
    let report = GraphReport::from_json(&written().to_string()).unwrap();
    assert_eq!(report.n_layers, 3);
    let titles: Vec<String> = report.nodes.iter().map(GraphNode::title).collect();
    assert_eq!(
        titles,
        ["feature 12 in layer 1 at 1", "error of layer 2 at 1", "token 0 \"<bos>\"", "logit \" <b>\""]
    );
    assert_eq!(report.edges[1], GraphEdge { from: 0, to: 3, weight: -2.0 });
    let data = page_data(&report);
    assert_eq!((data["nodes"][0]["row"].as_u64(), data["nodes"][3]["row"].as_u64()), (Some(2), Some(4)));
    assert_eq!((&data["nodes"][0]["layer"], &data["left_out"]), (&1.into(), &0.into()));
}

#[test]
fn a_json_that_is_no_graph_is_refused() {
    let change = |pointer: &str, value: serde_json::Value| {
        let mut json = written();
        *json.pointer_mut(pointer).unwrap() = value;
        json.to_string()
    };
    let wrong = [
        String::new(),
        "{}".to_owned(),
        change("/nodes/0/ctx_idx", 2.into()),
        change("/nodes/0/layer", "99999999999".into()),
        change("/nodes/0/node_id", "1_x_1".into()),
        change("/nodes/0/node_id", "E_7_0".into()),
        change("/nodes/1/feature_type", "else".into()),
        change("/links/0/source", "E_8_0".into()),
        change("/links/0/weight", "much".into()),
    ];
    for text in wrong {
        assert!(GraphReport::from_json(&text).is_err(), "{text}");
    }
}
