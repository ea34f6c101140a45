//! The configuration of a run: one TOML file, every key named, unknown keys refused.

use std::path::Path;

use burn::tensor::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tern_datasets::config::DataConfig;
use tern_format::checksum::sha256;
use tern_format::config::ModelConfig;
use tern_format::packed::GenerationDefaults;
use tern_format::regular_file::read_small_text;
use tern_model::Decoder;

use crate::error::{Error, Result, rule};
use crate::guard::GuardConfig;
use crate::optimizer::OptimizerConfig;
use crate::preset::fill_up;
use crate::schedule::ScheduleConfig;
use crate::written::{Written, plain};

/// The largest file that is read as a configuration, in bytes: far more than anybody writes.
const MOST_BYTES: u64 = 1 << 20;

/// Everything that a run depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunConfig {
    /// Seed of the initial weights and of the batches. Unit: none.
    #[serde(default = "default_seed")]
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

fn default_seed() -> u64 {
    1337
}

/// The `[train]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Optimizer steps of the whole run; the schedule spans them. Unit: steps.
    #[schemars(range(min = 1, max = 4_294_967_296_u64))]
    pub steps: u64,
    /// Forward passes per optimizer step; their gradients are averaged. Unit: passes.
    #[schemars(range(min = 1, max = 65536))]
    pub grad_accum: usize,
    /// What the products of the linear layers round their two sides to; weights, sums and all else are f32.
    pub precision: Precision,
    /// Largest L2 norm of all gradients together; 0 leaves them as they are. Unit: none.
    #[schemars(range(min = 0.0))]
    pub clip_norm: f64,
    /// Optimizer steps between two validations. Unit: steps.
    #[schemars(range(min = 1, max = 4_294_967_296_u64))]
    pub eval_every: u64,
    /// Optimizer steps between two checkpoints. Unit: steps.
    #[schemars(range(min = 1, max = 4_294_967_296_u64))]
    pub checkpoint_every: u64,
    /// Checkpoints kept besides the best. Unit: checkpoints.
    #[schemars(range(min = 1, max = 65536))]
    pub keep_checkpoints: usize,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// Learning rate and weight decay over the run.
    pub schedule: ScheduleConfig,
    /// What happens when a loss or gradient is not finite, or jumps.
    pub guard: GuardConfig,
}

/// The arithmetic of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Nothing: IEEE single precision throughout.
    F32,
    /// bfloat16, on the device `cpu` where the CPU has instructions for it; elsewhere f32, which is said.
    Bf16,
}

