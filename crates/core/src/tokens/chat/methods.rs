//! Methods of Python's values that minijinja lacks or treats differently. The rest come from `pycompat`.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::braces::{self, Fields};
use super::letters;
use super::python::{pay, refuse, str as python_str, tuple};

/// Limit on padded width: no text for a model is wider.
const WIDEST: usize = 10_000;

/// Calls a method that the value does not have itself.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => of_text(state, value.as_str().unwrap_or_default(), method, arguments)?,
        ValueKind::Seq => of_list(state, value, method, arguments)?,
        // Mappings are immutable, so a copy is the mapping itself.
        ValueKind::Map if method == "copy" => Some(no_arguments(arguments, || value.clone())?),
        _ => None,
    };
    match found {
        Some(value) => Ok(value),
        None => unknown_method_callback(state, value, method, arguments),
    }
}

fn of_list(
    state: &State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    if method == "copy" && !value.is_tuple() {
        return no_arguments(arguments, || value.clone()).map(Some);
    }
    if method == "count" {
        // Every item is visited, even just to count them.
        state.consume_fuel(value.len().unwrap_or(0) as u64)?;
    }
    if method != "index" {
        return Ok(None);
    }
    let (wanted,): (&Value,) = from_args(arguments)?;
    for (i, item) in value.try_iter()?.checked().enumerate() {
        state.consume_fuel(1)?;
        if item? == *wanted {
            return Ok(Some(Value::from(i)));
        }
    }
    Err(refuse("the value is not in the list"))
}

fn of_text(
    state: &mut State<'_, '_>,
    text: &str,
    method: &str,
    arguments: &[Value],
) -> Result<Option<Value>, Error> {
    pay(state, text.len())?;
    Ok(Some(match method {
        "format" => Value::from(braces::filled(state, text, &mut Fields::of(arguments)?)?),
        "format_map" => {
            let (mapping,): (Value,) = from_args(arguments)?;
            Value::from(braces::filled(state, text, &mut Fields::of_mapping(mapping))?)
        }
        "join" => {
            let (values,): (Value,) = from_args(arguments)?;
            let mut out = String::new();
            for (i, item) in values.try_iter()?.checked().enumerate() {
                let item = item?;
                let Some(item) = item.as_str() else {
                    return Err(refuse(format!(
                        "join: item {i} is not text but {}",
                        python_str(state, &item)?
                    )));
                };
                pay(state, 64 + text.len() + item.len())?;
                out.push_str(if i == 0 { "" } else { text });
                out.push_str(item);
            }
            Value::from(out)
        }
        "split" | "rsplit" => split(state, text, method == "rsplit", arguments)?,
        "partition" | "rpartition" => {
            let (by,): (&str,) = from_args(arguments)?;
            if by.is_empty() {
                return Err(refuse(format!("{method}: the separator is empty")));
            }
            let found = if method == "partition" { text.split_once(by) } else { text.rsplit_once(by) };
            let parts = match found {
                Some((before, after)) => [before, by, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            tuple(parts.map(Value::from))
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(arguments)?;
            let keep = if named.has("keepends") { Some(named.get("keepends")?) } else { keep };
            named.assert_all_used()?;
            lines(text, keep.unwrap_or(false)).into_iter().map(Value::from).collect()
        }
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<Value>,) = from_args(arguments)?;
            let chars = chars.filter(|chars| !chars.is_none());
            let within = chars.as_ref().map(|chars| chars.as_str().unwrap_or_default());
            let is_in = |c: char| within.map_or_else(|| is_space(c), |within| within.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(is_in),
                "lstrip" => text.trim_start_matches(is_in),
                _ => text.trim_end_matches(is_in),
            })
        }
        "index" | "rindex" | "find" | "rfind" | "count" => sought(text, method, arguments)?,
        "startswith" | "endswith" => ends(text, method, arguments)?,
        "title" => no_arguments(arguments, || letters::title(text))?,
        "istitle" => no_arguments(arguments, || letters::is_title(text))?,
        "isidentifier" => no_arguments(arguments, || letters::is_identifier(text))?,
        "isprintable" => no_arguments(arguments, || letters::all_printable(text))?,
        "isspace" => all(text, arguments, is_space)?,
        "isdigit" => all(text, arguments, letters::is_digit)?,
        "isdecimal" => all(text, arguments, letters::is_decimal)?,
        "swapcase" => {
            let () = from_args(arguments)?;
            let swapped = text.chars().flat_map(|c| match c.is_uppercase() {
                true => c.to_lowercase().collect::<Vec<_>>(),
                false => c.to_uppercase().collect(),
            });
            Value::from(swapped.collect::<String>())
        }
        "casefold" => {
            let () = from_args(arguments)?;
            Value::from(text.to_lowercase().replace('ß', "ss"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "expandtabs" => {
            let (size, named): (Option<i64>, Kwargs) = from_args(arguments)?;
            let size = match size {
                Some(size) => size,
                None => named.get::<Option<i64>>("tabsize")?.unwrap_or(8),
            };
            named.assert_all_used()?;
            Value::from(expanded(state, text, size)?)
        }
        "center" | "ljust" | "rjust" | "zfill" => padded(text, method, arguments)?,
        _ => return Ok(None),
    }))
}

fn no_arguments<T: Into<Value>>(arguments: &[Value], make: impl FnOnce() -> T) -> Result<Value, Error> {
    let () = from_args(arguments)?;
    Ok(make().into())
}

/// `find`, `index`, `count` and similar, between two positions.
fn sought(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (&str, Option<i64>, Option<i64>) = from_args(arguments)?;
    let Some((first, part)) = part(text, start, end) else {
        return match method {
            "count" => Ok(Value::from(0)),
            "find" | "rfind" => Ok(Value::from(-1)),
            _ => Err(refuse(format!("{method}: the text is not there"))),
        };
    };
    if method == "count" {
        return Ok(Value::from(part.matches(wanted).count()));
    }
    let found = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
    match found {
        Some(byte) => Ok(Value::from(first + part[..byte].chars().count())),
        None if method.ends_with("find") => Ok(Value::from(-1)),
        None => Err(refuse(format!("{method}: the text is not there"))),
    }
}

/// `startswith` and `endswith`, for one string or any of a tuple.
fn ends(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (wanted, start, end): (Value, Option<i64>, Option<i64>) = from_args(arguments)?;
    let several = if wanted.is_tuple() { wanted.try_iter()?.collect() } else { vec![wanted] };
    let part = part(text, start, end);
    let mut is_there = false;
    for one in &several {
        let one = one.as_str().ok_or_else(|| refuse(format!("{method} takes a text or a tuple of texts")))?;
        is_there |= part.is_some_and(|(_, part)| match method {
            "startswith" => part.starts_with(one),
            _ => part.ends_with(one),
        });
    }
    Ok(Value::from(is_there))
}

/// `text[start:end]` and its start; `None` if it starts after the end of the text.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let place = |n: i64| {
        usize::try_from(if n < 0 { (n.saturating_add(length)).max(0) } else { n }).unwrap_or(usize::MAX)
    };
    let (first, last) = (place(start.unwrap_or(0)), place(end.unwrap_or(length)).min(place(length)));
    if first > last {
        return None;
    }
    let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    Some((first, &text[byte(first)..byte(last)]))
}

