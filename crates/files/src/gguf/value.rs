use super::cursor::Cursor;
use crate::{Error, Result};

/// A metadata value of a GGUF file. Numbers are widened: the width is the writer's choice and carries no meaning.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// Text.
    Str(String),
    /// Several values of one type.
    Array(Array),
}

/// Several values of one type. Arrays of arrays occur in no released model and are refused.
#[expect(missing_docs, reason = "the variants are those of `Value`")]
#[derive(Debug, Clone, PartialEq)]
pub enum Array {
    Unsigned(Vec<u64>),
    Signed(Vec<i64>),
    Float(Vec<f64>),
    Bool(Vec<bool>),
    Str(Vec<String>),
}

impl Value {
    /// The type, in words.
    pub fn type_name(&self) -> &'static str {
        match self {
            Value::Unsigned(_) => "an unsigned integer",
            Value::Signed(_) => "a signed integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::Str(_) => "a string",
            Value::Array(Array::Unsigned(_)) => "an array of unsigned integers",
            Value::Array(Array::Signed(_)) => "an array of signed integers",
            Value::Array(Array::Float(_)) => "an array of floats",
            Value::Array(Array::Bool(_)) => "an array of booleans",
            Value::Array(Array::Str(_)) => "an array of strings",
        }
    }

    pub(super) fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let tag = cursor.u32()?;
        Ok(match tag {
            0 | 2 | 4 | 10 => Value::Unsigned(unsigned(tag, cursor)?),
            1 | 3 | 5 | 11 => Value::Signed(signed(tag, cursor)?),
            6 | 12 => Value::Float(float(tag, cursor)?),
            7 => Value::Bool(boolean(cursor)?),
            8 => Value::Str(cursor.string()?.to_owned()),
            9 => Value::Array(Array::read(cursor)?),
            _ => return Err(Error::malformed(format!("value type {tag} does not exist"))),
        })
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Unsigned(values) => values.len(),
            Array::Signed(values) => values.len(),
            Array::Float(values) => values.len(),
            Array::Bool(values) => values.len(),
            Array::Str(values) => values.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self> {
        let tag = cursor.u32()?;
        let smallest = match tag {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(Error::unsupported("arrays of arrays are not read")),
            _ => return Err(Error::malformed(format!("array element type {tag} does not exist"))),
        };
        let count = cursor.count("array elements", smallest)?;
        Ok(match tag {
            0 | 2 | 4 | 10 => {
                Array::Unsigned((0..count).map(|_| unsigned(tag, cursor)).collect::<Result<_>>()?)
            }
            1 | 3 | 5 | 11 => Array::Signed((0..count).map(|_| signed(tag, cursor)).collect::<Result<_>>()?),
            6 | 12 => Array::Float((0..count).map(|_| float(tag, cursor)).collect::<Result<_>>()?),
            7 => Array::Bool((0..count).map(|_| boolean(cursor)).collect::<Result<_>>()?),
            _ => Array::Str((0..count).map(|_| cursor.string().map(str::to_owned)).collect::<Result<_>>()?),
        })
    }
}

fn unsigned(tag: u32, cursor: &mut Cursor<'_>) -> Result<u64> {
    Ok(match tag {
        0 => u64::from(u8::from_le_bytes(cursor.array()?)),
        2 => u64::from(u16::from_le_bytes(cursor.array()?)),
        4 => u64::from(u32::from_le_bytes(cursor.array()?)),
        _ => u64::from_le_bytes(cursor.array()?),
    })
}

fn signed(tag: u32, cursor: &mut Cursor<'_>) -> Result<i64> {
    Ok(match tag {
        1 => i64::from(i8::from_le_bytes(cursor.array()?)),
        3 => i64::from(i16::from_le_bytes(cursor.array()?)),
        5 => i64::from(i32::from_le_bytes(cursor.array()?)),
        _ => i64::from_le_bytes(cursor.array()?),
    })
}

fn float(tag: u32, cursor: &mut Cursor<'_>) -> Result<f64> {
    Ok(match tag {
        6 => f64::from(f32::from_le_bytes(cursor.array()?)),
        _ => f64::from_le_bytes(cursor.array()?),
    })
}

fn boolean(cursor: &mut Cursor<'_>) -> Result<bool> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(Error::malformed(format!("a boolean is 0 or 1, not {other}"))),
    }
}
