//! A column of a Parquet file, through the crate's record reader: no Arrow is needed for one column.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Value, json};

use super::Prompt;
use crate::error::{Error, ErrorKind, Result};

/// Reads the column `field`.
pub(super) fn read(file: File, field: &str, limit: usize) -> Result<Vec<Prompt>> {
    // The crate has places that panic on a file nobody would write on purpose.
    catch_unwind(AssertUnwindSafe(|| column(file, field, limit)))
        .unwrap_or_else(|_| Err(damaged("the file contradicts itself")))
}

fn column(file: File, field: &str, limit: usize) -> Result<Vec<Prompt>> {
    let broken = |e: ParquetError| damaged(e.to_string());
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields();
    let Some(wanted) = columns.iter().find(|column| column.name() == field) else {
        return Err(no_column(field, columns).hint("say which holds the prompts: --field NAME"));
    };
    let projection =
        Type::group_type_builder(schema.name()).with_fields(vec![wanted.clone()]).build().map_err(broken)?;
    let rows = reader.get_row_iter(Some(projection)).map_err(broken)?;
    rows.take(limit).enumerate().map(|(number, row)| prompt(number, &row.map_err(broken)?, field)).collect()
}

fn prompt(number: usize, row: &Row, field: &str) -> Result<Prompt> {
    let value = row.get_column_iter().next().map(|(_, value)| value);
    let id = |id: &Field| match *id {
        Field::Int(id) => u32::try_from(id).ok(),
        Field::Long(id) => u32::try_from(id).ok(),
        Field::UInt(id) => Some(id),
        Field::ULong(id) => u32::try_from(id).ok(),
        _ => None,
    };
    let prompt = match value {
        Some(Field::Str(text)) => Some(Prompt::Text(text.clone())),
        Some(Field::ListInternal(list)) => {
            list.elements().iter().map(id).collect::<Option<_>>().map(Prompt::Ids)
        }
        _ => None,
    };
    prompt.ok_or_else(|| {
        let shown: String = value.map(ToString::to_string).unwrap_or_default().chars().take(60).collect();
        Error::new(
            ErrorKind::Format,
            format!("row {number}: `{field}` is neither a text nor a list of token ids: {shown}"),
        )
    })
}

/// Reads some columns, a row at a time; nothing for a null.
pub(super) fn read_fields(file: File, names: &[String], limit: usize) -> Result<Vec<Vec<Option<Value>>>> {
    catch_unwind(AssertUnwindSafe(|| fields(file, names, limit)))
        .unwrap_or_else(|_| Err(damaged("the file contradicts itself")))
}

fn fields(file: File, names: &[String], limit: usize) -> Result<Vec<Vec<Option<Value>>>> {
    let broken = |e: ParquetError| damaged(e.to_string());
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields();
    if let Some(name) = names.iter().find(|name| columns.iter().all(|column| column.name() != name.as_str()))
    {
        return Err(no_column(name, columns));
    }
    let wanted = columns.iter().filter(|column| names.iter().any(|name| column.name() == name));
    let wanted = wanted.cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(broken)?;
    let rows = reader.get_row_iter(Some(projection)).map_err(broken)?;
    let values = |(number, row): (usize, std::result::Result<Row, ParquetError>)| {
        let row = row.map_err(broken)?;
        let of =
            |name: &String| row.get_column_iter().find(|(found, _)| *found == name).map(|(_, value)| value);
        names.iter().map(|name| of(name).map_or(Ok(None), |value| plain(number, name, value))).collect()
    };
    rows.take(limit).enumerate().map(values).collect()
}

/// A text, a number or a truth value.
fn plain(number: usize, name: &str, value: &Field) -> Result<Option<Value>> {
    Ok(Some(match value {
        Field::Null => return Ok(None),
        Field::Bool(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) => json!(value),
        Field::Long(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Float(value) if value.is_finite() => json!(value),
        Field::Double(value) if value.is_finite() => json!(value),
        Field::Str(value) => json!(value),
        _ => {
            let shown: String = value.to_string().chars().take(60).collect();
            return Err(Error::new(
                ErrorKind::Format,
                format!(
                    "row {number}: `{name}` is {shown}; a field that is kept is a text, a finite number, true or false"
                ),
            ));
        }
    }))
}

fn no_column(name: &str, columns: &[TypePtr]) -> Error {
    let names: Vec<String> = columns.iter().take(8).map(|c| format!("`{}`", c.name())).collect();
    Error::new(ErrorKind::Format, format!("there is no column `{name}`; there are {}", names.join(", ")))
}

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Format, format!("not a Parquet file that can be read: {what}"))
}
