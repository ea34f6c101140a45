//! Everything that can be wrong between a text and its windows.

use std::path::PathBuf;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong, where, and the rule that it breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error in the bytes of a tokenizer or another model file.
    #[error(transparent)]
    Format(#[from] tern_format::Error),
    /// Reading or writing a file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A key of the `[data]` table breaks a rule.
    #[error("data.{key} {rule}")]
    Config {
        /// The key.
        key: &'static str,
        /// The rule and the value found.
        rule: String,
    },
    /// A path of the `[data]` table uses a variable that is not set.
    #[error("data.{key}: the environment variable {variable} in \"{path}\" is not set")]
    Variable {
        /// The key.
        key: &'static str,
        /// The path as it stands in the config.
        path: String,
        /// The variable.
        variable: String,
    },
    /// A line of a text breaks a rule.
    #[error("{}:{line}: {rule}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from one.
        line: u64,
        /// The rule and what was found.
        rule: String,
    },
    /// A Parquet file, or a row of it, breaks a rule.
    #[error("{}: {place}{rule}", path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// Row group, row and column, or nothing.
        place: String,
        /// The rule and what was found.
        rule: String,
    },
    /// An address of the hub is faulty, or matches nothing.
    #[error("{address}: {rule}")]
    HubAddress {
        /// The address.
        address: String,
        /// The rule.
        rule: String,
    },
    /// The hub refuses.
    #[error("{name}: the hub answers {status}: {hint}")]
    HubStatus {
        /// The file, or the address.
        name: String,
        /// The HTTP status.
        status: u16,
        /// What would help.
        hint: &'static str,
    },
    /// A transfer failed.
    #[error("{name}: {source}")]
    HubTransfer {
        /// The file, or the address.
        name: String,
        /// What the crate says.
        source: Box<hf_hub::api::sync::ApiError>,
    },
    /// The hub says nothing.
    #[error(
        "{name}: the hub said nothing for {seconds} s; what has come so far is kept: try again later"
    )]
    HubSilent {
        /// The file, or the address.
        name: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A file of the hub is not what the hub states.
    #[error("{name}: {rule}")]
    HubFile {
        /// The file.
        name: String,
        /// The rule and the value found.
        rule: String,
    },
    /// A file of the hub is not here, and must not be fetched.
    #[error(
        "{name}: not in the cache, and this is offline: run once without --offline and HF_HUB_OFFLINE"
    )]
    HubOffline {
        /// The file.
        name: String,
    },
    /// A corpus, or one side of its split, has no documents.
    #[error("{corpus} holds no documents: {hint}")]
    Empty {
        /// Which corpus: the files, or the side.
        corpus: String,
        /// What would help.
        hint: String,
    },
    /// A corpus is too short to cut a window from.
    #[error(
        "{}: {tokens} tokens are shorter than one window of seq_len {seq_len} + 1",
        path.display()
    )]
    ShorterThanWindow {
        /// The token file.
        path: PathBuf,
        /// The tokens that it holds.
        tokens: u64,
        /// The length of a window's input.
        seq_len: usize,
    },
    /// No window of a document can be cut.
    #[error(
        "{}: no document begins early enough for a whole window of seq_len {seq_len} + 1; choose a smaller \
         data.seq_len, or data.windows = \"anywhere\"",
        path.display()
    )]
    NoDocumentStart {
        /// The token file.
        path: PathBuf,
        /// The length of a window's input.
        seq_len: usize,
    },
    /// The header, the size or an id of a token file breaks a rule.
    #[error("{}: {place}: {rule}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// The field, or the position of the id.
        place: String,
        /// The rule and the value found.
        rule: String,
    },
    /// A text supports no vocabulary of the size asked for.
    #[error("data.tokenizer.vocab_size = {wanted}: {rule}")]
    VocabSize {
        /// The size asked for.
        wanted: usize,
        /// The rule and the size that would do.
        rule: String,
    },
    /// The trainer of the tokenizers crate gave up.
    #[error("training the tokenizer failed: {reason}")]
    TokenizerTraining {
        /// The trainer's own words.
        reason: String,
    },
    /// A prepared directory is another version's.
    #[error("{}: the version must be {reads}, is {found}: prepare the data again", path.display())]
    Version {
        /// `data.json`.
        path: PathBuf,
        /// The version in it.
        found: String,
        /// The version that this program reads.
        reads: u32,
    },
    /// A file of a prepared directory is not the one that was prepared.
    #[error("{}: its SHA-256 must be {expected}, is {found}: it was changed; prepare the data again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The checksum in `data.json`.
        expected: String,
        /// The checksum of the file.
        found: String,
    },
    /// A prepared directory has other sources than the configuration.
    #[error("{}: the sources must be those of the configuration, {expected}; they are {found}", path.display())]
    Sources {
        /// The directory.
        path: PathBuf,
        /// The names in the configuration.
        expected: String,
        /// The names in `data.json`.
        found: String,
    },
    /// Prepared data were made by other settings than the configuration's.
    #[error(
        "data.{key}{source_name} is {asked}, but {} says that the tokens were made with {made}; set the key so, or prepare \
         data of its own for this configuration",
        path.display()
    )]
    OtherTokens {
        /// `data.json`.
        path: PathBuf,
        /// The key of `[data]`.
        key: String,
        /// ` of source NAME` in a mixture, otherwise empty.
        source_name: String,
        /// The value in the configuration.
        asked: String,
        /// The value in `data.json`.
        made: String,
    },
    /// Another process is at work.
    #[error("{}: another process prepares data here", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// A directory holds no prepared data.
    #[error(
        "{}: holds no prepared data; `tern data prepare` makes them, and --data names another directory",
        path.display()
    )]
    Unprepared {
        /// The directory.
        path: PathBuf,
    },
    /// A run was trained on the tokens that are there.
    #[error(
        "{}: holds the tokens that a run was trained on, and text or settings would give others now; choose another --out, \
         or go on with the run by --resume and --out alone",
        path.display()
    )]
    Taken {
        /// The directory.
        path: PathBuf,
    },
    /// `data.json` of a prepared directory cannot be read.
    #[error("{}: {source}", path.display())]
    Summary {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        source: serde_json::Error,
    },
}

impl Error {
    /// Names the file that an I/O error is about.
    pub(crate) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
