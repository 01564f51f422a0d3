//! Every output of an attention report, compared with committed files, and what must hold for any report.
//!
//! `EASYROUTINE_BLESS=1` rewrites the expected files; look at them again.

#![expect(clippy::unwrap_used, reason = "the functions of a test may fail the test")]

use std::path::{Path, PathBuf};

use easyroutine_view::attention::{
    AttentionReport, PictureOptions, Sink, TerminalOptions, html, json, markdown, png, svg, table, terminal,
};
use easyroutine_view::lens::ColourDepth;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn report() -> AttentionReport {
    AttentionReport::from_json(&std::fs::read_to_string(data("attention.json")).unwrap()).unwrap()
}

/// The report with one of its heads.
fn one(head: usize) -> AttentionReport {
    let mut report = report();
    report.heads = vec![report.heads[head].clone()];
    report
}

fn check(name: &str, drawn: &str) {
    let path = data("expected").join(name);
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::write(&path, drawn).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(drawn == expected, "{} differs; drawn now:\n{drawn}", path.display());
}

fn in_terminal(report: &AttentionReport, width: usize, colour: ColourDepth, sink: Sink) -> String {
    terminal(report, &TerminalOptions { width, colour, sink })
}

#[test]
fn a_report_is_drawn_as_committed() {
    check("attention.txt", &in_terminal(&report(), 80, ColourDepth::None, Sink::Shown));
    check("attention.ans", &in_terminal(&report(), 80, ColourDepth::True, Sink::Hidden));
    check("attention-head.txt", &in_terminal(&one(2), 60, ColourDepth::None, Sink::Shown));
    check("attention-head.ans", &in_terminal(&one(0), 60, ColourDepth::Ansi256, Sink::Hidden));
    check("attention.tsv", &table(&one(1)).tsv());
    check("attention.csv", &table(&one(1)).csv());
    check("attention.md", &markdown(&report()));
    check("attention.svg", &svg(&report(), &PictureOptions::default()));
    let hidden = PictureOptions { sink: Sink::Hidden, dark: true, ..PictureOptions::default() };
    check("attention-head-dark.svg", &svg(&one(0), &hidden));
}

#[test]
fn json_reads_back_to_the_same_report() {
    assert_eq!(AttentionReport::from_json(&json(&report()).unwrap()).unwrap(), report());
    let other = json(&report()).unwrap().replace("easyroutine.attn/1", "easyroutine.attn/9");
    assert!(AttentionReport::from_json(&other).unwrap_err().to_string().contains("easyroutine.attn/9"));
    let mut ragged = report();
    ragged.heads[3].weights[2].pop();
    let ragged = json(&ragged).unwrap();
    let error = AttentionReport::from_json(&ragged).unwrap_err().to_string();
    assert!(error.contains("layer 1, head 1 does not fit 5 tokens"), "{error}");
}

#[test]
fn a_picture_is_well_formed_and_a_token_stays_text_in_it() {
    for report in [report(), one(0)] {
        let drawn = svg(&report, &PictureOptions::default());
        let document = roxmltree::Document::parse(&drawn).unwrap();
        assert!(document.descendants().all(|node| !node.has_tag_name("img") && !node.has_tag_name("script")));
        assert!(!drawn.contains('\u{202e}'));
    }
    let bytes = png(&one(0), &PictureOptions { scale: 1.0, ..PictureOptions::default() }).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
}

#[test]
fn a_hidden_first_token_is_in_no_picture_and_the_scale_fits_the_rest() {
    let drawn = in_terminal(&one(0), 60, ColourDepth::None, Sink::Hidden);
    // 0.5 of 8.5 is the largest weight not on the first token.
    assert!(drawn.contains("0 to 0.059, the first token hidden"), "{drawn}");
    let cells =
        |sink| svg(&one(0), &PictureOptions { sink, ..PictureOptions::default() }).matches("v22h").count();
    assert_eq!(cells(Sink::Shown), 5 + 4);
    assert_eq!(cells(Sink::Hidden), 4);
}

#[test]
fn many_tokens_are_pooled_and_one_token_is_no_division_by_zero() {
    let mut long = report();
    let token = long.tokens[1].clone();
    long.tokens =
        (0..500).map(|position| easyroutine_view::lens::Token { position, ..token.clone() }).collect();
    for head in &mut long.heads {
        head.weights = (0..500).map(|query| vec![1.0 / (query + 1) as f32; query + 1]).collect();
    }
    assert!(svg(&long, &PictureOptions::default()).len() < 200_000);
    long.heads.truncate(1);
    assert!(svg(&long, &PictureOptions::default()).len() < 2_000_000);
    assert!(in_terminal(&long, 80, ColourDepth::None, Sink::Shown).contains("keys left out"));

    let mut short = report();
    short.tokens.truncate(1);
    short.heads.iter_mut().for_each(|head| head.weights.truncate(1));
    for sink in [Sink::Shown, Sink::Hidden] {
        in_terminal(&short, 80, ColourDepth::True, sink);
        assert!(svg(&short, &PictureOptions { sink, ..PictureOptions::default() }).starts_with("<svg"));
        html(&short, sink).unwrap();
    }
    assert!(markdown(&short).contains("NaN"));
}

#[test]
fn a_page_allows_nothing_but_its_own_script_and_style() {
    let page = html(&report(), Sink::Shown).unwrap();
    assert!(page.contains("default-src 'none'; script-src 'sha256-"));
    assert!(!page.contains("http://") && !page.contains("https://"));
    assert_eq!(page.matches("<script").count(), 2);
}
