//! Reading: the header is hostile until every length was held to the bytes that there are.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use super::blocks::BlockType;
use super::value::{Array, Kind, Value, scalar};
use super::{Gguf, View};
use crate::error::{Error, Result, quoted};

pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// The versions that have this layout; version 1 had lengths of 32 bits.
const VERSIONS: std::ops::RangeInclusive<u32> = 2..=3;

/// Where data begin at a multiple of.
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: u64 = 32;
const MOST_ALIGNMENT: u64 = 1 << 20;

/// The most sides that ggml's tensors have.
const MOST_SIDES: u32 = 4;

/// The longest key, as ggml has it.
const MOST_KEY_BYTES: usize = (1 << 16) - 1;

pub(super) fn parse(bytes: &[u8]) -> Result<Gguf<'_>> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(MAGIC.len())? != MAGIC {
        return Err(refuse(0, "must begin with `GGUF`"));
    }
    let version = cursor.u32()?;
    if !VERSIONS.contains(&version) {
        let rule = if VERSIONS.contains(&version.swap_bytes()) {
            "the file is big-endian; files are read as little-endian ones".to_owned()
        } else {
            format!("the version must be 2 or 3, is {version}")
        };
        return Err(refuse(4, rule));
    }
    let (tensors, entries) = (cursor.u64()?, cursor.u64()?);
    // The least that an entry takes: an empty key, a kind, a byte. Of a tensor: a name, no sides, a type, an offset.
    cursor.has_room(entries, 8 + 4 + 1, "metadata entries")?;
    let mut metadata = BTreeMap::new();
    for _ in 0..entries {
        let at = cursor.at;
        let key = cursor.name("key")?;
        let value = cursor.value().map_err(|error| about_key(key, error))?;
        match metadata.entry(key) {
            Entry::Vacant(place) => drop(place.insert(value)),
            Entry::Occupied(_) => {
                return Err(refuse(at, format!("the key {} occurs twice", quoted(key))));
            }
        }
    }
    cursor.has_room(tensors, 8 + 4 + 4 + 8, "tensors")?;
    let mut infos = BTreeMap::new();
    for _ in 0..tensors {
        let at = cursor.at;
        let name = cursor.name("tensor's name")?;
        let info = cursor.info().map_err(|error| error.in_tensor(name))?;
        match infos.entry(name) {
            Entry::Vacant(place) => drop(place.insert(info)),
            Entry::Occupied(_) => {
                return Err(refuse(at, format!("the tensor {} occurs twice", quoted(name))));
            }
        }
    }
    let alignment = alignment(&metadata)?;
    let start = (cursor.at as u64).next_multiple_of(alignment);
    let data = usize::try_from(start).ok().and_then(|start| bytes.get(start..)).unwrap_or(&[]);
    let tensors = places(&infos, data, alignment)?;
    Ok(Gguf { metadata, tensors })
}

fn alignment(metadata: &BTreeMap<&str, Value<'_>>) -> Result<u64> {
    let Some(&value) = metadata.get(ALIGNMENT) else { return Ok(DEFAULT_ALIGNMENT) };
    let wrong = |rule: String| Error::Metadata { key: ALIGNMENT.into(), rule };
    let alignment = u64::try_from(value).map_err(wrong)?;
    if alignment.is_power_of_two() && alignment <= MOST_ALIGNMENT {
        return Ok(alignment);
    }
    Err(wrong(format!("must be a power of two up to {MOST_ALIGNMENT}, is {alignment}")))
}

/// One tensor as the header describes it.
struct Info {
    block_type: BlockType,
    shape: Vec<usize>,
    bytes: u64,
    offset: u64,
}

/// Finds the data of all tensors, in their order: none may lie outside, or on another's.
fn places<'a>(
    infos: &BTreeMap<&'a str, Info>,
    data: &'a [u8],
    alignment: u64,
) -> Result<BTreeMap<&'a str, View<'a>>> {
    let mut order: Vec<_> = infos.iter().collect();
    order.sort_by_key(|(_, info)| info.offset);
    let mut tensors = BTreeMap::new();
    let mut free = 0;
    for (name, info) in order {
        let Info { block_type, ref shape, bytes, offset } = *info;
        let place = || {
            if !offset.is_multiple_of(alignment) {
                let rule =
                    format!("its data must begin at a multiple of {alignment}, begins at {offset}");
                return Err(refuse_tensor(rule));
            }
            if offset < free {
                return Err(Error::Offset { expected: free, found: offset });
            }
            let end = offset.saturating_add(bytes);
            let available = data.len() as u64;
            if end > available {
                return Err(Error::Truncated { end, available });
            }
            // Both fit: they are inside a slice.
            Ok((&data[offset as usize..end as usize], end))
        };
        let (bytes, end) = place().map_err(|error| error.in_tensor(name))?;
        free = end;
        tensors.insert(*name, View { block_type, shape: shape.clone(), bytes });
    }
    Ok(tensors)
}

