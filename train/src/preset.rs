//! The `[model]` table: a preset with some parts named.

use serde::Deserialize;
use tern_format::config::{Architecture, ModelConfig};

use crate::error::{Error, Result};
use crate::written::plain;

/// Fills the `[model]` table up from its preset, and with what follows from other keys.
///
/// # Errors
///
/// [`Error::Key`] with the key of a part that is none.
pub(crate) fn fill_up(table: &mut toml::Table) -> Result<()> {
    let error = |key: &str, rule: String| Error::Key { key: key.into(), rule };
    let tokenizer_vocabulary =
        table.get("data").and_then(|data| data.get("tokenizer")?.get("vocab_size")).cloned();
    let model = table
        .entry("model")
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .ok_or_else(|| error("model", "must be a table".into()))?;
    let architecture = model.get("architecture").cloned().ok_or_else(|| {
        error("model.architecture", "must be there, for example \"bitlm\"; is missing".into())
    })?;
    let architecture: Architecture = architecture
        .try_into()
        .map_err(|e: toml::de::Error| error("model.architecture:", plain(e.message())))?;
    let preset = toml::Table::try_from(ModelConfig::preset(architecture))
        .map_err(|e| error("model", e.to_string()))?;
    check_parts(model, &preset)?;
    let given = |model: &toml::Table, key: &str| {
        model.get(key).and_then(toml::Value::as_integer).filter(|&n| n > 0)
    };
    if !model.contains_key("head_dim")
        && (model.contains_key("hidden_size") || model.contains_key("num_attention_heads"))
    {
        let either = |key: &str| given(model, key).or_else(|| given(&preset, key));
        if let (Some(hidden), Some(heads)) = (either("hidden_size"), either("num_attention_heads"))
        {
            if hidden % heads != 0 {
                return Err(error(
                    "model.num_attention_heads",
                    format!(
                        "must divide model.hidden_size ({hidden}) or come with model.head_dim, is {heads}"
                    ),
                ));
            }
            model.insert("head_dim".into(), (hidden / heads).into());
        }
    }
    if let (Some(heads), false) =
        (given(model, "num_attention_heads"), model.contains_key("num_key_value_heads"))
    {
        model.insert("num_key_value_heads".into(), heads.into());
    }
    if let (Some(vocabulary), false) = (tokenizer_vocabulary, model.contains_key("vocab_size")) {
        model.insert("vocab_size".into(), vocabulary);
    }
    for (key, value) in preset {
        model.entry(key).or_insert(value);
    }
    Ok(())
}

/// Puts each part into the preset alone, so that the one that does not fit is known by name.
fn check_parts(model: &toml::Table, preset: &toml::Table) -> Result<()> {
    for (key, value) in model {
        let mut table = preset.clone();
        table.insert(key.clone(), value.clone());
        ModelConfig::deserialize(table)
            .map_err(|e| Error::Key { key: format!("model.{key}:"), rule: plain(e.message()) })?;
    }
    Ok(())
}
