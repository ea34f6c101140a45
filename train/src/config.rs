//! The configuration of a run: one TOML file, every key named, unknown keys refused.

use std::path::Path;

use serde::{Deserialize, Serialize};
use tern_datasets::config::DataConfig;
use tern_format::checksum::sha256;
use tern_format::config::{Architecture, ModelConfig};
use tern_format::error::printable;
use tern_format::packed::GenerationDefaults;
use tern_format::regular_file::read_small_text;

use crate::adamw::AdamWConfig;
use crate::error::{Error, Result};
use crate::guard::GuardConfig;
use crate::schedule::ScheduleConfig;

/// The largest file that is read as a configuration, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// The longest line of a file that an error quotes, in characters.
const MOST_QUOTED: usize = 300;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of the initial weights and of the batches.
    pub seed: u64,
    /// The architecture, resolved from its preset.
    pub model: ModelConfig,
    /// Text, tokenizer and windows.
    pub data: DataConfig,
    /// The loop.
    #[serde(default)]
    pub train: TrainConfig,
    /// How the model generates by default; stored in the packed file.
    #[serde(default)]
    pub generate: GenerationDefaults,
    /// Text shown during training.
    #[serde(default)]
    pub samples: SamplesConfig,
}

/// The `[train]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimizer steps.
    pub steps: u64,
    /// Forward passes per optimizer step.
    pub grad_accum: usize,
    /// Type of the weights and of the arithmetic.
    pub precision: Precision,
    /// Largest L2 norm of all gradients together; 0 leaves them as they are.
    pub clip_norm: f64,
    /// Optimizer steps between two validations.
    pub eval_every: u64,
    /// Optimizer steps between two checkpoints.
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best.
    pub keep_checkpoints: usize,
    /// The optimizer.
    pub optimizer: AdamWConfig,
    /// The learning rate over the run.
    pub schedule: ScheduleConfig,
    /// What happens when a loss or gradient is not finite, or jumps.
    pub guard: GuardConfig,
}

/// The arithmetic of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE single precision throughout.
    F32,
}

/// The `[samples]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplesConfig {
    /// Optimizer steps between two rounds of samples; 0 shows none.
    pub every: u64,
    /// One sample each.
    pub prompts: Vec<String>,
    /// Longest sample, in tokens.
    pub max_tokens: usize,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1_000,
            grad_accum: 1,
            precision: Precision::F32,
            clip_norm: 1.0,
            eval_every: 100,
            checkpoint_every: 500,
            keep_checkpoints: 2,
            optimizer: AdamWConfig::default(),
            schedule: ScheduleConfig::default(),
            guard: GuardConfig::default(),
        }
    }
}

impl Default for SamplesConfig {
    fn default() -> Self {
        Self { every: 0, prompts: vec![String::new()], max_tokens: 60 }
    }
}

