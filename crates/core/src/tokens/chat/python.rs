//! Values as Python prints them: `str`, `repr` and `json.dumps`.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, Tuple, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

use super::arguments::Arguments;

/// Bytes per step, as minijinja counts.
const BYTES_A_STEP: usize = 64;

/// Pays for bytes before they are produced.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_A_STEP) as u64)
}

/// A text padded to at least `width` characters, according to `align` (`<`, `>` or `^`); when centring, an odd space
/// goes to the right.
pub(super) fn aligned(text: &str, width: usize, fill: char, align: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = match align {
        '>' => missing,
        '^' => missing / 2,
        _ => 0,
    };
    let filling = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    format!("{}{text}{}", filling(left), filling(missing - left))
}

pub(super) fn refuse(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `str(value)`.
pub(super) fn str(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => {
            let mut out = String::new();
            repr(state, value, &mut out)?;
            Ok(out)
        }
    }
}

/// The string, for operations that accept nothing else.
pub(super) fn text<'a>(value: &'a Value, of: &str) -> Result<&'a str, Error> {
    value
        .as_str()
        .ok_or_else(|| refuse(format!("{of} takes a text, not a value of the kind {}", value.kind())))
}

/// `repr(value)`, as used for the items of a list.
pub(super) fn repr(state: &State<'_, '_>, value: &Value, out: &mut String) -> Result<(), Error> {
    let before = out.len();
    match value.kind() {
        ValueKind::String if value.is_safe() => {
            out.push_str("Markup(");
            quoted(value.as_str().unwrap_or_default(), out);
            out.push(')');
        }
        ValueKind::String => quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Number => match float(value) {
            Some(x) => out.push_str(&float_repr(x)),
            None => out.push_str(&value.to_string()),
        },
        ValueKind::Seq | ValueKind::Iterable if is_built_in(value) => {
            let is_tuple = value.is_tuple() || is_group(value);
            out.push(if is_tuple { '(' } else { '[' });
            for (i, item) in value.try_iter()?.checked().enumerate() {
                out.push_str(if i == 0 { "" } else { ", " });
                repr(state, &item?, out)?;
            }
            out.push_str(if is_tuple && value.len() == Some(1) {
                ",)"
            } else if is_tuple {
                ")"
            } else {
                "]"
            });
        }
        ValueKind::Map if is_built_in(value) => {
            out.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push_str(if i == 0 { "" } else { ", " });
                repr(state, &key, out)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, out)?;
            }
            out.push('}');
        }
        // An empty string in Python too.
        ValueKind::Undefined => {}
        _ => {
            let _ = write!(out, "{value}");
        }
    }
    pay(state, BYTES_A_STEP + out.len() - before)
}

/// Whether a list or mapping is a plain one, not a special object such as a range, a loop or a macro.
pub(super) fn is_built_in(value: &Value) -> bool {
    value.as_object().is_some_and(|object| {
        let name = object.type_name();
        value.is_tuple() || !name.contains("range") && !is_namespace(value) && !name.contains("Loop")
    })
}

/// Whether it is a pair from `groupby`, which is a tuple in Python.
fn is_group(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::GroupTuple"))
}

/// A namespace of minijinja, whose type is private.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// The number, if it is a float.
pub(super) fn float(value: &Value) -> Option<f64> {
    (value.is_number() && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// `float(value)`.
pub(super) fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None if value.kind() == ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        None => value.is_number().then(|| f64::try_from(value.clone()).ok()).flatten(),
    }
}

/// The shortest digits that round-trip, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_repr(x: f64) -> String {
    if !x.is_finite() {
        let sign = if x.is_sign_negative() && !x.is_nan() { "-" } else { "" };
        return format!("{sign}{}", if x.is_nan() { "nan" } else { "inf" });
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(e) if !(-4..16).contains(&e) => {
            let sign = if e < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", e.unsigned_abs())
        }
        _ => format!("{x:?}"),
    }
}

