//! Messages, from a terminal with line editing or from anything else line by line.

use std::io::{BufRead, Read as _, StdinLock};

use anyhow::{Context, Result, bail};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};

/// The longest line that is read, in bytes: more than any context holds.
const MOST_LINE_BYTES: u64 = 8 << 20;

const PROMPT: &str = "> ";
const CONTINUED: &str = ". ";
/// What begins and ends a message of several lines.
const FENCE: &str = "\"\"\"";

/// What came.
pub(super) enum Read {
    /// A message that is not blank.
    Message(String),
    /// Ctrl-C, with nothing typed.
    Interrupted,
    End,
}

pub(super) struct Input {
    lines: Lines,
    /// Lines read.
    line: usize,
}

enum Lines {
    Editor(Box<Editor<(), MemHistory>>),
    Plain(StdinLock<'static>),
}

enum Line {
    Text(String),
    Interrupted,
    End,
}

impl Input {
    /// Lines typed at a terminal.
    pub(super) fn editor() -> Result<Self> {
        let editor =
            Editor::with_history(Config::default(), MemHistory::new()).context("terminal")?;
        Ok(Self { lines: Lines::Editor(Box::new(editor)), line: 0 })
    }

    /// Lines of standard input.
    pub(super) fn plain() -> Self {
        Self { lines: Lines::Plain(std::io::stdin().lock()), line: 0 }
    }

    /// The line read last, counted from one.
    pub(super) fn line(&self) -> usize {
        self.line
    }

    /// Reads until a message is whole; blank ones are passed over.
    pub(super) fn message(&mut self) -> Result<Read> {
        let mut draft = Draft::default();
        loop {
            let prompt = if draft.is_begun { CONTINUED } else { PROMPT };
            let whole = match self.next_line(prompt)? {
                Line::Text(line) => draft.push(&line),
                // Takes back what was typed so far.
                Line::Interrupted if draft.is_begun => {
                    draft = Draft::default();
                    None
                }
                Line::Interrupted => return Ok(Read::Interrupted),
                // What was begun is all there will be.
                Line::End if draft.is_begun => Some(std::mem::take(&mut draft.text)),
                Line::End => return Ok(Read::End),
            };
            if let Some(message) = whole.filter(|message| !message.trim().is_empty()) {
                return Ok(Read::Message(message));
            }
        }
    }

    fn next_line(&mut self, prompt: &str) -> Result<Line> {
        let stdin = match &mut self.lines {
            Lines::Editor(editor) => {
                return Ok(match editor.readline(prompt) {
                    Ok(line) => {
                        if !line.trim().is_empty() {
                            editor.add_history_entry(&line)?;
                        }
                        Line::Text(line)
                    }
                    Err(ReadlineError::Interrupted) => Line::Interrupted,
                    Err(ReadlineError::Eof) => Line::End,
                    Err(error) => return Err(error).context("terminal"),
                });
            }
            Lines::Plain(stdin) => stdin,
        };
        let mut bytes = Vec::new();
        self.line += 1;
        let place = || format!("standard input, line {}", self.line);
        stdin.take(MOST_LINE_BYTES + 1).read_until(b'\n', &mut bytes).with_context(place)?;
        if bytes.is_empty() {
            return Ok(Line::End);
        }
        if bytes.len() as u64 > MOST_LINE_BYTES {
            bail!("{}: must have at most {MOST_LINE_BYTES} bytes, has more", place());
        }
        let mut line = String::from_utf8(bytes).with_context(place)?;
        if line.ends_with('\n') {
            line.pop();
            if line.ends_with('\r') {
                line.pop();
            }
        }
        Ok(Line::Text(line))
    }
}

/// A message that may not be whole yet.
#[derive(Default)]
struct Draft {
    text: String,
    is_begun: bool,
    is_fenced: bool,
}

impl Draft {
    /// Takes a line; returns the message that it makes whole.
    fn push(&mut self, line: &str) -> Option<String> {
        let mut line = line;
        if !self.is_begun
            && let Some(rest) = line.trim_start().strip_prefix(FENCE)
        {
            (self.is_begun, self.is_fenced) = (true, true);
            if rest.trim().is_empty() {
                return None;
            }
            line = rest;
        }
        if self.is_fenced {
            return match line.split_once(FENCE) {
                Some((last, _)) => {
                    self.text += last;
                    self.finish()
                }
                None => {
                    self.text += line;
                    self.text.push('\n');
                    None
                }
            };
        }
        if let Some(start) = line.strip_suffix('\\') {
            self.is_begun = true;
            self.text += start;
            self.text.push('\n');
            return None;
        }
        self.text += line;
        self.finish()
    }

    fn finish(&mut self) -> Option<String> {
        let text = std::mem::take(self).text;
        Some(text.trim_end_matches('\n').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(lines: &[&str]) -> (Vec<String>, bool) {
        let mut draft = Draft::default();
        let messages = lines.iter().filter_map(|line| draft.push(line)).collect();
        (messages, draft.is_begun)
    }

    #[test]
    fn lines_become_messages() {
        for (lines, expected) in [
            (&["a", "b"][..], &["a", "b"][..]),
            (&["a\\", "b\\", "c", "d"], &["a\nb\nc", "d"]),
            (&["\"\"\"", "a", "", "b\\", "\"\"\"", "c"], &["a\n\nb\\", "c"]),
            (&["\"\"\"a", "b\"\"\" c"], &["a\nb"]),
            (&["\"\"\"one line\"\"\""], &["one line"]),
            (&["say \"\"\"", "b"], &["say \"\"\"", "b"]),
            // Pasted at once.
            (&["a\nb"], &["a\nb"]),
            (&["\"\"\"a\nb\"\"\""], &["a\nb"]),
        ] {
            assert_eq!(
                messages(lines),
                (expected.iter().map(|&it| it.to_owned()).collect(), false)
            );
        }
        assert_eq!(messages(&["\"\"\"", "open"]), (vec![], true));
    }
}