impl RunConfig {
    /// Reads a file and applies `key=value` overrides.
    ///
    /// # Errors
    ///
    /// Names the file, the place, the rule, and for an unknown key the nearest known one.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::parse(&read_small_text(path, MOST_BYTES)?, path, overrides)
    }

    /// Parses the text of a configuration; `origin` is the name that errors give it.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::read`].
    pub fn parse(text: &str, origin: &Path, overrides: &[String]) -> Result<Self> {
        let toml_error = |error: toml::de::Error| Error::Toml {
            path: origin.into(),
            message: suggest_key(&shown(&error)),
        };
        let mut table: toml::Table = toml::from_str(text).map_err(toml_error)?;
        // Parsing the text itself, before the preset fills it up, gives errors their line and column.
        let _: AsWritten = toml::from_str(text).map_err(toml_error)?;
        for text in overrides {
            apply_override(&mut table, text)?;
        }
        resolve_model(&mut table, origin)?;
        let config: Self = table.try_into().map_err(toml_error)?;
        config.validate()?;
        Ok(config)
    }

    /// The resolved configuration as TOML.
    pub fn to_toml(&self) -> String {
        // Every field is a plain value or a table of them, so TOML can hold it.
        toml::to_string(self).unwrap_or_default()
    }

    /// Tells two configurations apart.
    pub fn hash(&self) -> String {
        sha256(self.to_toml().as_bytes())
    }

    /// The dotted keys in which two configurations differ, with both values.
    pub fn differences(&self, other: &Self) -> String {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for (config, flat) in [(self, &mut here), (other, &mut there)] {
            if let Ok(value) = toml::Value::try_from(config) {
                flatten("", &value, flat);
            }
        }
        let lookup = |flat: &[(String, String)], key: &str| {
            flat.iter().find(|(k, _)| k == key).map_or("unset".into(), |(_, v)| v.clone())
        };
        let mut keys: Vec<&String> = here.iter().chain(&there).map(|(key, _)| key).collect();
        keys.sort();
        keys.dedup();
        let differences: Vec<String> = keys
            .into_iter()
            .map(|key| (key, lookup(&here, key), lookup(&there, key)))
            .filter(|(_, here, there)| here != there)
            .map(|(key, here, there)| format!("{key} was {here}, is {there}"))
            .collect();
        differences.join("; ")
    }

    /// Sequences that one optimizer step sees.
    pub fn sequences_per_step(&self) -> usize {
        self.data.micro_batch * self.train.grad_accum
    }

    /// Tokens that one optimizer step learns from.
    pub fn tokens_per_step(&self) -> u64 {
        (self.sequences_per_step() * self.data.seq_len) as u64
    }

    fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.data.validate()?;
        let rule = |holds: bool, key: &str, rule: String| {
            if holds { Ok(()) } else { Err(Error::Key { key: key.into(), rule }) }
        };
        let train = &self.train;
        // The bounds keep every product below inside 64 bits.
        for (key, value, most) in [
            ("train.steps", train.steps, 1 << 32),
            ("train.grad_accum", train.grad_accum as u64, 1 << 16),
            ("train.eval_every", train.eval_every, 1 << 32),
            ("train.checkpoint_every", train.checkpoint_every, 1 << 32),
            ("train.keep_checkpoints", train.keep_checkpoints as u64, 1 << 16),
            ("train.guard.most_skipped", train.guard.most_skipped, 1 << 32),
        ] {
            rule((1..=most).contains(&value), key, format!("must be 1 to {most}, is {value}"))?;
        }
        let optimizer = &train.optimizer;
        rule(
            optimizer.learning_rate.is_finite() && optimizer.learning_rate > 0.0,
            "train.optimizer.learning_rate",
            format!("must be positive, is {}", optimizer.learning_rate),
        )?;
        for (key, value) in [
            ("train.clip_norm", train.clip_norm),
            ("train.optimizer.weight_decay", optimizer.weight_decay),
            ("train.optimizer.eps", optimizer.eps),
            ("train.guard.spike_deviations", train.guard.spike_deviations),
        ] {
            rule(
                value.is_finite() && value >= 0.0,
                key,
                format!("must not be negative, is {value}"),
            )?;
        }
        for beta in optimizer.betas {
            rule(
                (0.0..1.0).contains(&beta),
                "train.optimizer.betas",
                format!("must be at least 0 and below 1, has {beta}"),
            )?;
        }
        let ratio = train.schedule.final_ratio;
        rule(
            (0.0..=1.0).contains(&ratio),
            "train.schedule.final_ratio",
            format!("must be 0 to 1, is {ratio}"),
        )?;
        self.generate
            .validate()
            .map_err(|(setting, rule)| Error::Key { key: format!("generate.{setting}"), rule })?;
        rule(
            self.data.seq_len <= self.model.max_position_embeddings,
            "data.seq_len",
            format!(
                "must be at most model.max_position_embeddings ({}), is {}",
                self.model.max_position_embeddings, self.data.seq_len
            ),
        )
    }
}

