//! Python's `%` format: `"%s has %5.1f %r" % values`. minijinja writes the numbers.

use minijinja::formatting::FormatStyle;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, State};

use super::python::{self, pay, refuse, str, text};

/// No text for a model has a column this wide.
pub(super) const WIDEST: usize = 10_000;

/// The filter `format`: `format|format(values…)`, or with names.
pub(super) fn format(
    state: &mut State<'_, '_>,
    value: Value,
    places: Rest<Value>,
    named: Kwargs,
) -> Result<String, Error> {
    let names: Vec<&str> = named.args().collect();
    if !names.is_empty() && !places.is_empty() {
        return Err(refuse("format takes values by place or by name, not both"));
    }
    let format = text(&value, "format")?;
    if names.is_empty() {
        return filled(state, format, &Values::Many(places.to_vec()));
    }
    let pairs = names.iter().map(|name| Ok((Value::from(*name), named.get::<Value>(name)?)));
    let values = super::values::mapping(pairs.collect::<Result<Vec<_>, Error>>()?);
    filled(state, format, &Values::One(values))
}

/// The right side of `%`.
pub(super) enum Values {
    /// A tuple.
    Many(Vec<Value>),
    /// Anything else: one value, or a mapping.
    One(Value),
}

impl Values {
    fn get(&self, number: usize) -> Result<&Value, Error> {
        let found = match self {
            Values::Many(values) => values.get(number),
            Values::One(value) => Some(value).filter(|_| number == 0),
        };
        found.ok_or_else(|| refuse("there are not enough values for the format"))
    }
}

/// One directive: `%(key)-5.1f`.
struct Directive<'a> {
    key: Option<&'a str>,
    flags: &'a str,
    width: Option<usize>,
    precision: Option<usize>,
    kind: char,
}

/// `format % values`.
pub(super) fn filled(state: &mut State<'_, '_>, format: &str, values: &Values) -> Result<String, Error> {
    pay(state, format.len())?;
    let (mut out, mut rest, mut used) = (String::new(), format, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        let (directive, length) = read(&rest[at + 1..], values, &mut used)?;
        rest = &rest[at + 1 + length..];
        if directive.kind == '%' && length == 1 {
            out.push('%');
            continue;
        }
        let value = match (directive.key, values) {
            (Some(key), Values::One(mapping)) if mapping.kind() == ValueKind::Map => {
                let found = mapping.get_item(&Value::from(key)).ok().filter(|value| !value.is_undefined());
                found.ok_or_else(|| refuse(format!("the mapping has no key `{key}` of the format")))?
            }
            (Some(_), _) => return Err(refuse("a format with names takes a mapping")),
            (None, _) => {
                used += 1;
                values.get(used - 1)?.clone()
            }
        };
        let written = directive.write(state, &value)?;
        pay(state, 64 + written.len())?;
        out.push_str(&written);
    }
    out.push_str(rest);
    let surplus = match values {
        Values::Many(values) => used < values.len(),
        // A mapping or a list need not be used.
        Values::One(value) => {
            used == 0 && !matches!(value.kind(), ValueKind::Map | ValueKind::Seq | ValueKind::Iterable)
        }
    };
    if surplus {
        return Err(refuse("not all values are read by the format"));
    }
    Ok(out)
}

