//! `%`, `+` and `*` with Python's semantics.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error as JinjaError, State};

use super::filters;
use super::percent::{self, Values};
use super::python::{float, pay, refuse, tuple};

/// Python's `a + b`: for numbers, strings, lists and tuples.
pub(super) fn add(state: &State<'_, '_>, left: Value, right: Value) -> Result<Value, JinjaError> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        pay(state, a.len() + b.len())?;
        if left.is_safe() || right.is_safe() {
            // As in `Markup`: the unescaped side is escaped.
            pay(state, 5 * (a.len() + b.len()))?;
            let mut out = String::new();
            for (value, text) in [(&left, a), (&right, b)] {
                match value.is_safe() {
                    true => out.push_str(text),
                    false => filters::escape(text, &mut out),
                }
            }
            return Ok(Value::from_safe_string(out));
        }
        return Ok(Value::from([a, b].concat()));
    }
    match (number(&left), number(&right)) {
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => {
            Ok(Value::from(a.checked_add(b).ok_or_else(|| refuse("the sum is too large"))?))
        }
        (Some(a), Some(b)) => Ok(Value::from(a.real() + b.real())),
        _ if is_list(&left) && is_list(&right) && left.is_tuple() == right.is_tuple() => {
            let lengths = [&left, &right].map(|list| list.len().unwrap_or(0) as u64);
            state.consume_fuel(lengths[0].saturating_add(lengths[1]))?;
            let items = left.try_iter()?.checked().chain(right.try_iter()?.checked());
            let mut joined = Vec::new();
            for item in items {
                state.consume_fuel(1)?;
                joined.push(item?);
            }
            Ok(if left.is_tuple() { tuple(joined) } else { Value::from(joined) })
        }
        _ => Err(unsupported("+", &left, &right)),
    }
}

/// Python's `a * b`: for numbers, and for a string, list or tuple and a repetition count.
pub(super) fn multiply(state: &State<'_, '_>, left: Value, right: Value) -> Result<Value, JinjaError> {
    let (repeated, times) = match (number(&left), number(&right)) {
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => {
            return Ok(Value::from(a.checked_mul(b).ok_or_else(|| refuse("the product is too large"))?));
        }
        (Some(a), Some(b)) => return Ok(Value::from(a.real() * b.real())),
        (Some(Number::Whole(times)), None) => (&right, times),
        (None, Some(Number::Whole(times))) => (&left, times),
        _ => return Err(unsupported("*", &left, &right)),
    };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = repeated.as_str() {
        pay(state, text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    if !is_list(repeated) {
        return Err(unsupported("*", &left, &right));
    }
    let items: Vec<Value> = repeated.try_iter()?.checked().collect::<Result<_, _>>()?;
    state.consume_fuel(items.len().saturating_mul(times) as u64)?;
    let is_tuple = repeated.is_tuple();
    let all = items.iter().cycle().take(items.len().saturating_mul(times)).cloned();
    Ok(if is_tuple { tuple(all) } else { all.collect() })
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// Python's `a % b`: for numbers the remainder with the sign of `b`, for a string its format filled in.
pub(super) fn modulo(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, JinjaError> {
    if let Some(format) = left.as_str() {
        let values = match right.is_tuple() {
            true => Values::Many(right.try_iter()?.collect()),
            false => Values::One(right),
        };
        return percent::filled(state, format, &values).map(Value::from);
    }
    match (number(&left), number(&right)) {
        (Some(_), Some(Number::Whole(0))) => Err(refuse("modulo by zero")),
        (Some(Number::Whole(a)), Some(Number::Whole(b))) => {
            let rest = a.checked_rem(b).unwrap_or(0);
            Ok(Value::from(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        (Some(a), Some(b)) => {
            let (a, b) = (a.real(), b.real());
            if b == 0.0 {
                return Err(refuse("float modulo by zero"));
            }
            let rest = a % b;
            Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
        }
        _ => Err(unsupported("%", &left, &right)),
    }
}

/// A number as Python sees it; booleans are 0 and 1.
#[derive(Clone, Copy)]
enum Number {
    Whole(i128),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Number::Whole(x) => x as f64,
            Number::Real(x) => x,
        }
    }
}

fn number(value: &Value) -> Option<Number> {
    match value.kind() {
        ValueKind::Bool => Some(Number::Whole(value.is_true().into())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok().map(Number::Whole),
        _ => float(value).map(Number::Real),
    }
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> JinjaError {
    refuse(format!("`{operator}` cannot join {} and {}", left.kind(), right.kind()))
}
