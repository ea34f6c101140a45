//! Text to ids and back, through a Hugging Face `tokenizer.json` or a SentencePiece `.model`.
//!
//! A model file carries the tokenizer's own bytes ([`TokenizerSource`]), so what trained a model is
//! what runs it. Both readers are kept crates; what is ours is the choice between them, the ids of
//! BOS and EOS, and errors instead of guesses: whatever the bytes, these crates get none that make
//! them panic, take memory without end or never return.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::contain::contain;
use crate::error::{Error, Result};
use crate::regular_file::read_small;
use crate::sentence_piece::SentencePiece;
use crate::tokenizer_json::checked;

/// The largest tokenizer that is read, in bytes; Gemma 3's has 33 MB.
pub const MOST_BYTES: usize = 64 << 20;

/// Names under which published vocabularies hold the token that opens a document, best first.
const BOS_NAMES: [&str; 3] = ["<s>", "<|begin_of_text|>", "<|endoftext|>"];
/// The same for the token that ends one.
const EOS_NAMES: [&str; 4] = ["</s>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>"];

/// The bytes that a tokenizer is made from, as they stand in its file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenizerSource {
    /// A Hugging Face `tokenizer.json`.
    Json(String),
    /// A SentencePiece `.model` file.
    SentencePiece(Vec<u8>),
}

impl TokenizerSource {
    /// Tells JSON from SentencePiece by content: the one is text that opens with a brace, the other
    /// a protocol buffer.
    ///
    /// # Errors
    ///
    /// An empty file, JSON that is not UTF-8, and rank files of tiktoken, which are named as such
    /// because they too are called `tokenizer.model`.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        let refuse = |kind, reason: &str| Err(Error::Tokenizer { kind, reason: reason.to_owned() });
        let Some(first) = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) else {
            return refuse("tokenizer", "the file is empty");
        };
        if *first == b'{' {
            return match String::from_utf8(bytes) {
                Ok(json) => Ok(Self::Json(json)),
                Err(error) => refuse("tokenizer.json", &error.to_string()),
            };
        }
        if is_tiktoken(&bytes) {
            return refuse(
                "SentencePiece model",
                "this is a rank file of tiktoken; convert it to a tokenizer.json",
            );
        }
        Ok(Self::SentencePiece(bytes))
    }

    /// The bytes as they stand in the file.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Json(json) => json.as_bytes(),
            Self::SentencePiece(bytes) => bytes,
        }
    }

    /// SHA-256 of the bytes: the identity of a vocabulary in every file of ours.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.as_bytes()).into()
    }

    /// The name that a tokenizer file of this kind goes by.
    pub fn file_name(&self) -> &'static str {
        match self {
            Self::Json(_) => "tokenizer.json",
            Self::SentencePiece(_) => "tokenizer.model",
        }
    }
}

/// Whether the first line is `base64 rank`, as in LLaMA-3's `tokenizer.model`.
fn is_tiktoken(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(token), Some(rank), None) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
    !token.is_empty()
        && token.iter().all(is_base64)
        && !rank.is_empty()
        && rank.iter().all(u8::is_ascii_digit)
}

/// A control token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub text: String,
    /// Whether the white space before it, and after it, belongs to it.
    pub takes_space: [bool; 2],
}

/// Text to ids and back. Cheap to clone, and shared between threads.
#[derive(Clone, Debug)]
pub struct Tokenizer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    source: TokenizerSource,
    hash: [u8; 32],
    vocab_size: usize,
    bos: Option<u32>,
    eos: Option<u32>,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    HuggingFace {
        tokenizer: Box<tokenizers::Tokenizer>,
        /// The same, with the names of special tokens read as text. Built when first used: it
        /// doubles the memory of a large vocabulary.
        literal: OnceLock<Box<tokenizers::Tokenizer>>,
    },
    SentencePiece(Box<SentencePiece>),
}

