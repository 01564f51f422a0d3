//! Python's `str.format`: `"{} has {name!r:>5} {list[0]}".format(…)`. minijinja writes the numbers.

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, State};

use super::percent::WIDEST;
use super::python::{aligned, in_ascii, pay, refuse, repr, str};

/// The values for fields, by position and by name.
pub(super) struct Fields<'a> {
    pub(super) places: &'a [Value],
    pub(super) named: Option<Value>,
    next: usize,
}

impl<'a> Fields<'a> {
    /// The arguments of `format`.
    pub(super) fn of(arguments: &'a [Value]) -> Result<Self, Error> {
        match arguments.split_last() {
            Some((last, places)) if last.is_kwargs() => {
                let named = Kwargs::try_from(last.clone())?;
                let pairs = named.args().map(|name| Ok((Value::from(name), named.get::<Value>(name)?)));
                let named = super::values::mapping(pairs.collect::<Result<Vec<_>, Error>>()?);
                Ok(Fields { places, named: Some(named), next: 0 })
            }
            _ => Ok(Fields { places: arguments, named: None, next: 0 }),
        }
    }

    /// The mapping of `format_map`.
    pub(super) fn of_mapping(mapping: Value) -> Self {
        Fields { places: &[], named: Some(mapping), next: 0 }
    }

    /// The value of `name.attribute[key]`; an empty name means the next position.
    fn get(&mut self, field: &str) -> Result<Value, Error> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut path) = field.split_at(end);
        let missing = || refuse(format!("format: there is no value for {{{field}}}"));
        let mut value = match (name, name.parse::<usize>()) {
            ("", _) => {
                self.next += 1;
                self.places.get(self.next - 1).cloned()
            }
            (_, Ok(place)) => self.places.get(place).cloned(),
            _ => self.named.as_ref().and_then(|named| named.get_item(&Value::from(name)).ok()),
        }
        .filter(|value| !value.is_undefined() || name.is_empty())
        .ok_or_else(missing)?;
        while !path.is_empty() {
            let key = match path.strip_prefix('[') {
                Some(rest) => {
                    let end = rest.find(']').ok_or_else(missing)?;
                    path = &rest[end + 1..];
                    let key = &rest[..end];
                    key.parse::<u32>().map_or_else(|_| Value::from(key), Value::from)
                }
                None => {
                    let rest = path.strip_prefix('.').ok_or_else(missing)?;
                    let end = rest.find(['.', '[']).unwrap_or(rest.len());
                    path = &rest[end..];
                    Value::from(&rest[..end])
                }
            };
            value = value.get_item(&key)?;
            if value.is_undefined() {
                return Err(missing());
            }
        }
        Ok(value)
    }
}

/// `format.format(fields)`.
pub(super) fn filled(state: &State<'_, '_>, format: &str, fields: &mut Fields<'_>) -> Result<String, Error> {
    pay(state, format.len())?;
    let (mut out, mut rest) = (String::new(), format);
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        let end = end_of_field(rest).filter(|_| brace == "{");
        let end = end.ok_or_else(|| refuse(format!("format: a `{brace}` stands alone")))?;
        let written = field(state, &rest[..end], fields)?;
        pay(state, 64 + written.len())?;
        out.push_str(&written);
        rest = &rest[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// The end of the field that begins here; its format may contain a field of its own.
fn end_of_field(text: &str) -> Option<usize> {
    let mut depth = 0;
    text.char_indices().find_map(|(at, c)| {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(at),
            '}' => depth -= 1,
            _ => {}
        }
        None
    })
}

/// One field: `name!conversion:format`.
fn field(state: &State<'_, '_>, text: &str, fields: &mut Fields<'_>) -> Result<String, Error> {
    // Brackets may contain either sign.
    let bracket = text.find(']').map_or(0, |at| at + 1);
    let end = text[bracket..].find(['!', ':']).map_or(text.len(), |at| bracket + at);
    let (name, rest) = text.split_at(end);
    let value = fields.get(name)?;
    let (conversion, rest) = match rest.strip_prefix('!') {
        Some(after) => after.split_at(after.find(':').unwrap_or(after.len())),
        None => ("", rest),
    };
    let mut spec = rest.strip_prefix(':').unwrap_or(rest).to_owned();
    if spec.contains('{') {
        let within = spec.replace("{}", "").matches('{').count() + spec.matches("{}").count();
        if within > 8 || spec.contains("{{") {
            return Err(refuse("format: a format within a format holds names alone"));
        }
        spec = filled(state, &spec, fields)?;
    }
    let widths = spec.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    if let Some(width) = widths.into_iter().find(|n| n.parse().map_or(true, |n: usize| n > WIDEST)) {
        return Err(refuse(format!("format: a width of {width} is more than {WIDEST}")));
    }
    let value = match conversion {
        "" if spec.is_empty() => return str(state, &value),
        "" => value,
        "s" => Value::from(str(state, &value)?),
        "r" | "a" => {
            let mut written = String::new();
            repr(state, &value, &mut written)?;
            Value::from(if conversion == "a" { in_ascii(&written) } else { written })
        }
        _ => return Err(refuse(format!("format: there is no conversion `!{conversion}`"))),
    };
    if !matches!(value.kind(), ValueKind::Number | ValueKind::String | ValueKind::Bool) {
        let kind = value.kind();
        return Err(refuse(format!("format: a value of the kind {kind} takes no format, and has `{spec}`")));
    }
    // minijinja counts bytes.
    if let Some(written) =
        value.as_str().filter(|text| !text.is_ascii()).and_then(|text| text_as(&spec, text))
    {
        return Ok(written);
    }
    minijinja::formatting::format(FormatStyle::StrFormat, &format!("{{:{spec}}}"), &[value])
}

/// A string in the format `[[fill]align][0][width][.precision][s]`; `None` if the format is not for strings.
fn text_as(spec: &str, text: &str) -> Option<String> {
    let mut chars = spec.chars();
    let is_align = |c: char| "<>^".contains(c);
    let (first, second) = (chars.next(), chars.next());
    let (fill, align, rest) = match (first, second) {
        (Some(fill), Some(align)) if is_align(align) => {
            (fill, align, &spec[fill.len_utf8() + align.len_utf8()..])
        }
        (Some(align), _) if is_align(align) => (' ', align, &spec[1..]),
        _ if spec.starts_with('0') => ('0', '<', spec),
        _ => (' ', '<', spec),
    };
    let rest = rest.strip_suffix('s').unwrap_or(rest);
    let (width, precision) = match rest.split_once('.') {
        Some((width, precision)) => (width, Some(precision.parse::<usize>().ok()?)),
        None => (rest, None),
    };
    let width = if width.is_empty() { 0 } else { width.parse::<usize>().ok()? };
    let end = precision.and_then(|precision| text.char_indices().nth(precision));
    Some(aligned(end.map_or(text, |(end, _)| &text[..end]), width, fill, align))
}
