//! Grids in every format; `EASYROUTINE_BLESS=1` rewrites the expected files.

use easyroutine_view::grid::{
    GridCell, GridColumn, GridReport, GridRow, html, markdown, png, svg, table, terminal,
};
use easyroutine_view::lens::ColourDepth;

use crate::expect;

/// Hostile text from outside: a prompt, tokens, a model's name.
fn report() -> GridReport {
    let tokens = ["When", " Mary", "<script>\n", "\u{202e}|évil\u{1b}[31m", "日本"];
    let columns = tokens
        .iter()
        .enumerate()
        .map(|(i, token)| GridColumn { label: i.to_string(), token: Some((*token).to_owned()) });
    let row = |layer: usize| GridRow {
        label: format!("layer {layer}"),
        cells: (0..tokens.len())
            .map(|position| {
                let effect = (layer as f64 - 1.0) * (position as f64 - 1.5) * 0.37;
                GridCell {
                    activation: format!("resid_in_{layer}"),
                    value: 1.25 + effect,
                    effect,
                    routed: None,
                }
            })
            .collect(),
    };
    GridReport {
        title: "Activation patching".to_owned(),
        lines: vec!["name</title>\u{7} · 3 layers".to_owned(), "metric: logit of \" Mary\"".to_owned()],
        prompts: vec![
            ("base".to_owned(), "When Mary & <b>John</b>".to_owned()),
            ("target".to_owned(), "When\u{1b}[2J Mary".to_owned()),
        ],
        meaning: ["towards \" Mary\"".to_owned(), "towards \" John\"".to_owned()],
        columns: columns.collect(),
        row_kind: "layer",
        rows: (0..3).map(row).collect(),
    }
}

#[test]
fn every_format_is_as_expected() {
    let report = report();
    expect("grid.txt", &terminal(&report, 100, ColourDepth::None));
    expect("grid-narrow.txt", &terminal(&report, 30, ColourDepth::None));
    expect("grid.ans", &terminal(&report, 100, ColourDepth::True));
    expect("grid-256.ans", &terminal(&report, 100, ColourDepth::Ansi256));
    expect("grid.tsv", &table(&report).tsv());
    expect("grid.csv", &table(&report).csv());
    expect("grid.md", &markdown(&report));
    expect("grid.svg", &svg(&report));
}

#[test]
fn a_cell_without_an_activation_is_empty() {
    let mut report = report();
    let filled = [svg(&report), html(&report)].map(|page| page.matches("<rect").count());
    let lacking = &mut report.rows[1].cells[2];
    (lacking.activation, lacking.value, lacking.effect) = (String::new(), f64::NAN, f64::NAN);
    let outputs = [
        terminal(&report, 100, ColourDepth::True),
        table(&report).csv(),
        markdown(&report),
        svg(&report),
        html(&report),
    ];
    for output in outputs {
        assert!(!output.contains("NaN"), "{output}");
    }
    assert_eq!(
        [svg(&report), html(&report)].map(|page| page.matches("<rect").count()),
        filled.map(|n| n - 1)
    );
    assert_eq!(table(&report).tsv().lines().count(), 1 + 3 * 5 - 1);
    assert!(png(&report, 1.0).is_ok());
}

#[test]
fn nothing_from_outside_reaches_an_output_raw() {
    let report = report();
    let outputs = [
        terminal(&report, 100, ColourDepth::None),
        table(&report).tsv(),
        table(&report).csv(),
        markdown(&report),
        svg(&report),
        html(&report),
    ];
    for output in outputs {
        assert!(!output.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{output}");
    }
    for page in [svg(&report), html(&report)] {
        assert!(
            !page.contains("<script") && !page.contains("<b>") && !page.contains("name</title>"),
            "{page}"
        );
    }
    assert_eq!(table(&report).tsv().lines().count(), 1 + 3 * 5);
}

#[test]
fn the_page_makes_no_request_and_runs_no_script() {
    let page = html(&report());
    assert!(page.contains("default-src 'none'") && !page.contains("unsafe-inline"));
    assert_eq!(page.matches("<style>").count(), page.matches("'sha256-").count());
    for word in ["<script", "http:", "https:", "url(", " style="] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(word), "{word}");
    }
}

#[test]
fn an_expert_that_nothing_goes_through_has_a_mark_in_place_of_a_number() {
    let mut experts = report();
    for (number, column) in experts.columns.iter_mut().enumerate() {
        *column = GridColumn { label: format!("E{number}"), token: None };
    }
    for row in &mut experts.rows {
        for (number, cell) in row.cells.iter_mut().enumerate() {
            cell.routed = Some(number % 3);
            cell.effect = if number % 3 == 0 { 0.0 } else { cell.effect };
        }
    }
    let screen = terminal(&experts, 100, ColourDepth::None);
    assert_eq!(screen.matches("    -").count(), 3 * 2, "{screen}");
    assert!(screen.ends_with(" E4\n"), "{screen}");
    let page = svg(&experts);
    assert_eq!(page.matches("resid_in_1: no changed token goes through it").count(), 2, "{page}");
    assert!(page.contains("resid_in_2, 1 token: ") && page.contains("resid_in_2, 2 tokens: "), "{page}");
    assert_eq!(page.matches(">-<").count(), 3 * 2, "{page}");
    assert!(markdown(&experts).contains("| layer 0 | - | "));
    let csv = table(&experts).csv();
    assert!(
        csv.starts_with("layer,column,token,activation,value,effect,routed\r\n\"layer 0\",E0,,"),
        "{csv}"
    );
    assert!(csv.lines().nth(3).unwrap().ends_with(",2"), "{csv}");
    assert!(!table(&report()).csv().contains("routed"));
}

#[test]
fn a_grid_without_effects_and_one_with_nan_are_drawn() {
    let mut flat = report();
    flat.rows.iter_mut().flat_map(|row| &mut row.cells).for_each(|cell| cell.effect = 0.0);
    assert!(terminal(&flat, 80, ColourDepth::None).contains(" 0.00"));
    flat.rows[1].cells[1].effect = f64::NAN;
    assert!(svg(&flat).contains(">NaN<") && terminal(&flat, 80, ColourDepth::None).contains("NaN"));
    let picture = png(&flat, 1.0).unwrap();
    assert_eq!(&picture[1..4], b"PNG");
}
