//! The report for other programs: JSON, one line per weight, or a Markdown table of where each head looks.

use super::report::AttentionReport;
use crate::error::{Error, ErrorKind};
use crate::table::{Cell, Table};

const HEADER: [&str; 7] = ["layer", "head", "query", "query_token", "key", "key_token", "weight"];

/// The report as JSON of schema [`super::SCHEMA`], on one line.
///
/// # Errors
/// Never for a report that fits into memory.
pub fn json(report: &AttentionReport) -> Result<String, Error> {
    serde_json::to_string(report).map_err(|e| Error::new(ErrorKind::Draw, format!("report as JSON: {e}")))
}

/// One row per weight. Keys after their query are omitted: their weight is 0.
#[must_use]
pub fn table(report: &AttentionReport) -> Table<'_> {
    let token = |at: usize| Cell::exact(&report.tokens[at].text);
    let rows = report.heads.iter().flat_map(move |head| {
        head.weights.iter().enumerate().flat_map(move |(query, row)| {
            row.iter().enumerate().map(move |(key, weight)| {
                let [layer, head, at] = [head.layer, head.head, query].map(Cell::exact);
                vec![layer, head, at, token(query), Cell::exact(key), token(key), Cell::exact(weight)]
            })
        })
    });
    Table::new(&HEADER, rows)
}

/// A Markdown table: where each head looks, as means over all tokens except the first.
#[must_use]
pub fn markdown(report: &AttentionReport) -> String {
    let header = ["layer", "head", "to first", "to itself", "to previous", "entropy (nats)"];
    let rows = report.heads.iter().map(|head| {
        let s = head.summary();
        let means = [s.first, s.own, s.previous, s.entropy].map(|mean| Cell::new(format!("{mean:.3}"), mean));
        [[head.layer, head.head].map(Cell::exact).to_vec(), means.to_vec()].concat()
    });
    Table::new(&header, rows).markdown()
}
