//! A configuration whose every key is read, known to have no effect, or refused by name.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use serde_json::{Map, Value};

use crate::problems::{Problems, shown};

/// Largest size that a configuration may state.
const LARGEST: u64 = 1 << 28;

/// One object of a configuration.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Its file, and the path of keys to it.
    place: String,
    map: Map<String, Value>,
    read: Rc<RefCell<BTreeSet<String>>>,
    problems: Problems,
}

impl Settings {
    /// An object; anything else is a problem.
    pub(crate) fn new(place: &str, value: Value, problems: &Problems) -> Option<Settings> {
        let Value::Object(map) = value else {
            problems.add(format!("{place} holds no object"));
            return None;
        };
        Some(Settings { place: place.to_owned(), map, read: Rc::default(), problems: problems.clone() })
    }

    /// Parses the bytes of a JSON file; what is no object is a problem.
    pub(crate) fn json(place: &str, bytes: &[u8], problems: &Problems) -> Option<Settings> {
        match serde_json::from_slice(bytes) {
            Ok(value) => Settings::new(place, value, problems),
            Err(e) => {
                problems.add(format!("{place} is not valid JSON: {e}"));
                None
            }
        }
    }

    /// The value of a key; `None` if absent or null.
    pub(crate) fn value(&self, key: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(key.to_owned());
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether a key has a value. Does not count as reading it.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|value| !value.is_null())
    }

    pub(crate) fn text(&self, key: &str) -> Option<String> {
        let value = self.value(key)?;
        value.as_str().map(str::to_owned).or_else(|| self.wrong(key, "a text"))
    }

    /// The text of a key, or another where it is absent; `None` where it is no text.
    pub(crate) fn text_or(&self, key: &str, otherwise: &str) -> Option<String> {
        if self.has(key) { self.text(key) } else { self.value(key).is_none().then(|| otherwise.to_owned()) }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        value.as_bool().or_else(|| self.wrong(key, "true or false"))
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        value.as_f64().filter(|x| x.is_finite()).or_else(|| self.wrong(key, "a number"))
    }

    /// A count of at least one.
    pub(crate) fn size(&self, key: &str) -> Option<usize> {
        let value = self.value(key)?;
        let size = value.as_u64().filter(|n| (1..=LARGEST).contains(n)).and_then(|n| usize::try_from(n).ok());
        size.or_else(|| self.wrong(key, "a whole number from 1 to 2^28"))
    }

    /// A layer number.
    pub(crate) fn layer(&self, key: &str) -> Option<usize> {
        let value = self.value(key)?;
        let layer = value.as_u64().filter(|n| *n < 100_000).and_then(|n| usize::try_from(n).ok());
        layer.or_else(|| self.wrong(key, "the number of a layer"))
    }

    /// A string or a list of strings.
    pub(crate) fn texts(&self, key: &str) -> Option<Vec<String>> {
        match self.value(key)? {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(items) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|v| v.as_str().map(str::to_owned)).collect();
                texts.or_else(|| self.wrong(key, "a list of texts"))
            }
            _ => self.wrong(key, "a list of texts"),
        }
    }

    /// A nested object, which must be finished as well.
    pub(crate) fn object(&self, key: &str) -> Option<Settings> {
        let value = self.value(key)?;
        if !value.is_object() {
            return self.wrong(key, "an object");
        }
        Settings::new(&format!("{}: `{key}`", self.place), value.clone(), &self.problems)
    }

    /// Records that a key has an unsupported value.
    pub(crate) fn refuse(&self, key: &str, supported: &str) {
        self.problems.add(format!("{}: `{key}` is {}; read: {supported}", self.place, self.written(key)));
    }

    /// Records that a key is missing.
    pub(crate) fn missing(&self, key: &str) {
        // Of a wrong value it was already said what is wrong.
        if self.has(key) {
            return;
        }
        self.problems.add(format!("{}: `{key}` is missing", self.place));
    }

    /// Refuses every value of this key except those without effect.
    pub(crate) fn only(&self, key: &str, allowed: &[Value]) {
        let is_allowed = self.value(key).is_none_or(|value| allowed.contains(value));
        if !is_allowed {
            let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
            self.refuse(key, &allowed.join(", "));
        }
    }

    /// Records every key that was neither read nor inert as a problem.
    pub(crate) fn finish(&self, inert: &[&str]) {
        let read = self.read.borrow();
        let unknown: Vec<String> = self
            .map
            .keys()
            .filter(|key| !read.contains(*key) && !inert.contains(&key.as_str()))
            .map(|key| shown(key))
            .collect();
        if !unknown.is_empty() {
            let keys = if unknown.len() == 1 { "key" } else { "keys" };
            self.problems.add(format!("{}: unknown {keys} {}", self.place, unknown.join(", ")));
        }
    }

    fn wrong<T>(&self, key: &str, expected: &str) -> Option<T> {
        self.problems.add(format!("{}: `{key}` is {}; expected {expected}", self.place, self.written(key)));
        None
    }

    fn written(&self, key: &str) -> String {
        let text = self.map.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        if text.chars().count() > 80 { text.chars().take(77).chain("...".chars()).collect() } else { text }
    }
}
