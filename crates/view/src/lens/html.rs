//! The lens as one self-contained HTML page: no requests; works from `file://`.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::grid::{Cell, Grid};
use super::metric::Metric;
use super::report::{Candidate, LensReport};
use super::tables::HEADER;
use super::words;
use crate::colour::CIVIDIS;
use crate::page::Active;
use crate::svg::escape;
use crate::text::printable;

const SCRIPT: &str = concat!(include_str!("../shared.js"), include_str!("lens.js"));
const STYLE: &str = include_str!("lens.css");
const STRIDES: [(usize, &str); 5] =
    [(1, "every"), (2, "every 2nd"), (3, "every 3rd"), (5, "every 5th"), (10, "every 10th")];

/// The report as one HTML page, with everything inline.
///
/// The page's Content-Security-Policy allows only this script and this style, by their hash; tokens are data that the
/// script inserts as text. Numbers are rounded to four decimals. Without scripts, a plain table of top tokens remains.
#[must_use]
pub fn html(report: &LensReport) -> String {
    let grid = Grid::new(report);
    let title = escape(&format!("{} · {}", words::title(report), printable(&report.model.name)));
    let lines = words::lines(report);
    let mut strides = String::new();
    for (step, words) in STRIDES {
        let _ = write!(strides, r#"<option value="{step}">{words}</option>"#);
    }
    let mut paragraphs = String::new();
    for line in &lines {
        let _ = writeln!(paragraphs, "<p>{}</p>", escape(line));
    }
    let data = data(report, &grid, &lines);
    let plain = plain_table(&grid);
    let body = format!(
        r#"<header>
<h1>{title}</h1>
{paragraphs}</header>
<div class="bar">
<label>Colour <select id="metric"></select></label>
<label>Layers <select id="stride">{strides}</select></label>
<button type="button" id="turn" aria-pressed="false">Transpose</button>
<button type="button" id="dark" aria-pressed="false">Dark</button>
<span class="export" id="export">Export</span>
</div>
<div class="legend" id="legend"></div>
<main>
<div class="sheet" id="sheet"><table class="lens" id="lens" role="grid" aria-label="Top token of each layer after each token"></table></div>
<aside id="path" aria-label="Pinned tokens"></aside>
</main>
<p class="hint">Arrow keys move · <kbd>Enter</kbd> or click pins a token · <kbd>1</kbd>…<kbd>6</kbd> or <kbd>m</kbd> colour · <kbd>t</kbd> transpose · <kbd>d</kbd> dark</p>
<div id="tip" role="tooltip" hidden></div>
"#
    );
    let page =
        Active { title: &title, script: SCRIPT, style: STYLE, body: &body, plain: &plain, data: &data };
    page.html()
}

/// The data for a page that draws the lens: each text once, cells as short lists, numbers rounded to four decimals,
/// with descriptions and scales of every metric. A third of the report's size.
#[must_use]
pub fn page_data(report: &LensReport) -> Json {
    data(report, &Grid::new(report), &words::lines(report))
}

/// Each text once, cells as short lists: a page is a third of the size of its report.
fn data(report: &LensReport, grid: &Grid<'_>, lines: &[String]) -> Json {
    let mut vocab = Vocabulary::default();
    let rows: Vec<Json> = grid
        .rows
        .iter()
        .map(|row| {
            let cells: Vec<Json> = row.cells.iter().map(|cell| cell_data(*cell, &mut vocab)).collect();
            json!({ "layer": row.layer.layer, "name": row.layer.name, "label": row.label, "cells": cells })
        })
        .collect();
    let tracked = report.settings.tracked.as_ref().map(|token| vocab.index(token.id, &token.text));
    let finals: Vec<Option<usize>> =
        grid.columns.iter().map(|c| c.final_top.map(|(id, text)| vocab.index(id, text))).collect();
    let metrics: Vec<Json> = Metric::ALL
        .into_iter()
        .filter(|&m| m != Metric::Tracked || report.settings.tracked.is_some())
        .map(|metric| {
            let scale = metric.scale(report);
            let ticks: Vec<&str> = scale.ticks.iter().map(|(_, label)| label.as_str()).collect();
            json!({
                "key": metric.name(), "words": metric.words(report), "ticks": ticks,
                "dark": scale.dark, "bright": scale.bright, "log": scale.log10,
            })
        })
        .collect();
    let mut rest = json!({
        "schema": report.schema, "model": report.model, "settings": report.settings, "tokens": report.tokens,
    });
    if let (false, Json::Object(map)) = (report.final_top.is_empty(), &mut rest) {
        map.insert("final_top".into(), json!(report.final_top));
    }
    json!({
        "report": rest,
        "title": words::title(report),
        "lines": lines,
        "header": HEADER.join(","),
        "positions": grid.columns.iter().map(|c| c.position).collect::<Vec<_>>(),
        "right": grid.columns.iter().map(|c| c.right == Some(true)).collect::<Vec<_>>(),
        "finals": finals,
        "tracked": tracked,
        "rows": rows,
        "metrics": metrics,
        "palette": CIVIDIS.iter().map(|c| c.hex()).collect::<Vec<_>>(),
        "vocab": vocab.list,
    })
}

fn cell_data(cell: Option<Cell<'_>>, vocab: &mut Vocabulary) -> Json {
    let Some(Cell { at, agrees }) = cell else { return json!([0, [], null, null, null, null, null]) };
    let mut top = Vec::with_capacity(2 * at.top.len());
    for Candidate { id, text, logprob } in &at.top {
        top.push(json!(vocab.index(*id, text)));
        top.push(rounded(*logprob));
    }
    json!([
        u8::from(agrees),
        top,
        rounded(at.entropy),
        rounded(at.kl_to_final),
        at.rank_of_next,
        rounded(at.logprob_of_final_top),
        at.tracked.map_or(Json::Null, rounded),
    ])
}

#[derive(Default)]
struct Vocabulary {
    list: Vec<(u32, String)>,
    index: HashMap<(u32, String), usize>,
}

impl Vocabulary {
    fn index(&mut self, id: u32, text: &str) -> usize {
        *self.index.entry((id, text.to_owned())).or_insert_with(|| {
            self.list.push((id, text.to_owned()));
            self.list.len() - 1
        })
    }
}

/// Four decimals; null for what JSON cannot represent.
fn rounded(x: f64) -> Json {
    let y = (x * 1e4).round() / 1e4;
    // An integer needs no point.
    if y.fract() == 0.0 && y.abs() < 1e9 { json!(y as i64) } else { json!(y) }
}

fn plain_table(grid: &Grid<'_>) -> String {
    let mut out = String::from("<table class=\"lens\"><tr><th>layer</th>");
    for column in &grid.columns {
        let _ =
            write!(out, "<th>{}</th>", column.token.map_or(String::new(), |t| escape(&printable(&t.text))));
    }
    out.push_str("</tr>\n");
    for row in &grid.rows {
        let _ = write!(out, "<tr><th>{}</th>", escape(&row.label));
        for cell in &row.cells {
            let text = cell
                .and_then(|c| c.at.top.first())
                .map_or(String::new(), |top| escape(&printable(&top.text)));
            let _ = match cell.is_some_and(|c| c.agrees) {
                true => write!(out, "<td><b>{text}</b>"),
                false => write!(out, "<td>{text}"),
            };
        }
        out.push('\n');
    }
    out.push_str("</table>");
    out
}
