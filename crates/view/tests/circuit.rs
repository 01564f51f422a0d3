//! Circuits in every format; `EASYROUTINE_BLESS=1` rewrites the expected files.

use easyroutine_view::circuit::{
    CircuitEdge, CircuitReport, html, markdown, page_data, png, svg, table, terminal,
};

use crate::expect;

/// Hostile text from outside: prompts, a model's name.
fn report() -> CircuitReport {
    let edge = |from: &str, to: &str, input, score| CircuitEdge {
        from: from.to_owned(),
        to: to.to_owned(),
        input,
        score,
    };
    CircuitReport {
        title: "Circuit".to_owned(),
        lines: vec!["name</title>\u{7} · eap-ig, 5 steps".to_owned(), "faithfulness: 0.9".to_owned()],
        prompts: vec![
            ("clean".to_owned(), "When <script>Mary".to_owned()),
            ("corrupted".to_owned(), "When\u{1b}[2J John".to_owned()),
        ],
        meaning: ["raises".to_owned(), "lowers".to_owned()],
        n_layers: 2,
        n_heads: 3,
        edges: vec![
            edge("input", "a0.h1", Some('v'), -0.5),
            edge("a0.h1", "m0", None, 0.25),
            edge("a0.h1", "a1.h2", Some('q'), 0.125),
            edge("input", "m0", None, 0.0625),
            edge("m0", "logits", None, 1.5),
            edge("a1.h2", "logits", None, -0.75),
        ],
    }
}

#[test]
fn every_format_is_as_expected() {
    let report = report();
    expect("circuit.txt", &terminal(&report, 80, 4));
    expect("circuit.tsv", &table(&report).tsv());
    expect("circuit.csv", &table(&report).csv());
    expect("circuit.md", &markdown(&report));
    expect("circuit.svg", &svg(&report));
    expect("circuit.html", &html(&report).unwrap());
    assert!(png(&report, 1.0).unwrap().starts_with(b"\x89PNG"));
}

#[test]
fn nothing_of_a_prompt_is_active() {
    let report = report();
    for text in [svg(&report), html(&report).unwrap(), markdown(&report)] {
        assert!(!text.contains("<script>Mary") && !text.contains('\u{1b}') && !text.contains("name</title>"));
    }
}

#[test]
fn too_many_edges_are_no_page() {
    let mut report = report();
    report.edges = vec![report.edges[0].clone(); 20_001];
    assert!(html(&report).unwrap_err().to_string().contains("keep fewer"));
}

#[test]
fn a_circuit_is_read_back_from_its_json() {
    let json = r#"{"cfg": {"n_layers": 2, "n_heads": 3, "d_model": 8}, "nodes": {}, "edges": {
        "input->a1.h2<q>": {"score": 0.5, "in_graph": true}, "a1.h2->logits": {"score": -1.0, "in_graph": true},
        "m0->m1": {"score": 9.0, "in_graph": false}}}"#;
    let report = CircuitReport::from_json(json).unwrap();
    let edge = |from: &str, to: &str, input, score| CircuitEdge {
        from: from.to_owned(),
        to: to.to_owned(),
        input,
        score,
    };
    assert_eq!(report.edges, [edge("a1.h2", "logits", None, -1.0), edge("input", "a1.h2", Some('q'), 0.5)]);
    let data = page_data(&report);
    assert_eq!(data["edges"].as_array().unwrap().len(), 2);
    assert_eq!(data["left_out"], 0);
}

#[test]
fn a_json_that_is_no_circuit_is_refused() {
    let with = |layers: &str, edge: &str| {
        format!(
            r#"{{"cfg": {{"n_layers": {layers}, "n_heads": 3}}, "edges": {{"{edge}": {{"score": 1, "in_graph": true}}}}}}"#
        )
    };
    assert!(CircuitReport::from_json(&with("2", "input->a1.h2<q>")).is_ok());
    let wrong = [
        String::new(),
        "[]".to_owned(),
        with("9999999999999", "input->m0"),
        with("-1", "input->m0"),
        with("2", "input->m2"),
        with("2", "a0.h3->logits"),
        with("2", "m18446744073709551615->logits"),
        with("2", "input->a1.h2<qq>"),
        with("2", "input"),
        with("2", ""),
    ];
    for text in wrong {
        assert!(CircuitReport::from_json(&text).is_err(), "{text}");
    }
}
