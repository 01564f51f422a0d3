//! Filters of Jinja2 that minijinja lacks, with Jinja2's results (`filters.py`), and two random ones, which are
//! refused.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};

use super::arguments::Arguments;
use super::methods::{self, is_space};
use super::python::{self, pay, refuse};
use super::wrap;

/// How far a text may exceed the limit before `truncate` cuts it: Jinja2's setting.
const LEEWAY: i64 = 5;

pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("truncate", truncate);
    environment.add_filter("striptags", striptags);
    environment.add_filter("wordwrap", wrap::wordwrap);
    environment.add_filter("filesizeformat", filesizeformat);
    environment.add_filter("xmlattr", xmlattr);
    environment.add_filter("wordcount", |state: &State<'_, '_>, value: Value| {
        let text = python::str(state, &value)?;
        pay(state, text.len())?;
        Ok::<_, Error>(text.split(|c| !wrap::is_word(c)).filter(|word| !word.is_empty()).count())
    });
    environment.add_filter("center", |state: &mut State<'_, '_>, value: Value, width: Option<i64>| {
        let text = Value::from(python::str(state, &value)?);
        methods::call(state, &text, "center", &[Value::from(width.unwrap_or(80))])
    });
    environment.add_filter("forceescape", |state: &State<'_, '_>, value: Value| {
        let text = python::str(state, &value)?;
        pay(state, 5 * text.len())?;
        let mut out = String::new();
        escape(&text, &mut out);
        Ok::<_, Error>(Value::from_safe_string(out))
    });
    environment.add_filter("dictsort", |value: Value, places: Rest<Value>, named: Kwargs| {
        let given = Arguments::read("dictsort", &["case_sensitive", "by", "reverse"], &places, &named)?;
        let by = given.text(1)?.unwrap_or("key").to_owned();
        let wishes =
            [("case_sensitive", given.is_true(0, false).into()), ("reverse", given.is_true(2, false).into())];
        let wishes = wishes.into_iter().chain([("by", Value::from(by))]);
        minijinja::filters::dictsort(&value, wishes.collect::<Kwargs>())
    });
    environment.add_filter("urlencode", urlencode);
    // An attribute is not a key.
    environment.add_filter("attr", |value: Value, name: Value| match value.kind() {
        ValueKind::Map if python::is_built_in(&value) => Ok(Value::UNDEFINED),
        _ => value.get_item(&name),
    });
    environment.add_filter("pprint", |_: Value| {
        Err::<Value, _>(refuse("the filter `pprint` is not built; `tojson` writes values on several lines"))
    });
    environment.add_filter("random", |_: Value| {
        Err::<Value, _>(refuse(
            "the filter `random` draws a new text each time, but prompts must be reproducible",
        ))
    });
    environment.add_function("lipsum", |_: Rest<Value>, _: Kwargs| {
        Err::<Value, _>(refuse("`lipsum` draws a new text each time, but prompts must be reproducible"))
    });
}

/// `text|truncate(length, killwords, end, leeway)`.
fn truncate(state: &State<'_, '_>, value: Value, places: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let given = Arguments::read("truncate", &["length", "killwords", "end", "leeway"], &places, &named)?;
    let length = given.whole(0, 255)?;
    let end = given.text(2)?.unwrap_or("...");
    let end_length = i64::try_from(end.chars().count()).unwrap_or(i64::MAX);
    let leeway = match given.get(3) {
        Some(value) if !value.is_none() => given.whole(3, LEEWAY)?,
        _ => LEEWAY,
    };
    if length < end_length || leeway < 0 {
        return Err(refuse(format!(
            "truncate: a length of {length} is less than that of the end, or leeway is below 0"
        )));
    }
    let text = python::text(&value, "truncate")?;
    pay(state, text.len() + end.len())?;
    let kept = length - end_length;
    let characters = text.chars().take(usize::try_from(length.saturating_add(leeway)).unwrap_or(usize::MAX));
    if characters.map(char::len_utf8).sum::<usize>() == text.len() {
        return Ok(value);
    }
    let cut = text.char_indices().nth(usize::try_from(kept).unwrap_or(0)).map_or(text.len(), |(at, _)| at);
    let mut whole = &text[..cut];
    if !given.is_true(1, false) {
        whole = whole.rsplit_once(' ').map_or(whole, |(before, _)| before);
    }
    Ok(Value::from(format!("{whole}{end}")))
}

/// `value|striptags`, as `Markup.striptags`: comments and tags are removed, white space becomes one space, references
/// become characters.
fn striptags(state: &State<'_, '_>, value: Value) -> Result<String, Error> {
    let text = python::str(state, &value)?;
    pay(state, 4 * text.len())?;
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text.as_str());
    while let Some(start) = rest.find('<') {
        let (behind, close) = match rest[start..].starts_with("<!--") {
            true => (start + 4, "-->"),
            false => (start, ">"),
        };
        // An unclosed tag stays, with everything after it.
        let Some(end) = rest[behind..].find(close) else { break };
        kept.push_str(&rest[..start]);
        rest = &rest[behind + end + close.len()..];
    }
    kept.push_str(rest);
    let words: Vec<&str> = kept.split(is_space).filter(|word| !word.is_empty()).collect();
    Ok(unescaped(&words.join(" ")))
}

