//! The report for other programs: JSON, one line per weight, or a Markdown table of where each head looks.

use std::fmt::Write as _;

use super::report::AttentionReport;
use crate::error::{Error, ErrorKind};
use crate::fields::{csv_line, tsv_line};
use crate::text::cell;

const HEADER: [&str; 7] = ["layer", "head", "query", "query_token", "key", "key_token", "weight"];

/// The report as JSON of schema [`super::SCHEMA`], on one line.
///
/// # Errors
/// Never for a report that fits into memory.
pub fn json(report: &AttentionReport) -> Result<String, Error> {
    serde_json::to_string(report).map_err(|e| Error::new(ErrorKind::Draw, format!("report as JSON: {e}")))
}

/// One line per weight, tab-separated, with a header line. Keys after their query are omitted: their weight is 0.
///
/// In texts, `\t`, `
/// `, `\r`, `\\` and `\u{..}` escape characters that would break a line or be invisible.
#[must_use]
pub fn tsv(report: &AttentionReport) -> String {
    lines(report, tsv_line)
}

/// [`tsv`] with commas; texts are quoted (RFC 4180).
#[must_use]
pub fn csv(report: &AttentionReport) -> String {
    lines(report, csv_line)
}

/// A Markdown table: where each head looks, as means over all tokens except the first.
#[must_use]
pub fn markdown(report: &AttentionReport) -> String {
    let mut out = String::from("| layer | head | to first | to itself | to previous | entropy (nats) |\n");
    out += "|---:|---:|---:|---:|---:|---:|\n";
    for head in &report.heads {
        let s = head.summary();
        let _ = writeln!(
            out,
            "| {} | {} | {:.3} | {:.3} | {:.3} | {:.3} |",
            head.layer, head.head, s.first, s.own, s.previous, s.entropy
        );
    }
    out
}

fn lines(report: &AttentionReport, line: impl Fn(&mut String, &[String])) -> String {
    let mut out = String::new();
    line(&mut out, &HEADER.map(str::to_owned));
    let texts: Vec<String> = report.tokens.iter().map(|token| cell(&token.text)).collect();
    for head in &report.heads {
        for (query, row) in head.weights.iter().enumerate() {
            for (key, weight) in row.iter().enumerate() {
                let fields = [
                    head.layer.to_string(),
                    head.head.to_string(),
                    query.to_string(),
                    texts[query].clone(),
                    key.to_string(),
                    texts[key].clone(),
                    weight.to_string(),
                ];
                line(&mut out, &fields);
            }
        }
    }
    out
}
