//! The `[data]` table of a run: which text, how it is cut, and into which windows.

mod place;
mod separator;
mod source;
mod tokenizer;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

pub use place::Place;
pub use separator::Separator;
pub use source::SourceConfig;
pub use tokenizer::{TokenizerConfig, TokenizerKind};

/// The `[data]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Where the documents come from.
    #[serde(default)]
    pub corpus: Corpus,
    /// Files to train on: text, `.jsonl` or `.parquet`. Relative paths start at the config's directory; a name like
    /// `hf://datasets/OWNER/NAME@REVISION/PATH` is a file of the Hugging Face hub, `*` in its path any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub train: Vec<String>,
    /// Files to validate on. Without them a hash of each document's text decides its side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Vec<String>>,
    /// What stands between two documents of a text file: a line that reads exactly so, `blank_line` for one or more blank
    /// lines, or `none` where a file is one document.
    #[serde(default)]
    pub separator: Separator,
    /// The same for the validation files, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_separator: Option<Separator>,
    /// The field of a `.jsonl` line, or the column of a `.parquet` file, that holds the document.
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
    /// How many validation tokens are predicted, from the first on; without this key all of them, or of a mixture as
    /// many as its weights allow before one source is used up.
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
    #[schemars(range(min = 1, max = 100_000_000))]
    pub train_stories: Option<usize>,
    /// How many others to validate on. Unit: stories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub valid_stories: Option<usize>,
    /// The licence of the text; it goes into the packed model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Several sources, drawn from by weight, instead of the one that `corpus`, `train` and `valid` name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceConfig>,
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
        self.validate_mixture()?;
        self.tokenizer.validate()
    }
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
                "data.train_stories must be 1 to 100000000 where corpus = \"stories\", is missing",
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
            ("valid = [\"\"]\n", "data.valid must name files, and one of the names is empty"),
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
            ("{ file = \"\" }", "data.tokenizer.file must not be empty"),
            (
                "{ train = \"bpe\", vocab_size = 3, byte_fallback = false }",
                "data.tokenizer.vocab_size must be 4 to",
            ),
        ];
        for (tokenizer, rule) in cases {
            let error = refused(&format!("{FILES}tokenizer = {tokenizer}"));
            assert!(error.starts_with(rule), "{error}");
        }
    }
}
