//! The grid as one self-contained HTML page: no script, no requests; works from `file://`.

use super::GridReport;
use super::picture::{style, svg};
use crate::page::around;
use crate::svg::escape;
use crate::text::printable;

/// The report as one HTML page around its picture. The page's Content-Security-Policy allows only its two styles, by
/// their hash; hovering over a cell describes it.
#[must_use]
pub fn html(report: &GridReport) -> String {
    around(&escape(&printable(&report.title)), &svg(report), &style())
}
