//! One source of documents: a table of `[[data.sources]]`, or the `[data]` table itself.

use serde::{Deserialize, Serialize};

use super::{Corpus, DataConfig, Separator};
use crate::error::{Error, Result};

/// More stories than any disk is meant to hold: some 50 GB.
const MOST_STORIES: usize = 100_000_000;

/// A table of `[[data.sources]]`. What it leaves out is as `[data]` has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceConfig {
    /// Its name in files and tables: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// How often training draws from it, relative to the other sources. Unit: none.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0.0))]
    pub weight: f64,
    /// Where its documents come from.
    #[serde(default)]
    pub corpus: Corpus,
    /// Files to train on, as `data.train` has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub train: Vec<String>,
    /// Files to validate on. Without them a hash of each document's text decides its side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<Vec<String>>,
    /// What stands between two documents of a text file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub separator: Option<Separator>,
    /// The same for the validation files, where it differs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_separator: Option<Separator>,
    /// The field of a `.jsonl` line, or the column of a `.parquet` file, that holds the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_field: Option<String>,
    /// How many of the embedded stories to train on. Unit: stories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub train_stories: Option<usize>,
    /// How many others to validate on. Unit: stories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000_000))]
    pub valid_stories: Option<usize>,
}

fn one() -> f64 {
    1.0
}

impl DataConfig {
    /// All sources, each with what `[data]` says of all. A table without `[[data.sources]]` is one source itself.
    pub fn mixture(&self) -> Vec<SourceConfig> {
        if self.sources.is_empty() {
            return vec![SourceConfig {
                name: String::new(),
                weight: 1.0,
                corpus: self.corpus,
                train: self.train.clone(),
                valid: self.valid.clone(),
                separator: Some(self.separator.clone()),
                valid_separator: self.valid_separator.clone(),
                text_field: Some(self.text_field.clone()),
                train_stories: self.train_stories,
                valid_stories: self.valid_stories,
            }];
        }
        let complete = |source: &SourceConfig| SourceConfig {
            separator: source.separator.clone().or_else(|| Some(self.separator.clone())),
            // A source's own separator holds for its validation files too.
            valid_separator: match &source.separator {
                Some(_) => source.valid_separator.clone(),
                None => source.valid_separator.clone().or_else(|| self.valid_separator.clone()),
            },
            text_field: source.text_field.clone().or_else(|| Some(self.text_field.clone())),
            ..source.clone()
        };
        self.sources.iter().map(complete).collect()
    }

    /// Checks the names of `[[data.sources]]` and that the keys of the one source do not stand beside them.
    pub(super) fn validate_mixture(&self) -> Result<()> {
        let refuse = |rule: String| Err(Error::Config { key: "sources", rule });
        if !self.sources.is_empty() {
            let own = !self.train.is_empty()
                || self.valid.is_some()
                || self.corpus != Corpus::default()
                || self.train_stories.is_some()
                || self.valid_stories.is_some();
            if own {
                let rule = "excludes corpus, train, valid, train_stories and valid_stories in [data]: each source has \
                            its own";
                return refuse(rule.to_owned());
            }
        }
        for (place, source) in self.sources.iter().enumerate() {
            let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
            if !(1..=64).contains(&source.name.len()) || !source.name.chars().all(legal) {
                let rule =
                    "needs a name of 1 to 64 lower-case letters, digits, - and _ for each source";
                return refuse(format!("{rule}, found {:?}", source.name));
            }
            if self.sources[..place].iter().any(|other| other.name == source.name) {
                return refuse(format!("must differ in name, {:?} occurs twice", source.name));
            }
            if !(source.weight > 0.0 && source.weight <= 1e6) {
                let rule = format!("needs weights above 0 and up to 1e6, {:?} has", source.name);
                return refuse(format!("{rule} {}", source.weight));
            }
        }
        self.mixture().iter().try_for_each(SourceConfig::validate)
    }
}

