//! Arguments of functions as Python passes them: by position or by name.

use minijinja::Error;
use minijinja::value::{Kwargs, Value};

use super::python::refuse;

/// The arguments of one call; missing ones are `None`.
pub(super) struct Arguments {
    of: &'static str,
    names: &'static [&'static str],
    values: Vec<Option<Value>>,
}

impl Arguments {
    /// Assigns the passed arguments to `names`.
    ///
    /// # Errors
    /// If there are too many, one is passed twice, or one has an unknown name.
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

    /// The argument at a position.
    pub(super) fn get(&self, place: usize) -> Option<&Value> {
        self.values.get(place).and_then(Option::as_ref)
    }

    /// Whether Python would consider the argument true.
    pub(super) fn is_true(&self, place: usize, otherwise: bool) -> bool {
        self.get(place).map_or(otherwise, Value::is_true)
    }

    /// An integer; booleans are 0 and 1.
    pub(super) fn whole(&self, place: usize, otherwise: i64) -> Result<i64, Error> {
        let Some(value) = self.get(place) else { return Ok(otherwise) };
        let read = value.is_integer().then(|| i64::try_from(value.clone()).ok()).flatten();
        let truth = || bool::try_from(value.clone()).ok().map(i64::from);
        read.or_else(truth).ok_or_else(|| self.wrong(place, "a whole number"))
    }

    /// A string.
    pub(super) fn text(&self, place: usize) -> Result<Option<&str>, Error> {
        let value = self.get(place).filter(|value| !value.is_none());
        value.map(|value| value.as_str().ok_or_else(|| self.wrong(place, "a text"))).transpose()
    }

    /// The error for an argument of another type.
    pub(super) fn wrong(&self, place: usize, is: &str) -> Error {
        refuse(format!("{}: {} is {is}", self.of, self.names.get(place).unwrap_or(&"an argument")))
    }
}
