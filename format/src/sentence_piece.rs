//! SentencePiece models through the `sentencepiece-rs` crate, with texts cut into words.

use sentencepiece_rs::{ModelType, SentencePieceModel, SentencePieceProcessor};

use crate::error::{Error, Result};

/// How SentencePiece writes a space.
const SPACE: char = '\u{2581}';

/// A normalizer that changes nothing, as field 3 of a model: no dummy prefix, no removal of spaces,
/// no escaping. Appended to a model's bytes it replaces the model's own (in a protocol buffer the
/// last value of a field holds).
const NO_NORMALIZER: [u8; 8] = [0x1a, 0x06, 0x18, 0x00, 0x20, 0x00, 0x28, 0x00];

/// A loaded SentencePiece model.
#[derive(Debug)]
pub(crate) struct SentencePiece {
    processor: SentencePieceProcessor,
    /// The same pieces behind no normalizer, where texts may be encoded word by word.
    words: Option<SentencePieceProcessor>,
}

impl SentencePiece {
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let processor = SentencePieceProcessor::from_serialized_model(bytes).map_err(refused)?;
        let words = if is_made_of_words(processor.model()) {
            let bytes = [bytes, &NO_NORMALIZER].concat();
            Some(SentencePieceProcessor::from_serialized_model(&bytes).map_err(refused)?)
        } else {
            None
        };
        Ok(Self { processor, words })
    }

    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let Some(words) = &self.words else {
            let ids = self.processor.encode_to_ids(text).map_err(refused)?;
            return Ok(ids.into_iter().map(|id| id as u32).collect());
        };
        let normalized = self.processor.normalize(text).map_err(refused)?;
        let mut ids = Vec::new();
        for word in split_words(&normalized) {
            let word = words.encode_to_ids(word).map_err(refused)?;
            ids.extend(word.into_iter().map(|id| id as u32));
        }
        Ok(ids)
    }

    pub(crate) fn decode(&self, ids: &[u32]) -> Result<String> {
        let ids: Vec<usize> = ids.iter().map(|&id| id as usize).collect();
        self.processor.decode_ids(&ids).map_err(refused)
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

    pub(crate) fn token(&self, id: u32) -> Option<String> {
        self.processor.id_to_piece(id as usize).ok().map(str::to_owned)
    }

    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.processor.model().try_piece_to_id(token).map(|id| id as u32)
    }
}

fn refused(error: sentencepiece_rs::Error) -> Error {
    Error::tokenizer("SentencePiece model", &error)
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
