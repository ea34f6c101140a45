//! PyTorch's saved state dicts (`.pt`, `.pth`, `.bin`), read without executing them.
//!
//! Such a file is a ZIP archive: `NAME/data.pkl`, a pickle of the object, and `NAME/data/KEY`, the bytes of each storage. A
//! pickle is a program that may call anything; here it runs on a machine that knows how to build dictionaries, lists and
//! tensors, and refuses every other opcode and every name outside a list (`pickle.rs`). What was trained in PyTorch keeps its
//! tensors under `model` or `state_dict` beside other things, and under names that `torch.compile` and wrappers of
//! parallel training put something before: those are taken off.

mod pickle;

use std::collections::BTreeMap;
use std::io::{Cursor, Read};

use half::{bf16, f16};
use zip::{CompressionMethod, ZipArchive};

use crate::decode::{each, finite};
use crate::error::{Error, Result, quoted};
use pickle::Machine;

/// The type of a storage's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementType {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// 8 bits, unsigned.
    U8,
    /// A byte that is 0 or 1.
    Bool,
}

impl ElementType {
    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The type of a storage class of `torch`.
    fn of_storage(class: &str) -> Option<Self> {
        Some(match class {
            "DoubleStorage" => Self::F64,
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "LongStorage" => Self::I64,
            "IntStorage" => Self::I32,
            "ShortStorage" => Self::I16,
            "CharStorage" => Self::I8,
            "ByteStorage" => Self::U8,
            "BoolStorage" => Self::Bool,
            _ => return None,
        })
    }
}

/// A tensor, its elements row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Type of the elements.
    pub element_type: ElementType,
    /// The sides, outermost first; none for a single number.
    pub shape: Vec<usize>,
    /// The elements, little-endian.
    pub bytes: Vec<u8>,
}

impl Tensor {
    /// The values of a float tensor, every one finite.
    ///
    /// # Errors
    ///
    /// [`Error::Rule`] if its elements are no floats; [`Error::NotFinite`] with the place.
    pub fn floats(&self) -> Result<Vec<f32>> {
        let values: Vec<f32> = match self.element_type {
            ElementType::F64 => each(&self.bytes, |b| f64::from_le_bytes(b) as f32),
            ElementType::F32 => each(&self.bytes, f32::from_le_bytes),
            ElementType::F16 => each(&self.bytes, |b| f16::from_le_bytes(b).to_f32()),
            ElementType::BF16 => each(&self.bytes, |b| bf16::from_le_bytes(b).to_f32()),
            other => {
                return Err(Error::Rule { rule: format!("must hold floats, holds {other:?}") });
            }
        };
        finite(values, "float")
    }
}

type Archive<'a> = ZipArchive<Cursor<&'a [u8]>>;

/// Where a checkpoint of a training script keeps its tensors.
const CONTAINERS: [&str; 3] = ["model", "state_dict", "model_state_dict"];

/// What wrappers put before the names of parameters: `torch.compile`, and data-parallel modules.
const PREFIXES: [&str; 2] = ["_orig_mod.", "module."];

/// Whether bytes begin as an archive does.
pub fn recognize(bytes: &[u8]) -> bool {
    bytes.starts_with(b"PK\x03\x04")
}

