//! A packed file, mapped into memory: what the engine does not rearrange is read where it lies.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tern_format::packed::PackedModel;
use tern_kernels::mapped_file::MappedFile;

use crate::error::Result;

/// A packed model whose tensors lie in a mapped file.
pub(crate) struct PackedFile {
    pub(crate) model: PackedModel,
    /// The `file_sha256` that the file was held to, if it carries one.
    pub(crate) sha256: Option<String>,
    pub(crate) size_bytes: u64,
    pub(crate) map: Arc<MappedFile>,
}

struct Owner(Arc<MappedFile>);

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl PackedFile {
    /// Maps a file and checks every byte of it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let open = || {
            let map = Arc::new(MappedFile::open(path)?);
            let (model, sha256) = PackedModel::parse(Bytes::from_owner(Owner(Arc::clone(&map))))?;
            Ok(Self { model, sha256, size_bytes: map.len() as u64, map })
        };
        open().map_err(|error: tern_format::Error| error.in_file(path).into())
    }
}
