//! The record `data.json` of a prepared directory: from what, by which settings, how much.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tern_format::checksum::{hex, sha256};
use tern_format::error::printable;
use tern_format::regular_file::read_small;

use crate::config::{Corpus, DataConfig, Place, SourceConfig};
use crate::error::{Error, Result};
use crate::hub::Address;
use crate::stories::{Split, stories};

/// The name of the record.
pub(crate) const SUMMARY: &str = "data.json";

/// The largest JSON of prepared data that is read, in bytes; it has some hundred for each input.
pub(crate) const MOST_BYTES: u64 = 64 << 20;

/// The longest value of a setting that an error shows, in characters.
const MOST_SHOWN: usize = 200;

/// Raise this when the same settings and sources give other files than before.
pub(crate) const VERSION: u32 = 2;

/// The record `data.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// The version of this record.
    pub version: u32,
    /// SHA-256 over settings and inputs: the identity of the data.
    pub sha256: String,
    /// The keys of `[data]` that decide which tokens there are.
    pub settings: serde_json::Value,
    /// What the documents and the tokenizer were read from.
    pub inputs: Vec<InputRecord>,
    /// The tokenizer's file in this directory.
    pub tokenizer: String,
    /// One more than the largest id.
    pub vocab_size: usize,
    /// The id that opens a document.
    pub bos: Option<u32>,
    /// The id that ends one.
    pub eos: Option<u32>,
    /// The sources of the mixture; one without a name where there is no mixture.
    pub sources: Vec<SourceRecord>,
}

/// A file, or the story generator, that went into the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputRecord {
    /// The source that it belongs to; empty where there is no mixture, and for the tokenizer.
    pub source: String,
    /// `train`, `valid`, `tokenizer` or `stories`.
    pub role: String,
    /// The path, the name on the hub, or the generator's name.
    pub name: String,
    /// The size in bytes.
    pub bytes: u64,
    /// SHA-256 of the bytes.
    pub sha256: String,
}

/// The tokens of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceRecord {
    /// Its name; empty where there is no mixture.
    pub name: String,
    /// The training side.
    pub train: Tokens,
    /// The validation side.
    pub valid: Tokens,
}

/// A token file of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// Its name.
    pub file: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// How much is in it.
    pub size: Side,
}

/// How much text one side of the split has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Side {
    /// Documents.
    pub documents: u64,
    /// Ids, delimiters included.
    pub tokens: u64,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Characters of text.
    pub characters: u64,
}

impl std::ops::Add for Side {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            documents: self.documents + other.documents,
            tokens: self.tokens + other.tokens,
            text_bytes: self.text_bytes + other.text_bytes,
            characters: self.characters + other.characters,
        }
    }
}

impl Summary {
    /// Reads the record of prepared data.
    ///
    /// # Errors
    ///
    /// A file that cannot be read, is another version's or no record.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = &directory.join(SUMMARY);
        if !path.exists() {
            return Err(Error::Unprepared { path: directory.to_owned() });
        }
        let fault = |source| Error::Summary { path: path.to_owned(), source };
        let bytes = read_small(path, MOST_BYTES)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(fault)?;
        let found = &value["version"];
        if found != VERSION {
            let found = found.to_string().chars().take(20).collect();
            return Err(Error::Version { path: path.to_owned(), found, reads: VERSION });
        }
        serde_json::from_value(value).map_err(fault)
    }

    /// Checks that the data are what a `[data]` table describes, so that a run's configuration tells the truth about
    /// them. `directory` is where they are.
    ///
    /// Every setting that decides the tokens must be the same. Of files the names count without their directories,
    /// because prepared data outlive the places of their texts; names with a `*` are not compared.
    ///
    /// # Errors
    ///
    /// [`Error::OtherTokens`] with the first key that differs, and [`Error::Sources`].
    pub fn check(&self, config: &DataConfig, directory: &Path) -> Result<()> {
        // Through text, as the record has come: a float may change on the way.
        let text = settings(config).to_string();
        let (asked, made): (serde_json::Value, _) =
            (serde_json::from_str(&text).unwrap_or_default(), &self.settings);
        let mixture = config.mixture();
        let names: Vec<&str> = mixture.iter().map(|source| source.name.as_str()).collect();
        self.check_sources(&names, directory)?;
        let differ = |key: &str, source: &str, asked: String, made: String| {
            let source =
                if source.is_empty() { String::new() } else { format!(" of source {source}") };
            if asked == made {
                return Ok(());
            }
            let [asked, made] = [asked, made].map(|value| printable(&value, MOST_SHOWN));
            let path = directory.join(SUMMARY);
            Err(Error::OtherTokens { path, key: key.to_owned(), source_name: source, asked, made })
        };
        let shown = |value: &serde_json::Value| match value {
            serde_json::Value::Null => "unset".to_owned(),
            value => value.to_string(),
        };
        for key in ["train", "vocab_size", "byte_fallback"] {
            let [asked, made] = [&asked, made].map(|all| shown(&all["tokenizer"][key]));
            differ(&format!("tokenizer.{key}"), "", asked, made)?;
        }
        for key in ["bos", "eos", "collapse_blank_lines"] {
            differ(key, "", shown(&asked[key]), shown(&made[key]))?;
        }
        for (place, source) in mixture.iter().enumerate() {
            for key in SOURCE_KEYS {
                let [asked, made] = [&asked, made].map(|all| shown(&all["sources"][place][key]));
                differ(key, &source.name, asked, made)?;
            }
        }
        let mut files: Vec<(&str, &str, &str, &[String])> = Vec::new();
        for source in &mixture {
            files.push(("train", &source.name, "train", &source.train));
            files.push((
                "valid",
                &source.name,
                "valid",
                source.valid.as_deref().unwrap_or_default(),
            ));
        }
        let tokenizer: Vec<String> = config.tokenizer.file.iter().cloned().collect();
        files.push(("tokenizer.file", "", "tokenizer", &tokenizer));
        for (key, source, role, names) in files {
            if names.iter().any(|name| name.starts_with(Address::SCHEME) && name.contains('*')) {
                continue;
            }
            let of = |input: &&InputRecord| input.source == source && input.role == role;
            let made = self.inputs.iter().filter(of).map(|input| input.name.clone());
            // The record has the paths that variables stood for.
            let expanded = |name: &String| match Place::resolve("train", name, Path::new("")) {
                Ok(Place::Local(path)) => path.display().to_string(),
                _ => name.clone(),
            };
            differ(key, source, file_names(names.iter().map(expanded)), file_names(made))?;
        }
        Ok(())
    }

    /// Checks that there are these sources, in this order.
    pub(crate) fn check_sources(&self, expected: &[&str], directory: &Path) -> Result<()> {
        let found: Vec<&str> = self.sources.iter().map(|source| source.name.as_str()).collect();
        if expected == found {
            return Ok(());
        }
        let names = |names: &[&str]| match names {
            [""] => "one without a name".to_owned(),
            names => names.join(", "),
        };
        let [expected, found] = [names(expected), names(&found)];
        Err(Error::Sources { path: directory.to_owned(), expected, found })
    }

    /// How much there is to train on, in all sources.
    pub fn train(&self) -> Side {
        self.sources.iter().fold(Side::default(), |sum, source| sum + source.train.size)
    }

    /// How much there is to validate on, in all sources.
    pub fn valid(&self) -> Side {
        self.sources.iter().fold(Side::default(), |sum, source| sum + source.valid.size)
    }
}

