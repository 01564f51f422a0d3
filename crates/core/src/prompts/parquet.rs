//! A column of a Parquet file, through the crate's record reader: no Arrow is needed for one column.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;

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
        let names: Vec<String> = columns.iter().take(8).map(|c| format!("`{}`", c.name())).collect();
        return Err(Error::new(
            ErrorKind::Format,
            format!("there is no column `{field}`; there are {}", names.join(", ")),
        )
        .hint("say which holds the prompts: --field NAME"));
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

fn damaged(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Format, format!("not a Parquet file that can be read: {what}"))
}
