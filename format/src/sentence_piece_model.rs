//! What a SentencePiece model says: its pieces, and how it normalizes a text (`sentencepiece_model.proto`).
//!
//! For writers of other formats; encoding is [`crate::sentence_piece`]'s.

use crate::protocol_buffer::{Value, fields};

/// An algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// The likeliest pieces.
    Unigram,
    /// Merges by score.
    Bpe,
    /// Words or characters.
    Other,
}

/// What a piece is; its number in the file, which GGUF shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl Kind {
    /// The kind of a number; one that nobody knows is taken for the usual kind, as other readers have it.
    pub(crate) fn of(number: u64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }
}

/// One piece; its id is its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
    pub(crate) kind: Kind,
}

/// A model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) pieces: Vec<Piece>,
    /// The precompiled table of normalization; empty where there is none.
    pub(crate) charsmap: &'a [u8],
    pub(crate) add_dummy_prefix: bool,
    pub(crate) remove_extra_whitespaces: bool,
    pub(crate) escape_whitespaces: bool,
    pub(crate) whitespace_as_suffix: bool,
    pub(crate) byte_fallback: bool,
}

impl<'a> Model<'a> {
    /// Reads the fields that matter; of a field that stands there twice the last counts.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, String> {
        let mut model = Self {
            algorithm: Algorithm::Unigram,
            pieces: Vec::new(),
            charsmap: &[],
            add_dummy_prefix: true,
            remove_extra_whitespaces: true,
            escape_whitespaces: true,
            whitespace_as_suffix: false,
            byte_fallback: false,
        };
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(piece)) => model.pieces.push(parse_piece(piece)?),
                (2, Value::Bytes(trainer)) => {
                    for field in fields(trainer) {
                        match field? {
                            (3, Value::Number(1)) => model.algorithm = Algorithm::Unigram,
                            (3, Value::Number(2)) => model.algorithm = Algorithm::Bpe,
                            (3, _) => model.algorithm = Algorithm::Other,
                            (24, Value::Number(n)) => model.whitespace_as_suffix = n != 0,
                            (35, Value::Number(n)) => model.byte_fallback = n != 0,
                            _ => {}
                        }
                    }
                }
                (3, Value::Bytes(normalizer)) => {
                    for field in fields(normalizer) {
                        match field? {
                            (2, Value::Bytes(charsmap)) => model.charsmap = charsmap,
                            (3, Value::Number(n)) => model.add_dummy_prefix = n != 0,
                            (4, Value::Number(n)) => model.remove_extra_whitespaces = n != 0,
                            (5, Value::Number(n)) => model.escape_whitespaces = n != 0,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(model)
    }
}

fn parse_piece(bytes: &[u8]) -> Result<Piece, String> {
    let mut piece = Piece { text: String::new(), score: 0.0, kind: Kind::Normal };
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => {
                let text = std::str::from_utf8(text).map_err(|_| "a piece must be UTF-8")?;
                piece.text = text.into();
            }
            (2, Value::Number(bits)) => piece.score = f32::from_bits(bits as u32),
            (3, Value::Number(number)) => piece.kind = Kind::of(number),
            _ => {}
        }
    }
    Ok(piece)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_published_model_is_read() {
        let path =
            concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/tok_spm_unigram/plain.model");
        let bytes = std::fs::read(path).unwrap();
        let model = Model::parse(&bytes).unwrap();
        assert_eq!(model.algorithm, Algorithm::Unigram);
        assert_eq!(crate::charsmap::check(model.charsmap), Ok(33));
        assert!(model.add_dummy_prefix && model.remove_extra_whitespaces);
        assert!(!model.byte_fallback && !model.whitespace_as_suffix);
        let [unknown, bos, eos, ..] = &model.pieces[..] else { panic!() };
        assert_eq!((unknown.text.as_str(), unknown.kind), ("<unk>", Kind::Unknown));
        assert_eq!((bos.kind, eos.kind), (Kind::Control, Kind::Control));
        assert!(model.pieces[3..].iter().all(|piece| piece.kind == Kind::Normal));
        assert!(model.pieces[3..].iter().all(|piece| piece.score <= 0.0 && !piece.text.is_empty()));
        assert!(Model::parse(&bytes[..bytes.len() - 1]).is_err());
    }
}