/// A quoted string, with escapes for unprintable characters.
fn quoted(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        let code = c as u32;
        let _ = match c {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            c if c == quote => write!(out, "\\{c}"),
            c if is_printable(c) => write!(out, "{c}"),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ if code < 0x10000 => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(quote);
}

/// `str.isprintable` of one character.
pub(super) fn is_printable(c: char) -> bool {
    match c.general_category_group() {
        GeneralCategoryGroup::Other => false,
        GeneralCategoryGroup::Separator => c == ' ',
        _ => true,
    }
}

/// JSON formatting options.
pub(super) struct Json {
    ensure_ascii: bool,
    indent: Option<String>,
    between: String,
    after_key: String,
    sort_keys: bool,
}

impl Json {
    /// The arguments of the filter `tojson` of transformers: `ensure_ascii=False, indent=None, separators=None,
    /// sort_keys=False`, by position or by name.
    pub(super) fn of(places: &[Value], named: &Kwargs) -> Result<Self, Error> {
        let names = &["ensure_ascii", "indent", "separators", "sort_keys"];
        let given = Arguments::read("tojson", names, places, named)?;
        let argument = |place| given.get(place).cloned().unwrap_or(Value::from(()));
        let [ensure_ascii, indent, separators, sort_keys] = [0, 1, 2, 3].map(argument);
        let indent = match (indent.as_str(), i64::try_from(indent.clone())) {
            _ if indent.is_none() || indent.is_undefined() => None,
            (Some(text), _) => Some(text.to_owned()),
            (None, Ok(n)) if n > MOST_INDENT => {
                return Err(refuse(format!("tojson: an indent of {n} is more than {MOST_INDENT}")));
            }
            (None, Ok(n)) => Some(" ".repeat(usize::try_from(n).unwrap_or(0))),
            (None, Err(_)) => return Err(refuse("tojson: indent is a number or a text")),
        };
        let (between, after_key) = match separators.is_none() || separators.is_undefined() {
            true => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
            false => {
                let pair: Vec<Value> = separators.try_iter()?.collect();
                match pair.iter().map(Value::as_str).collect::<Option<Vec<_>>>().as_deref() {
                    Some([between, after_key]) => ((*between).to_owned(), (*after_key).to_owned()),
                    _ => return Err(refuse("tojson: separators are two texts")),
                }
            }
        };
        Ok(Json {
            ensure_ascii: ensure_ascii.is_true(),
            indent,
            between,
            after_key,
            sort_keys: sort_keys.is_true(),
        })
    }

    /// `json.dumps(value)`.
    pub(super) fn write(&self, state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(state, value, 0, &mut out)?;
        Ok(out)
    }

    fn value(
        &self,
        state: &State<'_, '_>,
        value: &Value,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        let before = out.len();
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&match float(value) {
                Some(x) if x.is_nan() => "NaN".to_owned(),
                Some(x) if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
                Some(x) => float_repr(x),
                None => value.to_string(),
            }),
            ValueKind::String => self.text(value.as_str().unwrap_or_default(), out),
            // Lists that minijinja joins or repeats lazily call themselves iterable; generators have no length.
            ValueKind::Seq | ValueKind::Iterable if is_built_in(value) && value.len().is_some() => {
                out.push('[');
                let mut is_empty = true;
                for item in value.try_iter()?.checked() {
                    self.item(state, std::mem::take(&mut is_empty), depth + 1, out)?;
                    self.value(state, &item?, depth + 1, out)?;
                }
                self.end(state, is_empty, depth, out)?;
                out.push(']');
            }
            ValueKind::Map if is_built_in(value) => {
                out.push('{');
                let mut keys = value.try_iter()?.collect::<Vec<_>>();
                if self.sort_keys {
                    keys.sort();
                }
                let is_empty = keys.is_empty();
                for (i, key) in keys.iter().enumerate() {
                    self.item(state, i == 0, depth + 1, out)?;
                    self.text(&json_key(key)?, out);
                    out.push_str(&self.after_key);
                    self.value(state, &value.get_item(key)?, depth + 1, out)?;
                }
                self.end(state, is_empty, depth, out)?;
                out.push('}');
            }
            kind => return Err(refuse(format!("tojson: a value of the kind {kind} is not JSON"))),
        }
        pay(state, BYTES_A_STEP + out.len() - before)
    }

    /// The separator before an item.
    fn item(
        &self,
        state: &State<'_, '_>,
        is_first: bool,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        if !is_first {
            out.push_str(&self.between);
        }
        self.line(state, depth, out)
    }

    fn end(
        &self,
        state: &State<'_, '_>,
        is_empty: bool,
        depth: usize,
        out: &mut String,
    ) -> Result<(), Error> {
        if is_empty { Ok(()) } else { self.line(state, depth, out) }
    }

    fn line(&self, state: &State<'_, '_>, depth: usize, out: &mut String) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        pay(state, indent.len().saturating_mul(depth))?;
        out.push('\n');
        out.push_str(&indent.repeat(depth));
        Ok(())
    }

    fn text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            let _ = match c {
                '"' => write!(out, "\\\""),
                '\\' => write!(out, "\\\\"),
                '\n' => write!(out, "\\n"),
                '\r' => write!(out, "\\r"),
                '\t' => write!(out, "\\t"),
                '\u{8}' => write!(out, "\\b"),
                '\u{c}' => write!(out, "\\f"),
                c if (c as u32) < 0x20 => write!(out, "\\u{:04x}", c as u32),
                c if self.ensure_ascii && (c as u32) > 0x7e => {
                    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
                }
                c => write!(out, "{c}"),
            };
        }
        out.push('"');
    }
}

/// No reader needs more, and it is multiplied by the depth.
const MOST_INDENT: i64 = 100;

/// The key of a mapping as written by `json.dumps`.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(float(key).map_or_else(|| key.to_string(), float_repr)),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        kind => Err(refuse(format!("tojson: a key of the kind {kind} is not JSON"))),
    }
}

/// A tuple, which minijinja distinguishes from a list.
pub(super) fn tuple(items: impl IntoIterator<Item = Value>) -> Value {
    Value::from(Tuple::new(items.into_iter().collect()))
}

/// `ascii(text)`: characters beyond ASCII as escapes.
pub(super) fn in_ascii(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c as u32 {
            0..=0x7f => out.push(c),
            code @ 0x80..=0xff => out.push_str(&format!("\\x{code:02x}")),
            code @ 0x100..=0xffff => out.push_str(&format!("\\u{code:04x}")),
            code => out.push_str(&format!("\\U{code:08x}")),
        }
    }
    out
}