/// `html.unescape`: numbers as in Python, names as in HTML.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("&#") {
        out.push_str(&htmlize::unescape(&rest[..at]));
        let body = &rest[at + 2..];
        let (digits, base) = match body.strip_prefix(['x', 'X']) {
            Some(digits) => (digits, 16),
            None => (body, 10),
        };
        let length = digits.find(|c: char| !c.is_digit(base)).unwrap_or(digits.len());
        if length == 0 {
            out.push_str("&#");
            rest = body;
            continue;
        }
        let number = digits[..length]
            .chars()
            .try_fold(0u32, |sum, c| sum.checked_mul(base)?.checked_add(c.to_digit(base)?));
        character(number, &mut out);
        rest = digits[length..].strip_prefix(';').unwrap_or(&digits[length..]);
    }
    out.push_str(&htmlize::unescape(rest));
    out
}

/// The character with this number; none for those that HTML forbids, as in Python.
fn character(number: Option<u32>, out: &mut String) {
    match number {
        Some(0x0d) => out.push('\r'),
        Some(code @ 0x80..=0x9f) => out.push_str(&htmlize::unescape(format!("&#{code};").as_str())),
        Some(0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef) => {}
        Some(code) if code <= 0x0010_ffff && code & 0xfffe == 0xfffe => {}
        Some(code) => out.push(char::from_u32(code).filter(|&c| c != '\0').unwrap_or('\u{fffd}')),
        None => out.push('\u{fffd}'),
    }
}

/// `value|filesizeformat(binary)`: `1.3 MB`.
fn filesizeformat(value: Value, places: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let given = Arguments::read("filesizeformat", &["binary"], &places, &named)?;
    let is_binary = given.is_true(0, false);
    let bytes = python::number(&value).ok_or_else(|| {
        refuse(format!("filesizeformat takes a number, not a value of the kind {}", value.kind()))
    })?;
    let base: u32 = if is_binary { 1024 } else { 1000 };
    if bytes == 1.0 {
        return Ok("1 Byte".to_owned());
    }
    if bytes < f64::from(base) {
        return match bytes.is_finite() {
            true => Ok(format!("{} Bytes", bytes.trunc() + 0.0)),
            false => Err(refuse(format!("filesizeformat: {bytes} is not a number of bytes"))),
        };
    }
    let prefixes = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
    let unit = |i: usize| u128::from(base).pow(u32::try_from(i).unwrap_or(0) + 2) as f64;
    let i = (0..prefixes.len()).find(|&i| bytes < unit(i)).unwrap_or(prefixes.len() - 1);
    let size = f64::from(base) * bytes / unit(i);
    let (size, prefix) = (fixed(size), prefixes[i]);
    Ok(match (is_binary, prefix) {
        (true, "k") => format!("{size} KiB"),
        (true, _) => format!("{size} {prefix}iB"),
        (false, _) => format!("{size} {prefix}B"),
    })
}

/// `value|urlencode`: a string, or pairs as a URL's query.
fn urlencode(state: &State<'_, '_>, value: Value) -> Result<String, Error> {
    let quoted = |value: &Value| {
        let text = python::str(state, value)?;
        pay(state, 3 * text.len())?;
        Ok::<_, Error>(minijinja::filters::urlencode(&Value::from(text))?.replace("%7E", "~"))
    };
    let for_query = |value: &Value| Ok::<_, Error>(quoted(value)?.replace('/', "%2F").replace("%20", "+"));
    let is_mapping = value.kind() == ValueKind::Map;
    if !is_mapping && !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return quoted(&value);
    }
    let mut pairs = Vec::new();
    for item in value.try_iter()?.checked() {
        let item = item?;
        let (key, one) = match is_mapping {
            true => (item.clone(), value.get_item(&item)?),
            false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
        };
        pairs.push(format!("{}={}", for_query(&key)?, for_query(&one)?));
    }
    Ok(pairs.join("&"))
}

/// Python's `{:.1f}`.
fn fixed(x: f64) -> String {
    if x.is_finite() { format!("{x:.1}") } else { python::float_repr(x) }
}

/// `mapping|xmlattr(autospace)`: ` class="a" id="b"`.
fn xmlattr(state: &State<'_, '_>, value: Value, places: Rest<Value>, named: Kwargs) -> Result<String, Error> {
    let given = Arguments::read("xmlattr", &["autospace"], &places, &named)?;
    if value.kind() != ValueKind::Map {
        return Err(refuse(format!("xmlattr takes a mapping, not a value of the kind {}", value.kind())));
    }
    let mut out = String::new();
    for key in value.try_iter()?.checked() {
        let key = key?;
        let one = value.get_item(&key)?;
        if one.is_none() || one.is_undefined() {
            continue;
        }
        let name = python::text(&key, "the name of an attribute of xmlattr")?;
        if name.contains([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', '/', '>', '=']) {
            return Err(refuse(format!("xmlattr: {name:?} cannot be the name of an attribute")));
        }
        let text = python::str(state, &one)?;
        pay(state, 64 + 5 * (name.len() + text.len()))?;
        out.push_str(if out.is_empty() { "" } else { " " });
        escape(name, &mut out);
        out.push_str("=\"");
        match one.is_safe() {
            true => out.push_str(&text),
            false => escape(&text, &mut out),
        }
        out.push('"');
    }
    let blank = if given.is_true(0, true) && !out.is_empty() { " " } else { "" };
    Ok(format!("{blank}{out}"))
}

pub(super) fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            c => out.push(c),
        }
    }
}
