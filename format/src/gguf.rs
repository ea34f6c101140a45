//! GGUF, the files of llama.cpp: metadata of any kind, then tensors in blocks.
//!
//! ```text
//! "GGUF"   u32 version (2 or 3)   u64 number of tensors   u64 number of entries
//! each entry    string key, u32 kind, value          a string is u64 bytes, then UTF-8
//! each tensor   string name, u32 sides, u64 side … (innermost first), u32 type, u64 offset
//! padding to a multiple of `general.alignment` (32 where the file does not say)
//! the tensors' data, each at its offset from here, which is such a multiple
//! ```
//!
//! All little-endian. (ggml's `docs/gguf.md`.) Every length and offset is held to the bytes that there are before anything
//! is allocated: a file costs a few times its header. Names must be unique, data must not overlap.

mod blocks;
mod encode;
mod export;
pub mod model;
mod pre_tokenizer;
mod read;
pub mod tokenizer;
mod value;
mod vocabulary;
mod write;

use std::collections::BTreeMap;

pub use blocks::{BlockType, Trits};
pub use export::{Export, TYPES, export};
pub use value::{Array, Kind, Value};
pub use write::{Entry, Layout, NewTensor};

use crate::error::{Error, Result};

/// A file, checked; everything borrows from its bytes.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    /// What the file says of itself.
    pub metadata: BTreeMap<&'a str, Value<'a>>,
    /// Its tensors.
    pub tensors: BTreeMap<&'a str, View<'a>>,
}

/// One tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct View<'a> {
    /// How its elements are stored.
    pub block_type: BlockType,
    /// The sides, outermost first: the reverse of the file's order.
    pub shape: Vec<usize>,
    /// The blocks: exactly as many as shape and type ask for.
    pub bytes: &'a [u8],
}

impl<'a> Gguf<'a> {
    /// Reads the header of a file and finds its tensors.
    ///
    /// # Errors
    ///
    /// What is wrong and at which byte, or with which tensor.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        read::parse(bytes)
    }

    /// Whether bytes begin as a GGUF file does.
    pub fn recognize(bytes: &[u8]) -> bool {
        bytes.starts_with(read::MAGIC)
    }

    /// The value of a key.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] if it is absent.
    pub fn get(&self, key: &str) -> Result<Value<'a>> {
        let absent = || Error::Metadata { key: key.into(), rule: "must be there".into() };
        self.metadata.get(key).copied().ok_or_else(absent)
    }

    /// A value of this type, if the key is there.
    ///
    /// # Errors
    ///
    /// [`Error::Metadata`] if it is of another kind, or outside the type's range.
    pub fn find<T: TryFrom<Value<'a>, Error = String>>(&self, key: &str) -> Result<Option<T>> {
        let convert = |value: &Value<'a>| {
            T::try_from(*value).map_err(|rule| Error::Metadata { key: key.into(), rule })
        };
        self.metadata.get(key).map(convert).transpose()
    }
}

impl View<'_> {
    /// Its values, row-major.
    ///
    /// # Errors
    ///
    /// [`Error::NotFinite`], and what [`Self::trits`] refuses in a ternary tensor.
    pub fn floats(&self) -> Result<Vec<f32>> {
        self.block_type.floats(self.bytes)
    }

    /// Its trits and scales as they are stored; none if its type is not ternary.
    ///
    /// # Errors
    ///
    /// A code that is no trit, a scale that is no number.
    pub fn trits(&self) -> Result<Option<Trits>> {
        self.block_type.trits(self.bytes)
    }
}

#[cfg(test)]
mod tests;
