//! Arguments of functions as Python passes them: by place or by name.

use minijinja::Error;
use minijinja::value::{Kwargs, Value};

use super::python::refuse;

/// The arguments of one call; one that is not given is nothing.
pub(super) struct Arguments {
    of: &'static str,
    names: &'static [&'static str],
    values: Vec<Option<Value>>,
}

impl Arguments {
    /// Sorts what was passed under `names`.
    ///
    /// # Errors
    /// There are too many, one is passed twice, or one has another name.
    pub(super) fn read(
        of: &'static str,
        names: &'static [&'static str],
        places: &[Value],
        named: &Kwargs,
    ) -> Result<Self, Error> {
        if places.len() > names.len() {
            return Err(refuse(format!("{of} takes at most {} arguments", names.len())));
        }
        let mut values: Vec<Option<Value>> = places.iter().cloned().map(Some).collect();
        for name in &names[places.len()..] {
            values.push(if named.has(name) { Some(named.get(name)?) } else { None });
        }
        named.assert_all_used()?;
        Ok(Arguments { of, names, values })
    }

    /// The argument at this place.
    pub(super) fn get(&self, place: usize) -> Option<&Value> {
        self.values.get(place).and_then(Option::as_ref)
    }

    /// Whether the argument is true for Python.
    pub(super) fn is_true(&self, place: usize, otherwise: bool) -> bool {
        self.get(place).map_or(otherwise, Value::is_true)
    }

    /// A whole number; truths are 0 and 1.
    pub(super) fn whole(&self, place: usize, otherwise: i64) -> Result<i64, Error> {
        let Some(value) = self.get(place) else { return Ok(otherwise) };
        let read = value.is_integer().then(|| i64::try_from(value.clone()).ok()).flatten();
        let truth = || bool::try_from(value.clone()).ok().map(i64::from);
        read.or_else(truth).ok_or_else(|| self.wrong(place, "a whole number"))
    }

    /// A text.
    pub(super) fn text(&self, place: usize) -> Result<Option<&str>, Error> {
        let value = self.get(place).filter(|value| !value.is_none());
        value.map(|value| value.as_str().ok_or_else(|| self.wrong(place, "a text"))).transpose()
    }

    /// The error of an argument that is something else.
    pub(super) fn wrong(&self, place: usize, is: &str) -> Error {
        refuse(format!("{}: {} is {is}", self.of, self.names.get(place).unwrap_or(&"an argument")))
    }
}
