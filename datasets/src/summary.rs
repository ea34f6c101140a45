//! The record `data.json` of a prepared folder: from what, by which settings, how much.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tern_format::checksum::{hex, sha256_file};

use crate::config::{Corpus, DataConfig};
use crate::error::Result;
use crate::stories::{Split, stories};

/// Raise this when the same settings and sources give other files than before.
pub(crate) const VERSION: u32 = 1;

/// The record `data.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The version of this record.
    pub version: u32,
    /// SHA-256 over settings and sources: the identity of the data.
    pub sha256: String,
    /// The keys of `[data]` that decide which tokens there are.
    pub settings: serde_json::Value,
    /// What the documents and the tokenizer were read from.
    pub sources: Vec<Source>,
    /// The tokenizer's file in this folder.
    pub tokenizer: String,
    /// One more than the largest id.
    pub vocab_size: usize,
    /// The id that opens a document.
    pub bos: Option<u32>,
    /// The id that ends one.
    pub eos: Option<u32>,
    /// The training side.
    pub train: Side,
    /// The validation side.
    pub valid: Side,
}

/// A file, or the story generator, that went into the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// `train`, `valid`, `tokenizer` or `stories`.
    pub role: String,
    /// The path, or the generator's name.
    pub name: String,
    /// The size in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes.
    pub sha256: String,
}

/// How much text one side of the split has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Documents.
    pub documents: u64,
    /// Ids, delimiters included.
    pub tokens: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Characters of text.
    pub characters: u64,
}

/// The keys that decide which tokens there are: not the windows, and no paths.
pub(crate) fn settings(config: &DataConfig) -> serde_json::Value {
    let tokenizer = &config.tokenizer;
    let mut settings = serde_json::json!({
        "corpus": config.corpus,
        "tokenizer": { "train": tokenizer.train, "vocab_size": tokenizer.vocab_size,
            "byte_fallback": tokenizer.byte_fallback.unwrap_or(true) },
        "bos": config.bos,
        "eos": config.eos,
        "collapse_blank_lines": config.collapse_blank_lines,
    });
    let rest = match config.corpus {
        Corpus::Files => serde_json::json!({
            "separator": config.separator,
            "valid_separator": config.valid.as_ref().and(config.valid_separator.as_ref()),
            "text_field": config.text_field,
            "valid_fraction": config.valid.is_none().then_some(config.valid_fraction),
        }),
        Corpus::Stories => serde_json::json!({
            "stories_seed": config.stories_seed,
            "train_stories": config.train_stories,
            "valid_stories": config.valid_stories,
        }),
    };
    if let (Some(all), serde_json::Value::Object(rest)) = (settings.as_object_mut(), rest) {
        all.extend(rest);
    }
    settings
}

pub(crate) fn identity(settings: &serde_json::Value, sources: &[Source]) -> String {
    let mut hash = Sha256::new();
    hash.update(settings.to_string());
    for source in sources {
        hash.update(format!("\n{} {}", source.role, source.sha256));
    }
    hex(&hash.finalize())
}

pub(crate) fn hash_file(role: &str, path: &Path) -> Result<Source> {
    let (sha256, bytes) = sha256_file(path)?;
    Ok(Source { role: role.to_owned(), name: path.display().to_string(), bytes, sha256 })
}

/// The generator is known by its first stories: another version of it gives others.
pub(crate) fn hash_stories(seed: u64) -> Source {
    const PROBED: usize = 256;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    for story in stories(seed, Split::Train).take(PROBED) {
        bytes += story.text.len() as u64;
        hash.update(story.text);
        hash.update(b"\0");
    }
    let name = format!("the first {PROBED} training stories of seed {seed}");
    Source { role: "stories".to_owned(), name, bytes, sha256: hex(&hash.finalize()) }
}
