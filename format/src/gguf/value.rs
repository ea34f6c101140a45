//! The values of a GGUF file's metadata.

use std::fmt;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 8 bits, unsigned.
    U8,
    /// 8 bits, signed.
    I8,
    /// 16 bits, unsigned.
    U16,
    /// 16 bits, signed.
    I16,
    /// 32 bits, unsigned.
    U32,
    /// 32 bits, signed.
    I32,
    /// A float of 32 bits.
    F32,
    /// A byte that is 0 or 1.
    Bool,
    /// UTF-8.
    String,
    /// Values of one kind.
    Array,
    /// 64 bits, unsigned.
    U64,
    /// 64 bits, signed.
    I64,
    /// A float of 64 bits.
    F64,
}

/// All kinds; the place of each is its number in the file.
const KINDS: [Kind; 13] = [
    Kind::U8,
    Kind::I8,
    Kind::U16,
    Kind::I16,
    Kind::U32,
    Kind::I32,
    Kind::F32,
    Kind::Bool,
    Kind::String,
    Kind::Array,
    Kind::U64,
    Kind::I64,
    Kind::F64,
];

impl Kind {
    /// The kind of this number.
    pub(super) fn of(number: u32) -> Option<Self> {
        KINDS.get(usize::try_from(number).ok()?).copied()
    }

    /// Bytes of a value; none for those whose length varies.
    pub(super) fn bytes(self) -> Option<usize> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// A whole number of any width: all of them fit.
    Integer(i128),
    /// A float of either width.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(&'a str),
    /// Values of one kind.
    Array(Array<'a>),
}

impl fmt::Display for Value<'_> {
    /// As JSON would have it; of an array no more than its first elements. Text is as the file has it: escape it to show it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        match self {
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::String(text) => f.write_str(text),
            Self::Array(array) => {
                let shown: Vec<_> =
                    array.values().take(SHOWN).map(|value| value.to_string()).collect();
                let more = if array.len > SHOWN { ", …" } else { "" };
                write!(f, "{} of {:?}: {}{more}", array.len, array.kind, shown.join(", "))
            }
        }
    }
}

/// An array as it lies in the file; its elements are read when they are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    pub(super) kind: Kind,
    pub(super) len: usize,
    /// Checked: so many elements of this kind, and nothing behind them.
    pub(super) bytes: &'a [u8],
}

impl<'a> Array<'a> {
    /// What its elements are.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements in order.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let Self { kind, len, mut bytes } = *self;
        (0..len).map_while(move |_| {
            let length = match kind.bytes() {
                Some(length) => length,
                None => 8 + usize::try_from(u64::from_le_bytes(*bytes.first_chunk()?)).ok()?,
            };
            let (value, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            scalar(kind, value)
        })
    }
}

/// A value of a kind from exactly its bytes, a string's length included; none if they break its rule.
pub(super) fn scalar<'a>(kind: Kind, bytes: &'a [u8]) -> Option<Value<'a>> {
    let integer = |value: i128| Some(Value::Integer(value));
    match kind {
        Kind::U8 => integer(u8::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I8 => integer(i8::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::U16 => integer(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I16 => integer(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::U32 => integer(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I32 => integer(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::U64 => integer(u64::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::I64 => integer(i64::from_le_bytes(bytes.try_into().ok()?).into()),
        Kind::F32 => Some(Value::Float(f32::from_le_bytes(bytes.try_into().ok()?).into())),
        Kind::F64 => Some(Value::Float(f64::from_le_bytes(bytes.try_into().ok()?))),
        Kind::Bool => match bytes {
            [0] => Some(Value::Bool(false)),
            [1] => Some(Value::Bool(true)),
            _ => None,
        },
        Kind::String => Some(Value::String(std::str::from_utf8(bytes.get(8..)?).ok()?)),
        Kind::Array => None,
    }
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl TryFrom<Value<'_>> for $type {
            type Error = String;

            fn try_from(value: Value<'_>) -> Result<Self, String> {
                match value {
                    Value::Integer(integer) => integer.try_into().map_err(|_| {
                        format!("must be {} to {}, is {integer}", <$type>::MIN, <$type>::MAX)
                    }),
                    _ => Err("must be a whole number".into()),
                }
            }
        }
    )*};
}

integers!(usize, u32, u64);

impl TryFrom<Value<'_>> for f64 {
    type Error = String;

    fn try_from(value: Value<'_>) -> Result<Self, String> {
        match value {
            Value::Float(value) if value.is_finite() => Ok(value),
            Value::Float(value) => Err(format!("must be finite, is {value}")),
            _ => Err("must be a float".into()),
        }
    }
}

impl TryFrom<Value<'_>> for bool {
    type Error = String;

    fn try_from(value: Value<'_>) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(value),
            _ => Err("must be true or false".into()),
        }
    }
}

impl<'a> TryFrom<Value<'a>> for &'a str {
    type Error = String;

    fn try_from(value: Value<'a>) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text),
            _ => Err("must be text".into()),
        }
    }
}

impl<'a> TryFrom<Value<'a>> for Array<'a> {
    type Error = String;

    fn try_from(value: Value<'a>) -> Result<Self, String> {
        match value {
            Value::Array(array) => Ok(array),
            _ => Err("must be an array".into()),
        }
    }
}
