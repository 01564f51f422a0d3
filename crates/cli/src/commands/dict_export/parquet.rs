//! Features as a Parquet table: one row per feature, lists as JSON strings.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};
use serde_json::Value;

use super::{Feature, each_feature};
use crate::failure::Failure;
use crate::output;

/// Features per row group, the amount held in memory at a time.
const GROUP: usize = 1024;
const WHOLE: [&str; 2] = ["feature", "count"];
const NUMBERS: [&str; 4] = ["frequency", "mean", "mean_over_all", "max"];
const LISTS: [&str; 6] = ["quantiles", "histogram", "top_logits", "bottom_logits", "top", "drawn"];

/// The columns for a list of features.
#[derive(Default)]
struct Columns {
    n: usize,
    whole: [Vec<i64>; 2],
    numbers: [Vec<f64>; 4],
    lists: [Vec<ByteArray>; 6],
}

pub(super) fn write(file: &Path, target: &Path) -> Result<(), Failure> {
    output::folder_exists(target)?;
    let mut failure = None;
    let written = output::replace(target, |at| {
        table(file, at).map_err(|e| {
            failure = Some(e);
            io::Error::other("the features could not be read")
        })
    });
    failure.map_or(written, Err)
}

fn table(file: &Path, target: &Path) -> Result<(), Failure> {
    let said = |e: ParquetError| Failure::failed(format!("{}: {e}", target.display()));
    let out = File::create(target).map_err(|e| Failure::failed(format!("{}: {e}", target.display())))?;
    let properties = WriterProperties::builder().set_created_by("easyroutine".to_owned()).build();
    let mut writer =
        SerializedFileWriter::new(out, schema().map_err(said)?, Arc::new(properties)).map_err(said)?;
    let mut columns = Columns::default();
    each_feature(file, |feature| {
        columns.push(feature)?;
        if columns.n == GROUP {
            let group = writer.next_row_group().map_err(said)?;
            std::mem::take(&mut columns).write(group).map_err(said)?;
        }
        Ok(())
    })?;
    if columns.n > 0 {
        columns.write(writer.next_row_group().map_err(said)?).map_err(said)?;
    }
    writer.close().map_err(said)?;
    Ok(())
}

fn schema() -> Result<TypePtr, ParquetError> {
    let column = |name: &str, physical: Physical, logical: Option<LogicalType>| {
        Type::primitive_type_builder(name, physical)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(logical)
            .build()
            .map(Arc::new)
    };
    let whole = WHOLE.iter().map(|name| column(name, Physical::INT64, None));
    let numbers = NUMBERS.iter().map(|name| column(name, Physical::DOUBLE, None));
    let lists = LISTS.iter().map(|name| column(name, Physical::BYTE_ARRAY, Some(LogicalType::Json)));
    let fields = whole.chain(numbers).chain(lists).collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder("features").with_fields(fields).build().map(Arc::new)
}

impl Columns {
    fn push(&mut self, feature: &Feature) -> Result<(), Failure> {
        self.n += 1;
        for (column, name) in self.whole.iter_mut().zip(WHOLE) {
            column.push(feature.number(name)? as i64);
        }
        for (column, name) in self.numbers.iter_mut().zip(NUMBERS) {
            column.push(feature.number(name)?);
        }
        for (column, name) in self.lists.iter_mut().zip(LISTS) {
            let list: &Value = &feature.value[name];
            column.push(list.to_string().into_bytes().into());
        }
        Ok(())
    }

    fn write(self, mut group: SerializedRowGroupWriter<'_, File>) -> Result<(), ParquetError> {
        for column in &self.whole {
            put::<Int64Type>(&mut group, column)?;
        }
        for column in &self.numbers {
            put::<DoubleType>(&mut group, column)?;
        }
        for column in &self.lists {
            put::<ByteArrayType>(&mut group, column)?;
        }
        group.close().map(drop)
    }
}

fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    column.typed::<T>().write_batch(values, None, None)?;
    column.close()
}
