//! The `[data]` table of a run: which text, how it is cut, and into which windows.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The `[data]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where the documents come from.
    #[serde(default)]
    pub corpus: Corpus,
    /// Files to train on: text, or `.jsonl`. Relative paths start at the config's folder.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub train: Vec<String>,
    /// Files to validate on. Without them a hash of each document's text decides its side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Vec<String>>,
    /// What stands between two documents of a text file.
    #[serde(default)]
    pub separator: Separator,
    /// The same for the validation files, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_separator: Option<Separator>,
    /// The field of a `.jsonl` line that holds the document.
    #[serde(default = "text")]
    pub text_field: String,
    /// Whether blank lines inside a document become one line break.
    #[serde(default)]
    pub collapse_blank_lines: bool,
    /// The tokenizer: a file, or how to train one.
    pub tokenizer: TokenizerConfig,
    /// The token that opens a document, where the tokenizer's own choice is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos: Option<String>,
    /// The token that ends a document, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos: Option<String>,
    /// The share of documents that validate, where no files do. Unit: none.
    #[serde(default = "one_percent")]
    #[schemars(extend("exclusiveMinimum" = 0.0, "exclusiveMaximum" = 1.0))]
    pub valid_fraction: f64,
    /// How many validation tokens are predicted, from the first on; all of them without this key.
    /// Unit: tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_tokens: Option<usize>,
    /// The length of a window's input. Unit: tokens.
    #[schemars(range(min = 1, max = 16777216))]
    pub seq_len: usize,
    /// Windows in one forward pass. Unit: windows.
    #[schemars(range(min = 1, max = 65536))]
    pub micro_batch: usize,
    /// Where windows start.
    #[serde(default)]
    pub windows: Windows,
    /// The seed of the embedded stories. Unit: none.
    #[serde(default)]
    pub stories_seed: u64,
    /// How many of them to train on. Unit: stories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub train_stories: Option<usize>,
    /// How many others to validate on. Unit: stories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub valid_stories: Option<usize>,
    /// The licence of the text; it goes into the packed model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
}

fn text() -> String {
    "text".to_owned()
}

fn one_percent() -> f64 {
    0.01
}

/// Where documents come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Corpus {
    /// From files.
    #[default]
    Files,
    /// From the generator of small stories in this crate.
    Stories,
}

/// Where the windows of training and validation start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Windows {
    /// At any token of the one stream of all documents.
    #[default]
    Anywhere,
    /// At the first token of a document, as a text does that the model writes.
    Documents,
}

/// What stands between two documents of a text file. In TOML: `"blank_line"`, `"none"`, or the
/// line itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(from = "String", into = "String")]
pub enum Separator {
    /// A line that reads exactly so.
    Line(String),
    /// One or more lines of nothing but white space.
    BlankLine,
    /// Nothing: a file is one document, and is held in memory whole.
    None,
}

impl Default for Separator {
    fn default() -> Self {
        Self::Line("<|endoftext|>".to_owned())
    }
}

impl From<String> for Separator {
    fn from(value: String) -> Self {
        match value.as_str() {
            "blank_line" => Self::BlankLine,
            "none" => Self::None,
            _ => Self::Line(value),
        }
    }
}

impl From<Separator> for String {
    fn from(value: Separator) -> Self {
        match value {
            Separator::Line(line) => line,
            Separator::BlankLine => "blank_line".to_owned(),
            Separator::None => "none".to_owned(),
        }
    }
}

/// `{ file = "tokenizer.json" }`, or `{ train = "unigram", vocab_size = 512 }`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerConfig {
    /// A `tokenizer.json` or a SentencePiece `.model`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The algorithm that makes one from the training documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<TokenizerKind>,
    /// Its size, special tokens included. Unit: tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocab_size: Option<usize>,
    /// Whether all 256 bytes are tokens (the default), so that every text can be spelled. Otherwise
    /// only the bytes of the training text are, which suits a small vocabulary of a closed corpus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte_fallback: Option<bool>,
}

/// An algorithm that makes a vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenizerKind {
    /// The unigram language model (arXiv:1804.10959): prunes a large vocabulary by likelihood.
    Unigram,
    /// Byte pair encoding (arXiv:1508.07909): merges the most frequent pair.
    Bpe,
}

