use std::collections::{BTreeMap, BTreeSet};

use super::cursor::Cursor;
use super::tensors::{self, Described, TensorInfo};
use super::value::{Array, Value};
use super::{MAGIC, tensors::refuse_overlaps};
use crate::{Error, Result};

/// The header of a GGUF file: version, metadata, and the place of each tensor. Holds no tensor data.
#[derive(Debug, Clone, PartialEq)]
pub struct Gguf {
    /// Format version: 2 or 3.
    pub version: u32,
    /// All metadata, by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors, in file order.
    pub tensors: Vec<TensorInfo>,
}

/// Bytes of the shortest key-value pair: an empty key, a type, one byte.
const SHORTEST_PAIR: usize = 8 + 4 + 1;

/// Alignment of the tensors unless `general.alignment` sets it.
const DEFAULT_ALIGNMENT: u64 = 32;

impl Gguf {
    /// Parses the header of a whole file.
    ///
    /// # Errors
    /// If it is not a GGUF file of version 2 or 3, contradicts itself or its length, or holds an unsupported type.
    /// Nothing is allocated on a claim alone: memory stays within a small multiple of the file size.
    pub fn parse(file: &[u8]) -> Result<Self> {
        let mut cursor = Cursor::new(file);
        if cursor.array().ok().as_ref() != Some(MAGIC) {
            return Err(Error::malformed("does not begin with `GGUF`"));
        }
        let version = read_version(&mut cursor)?;
        let tensor_count = cursor.count("tensors", tensors::SHORTEST)?;
        let pair_count = cursor.count("key-value pairs", SHORTEST_PAIR)?;
        let metadata = read_metadata(&mut cursor, pair_count)?;
        let described = read_tensors(&mut cursor, tensor_count)?;
        let mut gguf = Gguf { version, metadata, tensors: Vec::new() };

        let alignment = gguf.alignment()?;
        // Checked: a position within memory, rounded up by less than 2^31.
        let data_start = cursor.position().next_multiple_of(alignment);
        let place = |tensor: Described| tensor.place(data_start, alignment, file.len());
        gguf.tensors = described.into_iter().map(place).collect::<Result<_>>()?;
        refuse_overlaps(&gguf.tensors)?;
        Ok(gguf)
    }

    /// The string under `key`; `None` if there is no such key. The same holds for the types below.
    ///
    /// # Errors
    /// If the key holds something else. The same holds for the types below.
    pub fn str(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", |value| match value {
            Value::Str(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The non-negative integer under `key`.
    ///
    /// # Errors
    /// If the key holds something else, including a negative number.
    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", unsigned)
    }

    /// The non-negative integer below 2^32 under `key`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>> {
        self.typed(key, "an integer from 0 to 2^32 - 1", |value| unsigned(value)?.try_into().ok())
    }

    /// The float under `key`, rounded to single precision if it was written in double.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>> {
        self.typed(key, "a float", |value| match value {
            Value::Float(number) => Some(*number as f32),
            _ => None,
        })
    }

    /// The boolean under `key`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        })
    }

    /// The strings under `key`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn strings(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "an array of strings", |value| match value {
            Value::Array(Array::Str(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// The integers under `key`, of either sign.
    ///
    /// # Errors
    /// If the key holds something else, or an integer beyond 2^63 - 1.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", |value| match value {
            Value::Array(Array::Signed(numbers)) => Some(numbers.clone()),
            Value::Array(Array::Unsigned(numbers)) => {
                numbers.iter().map(|&number| i64::try_from(number).ok()).collect()
            }
            _ => None,
        })
    }

    /// The floats under `key`, rounded to single precision if they were written in double.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        self.typed(key, "an array of floats", |value| match value {
            Value::Array(Array::Float(numbers)) => {
                Some(numbers.iter().map(|&number| number as f32).collect())
            }
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(Error::request(format!("key `{key}` is {}, not {wanted}", value.type_name()))),
        }
    }

    fn alignment(&self) -> Result<usize> {
        let alignment = self.u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        match u32::try_from(alignment) {
            Ok(power) if power.is_power_of_two() && power <= 1 << 30 => Ok(power as usize),
            _ => Err(Error::malformed(format!("`general.alignment` is {alignment}, not a power of two"))),
        }
    }
}

fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Unsigned(number) => Some(*number),
        Value::Signed(number) => u64::try_from(*number).ok(),
        _ => None,
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    match cursor.u32()? {
        version @ (2 | 3) => Ok(version),
        1 => {
            Err(Error::unsupported("is GGUF version 1, which is no longer supported; convert the model anew"))
        }
        // The low bytes are empty: the number was written on or for a big-endian machine.
        swapped if swapped & 0xFFFF == 0 => {
            Err(Error::unsupported("is a big-endian GGUF file; only little-endian is read"))
        }
        newer => Err(Error::unsupported(format!("is GGUF version {newer}; 2 and 3 are read"))),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<BTreeMap<String, Value>> {
    let mut metadata = BTreeMap::new();
    for _ in 0..count {
        let key = cursor.string()?;
        let place = || format!("key `{}`", key.escape_debug());
        let value = Value::read(cursor).map_err(|e| e.within(place()))?;
        if metadata.insert(key.to_owned(), value).is_some() {
            return Err(Error::malformed("stands twice").within(place()));
        }
    }
    Ok(metadata)
}

fn read_tensors(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<Described>> {
    let tensors: Vec<Described> = (0..count).map(|_| Described::read(cursor)).collect::<Result<_>>()?;
    let mut names = BTreeSet::new();
    match tensors.iter().find(|tensor| !names.insert(tensor.name())) {
        Some(twice) => {
            Err(Error::malformed("stands twice").within(format_args!("tensor `{}`", twice.name())))
        }
        None => Ok(tensors),
    }
}
