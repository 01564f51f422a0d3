//! Fields as lines that other programs read.

use std::fmt::Write as _;

/// Adds a line of fields, tab-separated. Texts must have been escaped: [`crate::text::field`].
pub(crate) fn tsv_line(out: &mut String, fields: &[String]) {
    out.push_str(&fields.join("\t"));
    out.push('\n');
}

/// The same with commas; all but numbers and plain names is quoted (RFC 4180).
pub(crate) fn csv_line(out: &mut String, fields: &[String]) {
    for (i, field) in fields.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        let plain = field.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-+".contains(&b));
        let _ = match plain {
            true => write!(out, "{comma}{field}"),
            false => write!(out, "{comma}\"{}\"", field.replace('"', "\"\"")),
        };
    }
    out.push_str("\r\n");
}
