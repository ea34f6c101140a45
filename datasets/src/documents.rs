//! Documents out of text, jsonl and Parquet files, one at a time.
//!
//! Memory holds one line, or one page of Parquet, and one document. A file without a separator is one document.

mod blank_lines;
mod lines;
mod parquet;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Separator;
use crate::error::Result;
use lines::Lines;
use parquet::Rows;

pub use blank_lines::collapse;

/// Longer lines are no text, but a file without any.
const LONGEST_LINE: usize = 8 << 20;
/// Longer runs without white space are no words of any language: encoded binary data, say.
const LONGEST_WORD: usize = 1 << 20;
/// A document is encoded as a whole, for which a `tokenizer.json` takes 160 bytes of memory for each byte of text.
const LONGEST_DOCUMENT: usize = 8 << 20;

/// How documents stand in files.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What stands between two documents of a text file.
    pub separator: Separator,
    /// The field of a `.jsonl` line, or the column of a Parquet file, that holds the document.
    pub text_field: String,
    /// Whether blank lines inside a document become one line break.
    pub collapse_blank_lines: bool,
}

/// A place between two documents of a file, from where reading can go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Bytes of the file before it; an estimate in Parquet files, whose rows have no place of their own.
    pub bytes: u64,
    /// Lines, rows or stories before it.
    pub records: u64,
}

/// The documents of one file, in order, none of them blank.
///
/// A file whose name ends in `.jsonl` or `.ndjson` holds one JSON object a line, one in `.parquet` one document a row;
/// any other is text. Line ends may be those of Windows, and a byte order mark is dropped. A text document loses the
/// white space at its ends, which belongs to the separator; the text of a JSON object or of a row stays as it is
/// unless blank lines are collapsed.
#[derive(Debug)]
pub struct Documents {
    reader: Reader,
    collapse_blank_lines: bool,
    done: bool,
}

#[derive(Debug)]
enum Reader {
    Lines(Lines),
    Rows(Rows),
}

impl Documents {
    /// Opens a file and goes to a position that an earlier reading of it was at.
    ///
    /// # Errors
    ///
    /// A file that cannot be opened, by name.
    pub fn open(path: &Path, layout: &Layout, from: Position) -> Result<Self> {
        let is =
            |name: &str| path.extension().is_some_and(|found| found.eq_ignore_ascii_case(name));
        let reader = if is("parquet") {
            Reader::Rows(Rows::open(path, &layout.text_field, from)?)
        } else {
            let is_json = is("jsonl") || is("ndjson");
            Reader::Lines(Lines::open(path, layout, is_json, from)?)
        };
        Ok(Self { reader, collapse_blank_lines: layout.collapse_blank_lines, done: false })
    }

    /// The place behind the last document returned.
    pub fn reached(&self) -> Position {
        match &self.reader {
            Reader::Lines(lines) => lines.position(),
            Reader::Rows(rows) => rows.position(),
        }
    }
}

impl Iterator for Documents {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.done {
            let document = match &mut self.reader {
                Reader::Lines(lines) => lines.read(),
                Reader::Rows(rows) => rows.read(),
            };
            match document {
                Ok(None) => self.done = true,
                Ok(Some(text)) if text.trim().is_empty() => {}
                Ok(Some(text)) if self.collapse_blank_lines => return Some(Ok(collapse(&text))),
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

/// The rule that a document breaks which is too much for a tokenizer.
fn excess(text: &str) -> Option<String> {
    excess_length(text).or_else(|| excess_word(text))
}

fn excess_length(text: &str) -> Option<String> {
    (text.len() > LONGEST_DOCUMENT).then(|| {
        format!("a document must be at most {LONGEST_DOCUMENT} bytes long, this one is longer")
    })
}

fn excess_word(text: &str) -> Option<String> {
    let longest = || text.split_whitespace().map(str::len).max().unwrap_or(0);
    let too_long = text.len() > LONGEST_WORD && longest() > LONGEST_WORD;
    too_long.then(|| format!("a word must be at most {LONGEST_WORD} bytes long: is this text?"))
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
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Documents::open(&path, layout, Position::default())?.collect()
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
        let message = Documents::open(Path::new("/no/such/file"), &layout, Position::default())
            .unwrap_err()
            .to_string();
        assert!(message.starts_with("/no/such/file: "), "{message}");
    }

    #[test]
    fn a_file_that_breaks_in_the_middle_ends_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.txt");
        std::fs::write(&path, b"one\n\ntwo\n\n\xff\n\nfour").unwrap();
        let documents = Documents::open(&path, &layout("blank_line"), Position::default());
        let found: Vec<_> = documents.unwrap().collect();
        assert_eq!(found.len(), 3);
        assert!(found[2].is_err());
    }

    #[test]
    fn reading_goes_on_from_every_position() {
        let directory = tempfile::tempdir().unwrap();
        let text = "\u{feff}one\r\n\n\ntwo\nlines\n\n  \nthree\n\nfour";
        let json = "{\"text\": \"a\"}\n\n{\"text\": \"b\"}\n{\"text\": \"\"}\n{\"text\": \"c\"}";
        for (name, content) in [("a.txt", text), ("a.jsonl", json)] {
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            let open = |from| Documents::open(&path, &layout("blank_line"), from).unwrap();
            let all: Vec<String> = open(Position::default()).map(Result::unwrap).collect();
            let mut documents = open(Position::default());
            for read in 1..=all.len() {
                documents.next();
                let rest: Vec<String> = open(documents.reached()).map(Result::unwrap).collect();
                assert_eq!(rest, all[read..], "{name} after {read}");
            }
            assert_eq!(documents.reached().bytes, content.len() as u64);
        }
    }

    #[test]
    fn what_no_tokenizer_can_bear_is_refused_by_its_line() {
        let refused = |name, bytes: &[u8], separator| {
            read(name, bytes, &layout(separator)).unwrap_err().to_string()
        };
        let line = [&b"a\n"[..], &b"x ".repeat(LONGEST_LINE / 2 + 1)].concat();
        let error = refused("a.txt", &line, "none");
        assert!(
            error.ends_with(
                "a.txt:2: a line must be at most 8388608 bytes long, this one is longer"
            ),
            "{error}"
        );
        let word = [&b"a\nb "[..], &vec![b'x'; LONGEST_WORD + 1]].concat();
        let error = refused("a.txt", &word, "none");
        assert!(
            error.ends_with("a.txt:2: a word must be at most 1048576 bytes long: is this text?"),
            "{error}"
        );
        assert_eq!(read("a.txt", &word[..word.len() - 1], &layout("none")).unwrap().len(), 1);
        let json = format!("{{\"text\": \"{}\"}}", "x".repeat(LONGEST_WORD + 1));
        let error = refused("a.jsonl", json.as_bytes(), "none");
        assert!(error.contains("a.jsonl:1: a word must be"), "{error}");
        let document = b"some words\n".repeat(LONGEST_DOCUMENT / 11 + 1);
        let error = refused("a.txt", &document, "none");
        let place = format!(
            "a.txt:{}: a document must be at most 8388608 bytes",
            LONGEST_DOCUMENT / 11 + 1
        );
        assert!(error.contains(&place) && error.contains("\"blank_line\" may cut it"), "{error}");
    }
}
