//! A run as a Parquet table: one row per token or per example; a tensor is a column of numbers or of lists.
//!
//! docs/FORMATS.md describes the columns.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, DataType, DoubleType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type, TypePtr};
use serde_json::json;

use super::labels::Label;
use super::places::Places;
use crate::error::{Error, Result};
use crate::manifest::TensorEntry;
use crate::run::Run;
use crate::tensor::{Dtype, Kind, Loaded};

/// Default size of a row group's widest column, in bytes: the amount held in memory at a time.
const GROUP_BYTES: usize = 64 << 20;
/// Numbers passed to the writer at a time.
const PIECE: usize = 64 << 10;

/// Names of columns that are not tensors.
const EXAMPLE: &str = "example";
const COLUMN: &str = "column";
const POSITION: &str = "position";
const OTHERS: [&str; 3] = [EXAMPLE, COLUMN, POSITION];

/// Tensors of a run that fit into one table.
#[derive(Debug)]
pub struct Table<'a> {
    run: &'a Run,
    columns: Vec<Column>,
    rows: Rows,
    places: Option<Places<'a>>,
    labels: Vec<Label<'a>>,
    group_bytes: usize,
}

/// What the rows stand for.
#[derive(Debug, Clone, PartialEq)]
enum Rows {
    /// One row per example.
    Examples(usize),
    /// One row per token: the start of each example, and the end.
    Tokens(Vec<i64>),
}

/// A tensor as a column.
#[derive(Debug)]
struct Column {
    name: String,
    dtype: Dtype,
    /// Length of its lists; `None` if each row has one number.
    width: Option<usize>,
}

impl<'a> Table<'a> {
    /// A table of the named tensors; if none is named, of all except those of the metadata.
    ///
    /// # Errors
    /// If a tensor does not exist, its rows are neither numbers nor vectors, tensors differ in their rows, or two
    /// columns have the same name.
    pub fn new(run: &'a Run, keys: &[String]) -> Result<Self> {
        let of_metadata = |name: &&str| name.starts_with("aux/");
        let all = || run.names().filter(|name| !of_metadata(name)).map(str::to_owned).collect();
        let keys: Vec<String> = if keys.is_empty() { all() } else { keys.to_vec() };
        let (mut columns, mut rows) = (Vec::new(), Vec::new());
        for (number, key) in keys.iter().enumerate() {
            if OTHERS.contains(&key.as_str()) || keys[..number].contains(key) {
                return Err(Error::input(format!("two columns of the table would be called `{key}`"))
                    .hint("a .safetensors file has tensors alone"));
            }
            let (column, its) = column(run, run.entry(key)?).map_err(|e| match e.hint_text() {
                Some(_) => e,
                None => e.hint(fitting(run, &keys)),
            })?;
            columns.push(column);
            rows.push(its);
        }
        let Some(first) = rows.first().cloned() else {
            return Err(Error::input(format!("run `{}` has no tensors", run.path())));
        };
        if let Some(other) = rows.iter().position(|rows| *rows != first) {
            let (a, b) = (&keys[0], &keys[other]);
            return Err(Error::input(format!(
                "`{a}` has {}, but `{b}` has {}: they are not columns of one table",
                first.shown(),
                rows[other].shown()
            ))
            .hint(format!(
                "export them apart: easyroutine runs export RUN {b} -o {}.parquet",
                file_name(b)
            )));
        }
        let places =
            if matches!(first, Rows::Tokens(_)) { Places::new(&run.manifest().values) } else { None };
        let is_taken =
            |name: &str| OTHERS.contains(&name) || columns.iter().any(|column| column.name == name);
        let labels = Label::all(run, first.examples(), is_taken);
        Ok(Table { run, columns, rows: first, places, labels, group_bytes: GROUP_BYTES })
    }

