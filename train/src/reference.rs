//! Every key of a configuration, read off the structs that hold it: type, default, unit, allowed values, meaning.
//!
//! A key's documentation is its description in the schema. The sentence `Unit: …` at its end becomes the key `unit`;
//! every number has one, and `none` says that it is a plain number.

use schemars::generate::SchemaSettings;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tern_format::config::{Architecture, ModelConfig};

use crate::config::RunConfig;

/// One key of a configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Key {
    /// Its dotted name.
    pub name: String,
    /// What a value is: `whole number`, `text`, `list of text`, `word`, …
    pub kind: String,
    /// What it is where the file does not say; absent for a key that the file must have or may leave unset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// For a key of `[model]` whose default differs between architectures, the default of each.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub defaults: Map<String, Value>,
    /// Whether the file must have it.
    pub required: bool,
    /// What a number counts; `none` for a plain number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The range of a number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    /// The words that it may be, each with its meaning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<(String, String)>,
    /// What it decides.
    pub meaning: String,
}

/// The JSON Schema of a configuration file, as editors and checkers read it.
pub fn schema() -> Value {
    let settings = SchemaSettings::default().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<RunConfig>().to_value();
    split_units(&mut schema);
    // A preset fills the model up, so a file states but its name; the defaults are the presets'.
    schema["properties"]["model"]["required"] = json!(["architecture"]);
    let architectures = words(&schema["properties"]["model"]["properties"]["architecture"]);
    for (name, _) in &architectures {
        let Ok(architecture) = Architecture::deserialize(json!(name)) else { continue };
        let Ok(Value::Object(preset)) = serde_json::to_value(ModelConfig::preset(architecture))
        else {
            continue;
        };
        for (key, value) in preset.into_iter().filter(|(key, _)| key != "architecture") {
            schema["properties"]["model"]["properties"][key]["defaults"][name] = value;
        }
    }
    if let Some(parts) = schema["properties"]["model"]["properties"].as_object_mut() {
        for part in parts.values_mut() {
            let Some(defaults) = part["defaults"].as_object().cloned() else { continue };
            let Some(part) = part.as_object_mut() else { continue };
            // A default of the type is that of packed models older than the key.
            part.remove("default");
            let mut values = defaults.values();
            let first = values.next().cloned();
            if values.all(|value| Some(value) == first.as_ref())
                && let Some(first) = first
            {
                part.remove("defaults");
                part.insert("default".into(), first);
            }
        }
    }
    schema
}

/// Every key, in the order of the structs.
pub fn keys() -> Vec<Key> {
    let mut all = Vec::new();
    collect("", &schema(), true, &mut all);
    all
}

/// Moves `Unit: …` from the end of every description to a key of its own.
fn split_units(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if let Some(Value::String(text)) = map.get("description") {
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let (meaning, unit) = match text.split_once("Unit: ") {
                    Some((meaning, unit)) => (meaning.trim_end(), unit.strip_suffix('.')),
                    None => (text.as_str(), None),
                };
                if let Some(unit) = unit {
                    map.insert("unit".into(), unit.into());
                }
                map.insert("description".into(), meaning.into());
            }
            map.values_mut().for_each(split_units);
        }
        Value::Array(all) => all.iter_mut().for_each(split_units),
        _ => {}
    }
}

fn collect(name: &str, schema: &Value, required: bool, all: &mut Vec<Key>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (part, inner) in properties {
            let name = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
            let required = required
                && schema["required"].as_array().is_some_and(|all| all.contains(&json!(part)));
            collect(&name, inner, required, all);
        }
        return;
    }
    let tables = schema["items"]["properties"].is_object();
    let text = |key: &str| schema[key].as_str().map(ToOwned::to_owned);
    all.push(Key {
        name: name.into(),
        kind: kind(schema),
        default: schema.get("default").filter(|default| !default.is_null()).cloned(),
        defaults: schema["defaults"].as_object().cloned().unwrap_or_default(),
        required,
        unit: text("unit"),
        range: range(schema),
        words: words(schema),
        meaning: text("description").unwrap_or_default(),
    });
    if tables {
        // The keys of `[[data.sources]]`, each of its tables has them.
        collect(&format!("{name}[]"), &schema["items"], true, all);
    }
}

/// The type in a reader's words.
fn kind(schema: &Value) -> String {
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().find(|name| *name != "null"),
        one => Some(one),
    };
    match types.and_then(Value::as_str) {
        Some("integer") => "whole number".into(),
        Some("number") => "number".into(),
        Some("boolean") => "true or false".into(),
        Some("string") => "text".into(),
        Some("array") if schema["items"]["properties"].is_object() => "list of tables".into(),
        Some("array") => match schema["minItems"].as_u64() {
            Some(n) => format!("list of {n} {}s", kind(&schema["items"])),
            None => format!("list of {}", kind(&schema["items"])),
        },
        _ if !words(schema).is_empty() => "word".into(),
        _ => String::new(),
    }
}

