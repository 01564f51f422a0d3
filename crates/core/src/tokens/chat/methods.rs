//! Methods of Python's values: those that minijinja does not have, or does otherwise. The rest is `pycompat`'s.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::python::{pay, refuse, str as python_str, tuple};

/// The widest that a text may be padded to: what is wider is no text for a model.
const WIDEST: usize = 10_000;

/// Calls a method that the value does not have by itself.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let found = match value.kind() {
        ValueKind::String => of_text(state, value.as_str().unwrap_or_default(), method, arguments)?,
        ValueKind::Seq => of_list(value, method, arguments)?,
        _ => None,
    };
    match found {
        Some(value) => Ok(value),
        None => unknown_method_callback(state, value, method, arguments),
    }
}

fn of_list(value: &Value, method: &str, arguments: &[Value]) -> Result<Option<Value>, Error> {
    if method != "index" {
        return Ok(None);
    }
    let (wanted,): (&Value,) = from_args(arguments)?;
    for (i, item) in value.try_iter()?.checked().enumerate() {
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
    let place = |byte: Option<usize>| byte.map(|byte| text[..byte].chars().count());
    Ok(Some(match method {
        "format" => {
            let widths = text.split(|c: char| !c.is_ascii_digit());
            if widths
                .filter(|digits| !digits.is_empty())
                .any(|n| n.parse().map_or(true, |n: usize| n > WIDEST))
            {
                return Err(refuse(format!("format: a width above {WIDEST}")));
            }
            let written = arguments.iter().map(|argument| written(state, argument));
            let written = written.collect::<Result<Vec<_>, _>>()?;
            unknown_method_callback(state, &Value::from(text), "format", &written)?
        }
        "join" => {
            let (values,): (Value,) = from_args(arguments)?;
            let mut out = String::new();
            for (i, item) in values.try_iter()?.checked().enumerate() {
                let item = item?;
                let Some(item) = item.as_str() else {
                    return Err(refuse(format!(
                        "join: item {i} is no text but {}",
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
            let (keep,): (Option<bool>,) = from_args(arguments)?;
            Value::from(lines(text, keep.unwrap_or(false)))
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
        "index" | "rindex" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            let found = place(if method == "index" { text.find(wanted) } else { text.rfind(wanted) });
            Value::from(found.ok_or_else(|| refuse(format!("{method}: the text is not there")))?)
        }
        "isspace" => all(text, arguments, is_space)?,
        "isdigit" | "isdecimal" => {
            all(text, arguments, |c| c.is_ascii_digit() || c.is_numeric() && !c.is_ascii())?
        }
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
        "center" | "ljust" | "rjust" | "zfill" => padded(text, method, arguments)?,
        _ => return Ok(None),
    }))
}

/// An argument of `format`, which is a number or is written out: what is long is paid for here.
fn written(state: &State<'_, '_>, argument: &Value) -> Result<Value, Error> {
    if argument.is_kwargs() {
        let named = Kwargs::try_from(argument.clone())?;
        let pairs =
            named.args().map(|name| Ok((name.to_owned(), written(state, &named.get::<Value>(name)?)?)));
        return Ok(Value::from(pairs.collect::<Result<Kwargs, Error>>()?));
    }
    match argument.kind() {
        ValueKind::Number | ValueKind::String => Ok(argument.clone()),
        _ => python_str(state, argument).map(Value::from),
    }
}

fn all(text: &str, arguments: &[Value], is_so: impl Fn(char) -> bool) -> Result<Value, Error> {
    let () = from_args(arguments)?;
    Ok(Value::from(!text.is_empty() && text.chars().all(is_so)))
}

/// `str.isspace` of one character: also the four separators that Rust does not count.
fn is_space(c: char) -> bool {
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

/// Words between runs of white space; the last of at most `most` (from the right the first) keeps what is left.
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
fn lines(text: &str, keep_ends: bool) -> Vec<Value> {
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
        lines.push(Value::from(&rest[..if keep_ends { at + width } else { at }]));
        rest = &rest[at + width..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
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
        // As CPython does it: what is odd goes to the left where the width is odd.
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
