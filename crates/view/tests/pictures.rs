//! Every output of a lens report, compared with committed files, and what must hold for any report.
//!
//! The expected files are drawings that were looked at. After an intended change, rewrite them with
//! `EASYROUTINE_BLESS=1 cargo test -p easyroutine-view` and look at them again.

#![expect(clippy::unwrap_used, reason = "the functions of a test may fail the test")]

use std::path::{Path, PathBuf};

use easyroutine_view::lens::{
    Candidate, ColourDepth, LayerPosition, LayerRow, LensReport, LensSettings, Metric, ModelCard, Norm,
    PictureOptions, Schema, TerminalOptions, Token, TrackedToken, html, json, markdown, png, svg, table,
    terminal,
};
use easyroutine_view::{ErrorKind, columns, printable};
use proptest::prelude::*;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn report(name: &str) -> LensReport {
    LensReport::from_json(&std::fs::read_to_string(data(name)).unwrap()).unwrap()
}

fn check(name: &str, drawn: &str) {
    let path = data("expected").join(name);
    if std::env::var_os("EASYROUTINE_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, drawn).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(drawn == expected, "{} differs; drawn now:\n{drawn}", path.display());
}

fn in_terminal(report: &LensReport, width: usize, colour: ColourDepth, metric: Metric) -> String {
    terminal(report, &TerminalOptions { width, colour, metric })
}

fn picture(metric: Metric, dark: bool) -> PictureOptions {
    PictureOptions { metric, dark, scale: 1.0 }
}

#[test]
fn a_small_report_is_drawn_as_committed() {
    let small = report("small.json");
    check("small.txt", &in_terminal(&small, 80, ColourDepth::None, Metric::Final));
    check("small-narrow.txt", &in_terminal(&small, 34, ColourDepth::None, Metric::Rank));
    check("small.ans", &in_terminal(&small, 80, ColourDepth::True, Metric::Final));
    check("small-256.ans", &in_terminal(&small, 80, ColourDepth::Ansi256, Metric::Kl));
    check("small.tsv", &table(&small).tsv());
    check("small.csv", &table(&small).csv());
    check("small.md", &markdown(&small, Metric::Tracked));
    check("small.svg", &svg(&small, &picture(Metric::Final, false)));
    check("small-dark.svg", &svg(&small, &picture(Metric::Rank, true)));
}

#[test]
fn a_hostile_report_is_drawn_as_committed() {
    let hostile = report("hostile.json");
    check("hostile.txt", &in_terminal(&hostile, 200, ColourDepth::None, Metric::Final));
    check("hostile.ans", &in_terminal(&hostile, 200, ColourDepth::True, Metric::Kl));
    check("hostile.tsv", &table(&hostile).tsv());
    check("hostile.svg", &svg(&hostile, &picture(Metric::Final, false)));
}

#[test]
fn png_is_a_png_of_the_svg_and_the_same_each_time() {
    let options = PictureOptions { scale: 2.0, ..PictureOptions::default() };
    let bytes = png(&report("hostile.json"), &options).unwrap();
    assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n");
    let side = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let drawn = svg(&report("hostile.json"), &options);
    let header = format!(r#"width="{}" height="{}""#, side(16) / 2, side(20) / 2);
    assert!(drawn.contains(&header), "{header}");
    assert_eq!(bytes, png(&report("hostile.json"), &options).unwrap());
}

#[test]
fn a_picture_that_is_too_large_is_an_error_that_says_what_would_do() {
    let mut wide = report("small.json");
    for row in &mut wide.layers {
        let at = row.positions[0].clone();
        row.positions = (0..1000).map(|position| LayerPosition { position, ..at.clone() }).collect();
    }
    let error = png(&wide, &picture(Metric::Final, false)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Size);
    assert!(error.to_string().contains("choose positions or layers"), "{error}");
}

#[test]
fn an_empty_report_is_drawn_without_a_table() {
    let mut empty = report("small.json");
    empty.layers.clear();
    empty.tokens.clear();
    for width in [0, 1, 80] {
        in_terminal(&empty, width, ColourDepth::True, Metric::Final);
    }
    assert!(html(&empty).contains("</html>"));
    assert!(png(&empty, &PictureOptions::default()).is_ok());
}

#[test]
fn a_table_that_does_not_fit_says_what_it_left_out() {
    let text = in_terminal(&report("capitals.json"), 80, ColourDepth::True, Metric::Final);
    assert!(plain(&text).contains("of 13 columns left out: showing tokens"), "{text}");
    assert!(
        !plain(&in_terminal(&report("capitals.json"), 140, ColourDepth::True, Metric::Final))
            .contains("left out")
    );
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for name in ["small.json", "hostile.json", "capitals.json"] {
        for width in [40, 60, 80, 120, 200] {
            for colour in [ColourDepth::None, ColourDepth::True] {
                let text = in_terminal(&report(name), width, colour, Metric::Entropy);
                for line in plain(&text).lines() {
                    assert!(columns(line) <= width, "{name} {width} {colour:?}: {line:?}");
                }
            }
        }
    }
}

#[test]
fn cells_of_a_column_begin_at_the_same_place() {
    let text = in_terminal(&report("hostile.json"), 200, ColourDepth::True, Metric::Final);
    // Every row of cells is one run of background colours: all rows take the same columns.
    let wide = |line: &str| columns(&plain(line));
    let rows: Vec<usize> =
        text.lines().filter(|l| l.contains("48;2;") && !l.starts_with('0')).map(wide).collect();
    assert_eq!(rows.len(), 4, "{text}");
    assert!(rows.iter().all(|&w| w == rows[0]), "{rows:?}");
}

#[test]
fn the_policy_allows_exactly_the_inline_script_and_style() {
    use base64::Engine as _;
    use sha2::Digest as _;
    let page = html(&report("hostile.json"));
    let between = |start: &str, end: &str| {
        let from = page.find(start).unwrap() + start.len();
        &page[from..from + page[from..].find(end).unwrap()]
    };
    for (source, text) in
        [("script-src", between("<script>", "</script>")), ("style-src", between("<style>", "</style>"))]
    {
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(text));
        assert!(page.contains(&format!("{source} 'sha256-{hash}'")), "{source}");
    }
    assert!(page.contains("default-src 'none'"));
    // One script of data, one of code: no token opens or closes another.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<img"));
}

#[test]
fn a_page_and_its_code_stay_small() {
    let page = html(&report("capitals.json"));
    let size = |start: &str, end: &str| {
        let from = page.find(start).unwrap();
        page[from..].find(end).unwrap()
    };
    let (script, style) = (size("<script>", "</script>"), size("<style>", "</style>"));
    assert!(script < 25_000 && style < 7_000, "{script} bytes of script, {style} of style");
    assert!(page.len() < 110_000, "{} bytes for 13 tokens x 31 rows x top-10", page.len());
}

#[test]
fn agreement_is_known_without_the_final_layer() {
    let mut some = report("small.json");
    let whole = table(&some).tsv();
    some.layers.pop();
    let cut = table(&some).tsv();
    for line in cut.lines().skip(1) {
        assert!(whole.contains(line), "{line}");
    }
}

#[test]
fn what_is_not_a_report_is_refused_by_name() {
    let small = std::fs::read_to_string(data("small.json")).unwrap();
    for (from, to, says) in [
        ("easyroutine.lens/1", "easyroutine.lens/9", "schema is \"easyroutine.lens/9\""),
        ("\"tokens\"", "\"tokenz\"", "missing field `tokens`"),
        ("\"name\": \"resid_out_0\"", "\"name\": \"resid_out_1\"", "two layers are named \"resid_out_1\""),
        (
            "\"position\": 1,\n     \"top\"",
            "\"position\": 7,\n     \"top\"",
            "has other positions than layer -1",
        ),
    ] {
        assert!(small.contains(from), "{from}");
        // The last place: the first layer sets what the others must have.
        let at = small.rfind(from).unwrap();
        let broken = format!("{}{to}{}", &small[..at], &small[at + from.len()..]);
        let error = LensReport::from_json(&broken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Report);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn numbers_that_are_none_are_null_in_json_and_seen_in_pictures() {
    let hostile = report("hostile.json");
    let text = json(&hostile).unwrap();
    assert!(text.contains(r#""entropy":null"#));
    assert_eq!(text, json(&LensReport::from_json(&text).unwrap()).unwrap());
    assert!(in_terminal(&hostile, 200, ColourDepth::None, Metric::Final).contains("NaN"));
    assert!(svg(&hostile, &PictureOptions::default()).contains(">NaN</text>"));
    assert!(markdown(&hostile, Metric::Final).contains("NaN"));
}

/// The text without our own escape sequences: SGR only.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        out.push_str(&rest[..at]);
        let sequence = &rest[at + 2..];
        let end = sequence.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap();
        assert!(sequence[end..].starts_with('m'), "not a colour: {sequence:?}");
        rest = &sequence[end + 1..];
    }
    out + rest
}

fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![any::<f64>(), -20.0..0.0, Just(f64::NAN), Just(f64::NEG_INFINITY), Just(f64::INFINITY)]
}

fn any_text() -> impl Strategy<Value = String> {
    // Any characters, with harmful ones more often.
    let harm = "[\u{0}-\u{1f}\u{7f}-\u{9f}\u{202a}-\u{202e}\u{2066}-\u{2069}\u{200b}-\u{200f}\u{300}-\u{36f}<>&\"'`|\\\\ \u{fffe}\u{1f3fb}]{0,6}";
    prop_oneof![any::<String>(), harm.prop_map(|s| s), "[ a-z中]{0,8}"]
}

prop_compose! {
    fn any_report()(
        texts in prop::collection::vec(any_text(), 6),
        numbers in prop::collection::vec(any_number(), 60),
        name in any_text(),
        component in prop_oneof![Just("resid_out".to_owned()), Just("head_out".to_owned()), any_text()],
        rank in prop::option::of(any::<u64>()),
        first in -1i64..3,
        tracked in any::<bool>(),
        far in prop_oneof![Just(0usize), Just(usize::MAX - 1)],
    ) -> LensReport {
        let mut number = numbers.into_iter().cycle();
        let mut next = move || number.next().unwrap_or(0.0);
        let tokens: Vec<Token> =
            (0..2).map(|i| Token { position: far + i, id: i as u32, text: texts[i].clone() }).collect();
        let mut cell = |position: usize, layer: i64| LayerPosition {
            position,
            top: (0..2)
                .map(|j| Candidate { id: j, text: texts[(layer + 3) as usize % 6].clone(), logprob: next() })
                .collect(),
            entropy: next(),
            kl_to_final: next(),
            rank_of_next: rank,
            logprob_of_final_top: next(),
            tracked: tracked.then(&mut next),
        };
        let layers = (first..first + 3)
            .map(|layer| LayerRow {
                layer,
                name: format!("{component}_L{layer}"),
                positions: (0..2).map(|i| cell(far + i, layer)).collect(),
            })
            .collect();
        LensReport {
            schema: Schema,
            model: ModelCard {
                name: name.clone(), commit: Some(name.clone()), model_type: name.clone(), n_layers: 3, d_model: 8,
                vocab_size: 0, dtype: name.clone(),
            },
            settings: LensSettings {
                component, norm: Norm::Cached, k: 2, bos: true, positions: None, layers: None,
                tracked: tracked.then_some(TrackedToken { id: 0, text: name }), max_context: None,
                interventions: Vec::new(),
                tuned: None,
                jacobian: None,
            },
            tokens,
            layers,
            final_top: Vec::new(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_shown_without_control_or_invisible_characters(text in any_text()) {
        let shown = printable(&text);
        let invisible = "\u{200b}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}";
        for c in shown.chars() {
            prop_assert!(!c.is_control(), "{:?}", shown);
            prop_assert!(!invisible.contains(c), "{:?}", shown);
        }
        prop_assert_eq!(columns(&shown) == 0, text.is_empty());
    }

    #[test]
    fn any_report_is_well_formed_in_every_format(report in any_report(), metric in prop::sample::select(&Metric::ALL[..]), width in 0usize..150) {
        for dark in [false, true] {
            let drawn = svg(&report, &picture(metric, dark));
            prop_assert!(roxmltree::Document::parse(&drawn).is_ok(), "{}", drawn);
        }
        let text = json(&report).unwrap();
        let again = LensReport::from_json(&text).unwrap();
        prop_assert_eq!(&text, &json(&again).unwrap());

        for colour in [ColourDepth::None, ColourDepth::Ansi256, ColourDepth::True] {
            let drawn = in_terminal(&report, width, colour, metric);
            prop_assert!(colour != ColourDepth::None || !drawn.contains('\x1b'));
            prop_assert!(plain(&drawn).chars().all(|c| c == '\n' || !c.is_control()), "{:?}", drawn);
        }
        let tabs = table(&report).tsv();
        prop_assert_eq!(tabs.lines().count(), 7);
        for (text, between) in [(tabs.as_str(), b'\t'), (&table(&report).csv(), b',')] {
            // As read by Python's `csv` and pandas: every record complete, with its texts as written.
            let mut reader = ::csv::ReaderBuilder::new().delimiter(between).from_reader(text.as_bytes());
            let records: Vec<::csv::StringRecord> = reader.records().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(records.len(), 6);
            for record in &records {
                prop_assert_eq!(record.len(), 14);
                let token = &report.tokens[usize::from(record[2] != report.tokens[0].position.to_string())];
                prop_assert_eq!(&record[3], easyroutine_view::cell(&token.text));
                for field in record {
                    let is_formula = field.starts_with(['=', '+', '-', '@']) && field.parse::<f64>().is_err();
                    prop_assert!(!is_formula, "{:?}", field);
                }
            }
        }
        prop_assert!(tabs.chars().all(|c| matches!(c, '\n' | '\t') || !c.is_control()));
        prop_assert_eq!(table(&report).csv().matches("\r\n").count(), 7);
        prop_assert!(markdown(&report, metric).lines().filter(|line| line.starts_with('|')).count() == 6);

        let page = html(&report);
        prop_assert_eq!(page.matches("<script").count(), 2);
        let start = page.find(r#"id="data">"#).unwrap() + 10;
        let end = start + page[start..].find("</script>").unwrap();
        prop_assert!(serde_json::from_str::<serde_json::Value>(&page[start..end]).is_ok());
    }
}

proptest! {
    // Drawing takes longer.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn any_report_can_be_drawn_as_png(report in any_report(), metric in prop::sample::select(&Metric::ALL[..])) {
        prop_assert!(png(&report, &picture(metric, true)).is_ok());
    }
}
