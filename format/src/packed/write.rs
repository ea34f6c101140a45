//! Writing a packed model.

use std::path::Path;

use sha2::{Digest, Sha256};

use super::entries::{FILE_SHA256, SENTENCEPIECE};
use super::{PackedModel, Tensor};
use crate::atomic::write_atomically;
use crate::checksum::hex;
use crate::error::Result;
use crate::safetensors::{Data, Dtype, Entry, Layout};
use crate::tokenizer::TokenizerSource;

impl PackedModel {
    /// Writes the file, atomically.
    ///
    /// # Errors
    ///
    /// [`crate::Error::In`] with the path, around what [`Self::validate`] refuses, the tensor with a value that its type
    /// cannot hold, or what the file system reports.
    pub fn write(&self, path: &Path) -> Result<()> {
        let layout = self.layout().map_err(|error| error.in_file(path))?;
        write_atomically(path, |out| layout.write(out))
    }

    /// The bytes of the file.
    ///
    /// # Errors
    ///
    /// As [`Self::write`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.layout()?.write(&mut bytes)?;
        Ok(bytes)
    }

    fn layout(&self) -> Result<Layout<'_>> {
        self.validate()?;
        let mut entries = Vec::new();
        if let TokenizerSource::SentencePiece(bytes) = &self.metadata.tokenizer {
            entries.push(entry(SENTENCEPIECE, vec![bytes.len()], Data::Bytes(Dtype::U8, bytes)));
        }
        for (name, tensor) in &self.tensors {
            match tensor {
                Tensor::Ternary(ternary) => {
                    let row_bytes = ternary.encoding.row_bytes(ternary.d_input)?;
                    let shape = vec![ternary.d_output, row_bytes];
                    entries.push(entry(name, shape, Data::Bytes(Dtype::U8, &ternary.bytes)));
                    let (name, scale) =
                        (format!("{name}_scale"), std::slice::from_ref(&ternary.scale));
                    entries.push(entry(&name, vec![1], Data::F32(scale)));
                }
                Tensor::Float(float) => {
                    let data = Data::Bytes(float.dtype.dtype(), &float.bytes);
                    entries.push(entry(name, float.shape.clone(), data));
                }
            }
        }
        let mut metadata = self.metadata.to_entries();
        metadata.insert(FILE_SHA256.into(), "0".repeat(64));
        let mut hash = Sha256::new();
        Layout::new(&metadata, entries.clone())?.write(&mut hash)?;
        metadata.insert(FILE_SHA256.into(), hex(&hash.finalize()));
        Layout::new(&metadata, entries)
    }
}

fn entry<'a>(name: &str, shape: Vec<usize>, data: Data<'a>) -> Entry<'a> {
    Entry { name: name.into(), shape, data }
}
