//! YAML configurations as JSON values: mappings, lists and scalars.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Limit on nesting.
const DEEPEST: usize = 16;
/// Limit on the values in a file.
const MOST: usize = 100_000;

/// Reads one document. Anchors, aliases and tags are refused: a configuration needs none, and aliases can expand a
/// small file beyond all memory.
///
/// # Errors
/// A description of the error.
pub fn read(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    let mut count = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| format!("is not valid YAML: {e}"))?;
        let line = span.start.line();
        count += 1;
        if count > MOST {
            return Err(format!("has more than {MOST} values"));
        }
        let ended = match event {
            Event::Alias(_) => return Err(format!("line {line}: aliases are not read")),
            Event::Scalar(text, style, anchor, tag) => {
                if anchor != 0 || tag.is_some() {
                    return Err(format!("line {line}: anchors and tags are not read"));
                }
                Some(scalar(&text, style))
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag)
                if anchor != 0 || tag.is_some() =>
            {
                return Err(format!("line {line}: anchors and tags are not read"));
            }
            Event::SequenceStart(..) => {
                open.push(Open::List(Vec::new()));
                None
            }
            Event::MappingStart(..) => {
                open.push(Open::Map(Map::new(), None));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(items)) => Some(Value::Array(items)),
                Some(Open::Map(map, _)) => Some(Value::Object(map)),
                None => None,
            },
            _ => None,
        };
        if open.len() > DEEPEST {
            return Err(format!("line {line}: nested more than {DEEPEST} deep"));
        }
        let Some(value) = ended else { continue };
        match open.last_mut() {
            None if root.is_some() => return Err("holds more than one document".to_owned()),
            None => root = Some(value),
            Some(Open::List(items)) => items.push(value),
            Some(Open::Map(map, key)) => match key.take() {
                None => *key = Some(key_of(value, line)?),
                Some(name) => {
                    if map.contains_key(&name) {
                        return Err(format!("line {line}: the key `{}` appears twice", name.escape_debug()));
                    }
                    map.insert(name, value);
                }
            },
        }
    }
    root.ok_or_else(|| "is empty".to_owned())
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

fn key_of(value: Value, line: usize) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("line {line}: a key that is not text")),
    }
}

/// A plain scalar, by YAML's core schema.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    let is_number = text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let number = text.parse::<f64>().ok().filter(|_| is_number).and_then(Number::from_f64);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Number)
}

#[cfg(test)]
mod tests {
    use super::read;
    use serde_json::json;

    #[test]
    fn a_configuration_is_read_as_json() {
        let text =
            "a: \"x/y\"\nb: 1\nc: 2.5\nlist:\n  - p.safetensors\n  - 'q'\nmap:\n  0: x\nnone: ~\nyes: true\n";
        let expected = json!({"a": "x/y", "b": 1, "c": 2.5, "list": ["p.safetensors", "q"], "map": {"0": "x"},
            "none": null, "yes": true});
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn what_can_grow_or_hide_is_refused() {
        for (text, what) in [
            ("a: &x [1]\nb: *x\n", "anchors"),
            ("a: 1\na: 2\n", "twice"),
            ("a: !!python/object 1\n", "tags"),
            ("", "empty"),
            ("a: 1\n---\nb: 2\n", "more than one"),
            ("[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]", "deep"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
