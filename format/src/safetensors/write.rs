//! Writing: one set of tensors has one sequence of bytes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::{Dtype, MOST_HEADER_BYTES};
use crate::error::{Error, Result};

/// Values that are converted at a time.
const CHUNK: usize = 4096;

/// The elements of a tensor to be written.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Elements of a type as they lie in the file.
    Bytes(Dtype, &'a [u8]),
    /// `F32`, every one finite.
    F32(&'a [f32]),
}

impl Data<'_> {
    /// Type of the elements in the file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::Bytes(dtype, _) => *dtype,
            Self::F32(_) => Dtype::F32,
        }
    }

    /// Bytes in the file.
    fn size_bytes(&self) -> u64 {
        match self {
            Self::Bytes(_, bytes) => bytes.len() as u64,
            Self::F32(values) => size_of_val(*values) as u64,
        }
    }

    /// Checks that the elements fill the shape.
    pub(crate) fn check(&self, shape: &[usize]) -> Result<()> {
        let sides = || shape.iter().map(|&side| side as u64);
        let expected = sides()
            .try_fold(1, u64::checked_mul)
            .ok_or_else(|| Error::ShapeOverflow { found: sides().collect() })?;
        let found = self.size_bytes() / (self.dtype().bitsize() as u64 / 8);
        if expected != found {
            return Err(Error::Count { unit: "values", expected, found });
        }
        let Self::F32(values) = self else { return Ok(()) };
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(Error::NotFinite { index, dtype: "f32", value: values[index] }),
            None => Ok(()),
        }
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let values = match self {
            Self::Bytes(_, bytes) => return out.write_all(bytes),
            Self::F32(values) => values,
        };
        let mut bytes = Vec::with_capacity(4 * CHUNK);
        for chunk in values.chunks(CHUNK) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
            out.write_all(&bytes)?;
        }
        Ok(())
    }
}

/// One tensor to be written.
#[derive(Clone, Debug)]
pub struct Entry<'a> {
    /// Its name.
    pub name: String,
    /// The sides, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data<'a>,
}

/// A file whose every byte is decided, and not yet written.
#[derive(Clone, Debug)]
pub struct Layout<'a> {
    header: Vec<u8>,
    entries: Vec<Entry<'a>>,
}

impl<'a> Layout<'a> {
    /// Puts the tensors in order and makes the header.
    ///
    /// # Errors
    ///
    /// [`Error::Tensor`] if values do not fill the shape or are not finite and exact in their type, or a name
    /// occurs twice; [`Error::HeaderLength`] if the header is longer than readers accept.
    pub fn new(metadata: &BTreeMap<String, String>, mut entries: Vec<Entry<'a>>) -> Result<Self> {
        entries.sort_by(|a, b| {
            let key = |entry: &Entry<'_>| Reverse(entry.data.dtype().bitsize());
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        // An ordered map: the header lists the tensors as the data does.
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), json!(metadata));
        }
        let mut begin = 0;
        for entry in &entries {
            entry.data.check(&entry.shape).map_err(|error| error.in_tensor(&entry.name))?;
            let end = begin + entry.data.size_bytes();
            let place = json!({
                "dtype": entry.data.dtype().to_string(),
                "shape": entry.shape,
                "data_offsets": [begin, end],
            });
            if header.insert(entry.name.clone(), place).is_some() || entry.name == "__metadata__" {
                return Err(Error::Duplicate.in_tensor(&entry.name));
            }
            begin = end;
        }
        let mut header = Value::Object(header).to_string().into_bytes();
        header.resize(header.len().next_multiple_of(8), b' ');
        let says = header.len() as u64;
        if says > MOST_HEADER_BYTES {
            return Err(Error::HeaderLength { says, most: MOST_HEADER_BYTES });
        }
        Ok(Self { header, entries })
    }

    /// Bytes of the whole file.
    pub fn size_bytes(&self) -> u64 {
        let data = self.entries.iter().map(|entry| entry.data.size_bytes()).sum::<u64>();
        8 + self.header.len() as u64 + data
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&(self.header.len() as u64).to_le_bytes())?;
        out.write_all(&self.header)?;
        self.entries.iter().try_for_each(|entry| entry.data.write(out))
    }
}
