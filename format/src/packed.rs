//! The deployable model: one safetensors file that holds all that a model is.
//!
//! The container is [`crate::safetensors`]. Its tensors are those of [`ModelConfig::tensors`] and no others:
//!
//! ```text
//! a ternary matrix NAME     NAME         U8   [d_output, bytes of a row]      rows in the encoding of the file
//!                           NAME_scale   F32  [1]                             w = scale * trit
//! any other tensor NAME     NAME         F32, F16 or BF16, the config's shape
//! a SentencePiece model     tokenizer.model   U8  [bytes]
//! ```
//!
//! Ternary may be a linear layer of a block, and the head where the config has `ternary_head`, under a config with a
//! quantizer ([`ModelConfig::is_ternary_matrix`]). It may also be float, and a scale may be any finite number: a latent or a
//! collapsed model can be read, so that the verifier can say what it is.
//!
//! `__metadata__` has these keys and no others; a value is text, or a number or an object as JSON text:
//!
//! ```text
//! format           "tern"
//! format_version   "1"
//! encoding         "t2", "t5", "s24" or "s24n" (the modules of these names)
//! config           object: ModelConfig, every key
//! tokenizer        the text of a tokenizer.json; absent where the tensor tokenizer.model is present
//! generation       object: GenerationDefaults
//! file_sha256      the SHA-256 of the whole file, in 64 lower-case hexadecimal digits
//! add_bos_token    "false" where a text to go on from does not begin with BOS; else absent
//! bos_token_id, eos_token_id, chat_template, provenance, check     each may be absent
//! ```
//!
//! `file_sha256` is over every byte of the file, with its own 64 digits taken as zeros; it stands in the header as
//! `"file_sha256":"…"`, without white space. It finds damage, not forgery: whoever changes a file can make it anew. Files
//! without it are read too.
//!
//! Tensors lie in the order F32, then F16 and BF16, then U8, by name within each. One model has one sequence of
//! bytes.
//!
//! Example, in `t2`: the matrix `[[1, 0, -1, 0, -1], [0, 0, 0, 0, 1]]` with scale 0.5, after a norm `[1]` of `F32`:
//!
//! ```text
//! {"__metadata__":{…},
//!  "norm":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},
//!  "q_proj_scale":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},
//!  "q_proj":{"dtype":"U8","shape":[2,2],"data_offsets":[8,12]}}
//! 00 00 80 3F   00 00 00 3F   46 00 55 02
//! ```

mod encoding;
mod entries;
mod metadata;
mod read;
mod tensor;
mod write;

use std::collections::BTreeMap;

pub use encoding::Encoding;
pub use metadata::{
    Check, FORMAT_VERSION, GenerationDefaults, MOST_CHECK_IDS, Metadata, Provenance,
};
pub use tensor::{FloatTensor, FloatType, Tensor, TernaryTensor};

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// A model in memory, as its file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedModel {
    /// Everything but the tensors.
    pub metadata: Metadata,
    /// The tensors, under the names of [`ModelConfig::tensors`].
    pub tensors: BTreeMap<String, Tensor>,
}

impl PackedModel {
    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.metadata.config
    }

    /// Parameters of the model; a tied head counts once, a scale is none.
    pub fn parameters(&self) -> u64 {
        self.metadata.config.parameters()
    }

    /// Parameters that are stored as trits.
    pub fn ternary_parameters(&self) -> u64 {
        let ternary = self.tensors.values().filter(|tensor| tensor.is_ternary());
        ternary.map(Tensor::parameters).sum()
    }

    /// The same model, its trits in another encoding.
    ///
    /// # Errors
    ///
    /// The first tensor that the encoding cannot hold, with the row and the group.
    pub fn encode_as(mut self, encoding: Encoding) -> Result<Self> {
        self.metadata.encoding = encoding;
        for (name, tensor) in &mut self.tensors {
            if let Tensor::Ternary(ternary) = tensor {
                *ternary = ternary.encode_as(encoding).map_err(|error| error.in_tensor(name))?;
            }
        }
        Ok(self)
    }

    /// Checks the model against its own config: what the reader refuses, the writer does not write.
    ///
    /// # Errors
    ///
    /// The first entry or tensor that breaks a rule.
    pub fn validate(&self) -> Result<()> {
        self.metadata.validate()?;
        let config = &self.metadata.config;
        let expected: BTreeMap<_, _> = config.tensors().into_iter().collect();
        for (name, shape) in &expected {
            let encoding = config.is_ternary_matrix(name).then_some(self.metadata.encoding);
            let check = |tensor: &Tensor| tensor.check(shape, encoding);
            let checked = self.tensors.get(name).ok_or(Error::Missing).and_then(check);
            checked.map_err(|error| error.in_tensor(name))?;
        }
        match self.tensors.keys().find(|name| !expected.contains_key(*name)) {
            Some(name) => Err(Error::Extra.in_tensor(name)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
