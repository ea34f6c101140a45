//! Reading: the header is hostile until every tensor has its own bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use super::{Dtype, MOST_HEADER_BYTES, recognize::looks_like};
use crate::decode::{each, finite};
use crate::error::{Error, Result, quoted};

/// Bytes of the header's length.
const LENGTH_BYTES: usize = 8;

/// As much of a file as it takes to tell what it is.
const START_BYTES: u64 = 1024;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Type of the elements.
    pub dtype: Dtype,
    /// The sides, outermost first.
    pub shape: Vec<usize>,
    /// The elements: exactly as many bytes as the shape and the type ask for.
    pub bytes: &'a [u8],
}

impl View<'_> {
    /// The values of a float tensor, every one finite.
    ///
    /// # Errors
    ///
    /// [`Error::Dtype`] if it is not `F32`, `F16`, `BF16` or `F64`; [`Error::NotFinite`] with the place.
    pub fn floats(&self) -> Result<Vec<f32>> {
        let (dtype, values): (_, Vec<f32>) = match self.dtype {
            Dtype::F32 => ("f32", each(self.bytes, f32::from_le_bytes)),
            Dtype::F16 => ("f16", each(self.bytes, |b| f16::from_le_bytes(b).to_f32())),
            Dtype::BF16 => ("bf16", each(self.bytes, |b| bf16::from_le_bytes(b).to_f32())),
            // Rounded, so it is `f32` that the value must fit.
            Dtype::F64 => ("f32", each(self.bytes, |b| f64::from_le_bytes(b) as f32)),
            found => return Err(Error::Dtype { expected: "F32, F16, BF16 or F64", found }),
        };
        finite(values, dtype)
    }
}

/// The tensors and the metadata of a file.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    /// Every tensor by name.
    pub tensors: BTreeMap<String, View<'a>>,
    /// What `__metadata__` holds.
    pub metadata: BTreeMap<String, String>,
}

impl<'a> Contents<'a> {
    /// Finds the tensors of a file, and checks that they are its bytes: all of them, each once.
    ///
    /// # Errors
    ///
    /// What is wrong, with the tensor and the value found. Nothing larger than a few times the header is allocated.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let (header, data) = Header::split(bytes)?;
        header.contents(data)
    }
}

/// The header of a file: all that can be checked before its data are read.
#[derive(Clone, Debug)]
pub struct Header {
    /// Every tensor by name.
    pub tensors: BTreeMap<String, Place>,
    /// What `__metadata__` holds.
    pub metadata: BTreeMap<String, String>,
    /// Bytes of data behind the header: the tensors fill them without holes.
    data_bytes: u64,
}

/// One tensor as the header describes it: its shape and type ask for exactly the bytes at its place.
#[derive(Clone, Debug)]
pub struct Place {
    /// Type of the elements.
    pub dtype: Dtype,
    /// The sides, outermost first.
    pub shape: Vec<usize>,
    span: Range<u64>,
}

impl Header {
    /// The header of a whole file in memory, and the data behind it.
    ///
    /// # Errors
    ///
    /// What is wrong, with the tensor and the value found.
    pub fn split(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let (json, data) = bytes[LENGTH_BYTES.min(bytes.len())..]
            .split_at(header_bytes(bytes, bytes.len() as u64)? as usize);
        Ok((Self::parse(json, data.len() as u64)?, data))
    }

    /// Reads the header of a file of `size_bytes` and leaves the reader where the data begin.
    ///
    /// # Errors
    ///
    /// As [`Self::split`], and what the reader reports.
    pub fn read(file: &mut (impl Read + Seek), size_bytes: u64) -> Result<Self> {
        let start = read_bytes(file, size_bytes.min(START_BYTES))?;
        let length = header_bytes(&start, size_bytes)?;
        file.seek(SeekFrom::Start(LENGTH_BYTES as u64))?;
        Self::parse(&read_bytes(file, length)?, size_bytes - LENGTH_BYTES as u64 - length)
    }

    /// Reads the data behind a header.
    ///
    /// # Errors
    ///
    /// What the reader reports, or that it ends too early.
    pub fn read_data(&self, file: &mut impl Read) -> Result<Vec<u8>> {
        read_bytes(file, self.data_bytes)
    }

    /// The tensors with their bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Count`] if these are not as many bytes as the header describes.
    pub fn contents(self, data: &[u8]) -> Result<Contents<'_>> {
        if data.len() as u64 != self.data_bytes {
            let found = data.len() as u64;
            return Err(Error::Count { unit: "bytes", expected: self.data_bytes, found });
        }
        let view = |place: Place| {
            // Inside `data`, so inside `usize`.
            let bytes = &data[place.span.start as usize..place.span.end as usize];
            View { dtype: place.dtype, shape: place.shape, bytes }
        };
        let tensors = self.tensors.into_iter().map(|(name, place)| (name, view(place))).collect();
        Ok(Contents { tensors, metadata: self.metadata })
    }

    fn parse(json: &[u8], data_bytes: u64) -> Result<Self> {
        let written: Written =
            serde_json::from_slice(json).map_err(|source| Error::Header { source })?;
        let mut metadata = BTreeMap::new();
        for (key, value) in written.metadata {
            if metadata.contains_key(&key) {
                return Err(Error::Metadata { key, rule: "occurs twice".into() });
            }
            metadata.insert(key, value);
        }
        check_spans(&written.tensors, data_bytes)?;
        let mut tensors = BTreeMap::new();
        for (name, place) in written.tensors {
            let place = place.checked().map_err(|error| error.in_tensor(&name))?;
            if tensors.contains_key(&name) {
                return Err(Error::Duplicate.in_tensor(&name));
            }
            tensors.insert(name, place);
        }
        Ok(Self { tensors, metadata, data_bytes })
    }
}

