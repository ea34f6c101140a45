//! A packed model's metadata as the text entries of the container.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::PackedModel;
use super::metadata::{FORMAT_VERSION, Metadata, rule, version};
use crate::error::{Error, Result, quoted};
use crate::safetensors::Contents;
use crate::tokenizer::TokenizerSource;

/// Value of the key `format`: no other kind of safetensors file has it.
const FORMAT: &str = "tern";

/// Key of the SHA-256 of the whole file: whoever damages a weight, or a number of the configuration, leaves a file that is
/// a model still.
pub(super) const FILE_SHA256: &str = "file_sha256";

/// Name of the tensor that holds the bytes of a SentencePiece model.
pub(super) const SENTENCEPIECE: &str = "tokenizer.model";

impl PackedModel {
    /// Whether a safetensors file says that it is a packed model.
    pub fn recognize(contents: &Contents<'_>) -> bool {
        contents.metadata.get("format").is_some_and(|format| format == FORMAT)
    }
}

impl Metadata {
    /// The entries of `__metadata__`. A SentencePiece tokenizer is not among them: its bytes are a tensor.
    pub(super) fn to_entries(&self) -> BTreeMap<String, String> {
        let Self {
            config, bos, add_bos, eos, chat_template, generation, provenance, check, ..
        } = self;
        let mut entries = BTreeMap::new();
        let mut put = |key: &str, value: String| entries.insert(key.to_owned(), value);
        put("format", FORMAT.into());
        put("format_version", self.format_version.to_string());
        put("encoding", self.encoding.name().into());
        put("config", json(config));
        put("generation", json(generation));
        if let TokenizerSource::Json(text) = &self.tokenizer {
            put("tokenizer", text.clone());
        }
        if let Some(id) = bos {
            put("bos_token_id", id.to_string());
        }
        if !add_bos {
            put("add_bos_token", add_bos.to_string());
        }
        if let Some(id) = eos {
            put("eos_token_id", id.to_string());
        }
        if let Some(template) = chat_template {
            put("chat_template", template.clone());
        }
        if let Some(provenance) = provenance {
            put("provenance", json(provenance));
        }
        if let Some(check) = check {
            put("check", json(check));
        }
        entries
    }

    /// The metadata that entries hold. The bytes of a SentencePiece model, if there is a tensor with one, are left to
    /// the caller.
    pub(super) fn from_entries(
        mut entries: BTreeMap<String, String>,
        has_sentencepiece: bool,
    ) -> Result<Self> {
        // First of all: another version may have other keys.
        let format = required(&mut entries, "format")?;
        rule(format == FORMAT, "format", || {
            format!("must be \"{FORMAT}\", is {}", quoted(&format))
        })?;
        let found = required(&mut entries, "format_version")?;
        if found != FORMAT_VERSION.to_string() {
            return Err(version(&found));
        }
        let encoding = required(&mut entries, "encoding")?.parse()?;
        let tokenizer = match (entries.remove("tokenizer"), has_sentencepiece) {
            (Some(text), false) => TokenizerSource::Json(text),
            (None, true) => TokenizerSource::SentencePiece(Vec::new()),
            (None, false) => return Err(missing("tokenizer")),
            (Some(_), true) => {
                let rule =
                    format!("there must be one, and the tensor `{SENTENCEPIECE}` is another");
                return Err(Error::Metadata { key: "tokenizer".into(), rule });
            }
        };
        let metadata = Self {
            format_version: FORMAT_VERSION,
            encoding,
            config: parsed(&mut entries, "config")?.ok_or_else(|| missing("config"))?,
            tokenizer,
            bos: parsed(&mut entries, "bos_token_id")?,
            add_bos: parsed(&mut entries, "add_bos_token")?.unwrap_or(true),
            eos: parsed(&mut entries, "eos_token_id")?,
            chat_template: entries.remove("chat_template"),
            generation: parsed(&mut entries, "generation")?.ok_or_else(|| missing("generation"))?,
            provenance: parsed(&mut entries, "provenance")?,
            check: parsed(&mut entries, "check")?,
        };
        if let Some((key, _)) = entries.pop_first() {
            return Err(Error::Metadata { key, rule: "format version 1 has no such key".into() });
        }
        metadata.validate()?;
        Ok(metadata)
    }
}

fn missing(key: &str) -> Error {
    Error::Metadata { key: key.into(), rule: "must be there, is missing".into() }
}

fn required(entries: &mut BTreeMap<String, String>, key: &str) -> Result<String> {
    entries.remove(key).ok_or_else(|| missing(key))
}

fn parsed<T: DeserializeOwned>(
    entries: &mut BTreeMap<String, String>,
    key: &'static str,
) -> Result<Option<T>> {
    let parse = |text: String| serde_json::from_str(&text);
    entries.remove(key).map(parse).transpose().map_err(|source| Error::MetadataJson { key, source })
}

/// The types here have text for keys and finite numbers, so nothing is left that JSON cannot say.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
