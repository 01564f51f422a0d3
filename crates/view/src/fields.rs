//! Fields as lines for other programs.

use std::fmt::Write as _;

/// Adds a line of fields, tab-separated and quoted for the dialect `excel-tab` of Python's `csv`: a field that contains
/// a quote is quoted, with its own quotes doubled. Texts must have been escaped: [`crate::cell`].
pub(crate) fn tsv_line(out: &mut String, fields: &[String]) {
    for (i, field) in fields.iter().enumerate() {
        out.push_str(if i == 0 { "" } else { "\t" });
        match field.contains('"') {
            true => out.push_str(&quoted(field)),
            false => out.push_str(field),
        }
    }
    out.push('\n');
}

/// The same with commas; everything except numbers and plain names is quoted (RFC 4180).
pub(crate) fn csv_line(out: &mut String, fields: &[String]) {
    for (i, field) in fields.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let plain = field.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-+".contains(&b));
        let _ = match plain {
            true => write!(out, "{comma}{field}"),
            false => write!(out, "{comma}{}", quoted(field)),
        };
    }
    out.push_str("\r\n");
}

fn quoted(field: &str) -> String {
    format!("\"{}\"", field.replace('"', "\"\""))
}
