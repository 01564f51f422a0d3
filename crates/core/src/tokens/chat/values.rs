//! A template's input as minijinja values.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, Value, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;
use serde_json::{Map, Value as Json};

use super::python::{refuse, tuple};

/// A mapping whose methods take precedence over its keys, as in Python: `properties.items()` is the method even if a
/// property is called `items`.
#[derive(Debug)]
struct Mapping(IndexMap<Value, Value>);

impl Object for Mapping {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().cloned().collect())
    }

    fn call_method(
        self: &Arc<Self>,
        state: &mut State<'_, '_>,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        unknown_method_callback(state, &Value::from_dyn_object(self.clone()), method, arguments)
    }
}

/// The variables of a rendering, which remember the names that the template looked up.
#[derive(Debug, Default)]
pub(super) struct Variables {
    values: IndexMap<String, Value>,
    read: Mutex<BTreeSet<String>>,
}

impl Variables {
    pub(super) fn of_json(values: &Map<String, Json>) -> Self {
        let values = values.iter().map(|(name, value)| (name.clone(), of_json(value))).collect();
        Variables { values, ..Variables::default() }
    }

    /// The names that were looked up so far.
    pub(super) fn read(&self) -> BTreeSet<String> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Object for Variables {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let (name, value) = self.values.get_key_value(key.as_str()?)?;
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if !read.contains(name) {
            read.insert(name.clone());
        }
        Some(value.clone())
    }
}

/// The value that a template sees for a JSON value.
pub(super) fn of_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(truth) => Value::from(*truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(whole)) => Value::from(whole),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(of_json).collect::<Vec<_>>()),
        Json::Object(fields) => {
            mapping(fields.iter().map(|(key, value)| (Value::from(key.as_str()), of_json(value))))
        }
    }
}

/// A mapping in this order; of duplicate keys the last value counts, at the first position.
pub(super) fn mapping(pairs: impl IntoIterator<Item = (Value, Value)>) -> Value {
    Value::from_object(Mapping(pairs.into_iter().collect()))
}

/// `cycler(items…)`: cycles through its items.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str()? {
            "current" => self.items.get(self.at.load(Ordering::Relaxed)).cloned(),
            "items" => Some(tuple(self.items.iter().cloned())),
            "pos" => Some(Value::from(self.at.load(Ordering::Relaxed))),
            _ => None,
        }
    }

    fn call_method(
        self: &Arc<Self>,
        _: &mut State<'_, '_>,
        method: &str,
        arguments: &[Value],
    ) -> Result<Value, Error> {
        let () = from_args(arguments)?;
        match method {
            "next" => {
                let at = self.at.load(Ordering::Relaxed);
                self.at.store((at + 1) % self.items.len(), Ordering::Relaxed);
                Ok(self.items[at].clone())
            }
            "reset" => {
                self.at.store(0, Ordering::Relaxed);
                Ok(Value::from(()))
            }
            _ => Err(Error::from(ErrorKind::UnknownMethod)),
        }
    }
}

/// The function `cycler`.
pub(super) fn cycler(items: Rest<Value>) -> Result<Value, Error> {
    if items.is_empty() {
        return Err(refuse("cycler takes at least one item"));
    }
    Ok(Value::from_object(Cycler { items: items.to_vec(), at: AtomicUsize::new(0) }))
}
