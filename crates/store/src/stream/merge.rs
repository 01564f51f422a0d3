//! Joins the values of units.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Adds a unit's values to those of earlier units: lists are concatenated, maps merged key by key, anything else must
/// be equal.
pub(super) fn into(all: &mut Map<String, Value>, unit: Map<String, Value>) -> Result<()> {
    for (key, value) in unit {
        match all.get_mut(&key) {
            None => drop(all.insert(key, value)),
            Some(found) => merge(found, value).map_err(|e| e.at(&key))?,
        }
    }
    Ok(())
}

fn merge(all: &mut Value, unit: Value) -> Result<()> {
    match (all, unit) {
        (Value::Array(all), Value::Array(unit)) => all.extend(unit),
        (Value::Object(all), Value::Object(unit)) => into(all, unit)?,
        (all, unit) if *all == unit => {}
        (all, unit) => return Err(Error::damaged(format!("`{unit}` here, `{all}` before"))),
    }
    Ok(())
}
