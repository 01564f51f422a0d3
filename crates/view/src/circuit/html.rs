//! A circuit as one self-contained HTML page, with edges faded by size and keyboard navigation.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::picture::{row_name, rows};
use super::tables::markdown;
use super::{CircuitReport, place};
use crate::colour::diverging;
use crate::error::{Error, ErrorKind};
use crate::page::Active;
use crate::svg::escape;
use crate::text::printable;

/// The drawing, shared with the page of `serve`, and the page around it.
const SCRIPT: &str =
    concat!(include_str!("../nodes.js"), include_str!("drawing.js"), include_str!("circuit.js"));
const STYLE: &str = concat!(include_str!("circuit.css"), include_str!("drawing.css"));
/// Limit on the edges in one page: a browser can still move this many paths.
const EDGES: usize = 20_000;

/// The report as one HTML page, with everything inline.
///
/// The page's Content-Security-Policy allows only this script and this style, by their hash; names are data that the
/// script inserts as text. Without scripts, the table of edges remains.
///
/// # Errors
/// If there are more edges than a browser can draw.
pub fn html(report: &CircuitReport) -> Result<String, Error> {
    if report.edges.len() > EDGES {
        return Err(Error::new(
            ErrorKind::Size,
            format!("HTML: {} edges are too many for a page of {EDGES}; keep fewer", report.edges.len()),
        ));
    }
    let title = escape(&printable(&report.title));
    let paragraphs: String = report.shown_lines().map(|line| format!("<p>{}</p>\n", escape(&line))).collect();
    let prompts: String = report
        .prompts
        .iter()
        .map(|(what, text)| {
            format!("<dt>{}</dt><dd>{}</dd>\n", escape(&printable(what)), escape(&printable(text)))
        })
        .collect();
    let data = data(report, EDGES);
    let plain = escape(&markdown(report));
    let [more, less] = report.meaning.each_ref().map(|text| escape(&printable(text)));
    let body = format!(
        r#"<header>
<h1>{title}</h1>
{paragraphs}<dl>{prompts}</dl>
</header>
<div class="bar">
<label>Smallest score shown <input type="range" id="least" min="0" max="1000" value="0"></label>
<output id="shown"></output>
<span class="key"><i class="more"></i> {more}</span><span class="key"><i class="less"></i> {less}</span>
</div>
<main>
<div class="sheet"><svg id="graph" class="circuit-picture" role="group" aria-label="Nodes by layer, the input below, the logits on top; edges by score"></svg></div>
<section aria-label="One node"><h2 id="name">No node chosen</h2><p class="hint" id="said" role="status"></p><table><tbody id="edges"></tbody></table></section>
</main>
<p class="hint">Rest on a node or an edge, or move with the arrow keys: left and right in a layer, up and down between layers · <kbd>+</kbd> and <kbd>-</kbd> change the smallest score shown · <kbd>Esc</kbd> lets go</p>
"#
    );
    let plain = format!("<pre>{plain}</pre>");
    let page =
        Active { title: &title, script: SCRIPT, style: STYLE, body: &body, plain: &plain, data: &data };
    Ok(page.html())
}

/// The report as the page of `serve` draws it: where a browser cannot move all edges, the largest, with the number of those that
/// are left out.
pub fn page_data(report: &CircuitReport) -> Json {
    let mut data = data(report, EDGES);
    data["left_out"] = json!(report.edges.len().saturating_sub(EDGES));
    data
}

fn data(report: &CircuitReport, most: usize) -> Json {
    let rows = rows(report);
    let row_of = |row: usize| rows.iter().position(|r| *r == row).unwrap_or(0);
    let nodes = report.nodes();
    let numbers: HashMap<&str, usize> =
        nodes.iter().enumerate().map(|(i, (name, ..))| (name.as_str(), i)).collect();
    let number = |name: &str| numbers.get(name).copied();
    let reach = report.reach();
    let edges: Vec<Json> = report
        .by_size()
        .into_iter()
        .take(most)
        .filter(|edge| place(&edge.from, report.n_layers, report.n_heads).is_some())
        .filter_map(|edge| {
            let part = edge.score / reach;
            let colour = diverging(part.signum() * (0.35 + 0.65 * part.abs())).hex();
            Some(json!({
                "from": number(&edge.from)?,
                "to": number(&edge.to)?,
                "input": edge.input.map(|input| input.to_string()),
                "score": edge.score,
                "colour": colour,
            }))
        })
        .collect();
    let places: Vec<Json> = nodes
        .iter()
        .map(|(name, row, column)| json!({"name": printable(name), "row": row_of(*row), "column": column}))
        .collect();
    json!({
        "columns": report.n_heads.max(1),
        "rows": rows.iter().map(|row| row_name(*row, report.n_layers)).collect::<Vec<_>>(),
        "reach": reach,
        "nodes": places,
        "edges": edges,
    })
}
