//! Patterns as one self-contained HTML page: thumbnails, and one head large. The page makes no requests.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};

use super::report::{AttentionReport, Sink};
use super::tables::markdown;
use crate::colour::CIVIDIS;
use crate::error::{Error, ErrorKind};
use crate::page::Active;
use crate::svg::escape;
use crate::text::printable;

const SCRIPT: &str = include_str!("attention.js");
const STYLE: &str = include_str!("attention.css");
/// Limit on the weights in one page: 16 million take 43 MB, which browsers still open quickly.
const WEIGHTS: usize = 16_000_000;

/// The report as one HTML page, with everything inline.
///
/// The page's Content-Security-Policy allows only this script and this style, by their hash; tokens are data that the
/// script inserts as text. Weights are rounded to 1 / 65535. Without scripts, a table of where each head looks remains.
///
/// # Errors
/// If there are more weights than a browser can open.
pub fn html(report: &AttentionReport, sink: Sink) -> Result<String, Error> {
    let data = page_data(report, sink)?;
    let title = escape(&format!("Attention · {}", printable(&report.model.name)));
    let lines = report.lines(Sink::Shown);
    // The page itself explains its colours.
    let prompt = lines[2].split(" · colour").next().unwrap_or_default();
    let said = [lines[0].as_str(), lines[1].as_str(), prompt];
    let paragraphs: String = said.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
    let plain = escape(&markdown(report));
    let body = format!(
        r#"<header>
<h1>{title}</h1>
{paragraphs}</header>
<div class="bar">
<label><input type="checkbox" id="sink"> Hide the first token</label>
<button type="button" id="dark" aria-pressed="false">Dark</button>
<span class="scale"><canvas id="ramp" width="165" height="10"></canvas><span id="range"></span></span>
</div>
<main>
<div class="sheet"><table id="heads" role="grid" aria-label="Attention pattern of each head, the last layer on top"></table></div>
<section aria-label="One head"><h2 id="name"></h2><div id="large"></div><p class="hint" id="said" role="status"></p></section>
</main>
<p class="hint">Click a thumbnail, or move with the arrow keys · <kbd>s</kbd> hides the first token · <kbd>d</kbd> dark</p>
"#
    );
    let plain = format!("<pre>{plain}</pre>");
    let page =
        Active { title: &title, script: SCRIPT, style: STYLE, body: &body, plain: &plain, data: &data };
    Ok(page.html())
}

/// The data for a page that draws patterns: each head's weights, row by row, each row as long as its query can see, as
/// little-endian 16-bit numbers in base 64, with 65535 for a weight of 1.
///
/// # Errors
/// If there are more weights than a browser can open.
pub fn page_data(report: &AttentionReport, sink: Sink) -> Result<Json, Error> {
    let weights: usize = report.heads.iter().flat_map(|head| &head.weights).map(Vec::len).sum();
    if weights > WEIGHTS {
        return Err(Error::new(
            ErrorKind::Size,
            format!(
                "HTML: {weights} weights are too many for a page; choose layers or heads, or cut the prompt"
            ),
        ));
    }
    let heads = report.heads.iter().map(|head| {
        let weights = head.weights.iter().flatten();
        let bytes: Vec<u8> = weights
            .flat_map(|w| ((f64::from(*w) * 65535.0).round().clamp(0.0, 65535.0) as u16).to_le_bytes())
            .collect();
        json!({ "layer": head.layer, "head": head.head, "weights": STANDARD.encode(bytes) })
    });
    let (layers, columns) = report.sides();
    Ok(json!({
        "tokens": report.tokens.iter().map(|token| printable(&token.text)).collect::<Vec<_>>(),
        "layers": layers,
        "columns": columns,
        "heads": heads.collect::<Vec<_>>(),
        "palette": CIVIDIS.iter().map(|c| [c.0, c.1, c.2]).collect::<Vec<_>>(),
        "sink": sink == Sink::Hidden,
    }))
}
