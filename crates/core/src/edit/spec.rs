//! Interventions as text: `KEY@POSITIONS OP`.
//!
//! ```text
//! resid_out_5@last=0                      set            resid_out_5@4:9*0.5           scale
//! mlp_out_3@all=mean:file.safetensors::t  put the mean   head_out_L1H2@-1=row:1        put another row's values
//! resid_out_5@"text: Paris"+2*f.safetensors::direction   add (steering)
//! pattern_L1H1@columns:3=0   pattern_L1H1@grid:9x2*0.5   pattern_L1H1@pre:rows:5=-inf   (knock-out, as =0 and *0)
//! pattern_L1H1@keep-self:4:9=0            what these queries give to other keys is taken away
//! pattern_L1H1@rescaled:columns:3=0       after the softmax; changed rows are divided by their sums
//! mlp_hidden_5[12,40:50]@last*0           some entries of vectors
//! router_logits_1[3]@all=-inf             this expert is never chosen; =inf: it always is
//! ```
//! KEY ends at the first `@`; OP begins at the last `=`, `*` or `+` outside double quotes. Put positions that contain
//! one of these, a comma or an `x` in double quotes. Spaces between the parts are ignored.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use easyroutine_sites::{Selector, Slice};

use super::{Intervention, Operation, Part, Softmax, Tensor};
use crate::error::{Error, Result};
use crate::positions::Specifier;

/// A tensor by its location: `FILE.safetensors::TENSOR`, `FILE.gguf::TENSOR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The file.
    pub file: PathBuf,
    /// The tensor in it.
    pub tensor: String,
}

impl Intervention<Reference> {
    /// The file whose values it names.
    pub fn file(&self) -> Option<&Path> {
        match &self.operation {
            Operation::Replace(values) | Operation::Mean(values) | Operation::Add { values, .. } => {
                Some(&values.file)
            }
            Operation::Scale(_) | Operation::Set(_) | Operation::Resample { .. } => None,
        }
    }

    /// Reads the referenced values.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn load(self) -> Result<Intervention> {
        let operation = self.operation.map(|reference| Tensor::read(&reference.file, &reference.tensor))?;
        Ok(Intervention { activation: self.activation, entries: self.entries, part: self.part, operation })
    }
}

impl FromStr for Reference {
    type Err = Error;

    /// Parses `FILE.safetensors::TENSOR` or `FILE.gguf::TENSOR`.
    fn from_str(text: &str) -> Result<Self> {
        reference(text)
    }
}

impl FromStr for Intervention<Reference> {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|e| {
            let shown: String = text.chars().take(120).flat_map(char::escape_debug).collect();
            e.at(format_args!("`{shown}`"))
        })
    }
}

fn parse(text: &str) -> Result<Intervention<Reference>> {
    let Some((key, rest)) = text.split_once('@') else {
        return Err(Error::input("an intervention names its positions after `@`")
            .hint("for example 'resid_out_5@last=0', or @all for every token"));
    };
    let (activation, entries) = activation(key)?;
    let marks = marks(rest)?;
    let (positions, operation) = operation(rest, &marks)?;
    let part = part(positions.trim())?;
    let operation = match (part.softmax(), operation) {
        // Ablating a score means knocking it out: a score of 0 has no special meaning.
        (Some(Softmax::Before), Operation::Set(0.0)) => Operation::Scale(0.0),
        (_, operation) => operation,
    };
    Ok(Intervention { activation, entries, part, operation })
}

/// Parses the changed activation: `resid_out_*`, or with entries of its vectors `mlp_hidden_5[12,40:50]`.
///
/// # Errors
/// If no activation has the name, or brackets do not hold numbers and ranges.
pub fn activation(text: &str) -> Result<(Selector, Vec<Slice>)> {
    let text = text.trim();
    let Some((key, entries)) = text.strip_suffix(']').and_then(|text| text.split_once('[')) else {
        return Ok((text.parse()?, Vec::new()));
    };
    let number = |text: &str| -> Option<Slice> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_plain = (1..=9).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|_| is_plain && text != "-0").map(Slice::one)
    };
    let entry = |text: &str| number(text).map_or_else(|| text.parse().map_err(Error::from), Ok);
    Ok((key.trim().parse()?, entries.split(',').map(str::trim).map(entry).collect::<Result<_>>()?))
}

