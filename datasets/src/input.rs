//! What documents are read from: files and the story generator, one behind the other.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::documents::{Documents, Layout, Position};
use crate::error::Result;
use crate::stories::{Split, stories};

/// One file, or one run of stories.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    /// The source that it belongs to.
    pub(crate) source: usize,
    /// The side of all its documents; without one a hash decides each document's.
    pub(crate) side: Option<Split>,
    /// Bytes of the file.
    pub(crate) bytes: u64,
    pub(crate) content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    File {
        /// As the configuration names it, or by its full path.
        name: String,
        path: PathBuf,
        layout: Layout,
    },
    Stories {
        seed: u64,
        split: Split,
        count: usize,
    },
}

/// A place between two documents of all inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cursor {
    /// The input that is read.
    pub(crate) input: usize,
    /// The place in it.
    pub(crate) position: Position,
}

/// A document and where it belongs.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) source: usize,
    pub(crate) side: Option<Split>,
    pub(crate) text: String,
}

/// The documents of all inputs from a place on; one file at a time is open.
#[derive(Debug)]
pub(crate) struct Stream<'a> {
    inputs: &'a [Input],
    cursor: Cursor,
    reader: Option<Reader>,
}

enum Reader {
    File(Box<Documents>),
    Stories(Box<dyn Iterator<Item = String> + Send>),
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Stories(_) => "Stories",
        })
    }
}

impl<'a> Stream<'a> {
    pub(crate) fn new(inputs: &'a [Input], cursor: Cursor) -> Self {
        Self { inputs, cursor, reader: None }
    }

    /// The place behind the last document.
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Bytes of the files before that place.
    pub(crate) fn bytes(&self) -> u64 {
        let before = self.inputs.iter().take(self.cursor.input).map(|input| input.bytes);
        before.sum::<u64>() + self.cursor.position.bytes
    }

    /// The next document, or none at the end of the last input.
    pub(crate) fn next(&mut self) -> Result<Option<Document>> {
        while let Some(input) = self.inputs.get(self.cursor.input) {
            let reader = match &mut self.reader {
                Some(reader) => reader,
                closed => closed.insert(input.open(self.cursor.position)?),
            };
            let position = &mut self.cursor.position;
            let text = match reader {
                Reader::File(documents) => {
                    let text = documents.next().transpose()?;
                    *position = documents.reached();
                    text
                }
                Reader::Stories(stories) => {
                    position.records += 1;
                    stories.next()
                }
            };
            if let Some(text) = text {
                return Ok(Some(Document { source: input.source, side: input.side, text }));
            }
            self.cursor = Cursor { input: self.cursor.input + 1, position: Position::default() };
            self.reader = None;
        }
        Ok(None)
    }
}

impl Input {
    fn open(&self, from: Position) -> Result<Reader> {
        match &self.content {
            Content::File { path, layout, .. } => {
                Ok(Reader::File(Box::new(Documents::open(path, layout, from)?)))
            }
            Content::Stories { seed, split, count } => {
                let stories = stories(*seed, *split).take(*count).skip(from.records as usize);
                Ok(Reader::Stories(Box::new(stories.map(|story| story.text))))
            }
        }
    }
}
