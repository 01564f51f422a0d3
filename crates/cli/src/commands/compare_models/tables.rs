//! The tables of two models side by side.

use easyroutine::compare::models::{Effect, Summary};
use easyroutine_app::reports::{ModelsCompared, layer_number};
use serde_json::Value;

use crate::args::{Format, TableArg};
use crate::failure::Failure;
use crate::output::{self, Cell, Destination, render};

/// Rows of each table in the overview, besides the layers.
const SHOWN: usize = 8;

/// A table: its header and rows.
type Table = (Vec<&'static str>, Vec<Vec<Cell>>);

/// Writes the result to every target.
pub(super) fn written(
    targets: &[Destination],
    table: Option<TableArg>,
    found: &ModelsCompared<'_>,
) -> Result<(), Failure> {
    let json = found.json();
    let drawn = targets.iter().map(|target| drawn(target.format, table, found, &json));
    let drawn = drawn.collect::<Result<Vec<String>, Failure>>()?;
    targets.iter().zip(&drawn).try_for_each(|(target, text)| output::write(target, text.as_bytes()))
}

fn drawn(
    format: Format,
    table: Option<TableArg>,
    found: &ModelsCompared<'_>,
    json: &Value,
) -> Result<String, Failure> {
    if format == Format::Html {
        return Ok(easyroutine_view::checkpoints::html(json)?);
    }
    let is_overview = table.is_none() && matches!(format, Format::Table | Format::Md | Format::Auto);
    if is_overview {
        return overview(format, found, json);
    }
    let (header, rows) = of(table.unwrap_or(TableArg::Layers), found);
    render(format, &header, &rows, json)
}

/// The layers, and the first rows of the tables of tensors and of positions.
fn overview(format: Format, found: &ModelsCompared<'_>, json: &Value) -> Result<String, Failure> {
    let n = found.differences.worst.len();
    let (tokens, rows) = (found.differences.n_tokens, found.differences.n_rows);
    let prompts = if rows == 1 { "prompt" } else { "prompts" };
    let mut parts = vec![(
        format!("Residual stream of B against A, {tokens} positions of {rows} {prompts}"),
        of(TableArg::Layers, found),
    )];
    let tensors = of(TableArg::Tensors, found);
    let title = match found.causes {
        Some((causes, _)) => format!(
            "Tensors, the largest causes first, patched over {} tokens: whole difference {}",
            causes.n_tokens,
            sized(causes.whole)
        ),
        None => "Tensors".to_owned(),
    };
    parts.push((cut(title, tensors.1.len(), "tensors"), (tensors.0, first(tensors.1))));
    let worst = of(TableArg::Worst, found);
    parts.push((cut("Largest differences".to_owned(), n, "worst"), (worst.0, first(worst.1))));
    let mut text = String::new();
    for (title, (header, rows)) in parts {
        if !text.is_empty() {
            text.push('\n');
        }
        let heading = if format == Format::Md { format!("## {title}\n\n") } else { format!("{title}\n") };
        text += &heading;
        text += &render(format, &header, &rows, json)?;
    }
    Ok(text)
}

fn first(mut rows: Vec<Vec<Cell>>) -> Vec<Vec<Cell>> {
    rows.truncate(SHOWN);
    rows
}

/// A title that says where the rest is.
fn cut(title: String, n: usize, table: &str) -> String {
    if n > SHOWN { format!("{title} ({SHOWN} of {n}; all with --table {table})") } else { title }
}

fn sized(effect: Effect) -> String {
    match effect.kl {
        Some(kl) => format!("KL {}", short(kl)),
        None => format!("error {}", short(effect.error)),
    }
}

fn of(table: TableArg, found: &ModelsCompared<'_>) -> Table {
    let differences = found.differences;
    match table {
        TableArg::Layers => {
            let rows = differences.layers.iter().map(|of| {
                let name = of.layer.map_or("emb".to_owned(), |layer| layer.to_string());
                [
                    vec![Cell::new(name, layer_number(of.layer))],
                    vectors(&of.summary),
                    predictions(&of.summary),
                ]
                .concat()
            });
            ([&["layer"], VECTORS, PREDICTIONS].concat(), rows.collect())
        }
        TableArg::Heads => {
            let rows = differences
                .heads
                .iter()
                .map(|of| [vec![whole(of.layer), whole(of.head)], vectors(&of.summary)].concat());
            ([&["layer", "head"], VECTORS].concat(), rows.collect())
        }
        TableArg::Positions => {
            let rows = differences.positions.iter().map(|of| {
                let first = vec![whole(of.position), whole(of.summary.error.count())];
                [first, vectors(&of.summary), predictions(&of.summary)].concat()
            });
            ([&["position", "prompts"], VECTORS, PREDICTIONS].concat(), rows.collect())
        }
        TableArg::Tokens => {
            let rows = differences.tokens.iter().map(|of| {
                let places = whole(of.summary.error.count());
                let first = vec![whole(of.id as usize), Cell::token(&found.text(of.id)), places];
                [first, vectors(&of.summary), predictions(&of.summary)].concat()
            });
            ([&["id", "token", "places"], VECTORS, PREDICTIONS].concat(), rows.collect())
        }
        TableArg::Worst => worst(found),
        TableArg::Tensors => tensors(found),
    }
}

const VECTORS: &[&str] = &["error", "error max", "cosine", "cosine min", "nan"];
const PREDICTIONS: &[&str] = &["kl", "kl max", "top changed"];

fn vectors(summary: &Summary) -> Vec<Cell> {
    vec![
        number(summary.error.mean()),
        number(summary.error.most()),
        cosine(summary.cosine()),
        cosine(summary.least_cosine()),
        whole(summary.nan),
    ]
}

/// Empty cells where there is no unembedding.
fn predictions(summary: &Summary) -> Vec<Cell> {
    match summary.kl.count() {
        0 => vec![Cell::from(String::new()); 3],
        n => {
            let changed = format!("{:.1}%", 100.0 * summary.top_changed as f64 / n as f64);
            let changed = Cell::new(changed, summary.top_changed);
            vec![number(summary.kl.mean()), number(summary.kl.most()), changed]
        }
    }
}

fn worst(found: &ModelsCompared<'_>) -> Table {
    let header =
        ["row", "position", "token", "parts at", "error", "kl", "A predicts", "A p", "B predicts", "B p"];
    let rows = found.differences.worst.iter().map(|place| {
        let parts_at = place.parts_at().and_then(|at| found.differences.layers.get(at));
        let parts_at = parts_at.map_or_else(
            || Cell::from(String::new()),
            |of| Cell::new(of.layer.map_or("emb".to_owned(), |l| l.to_string()), layer_number(of.layer)),
        );
        let token = Cell::token(&found.text(place.id));
        let mut cells = vec![whole(place.row), whole(place.position), token, parts_at];
        let Some(last) = place.layers.last() else { return cells };
        cells.push(number(last.error));
        match &last.prediction {
            None => cells.extend(vec![Cell::from(String::new()); 5]),
            Some(predicted) => {
                cells.push(number(predicted.kl));
                for (id, p) in predicted.top.iter().zip(predicted.p) {
                    cells.push(Cell::token(&found.text(*id)));
                    cells.push(number(p));
                }
            }
        }
        cells
    });
    (header.to_vec(), rows.collect())
}

fn tensors(found: &ModelsCompared<'_>) -> Table {
    let header = ["tensor", "A", "B", "weight error", "removes", "B with A's", "adds", "A with B's"];
    let empty = || Cell::from(String::new());
    let rows = found.tensors().into_iter().map(|(weights, cause)| {
        let mut cells = vec![
            Cell::from(weights.name.clone()),
            Cell::from(weights.encodings[0].clone()),
            Cell::from(weights.encodings[1].clone()),
            number(weights.error),
        ];
        let of = |part: Option<f64>, effect: Option<Effect>| match (part, effect) {
            (Some(part), Some(effect)) => {
                [Cell::new(format!("{:.1}%", 100.0 * part), part), number(effect.size())]
            }
            _ => [empty(), empty()],
        };
        match (cause, found.causes) {
            (Some(cause), Some((causes, _))) => {
                cells.extend(of(causes.removed(cause), cause.without));
                cells.extend(of(causes.added(cause), cause.alone));
            }
            _ => cells.extend([empty(), empty(), empty(), empty()]),
        }
        cells
    });
    (header.to_vec(), rows.collect())
}

fn whole(n: usize) -> Cell {
    Cell::from(n.to_string())
}

fn number(x: f64) -> Cell {
    Cell::new(short(x), x)
}

/// Three digits; small numbers with a power of ten.
fn short(x: f64) -> String {
    match x.abs() {
        0.0 => "0".to_owned(),
        0.001..1000.0 => format!("{x:.4}"),
        _ if !x.is_finite() => x.to_string(),
        _ => format!("{x:.2e}"),
    }
}

/// A cosine so near to 1 that its distance matters.
fn cosine(x: f64) -> Cell {
    Cell::new(format!("{x:.6}"), x)
}
