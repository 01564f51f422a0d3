//! The grid as one self-contained HTML page: no script, no request, and it works from `file://`.

use super::GridReport;
use super::picture::{style, svg};
use crate::page::around;
use crate::svg::escape;
use crate::text::printable;

/// The report as one HTML page around its picture. The page's Content-Security-Policy allows its two styles by their
/// hash and nothing else; a pointer that rests on a cell shows what it is.
#[must_use]
pub fn html(report: &GridReport) -> String {
    around(&escape(&printable(&report.title)), &svg(report), &style())
}