    /// The same table with another row group size.
    #[must_use]
    pub fn with_group_bytes(self, group_bytes: usize) -> Self {
        Table { group_bytes, ..self }
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If the writer fails, or a shard can't be read.
    pub fn write(&self, out: impl Write + Send) -> io::Result<()> {
        let schema = self.schema().map_err(io_error)?;
        let mut writer =
            SerializedFileWriter::new(out, schema, Arc::new(self.properties())).map_err(io_error)?;
        for examples in self.groups() {
            let mut group = writer.next_row_group().map_err(io_error)?;
            self.write_places(&mut group, examples.clone()).map_err(io_error)?;
            for column in &self.columns {
                let values = self.run.read_rows(&column.name, examples.clone()).map_err(io::Error::other)?;
                let written = column.write(&mut group, &values);
                super::unchanged(&values)?;
                written.map_err(io_error)?;
            }
            group.close().map_err(io_error)?;
        }
        writer.finish().map_err(io_error)?;
        writer.inner_mut().flush()
    }

    /// Groups of whole examples whose widest column fits a row group.
    fn groups(&self) -> Vec<Range<usize>> {
        let bytes = |column: &Column| column.width.unwrap_or(1).max(1) * 4;
        let width = self.columns.iter().map(bytes).max().unwrap_or(1);
        let (mut groups, mut begin) = (Vec::new(), 0);
        for end in 1..=self.rows.examples() {
            let is_last = end == self.rows.examples();
            if is_last || self.rows.of(begin..end + 1).len().saturating_mul(width) > self.group_bytes {
                groups.push(begin..end);
                begin = end;
            }
        }
        groups
    }

    fn schema(&self) -> Result<TypePtr, ParquetError> {
        let index = |name: &str, repetition| {
            Type::primitive_type_builder(name, Physical::INT64).with_repetition(repetition).build()
        };
        let mut fields = vec![index(EXAMPLE, Repetition::REQUIRED)?];
        if matches!(self.rows, Rows::Tokens(_)) {
            fields.push(index(COLUMN, Repetition::REQUIRED)?);
        }
        if self.places.is_some() {
            fields.push(index(POSITION, Repetition::OPTIONAL)?);
        }
        for label in &self.labels {
            fields.push(label.field()?);
        }
        for column in &self.columns {
            fields.push(column.field()?);
        }
        let fields = fields.into_iter().map(Arc::new).collect();
        Ok(Arc::new(Type::group_type_builder("run").with_fields(fields).build()?))
    }

    fn properties(&self) -> WriterProperties {
        let about = json!({
            "schema": "easyroutine.parquet/1",
            "run": self.run.path(),
            "model": self.run.metadata().model_name(),
        });
        let about = KeyValue::new("easyroutine".to_owned(), about.to_string());
        let writer = concat!("easyroutine ", env!("CARGO_PKG_VERSION")).to_owned();
        let mut properties =
            WriterProperties::builder().set_created_by(writer).set_key_value_metadata(Some(vec![about]));
        // Activations do not repeat, so a dictionary, or minimum and maximum, would be of no use.
        for path in self.columns.iter().map(Column::path) {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        properties.build()
    }

    fn write_places(
        &self,
        group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
        examples: Range<usize>,
    ) -> Result<(), ParquetError> {
        let length = |example: usize| self.rows.of(example..example + 1).len();
        let number = |example: usize| std::iter::repeat_n(example as i64, length(example));
        let numbers: Vec<i64> = examples.clone().flat_map(number).collect();
        put::<Int64Type>(group, &numbers, None)?;
        if matches!(self.rows, Rows::Tokens(_)) {
            let columns = examples.clone().flat_map(|example| 0..length(example) as i64);
            put::<Int64Type>(group, &columns.collect::<Vec<_>>(), None)?;
        }
        if let Some(places) = &self.places {
            let of = |example: usize| places.of(example, self.rows.examples(), length(example));
            let known: Vec<Option<i64>> = examples.clone().flat_map(of).collect();
            let values: Vec<i64> = known.iter().flatten().copied().collect();
            let levels: Vec<i16> = known.iter().map(|place| i16::from(place.is_some())).collect();
            put::<Int64Type>(group, &values, Some(&levels))?;
        }
        for label in &self.labels {
            label.write(group, numbers.iter().map(|example| *example as usize))?;
        }
        Ok(())
    }
}

impl Rows {
    fn examples(&self) -> usize {
        match self {
            Rows::Examples(n) => *n,
            Rows::Tokens(offsets) => offsets.len().saturating_sub(1),
        }
    }

    /// Rows of a range of examples; an end beyond the last is clamped.
    fn of(&self, examples: Range<usize>) -> Range<usize> {
        match self {
            Rows::Examples(n) => examples.start..examples.end.min(*n),
            Rows::Tokens(offsets) => {
                let at = |example: usize| offsets[example.min(offsets.len() - 1)] as usize;
                at(examples.start)..at(examples.end)
            }
        }
    }

    fn shown(&self) -> String {
        match self {
            Rows::Examples(n) => format!("one row for each of {n} examples"),
            Rows::Tokens(offsets) => {
                let rows = offsets.last().copied().unwrap_or(0);
                format!("{rows} rows of tokens in {} examples", self.examples())
            }
        }
    }
}

/// A tensor as a column, with the rows of its table.
fn column(run: &Run, entry: &TensorEntry) -> Result<(Column, Rows)> {
    let (name, dtype, shape) = (&entry.name, entry.dtype, run.manifest().shape(entry));
    let refused = |why: String| Err(Error::input(format!("`{name}` {why}")));
    if dtype == Dtype::C64 {
        return refused("holds complex numbers, which Parquet does not have".to_owned())
            .map_err(|e: Error| e.hint("a .safetensors file holds them"));
    }
    let is_token_number = name.starts_with("last_layernorm.") || name == "input_ids";
    let made = |width: Option<usize>| Column { name: name.clone(), dtype, width };
    let even = |examples: usize, t: usize| {
        Rows::Tokens((0..=examples).map(|example| (example * t) as i64).collect())
    };
    Ok(match (entry.kind, &shape[..]) {
        (Kind::RaggedNd, _) => {
            return refused("has squares of different size: no row of a table holds one".to_owned());
        }
        (Kind::Rows, [_]) => (made(None), Rows::Tokens(run.offsets(name)?)),
        (Kind::Rows, [_, width]) => (made(Some(*width)), Rows::Tokens(run.offsets(name)?)),
        (Kind::Rows, _) => return refused(format!("is {:?} for each token, not a vector", entry.row_shape)),
        (_, [examples]) => (made(None), Rows::Examples(*examples)),
        (_, [examples, t]) if is_token_number => (made(None), even(*examples, *t)),
        (_, [examples, width]) => (made(Some(*width)), Rows::Examples(*examples)),
        (_, [examples, t, width]) => (made(Some(*width)), even(*examples, *t)),
        (_, []) => return refused("is one number, not a column".to_owned()),
        (_, shape) => return refused(format!("has {} axes: {shape:?}; a table takes three", shape.len())),
    })
}

/// The hint for a tensor that does not fit: which ones do.
fn fitting(run: &Run, keys: &[String]) -> String {
    let fits = |key: &&String| run.entry(key).is_ok_and(|entry| column(run, entry).is_ok());
    let found: Vec<&str> = keys.iter().filter(fits).take(3).map(String::as_str).collect();
    if found.is_empty() {
        return "a .safetensors file holds tensors of every shape".to_owned();
    }
    let more = if keys.iter().filter(fits).count() > found.len() { " …" } else { "" };
    format!(
        "name those that fit, {}{more}; a .safetensors file holds tensors of every shape",
        found.join(" ")
    )
}

/// A tensor's name as a file name.
fn file_name(key: &str) -> String {
    key.replace(['/', '\\'], "_")
}

impl Column {
    fn physical(&self) -> Physical {
        match self.dtype {
            Dtype::Bool => Physical::BOOLEAN,
            Dtype::U8 | Dtype::I8 | Dtype::U16 | Dtype::I16 | Dtype::I32 => Physical::INT32,
            Dtype::U32 | Dtype::I64 | Dtype::U64 => Physical::INT64,
            Dtype::F16 | Dtype::Bf16 | Dtype::F32 | Dtype::C64 => Physical::FLOAT,
            Dtype::F64 => Physical::DOUBLE,
        }
    }

    fn number(&self, name: &str) -> Result<Type, ParquetError> {
        // Among unsigned types only these do not fit into the type that holds them.
        let unsigned = LogicalType::integer(64, false);
        Type::primitive_type_builder(name, self.physical())
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type((self.dtype == Dtype::U64).then_some(unsigned))
            .build()
    }

    /// A number, or a list in the three-level form that every reader knows.
    fn field(&self) -> Result<Type, ParquetError> {
        if self.width.is_none() {
            return self.number(&self.name);
        }
        let list = Type::group_type_builder("list")
            .with_repetition(Repetition::REPEATED)
            .with_fields(vec![Arc::new(self.number("element")?)])
            .build()?;
        Type::group_type_builder(&self.name)
            .with_repetition(Repetition::REQUIRED)
            .with_logical_type(Some(LogicalType::List))
            .with_fields(vec![Arc::new(list)])
            .build()
    }

    fn path(&self) -> ColumnPath {
        let below: &[&str] = if self.width.is_some() { &["list", "element"] } else { &[] };
        let names = [self.name.as_str()].into_iter().chain(below.iter().copied());
        ColumnPath::new(names.map(str::to_owned).collect())
    }

    fn write(
        &self,
        group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
        values: &Loaded,
    ) -> Result<(), ParquetError> {
        let bytes = &values.bytes[..];
        macro_rules! put {
            ($column:ty, $number:ty, $as:ty) => {
                self.put::<$column, _>(
                    group,
                    bytes.as_chunks::<{ size_of::<$number>() }>().0,
                    values.shape[0],
                    |x| <$number>::from_le_bytes(*x) as $as,
                )
            };
        }
        match self.dtype {
            Dtype::Bool => self.put::<BoolType, _>(group, bytes, values.shape[0], |x| *x != 0),
            Dtype::U8 => put!(Int32Type, u8, i32),
            Dtype::I8 => put!(Int32Type, i8, i32),
            Dtype::U16 => put!(Int32Type, u16, i32),
            Dtype::I16 => put!(Int32Type, i16, i32),
            Dtype::I32 => put!(Int32Type, i32, i32),
            Dtype::U32 => put!(Int64Type, u32, i64),
            Dtype::I64 => put!(Int64Type, i64, i64),
            Dtype::U64 => put!(Int64Type, u64, i64),
            Dtype::F32 | Dtype::C64 => put!(FloatType, f32, f32),
            Dtype::F64 => put!(DoubleType, f64, f64),
            Dtype::F16 | Dtype::Bf16 => {
                self.put::<FloatType, _>(group, &values.widened(), values.shape[0], |x| *x)
            }
        }
    }

    /// Writes numbers in pieces of whole rows, with the levels that mark where a list begins.
    fn put<T: DataType, N>(
        &self,
        group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
        numbers: &[N],
        rows: usize,
        value: impl Fn(&N) -> T::T,
    ) -> Result<(), ParquetError> {
        let Some(mut column) = group.next_column()? else { return Ok(()) };
        let writer = column.typed::<T>();
        match self.width {
            None => {
                for piece in numbers.chunks(PIECE) {
                    writer.write_batch(&piece.iter().map(&value).collect::<Vec<_>>(), None, None)?;
                }
            }
            // An empty list has levels, but no number.
            Some(0) => drop(writer.write_batch(&[], Some(&vec![0; rows]), Some(&vec![0; rows]))?),
            Some(width) => {
                for piece in numbers.chunks(width * (PIECE / width).max(1)) {
                    let repeated: Vec<i16> = (0..piece.len()).map(|i| i16::from(i % width > 0)).collect();
                    let values: Vec<T::T> = piece.iter().map(&value).collect();
                    writer.write_batch(&values, Some(&vec![1; piece.len()]), Some(&repeated))?;
                }
            }
        }
        column.close()
    }
}

/// Writes values of a column that is not a tensor, with the levels that mark which rows have one.
pub(super) fn put<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, impl Write + Send>,
    values: &[T::T],
    defined: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let Some(mut column) = group.next_column()? else { return Ok(()) };
    column.typed::<T>().write_batch(values, defined, None)?;
    column.close()
}

fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(source) => io::Error::other(source),
        },
        other => io::Error::other(other),
    }
}