fn all(text: &str, arguments: &[Value], is_so: impl Fn(char) -> bool) -> Result<Value, Error> {
    let () = from_args(arguments)?;
    Ok(Value::from(!text.is_empty() && text.chars().all(is_so)))
}

/// `str.isspace` for one character, including the four separators that Rust does not count.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn split(state: &State<'_, '_>, text: &str, from_right: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (by, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(arguments)?;
    let by = match by {
        Some(by) => Some(by),
        None => named.get("sep")?,
    };
    let most = match most {
        Some(most) => Some(most),
        None => named.get("maxsplit")?,
    };
    named.assert_all_used()?;
    let most =
        most.and_then(|most| usize::try_from(most).ok()).map_or(usize::MAX, |most| most.saturating_add(1));
    let by = by.filter(|by| !by.is_none());
    let parts: Vec<&str> = match &by {
        Some(by) => {
            let by = by.as_str().filter(|by| !by.is_empty());
            let by = by.ok_or_else(|| refuse("split: the separator is a text that is not empty"))?;
            match from_right {
                true => {
                    let mut parts: Vec<&str> = text.rsplitn(most, by).collect();
                    parts.reverse();
                    parts
                }
                false => text.splitn(most, by).collect(),
            }
        }
        None => split_at_spaces(text, most, from_right),
    };
    state.consume_fuel(parts.len() as u64)?;
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Words between runs of white space; the last of at most `most` words (the first, from the right) keeps the rest.
fn split_at_spaces(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() && parts.len() + 1 < most {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(cut) = cut else { break };
        let width = rest[cut..].chars().next().map_or(1, char::len_utf8);
        let (before, after) = (&rest[..cut], &rest[cut + width..]);
        let (part, left) = if from_right { (after, before) } else { (before, after) };
        parts.push(part);
        rest = left.trim_matches(is_space);
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// `str.splitlines`: at every line end of Unicode.
pub(super) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let width = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// `str.expandtabs`: each tab becomes spaces up to the next tab stop.
fn expanded(state: &State<'_, '_>, text: &str, size: i64) -> Result<String, Error> {
    let size = usize::try_from(size).unwrap_or(0);
    if size > WIDEST {
        return Err(refuse(format!("expandtabs: a tab of {size} is wider than {WIDEST}")));
    }
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for c in text.chars() {
        match c {
            '\t' => {
                let blanks = if size == 0 { 0 } else { size - column % size };
                pay(state, 64 + blanks)?;
                out.push_str(&" ".repeat(blanks));
                column += blanks;
            }
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(out)
}

fn padded(text: &str, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(arguments)?;
    let width = usize::try_from(width).unwrap_or(0);
    if width > WIDEST {
        return Err(refuse(format!("{method}: a width of {width} is more than {WIDEST}")));
    }
    let fill = if method == "zfill" { "0" } else { fill.unwrap_or(" ") };
    if fill.chars().count() != 1 {
        return Err(Error::new(
            ErrorKind::InvalidOperation,
            format!("{method}: the filling is one character"),
        ));
    }
    let missing = width.saturating_sub(text.chars().count());
    let (left, right) = match method {
        "ljust" => (0, missing),
        "rjust" | "zfill" => (missing, 0),
        // As in CPython: the odd space goes to the left if the width is odd.
        _ => {
            let left = missing / 2 + (missing & width & 1);
            (left, missing - left)
        }
    };
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) if method == "zfill" => (&text[..1], digits),
        _ => ("", text),
    };
    Ok(Value::from(format!("{sign}{}{digits}{}", fill.repeat(left), fill.repeat(right))))
}
