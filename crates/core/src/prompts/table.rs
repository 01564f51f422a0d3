//! A column of a text table: CSV and TSV.

use std::cell::{Cell, RefCell};
use std::io::{self, Read};
use std::rc::Rc;

use csv::{ReaderBuilder, StringRecord};

use super::quotes::Quotes;
use super::{NAME_IT, Place, Prompt, ReadOptions, Receiver, no_field, too_long};
use crate::error::{Error, ErrorKind, Result};

/// Bytes read ahead of a record.
const AHEAD: usize = 64 << 10;

/// Reads the column of a table that its first record names.
pub(super) fn read(
    reader: impl Read,
    between: u8,
    options: &ReadOptions,
    receiver: &mut Receiver<'_>,
) -> Result<()> {
    let find = |names: &[String]| column(names, &options.field).map_err(|e| e.hint(NAME_IT));
    each(reader, between, options, find, |place, record, column| {
        if receiver.is_full(options) {
            return Ok(false);
        }
        let text = record.get(*column).unwrap_or_default();
        receiver.take(place, Some(Prompt::Text(text.to_owned())), options)?;
        Ok(!receiver.is_full(options))
    })
}

/// The index of the only column with this name.
pub(super) fn column(names: &[String], name: &str) -> Result<usize> {
    let mut found = (0..names.len()).filter(|column| names[*column] == name);
    match (found.next(), found.next()) {
        (Some(column), None) => Ok(column),
        (Some(_), Some(_)) => Err(several_columns(name)),
        _ => Err(Error::new(ErrorKind::Format, no_field(name, "column", names))),
    }
}

pub(super) fn several_columns(name: &str) -> Error {
    Error::new(ErrorKind::Format, format!("several columns are named `{name}`"))
}

/// Visits the records of a table after its header, until `visit` returns false. `find` gets the column names, and
/// `visit` gets its result.
pub(super) fn each<T>(
    reader: impl Read,
    between: u8,
    options: &ReadOptions,
    find: impl FnOnce(&[String]) -> Result<T>,
    mut visit: impl FnMut(Place, &StringRecord, &T) -> Result<bool>,
) -> Result<()> {
    let left = Rc::new(Cell::new(0));
    let most = options.longest_row.saturating_add(AHEAD);
    let quotes = Rc::new(RefCell::new(Quotes::new(between)));
    let bounded = Bounded { inner: reader, left: left.clone(), quotes: quotes.clone() };
    left.set(most);
    let mut table = ReaderBuilder::new().delimiter(between).buffer_capacity(AHEAD / 2).from_reader(bounded);
    let first = Place { row: 0, line: Some(1) };
    let header = table.headers().map_err(|e| wrong(first, &e, options))?.clone();
    let names: Vec<String> =
        header.iter().map(|name| name.trim_start_matches('\u{feff}').to_owned()).collect();
    quotes.borrow_mut().record(0, table.position().byte())?;
    if names.is_empty() {
        return Err(first.wrong("the table is empty: its first line names its columns"));
    }
    let columns = find(&names)?;
    let mut record = StringRecord::new();
    for row in 0.. {
        left.set(most);
        let line = table.position().line() as usize;
        let place = Place { row, line: Some(line) };
        if !table.read_record(&mut record).map_err(|e| wrong(place, &e, options))? {
            break;
        }
        let begins = quotes.borrow_mut().record(row, table.position().byte())?;
        if !visit(Place { row, line: begins.or(Some(line)) }, &record, &columns)? {
            break;
        }
    }
    Ok(())
}

fn wrong(place: Place, error: &csv::Error, options: &ReadOptions) -> Error {
    match error.kind() {
        csv::ErrorKind::Io(e) if e.kind() == io::ErrorKind::FileTooLarge => too_long(place, options),
        csv::ErrorKind::Io(e) => Error::new(ErrorKind::Io, e.to_string()),
        csv::ErrorKind::Utf8 { err, .. } => place.wrong(format!("not UTF-8 in field {}", err.field())),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => place
            .wrong(format!("{len} fields, and the header has {expected_len}"))
            .hint("put a field that contains the separator in quotes"),
        _ => place.wrong(error),
    }
}

/// A reader that fails if one record exceeds its limit, and passes its bytes to the quote check.
struct Bounded<R> {
    inner: R,
    left: Rc<Cell<usize>>,
    quotes: Rc<RefCell<Quotes>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        if !into.is_empty() {
            self.quotes.borrow_mut().follow(&into[..count]);
        }
        match self.left.get().checked_sub(count) {
            Some(left) => self.left.set(left),
            None => return Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        }
        Ok(count)
    }
}
