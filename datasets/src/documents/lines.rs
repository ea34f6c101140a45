//! Documents out of lines: of plain text, or JSON objects.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use tern_format::regular_file::open_regular;

use super::{LONGEST_LINE, Layout, Position, excess, excess_length};
use crate::config::Separator;
use crate::error::{Error, Result};

/// A file read line by line.
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    layout: Layout,
    is_json: bool,
    input: BufReader<File>,
    position: Position,
}

impl Lines {
    pub(super) fn open(
        path: &Path,
        layout: &Layout,
        is_json: bool,
        from: Position,
    ) -> Result<Self> {
        let (mut file, _) = open_regular(path)?;
        file.seek(SeekFrom::Start(from.bytes)).map_err(Error::io(path))?;
        Ok(Self {
            path: path.to_owned(),
            layout: layout.clone(),
            is_json,
            input: BufReader::with_capacity(1 << 16, file),
            position: from,
        })
    }

    pub(super) fn position(&self) -> Position {
        self.position
    }

    /// The next document, blank or not.
    pub(super) fn read(&mut self) -> Result<Option<String>> {
        if self.is_json { self.read_json() } else { self.read_text() }
    }

    /// The next line with a plain `\n` at its end if it has one, or `None` at the end of the file.
    fn read_line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        let mut bounded = self.input.by_ref().take(LONGEST_LINE as u64 + 1);
        let bytes = bounded.read_until(b'\n', &mut line).map_err(Error::io(&self.path))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.position.records += 1;
        self.position.bytes += bytes as u64;
        if bytes > LONGEST_LINE {
            let rule = "a line must be at most";
            return self.refuse(format!("{rule} {LONGEST_LINE} bytes long, this one is longer"));
        }
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            line.push(b'\n');
        }
        if self.position.records == 1 && line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        match String::from_utf8(line) {
            Ok(line) => Ok(Some(line)),
            Err(error) => {
                let column = error.utf8_error().valid_up_to() + 1;
                self.refuse(format!("text must be UTF-8; byte {column} of this line is not"))
            }
        }
    }

    fn refuse<T>(&self, rule: String) -> Result<T> {
        Err(Error::Line { path: self.path.clone(), line: self.position.records, rule })
    }

    /// The next document of a text file, blank or not.
    fn read_text(&mut self) -> Result<Option<String>> {
        let mut document = String::new();
        let mut found = false;
        while let Some(line) = self.read_line()? {
            found = true;
            let ends = match &self.layout.separator {
                Separator::Line(separator) => line.strip_suffix('\n').unwrap_or(&line) == separator,
                Separator::BlankLine => line.trim().is_empty(),
                Separator::None => false,
            };
            if ends {
                break;
            }
            document.push_str(&line);
            if let Some(rule) = excess(&line) {
                return self.refuse(rule);
            }
            if let Some(rule) = excess_length(&document) {
                return self.refuse(format!("{rule}; data.separator = \"blank_line\" may cut it"));
            }
        }
        let kept = document.trim_end().len();
        document.truncate(kept);
        let blank = document.len() - document.trim_start().len();
        document.drain(..blank);
        Ok(found.then_some(document))
    }

    /// The document on the next line of a jsonl file, blank or not.
    fn read_json(&mut self) -> Result<Option<String>> {
        let Some(line) = self.read_line()? else {
            return Ok(None);
        };
        if line.trim().is_empty() {
            return Ok(Some(String::new()));
        }
        let field = &self.layout.text_field;
        match serde_json::from_str::<serde_json::Value>(&line) {
            Ok(serde_json::Value::Object(mut object)) => match object
                .get_mut(field)
                .map(serde_json::Value::take)
            {
                Some(serde_json::Value::String(text)) => match excess(&text) {
                    Some(rule) => self.refuse(rule),
                    None => Ok(Some(text)),
                },
                Some(_) => self.refuse(format!("the field \"{field}\" must be a string")),
                None => {
                    let found =
                        object.keys().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
                    self.refuse(format!(
                        "the field \"{field}\" is missing; found: {found} (data.text_field)"
                    ))
                }
            },
            Ok(_) => self.refuse("each line must be a JSON object".to_owned()),
            Err(error) => self.refuse(format!("invalid JSON: {error}")),
        }
    }
}
