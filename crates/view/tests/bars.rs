//! Bars in every format; `EASYROUTINE_BLESS=1` rewrites the expected files.

use easyroutine_view::bars::{BarRow, BarsReport, html, png, svg};

use crate::expect;

/// Hostile text from outside: the prompt, a model's name.
fn report() -> BarsReport {
    let row = |layer: usize, values: [Option<f64>; 2], sum| BarRow {
        label: format!("layer {layer}"),
        values: values.to_vec(),
        sum,
    };
    BarsReport {
        title: "Direct logit attribution".to_owned(),
        lines: vec!["name</title>\u{7} · 3 layers".to_owned()],
        prompts: vec![("prompt".to_owned(), "When <b>Mary\u{1b}[2J".to_owned())],
        meaning: ["towards \" Mary\"".to_owned(), "towards \" John\"".to_owned()],
        columns: vec!["attention".to_owned(), "MLP".to_owned()],
        rows: vec![
            row(0, [Some(0.25), None], 0.25),
            row(1, [Some(-2.0), Some(1.5)], -0.25),
            row(2, [Some(f64::NAN), Some(4.0)], 3.75),
        ],
        sum: Some("running sum".to_owned()),
    }
}

#[test]
fn every_format_is_as_expected() {
    let report = report();
    expect("bars.svg", &svg(&report));
    expect("bars.html", &html(&report));
    assert!(png(&report, 1.0).unwrap().starts_with(b"\x89PNG"));
    for text in [svg(&report), html(&report)] {
        assert!(!text.contains("<b>") && !text.contains('\u{1b}') && !text.contains("name</title>"));
    }
}
