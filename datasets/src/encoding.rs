//! Documents to token files, on all cores and in bounded memory, so that it can stop anywhere and go on.

use std::time::{Duration, Instant};

use rayon::prelude::*;
use tern_format::tokenizer::Tokenizer;

use crate::error::Result;
use crate::input::{Cursor, Document, Input, Stream};
use crate::split::is_validation;
use crate::stories::Split;
use crate::summary::Side;
use crate::token_file::TokenFileWriter;

/// How much is done at a time. The token files do not depend on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Text encoded at a time: enough to keep the threads busy, little enough for memory.
    pub(crate) batch_bytes: usize,
    /// The most that a killed process loses.
    pub(crate) save_every: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { batch_bytes: 4 << 20, save_every: Duration::from_secs(2) }
    }
}

/// One side of one source while it is written.
#[derive(Debug)]
pub(crate) struct OpenSide {
    pub(crate) tokens: TokenFileWriter,
    pub(crate) characters: u64,
}

impl OpenSide {
    pub(crate) fn size(&self) -> Side {
        let header = self.tokens.header();
        Side {
            documents: header.documents,
            tokens: header.tokens,
            text_bytes: header.text_bytes,
            characters: self.characters,
        }
    }
}

/// Everything that encoding needs.
pub(crate) struct Encoder<'a> {
    pub(crate) tokenizer: &'a Tokenizer,
    pub(crate) valid_fraction: f64,
    pub(crate) pace: Pace,
    /// Training and validation of each source.
    pub(crate) sides: Vec<[OpenSide; 2]>,
}

struct Batch {
    documents: Vec<Document>,
    /// The place behind them.
    cursor: Cursor,
    /// Bytes of the files before that place.
    bytes: u64,
    is_last: bool,
}

/// What one document becomes.
struct Encoded {
    source: usize,
    side: usize,
    ids: Vec<u32>,
    text_bytes: usize,
    characters: u64,
}

/// How far encoding has come.
pub(crate) struct Reached<'a> {
    /// From here it can go on, once the sides are on the disk.
    pub(crate) cursor: Cursor,
    /// Bytes of the files before it.
    pub(crate) bytes: u64,
    pub(crate) sides: &'a mut [[OpenSide; 2]],
    /// Whether it is time to put all that on the disk.
    pub(crate) save: bool,
}

impl Encoder<'_> {
    /// Encodes all documents behind a place, and tells of each batch that has reached the sides.
    pub(crate) fn run(
        &mut self,
        inputs: &[Input],
        from: Cursor,
        reached: &mut dyn FnMut(Reached<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut stream = Stream::new(inputs, from);
        let mut batch = self.read(&mut stream)?;
        let mut saved = Instant::now();
        loop {
            // The next batch is read while this one is encoded.
            let next = || (!batch.is_last).then(|| self.read(&mut stream));
            let (encoded, next) = rayon::join(|| self.encode(&batch), next);
            for document in encoded? {
                let side = &mut self.sides[document.source][document.side];
                side.tokens.push(&document.ids, document.text_bytes)?;
                side.characters += document.characters;
            }
            let save = batch.is_last || saved.elapsed() >= self.pace.save_every;
            let sides = &mut self.sides;
            reached(Reached { cursor: batch.cursor, bytes: batch.bytes, sides, save })?;
            if save {
                saved = Instant::now();
            }
            match next {
                Some(next) => batch = next?,
                None => return Ok(()),
            }
        }
    }

    fn read(&self, stream: &mut Stream<'_>) -> Result<Batch> {
        let mut documents = Vec::new();
        let mut bytes = 0;
        let mut is_last = false;
        while bytes < self.pace.batch_bytes && !is_last {
            match stream.next()? {
                Some(document) => {
                    bytes += document.text.len();
                    documents.push(document);
                }
                None => is_last = true,
            }
        }
        Ok(Batch { documents, cursor: stream.cursor(), bytes: stream.bytes(), is_last })
    }

    /// In parallel, order kept.
    fn encode(&self, batch: &Batch) -> Result<Vec<Encoded>> {
        let encode = |document: &Document| {
            let text = &document.text;
            let valid = match document.side {
                Some(side) => side == Split::Valid,
                None => is_validation(text, self.valid_fraction),
            };
            Ok(Encoded {
                source: document.source,
                side: usize::from(valid),
                ids: self.tokenizer.encode_literally(text)?,
                text_bytes: text.len(),
                characters: text.chars().count() as u64,
            })
        };
        batch.documents.par_iter().map(encode).collect()
    }
}