impl SourceConfig {
    /// Checks the keys that depend on each other; an unnamed source is the `[data]` table.
    fn validate(&self) -> Result<()> {
        let refuse = |key, rule: String| {
            let rule = if self.name.is_empty() {
                rule
            } else {
                format!("{rule} (source {:?})", self.name)
            };
            Err(Error::Config { key, rule })
        };
        for (key, separator) in
            [("separator", &self.separator), ("valid_separator", &self.valid_separator)]
        {
            if let Some(fault) = separator.as_ref().and_then(Separator::fault) {
                return refuse(key, fault);
            }
        }
        let (train, valid) = (&self.train, &self.valid);
        for (key, names) in [("train", train), ("valid", valid.as_ref().unwrap_or(&Vec::new()))] {
            if names.iter().any(String::is_empty) {
                return refuse(key, "must name files, and one of the names is empty".to_owned());
            }
        }
        match self.corpus {
            Corpus::Files if train.is_empty() => {
                refuse("train", "must name at least one file where corpus = \"files\"".to_owned())
            }
            Corpus::Files if valid.as_ref().is_some_and(Vec::is_empty) => {
                refuse("valid", "must name at least one file, or be left out".to_owned())
            }
            Corpus::Files if self.train_stories.is_some() || self.valid_stories.is_some() => {
                let rule = "and valid_stories go with corpus = \"stories\" only";
                refuse("train_stories", rule.to_owned())
            }
            Corpus::Stories if !train.is_empty() || valid.is_some() => {
                refuse("train", "and valid go with corpus = \"files\" only".to_owned())
            }
            Corpus::Files => Ok(()),
            Corpus::Stories => {
                let counts =
                    [("train_stories", self.train_stories), ("valid_stories", self.valid_stories)];
                for (key, count) in counts {
                    if !(1..=MOST_STORIES).contains(&count.unwrap_or(0)) {
                        let found = count.map_or("missing".to_owned(), |count| count.to_string());
                        let rule = format!(
                            "must be 1 to {MOST_STORIES} where corpus = \"stories\", is {found}"
                        );
                        return refuse(key, rule);
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const HEAD: &str =
        "seq_len = 8\nmicro_batch = 2\ntokenizer = { train = \"bpe\", vocab_size = 300 }\n";

    fn parse(toml: &str) -> DataConfig {
        toml::from_str(&format!("{HEAD}{toml}")).unwrap()
    }

    #[test]
    fn a_source_has_what_the_table_says_of_all() {
        let config = parse(
            "separator = \"none\"\nvalid_separator = \"--\"\ntext_field = \"body\"\n\
             [[sources]]\nname = \"a\"\ntrain = [\"a.txt\"]\n\
             [[sources]]\nname = \"b\"\nweight = 3.0\ntrain = [\"b.txt\"]\nseparator = \"==\"\ntext_field = \"text\"\n",
        );
        config.validate().unwrap();
        let [a, b] = &config.mixture()[..] else { panic!("two sources") };
        assert_eq!((a.weight, b.weight), (1.0, 3.0));
        assert_eq!(
            (&a.separator, &b.separator),
            (&Some(Separator::None), &Some("==".to_owned().into()))
        );
        assert_eq!(
            (&a.valid_separator, &b.valid_separator),
            (&Some("--".to_owned().into()), &None)
        );
        assert_eq!(
            (a.text_field.as_deref(), b.text_field.as_deref()),
            (Some("body"), Some("text"))
        );
        let again: DataConfig = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn every_rule_of_a_mixture_is_named() {
        let a = "[[sources]]\nname = \"a\"\ntrain = [\"a.txt\"]\n";
        let cases = [
            (format!("train = [\"x\"]\n{a}"), "data.sources excludes corpus, train"),
            (format!("{a}{a}"), "data.sources must differ in name, \"a\" occurs twice"),
            (format!("{a}weight = 0.0\n"), "data.sources needs weights above 0 and up to 1e6, \"a\" has 0"),
            (format!("{a}weight = nan\n"), "data.sources needs weights above 0 and up to 1e6, \"a\" has NaN"),
            (a.replace("\"a\"", "\"../a\""), "data.sources needs a name of 1 to 64"),
            ("[[sources]]\nname = \"a\"\n".to_owned(), "data.train must name at least one file where corpus = \"files\" (source \"a\")"),
            (
                "[[sources]]\nname = \"a\"\ncorpus = \"stories\"\ntrain_stories = 200_000_000\nvalid_stories = 1\n".to_owned(),
                "data.train_stories must be 1 to 100000000 where corpus = \"stories\", is 200000000",
            ),
        ];
        for (toml, rule) in cases {
            let error = parse(&toml).validate().unwrap_err().to_string();
            assert!(error.starts_with(rule), "{error}");
        }
    }
}
