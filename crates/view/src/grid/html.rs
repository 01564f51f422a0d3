//! The grid as one self-contained HTML page: no script, no request, and it works from `file://`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::GridReport;
use super::picture::{style, svg};
use crate::svg::escape;
use crate::text::printable;

const PAGE: &str = "body{margin:0;background:#fff}main{overflow-x:auto}svg{display:block}";

/// The report as one HTML page around its picture. The page's Content-Security-Policy allows its two styles by their
/// hash and nothing else; a pointer that rests on a cell shows what it is.
#[must_use]
pub fn html(report: &GridReport) -> String {
    let title = escape(&printable(&report.title));
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text.as_bytes())));
    let styles = [hash(PAGE), hash(&style())].join(" ");
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src {styles}; img-src data:; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n<link rel=\"icon\" href=\"data:,\">\n\
         <title>{title}</title>\n<style>{PAGE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        svg(report)
    )
}
