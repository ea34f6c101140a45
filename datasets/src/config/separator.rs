//! What stands between two documents of a text file.

use serde::{Deserialize, Serialize};

/// What stands between two documents. In TOML: `"blank_line"`, `"none"`, or the
/// line itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
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

impl Separator {
    /// The rule that a separator breaks, with the value found.
    pub(super) fn fault(&self) -> Option<String> {
        match self {
            Self::Line(line) if line.trim() != line || line.is_empty() || line.contains('\n') => {
                let rule =
                    "must be a line without white space at its ends, \"blank_line\" or \"none\"";
                Some(format!("{rule}, is {line:?}"))
            }
            _ => None,
        }
    }
}
