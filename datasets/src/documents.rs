//! Documents out of text and jsonl files, one at a time.
//!
//! Memory holds one line and one document. A file without a separator is one document.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::config::Separator;
use crate::error::{Error, Result};

/// How documents stand in files.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What stands between two documents of a text file.
    pub separator: Separator,
    /// The field of a `.jsonl` line that holds the document.
    pub text_field: String,
    /// Whether blank lines inside a document become one line break.
    pub collapse_blank_lines: bool,
}

/// The documents of one file, in order, none of them blank.
///
/// A file whose name ends in `.jsonl` or `.ndjson` holds one JSON object a line; any other is text.
/// Line ends may be those of Windows, and a byte order mark is dropped. A text document loses the
/// white space at its ends, which belongs to the separator; the text of a JSON object stays as it
/// is unless blank lines are collapsed.
#[derive(Debug)]
pub struct Documents {
    path: PathBuf,
    layout: Layout,
    is_json: bool,
    input: BufReader<File>,
    line: u64,
    bytes: u64,
    done: bool,
}

impl Documents {
    /// Opens a file.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, by name.
    pub fn open(path: &Path, layout: &Layout) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        let is_json = path.extension().is_some_and(|extension| {
            extension.eq_ignore_ascii_case("jsonl") || extension.eq_ignore_ascii_case("ndjson")
        });
        Ok(Self {
            path: path.to_owned(),
            layout: layout.clone(),
            is_json,
            input: BufReader::with_capacity(1 << 16, file),
            line: 0,
            bytes: 0,
            done: false,
        })
    }

    /// Bytes of the file read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next line with a plain `\n` at its end if it has one, or `None` at the end of the file.
    fn read_line(&mut self) -> Result<Option<String>> {
        let mut line = Vec::new();
        self.bytes +=
            self.input.read_until(b'\n', &mut line).map_err(Error::io(&self.path))? as u64;
        if line.is_empty() {
            return Ok(None);
        }
        self.line += 1;
        if line.ends_with(b"\r\n") {
            line.truncate(line.len() - 2);
            line.push(b'\n');
        }
        if self.line == 1 && line.starts_with(b"\xef\xbb\xbf") {
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
        Err(Error::Line { path: self.path.clone(), line: self.line, rule })
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
                Some(serde_json::Value::String(text)) => Ok(Some(text)),
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

impl Iterator for Documents {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let document = if self.is_json { self.read_json() } else { self.read_text() };
            match document {
                Ok(None) => self.done = true,
                Ok(Some(text)) if text.trim().is_empty() => {}
                Ok(Some(text)) if self.layout.collapse_blank_lines => {
                    return Some(Ok(collapse(&text)));
                }
                Ok(Some(text)) => return Some(Ok(text)),
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Trims a text and makes one line break of every run of white space that holds several, from the
/// first of them to the last: what `re.sub(r"\n\s*\n+", "\n", text.strip())` does in Python.
pub fn collapse(text: &str) -> String {
    let mut rest = text.trim();
    let mut collapsed = String::with_capacity(rest.len());
    while let Some(first) = rest.find('\n') {
        let run =
            rest[first..].find(|c: char| !c.is_whitespace()).map_or(rest.len(), |end| first + end);
        let last = rest[first..run].rfind('\n').map_or(first, |last| first + last);
        collapsed.push_str(&rest[..=first]);
        rest = &rest[last + 1..];
    }
    collapsed.push_str(rest);
    collapsed
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn layout(separator: &str) -> Layout {
        Layout {
            separator: separator.to_owned().into(),
            text_field: "text".to_owned(),
            collapse_blank_lines: false,
        }
    }

    fn read(name: &str, bytes: &[u8], layout: &Layout) -> Result<Vec<String>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Documents::open(&path, layout)?.collect()
    }

    #[test]
    fn a_separator_is_a_whole_line() {
        let text =
            b"\xef\xbb\xbfOne\r\n\r\ntwo <|end|> three\r\n<|end|>\r\n\n<|end|>\n  Four\n<|end|>";
        let documents = read("a.txt", text, &layout("<|end|>")).unwrap();
        assert_eq!(documents, ["One\n\ntwo <|end|> three", "Four"]);
    }

    #[test]
    fn blank_lines_and_nothing_separate() {
        let text = b"One\ntwo\n \n\nThree\n";
        assert_eq!(read("a.txt", text, &layout("blank_line")).unwrap(), ["One\ntwo", "Three"]);
        assert_eq!(read("a.txt", text, &layout("none")).unwrap(), ["One\ntwo\n \n\nThree"]);
        assert!(read("a.txt", b"", &layout("none")).unwrap().is_empty());
        assert!(read("a.txt", b" \n\n", &layout("none")).unwrap().is_empty());
    }

    #[test]
    fn jsonl_gives_the_named_field() {
        let text = b"{\"text\": \" a\\n\\nb \", \"id\": 1}\n\n{\"text\": \"\"}\n{\"text\": \"c\"}";
        let mut layout = layout("none");
        assert_eq!(read("a.jsonl", text, &layout).unwrap(), [" a\n\nb ", "c"]);
        layout.collapse_blank_lines = true;
        assert_eq!(read("a.jsonl", text, &layout).unwrap(), ["a\nb", "c"]);
    }

    #[test]
    fn errors_name_file_line_and_rule() {
        let mut layout = layout("none");
        let error = |name, bytes: &[u8], layout: &Layout| {
            read(name, bytes, layout).unwrap_err().to_string()
        };
        let message = error("a.txt", b"good\nb\xffd\n", &layout);
        assert!(
            message.ends_with("a.txt:2: text must be UTF-8; byte 2 of this line is not"),
            "{message}"
        );
        let message = error("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": ", &layout);
        assert!(message.contains("a.jsonl:2: invalid JSON: EOF"), "{message}");
        let message = error("a.jsonl", b"[1]", &layout);
        assert!(message.ends_with("a.jsonl:1: each line must be a JSON object"), "{message}");
        let message = error("a.jsonl", b"{\"text\": 3}", &layout);
        assert!(message.ends_with("a.jsonl:1: the field \"text\" must be a string"), "{message}");
        layout.text_field = "body".to_owned();
        let message = error("a.jsonl", b"{\"text\": \"a\", \"n\": 1}", &layout);
        assert!(message.contains("the field \"body\" is missing; found: text, n"), "{message}");
        let message = Documents::open(Path::new("/no/such/file"), &layout).unwrap_err().to_string();
        assert!(message.starts_with("/no/such/file: "), "{message}");
    }

    #[test]
    fn a_file_that_breaks_in_the_middle_ends_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        std::fs::write(&path, b"one\n\ntwo\n\n\xff\n\nfour").unwrap();
        let found: Vec<_> = Documents::open(&path, &layout("blank_line")).unwrap().collect();
        assert_eq!(found.len(), 3);
        assert!(found[2].is_err());
    }

    #[test]
    fn collapse_is_the_reference_expression() {
        let cases = [
            ("a\n\nb", "a\nb"),
            ("a\n \t\n\n\n b", "a\n b"),
            ("a\nb", "a\nb"),
            ("a\n  b", "a\n  b"),
            ("a  \n\nb\n\n", "a  \nb"),
            ("\n\n a \n\n", "a"),
            ("", ""),
            ("a\n\n\n\nb\n\nc", "a\nb\nc"),
        ];
        for (text, expected) in cases {
            assert_eq!(collapse(text), expected, "{text:?}");
        }
    }
}