/// The tensors of a state dict by name.
///
/// # Errors
///
/// Bytes that are no such archive, a pickle that wants more than a state dict needs (with the byte and the name), tensors
/// that their storage does not hold, names that occur twice once prefixes are off.
pub fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Tensor>> {
    let (mut archive, root, program) = open(bytes)?;
    let mut storages = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in described(&program)? {
        let storage = match storages.get(tensor.key) {
            Some(storage) => storage,
            None => {
                let path = format!("{root}data/{}", tensor.key);
                let bytes = read(&mut archive, bytes.len() as u64, &path);
                storages.entry(tensor.key).or_insert(bytes.map_err(|error| error.in_tensor(&name))?)
            }
        };
        let tensor = gather(&tensor, storage).map_err(|error| error.in_tensor(&name))?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// The tensors of a state dict by name, with type and sides alone: what the storages hold is not looked at.
///
/// # Errors
///
/// As [`parse`], but for the storages.
pub fn list(bytes: &[u8]) -> Result<BTreeMap<String, (ElementType, Vec<usize>)>> {
    let (_, _, program) = open(bytes)?;
    let tensors = described(&program)?.into_iter();
    Ok(tensors.map(|(name, tensor)| (name, (tensor.element_type, tensor.shape))).collect())
}

/// The archive, the directory in it that everything is in, and the pickle.
fn open(bytes: &[u8]) -> Result<(Archive<'_>, String, Vec<u8>)> {
    if !recognize(bytes) {
        let rule = "must be a ZIP archive, as `torch.save` writes since PyTorch 1.6: load and save it again there";
        return Err(Error::Rule { rule: rule.into() });
    }
    let most = bytes.len() as u64;
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(archive_error)?;
    let root = archive
        .file_names()
        .flatten()
        .find_map(|name| Some(name.strip_suffix("data.pkl")?.to_owned()))
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .ok_or_else(|| Error::Rule { rule: "the archive holds no `data.pkl`".into() })?;
    let order = read(&mut archive, most, &format!("{root}byteorder"));
    if order.is_ok_and(|order| order != b"little") {
        return Err(Error::Rule { rule: "the storages must be little-endian".into() });
    }
    let program = read(&mut archive, most, &format!("{root}data.pkl"))?;
    Ok((archive, root, program))
}

/// The tensors that a pickle describes, under their names without prefixes.
fn described(program: &[u8]) -> Result<BTreeMap<String, pickle::Tensor<'_>>> {
    let in_pickle = |error: Error| Error::Rule { rule: format!("data.pkl, {error}") };
    let mut machine = Machine::new(program);
    let result = machine.run().map_err(in_pickle)?;
    let mut tensors = BTreeMap::new();
    for (name, tensor) in machine.tensors(result, &CONTAINERS) {
        let mut short = name.as_str();
        while let Some(rest) = PREFIXES.iter().find_map(|prefix| short.strip_prefix(prefix)) {
            short = rest;
        }
        if tensors.insert(short.to_owned(), tensor).is_some() {
            return Err(Error::Duplicate.in_tensor(short));
        }
    }
    if tensors.is_empty() {
        return Err(Error::Rule { rule: "the state dict holds no tensors".into() });
    }
    Ok(tensors)
}

/// The bytes of a file in the archive, stored as they are: a compressed one could unpack to anything.
fn read(archive: &mut Archive<'_>, most: u64, name: &str) -> Result<Vec<u8>> {
    let mut file = archive.by_name(name).map_err(archive_error)?;
    if file.compression() != CompressionMethod::Stored {
        let rule = format!("{} must be stored in the archive, is compressed", quoted(name));
        return Err(Error::Rule { rule });
    }
    if file.size() > most {
        let rule = format!("{} says {} bytes, the archive has {most}", quoted(name), file.size());
        return Err(Error::Rule { rule });
    }
    let mut bytes = Vec::with_capacity(file.size() as usize);
    file.read_to_end(&mut bytes).map_err(|error| Error::Rule {
        rule: format!("{}: {}", quoted(name), crate::error::printable(&error.to_string(), 200)),
    })?;
    Ok(bytes)
}

fn archive_error(error: zip::result::ZipError) -> Error {
    Error::Rule { rule: format!("archive: {}", crate::error::printable(&error.to_string(), 200)) }
}

/// Copies a tensor's elements out of its storage, in row-major order.
fn gather(tensor: &pickle::Tensor<'_>, storage: &[u8]) -> Result<Tensor> {
    let size = tensor.element_type.bytes();
    let held = storage.len() / size;
    let overflow =
        || Error::ShapeOverflow { found: tensor.shape.iter().map(|&side| side as u64).collect() };
    let count = tensor.shape.iter().try_fold(1usize, |n, &side| n.checked_mul(side));
    let count = count.ok_or_else(overflow)?;
    // A side that repeats one element could make terabytes of it.
    if count > held {
        return Err(Error::Count { unit: "elements", expected: count as u64, found: held as u64 });
    }
    let last =
        tensor.shape.iter().zip(&tensor.strides).try_fold(tensor.offset, |at, (&n, &step)| {
            at.checked_add(n.saturating_sub(1).checked_mul(step)?)
        });
    if count > 0 && last.is_none_or(|last| last >= held) {
        let end = last.map_or(u64::MAX, |last| (last as u64).saturating_add(1));
        let rule = format!("its elements end at {end}, the storage has {held}");
        return Err(Error::Rule { rule });
    }
    let shape = tensor.shape.clone();
    let element_type = tensor.element_type;
    if is_contiguous(&shape, &tensor.strides) {
        let bytes = storage[tensor.offset.min(held) * size..][..count * size].to_vec();
        return Ok(Tensor { element_type, shape, bytes });
    }
    let mut bytes = Vec::with_capacity(count * size);
    let mut index = vec![0; tensor.shape.len()];
    let mut at = tensor.offset;
    for _ in 0..count {
        bytes.extend_from_slice(&storage[at * size..][..size]);
        // Only the places between the elements are in the storage; those past a side's end may be past all numbers.
        for side in (0..index.len()).rev() {
            index[side] += 1;
            at = at.wrapping_add(tensor.strides[side]);
            if index[side] < shape[side] {
                break;
            }
            at = at.wrapping_sub(tensor.strides[side].wrapping_mul(shape[side]));
            index[side] = 0;
        }
    }
    Ok(Tensor { element_type, shape, bytes })
}

/// Whether elements follow each other in row-major order.
fn is_contiguous(shape: &[usize], strides: &[usize]) -> bool {
    let mut step = 1usize;
    shape.iter().zip(strides).rev().all(|(&side, &stride)| {
        let follows = side == 1 || stride == step;
        step = step.wrapping_mul(side);
        follows
    })
}

#[cfg(test)]
mod tests;
