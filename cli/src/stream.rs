//! Text of a model on standard output, piece by piece.

use std::borrow::Cow;
use std::io::{self, IsTerminal, StdoutLock, Write};
use std::ops::ControlFlow;

use anyhow::{Context, Result};
use tern_format::harmless::{LAYOUT, replaced};

use crate::terminal::STANDARD_OUTPUT;

/// Writes at once. A model, or a file's own prompt, may have any byte: on a terminal, where some of them are commands, these are replaced.
pub(crate) struct Stream {
    out: StdoutLock<'static>,
    is_terminal: bool,
    failed: Option<io::Error>,
    ends_line: bool,
}

impl Stream {
    pub(crate) fn new() -> Self {
        let out = io::stdout().lock();
        let is_terminal = out.is_terminal();
        Self { out, is_terminal, failed: None, ends_line: true }
    }

    pub(crate) fn write(&mut self, text: &str) -> ControlFlow<()> {
        if !text.is_empty() {
            self.ends_line = text.ends_with('\n');
        }
        let text = if self.is_terminal { replaced(text, &LAYOUT).into() } else { Cow::from(text) };
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Whether what was written last ended its line.
    pub(crate) fn ends_line(&self) -> bool {
        self.ends_line
    }

    /// # Errors
    ///
    /// The first that writing met.
    pub(crate) fn finish(self) -> Result<()> {
        self.failed.map_or(Ok(()), Err).context(STANDARD_OUTPUT)
    }
}
