//! Features as one self-contained HTML page: an index with search and sorting, and one feature large. The page makes no
//! requests.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::report::{Feature, FeaturesReport, Logit, Occurrence};
use crate::error::{Error, ErrorKind};
use crate::page::Active;
use crate::svg::escape;
use crate::text::printable;

/// The drawing, shared with the page of `serve`, and the page around it.
const SCRIPT: &str = concat!(include_str!("drawing.js"), include_str!("features.js"));
const STYLE: &str = concat!(include_str!("features.css"), include_str!("drawing.css"));
/// Limit on the example tokens in one page: four million take about 60 MB, which browsers still open quickly.
const TOKENS: usize = 4_000_000;
/// Features listed without scripts.
pub(super) const PLAIN: usize = 200;

/// The report as one HTML page, with everything inline.
///
/// The page's Content-Security-Policy allows only this script and this style, by their hash; tokens are data that the
/// script inserts as text. Without scripts, a table of the first features remains.
///
/// # Errors
/// If there are more tokens than a browser can open.
pub fn html(report: &FeaturesReport) -> Result<String, Error> {
    fits(report, "HTML")?;
    let plain: String = report.features.iter().take(PLAIN).map(plain_row).collect();
    Ok(framed(report, &plain, &data(report), Scripts::Inline))
}

/// Where a page's scripts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scripts {
    /// All in the page.
    Inline,
    /// Some lie beside it.
    Beside,
}

/// The page around `data`. Title and facts are the report's; its features are not read.
pub(super) fn framed(report: &FeaturesReport, plain: &str, data: &Json, scripts: Scripts) -> String {
    let title = escape(&format!("Features · {}", printable(&report.title)));
    let facts: Vec<String> =
        facts(report).into_iter().map(|(name, value)| escape(&format!("{name} {value}"))).collect();
    let facts = facts.join(" · ");
    let body = format!(
        r#"<header><h1>{title}</h1><p>{facts}</p></header>
<main>
<nav aria-label="Features">
<div class="bar">
<label>Find <input type="search" id="find" placeholder="number or token"></label>
<label>Sort <select id="sort"><option value="feature">number</option><option value="frequency">frequency</option><option value="max">largest value</option><option value="mean">mean value</option></select></label>
<button type="button" id="dark" aria-pressed="false">Dark</button>
</div>
<p class="hint" id="found" role="status"></p>
<div id="list" role="listbox" tabindex="0" aria-label="Features"></div>
</nav>
<section id="card" aria-live="polite"></section>
</main>
<p class="hint">Move with the arrow keys · <kbd>/</kbd> finds · <kbd>d</kbd> dark</p>
"#
    );
    let plain = format!("<pre>feature  frequency  largest  raises\n{}</pre>", escape(plain));
    let page = Active { title: &title, script: SCRIPT, style: STYLE, body: &body, plain: &plain, data };
    match scripts {
        Scripts::Inline => page.html(),
        Scripts::Beside => page.html_with_scripts(),
    }
}

/// The report as the page of `serve` draws it: texts of tokens once, and numbers of four digits.
///
/// # Errors
/// More tokens than a browser opens.
pub fn page_data(report: &FeaturesReport) -> Result<Json, Error> {
    fits(report, "JSON")?;
    let mut data = data(report);
    data["title"] = json!(printable(&report.title));
    data["facts"] = facts(report).into_iter().map(|(name, value)| json!([name, value])).collect();
    Ok(data)
}

/// Whether a browser opens so many tokens.
fn fits(report: &FeaturesReport, what: &str) -> Result<(), Error> {
    let occurrences = report.features.iter().flat_map(|feature| feature.top.iter().chain(&feature.drawn));
    let tokens: usize = occurrences.map(|kept| kept.tokens.len()).sum();
    match tokens <= TOKENS {
        true => Ok(()),
        false => Err(Error::new(
            ErrorKind::Size,
            format!(
                "{what}: {tokens} tokens of examples are too many for a page; choose features, or fewer examples"
            ),
        )),
    }
}

fn facts(report: &FeaturesReport) -> Vec<(String, String)> {
    report.facts.iter().map(|(name, value)| (printable(name), printable(value))).collect()
}

/// Token texts by number, since most occur many times.
#[derive(Debug, Default)]
pub(super) struct Texts {
    numbers: HashMap<String, usize>,
    pub(super) texts: Vec<String>,
}

impl Texts {
    pub(super) fn number(&mut self, text: &str) -> usize {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len();
        self.numbers.insert(text.to_owned(), number);
        self.texts.push(printable(text));
        number
    }
}

fn data(report: &FeaturesReport) -> Json {
    let mut texts = Texts::default();
    let features: Vec<Json> = report.features.iter().map(|feature| one(feature, &mut texts)).collect();
    json!({ "texts": texts.texts, "features": features })
}

/// Numbers for display: four digits.
pub(super) fn short(value: f64) -> Json {
    let shown = format!("{value:.3e}");
    shown.parse::<f64>().map_or(Json::Null, |value| json!(value))
}

pub(super) fn one(feature: &Feature, texts: &mut Texts) -> Json {
    let mut logits = |list: &Option<Vec<Logit>>| -> Json {
        match list {
            None => Json::Null,
            Some(list) => {
                list.iter().map(|one| json!([texts.number(&one.token), short(one.value)])).collect()
            }
        }
    };
    let (up, down) = (logits(&feature.top_logits), logits(&feature.bottom_logits));
    let mut kept = |list: &[Occurrence]| -> Vec<Json> {
        list.iter()
            .map(|one| {
                let tokens: Vec<usize> = one.tokens.iter().map(|token| texts.number(token)).collect();
                let values: Vec<Json> = one.values.iter().map(|value| short(*value)).collect();
                json!([one.prompt, one.position, short(one.value), one.position - one.start, tokens, values])
            })
            .collect()
    };
    let (top, drawn) = (kept(&feature.top), kept(&feature.drawn));
    let bins: Vec<Json> =
        feature.histogram.iter().map(|(from, to, n)| json!([short(*from), short(*to), n])).collect();
    json!({
        "n": feature.feature, "count": feature.count, "frequency": short(feature.frequency),
        "mean": short(feature.mean), "max": short(feature.max), "bins": bins, "up": up, "down": down,
        "top": top, "drawn": drawn,
    })
}

/// A row of the table that is shown without scripts.
pub(super) fn plain_row(feature: &Feature) -> String {
    let first =
        feature.top_logits.iter().flatten().next().map(|one| printable(&one.token)).unwrap_or_default();
    format!("{:7}  {:9.6}  {:7.3}  {first}\n", feature.feature, feature.frequency, feature.max)
}
