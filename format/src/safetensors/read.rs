//! Reading: the header is hostile until every tensor has its own bytes.

use std::collections::BTreeMap;
use std::fmt;

use half::{bf16, f16};
use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};

use super::{Dtype, MOST_HEADER_BYTES, recognize::looks_like};
use crate::error::{Error, Result, quoted};

/// Bytes of the header's length.
const LENGTH_BYTES: usize = 8;

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
        match values.iter().position(|value| !value.is_finite()) {
            Some(index) => Err(Error::NotFinite { index, dtype, value: values[index] }),
            None => Ok(values),
        }
    }
}

fn each<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&element| value(element)).collect()
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
        let (header, data) = split(bytes)?;
        let header: Header =
            serde_json::from_slice(header).map_err(|source| Error::Header { source })?;
        let mut metadata = BTreeMap::new();
        for (key, value) in header.metadata {
            if metadata.contains_key(&key) {
                return Err(Error::Metadata { key, rule: "occurs twice".into() });
            }
            metadata.insert(key, value);
        }
        check_spans(&header.tensors, data.len() as u64)?;
        let mut tensors = BTreeMap::new();
        for (name, place) in header.tensors {
            let view = place.view(data).map_err(|error| error.in_tensor(&name))?;
            if tensors.contains_key(&name) {
                return Err(Error::Duplicate.in_tensor(&name));
            }
            tensors.insert(name, view);
        }
        Ok(Self { tensors, metadata })
    }
}

/// The header and the data behind it.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let other = |looks_like| Err(Error::NotSafetensors { looks_like });
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return other(looks_like(bytes).unwrap_or("a file cut within its first eight bytes"));
    };
    let says = u64::from_le_bytes(*length);
    let most = MOST_HEADER_BYTES.min(rest.len() as u64);
    // A header begins with its brace. GGUF with 123 tensors has a brace there too, and an absurd length.
    let braced = rest.first() == Some(&b'{');
    if !braced || says > most {
        return match looks_like(bytes) {
            Some(kind) => other(kind),
            None if !braced => other("bytes of no kind that Tern knows"),
            None => Err(Error::HeaderLength { says, most }),
        };
    }
    Ok(rest.split_at(says as usize))
}

/// Checks that the tensors lie end to end and fill the data.
fn check_spans(tensors: &[(String, Place)], available: u64) -> Result<()> {
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

/// One tensor as the header describes it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    dtype: Dtype,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl Place {
    /// The tensor's bytes, if the shape asks for as many as there are.
    ///
    /// [`check_spans`] has run: the offsets are in order and inside `data`.
    fn view(self, data: &[u8]) -> Result<View<'_>> {
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
        Ok(View {
            dtype: self.dtype,
            shape: shape.map_err(|_| Error::ShapeOverflow { found: self.shape })?,
            bytes: &data[begin as usize..end as usize],
        })
    }
}

/// The header with every entry kept, so that a name which occurs twice can be refused.
struct Header {
    metadata: Vec<(String, String)>,
    tensors: Vec<(String, Place)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { metadata: Vec::new(), tensors: Vec::new() };
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
