//! A packed file, mapped into memory: what the engine does not rearrange is read where it lies.

use std::path::Path;

use bytes::Bytes;
use tern_format::packed::PackedModel;
use tern_kernels::mapped_file::MappedFile;

use crate::error::Result;

/// Maps a file and checks every byte of it; with the `file_sha256` that it was held to, if it carries one, and its size in
/// bytes.
pub(crate) fn open(path: &Path) -> Result<(PackedModel, Option<String>, u64)> {
    let read = || {
        let bytes = Bytes::from_owner(MappedFile::open(path)?);
        let size_bytes = bytes.len() as u64;
        let (model, checksum) = PackedModel::parse(bytes)?;
        Ok((model, checksum, size_bytes))
    };
    let in_file = |source| tern_format::Error::In { path: path.into(), source: Box::new(source) };
    read().map_err(|source| in_file(source).into())
}