/// Parses the directive after a `%`, and returns its length.
fn read<'a>(text: &'a str, values: &Values, used: &mut usize) -> Result<(Directive<'a>, usize), Error> {
    let mut at = 0;
    let mut key = None;
    if text.starts_with('(') {
        let mut depth = 0;
        let end = text.char_indices().find_map(|(i, c)| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            (depth == 0).then_some(i)
        });
        let end = end.ok_or_else(|| refuse("a name in the format is not closed"))?;
        key = Some(&text[1..end]);
        at = end + 1;
    }
    let flags = text[at..].bytes().take_while(|byte| b"#0- +".contains(byte)).count();
    let flags = &text[at..at + flags];
    at += flags.len();
    let mut number = |at: &mut usize| -> Result<Option<i64>, Error> {
        if text[*at..].starts_with('*') {
            *at += 1;
            *used += 1;
            let value = values.get(*used - 1)?;
            let read = value.is_integer().then(|| i64::try_from(value.clone()).ok()).flatten();
            return read.map(Some).ok_or_else(|| refuse("`*` of a format takes a whole number"));
        }
        let digits = text[*at..].bytes().take_while(u8::is_ascii_digit).count();
        let read = &text[*at..*at + digits];
        *at += digits;
        Ok((digits > 0).then(|| read.parse().unwrap_or(i64::MAX)))
    };
    let width = number(&mut at)?;
    let precision = match text[at..].starts_with('.') {
        true => {
            at += 1;
            Some(number(&mut at)?.unwrap_or(0))
        }
        false => None,
    };
    // A negative width, possible only with `*`, pads on the right.
    let flags = if width.is_some_and(|width| width < 0) { "-" } else { flags };
    let within = |n: i64| match usize::try_from(n.unsigned_abs()) {
        Ok(n) if n <= WIDEST => Ok(n),
        _ => Err(refuse(format!("format: a width of {n} is more than {WIDEST}"))),
    };
    let width = width.map(within).transpose()?;
    let precision = precision.map(|n| within(n.max(0))).transpose()?;
    if text[at..].starts_with(['h', 'l', 'L']) {
        at += 1;
    }
    let kind = text[at..].chars().next().ok_or_else(|| refuse("the format ends within a directive"))?;
    Ok((Directive { key, flags, width, precision, kind }, at + kind.len_utf8()))
}

impl Directive<'_> {
    fn write(&self, state: &mut State<'_, '_>, value: &Value) -> Result<String, Error> {
        let is_truth = value.kind() == ValueKind::Bool;
        let is_whole = value.is_integer() || is_truth;
        let plain = if is_truth { Value::from(i64::from(value.is_true())) } else { value.clone() };
        match self.kind {
            's' => Ok(self.as_text(&str(state, value)?)),
            'r' | 'a' => {
                let mut text = String::new();
                python::repr(state, value, &mut text)?;
                if self.kind == 'a' {
                    text = python::in_ascii(&text);
                }
                Ok(self.as_text(&text))
            }
            'd' | 'i' | 'u' if plain.is_number() => {
                // Fractions are truncated.
                let whole = match python::float(&plain) {
                    Some(x) if x.is_finite() && x.abs() < 1e18 => Value::from(x.trunc() as i64),
                    Some(x) => return Err(refuse(format!("{x} is not a whole number for `%{}`", self.kind))),
                    None => plain,
                };
                self.by_minijinja('d', whole)
            }
            'x' | 'X' | 'o' if is_whole => self.by_minijinja(self.kind, plain),
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match python::number(&plain) {
                Some(x) if value.as_str().is_none() => self.by_minijinja(self.kind, Value::from(x)),
                _ => Err(self.unlike(value)),
            },
            'c' if is_whole || value.as_str().is_some() => {
                let character = Directive { width: None, precision: None, flags: "", ..*self };
                Ok(self.as_text(&character.by_minijinja('c', plain)?))
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'c' => Err(self.unlike(value)),
            kind => Err(refuse(format!("`%{kind}` is not a directive of a format"))),
        }
    }

    /// A string, measured in characters.
    fn as_text(&self, text: &str) -> String {
        let end = self.precision.and_then(|precision| text.char_indices().nth(precision));
        let text = end.map_or(text, |(end, _)| &text[..end]);
        let align = if self.flags.contains('-') { '<' } else { '>' };
        python::aligned(text, self.width.unwrap_or(0), ' ', align)
    }

    fn by_minijinja(&self, kind: char, value: Value) -> Result<String, Error> {
        let width = self.width.map(|width| width.to_string()).unwrap_or_default();
        let precision = self.precision.map(|precision| format!(".{precision}")).unwrap_or_default();
        let directive = format!("%{}{width}{precision}{kind}", self.flags);
        minijinja::formatting::format(FormatStyle::Printf, &directive, &[value])
    }

    fn unlike(&self, value: &Value) -> Error {
        refuse(format!(
            "`%{}` of a format takes a number, not a value of the kind {}",
            self.kind,
            value.kind()
        ))
    }
}
