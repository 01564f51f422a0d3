//! A graph as one self-contained HTML page: nodes by layer and position, edges by weight, thresholds, keyboard
//! navigation.

use serde_json::{Value as Json, json};

use super::tables::markdown;
use super::{GraphReport, NodeKind};
use crate::colour::diverging;
use crate::error::{Error, ErrorKind};
use crate::page::Active;
use crate::svg::escape;
use crate::text::printable;

/// The drawing, shared with the page of `serve`, and the page around it.
const SCRIPT: &str =
    concat!(include_str!("../nodes.js"), include_str!("drawing.js"), include_str!("graph.js"));
const STYLE: &str = concat!(include_str!("graph.css"), include_str!("drawing.css"));
/// Limit on the edges in one page: a browser can still move this many paths.
const EDGES: usize = 20_000;

/// The report as one HTML page, with everything inline.
///
/// The page's Content-Security-Policy allows only this script and this style, by their hash; names are data that the
/// script inserts as text. Without scripts, the table of edges remains.
///
/// # Errors
/// If there are more edges than a browser can draw.
pub fn html(report: &GraphReport) -> Result<String, Error> {
    if report.edges.len() > EDGES {
        return Err(Error::new(
            ErrorKind::Size,
            format!(
                "HTML: {} edges are too many for a page of {EDGES}; keep less with smaller thresholds",
                report.edges.len()
            ),
        ));
    }
    let title = escape(&printable(&report.title));
    let paragraphs: String = report.shown_lines().map(|line| format!("<p>{}</p>\n", escape(&line))).collect();
    let data = data(report, EDGES);
    let plain = escape(&markdown(report));
    let body = format!(
        r#"<header>
<h1>{title}</h1>
{paragraphs}</header>
<div class="bar">
<label>Nodes: share of influence <input type="range" id="nodes" min="0" max="1000" value="1000"></label>
<label>Edges: smallest weight <input type="range" id="least" min="0" max="1000" value="0"></label>
<output id="shown"></output>
</div>
<div class="bar keys">
<span><i class="more"></i> raises</span><span><i class="less"></i> lowers</span>
<span><svg width="14" height="14" aria-hidden="true"><circle cx="7" cy="7" r="5"/></svg> feature</span>
<span><svg width="14" height="14" aria-hidden="true"><path d="M7 1L13 7L7 13L1 7Z"/></svg> error</span>
<span><svg width="14" height="14" aria-hidden="true"><rect x="2" y="2" width="10" height="10"/></svg> token, logit</span>
</div>
<main>
<div class="sheet"><svg id="graph" class="graph-picture" role="group" aria-label="Nodes by position and layer, the tokens below, the logits on top; edges by weight"></svg></div>
<section aria-label="One node"><h2 id="name">No node chosen</h2><p class="hint" id="said" role="status"></p>
<h3 class="of" hidden>Comes from</h3><table><tbody id="from"></tbody></table>
<h3 class="of" hidden>Leads to</h3><table><tbody id="to"></tbody></table></section>
</main>
<p class="hint">Rest on a node, click to keep it, or move with the arrow keys: left and right in a layer, up and down between layers · <kbd>[</kbd> and <kbd>]</kbd> change the share of influence · <kbd>+</kbd> and <kbd>-</kbd> the smallest weight · <kbd>Esc</kbd> lets go</p>
"#
    );
    let plain = format!("<pre>{plain}</pre>");
    let page =
        Active { title: &title, script: SCRIPT, style: STYLE, body: &body, plain: &plain, data: &data };
    Ok(page.html())
}

/// The report as the page of `serve` draws it: where a browser cannot move all edges, the largest, with the number of those that
/// are left out.
pub fn page_data(report: &GraphReport) -> Json {
    let mut data = data(report, EDGES);
    data["left_out"] = json!(report.edges.len().saturating_sub(EDGES));
    data
}

fn data(report: &GraphReport, most: usize) -> Json {
    let reach = report.reach();
    let nodes: Vec<Json> = report
        .nodes
        .iter()
        .map(|node| {
            json!({
                "kind": node.kind.name(),
                "row": node.row(report.n_layers),
                "layer": matches!(node.kind, NodeKind::Feature | NodeKind::Error).then_some(node.layer),
                "position": node.position,
                "name": printable(&node.name),
                "title": printable(&node.title()),
                "value": node.value,
                "influence": node.influence,
                "cumulative": node.cumulative,
            })
        })
        .collect();
    let edges: Vec<Json> = report
        .by_size()
        .into_iter()
        .take(most)
        .map(|edge| {
            let part = edge.weight / reach;
            let colour = diverging(part.signum() * (0.35 + 0.65 * part.abs())).hex();
            json!({"from": edge.from, "to": edge.to, "weight": edge.weight, "colour": colour})
        })
        .collect();
    json!({
        "tokens": report.tokens.iter().map(|token| printable(token)).collect::<Vec<_>>(),
        "layers": report.n_layers,
        "reach": reach,
        "nodes": nodes,
        "edges": edges,
    })
}
