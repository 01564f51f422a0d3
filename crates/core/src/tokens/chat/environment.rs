//! The environment that transformers gives its templates (`_compile_jinja_template` of `utils/chat_template_utils.py`):
//! Jinja2's, with its own `tojson`, `raise_exception` and `strftime_now`. Where minijinja differs from Python, Python's
//! behaviour applies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error as JinjaError, State, tests};

use super::arguments::Arguments;
use super::day::LocalTime;
use super::python::pay;
use super::python::{self, Json, float, is_namespace, refuse};
use super::{arithmetic, filters, macros, methods, percent, values};
use crate::error::{Error, ErrorKind, Result};

/// Text for a model is never indented by more.
const WIDEST_INDENT: usize = 1000;
/// Limit on the nesting of lists and mappings that a template carries along.
const DEEPEST: usize = 200;

/// The time for templates, and whether one asked for it.
#[derive(Debug, Clone)]
pub(super) struct Clock {
    now: LocalTime,
    asked: Arc<AtomicBool>,
}

impl Clock {
    pub(super) fn new(now: LocalTime) -> Self {
        Clock { now, asked: Arc::default() }
    }

    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// The settings, functions, filters and tests.
pub(super) fn environment(clock: &Clock) -> Result<Environment<'static>> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.map_err(|e| Error::new(ErrorKind::Tokenizer, e.to_string()))?);
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| {
        let written = match value.as_str() {
            Some(text) => out.write_str(text),
            None => out.write_str(&python::str(state, value)?),
        };
        written.map_err(|_| refuse("the output is full"))
    });
    add_functions(&mut environment, clock);
    add_filters(&mut environment);
    add_tests(&mut environment);
    Ok(environment)
}

fn add_functions(environment: &mut Environment<'_>, clock: &Clock) {
    environment.add_function("raise_exception", |state: &State<'_, '_>, message: Value| {
        Err::<Value, _>(refuse(python::str(state, &message)?))
    });
    let clock = clock.clone();
    environment.add_function("strftime_now", move |state: &State<'_, '_>, format: Value| {
        let format = python::text(&format, "strftime_now")?;
        clock.asked.store(true, Ordering::Relaxed);
        // A directive of two bytes produces at most two dozen.
        pay(state, 16 * format.len())?;
        Ok::<_, JinjaError>(clock.now.strftime(format))
    });
    environment.add_function("dict", |state: &State<'_, '_>, first: Option<Value>, named: Kwargs| {
        dict(state, first, &named)
    });
    environment.add_function("cycler", values::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
}

fn add_filters(environment: &mut Environment<'_>) {
    filters::add(environment);
    environment.add_filter(
        "tojson",
        |state: &State<'_, '_>, value: Value, places: Rest<Value>, named: Kwargs| {
            Json::of(&places, &named)?.write(state, &value)
        },
    );
    environment.add_filter("string", |state: &State<'_, '_>, value: Value| match value.as_str() {
        Some(_) => Ok(value),
        None => python::str(state, &value).map(Value::from),
    });
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("python_modulo", arithmetic::modulo);
    environment.add_filter("python_add", arithmetic::add);
    environment.add_filter("python_multiply", arithmetic::multiply);
    environment.add_filter("without_namespaces", without_namespaces);
    environment.add_filter("characters", |state: &State<'_, '_>, value: Value| match value.as_str() {
        Some(text) => {
            pay(state, 64 * text.len())?;
            Ok(text.chars().map(Value::from).collect())
        }
        None if value.is_none() => Err(refuse("a `for` runs over none, which is not iterable")),
        None => Ok::<_, JinjaError>(value),
    });
    environment.add_filter("python_macro", macros::wrapped);
    environment.add_filter("format", percent::format);
    environment.add_filter("int", |value: Value, places: Rest<Value>, named: Kwargs| {
        let given = Arguments::read("int", &["default", "base"], &places, &named)?;
        let base = u32::try_from(given.whole(1, 10)?).unwrap_or(u32::MAX);
        let otherwise = given.get(0).cloned().unwrap_or(Value::from(0));
        Ok::<_, JinjaError>(whole(&value, base).unwrap_or(otherwise))
    });
    environment.add_filter("float", |value: Value, places: Rest<Value>, named: Kwargs| {
        let given = Arguments::read("float", &["default"], &places, &named)?;
        let otherwise = given.get(0).cloned();
        let text = value.as_str().map(str::trim).map(str::to_ascii_lowercase);
        let read = match text {
            Some(text) => text.parse::<f64>().ok(),
            None => f64::try_from(value).ok(),
        };
        Ok::<_, JinjaError>(read.map(Value::from).unwrap_or(otherwise.unwrap_or(Value::from(0.0))))
    });
}

fn add_tests(environment: &mut Environment<'_>) {
    environment.add_test("sequence", |value: &Value| {
        value.is_undefined() || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map)
    });
    environment.add_test("callable", |value: &Value| {
        value.as_object().is_some() && matches!(value.kind(), ValueKind::Plain) || is_macro(value)
    });
    environment.add_test("sameas", |value: &Value, other: &Value| {
        value == other && value.kind() == other.kind() && value.is_integer() == other.is_integer()
    });
    // These look at each character without counting a step.
    for (name, test) in [("lower", tests::is_lower as fn(&Value) -> bool), ("upper", tests::is_upper)] {
        environment.add_test(name, move |state: &State<'_, '_>, value: &Value| {
            pay(state, value.as_str().map_or(0, str::len))?;
            Ok::<_, JinjaError>(test(value))
        });
    }
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
}

