//! Fields kept for each row, such as labels, as columns of a table.

use std::io::Write;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;
use parquet::schema::types::Type;
use serde_json::Value;

use super::parquet::put;
use crate::run::Run;

/// A field with a value for each example.
#[derive(Debug)]
pub(super) struct Label<'a> {
    /// The column's name.
    name: String,
    values: &'a [Value],
    kind: Kind,
}

/// The type of its values, ignoring nulls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Whole,
    Number,
    /// Strings, or values of mixed types as JSON.
    Text,
}

impl<'a> Label<'a> {
    /// The fields that a run kept for its examples. If a column has the name already, the field is called
    /// `fields.NAME`.
    pub(super) fn all(run: &'a Run, n_examples: usize, is_taken: impl Fn(&str) -> bool) -> Vec<Self> {
        let fields = run.fields().filter(|(_, values)| values.len() == n_examples);
        let label = |(name, values): (&str, &'a [Value])| {
            let name = if is_taken(name) { format!("fields.{name}") } else { name.to_owned() };
            Label { name, values, kind: kind(values) }
        };
        fields.map(label).collect()
    }

    pub(super) fn field(&self) -> Result<Type, ParquetError> {
        let physical = match self.kind {
            Kind::Bool => Physical::BOOLEAN,
            Kind::Whole => Physical::INT64,
            Kind::Number => Physical::DOUBLE,
            Kind::Text => Physical::BYTE_ARRAY,
        };
        Type::primitive_type_builder(&self.name, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type((self.kind == Kind::Text).then_some(LogicalType::String))
            .build()
    }

    /// Writes these examples' values, one per row.
    pub(super) fn write(
        &self,
        group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
        examples: impl Iterator<Item = usize>,
    ) -> Result<(), ParquetError> {
        let values: Vec<&Value> = examples.map(|example| &self.values[example]).collect();
        let levels: Vec<i16> = values.iter().map(|value| i16::from(!value.is_null())).collect();
        let levels = Some(&levels[..]);
        let there = values.into_iter().filter(|value| !value.is_null());
        match self.kind {
            Kind::Bool => {
                put::<BoolType>(group, &there.filter_map(Value::as_bool).collect::<Vec<_>>(), levels)
            }
            Kind::Whole => {
                put::<Int64Type>(group, &there.filter_map(Value::as_i64).collect::<Vec<_>>(), levels)
            }
            Kind::Number => {
                put::<DoubleType>(group, &there.filter_map(Value::as_f64).collect::<Vec<_>>(), levels)
            }
            Kind::Text => {
                let texts = there.map(|value| ByteArray::from(text(value).as_str()));
                put::<ByteArrayType>(group, &texts.collect::<Vec<_>>(), levels)
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn kind(values: &[Value]) -> Kind {
    let all = |holds: fn(&Value) -> bool| values.iter().all(|value| value.is_null() || holds(value));
    // An integer that a float would change is not a float value.
    let is_exact =
        |value: &Value| value.as_i64().is_none_or(|n| n.unsigned_abs() <= 1 << f64::MANTISSA_DIGITS);
    if values.iter().all(Value::is_null) {
        Kind::Text
    } else if all(Value::is_boolean) {
        Kind::Bool
    } else if all(Value::is_i64) {
        Kind::Whole
    } else if all(|value| value.is_f64() || value.is_i64()) && values.iter().all(is_exact) {
        Kind::Number
    } else {
        Kind::Text
    }
}
