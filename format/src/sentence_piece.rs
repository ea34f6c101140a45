//! SentencePiece models through the `sentencepiece-rs` crate, with texts cut into words.
//!
//! A model is a protocol buffer; what in it could make the crate panic, take memory without end or recurse too deep is
//! checked before.

use sentencepiece_rs::{ModelType, PieceType, SentencePieceModel, SentencePieceProcessor};

use crate::charsmap;
use crate::contain::contain;
use crate::error::{Error, Result};
use crate::protocol_buffer::{Value, fields};

/// How SentencePiece writes a space.
const SPACE: char = '\u{2581}';

/// A normalizer that changes nothing, as field 3 of a model: no dummy prefix, no removal of spaces,
/// no escaping. Appended to a model's bytes it replaces the model's own (in a protocol buffer the
/// last value of a field holds).
const NO_NORMALIZER: [u8; 8] = [0x1a, 0x06, 0x18, 0x00, 0x20, 0x00, 0x28, 0x00];

/// The longest piece, and the longest text for what is unknown. The crate takes BPE pieces apart by recursion.
const MOST_PIECE_BYTES: usize = 1024;

/// A loaded SentencePiece model.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    processor: SentencePieceProcessor,
    /// The same pieces behind no normalizer, where texts may be encoded word by word.
    words: Option<SentencePieceProcessor>,
}

impl SentencePiece {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        check(bytes).map_err(|rule| Error::tokenizer(KIND, &rule))?;
        let load = |bytes: &[u8]| foreign(|| SentencePieceProcessor::from_serialized_model(bytes));
        let processor = load(bytes)?;
        let words = if is_made_of_words(processor.model()) {
            Some(load(&[bytes, &NO_NORMALIZER].concat())?)
        } else {
            None
        };
        Ok(Self { processor, words })
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Some(words) = &self.words else {
            let ids = foreign(|| self.processor.encode_to_ids(text))?;
            return Ok(ids.into_iter().map(|id| id as u32).collect());
        };
        let normalized = foreign(|| self.processor.normalize(text))?;
        let mut ids = Vec::new();
        for word in split_words(&normalized) {
            let word = foreign(|| words.encode_to_ids(word))?;
            ids.extend(word.into_iter().map(|id| id as u32));
        }
        Ok(ids)
    }

    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        let ids: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        foreign(|| self.processor.decode_ids(&ids))
    }

    pub(crate) fn vocab_size(&self) -> usize {
        self.processor.model().vocab_size()
    }

    pub(crate) fn bos(&self) -> Option<u32> {
        self.processor.bos_id().map(|id| id as u32)
    }

    pub(crate) fn eos(&self) -> Option<u32> {
        self.processor.eos_id().map(|id| id as u32)
    }

    pub(crate) fn unk(&self) -> Option<u32> {
        Some(self.processor.unk_id() as u32)
    }

    /// Pieces that no text contains: BOS, EOS and their like.
    pub(crate) fn control_pieces(&self) -> impl Iterator<Item = (u32, String)> {
        let pieces = (0..).zip(self.processor.model().pieces());
        let control = pieces.filter(|(_, piece)| piece.kind == PieceType::Control);
        control.map(|(id, piece)| (id, piece.piece.clone()))
    }

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.processor.id_to_piece(id as usize).ok().map(str::to_owned)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.processor.model().try_piece_to_id(token).map(|id| id as u32)
    }
}

const KIND: &str = "SentencePiece model";

/// Calls the crate.
fn foreign<T>(call: impl FnOnce() -> sentencepiece_rs::Result<T>) -> Result<T> {
    let called = contain(call).map_err(|panic| Error::tokenizer(KIND, &panic))?;
    called.map_err(|error| Error::tokenizer(KIND, &error))
}

/// Checks what the crate does not: pieces and tables of normalization that it could not bear.
fn check(model: &[u8]) -> Result<(), String> {
    let text = |place: &str, text: &[u8]| {
        let size = text.len();
        if size <= MOST_PIECE_BYTES {
            return Ok(());
        }
        Err(format!("{place} must have at most {MOST_PIECE_BYTES} bytes, has {size}"))
    };
    for field in fields(model) {
        let (number @ (1 | 2 | 3 | 5), Value::Bytes(message)) = field? else { continue };
        for field in fields(message) {
            let (part, Value::Bytes(bytes)) = field? else { continue };
            match (number, part) {
                (1, 1) => text("a piece", bytes)?,
                (2, 44) => text("unk_surface", bytes)?,
                (3 | 5, 2) if !bytes.is_empty() => {
                    charsmap::check(bytes)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether no piece crosses the start of a word: the model knows the bare space, and no piece in
/// which a space follows something else. Then words are encoded one by one, which gives the ids of
/// the whole and saves the crate from two weaknesses with long texts: its BPE takes time quadratic
/// in the text, and its unigram model adds up scores in `f32`, so that 120 KB into a text near ties
/// fall the wrong way (23 words of TinyStories' validation text differed from the original's).
fn is_made_of_words(model: &SentencePieceModel) -> bool {
    let crosses = |piece: &str| piece.trim_start_matches(SPACE).contains(SPACE);
    matches!(model.model_type(), ModelType::Bpe | ModelType::Unigram)
        && model.try_piece_to_id("\u{2581}").is_some()
        && !model.pieces().iter().any(|piece| crosses(&piece.piece))
}

/// Cuts before every space that follows something else; runs of spaces stay together.
fn split_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let word = rest.find(|c| c != SPACE).unwrap_or(rest.len());
        let end = rest[word..].find(SPACE).map_or(rest.len(), |at| word + at);
        let (head, tail) = rest.split_at(end);
        rest = tail;
        Some(head)
    })
}