fn is_macro(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().contains("Macro"))
}

/// `dict(mapping or pairs, name=value, …)`.
fn dict(state: &State<'_, '_>, first: Option<Value>, named: &Kwargs) -> Result<Value, JinjaError> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    if let Some(first) = first {
        let is_mapping = first.kind() == ValueKind::Map;
        for item in first.try_iter()?.checked() {
            let item = item?;
            state.consume_fuel(2)?;
            match is_mapping {
                true => pairs.push((item.clone(), first.get_item(&item)?)),
                false => pairs.push((item.get_item_by_index(0)?, item.get_item_by_index(1)?)),
            }
        }
    }
    for name in named.args() {
        pairs.push((Value::from(name), named.get(name)?));
    }
    Ok(values::mapping(pairs))
}

/// `int(value)`, from a string in this base or via a float; `None` if it is not a number.
fn whole(value: &Value, base: u32) -> Option<Value> {
    let of_float = |x: f64| (x.is_finite() && x.abs() < 1e18).then(|| Value::from(x.trunc() as i64));
    let Some(text) = value.as_str() else {
        return match float(value) {
            Some(x) => of_float(x),
            None => i64::try_from(value.clone()).ok().map(Value::from),
        };
    };
    let text = text.trim().replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let prefixes = [("0x", 16), ("0o", 8), ("0b", 2)];
    let named = prefixes.iter().find(|(prefix, of)| digits.starts_with(prefix) && (base == *of || base == 0));
    let (digits, base) = match named {
        Some((prefix, of)) => (&digits[prefix.len()..], *of),
        None => (digits, if base == 0 { 10 } else { base }),
    };
    let read = (2..=36).contains(&base).then(|| i64::from_str_radix(digits, base).ok()).flatten();
    read.map(|n| Value::from(sign * n)).or_else(|| text.parse().ok().and_then(of_float))
}

/// `value|join(between, attribute=name)`, with each item formatted by `str`.
fn join(
    state: &mut State<'_, '_>,
    value: Value,
    between: Option<Value>,
    named: Kwargs,
) -> Result<String, JinjaError> {
    let between = match between {
        Some(between) => between,
        None => named.get::<Option<Value>>("d")?.unwrap_or_else(|| Value::from("")),
    };
    let between = python::text(&between, "join")?;
    let items = match named.get::<Option<Value>>("attribute")? {
        Some(name) => {
            let attribute = Value::from(Kwargs::from_iter([("attribute", name)]));
            state.apply_filter("map", &[value, attribute])?
        }
        None => value,
    };
    named.assert_all_used()?;
    let mut out = String::new();
    for (i, item) in items.try_iter()?.checked().enumerate() {
        let item = item?;
        let text = python::str(state, &item)?;
        pay(state, 64 + between.len() + text.len())?;
        out.push_str(if i == 0 { "" } else { between });
        out.push_str(&text);
    }
    Ok(out)
}

/// `text|indent(width, first, blank)`: indents each line except the first and blank ones, unless requested.
fn indent(
    state: &State<'_, '_>,
    text: Value,
    places: Rest<Value>,
    named: Kwargs,
) -> Result<String, JinjaError> {
    let text = python::text(&text, "indent")?;
    let given = Arguments::read("indent", &["width", "first", "blank"], &places, &named)?;
    let (width, first, blank) = (given.get(0), given.is_true(1, false), given.is_true(2, false));
    let indent = match width {
        None => " ".repeat(4),
        Some(width) => match (width.as_str(), usize::try_from(width.clone())) {
            (Some(text), _) => text.to_owned(),
            (None, Ok(n)) if n <= WIDEST_INDENT => " ".repeat(n),
            _ => return Err(refuse(format!("indent: a width is a text, or a number up to {WIDEST_INDENT}"))),
        },
    };
    let mut out = String::new();
    for (i, line) in text.split('\n').enumerate() {
        pay(state, 64 + indent.len() + line.len())?;
        out.push_str(if i == 0 { "" } else { "\n" });
        let is_indented = if i == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if is_indented { &indent } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// The value, if it may be put into a namespace: it contains no namespace and is not nested deeply.
fn without_namespaces(state: &State<'_, '_>, value: Value) -> Result<Value, JinjaError> {
    fn look(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), JinjaError> {
        if is_namespace(value) {
            return Err(refuse("a namespace cannot hold a namespace"));
        }
        if depth > DEEPEST {
            return Err(refuse(format!("a value lies in more than {DEEPEST} others")));
        }
        if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map) {
            return Ok(());
        }
        // Before walking anything: a list may be far longer than what it was made from.
        state.consume_fuel(value.len().unwrap_or(0) as u64)?;
        for item in value.try_iter()?.checked() {
            let item = item?;
            state.consume_fuel(1)?;
            look(state, &item, depth + 1)?;
            if value.kind() == ValueKind::Map {
                look(state, &value.get_item(&item)?, depth + 1)?;
            }
        }
        Ok(())
    }
    look(state, &value, 0)?;
    Ok(value)
}