/// The keys of one source among [`settings`], its name aside.
const SOURCE_KEYS: [&str; 8] = [
    "corpus",
    "separator",
    "valid_separator",
    "text_field",
    "valid_fraction",
    "stories_seed",
    "train_stories",
    "valid_stories",
];

/// The names of files without their directories, as a list.
fn file_names(names: impl Iterator<Item = String>) -> String {
    let last = |name: String| {
        let last = Path::new(&name).file_name().unwrap_or(name.as_ref());
        format!("{:?}", last.to_string_lossy())
    };
    format!("[{}]", names.map(last).collect::<Vec<_>>().join(", "))
}

/// The keys that decide which tokens there are: not the windows, no weights and no paths.
pub(crate) fn settings(config: &DataConfig) -> serde_json::Value {
    let tokenizer = &config.tokenizer;
    let source = |source: SourceConfig| match source.corpus {
        Corpus::Files => serde_json::json!({
            "name": source.name,
            "corpus": source.corpus,
            "separator": source.separator,
            "valid_separator": source.valid.as_ref().and(source.valid_separator.as_ref()),
            "text_field": source.text_field,
            "valid_fraction": source.valid.is_none().then_some(config.valid_fraction),
        }),
        Corpus::Stories => serde_json::json!({
            "name": source.name,
            "corpus": source.corpus,
            "stories_seed": config.stories_seed,
            "train_stories": source.train_stories,
            "valid_stories": source.valid_stories,
        }),
    };
    serde_json::json!({
        "tokenizer": { "train": tokenizer.train, "vocab_size": tokenizer.vocab_size,
            "byte_fallback": tokenizer.byte_fallback.unwrap_or(true) },
        "bos": config.bos,
        "eos": config.eos,
        "collapse_blank_lines": config.collapse_blank_lines,
        "sources": config.mixture().into_iter().map(source).collect::<Vec<_>>(),
    })
}

/// Names the tokens that a `[data]` table makes before its sources are read: by the settings that decide them, and by the
/// places of text and tokenizer. Two tables of the same name may share their prepared data.
pub fn tokens_name(config: &DataConfig) -> String {
    let texts = |source: SourceConfig| serde_json::json!([source.train, source.valid]);
    let places = serde_json::json!({
        "tokenizer": config.tokenizer.file,
        "texts": config.mixture().into_iter().map(texts).collect::<Vec<_>>(),
    });
    sha256(format!("{}\n{places}", settings(config)).as_bytes())[..8].to_owned()
}

pub(crate) fn identity(settings: &serde_json::Value, inputs: &[InputRecord]) -> String {
    let mut hash = Sha256::new();
    hash.update(settings.to_string());
    for input in inputs {
        hash.update(format!("\n{} {} {}", input.source, input.role, input.sha256));
    }
    hex(&hash.finalize())
}

/// The generator is known by its first stories: another version of it gives others.
pub(crate) fn hash_stories(source: &str, seed: u64) -> InputRecord {
    const PROBED: usize = 256;
    let mut hash = Sha256::new();
    let mut bytes = 0;
    for story in stories(seed, Split::Train).take(PROBED) {
        bytes += story.text.len() as u64;
        hash.update(story.text);
        hash.update(b"\0");
    }
    InputRecord {
        source: source.to_owned(),
        role: "stories".to_owned(),
        name: format!("the embedded stories of seed {seed}, known by the first {PROBED}"),
        bytes,
        sha256: hex(&hash.finalize()),
    }
}
