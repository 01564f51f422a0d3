//! Changes to features, as text: `features_NAME:12@last=0`.
//!
//! ```text
//! features_sae:12@all=0          ablated        features_sae:12@last=8.5    clamped
//! features_sae:12@4:9*2          scaled         features_sae:12@all+3       steered: 3 times its decoder row is added
//! features_sae@all=splice        the place gets what the features decode to
//! features_sae@all=keep-error    what they miss is added again: no change, to the bit
//! features_clt_3:12@all=0        a feature of one layer of a set
//! ```

use std::fmt;
use std::str::FromStr;

use easyroutine::positions::Specifier;
use easyroutine::{Error, Result};

/// One change to a dictionary's features.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureChange {
    /// `features_NAME`, with a layer for a set.
    pub key: String,
    /// The feature; `None` means all.
    pub feature: Option<usize>,
    /// The positions.
    pub positions: Vec<Specifier>,
    /// How it changes.
    pub operation: FeatureOperation,
}

/// How features change.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum FeatureOperation {
    /// Set to this number; the dictionary's error is kept.
    Set(f32),
    /// Multiplied; the dictionary's error is kept.
    Scale(f32),
    /// Adds this multiple of the feature's direction ([`crate::Layer::direction`]), its decoder row.
    Steer(f32),
    /// Replaces the activation by what the features decode to, without the error.
    Splice,
    /// The same with the error: unless a feature is changed too, nothing changes.
    KeepError,
}

impl FeatureChange {
    /// Whether a text is meant as a change to features.
    pub fn is_meant(text: &str) -> bool {
        text.trim_start().starts_with("features_")
    }
}

impl fmt::Display for FeatureChange {
    /// As text that parses back.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(feature) = self.feature {
            write!(f, ":{feature}")?;
        }
        f.write_str("@")?;
        for (number, position) in self.positions.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { "," })?;
            match position {
                Specifier::Text(_) => write!(f, "\"{position}\"")?,
                other => write!(f, "{other}")?,
            }
        }
        match self.operation {
            FeatureOperation::Set(value) => write!(f, "={value}"),
            FeatureOperation::Scale(factor) => write!(f, "*{factor}"),
            FeatureOperation::Steer(strength) => write!(f, "+{strength}"),
            FeatureOperation::Splice => f.write_str("=splice"),
            FeatureOperation::KeepError => f.write_str("=keep-error"),
        }
    }
}

impl FromStr for FeatureChange {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|e| {
            let shown: String = text.chars().take(120).flat_map(char::escape_debug).collect();
            e.at(format_args!("`{shown}`"))
        })
    }
}

fn parse(text: &str) -> Result<FeatureChange> {
    let (key, rest) = text.split_once('@').ok_or_else(|| {
        Error::input("a change names its positions after `@`").hint("for example 'features_sae:12@all=0'")
    })?;
    let (key, feature) = match key.trim().split_once(':') {
        None => (key.trim(), None),
        Some((key, number)) => {
            let plain = (1..=9).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
            let number = plain.then(|| number.parse().ok()).flatten();
            (key, Some(number.ok_or_else(|| Error::input("the number of a feature is 0, 1, …"))?))
        }
    };
    let at = operator(rest)?;
    let (positions, mark, operand) = (rest[..at].trim(), rest.as_bytes()[at], rest[at + 1..].trim());
    let operation = match (mark, operand, feature) {
        (b'=', "splice", None) => FeatureOperation::Splice,
        (b'=', "keep-error", None) => FeatureOperation::KeepError,
        (b'=', "splice" | "keep-error", Some(_)) => {
            return Err(Error::input(format!("`{operand}` is for all features: leave the number out")));
        }
        (_, _, None) => {
            return Err(Error::input("which feature? Without a number the whole place is meant")
                .hint(format!("write {key}:12@… for feature 12; {key}@…=splice or =keep-error for all")));
        }
        (mark, operand, Some(_)) => {
            let number = operand.parse::<f32>().ok().filter(|x| x.is_finite()).ok_or_else(|| {
                let shown: String = operand.chars().take(60).flat_map(char::escape_debug).collect();
                Error::input(format!("`{shown}` is not a number"))
                    .hint("=NUMBER sets, *NUMBER scales, +NUMBER steers")
            })?;
            match mark {
                b'=' => FeatureOperation::Set(number),
                b'*' => FeatureOperation::Scale(number),
                _ => FeatureOperation::Steer(number),
            }
        }
    };
    Ok(FeatureChange { key: key.to_owned(), feature, positions: list(positions)?, operation })
}

/// The start of the operation: the last `=`, `*` or `+` outside double quotes that is not an exponent's sign.
fn operator(text: &str) -> Result<usize> {
    let bytes = text.as_bytes();
    let mut quoted = false;
    let mut found = None;
    for (at, byte) in bytes.iter().enumerate() {
        let exponent = at >= 2 && matches!(bytes[at - 1], b'e' | b'E') && bytes[at - 2].is_ascii_digit();
        match byte {
            b'"' => quoted = !quoted,
            b'=' | b'*' if !quoted => found = Some(at),
            b'+' if !quoted && !exponent => found = Some(at),
            _ => {}
        }
    }
    match found {
        Some(at) if !quoted => Ok(at),
        _ => Err(Error::input("a change says what to do: `=` sets, `*` scales, `+` steers")
            .hint("for example 'features_sae:12@all=0'")),
    }
}

/// Positions, those with reserved characters in double quotes.
fn list(text: &str) -> Result<Vec<Specifier>> {
    let mut quoted = false;
    let is_comma = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    let one = |one: &str| {
        let one = one.trim();
        one.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(one).parse()
    };
    text.split(is_comma).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_they_are_written() {
        let read = |text: &str| text.parse::<FeatureChange>().unwrap();
        let one = read("features_sae:12@4:9*1e+2");
        assert_eq!(
            (one.key.as_str(), one.feature, one.operation),
            ("features_sae", Some(12), FeatureOperation::Scale(100.0))
        );
        assert_eq!(read("features_sae:1@all=-0.5").operation, FeatureOperation::Set(-0.5));
        assert_eq!(read("features_sae:1@\"text: a=b\",last + 3").operation, FeatureOperation::Steer(3.0));
        assert_eq!(read("features_a_3@all=splice").operation, FeatureOperation::Splice);
        assert_eq!(read("features_a_*@all=keep-error").key, "features_a_*");
        for text in [
            "features_sae:12@all=0",
            "features_sae:7@4:9*0.5",
            "features_sae:1@\"text: a=b\",last+-3",
            "features_clt_*@first=splice",
            "features_sae@all=keep-error",
        ] {
            let change = read(text);
            assert_eq!(read(&change.to_string()), change, "{text}: {change}");
        }
    }

    #[test]
    fn what_says_too_little_is_refused() {
        for text in [
            "features_sae:12",
            "features_sae:12@all",
            "features_sae@all=0",
            "features_sae:x@all=0",
            "features_sae:12@all=splice",
            "features_sae:12@all=nan",
            "features_sae:12@all=1e999",
            "features_sae:12@\"all=0",
            "features_sae:12@nowhere=0",
        ] {
            assert!(text.parse::<FeatureChange>().is_err(), "{text}");
        }
    }
}
