//! A configuration as its author wrote it: the text of a file, then words of the command line.
//!
//! Whatever is wrong with a setting is said with the place where it was set: a line of the file, or an override.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tern_datasets::config::DataConfig;
use tern_format::error::printable;
use tern_format::packed::GenerationDefaults;
use toml::de::{DeTable, DeValue};

use crate::config::{SamplesConfig, TrainConfig};
use crate::error::{Error, Result};
use crate::reference::keys;

/// Both sources of a configuration.
pub(crate) struct Written<'a> {
    pub(crate) text: &'a str,
    /// The name of the file.
    pub(crate) origin: &'a Path,
    /// `key=value`, each stronger than the one before.
    pub(crate) overrides: &'a [String],
}

/// Where a setting was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file; the line counts from one.
    Line(PathBuf, usize),
    /// By this override on the command line.
    Override(String),
    /// In none of them: a default of this file's configuration.
    Default(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Override(text) => write!(f, "command line, {text}"),
            Self::Default(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The tables as they may be written: the model is a preset with some parts named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "parsed for its errors")]
struct Tables {
    seed: Option<u64>,
    model: Option<toml::Table>,
    data: Option<DataConfig>,
    #[serde(default)]
    train: TrainConfig,
    #[serde(default)]
    generate: GenerationDefaults,
    #[serde(default)]
    samples: SamplesConfig,
}

impl Written<'_> {
    /// The file's table with the overrides applied; every table but `[model]` has been checked.
    ///
    /// # Errors
    ///
    /// [`Error::Toml`] for the text, with line and column; [`Error::Override`] and [`Error::Setting`] for an override.
    pub(crate) fn table(&self) -> Result<toml::Table> {
        let toml_error = |error: toml::de::Error| Error::Toml {
            path: self.origin.into(),
            message: plain(error.to_string().trim_end()),
        };
        let mut table: toml::Table = toml::from_str(self.text).map_err(toml_error)?;
        // Parsing the text itself, not the table, gives errors their line and column. An override may mend them, by
        // naming a key that the file lacks.
        let mut checked = toml::from_str::<Tables>(self.text).map(drop);
        for text in self.overrides {
            apply(&mut table, text)?;
            match Tables::deserialize(table.clone()) {
                Ok(_) => checked = Ok(()),
                Err(error) if checked.is_ok() => {
                    let source = Error::Value { message: plain_of_override(error.message(), text) };
                    let place = Place::Override(text.clone());
                    return Err(Error::Setting { place, source: Box::new(source) });
                }
                Err(_) => {}
            }
        }
        checked.map_err(toml_error)?;
        Ok(table)
    }

    /// Whether the file or an override sets this very key.
    fn sets(&self, key: &str) -> bool {
        let mut overrides = self.overrides.iter().filter_map(|text| text.split_once('='));
        let value = toml::from_str::<toml::Table>(self.text).unwrap_or_default();
        let value = key
            .split('.')
            .try_fold(&toml::Value::Table(value), |value, part| value.get(part))
            .is_some();
        value || overrides.any(|(other, _)| other.trim() == key)
    }

    /// Adds to an error about a key the place where that key was set.
    pub(crate) fn place(&self, error: Error) -> Error {
        let Some(mut key) = error.key() else { return error };
        // What was not set and follows from another key is that key's fault.
        if !self.sets(&key) {
            let sources = DERIVED.iter().filter(|(derived, _)| *derived == key);
            let mut sources = sources.flat_map(|(_, sources)| *sources);
            if let Some(source) = sources.find(|source| self.sets(source)) {
                key = (*source).to_owned();
            }
        }
        let related = |other: &str| {
            let inside = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('.'));
            other == key || inside(other, &key) || inside(&key, other)
        };
        let overriding = self
            .overrides
            .iter()
            .rev()
            .find(|text| text.split_once('=').is_some_and(|(other, _)| related(other.trim())));
        let place = match (overriding, line_of(self.text, &key)) {
            (Some(text), _) => Place::Override(text.clone()),
            (None, Some(line)) => Place::Line(self.origin.into(), line),
            (None, None) => Place::Default(self.origin.into()),
        };
        Error::Setting { place, source: Box::new(error) }
    }
}

/// Keys that follow from others where they are not set, the likeliest cause first.
const DERIVED: &[(&str, &[&str])] = &[
    ("model.head_dim", &["model.hidden_size", "model.num_attention_heads"]),
    ("model.num_key_value_heads", &["model.num_attention_heads"]),
    ("model.vocab_size", &["data.tokenizer.vocab_size"]),
];