impl DataConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    ///
    /// The first key that breaks a rule, with the rule and the value found.
    pub fn validate(&self) -> Result<()> {
        let refuse = |key, rule: String| Err(Error::Config { key, rule });
        for (key, value, most) in
            [("seq_len", self.seq_len, 1 << 24), ("micro_batch", self.micro_batch, 1 << 16)]
        {
            if !(1..=most).contains(&value) {
                return refuse(key, format!("must be 1 to {most}, is {value}"));
            }
        }
        if let Some(tokens) = self.valid_tokens
            && tokens < self.seq_len
        {
            let rule = format!("must be at least seq_len = {}, is {tokens}", self.seq_len);
            return refuse("valid_tokens", rule);
        }
        if !(self.valid_fraction > 0.0 && self.valid_fraction < 1.0) {
            return refuse(
                "valid_fraction",
                format!("must lie between 0 and 1, is {}", self.valid_fraction),
            );
        }
        for (key, separator) in [
            ("separator", Some(&self.separator)),
            ("valid_separator", self.valid_separator.as_ref()),
        ] {
            if let Some(Separator::Line(line)) = separator
                && (line.trim() != line || line.is_empty() || line.contains('\n'))
            {
                let rule =
                    "must be a line without white space at its ends, \"blank_line\" or \"none\"";
                return refuse(key, format!("{rule}, is {line:?}"));
            }
        }
        self.validate_corpus()?;
        self.tokenizer.validate()
    }

    fn validate_corpus(&self) -> Result<()> {
        let refuse = |key, rule: &str| Err(Error::Config { key, rule: rule.to_owned() });
        match self.corpus {
            Corpus::Files => {
                if self.train.is_empty() {
                    return refuse("train", "must name at least one file where corpus = \"files\"");
                }
                if self.valid.as_ref().is_some_and(Vec::is_empty) {
                    return refuse("valid", "must name at least one file, or be left out");
                }
                if self.train_stories.is_some() || self.valid_stories.is_some() {
                    return refuse(
                        "train_stories",
                        "and valid_stories go with corpus = \"stories\" only",
                    );
                }
            }
            Corpus::Stories => {
                if !self.train.is_empty() || self.valid.is_some() {
                    return refuse("train", "and valid go with corpus = \"files\" only");
                }
                for (key, count) in
                    [("train_stories", self.train_stories), ("valid_stories", self.valid_stories)]
                {
                    if count.is_none_or(|count| count == 0) {
                        return refuse(key, "must be at least 1 where corpus = \"stories\"");
                    }
                }
            }
        }
        Ok(())
    }

    /// The files to train on.
    ///
    /// # Errors
    ///
    /// A path whose environment variable is not set.
    pub fn train_files(&self, base: &Path) -> Result<Vec<PathBuf>> {
        self.train.iter().map(|path| resolve("train", path, base)).collect()
    }

    /// The files to validate on, if there are any.
    ///
    /// # Errors
    ///
    /// As [`Self::train_files`].
    pub fn valid_files(&self, base: &Path) -> Result<Option<Vec<PathBuf>>> {
        let resolve_all =
            |paths: &Vec<String>| paths.iter().map(|path| resolve("valid", path, base)).collect();
        self.valid.as_ref().map(resolve_all).transpose()
    }
}

impl TokenizerConfig {
    fn validate(&self) -> Result<()> {
        let refuse = |key, rule: &str| Err(Error::Config { key, rule: rule.to_owned() });
        match (&self.file, self.train, self.vocab_size) {
            (Some(_), None, None) if self.byte_fallback.is_none() => Ok(()),
            (Some(_), ..) => refuse(
                "tokenizer.file",
                "excludes train, vocab_size and byte_fallback: the file decides",
            ),
            (None, None, _) => refuse(
                "tokenizer",
                "needs file = \"…\", or train = \"unigram\" or \"bpe\" with vocab_size",
            ),
            (None, Some(_), None) => {
                refuse("tokenizer.vocab_size", "is missing beside tokenizer.train")
            }
            (None, Some(_), Some(_)) => Ok(()),
        }
    }

    /// The tokenizer's file, if it is one.
    ///
    /// # Errors
    ///
    /// A path whose environment variable is not set.
    pub fn path(&self, base: &Path) -> Result<Option<PathBuf>> {
        self.file.as_ref().map(|path| resolve("tokenizer.file", path, base)).transpose()
    }
}