/// Exactly so many bytes. A sparse file may claim more than there is memory: an error, not an abort.
fn read_bytes(reader: &mut impl Read, count: u64) -> Result<Vec<u8>> {
    let too_large = || Error::Io(std::io::ErrorKind::OutOfMemory.into());
    let length = usize::try_from(count).map_err(|_| too_large())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| too_large())?;
    reader.take(count).read_to_end(&mut bytes)?;
    // The file may have been cut since its size was asked for.
    if bytes.len() < length {
        return Err(Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(bytes)
}

/// The length of the header of a file that begins with `start`.
fn header_bytes(start: &[u8], size_bytes: u64) -> Result<u64> {
    let other = |looks_like| Err(Error::NotSafetensors { looks_like });
    let Some((length, rest)) = start.split_first_chunk::<LENGTH_BYTES>() else {
        return other(looks_like(start).unwrap_or("a file cut within its first eight bytes"));
    };
    let says = u64::from_le_bytes(*length);
    let most = MOST_HEADER_BYTES.min(size_bytes - LENGTH_BYTES as u64);
    // A header begins with its brace. GGUF with 123 tensors has a brace there too, and an absurd length.
    let braced = rest.first() == Some(&b'{');
    if !braced || says > most {
        return match looks_like(start) {
            Some(kind) => other(kind),
            None if !braced => other("bytes of no kind that Tern knows"),
            None => Err(Error::HeaderLength { says, most }),
        };
    }
    Ok(says)
}

/// Checks that the tensors lie end to end and fill the data.
fn check_spans(tensors: &[(String, WrittenPlace)], available: u64) -> Result<()> {
    let mut order: Vec<_> =
        tensors.iter().map(|(name, place)| (place.data_offsets, name)).collect();
    order.sort_unstable();
    let mut end_before = 0;
    for ((begin, end), name) in order {
        if end < begin {
            return Err(Error::Backwards { begin, end }.in_tensor(name));
        }
        if end > available {
            return Err(Error::Truncated { end, available }.in_tensor(name));
        }
        if begin != end_before {
            return Err(Error::Offset { expected: end_before, found: begin }.in_tensor(name));
        }
        end_before = end;
    }
    match available - end_before {
        0 => Ok(()),
        count => Err(Error::TrailingBytes { count }),
    }
}

/// One tensor as the JSON has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPlace {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl WrittenPlace {
    /// The place, if the shape asks for as many bytes as there are. [`check_spans`] has run: the offsets are in order.
    fn checked(self) -> Result<Place> {
        let (begin, end) = self.data_offsets;
        let bits = self
            .shape
            .iter()
            .try_fold(self.dtype.bitsize() as u64, |bits, &side| bits.checked_mul(side))
            .ok_or_else(|| Error::ShapeOverflow { found: self.shape.clone() })?;
        let expected = bits.div_ceil(8);
        if expected != end - begin {
            return Err(Error::Count { unit: "bytes", expected, found: end - begin });
        }
        let shape = self.shape.iter().map(|&side| usize::try_from(side)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| Error::ShapeOverflow { found: self.shape })?;
        Ok(Place { dtype: self.dtype, shape, span: begin..end })
    }
}

/// The header with every entry kept, so that a name which occurs twice can be refused.
struct Written {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, WrittenPlace)>,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WrittenVisitor)
    }
}

struct WrittenVisitor;

impl<'de> Visitor<'de> for WrittenVisitor {
    type Value = Written;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
        let mut header = Written { metadata: Vec::new(), tensors: Vec::new() };
        let mut metadata_seen = false;
        while let Some(name) = map.next_key::<String>()? {
            // The JSON reader knows the column, and this knows the tensor.
            let named =
                |error| de::Error::custom(format_args!("tensor {}: {error}", quoted(&name)));
            if name != "__metadata__" {
                let place = map.next_value().map_err(named)?;
                header.tensors.push((name, place));
            } else if metadata_seen {
                return Err(de::Error::custom("`__metadata__` occurs twice"));
            } else {
                metadata_seen = true;
                header.metadata = map.next_value::<Metadata>()?.0;
            }
        }
        Ok(header)
    }
}

/// `__metadata__` with every entry kept.
struct Metadata(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MetadataVisitor)
    }
}

struct MetadataVisitor;

impl<'de> Visitor<'de> for MetadataVisitor {
    type Value = Metadata;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            let named =
                |error| de::Error::custom(format_args!("metadata {}: {error}", quoted(&key)));
            let value = map.next_value().map_err(named)?;
            entries.push((key, value));
        }
        Ok(Metadata(entries))
    }
}