/// The places of `=`, `*` and `+` outside double quotes, except the sign of an exponent (`1e+5`).
fn marks(text: &str) -> Result<Vec<usize>> {
    let bytes = text.as_bytes();
    let mut quoted = false;
    let mut marks = Vec::new();
    for (at, byte) in bytes.iter().enumerate() {
        let exponent = *byte == b'+'
            && at >= 2
            && matches!(bytes[at - 1], b'e' | b'E')
            && bytes[at - 2].is_ascii_digit()
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        match byte {
            b'"' => quoted = !quoted,
            b'=' | b'*' | b'+' if !quoted && !exponent => marks.push(at),
            _ => {}
        }
    }
    if quoted { Err(Error::input("a double quote is not closed")) } else { Ok(marks) }
}

/// The positions before the operation, and the operation.
fn operation<'a>(text: &'a str, marks: &[usize]) -> Result<(&'a str, Operation<Reference>)> {
    let Some(&last) = marks.last() else {
        return Err(Error::input("an intervention says what to do: `=` sets, `*` scales, `+` adds")
            .hint("for example 'resid_out_5@last=0'"));
    };
    let (mark, operand) = (text.as_bytes()[last], text[last + 1..].trim());
    let found = match mark {
        b'=' => set(operand)?,
        b'*' => match number(operand) {
            Some(factor) => Operation::Scale(factor),
            None => {
                // `+NUMBER*REF` is one operation.
                let plus = marks.iter().rev().nth(1).filter(|at| text.as_bytes()[**at] == b'+');
                let factor = plus.and_then(|at| Some((*at, number(text[at + 1..last].trim())?)));
                let Some((plus, factor)) = factor else {
                    return Err(Error::input(format!("`*` takes a number, and `{operand}` is none"))
                        .hint("a tensor times a number is added: @all+-2*FILE.safetensors::TENSOR"));
                };
                return Ok((&text[..plus], Operation::Add { factor, values: reference(operand)? }));
            }
        },
        _ => Operation::Add { factor: 1.0, values: reference(operand)? },
    };
    Ok((&text[..last], found))
}

fn set(operand: &str) -> Result<Operation<Reference>> {
    if let Some(infinite) = [("-inf", f32::NEG_INFINITY), ("inf", f32::INFINITY)]
        .iter()
        .find_map(|(word, infinite)| (operand == *word).then_some(*infinite))
    {
        return Ok(Operation::Set(infinite));
    }
    if let Some(number) = number(operand) {
        return Ok(Operation::Set(number));
    }
    if let Some(mean) = operand.strip_prefix("mean:") {
        return Ok(Operation::Mean(reference(mean.trim())?));
    }
    if let Some(row) = operand.strip_prefix("row:") {
        let row = row.trim();
        let plain = (1..=9).contains(&row.len()) && row.bytes().all(|b| b.is_ascii_digit());
        let parsed = plain.then(|| row.parse().ok()).flatten();
        return parsed
            .map(|row| Operation::Resample { row })
            .ok_or_else(|| Error::input(format!("`row:{row}`: the number of a row is 0, 1, ...")));
    }
    reference(operand).map(Operation::Replace)
}

/// A finite number in digits, with an optional sign, point and exponent.
fn number(text: &str) -> Option<f32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+' | b'e' | b'E'));
    text.parse().ok().filter(|x: &f32| plain && x.is_finite())
}

fn reference(text: &str) -> Result<Reference> {
    let inner = unquoted(text);
    match inner.split_once("::") {
        None if ["mean", "row"].contains(&inner) => Err(Error::input(format!(
            "`={inner}` lacks what it is of"
        ))
        .hint(
            "=mean:FILE.safetensors::TENSOR, =row:1; `easyroutine ablate --by mean` computes the mean itself",
        )),
        Some((file, tensor))
            if [".safetensors", ".gguf"].iter().any(|ending| file.ends_with(ending))
                && !tensor.is_empty()
                && !inner.contains('"') =>
        {
            Ok(Reference { file: file.into(), tensor: tensor.to_owned() })
        }
        _ if number(inner).is_some() => Err(Error::input(format!(
            "`{inner}` is a number; + adds a tensor of a file"
        ))
        .hint("=NUMBER sets, *NUMBER scales, +NUMBER*FILE.safetensors::TENSOR adds a tensor times a number")),
        _ if inner.parse::<f32>().is_ok() => {
            Err(Error::input(format!("`{inner}` is not a finite f32 number"))
                .hint("finite numbers; pre:...=-inf knocks out keys of a pattern"))
        }
        _ => Err(Error::input(format!("`{inner}` is neither a number nor a tensor of a file"))
            .hint("a tensor is written FILE.safetensors::TENSOR, in double quotes where it holds = * or +")),
    }
}