/// The words of an enum with what they mean; of an optional one too.
fn words(schema: &Value) -> Vec<(String, String)> {
    let variants = ["oneOf", "anyOf"].iter().find_map(|key| schema[key].as_array());
    let mut all = Vec::new();
    for variant in variants.into_iter().flatten() {
        match variant["const"].as_str() {
            Some(word) => {
                let meaning = variant["description"].as_str().unwrap_or_default();
                all.push((word.to_owned(), meaning.to_owned()));
            }
            None => all.extend(words(variant)),
        }
    }
    all
}

/// `1 to 4096`, `0 to below 1`, `above 0`, `0 or more`.
fn range(schema: &Value) -> Option<String> {
    let [least, most, above, below] =
        ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"].map(|key| {
            let number = schema[key].as_f64()?;
            Some(number.to_string())
        });
    Some(match (least, above, most, below) {
        (Some(least), _, Some(most), _) => format!("{least} to {most}"),
        (Some(least), _, _, Some(below)) => format!("{least} to below {below}"),
        (Some(least), ..) => format!("{least} or more"),
        (_, Some(above), Some(most), _) => format!("above {above}, at most {most}"),
        (_, Some(above), _, Some(below)) => format!("above {above}, below {below}"),
        (_, Some(above), ..) => format!("above {above}"),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_key_says_what_it_is() {
        let keys = keys();
        assert!(keys.len() > 50, "{}", keys.len());
        for key in &keys {
            let name = &key.name;
            assert!(key.meaning.len() > 8, "{name} has no meaning");
            assert!(!key.kind.is_empty(), "{name} has no type");
            let number = key.kind.contains("number");
            assert_eq!(number, key.unit.is_some(), "{name}: numbers have a unit, others none");
            for (word, meaning) in &key.words {
                assert!(meaning.len() > 5, "{name}: {word} has no meaning");
            }
        }
    }

    /// The keys that a file must have, or may leave out without a default taking their place.
    #[test]
    fn every_other_key_has_a_default() {
        let (mut required, mut unset) = (Vec::new(), Vec::new());
        for key in keys() {
            if key.required {
                required.push(key.name);
            } else if key.default.is_none() && key.defaults.is_empty() {
                assert!(key.name.starts_with("data."), "{} has no default", key.name);
                unset.push(key.name);
            }
        }
        let expected =
            ["model.architecture", "data.seq_len", "data.micro_batch", "data.sources[].name"];
        assert_eq!(required, expected);
        assert!(unset.contains(&"data.valid".into()), "{unset:?}");
    }

    #[test]
    fn defaults_are_those_of_the_structs() {
        let find = |name: &str| keys().into_iter().find(|key| key.name == name).unwrap();
        assert_eq!(find("train.steps").default, Some(json!(1_000)));
        assert_eq!(find("seed").default, Some(json!(1_337)));
        assert_eq!(find("model.hidden_size").defaults["bitlm"], json!(128));
        let quantizer = find("model.quantizer");
        assert_eq!(quantizer.default, None);
        assert_eq!(quantizer.defaults["bitlm"], "b158");
        assert_eq!(quantizer.defaults["llama"], "none");
        let fused = find("model.fused_qkv");
        assert_eq!((fused.default, &fused.defaults["gpt2"]), (None, &json!(true)));
        assert_eq!(find("train.optimizer.betas").kind, "list of 2 numbers");
    }

    /// The schema states ranges and `validate` enforces them: they must not drift apart.
    #[test]
    fn ranges_are_those_that_a_run_is_held_to() {
        const STORIES: &str = "[model]\narchitecture = \"bitlm\"\nhead_dim = 32\n[data]\ncorpus = \"stories\"\ntrain_stories = 9\n\
            valid_stories = 2\nseq_len = 64\nmicro_batch = 2\n[data.tokenizer]\ntrain = \"bpe\"\nvocab_size = 300\n";
        let parse = |text: String| RunConfig::parse(STORIES, Path::new("run.toml"), &[text]);
        let schema = schema();
        let mut tried = 0;
        // A key of a list of tables is no override; the same keys of `[data]` are tried.
        for key in keys().into_iter().filter(|key| !key.name.contains('[')) {
            let pointer = format!("/properties/{}", key.name.replace('.', "/properties/"));
            let bound = |name: &str| schema.pointer(&pointer).unwrap()[name].as_f64();
            let whole = key.kind == "whole number";
            let beyond = |edge: f64, by: f64| if whole { edge + by } else { edge + by * 1e-3 };
            for outside in [
                bound("minimum").map(|edge| beyond(edge, -1.0)),
                bound("maximum").map(|edge| beyond(edge, 1.0)),
                bound("exclusiveMinimum"),
                bound("exclusiveMaximum"),
            ]
            .into_iter()
            .flatten()
            {
                let text = if whole { format!("{outside:.0}") } else { format!("{outside:?}") };
                let text = format!("{}={text}", key.name);
                let error = parse(text.clone()).expect_err(&text).to_string();
                assert!(error.starts_with(&format!("command line, {text}: ")), "{error}");
                tried += 1;
            }
        }
        assert!(tried > 50, "{tried} values tried");
    }
}