/// The file as its author writes it: the model is a preset with some parts named.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "parsed for its errors, which carry line and column")]
struct AsWritten {
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

/// Fills the `[model]` table up from its preset, and what follows from other keys.
fn resolve_model(table: &mut toml::Table, origin: &Path) -> Result<()> {
    let error = |message: String| Error::Toml { path: origin.into(), message };
    table.entry("seed").or_insert(toml::Value::Integer(1337));
    let tokenizer_vocabulary =
        table.get("data").and_then(|data| data.get("tokenizer")?.get("vocab_size")).cloned();
    let model = table
        .entry("model")
        .or_insert_with(|| toml::Table::new().into())
        .as_table_mut()
        .ok_or_else(|| error("`model` must be a table".into()))?;
    let architecture = model
        .get("architecture")
        .cloned()
        .ok_or_else(|| error("[model] lacks `architecture`, for example \"bitlm\"".into()))?
        .try_into::<Architecture>()
        .map_err(|e| error(format!("[model] architecture: {}", e.message())))?;
    let preset = toml::Table::try_from(ModelConfig::preset(architecture))
        .map_err(|e| error(e.to_string()))?;
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
                return Err(Error::Key {
                    key: "model.num_attention_heads".into(),
                    rule: format!(
                        "must divide model.hidden_size ({hidden}) or come with model.head_dim, is {heads}"
                    ),
                });
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

/// Sets one dotted key: `train.steps=500`.
fn apply_override(table: &mut toml::Table, text: &str) -> Result<()> {
    let malformed = || Error::Override { text: text.into() };
    let (key, value) = text.split_once('=').ok_or_else(malformed)?;
    let (key, value) = (key.trim(), value.trim());
    // A value is TOML where it parses as such, and a string otherwise: seed=7, data.separator=blank_line.
    let value = toml::from_str::<toml::Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    let mut path: Vec<&str> = key.split('.').collect();
    let last = path.pop().filter(|last| !last.is_empty()).ok_or_else(malformed)?;
    let mut table = table;
    for part in path {
        table = table
            .entry(part)
            .or_insert_with(|| toml::Table::new().into())
            .as_table_mut()
            .ok_or_else(|| Error::Key { key: key.into(), rule: format!("`{part}` is no table") })?;
    }
    table.insert(last.into(), value);
    Ok(())
}

/// TOML's own words, which quote the line: fit for a terminal, whatever the line holds.
fn shown(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.trim_end().lines().map(|line| printable(line, MOST_QUOTED)).collect();
    lines.join("\n")
}

/// Adds the nearest known key to serde's message about an unknown one.
fn suggest_key(message: &str) -> String {
    let Some((_, rest)) = message.split_once("unknown field `") else { return message.into() };
    let mut quoted = rest.split('`');
    let unknown = quoted.next().unwrap_or_default();
    let known = quoted.skip(1).step_by(2);
    let nearest = known.max_by(|a, b| {
        strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
    });
    match nearest {
        Some(nearest) => format!("{message}\ndid you mean `{nearest}`?"),
        None => message.into(),
    }
}

/// The leaves of a table with their dotted keys.
fn flatten(prefix: &str, value: &toml::Value, flat: &mut Vec<(String, String)>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                flatten(&key, value, flat);
            }
        }
        leaf => flat.push((prefix.into(), leaf.to_string())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[model]
architecture = "bitlm"
[data]
corpus = "stories"
train_stories = 10
valid_stories = 2
seq_len = 64
micro_batch = 2
[data.tokenizer]
train = "unigram"
vocab_size = 300
[train]
steps = 10
"#;

    fn parse(text: &str, overrides: &[&str]) -> Result<RunConfig> {
        let overrides: Vec<String> = overrides.iter().map(|o| (*o).into()).collect();
        RunConfig::parse(text, Path::new("run.toml"), &overrides)
    }

    #[test]
    fn the_resolved_configuration_reads_back_as_itself() {
        let config = parse(TEXT, &["train.optimizer.learning_rate=2e-3"]).unwrap();
        assert_eq!(config.train.optimizer.learning_rate, 2e-3);
        assert_eq!(config.model.vocab_size, 300);
        let again = parse(&config.to_toml(), &[]).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.hash(), config.hash());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_key() {
        let error = parse(&format!("{TEXT}chekpoint_every = 5\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("chekpoint_every"), "{error}");
        assert!(error.contains("line 15"), "{error}");
        assert!(error.contains("did you mean `checkpoint_every`"), "{error}");
    }

    #[test]
    fn an_unknown_model_key_or_override_is_refused_with_the_nearest() {
        let error = parse(TEXT, &["model.hiden_size=64"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `hidden_size`"), "{error}");
        let error = parse(TEXT, &["trian.steps=64"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `train`"), "{error}");
        let error = parse(TEXT, &["steps"]).unwrap_err().to_string();
        assert!(error.contains("key=value"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_named() {
        for (text, key) in [
            ("train.steps=0", "train.steps"),
            ("train.optimizer.betas=[0.9, 1.0]", "train.optimizer.betas"),
            ("data.seq_len=4096", "data.seq_len"),
            ("train.schedule.final_ratio=-1", "train.schedule.final_ratio"),
            ("model.num_attention_heads=3", "model.num_attention_heads"),
            ("generate.temperature=nan", "generate.temperature must be at least 0, is NaN"),
            ("generate.top_p=2", "generate.top_p must be above 0 and at most 1, is 2"),
        ] {
            let error = parse(TEXT, &[text]).unwrap_err().to_string();
            assert!(error.starts_with(key), "{text}: {error}");
        }
    }

    #[test]
    fn a_hostile_file_is_refused_in_a_few_printable_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        let refused = || RunConfig::read(&path, &[]).unwrap_err().to_string();
        std::fs::write(&path, format!("{TEXT}\u{1b}[2J = {}", "x".repeat(100_000))).unwrap();
        let error = refused();
        assert!(error.len() < 2_000 && !error.contains('\u{1b}'), "{error}");
        std::fs::write(&path, format!("x = {}", "[".repeat(100_000))).unwrap();
        assert!(refused().len() < 2_000);
        std::fs::write(&path, b"seed = \xff").unwrap();
        assert!(refused().contains("run.toml: must be UTF-8"), "{}", refused());
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(refused().contains("run.toml: must have at most 1048576 bytes"), "{}", refused());
    }

    #[test]
    fn differences_name_the_key_and_both_values() {
        let a = parse(TEXT, &[]).unwrap();
        let b = parse(TEXT, &["train.steps=20"]).unwrap();
        assert_eq!(a.differences(&b), "train.steps was 10, is 20");
    }

    #[test]
    fn every_published_configuration_parses() {
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
        let mut parsed = 0;
        for entry in std::fs::read_dir(configs).unwrap() {
            let path = entry.unwrap().path();
            RunConfig::read(&path, &[]).unwrap_or_else(|e| panic!("{e}"));
            parsed += 1;
        }
        assert!(parsed >= 4, "{parsed} configurations");
    }
}