/// Puts the environment's values for `${VAR}` and `$VAR`, `~` for the home folder, and the config's
/// folder before a relative path.
fn resolve(key: &'static str, path: &str, base: &Path) -> Result<PathBuf> {
    let expanded = shellexpand::full(path).map_err(|error| Error::Variable {
        key,
        path: path.to_owned(),
        variable: error.var_name,
    })?;
    Ok(base.join(expanded.as_ref()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn parse(toml: &str) -> DataConfig {
        toml::from_str(toml).unwrap()
    }

    fn refused(toml: &str) -> String {
        parse(toml).validate().unwrap_err().to_string()
    }

    const FILES: &str = "train = [\"a.txt\"]\nseq_len = 8\nmicro_batch = 2\n";
    const BPE: &str = "tokenizer = { train = \"bpe\", vocab_size = 300 }\n";

    #[test]
    fn defaults_are_stated_once() {
        let config = parse(&format!("{FILES}{BPE}"));
        config.validate().unwrap();
        assert_eq!(config.corpus, Corpus::Files);
        assert_eq!(config.separator, Separator::Line("<|endoftext|>".into()));
        assert_eq!((config.text_field.as_str(), config.valid_fraction), ("text", 0.01));
        let again: DataConfig = parse(&toml::to_string(&config).unwrap());
        assert_eq!(again, config);
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error =
            toml::from_str::<DataConfig>(&format!("{FILES}{BPE}seperator = \"none\"")).unwrap_err();
        assert!(error.to_string().contains("seperator"), "{error}");
        let error = toml::from_str::<DataConfig>(&format!("{FILES}tokenizer = {{ vocab = 3 }}"))
            .unwrap_err();
        assert!(error.to_string().contains("vocab"), "{error}");
    }

    #[test]
    fn every_rule_names_its_key() {
        let cases = [
            (
                "train = [\"a\"]\nseq_len = 0\nmicro_batch = 2\n",
                "data.seq_len must be 1 to 16777216, is 0",
            ),
            (
                "train = [\"a\"]\nseq_len = 8\nmicro_batch = 0\n",
                "data.micro_batch must be 1 to 65536, is 0",
            ),
            ("seq_len = 8\nmicro_batch = 2\n", "data.train must name at least one file"),
            (
                "corpus = \"stories\"\nseq_len = 8\nmicro_batch = 2\n",
                "data.train_stories must be at least 1",
            ),
            (
                "corpus = \"stories\"\ntrain = [\"a\"]\nseq_len = 8\nmicro_batch = 2\n",
                "data.train and valid go with",
            ),
        ];
        for (toml, rule) in cases {
            let error = refused(&format!("{toml}{BPE}"));
            assert!(error.starts_with(rule), "{error}");
        }
        let cases = [
            ("valid = []\n", "data.valid must name at least one file"),
            ("valid_fraction = 1.0\n", "data.valid_fraction must lie between 0 and 1, is 1"),
            ("valid_fraction = nan\n", "data.valid_fraction must lie between 0 and 1, is NaN"),
            ("valid_tokens = 7\n", "data.valid_tokens must be at least seq_len = 8, is 7"),
            ("separator = \"\"\n", "data.separator must be a line"),
            ("valid_separator = \" x\"\n", "data.valid_separator must be a line"),
            ("train_stories = 3\n", "data.train_stories and valid_stories go with"),
        ];
        for (toml, rule) in cases {
            let error = refused(&format!("{FILES}{BPE}{toml}"));
            assert!(error.starts_with(rule), "{error}");
        }
        let cases = [
            ("{}", "data.tokenizer needs file"),
            ("{ train = \"bpe\" }", "data.tokenizer.vocab_size is missing"),
            ("{ file = \"a\", vocab_size = 3 }", "data.tokenizer.file excludes"),
            ("{ vocab_size = 3 }", "data.tokenizer needs file"),
        ];
        for (tokenizer, rule) in cases {
            let error = refused(&format!("{FILES}tokenizer = {tokenizer}"));
            assert!(error.starts_with(rule), "{error}");
        }
    }

    #[test]
    fn paths_start_at_the_config_and_know_the_environment() {
        let config = parse(&format!(
            "train = [\"a.txt\", \"/b.txt\", \"${{CARGO_PKG_NAME}}/c\"]\nseq_len = 8\nmicro_batch = 2\n{BPE}"
        ));
        let files = config.train_files(Path::new("/base")).unwrap();
        let expected = ["/base/a.txt", "/b.txt", "/base/tern-datasets/c"];
        assert_eq!(files, expected.map(PathBuf::from));
        let config = parse(&format!(
            "train = [\"${{TERN_NO_SUCH_VARIABLE}}/a\"]\nseq_len = 8\nmicro_batch = 2\n{BPE}"
        ));
        let error = config.train_files(Path::new("/")).unwrap_err().to_string();
        let expected = "data.train: the environment variable TERN_NO_SUCH_VARIABLE in \"${TERN_NO_SUCH_VARIABLE}/a\" is not set";
        assert_eq!(error, expected);
    }
}
