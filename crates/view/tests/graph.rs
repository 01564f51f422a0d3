//! Attribution graphs in every format; `EASYROUTINE_BLESS=1` rewrites the expected files.

use easyroutine_view::graph::{
    GraphEdge, GraphNode, GraphReport, NodeKind, csv, html, markdown, terminal, tsv,
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
    let influence = 1.0 - cumulative;
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
    expect("graph.tsv", &tsv(&report));
    expect("graph.csv", &csv(&report));
    expect("graph.md", &markdown(&report));
    expect("graph.html", &html(&report).unwrap());
}

#[test]
fn nothing_of_a_prompt_is_active() {
    let report = report();
    for text in [html(&report).unwrap(), markdown(&report)] {
        assert!(!text.contains("name</title>") && !text.contains("<script>Mary"), "{text}");
    }
    for text in [html(&report).unwrap(), markdown(&report), terminal(&report, 80, 9), tsv(&report)] {
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn too_many_edges_are_no_page_and_edges_without_a_node_are_left_out() {
    let mut report = report();
    report.edges[0].to = 99;
    assert_eq!(tsv(&report).lines().count(), report.edges.len());
    report.edges = vec![report.edges[1]; 20_001];
    assert!(html(&report).unwrap_err().to_string().contains("keep less"));
}
