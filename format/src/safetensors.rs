//! Safetensors files: the container of checkpoints and of packed models.
//!
//! ```text
//! 8 bytes    length N of the header, u64, little-endian
//! N bytes    header, JSON: {"__metadata__": {key: text, …}, name: {"dtype", "shape", "data_offsets": [begin, end]}, …}
//! the rest   the tensors' data, little-endian, row-major, without holes; offsets count from its start
//! ```
//!
//! The header is read here and not by the crate `safetensors`, whose errors name no tensor, whose maps let the
//! later of two equal names win, and whose writer orders metadata at random. The element types are its own, and
//! the tests hold the two readers together.
//!
//! Tensors are written with the widest elements first and by name among equals, and the header is padded with
//! spaces to a multiple of 8 bytes, so that every element is aligned and one model has one sequence of bytes.

mod read;
mod recognize;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

pub use ::safetensors::Dtype;
pub use read::{Contents, Header, Place, View};
pub use write::{Data, Entry, Layout};

use crate::atomic::write_atomically;
use crate::error::{Error, Result};
use crate::regular_file::open_regular;

/// The longest header that readers of safetensors accept.
pub(crate) const MOST_HEADER_BYTES: u64 = 100_000_000;

/// Tensors by name: shape and values.
pub type F32Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes tensors of `f32`, atomically.
///
/// # Errors
///
/// [`Error::In`] with the path, around the tensor whose values are not finite or do not fill its shape, or whose
/// name occurs twice, or what the file system reports.
pub fn write_f32(
    path: &Path,
    tensors: &[(String, Vec<usize>, Vec<f32>)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let entries = tensors.iter().map(|(name, shape, values)| Entry {
        name: name.clone(),
        shape: shape.clone(),
        data: Data::F32(values),
    });
    let layout = Layout::new(metadata, entries.collect()).map_err(|error| error.in_file(path))?;
    write_atomically(path, |out| layout.write(out))
}

/// Reads a file of float tensors (`F32`, `F16`, `BF16`, or `F64`, which is rounded) and its metadata.
///
/// # Errors
///
/// [`Error::In`] with the path, around whatever is wrong with the bytes.
pub fn read_f32(path: &Path) -> Result<(F32Tensors, BTreeMap<String, String>)> {
    let (mut file, size_bytes) = open_regular(path)?;
    let mut read = || {
        let header = Header::read(&mut file, size_bytes)?;
        let data = header.read_data(&mut file)?;
        floats(header.contents(&data)?)
    };
    read().map_err(|error: Error| error.in_file(path))
}

/// [`read_f32`] of bytes in memory.
///
/// # Errors
///
/// Whatever is wrong with the bytes.
pub fn parse_f32(bytes: &[u8]) -> Result<(F32Tensors, BTreeMap<String, String>)> {
    floats(Contents::parse(bytes)?)
}

fn floats(contents: Contents<'_>) -> Result<(F32Tensors, BTreeMap<String, String>)> {
    let mut tensors = F32Tensors::new();
    for (name, view) in contents.tensors {
        let values = view.floats().map_err(|error| error.in_tensor(&name))?;
        tensors.insert(name, (view.shape, values));
    }
    Ok((tensors, contents.metadata))
}

#[cfg(test)]
mod tests;