/// A place in the header.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        if count > self.left() {
            let rule = format!("needs {count} bytes, the file has {} more", self.left());
            return Err(refuse(self.at, rule));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32> {
        let mut number = [0; 4];
        number.copy_from_slice(self.take(4)?);
        Ok(u32::from_le_bytes(number))
    }

    fn u64(&mut self) -> Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(number))
    }

    /// Refuses a number of things that the rest of the file cannot hold.
    fn has_room(&self, count: u64, least_bytes: u64, what: &str) -> Result<()> {
        if count <= self.left() as u64 / least_bytes {
            return Ok(());
        }
        let rule = format!("{count} {what} do not fit the {} bytes that follow", self.left());
        Err(refuse(self.at, rule))
    }

    /// The bytes of a string behind its length.
    fn string(&mut self) -> Result<&'a [u8]> {
        let at = self.at;
        let length = self.u64()?;
        let fits = usize::try_from(length).ok().filter(|&length| length <= self.left());
        let length = fits.ok_or_else(|| {
            let left = self.left();
            refuse(at, format!("a string of {length} bytes does not fit the {left} that follow"))
        })?;
        self.take(length)
    }

    fn name(&mut self, what: &str) -> Result<&'a str> {
        let at = self.at;
        let bytes = self.string()?;
        if bytes.len() > MOST_KEY_BYTES {
            let rule =
                format!("a {what} may have {MOST_KEY_BYTES} bytes, this has {}", bytes.len());
            return Err(refuse(at, rule));
        }
        std::str::from_utf8(bytes).map_err(|_| refuse(at, format!("a {what} must be UTF-8")))
    }

    fn kind(&mut self) -> Result<Kind> {
        let at = self.at;
        let number = self.u32()?;
        Kind::of(number).ok_or_else(|| refuse(at, format!("there is no kind {number} of value")))
    }

    fn value(&mut self) -> Result<Value<'a>> {
        match self.kind()? {
            Kind::Array => self.array().map(Value::Array),
            kind => self.scalar(kind),
        }
    }

    fn scalar(&mut self, kind: Kind) -> Result<Value<'a>> {
        let at = self.at;
        match kind.bytes() {
            Some(count) => drop(self.take(count)?),
            None => drop(self.string()?),
        }
        scalar(kind, &self.bytes[at..self.at]).ok_or_else(|| {
            refuse(at, if kind == Kind::Bool { "must be 0 or 1" } else { "must be UTF-8" })
        })
    }

    fn array(&mut self) -> Result<Array<'a>> {
        let at = self.at;
        let kind = self.kind()?;
        if kind == Kind::Array {
            return Err(refuse(at, "arrays of arrays are not read"));
        }
        let count = self.u64()?;
        self.has_room(count, kind.bytes().unwrap_or(8) as u64, "elements")?;
        let start = self.at;
        // It fits: that many bytes follow.
        let len = count as usize;
        match kind.bytes() {
            Some(bytes) if kind != Kind::Bool => drop(self.take(len * bytes)?),
            _ => (0..len).try_for_each(|_| self.scalar(kind).map(drop))?,
        }
        Ok(Array { kind, len, bytes: &self.bytes[start..self.at] })
    }

    fn info(&mut self) -> Result<Info> {
        let sides = self.u32()?;
        if !(1..=MOST_SIDES).contains(&sides) {
            return Err(refuse_tensor(format!("must have 1 to {MOST_SIDES} sides, has {sides}")));
        }
        let mut shape = (0..sides).map(|_| self.u64()).collect::<Result<Vec<_>>>()?;
        let number = self.u32()?;
        let offset = self.u64()?;
        let block_type = BlockType::of(number).map_err(refuse_tensor)?;
        shape.reverse();
        let bytes = block_type.size_bytes(&shape)?;
        let overflow = |_| Error::ShapeOverflow { found: shape.clone() };
        let sides = shape.iter().map(|&side| usize::try_from(side));
        let sides = sides.collect::<Result<_, _>>().map_err(overflow)?;
        Ok(Info { block_type, shape: sides, bytes, offset })
    }
}

fn refuse(at: usize, rule: impl Into<String>) -> Error {
    Error::At { offset: at as u64, rule: rule.into() }
}

fn refuse_tensor(rule: String) -> Error {
    Error::Rule { rule }
}

/// Adds the key to an error that names a byte.
fn about_key(key: &str, error: Error) -> Error {
    Error::Metadata { key: key.into(), rule: error.to_string() }
}
