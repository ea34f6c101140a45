//! What is wrong with a key of another program's configuration.

use std::fmt::Display;

use crate::error::{Error, printable};

/// It breaks a rule.
pub(crate) fn wrong(key: &str, rule: impl Into<String>) -> Error {
    Error::Metadata { key: key.into(), rule: rule.into() }
}

/// It may say but one thing, and says another.
pub(crate) fn must_be(key: &str, allowed: &str, value: &dyn Display) -> Error {
    wrong(key, format!("must be {allowed}, is {}", printable(&value.to_string(), 60)))
}

/// Nobody here knows what it means.
pub(crate) fn unknown(key: &str, value: &dyn Display) -> Error {
    let value = printable(&value.to_string(), 60);
    wrong(key, format!("is not known here, and may change the model; says {value}"))
}
