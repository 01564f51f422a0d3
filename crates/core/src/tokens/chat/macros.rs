//! Macros with arbitrary arguments: `varargs` and `kwargs` of Jinja2. [`rewrite`](super::rewrite) gives such a macro
//! parameters with these names, and wraps it here.

use std::sync::Arc;

use minijinja::value::{Kwargs, Object, ObjectRepr, Value};
use minijinja::{Error, State};

use super::python::{refuse, tuple};
use super::values::mapping;

/// The remaining arguments, by position and by name.
const REST: [&str; 2] = ["varargs", "kwargs"];

/// A macro whose last parameters are [`REST`], or one of them.
#[derive(Debug)]
struct WithRest(Value);

impl Object for WithRest {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let takes = |rest: &str| {
            let names = self.0.get_attr("arguments").ok()?;
            Some(Value::from(names.try_iter().ok()?.any(|name| name.as_str() == Some(rest))))
        };
        match key.as_str() {
            Some("catch_varargs") => return takes("varargs"),
            Some("catch_kwargs") => return takes("kwargs"),
            _ => {}
        }
        let found = self.0.get_item(key).ok().filter(|value| !value.is_undefined())?;
        match key.as_str() {
            Some("arguments") => {
                let names = found
                    .try_iter()
                    .ok()?
                    .filter(|name| !name.as_str().is_some_and(|name| REST.contains(&name)));
                Some(tuple(names))
            }
            _ => Some(found),
        }
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, arguments: &[Value]) -> Result<Value, Error> {
        let (places, named) = match arguments.split_last() {
            Some((last, before)) if last.is_kwargs() => (before, Some(Kwargs::try_from(last.clone())?)),
            _ => (arguments, None),
        };
        let parameters: Vec<Value> = self.0.get_attr("arguments")?.try_iter()?.collect();
        let takes = |rest: &str| parameters.iter().any(|name| name.as_str() == Some(rest));
        let own = parameters
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| !REST.contains(name))
            .collect::<Vec<_>>();
        let (first, more) = places.split_at(own.len().min(places.len()));
        let mut passed: Vec<(String, Value)> = Vec::new();
        let mut left = Vec::new();
        for name in named.iter().flat_map(Kwargs::args) {
            let value: Value = named.as_ref().map_or(Ok(Value::UNDEFINED), |named| named.get(name))?;
            match own[first.len()..].contains(&name) || name == "caller" {
                true => passed.push((name.to_owned(), value)),
                false => left.push((Value::from(name), value)),
            }
        }
        if !more.is_empty() && !takes("varargs") {
            return Err(refuse(format!("the macro takes not more than {} arguments", own.len())));
        }
        if let (Some((name, _)), false) = (left.first(), takes("kwargs")) {
            return Err(refuse(format!("the macro takes no argument `{name}`")));
        }
        if takes("varargs") {
            passed.push(("varargs".to_owned(), tuple(more.iter().cloned())));
        }
        if takes("kwargs") {
            passed.push(("kwargs".to_owned(), mapping(left)));
        }
        let mut arguments = first.to_vec();
        arguments.push(Value::from(passed.into_iter().collect::<Kwargs>()));
        self.0.call(state, &arguments)
    }
}

/// Wraps a macro so that it accepts any arguments.
pub(super) fn wrapped(inner: Value) -> Value {
    Value::from_object(WithRest(inner))
}