impl Tokenizer {
    /// Reads a tokenizer file, telling JSON from SentencePiece by its content.
    ///
    /// # Errors
    ///
    /// An unreadable file, or bytes that neither reader takes; the error names the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let bytes = read_small(path, MOST_BYTES as u64)?;
        let read = || Self::new(TokenizerSource::from_bytes(bytes)?);
        read().map_err(|error: Error| error.in_file(path))
    }

    /// Builds the tokenizer that the bytes describe.
    ///
    /// # Errors
    ///
    /// Bytes that the reader of their kind refuses.
    pub fn from_source(source: &TokenizerSource) -> Result<Self> {
        Self::new(source.clone())
    }

    fn new(source: TokenizerSource) -> Result<Self> {
        let refuse = |reason| Err(Error::Tokenizer { kind: source.file_name(), reason });
        let bytes = source.as_bytes().len();
        if bytes > MOST_BYTES {
            return refuse(format!("must have at most {MOST_BYTES} bytes, has {bytes}"));
        }
        let hash = source.hash();
        let inner = match &source {
            TokenizerSource::Json(json) => {
                let tokenizer = parse(json)?;
                let largest = tokenizer.get_vocab(true).into_values().max();
                let find =
                    |names: &[&str]| names.iter().find_map(|name| tokenizer.token_to_id(name));
                Inner {
                    hash,
                    vocab_size: largest.map_or(0, |id| id as usize + 1),
                    bos: find(&BOS_NAMES),
                    eos: find(&EOS_NAMES),
                    reader: Reader::HuggingFace {
                        tokenizer: Box::new(tokenizer),
                        literal: OnceLock::new(),
                    },
                    source: source.clone(),
                }
            }
            TokenizerSource::SentencePiece(bytes) => {
                let model = SentencePiece::from_bytes(bytes)?;
                Inner {
                    hash,
                    vocab_size: model.vocab_size(),
                    bos: model.bos(),
                    eos: model.eos(),
                    reader: Reader::SentencePiece(Box::new(model)),
                    source: source.clone(),
                }
            }
        };
        match inner.vocab_size {
            0 => return refuse("the vocabulary is empty".to_owned()),
            // Tables are allocated by the largest id, so a small file may not name a large one.
            size if size > bytes => {
                return refuse(format!("ids reach {}, in a file of only {bytes} bytes", size - 1));
            }
            _ => {}
        }
        Ok(Self(Arc::new(inner)))
    }

    /// The bytes that this tokenizer was made from.
    pub fn source(&self) -> &TokenizerSource {
        &self.0.source
    }

    /// The ids of a text. No special tokens are added, but their names in the text are understood,
    /// as a chat template needs it (SentencePiece knows no such names).
    ///
    /// # Errors
    ///
    /// A character for which the vocabulary has neither a token nor a substitute.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => encode(tokenizer, text),
            Reader::SentencePiece(model) => model.encode(text),
        }
    }

    /// Whether the file itself puts an id before every text: a template of a `tokenizer.json`. SentencePiece has none.
    ///
    /// # Errors
    ///
    /// A template that cannot be applied.
    pub fn begins_with(&self, id: u32) -> Result<bool> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => {
                let first = foreign(|| {
                    let encoding = tokenizer.encode_fast("", true);
                    encoding.map(|it| it.get_ids().first().copied()).map_err(|it| it.to_string())
                })?;
                Ok(first == Some(id))
            }
            Reader::SentencePiece(_) => Ok(false),
        }
    }

    /// The ids of a text in which `</s>` is four characters and ends nothing: for documents, which
    /// must not be able to forge the end of one.
    ///
    /// # Errors
    ///
    /// As [`Self::encode`].
    pub fn encode_literally(&self, text: &str) -> Result<Vec<u32>> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, literal } => encode(
                literal.get_or_init(|| {
                    let mut tokenizer = tokenizer.clone();
                    tokenizer.set_encode_special_tokens(true);
                    tokenizer
                }),
                text,
            ),
            Reader::SentencePiece(model) => model.encode(text),
        }
    }

    /// The text of ids; special tokens are skipped.
    ///
    /// # Errors
    ///
    /// An id outside the vocabulary.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= self.0.vocab_size) {
            return Err(Error::TokenId { id, vocab_size: self.0.vocab_size });
        }
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => {
                foreign(|| tokenizer.decode(ids, true).map_err(|error| error.to_string()))
            }
            Reader::SentencePiece(model) => model.decode(ids),
        }
    }

    /// The tokens that a text cannot spell unless their names are understood: control tokens.
    pub fn special_tokens(&self) -> Vec<SpecialToken> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => {
                let added = tokenizer.get_added_tokens_decoder().into_iter();
                let special = added.filter(|(_, token)| token.special && !token.content.is_empty());
                let mut all: Vec<_> = special
                    .map(|(id, token)| SpecialToken {
                        id,
                        text: token.content,
                        takes_space: [token.lstrip, token.rstrip],
                    })
                    .collect();
                all.sort_by_key(|token| token.id);
                all
            }
            Reader::SentencePiece(model) => model
                .control_pieces()
                .map(|(id, text)| SpecialToken { id, text, takes_space: [false; 2] })
                .collect(),
        }
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// The id that opens a document.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }

    /// The id that ends a document.
    pub fn eos(&self) -> Option<u32> {
        self.0.eos
    }

    /// The id that stands for what the vocabulary cannot spell.
    pub fn unk(&self) -> Option<u32> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => tokenizer.token_to_id("<unk>"),
            Reader::SentencePiece(model) => model.unk(),
        }
    }

    /// The token of an id, as the vocabulary spells it.
    pub fn token(&self, id: u32) -> Option<String> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => tokenizer.id_to_token(id),
            Reader::SentencePiece(model) => model.token(id),
        }
    }

    /// The id of a token, as the vocabulary spells it.
    pub fn id(&self, token: &str) -> Option<u32> {
        match &self.0.reader {
            Reader::HuggingFace { tokenizer, .. } => tokenizer.token_to_id(token),
            Reader::SentencePiece(model) => model.id(token),
        }
    }

    /// SHA-256 of the source bytes.
    pub fn hash(&self) -> [u8; 32] {
        self.0.hash
    }
}

fn parse(json: &str) -> Result<tokenizers::Tokenizer> {
    let json = checked(json).map_err(|reason| Error::tokenizer("tokenizer.json", &reason))?;
    foreign(|| tokenizers::Tokenizer::from_bytes(json).map_err(|error| error.to_string()))
}

fn encode(tokenizer: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>> {
    // `encode_fast` leaves out the offsets, which cost more than the ids.
    let encoding =
        foreign(|| tokenizer.encode_fast(text, false).map_err(|error| error.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// Calls the crate `tokenizers`.
fn foreign<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T> {
    contain(call).flatten().map_err(|reason| Error::tokenizer("tokenizer.json", &reason))
}
