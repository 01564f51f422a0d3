//! A column of a Parquet file, read with the crate's record reader: one column does not need Arrow.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Value, json};

use super::fields::Values;
use super::{NAME_IT, Place, Prompt, ReadOptions, Receiver, table};
use crate::error::{Error, ErrorKind, Result};

/// How far a file may expand: bytes per byte of its own, and bytes allowed in any case. Text of data sets expands to
/// about ten times its size.
const UNFOLDING: (u64, u64) = (200, 64 << 20);
/// Rows read at a time: each may be as long as a dictionary's longest text.
const ROWS: usize = 16;

/// Reads the column `field`.
pub(super) fn read(file: File, options: &ReadOptions, receiver: &mut Receiver<'_>) -> Result<()> {
    // The crate panics in places on deliberately malformed files.
    match catch_unwind(AssertUnwindSafe(|| column(file, options, receiver))) {
        Ok(read) => read,
        Err(panic) if receiver.is_visiting => resume_unwind(panic),
        Err(_) => Err(damaged("the file contradicts itself")),
    }
}

fn column(file: File, options: &ReadOptions, receiver: &mut Receiver<'_>) -> Result<()> {
    let broken = |e: ParquetError| damaged(e.to_string());
    let most = most_unfolded(&file)?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    check_sizes(reader.metadata(), &options.field, most)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields();
    let wanted = one_column(&options.field, columns).map_err(|e| e.hint(NAME_IT))?;
    let projection =
        Type::group_type_builder(schema.name()).with_fields(vec![wanted.clone()]).build().map_err(broken)?;
    let rows = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(broken)?;
    let mut bytes = 0;
    for (row, record) in rows.with_batch_size(ROWS).enumerate() {
        if receiver.is_full(options) {
            break;
        }
        let place = Place { row, line: None };
        let prompt = prompt(place, &record.map_err(broken)?, options)?;
        bytes += prompt.as_ref().map_or(0, Prompt::bytes) as u64;
        if bytes > most {
            return Err(place.wrong(unfolds(most)).hint("--limit takes its first rows"));
        }
        receiver.take(place, prompt, options)?;
    }
    Ok(())
}

/// Bytes to which a file of this size may expand.
fn most_unfolded(file: &File) -> Result<u64> {
    let length = file.metadata().map_err(|e| Error::new(ErrorKind::Io, e.to_string()))?.len();
    Ok(length.saturating_mul(UNFOLDING.0).saturating_add(UNFOLDING.1))
}

/// Refuses a column that claims to expand further than such files do, before anything is decompressed.
fn check_sizes(metadata: &ParquetMetaData, field: &str, most: u64) -> Result<()> {
    for group in metadata.row_groups() {
        let of_field = |path: &str| path == field;
        let columns = group.columns().iter();
        let wanted =
            columns.filter(|column| column.column_path().parts().first().is_some_and(|name| of_field(name)));
        let size: u64 = wanted
            .map(|column| u64::try_from(column.uncompressed_size()).unwrap_or(u64::MAX))
            .max()
            .unwrap_or(0);
        if size > most {
            return Err(damaged(unfolds(most)));
        }
    }
    Ok(())
}

fn unfolds(most: u64) -> String {
    format!("the file unfolds to more than {most} bytes, {} times its size", UNFOLDING.0)
}

fn prompt(place: Place, row: &Row, options: &ReadOptions) -> Result<Option<Prompt>> {
    let value = row.get_column_iter().next().map(|(_, value)| value);
    let id = |id: &Field| match *id {
        Field::Byte(id) => u32::try_from(id).ok(),
        Field::Short(id) => u32::try_from(id).ok(),
        Field::Int(id) => u32::try_from(id).ok(),
        Field::Long(id) => u32::try_from(id).ok(),
        Field::UByte(id) => Some(id.into()),
        Field::UShort(id) => Some(id.into()),
        Field::UInt(id) => Some(id),
        Field::ULong(id) => u32::try_from(id).ok(),
        _ => None,
    };
    let prompt = match value {
        Some(Field::Null) => return Ok(None),
        Some(Field::Str(text)) => Some(Prompt::Text(text.clone())),
        Some(Field::ListInternal(list)) => {
            list.elements().iter().map(id).collect::<Option<_>>().map(Prompt::Ids)
        }
        _ => None,
    };
    prompt.map(Some).ok_or_else(|| {
        let shown: String = value.map(ToString::to_string).unwrap_or_default().chars().take(60).collect();
        place.wrong(format!("`{}` is neither a text nor a list of token ids: {shown}", options.field))
    })
}

/// Reads columns of the rows with numbers `rows`; `None` for a null.
pub(super) fn read_fields(file: File, names: &[String], rows: &[usize]) -> Result<Values> {
    catch_unwind(AssertUnwindSafe(|| fields(file, names, rows)))
        .unwrap_or_else(|_| Err(damaged("the file contradicts itself")))
}

fn fields(file: File, names: &[String], rows: &[usize]) -> Result<Values> {
    let broken = |e: ParquetError| damaged(e.to_string());
    let most = most_unfolded(&file)?;
    let reader = SerializedFileReader::new(file).map_err(broken)?;
    let schema = reader.metadata().file_metadata().schema();
    let columns = schema.get_fields();
    names.iter().try_for_each(|name| one_column(name, columns).map(|_| ()))?;
    names.iter().try_for_each(|name| check_sizes(reader.metadata(), name, most))?;
    let wanted = columns.iter().filter(|column| names.iter().any(|name| column.name() == name));
    let wanted = wanted.cloned().collect();
    let projection = Type::group_type_builder(schema.name()).with_fields(wanted).build().map_err(broken)?;
    let records = RowIter::from_file_into(Box::new(reader)).project(Some(projection)).map_err(broken)?;
    let mut found = Values::new();
    let mut bytes = 0;
    for (row, record) in records.with_batch_size(ROWS).enumerate() {
        if found.len() == rows.len() {
            break;
        }
        let record = record.map_err(broken)?;
        if rows[found.len()] != row {
            continue;
        }
        let place = Place { row, line: None };
        let of = |name: &String| record.get_column_iter().find(|(of, _)| *of == name).map(|(_, value)| value);
        let value = |name: &String| of(name).map_or(Ok(None), |value| plain(place, name, value));
        let values = names.iter().map(value).collect::<Result<Vec<_>>>()?;
        bytes += values.iter().flatten().map(|value| value.as_str().map_or(0, str::len) as u64).sum::<u64>();
        if bytes > most {
            return Err(place.wrong(unfolds(most)).hint("--limit takes its first rows"));
        }
        found.push(values);
    }
    Ok(found)
}

/// A string, a number or a boolean.
fn plain(place: Place, name: &str, value: &Field) -> Result<Option<Value>> {
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
            return Err(place.wrong(format!(
                "`{name}` is {shown}; a field that is kept is a text, a finite number, true or false"
            )));
        }
    }))
}

/// The only column with this name.
fn one_column<'a>(name: &str, columns: &'a [TypePtr]) -> Result<&'a TypePtr> {
    let names: Vec<String> = columns.iter().map(|column| column.name().to_owned()).collect();
    table::column(&names, name).map(|column| &columns[column])
}

fn damaged(what: impl std::fmt::Display) -> Error {
    let error = Error::new(ErrorKind::Format, format!("not a Parquet file that can be read: {what}"));
    match what.to_string().contains("Disabled feature") {
        // This build lacks Brotli, LZO and LZ4.
        true => error.hint("write it with zstd, snappy, gzip or without compression"),
        false => error,
    }
}