fn part(text: &str) -> Result<Part> {
    let spelt = [("pre:", Softmax::Before), ("rescaled:", Softmax::AfterRescaled)];
    let found = spelt.iter().find_map(|(prefix, when)| Some((*prefix, text.strip_prefix(prefix)?, *when)));
    let (prefix, text, softmax) = match found {
        Some((prefix, rest, softmax)) => (prefix, rest.trim_start(), softmax),
        None => ("", text, Softmax::After),
    };
    if let Some(columns) = text.strip_prefix("columns:") {
        return Ok(Part::Columns(positions(columns)?, softmax));
    }
    if let Some(rows) = text.strip_prefix("rows:") {
        return Ok(Part::Rows(positions(rows)?, softmax));
    }
    if let Some(grid) = text.strip_prefix("grid:") {
        let (rows, columns) = sides(grid)?;
        return Ok(Part::Grid { rows, columns, softmax });
    }
    if let Some(rows) = text.strip_prefix("keep-self:") {
        return Ok(Part::KeepSelf(positions(rows)?, softmax));
    }
    if !prefix.is_empty() {
        return Err(Error::input(format!("`{prefix}` is for patterns"))
            .hint(format!("say {prefix}columns:, {prefix}rows:, {prefix}grid: or {prefix}keep-self:")));
    }
    Ok(Part::Full(positions(text)?))
}

/// The two lists of a grid. Names of positions may contain an `x`, so only a single separating `x` is unambiguous.
fn sides(text: &str) -> Result<(Vec<Specifier>, Vec<Specifier>)> {
    let mut quoted = false;
    for (at, byte) in text.bytes().enumerate() {
        quoted ^= byte == b'"';
        if byte != b'x' || quoted {
            continue;
        }
        if let (Ok(rows), Ok(columns)) = (side(&text[..at]), side(&text[at + 1..])) {
            return Ok((rows, columns));
        }
    }
    Err(Error::input(format!("`{text}` is not a grid of queries x keys"))
        .hint("for example grid:9x2, grid:last x 0:4, or grid:\"text: he\"x\"text: Mary\""))
}

/// One list of a grid. Unquoted, `text:` would swallow the other.
fn side(text: &str) -> Result<Vec<Specifier>> {
    if text.split(',').any(|one| one.trim_start().starts_with("text:")) {
        return Err(Error::input(format!("`{text}`: in a grid, put `text:` in double quotes")));
    }
    positions(text)
}

/// A comma-separated list of specifiers; those with reserved characters are in double quotes.
fn positions(text: &str) -> Result<Vec<Specifier>> {
    let mut quoted = false;
    let is_comma = |c: char| {
        quoted ^= c == '"';
        c == ',' && !quoted
    };
    text.split(is_comma)
        .map(|one| {
            let one = one.trim();
            let inner = unquoted(one);
            if inner.contains('"') {
                return Err(Error::input(format!("`{one}`: put double quotes around the whole position")));
            }
            inner.parse()
        })
        .collect()
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}::{}", self.file.display(), self.tensor);
        let reads_otherwise = text.trim() != text || text.starts_with("mean:") || text.starts_with("row:");
        let reserved = reads_otherwise || text.contains(['=', '*', '+']);
        if reserved { write!(f, "\"{text}\"") } else { f.write_str(&text) }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.name(), self.shape())
    }
}

impl<V: fmt::Display> fmt::Display for Intervention<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.key())?;
        write!(f, "@{}{}", self.part, self.operation)
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |specifiers: &[Specifier]| -> String {
            let one = |s: &Specifier| match s {
                Specifier::Text(_) => format!("\"{s}\""),
                other => other.to_string(),
            };
            specifiers.iter().map(one).collect::<Vec<_>>().join(",")
        };
        f.write_str(match self.softmax() {
            Some(Softmax::Before) => "pre:",
            Some(Softmax::AfterRescaled) => "rescaled:",
            Some(Softmax::After) | None => "",
        })?;
        match self {
            Part::Full(positions) => f.write_str(&list(positions)),
            Part::Columns(columns, _) => write!(f, "columns:{}", list(columns)),
            Part::Rows(rows, _) => write!(f, "rows:{}", list(rows)),
            Part::Grid { rows, columns, .. } => write!(f, "grid:{}x{}", list(rows), list(columns)),
            Part::KeepSelf(rows, _) => write!(f, "keep-self:{}", list(rows)),
        }
    }
}

impl<V: fmt::Display> fmt::Display for Operation<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Scale(factor) => write!(f, "*{factor}"),
            Operation::Set(number) => write!(f, "={number}"),
            Operation::Replace(values) => write!(f, "={values}"),
            Operation::Mean(values) => write!(f, "=mean:{values}"),
            Operation::Add { factor, values } => write!(f, "+{factor}*{values}"),
            Operation::Resample { row } => write!(f, "=row:{row}"),
        }
    }
}
