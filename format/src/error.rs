//! Everything that can be wrong with the bytes of a model.

use std::path::PathBuf;

use crate::harmless::escaped;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, where, and the rule that it breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error inside a named file.
    #[error("{}: {source}", path.display())]
    In {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: Box<Error>,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A part of the architecture breaks a rule.
    #[error("model.{key} {rule}")]
    Config {
        /// The key in the `[model]` table.
        key: &'static str,
        /// The rule and the value found.
        rule: String,
    },
    /// The bytes are no safetensors file.
    #[error("not a safetensors file: it looks like {looks_like}")]
    NotSafetensors {
        /// What the bytes look like.
        looks_like: &'static str,
    },
    /// The path names something that cannot be read as a file of known size.
    #[error("must be a regular file")]
    NotAFile,
    /// A text is none.
    #[error("line {line} must be UTF-8")]
    NotText {
        /// Where the first byte stands that is wrong, counted from one.
        line: usize,
    },
    /// A file is larger than any of its kind.
    #[error("must have at most {most} bytes, has {found}")]
    TooLarge {
        /// The most that it may have.
        most: u64,
        /// What it has.
        found: u64,
    },
    /// The length of the header, which the first eight bytes hold, is impossible.
    #[error(
        "the header must fit the {most} bytes that may follow its length, says {says}: truncated?"
    )]
    HeaderLength {
        /// The length in the first eight bytes.
        says: u64,
        /// The rest of the file, or the most that readers of safetensors accept.
        most: u64,
    },
    /// The header is no JSON of the form that safetensors prescribes.
    #[error("header: {}", printable(&source.to_string(), 400))]
    Header {
        /// What the JSON reader found.
        source: serde_json::Error,
    },
    /// A text is no JSON, or not of the form that its kind of file has.
    #[error("not the JSON that such a file holds: {}", printable(&source.to_string(), 400))]
    Json {
        /// What the JSON reader found.
        source: serde_json::Error,
    },
    /// Bytes that belong to no tensor.
    #[error("{count} bytes after the last tensor belong to nothing")]
    TrailingBytes {
        /// How many.
        count: u64,
    },
    /// Something is wrong with one tensor.
    #[error("tensor {}: {source}", quoted(name))]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A tensor that the config asks for is absent.
    #[error("the config asks for it, but it is missing")]
    Missing,
    /// A tensor that the config does not ask for is present.
    #[error("the config has no such tensor")]
    Extra,
    /// A name occurs twice.
    #[error("occurs twice")]
    Duplicate,
    /// The shape is not the one asked for.
    #[error("the shape must be {expected:?}, is {}", printable(&format!("{found:?}"), 80))]
    Shape {
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// The product of a shape passes 64 bits.
    #[error("the shape {} overflows", printable(&format!("{found:?}"), 80))]
    ShapeOverflow {
        /// The shape found.
        found: Vec<u64>,
    },
    /// The element type is not one of those allowed there.
    #[error("the dtype must be {expected}, is {found}")]
    Dtype {
        /// The element types allowed.
        expected: &'static str,
        /// The one found.
        found: crate::safetensors::Dtype,
    },
    /// A number of elements or bytes is not the one that the shape asks for.
    #[error("the shape asks for {expected} {unit}, found {found}")]
    Count {
        /// What is counted.
        unit: &'static str,
        /// The number asked for.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// The data does not begin where the tensor before it ends.
    #[error(
        "its data must begin at byte {expected}, where the tensor before it ends; begins at {found}"
    )]
    Offset {
        /// The end of the tensor before.
        expected: u64,
        /// The beginning found.
        found: u64,
    },
    /// The data ends before it begins.
    #[error("its data begins at byte {begin} and must not end before that; ends at {end}")]
    Backwards {
        /// First byte.
        begin: u64,
        /// One past the last byte.
        end: u64,
    },
    /// The data ends past the end of the file.
    #[error(
        "its data ends at byte {end}, but the file holds {available} after its header: truncated?"
    )]
    Truncated {
        /// One past the last byte.
        end: u64,
        /// How many bytes there are.
        available: u64,
    },
    /// A value is NaN or infinite where a number is needed.
    #[error("value {index} must be a finite {dtype}, is {value}")]
    NotFinite {
        /// Its place in the flattened tensor.
        index: usize,
        /// The type that it is stored as.
        dtype: &'static str,
        /// The value found.
        value: f32,
    },
    /// A two-bit code that is no trit.
    #[error("row {row}, column {column}: code 3 is no trit")]
    Code {
        /// The output.
        row: usize,
        /// The input.
        column: usize,
    },
    /// A word that is no code of trits.
    #[error("row {row}, column {column}: {found} is no code of trits, the largest is {most}")]
    Word {
        /// The output.
        row: usize,
        /// The first input of the word.
        column: usize,
        /// The word.
        found: u32,
        /// The largest that is one.
        most: u32,
    },
    /// Four trits that an encoding cannot hold.
    #[error(
        "row {row}, columns {column} to {}: {encoding} has no code for {non_zeros} trits that are not zero",
        column + 3
    )]
    Group {
        /// The encoding.
        encoding: &'static str,
        /// The output.
        row: usize,
        /// The first input of the four.
        column: usize,
        /// How many of them are not zero.
        non_zeros: usize,
    },
    /// A row that ends inside a group.
    #[error("{encoding} has groups of four: d_input must be a multiple of 4, is {d_input}")]
    Width {
        /// The encoding.
        encoding: &'static str,
        /// The number of inputs.
        d_input: usize,
    },
    /// Bits past the end of a row are set.
    #[error("row {row}: the bits past column {d_input} must be zero")]
    Padding {
        /// The output.
        row: usize,
        /// The number of inputs.
        d_input: usize,
    },
    /// Something is wrong at one byte of a file.
    #[error("byte {offset}: {rule}")]
    At {
        /// Its place, counted from zero.
        offset: u64,
        /// The rule and what was found.
        rule: String,
    },
    /// A rule is broken; whoever passes this on says where.
    #[error("{rule}")]
    Rule {
        /// The rule and what was found.
        rule: String,
    },
    /// An entry of the file's metadata breaks a rule.
    #[error("metadata {}: {rule}", quoted(key))]
    Metadata {
        /// The key.
        key: String,
        /// The rule and the value found.
        rule: String,
    },
    /// An entry of the file's metadata does not parse.
    #[error("metadata {}: {}", quoted(key), printable(&source.to_string(), 400))]
    MetadataJson {
        /// The key.
        key: &'static str,
        /// What the JSON reader found.
        source: serde_json::Error,
    },
    /// The file was written by another version of this program.
    #[error("the file says format version {}, this program reads {reads}", printable(found, 40))]
    FormatVersion {
        /// The version in the file.
        found: String,
        /// The version that this program reads.
        reads: u32,
    },
    /// The file packs its trits in a way that this program does not know.
    #[error("the encoding must be t2, t5, s24 or s24n, is {}", quoted(found))]
    Encoding {
        /// The encoding in the file.
        found: String,
    },
    /// The bytes of a tokenizer, or a text given to it, that its reader refuses.
    #[error("{kind}: {reason}")]
    Tokenizer {
        /// What the bytes were read as.
        kind: &'static str,
        /// The reader's own words.
        reason: String,
    },
    /// A chat template that is none, or that refuses a conversation.
    #[error("chat template, line {line}: {rule}")]
    Template {
        /// Where in the template, counted from one.
        line: usize,
        /// The rule and what was found, or the template's own words.
        rule: String,
    },
    /// An id that a vocabulary does not have.
    #[error("token id {id} is outside the vocabulary of {vocab_size}")]
    TokenId {
        /// The id.
        id: u32,
        /// One more than the largest id.
        vocab_size: usize,
    },
}

impl Error {
    /// An error of a tokenizer crate, whose words may quote the file at length.
    pub(crate) fn tokenizer(kind: &'static str, error: &dyn std::fmt::Display) -> Self {
        Self::Tokenizer { kind, reason: printable(&error.to_string(), 300) }
    }

    /// Names the tensor that an error is about, unless it names one: the inner name is the exact one.
    pub fn in_tensor(self, name: &str) -> Self {
        match self {
            Self::Tensor { .. } => self,
            other => Self::Tensor { name: name.into(), source: Box::new(other) },
        }
    }

    /// Names the file that an error is about.
    pub fn in_file(self, path: &std::path::Path) -> Self {
        Self::In { path: path.into(), source: Box::new(self) }
    }
}

/// Text from a file, fit to be shown: it may be a hundred megabytes of escape sequences. At most `most` characters of it
/// are.
pub fn printable(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => escaped(&text[..end], &[]) + "…",
        None => escaped(text, &[]),
    }
}

/// A name from a file between quotation marks, fit to be shown.
pub(crate) fn quoted(name: &str) -> String {
    format!("`{}`", printable(name, 120))
}
