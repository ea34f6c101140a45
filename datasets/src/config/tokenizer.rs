//! The `[data.tokenizer]` table: a file, or how to train one.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The largest vocabulary of a model.
const MOST_TOKENS: usize = 1 << 24;

/// `{ file = "tokenizer.json" }`, or `{ train = "unigram", vocab_size = 512 }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` or a SentencePiece `.model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The algorithm that makes one from the training documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<TokenizerKind>,
    /// Its size, special tokens included. Unit: tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Whether all 256 bytes are tokens (the default), so that every text can be spelled. Otherwise
    /// only the bytes of the training text are, which suits a small vocabulary of a closed corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte_fallback: Option<bool>,
}

/// An algorithm that makes a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// The unigram language model (arXiv:1804.10959): prunes a large vocabulary by likelihood.
    Unigram,
    /// Byte pair encoding (arXiv:1508.07909): merges the most frequent pair.
    Bpe,
}

impl TokenizerConfig {
    pub(super) fn validate(&self) -> Result<()> {
        let refuse = |key, rule: &str| Err(Error::Config { key, rule: rule.to_owned() });
        match (&self.file, self.train, self.vocab_size) {
            (Some(file), ..) if file.is_empty() => refuse("tokenizer.file", "must not be empty"),
            (Some(_), None, None) if self.byte_fallback.is_none() => Ok(()),
            (Some(_), ..) => refuse(
                "tokenizer.file",
                "excludes train, vocab_size and byte_fallback: the file decides",
            ),
            (None, None, _) => refuse(
                "tokenizer",
                "needs file = \"…\", or train = \"unigram\" or \"bpe\" with vocab_size",
            ),
            (None, Some(_), None) => {
                refuse("tokenizer.vocab_size", "is missing beside tokenizer.train")
            }
            (None, Some(_), Some(size)) => {
                let bytes = self.byte_fallback.unwrap_or(true);
                let (smallest, why) = if bytes {
                    (
                        259,
                        " (3 special tokens and 256 bytes; byte_fallback = false leaves out those that the text lacks)",
                    )
                } else {
                    (4, "")
                };
                if (smallest..=MOST_TOKENS).contains(&size) {
                    return Ok(());
                }
                refuse(
                    "tokenizer.vocab_size",
                    &format!("must be {smallest}{why} to {MOST_TOKENS}, is {size}"),
                )
            }
        }
    }
}
