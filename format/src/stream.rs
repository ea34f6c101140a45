//! Text as it is generated, one id at a time, never part of a character.

use crate::{error::Result, tokenizer::Tokenizer};

/// Turns ids into text as they come: the pieces add up to [`Tokenizer::decode`] of all ids.
///
/// A token may end inside a character, which then decodes to U+FFFD until the rest has come; such
/// an end is held back. Only the last few ids are decoded each time, so the cost of an id does not
/// grow with the text.
#[derive(Clone, Debug)]
pub struct TextStream {
    tokenizer: Tokenizer,
    /// The last ids: enough of them that what follows decodes as it does after all ids.
    window: Vec<u32>,
    /// How many bytes of the window's text have been returned.
    returned: usize,
    /// The window's first id whose text has not been returned.
    fresh: usize,
}

impl TextStream {
    /// A stream that has seen nothing yet.
    pub fn new(tokenizer: &Tokenizer) -> Self {
        Self { tokenizer: tokenizer.clone(), window: Vec::new(), returned: 0, fresh: 0 }
    }

    /// Takes one more id and returns the text that it completes; empty where a character is still
    /// open.
    ///
    /// # Errors
    ///
    /// An id outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        self.window.push(id);
        let text = self.tokenizer.decode(&self.window).inspect_err(|_| {
            self.window.pop();
        })?;
        let whole = complete(&text);
        let new = self.take(&text, whole);
        if whole == text.len() && !new.is_empty() {
            self.shorten()?;
        }
        Ok(new)
    }

    /// Whatever was still held back: characters that never came to an end.
    ///
    /// # Errors
    ///
    /// None for ids that [`Self::push`] has taken.
    pub fn finish(&mut self) -> Result<String> {
        let text = self.tokenizer.decode(&self.window)?;
        let rest = self.take(&text, text.len());
        self.window.clear();
        (self.returned, self.fresh) = (0, 0);
        Ok(rest)
    }

    /// What `text[..whole]` adds to what was returned before.
    fn take(&mut self, text: &str, whole: usize) -> String {
        // A decoder may take back what it said of invalid bytes; then the cut can fall anywhere.
        let start = (0..=self.returned.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        let new = text.get(start.unwrap_or(0)..whole).unwrap_or_default().to_owned();
        self.returned = self.returned.max(whole);
        new
    }

    /// Forgets all ids but those of the text returned last. Decoders treat the start of a text
    /// specially (SentencePiece drops its space), so what is kept must hold more than spaces.
    fn shorten(&mut self) -> Result<()> {
        let text = self.tokenizer.decode(&self.window[self.fresh..])?;
        if self.fresh > 0 && text.chars().any(|c| !c.is_whitespace()) {
            self.window.drain(..self.fresh);
            self.returned = text.len();
        }
        self.fresh = self.window.len();
        Ok(())
    }
}

/// How much of a text can no longer change: all but the replacement characters at its end, of which
/// an open character has at most three.
fn complete(text: &str) -> usize {
    let mut end = text.len();
    for _ in 0..3 {
        end = text[..end].strip_suffix('\u{fffd}').map_or(end, str::len);
    }
    end
}