/// The `[samples]` table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SamplesConfig {
    /// Optimizer steps between two rounds of samples; 0 shows none. Unit: steps.
    pub every: u64,
    /// Texts to go on from, one sample each; "" begins a document.
    pub prompts: Vec<String>,
    /// The most tokens of a sample. Unit: tokens.
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
            optimizer: OptimizerConfig::default(),
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
    /// Names the file and line, or the override; the rule; and for an unknown key the nearest known one.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        Self::parse(&read_small_text(path, MOST_BYTES)?, path, overrides)
    }

    /// Parses the text of a configuration; `origin` is the name that errors give it.
    ///
    /// # Errors
    ///
    /// As [`RunConfig::read`].
    pub fn parse(text: &str, origin: &Path, overrides: &[String]) -> Result<Self> {
        let written = Written { text, origin, overrides };
        let mut table = written.table()?;
        let resolved = fill_up(&mut table).and_then(|()| {
            let config: Self = table
                .try_into()
                .map_err(|e: toml::de::Error| Error::Value { message: plain(e.message()) })?;
            config.validate().map(|()| config)
        });
        resolved.map_err(|error| written.place(error))
    }

    /// Adds to an error about a key the place where the file or an override sets it.
    pub fn place(path: &Path, overrides: &[String], error: impl Into<Error>) -> Error {
        let text = read_small_text(path, MOST_BYTES).unwrap_or_default();
        Written { text: &text, origin: path, overrides }.place(error.into())
    }

    /// The resolved configuration as TOML.
    ///
    /// # Panics
    ///
    /// If a whole number passes `i64::MAX`, as none does that was parsed.
    pub fn to_toml(&self) -> String {
        // An empty text would make all configurations alike.
        toml::to_string(self).expect("plain values and tables of them, whole numbers of 63 bits")
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

    /// The model before its first step.
    pub fn decoder(&self, device: &Device) -> Decoder {
        let precision = match self.train.precision {
            Precision::F32 => tern_model::Precision::F32,
            Precision::Bf16 => tern_model::Precision::bf16_or_f32(),
        };
        Decoder::init(&self.model, self.seed, device).with_precision(precision)
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
        train.optimizer.validate()?;
        train.schedule.validate()?;
        for (key, value) in [
            ("train.clip_norm", train.clip_norm),
            ("train.guard.spike_deviations", train.guard.spike_deviations),
        ] {
            rule(
                (value as f32).is_finite() && value >= 0.0,
                key,
                format!("must be at least 0 and finite in single precision, is {value:?}"),
            )?;
        }
        if let Some(asked) = self.data.tokenizer.vocab_size {
            rule(
                asked <= self.model.vocab_size,
                "model.vocab_size",
                format!(
                    "must be at least data.tokenizer.vocab_size ({asked}), is {}",
                    self.model.vocab_size
                ),
            )?;
        }
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
        assert!(error.contains("did you mean `train.steps`"), "{error}");
        let error = parse(TEXT, &["seq_len=64"]).unwrap_err().to_string();
        assert!(error.contains("did you mean `data.seq_len`"), "{error}");
        for list in ["data.train=my.txt", "data.train=[my.txt]"] {
            let error = parse(TEXT, &[list]).unwrap_err().to_string();
            assert!(error.contains("in brackets: 'data.train=[\"my.txt\"]'"), "{error}");
        }
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
            (
                "model.vocab_size=299",
                "model.vocab_size must be at least data.tokenizer.vocab_size (300), is 299",
            ),
            (
                "data.tokenizer.vocab_size=258",
                "data.tokenizer.vocab_size must be 259 (3 special tokens and 256 bytes",
            ),
            (
                "train.optimizer.learning_rate=1e39",
                "train.optimizer.learning_rate must be positive and finite",
            ),
            (
                "train.optimizer.weight_decay=1e300",
                "train.optimizer.weight_decay must be at least 0 and finite",
            ),
            ("model.initializer_range=1e39", "model.initializer_range must be positive and finite"),
            ("model.rope_theta=inf", "model.rope_theta must be positive and finite"),
            ("generate.temperature=nan", "generate.temperature must be at least 0, is NaN"),
            ("generate.top_p=2", "generate.top_p must be above 0 and at most 1, is 2"),
        ] {
            let error = parse(TEXT, &[text]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("command line, {text}: {key}")), "{error}");
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
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(refused().contains("run.toml: must have at most 1048576 bytes"), "{}", refused());
    }

    #[test]
    fn what_is_wrong_is_said_with_the_place_where_it_was_set() {
        let wrong = |from: &str, to: &str, overrides: &[&str]| {
            parse(&TEXT.replace(from, to), overrides).unwrap_err().to_string()
        };
        assert!(wrong("steps = 10", "steps = 0", &[]).starts_with("run.toml:14: train.steps must"));
        assert!(wrong("seq_len = 64", "seq_len = 0", &[]).starts_with("run.toml:8: data.seq_len"));
        let bitlm = "architecture = \"bitlm\"";
        let size = |value: &str| wrong(bitlm, &format!("{bitlm}\nhidden_size = {value}"), &[]);
        assert!(size("0").starts_with("run.toml:4: model.hidden_size must be 1"), "{}", size("0"));
        let message =
            "run.toml:4: model.hidden_size: invalid type: string \"a\", expected a whole number";
        assert!(size("\"a\"").starts_with(message), "{}", size("\"a\""));
        let error = wrong("steps = 10", "steps = 99999999999999999999", &[]);
        let rule = "99999999999999999999`; a whole number may be 9223372036854775807 at most";
        assert!(error.contains("line 14") && error.ends_with(rule), "{error}");
        let error = parse(TEXT, &["train.steps=5", "train.steps=abc"]).unwrap_err().to_string();
        let message =
            "command line, train.steps=abc: invalid type: string \"abc\", expected a whole number";
        assert!(error.starts_with(message), "{error}");
        // The last override of a key is the one that counts, and the one to blame.
        let error = parse(TEXT, &["train.steps=5", "train.steps=0"]).unwrap_err().to_string();
        assert!(error.starts_with("command line, train.steps=0: train.steps must be"), "{error}");
        let error = parse(TEXT, &["generate.top_p=0"]).unwrap_err().to_string();
        assert!(error.starts_with("command line, generate.top_p=0: generate.top_p"), "{error}");
        // A broken rule between a key of the file and a default of the preset.
        let error = wrong("seq_len = 64", "seq_len = 4096", &[]);
        assert!(error.starts_with("run.toml:8: data.seq_len must be at most"), "{error}");
        assert!(wrong("steps = 10", "steps = ", &[]).contains("line 14"));
        // What follows from other keys is the fault of those.
        let error = wrong("vocab_size = 300", "vocab_size = 99999999", &[]);
        assert!(error.starts_with("run.toml:12: "), "{error}");
        let error = wrong(bitlm, &format!("{bitlm}\nhidden_size = 20"), &[]);
        assert!(error.starts_with("run.toml:4: model.head_dim must be even"), "{error}");
        let error = parse(TEXT, &["model.hidden_size=20"]).unwrap_err().to_string();
        assert!(
            error.starts_with("command line, model.hidden_size=20: model.head_dim must"),
            "{error}"
        );
    }

    #[test]
    fn an_override_may_complete_a_file() {
        let text = TEXT.replace("seq_len = 64\n", "");
        assert!(parse(&text, &[]).unwrap_err().to_string().contains("seq_len"));
        assert_eq!(parse(&text, &["data.seq_len=32"]).unwrap().data.seq_len, 32);
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_their_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.toml");
        std::fs::write(&path, b"seed = 1\n# caf\xe9\n").unwrap();
        let error = RunConfig::read(&path, &[]).unwrap_err().to_string();
        assert!(error.ends_with("run.toml: line 2 must be UTF-8"), "{error}");
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
        assert!(parsed >= 7, "{parsed} configurations");
    }
}
