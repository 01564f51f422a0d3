//! The time for a template, formatted as by Python's `strftime`.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;

use crate::error::{Error, Result};

/// A local day and time without a zone, like Python's `datetime.now()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalTime(DateTime);

impl LocalTime {
    /// The time now, in the machine's zone.
    pub fn now() -> Self {
        LocalTime(jiff::ZonedDateTime::now().datetime())
    }

    /// The time in a format of Python's `strftime`, in the C locale. An unknown directive is copied, as the GNU C
    /// library does.
    pub(super) fn strftime(&self, format: &str) -> String {
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let directive = directive(&rest[at..]);
            out.push_str(&self.written(directive).unwrap_or_else(|| directive.to_owned()));
            rest = &rest[at + directive.len()..];
        }
        out + rest
    }

    fn written(&self, directive: &str) -> Option<String> {
        let jiff = |format: &str| jiff::fmt::strtime::format(format, self.0).ok();
        match directive.trim_start_matches(['%', '-', '_', '0', '^', '#']) {
            // There is no zone, so Python writes nothing.
            "z" | "Z" => Some(String::new()),
            "f" => Some(format!("{:06}", self.0.subsec_nanosecond() / 1000)),
            "c" => jiff("%a %b %e %H:%M:%S %Y"),
            "x" | "D" => jiff("%m/%d/%y"),
            "X" | "T" => jiff("%H:%M:%S"),
            "r" => jiff("%I:%M:%S %p"),
            "h" => jiff("%b"),
            "" => (directive == "%%").then(|| "%".to_owned()),
            one if "aAwdbBmyYHIMSpjUWGuVCeFRnTtklPg".contains(one) => jiff(directive),
            _ => None,
        }
    }
}

/// `%d`, or `%-d` with its flags, at the start of a string.
fn directive(text: &str) -> &str {
    let after_flags = 1 + text[1..].bytes().take_while(|byte| b"-_0^#".contains(byte)).count();
    match text[after_flags..].chars().next() {
        Some(c) => &text[..after_flags + c.len_utf8()],
        None => text,
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for LocalTime {
    type Err = Error;

    /// Parses `2024-07-26` or `2024-07-26T15:30:00`.
    fn from_str(text: &str) -> Result<Self> {
        text.parse().map(LocalTime).map_err(|e| {
            Error::input(format!("`{text}` is not a day: {e}"))
                .hint("write it as 2024-07-26, or 2024-07-26T15:30:00")
        })
    }
}
