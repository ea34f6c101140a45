//! Floats in JSON that read back to the bit.
//!
//! They are written as strings: `serde_json` reads a number of 17 digits to within one unit in the last place, unless a
//! feature is on that every dependency would be compiled with.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// The same for a float that may be absent.
pub(crate) mod option {
    use super::*;

    /// As [`super::serialize`], or nothing.
    pub(crate) fn serialize<S: Serializer>(
        value: &Option<f64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    /// As [`super::deserialize`], or nothing.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<f64>, D::Error> {
        Option::<String>::deserialize(deserializer)?.map(|text| parse(&text)).transpose()
    }
}

/// Writes the shortest decimal that names this float and no other.
pub(crate) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

/// Reads it back.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    parse(&String::deserialize(deserializer)?)
}

fn parse<E: Error>(text: &str) -> Result<f64, E> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(E::custom(format!("`{text}` is no finite number"))),
    }
}
