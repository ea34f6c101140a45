//! Writing: one set of tensors has one sequence of bytes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io::{self, Write};

use half::{bf16, f16};
use serde_json::{Map, Value, json};

use super::{Dtype, MOST_HEADER_BYTES};
use crate::error::{Error, Result};

/// Values that are converted at a time.
const CHUNK: usize = 4096;

/// The elements of a tensor to be written.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Bytes, as they are.
    U8(&'a [u8]),
    /// `F32`.
    F32(&'a [f32]),
    /// `F16`; the values are exact in it.
    F16(&'a [f32]),
    /// `BF16`; the values are exact in it.
    Bf16(&'a [f32]),
}

impl Data<'_> {
    /// Type of the elements in the file.
    pub fn dtype(&self) -> Dtype {
        match self {
            Self::U8(_) => Dtype::U8,
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::Bf16(_) => Dtype::BF16,
        }
    }

    /// Number of elements.
    fn elements(&self) -> usize {
        match self {
            Self::U8(bytes) => bytes.len(),
            Self::F32(values) | Self::F16(values) | Self::Bf16(values) => values.len(),
        }
    }

    /// Bytes in the file.
    fn size_bytes(&self) -> u64 {
        self.elements() as u64 * (self.dtype().bitsize() / 8) as u64
    }

    /// Checks that the elements fill the shape, and that the file would hold these values and no others.
    pub(crate) fn check(&self, shape: &[usize]) -> Result<()> {
        let sides = || shape.iter().map(|&side| side as u64);
        let expected = sides()
            .try_fold(1, u64::checked_mul)
            .ok_or_else(|| Error::ShapeOverflow { found: sides().collect() })?;
        let found = self.elements() as u64;
        if expected != found {
            return Err(Error::Count { unit: "values", expected, found });
        }
        let (values, dtype, stored): (_, _, fn(f32) -> f32) = match self {
            Self::U8(_) => return Ok(()),
            Self::F32(values) => (values, "f32", |value| value),
            Self::F16(values) => (values, "f16", |value| f16::from_f32(value).to_f32()),
            Self::Bf16(values) => (values, "bf16", |value| bf16::from_f32(value).to_f32()),
        };
        for (index, &value) in values.iter().enumerate() {
            if !stored(value).is_finite() {
                return Err(Error::NotFinite { index, dtype, value });
            }
            if stored(value).to_bits() != value.to_bits() {
                return Err(Error::NotRounded { index, dtype, value });
            }
        }
        Ok(())
    }

    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::U8(bytes) => out.write_all(bytes),
            Self::F32(values) => write_each(out, values, f32::to_le_bytes),
            Self::F16(values) => write_each(out, values, |v| f16::from_f32(v).to_le_bytes()),
            Self::Bf16(values) => write_each(out, values, |v| bf16::from_f32(v).to_le_bytes()),
        }
    }
}

fn write_each<const N: usize>(
    out: &mut dyn Write,
    values: &[f32],
    element: impl Fn(f32) -> [u8; N],
) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK * N);
    for chunk in values.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|&value| element(value)));
        out.write_all(&bytes)?;
    }
    Ok(())
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