/// The line on which a dotted key, or the innermost table around it but the root, is set.
fn line_of(text: &str, key: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut start = None;
    let mut whole = true;
    for part in key.split('.') {
        let Some((name, value)) = table.iter().find(|(name, _)| name.get_ref() == part) else {
            whole = false;
            break;
        };
        start = Some(name.span().start);
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => break,
        }
    }
    let before = text.get(..start?)?;
    let line = before.matches('\n').count();
    // A table without a head of its own stands on the line of another of its keys.
    let is_head = || text.lines().nth(line).is_some_and(|line| line.trim_start().starts_with('['));
    (whole || is_head()).then_some(1 + line)
}

/// Sets one dotted key: `train.steps=500`.
fn apply(table: &mut toml::Table, text: &str) -> Result<()> {
    let malformed = || Error::Override { text: text.into() };
    let (key, value) = text.split_once('=').ok_or_else(malformed)?;
    let key = key.trim();
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty()).ok_or_else(malformed)?;
    let mut table = table;
    for part in path {
        table = table
            .entry(part)
            .or_insert_with(|| toml::Table::new().into())
            .as_table_mut()
            .ok_or_else(|| Error::Setting {
                place: Place::Override(text.into()),
                source: Box::new(Error::Key {
                    key: key.into(),
                    rule: format!("cannot be set: `{part}` is no table"),
                }),
            })?;
    }
    table.insert(last.into(), value_of(value));
    Ok(())
}

/// A value as the command line has it: TOML where it parses as such, and a string otherwise, so that
/// `data.separator=blank_line` needs no quotation marks.
pub fn value_of(text: &str) -> toml::Value {
    let text = text.trim();
    toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.into()))
}

/// [`plain`] of an error about an override: an unknown key gets the nearest whole key, and a text where a list belongs the
/// list that may have been meant.
fn plain_of_override(message: &str, text: &str) -> String {
    let plain = plain(message);
    let Some((key, value)) = text.split_once('=').map(|(key, value)| (key.trim(), value)) else {
        return plain;
    };
    if message.contains("unknown field") {
        let keys = keys();
        let last = |name: &str| name.rsplit('.').next().map(str::to_owned);
        let alike: Vec<&str> = keys
            .iter()
            .map(|known| known.name.as_str())
            .filter(|name| last(name) == last(key))
            .collect();
        let all = keys.iter().map(|known| known.name.as_str());
        let known = nearest(key, alike.into_iter()).or_else(|| nearest(key, all));
        let (said, _) = plain.split_once("\ndid you mean").unwrap_or((&plain, ""));
        return known.map_or(plain.clone(), |known| format!("{said}\ndid you mean `{known}`?"));
    }
    if message.contains("expected a sequence") && matches!(value_of(value), toml::Value::String(_))
    {
        let each = value.trim().trim_matches(['[', ']']).split(',');
        let list: Vec<String> =
            each.map(|one| format!("\"{}\"", one.trim().trim_matches('"'))).collect();
        return format!("{plain}; a list stands in brackets: '{key}=[{}]'", list.join(", "));
    }
    plain
}

/// The longest line of a file that an error quotes, in characters.
const MOST_QUOTED: usize = 300;

/// Serde's words, fit for a terminal whatever the file holds, without Rust's names of types, and after an unknown key
/// the nearest known one.
pub(crate) fn plain(message: &str) -> String {
    let lines: Vec<_> = message.lines().map(|line| printable(line, MOST_QUOTED)).collect();
    let mut message = lines.join("\n");
    // TOML's own words for what does not fit in 64 bits.
    if message.contains(" as i128, expected") {
        message = message.replace(" as i128, expected any valid TOML value", "");
        message.push_str(&format!("; a whole number may be {} at most", i64::MAX));
    }
    for (types, word) in [
        (&["u64", "usize", "u32", "u16"][..], "a whole number, 0 or more"),
        (&["i64"], "a whole number"),
        (&["f64", "f32"], "a number"),
    ] {
        for name in types {
            message = message.replace(&format!("expected {name}"), &format!("expected {word}"));
        }
    }
    let Some((_, rest)) = message.split_once("unknown field `") else { return message };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    match nearest(unknown, quoted.skip(1).step_by(2)) {
        Some(nearest) => format!("{message}\ndid you mean `{nearest}`?"),
        None => message,
    }
}

/// The word that looks most like `word`.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known.max_by(|a, b| strsim::jaro_winkler(a, word).total_cmp(&strsim::jaro_winkler(b, word)))
}
